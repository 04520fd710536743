"""The rows of conf/table/NAME.yaml: checked, their grids written out."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ecrec_jax.section import shown
from ecrec_jax.types import InputError

KEYS = {"name", "command", "overrides", "from", "seeds", "hidden", "grid", "against", "published", "replicas"}
PUBLISHED = {"value", "std", "tolerance", "source", "beside"}
COLUMN = {"title", "digits", "better"}


def rows_of(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every row without a grid: name, command, overrides, what else it has; its `labels` {axis: label}, and for each axis the
    `series` of rows that differ in it alone.

    Raises:
        InputError: a key, name, command, `from`, `against` or published value that can't be used.
    """
    if not all(isinstance(table.get(key), kind) for key, kind in (("title", str), ("rows", list), ("columns", dict))):
        raise InputError("table needs title (a text), columns ({metric: {title: NAME, digits: NUMBER}}) and rows (a list)")
    columns(table)
    axes = {axis for row in table["rows"] if isinstance(row, dict) for axis in row.get("grid") or {}}
    if table.get("curve") not in (None, *axes):
        raise InputError(f"table.curve: {table['curve']!r} is no axis of a grid; there are {', '.join(sorted(axes)) or 'none'}")
    rows = [made for i, row in enumerate(table["rows"]) for made in written_out(row, f"table.rows[{i}]")]
    names = [row["name"] for row in rows]
    for i, row in enumerate(rows):
        if names.count(row["name"]) > 1:
            raise InputError(f"two rows of the table are named {row['name']!r}")
        if row.get("from") is not None and row["from"] not in names[:i]:
            raise InputError(f"row {row['name']!r}, from: {row['from']!r} is no row above it")
        for name in row["against"]:
            if name not in names or name == row["name"]:
                raise InputError(f"row {row['name']!r}, against: {name!r} is no other row")
        if row["command"] == "baseline" and row.get("replicas"):
            raise InputError(f"row {row['name']!r}: replicas share a program of training, which a baseline has none of")
        row["seeds"] = None if row.get("seeds") is None else seeds_of(row["seeds"], table)
        if not isinstance(row.get("published") or {}, dict):
            raise InputError(f"row {row['name']!r}: published must be {{column: {{value: NUMBER, source: WHERE}}}}")
        for key, node in (row.get("published") or {}).items():
            published(node, key, table, f"row {row['name']!r}, published")
    return rows


def seeds_of(asked: Any, table: Mapping[str, Any]) -> Sequence[int]:
    """The seeds of a table: its own, the first so many, or those of a list.

    Raises:
        InputError: they are none.
    """
    given = table.get("seeds") if asked is None else asked
    seeds = list(range(given)) if whole(given) else given
    if not isinstance(seeds, list) or not seeds or not all(map(whole, seeds)) or len({*seeds}) < len(seeds):
        raise InputError(f"seeds is {given!r}, must be how many, at least 1, or a list of different ones: seeds=[3,4,5]")
    return seeds


def whole(value: Any) -> bool:
    """Whether it is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def columns(table: Mapping[str, Any]) -> None:
    """Whether the columns are columns.

    Raises:
        InputError: they aren't.
    """
    for key, node in table["columns"].items():
        if not isinstance(node, dict) or set(node) - COLUMN or not {"title", "digits"} <= set(node) or \
                not whole(node["digits"]) or node.get("better", "max") not in ("max", "min"):
            raise InputError(f"table.columns.{key} must be {{title: NAME, digits: NUMBER, better: max or min}}")
    titles = [node["title"] for node in table["columns"].values()]
    if twice := next((title for title in titles if titles.count(title) > 1), None):
        raise InputError(f"table.columns: two of them have the title {twice!r}")


def published(node: Any, key: str, table: Mapping[str, Any], where: str) -> None:
    """Whether a published value is one.

    Raises:
        InputError: it isn't.
    """
    if key not in table["columns"]:
        raise InputError(f"{where}: {key} is none of the columns {', '.join(table['columns'])}")
    if not isinstance(node, dict) or set(node) - PUBLISHED or not {"value", "source"} <= set(node):
        raise InputError(f"{where}.{key} needs value and source, knows {', '.join(sorted(PUBLISHED))}")
    for name in ("value", "std", "tolerance"):
        if name in node and not (whole(node[name]) or isinstance(node[name], float)):
            raise InputError(f"{where}.{key}.{name} is {node[name]!r}, must be a number")


def written_out(row: Mapping[str, Any], where: str) -> Iterator[dict[str, Any]]:
    """A row for every choice of its grid's axes, whose labels replace {axis} in name, from and against.

    An axis lists values of a key of that name, or maps labels to overrides, or to further keys of a row.
    """
    if not isinstance(row, dict) or set(row) - KEYS or not isinstance(row.get("name"), str) or not row["name"]:
        raise InputError(f"{where} needs a name, knows {', '.join(sorted(KEYS))}")
    grid = row.get("grid") or {}
    if not isinstance(grid, dict) or not all(isinstance(values, dict | list) for values in grid.values()):
        raise InputError(f"{where}: grid must be {{axis: [values], or {{label: overrides}}}}")
    axes = {axis: values if isinstance(values, dict) else {label(x): f"{axis}={word(x)}" for x in values}
            for axis, values in grid.items()}
    for chosen in itertools.product(*(values.items() for values in axes.values())):
        made: dict[str, Any] = {"command": "train", **row, "overrides": listed(row.get("overrides"), where)}
        made.pop("grid", None)
        for _, part in chosen:
            extra = part if isinstance(part, dict) else {"overrides": part}
            made |= {key: x for key, x in extra.items() if key != "overrides"}
            made["overrides"] += listed(extra.get("overrides"), where)
        labels = {axis: str(name) for axis, (name, _) in zip(axes, chosen, strict=True)}
        against = made.get("against") or []
        made["against"] = [against] if isinstance(against, str) else list(against)
        for key in ("name", "from"):
            made[key] = filled(made[key], labels, where) if made.get(key) else None
        made["against"] = [filled(name, labels, where) for name in made["against"]]
        if set(made) - KEYS or made["command"] not in ("train", "baseline"):
            raise InputError(f"{where}: command must be train or baseline, and a row knows {', '.join(sorted(KEYS))}")
        yield made | {"labels": labels, "series": {axis: filled(row["name"], labels | {axis: "…"}, where) for axis in labels}}


def listed(given: Any, where: str) -> list[str]:
    """Overrides as a list; one may be a text.

    Raises:
        InputError: they aren't texts.
    """
    found = [given] if isinstance(given, str) else given or []
    if not isinstance(found, list) or not all(isinstance(x, str) for x in found):
        raise InputError(f"{where}: overrides are {given!r}, must be texts such as [model=sasrec, epochs=3]")
    return list(found)


def filled(text: str, labels: Mapping[str, str], where: str) -> str:
    """A text with the labels of the axes it names.

    Raises:
        InputError: there is no such axis.
    """
    for axis in re.findall(r"\{([^{}]+)\}", text):
        if axis not in labels:
            raise InputError(f"{where}: {{{axis}}} in {text!r} is no axis of its grid ({', '.join(labels) or 'it has none'})")
    return re.sub(r"\{([^{}]+)\}", lambda hit: labels[hit[1]], text)


def label(value: Any) -> str:
    """A value as it is read."""
    return value if isinstance(value, str) else word(value)


def word(value: Any) -> str:
    """A value as an override takes it."""
    if isinstance(value, list):
        return f"[{','.join(map(word, value))}]"
    return value if isinstance(value, str) else shown(value)
