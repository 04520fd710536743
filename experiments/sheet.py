"""What a table says: a number a row and column, beside published ones, as Markdown, LaTeX, CSV and a plot."""

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ecrec_jax.use.significance import FEW, Difference
from experiments import latex, record
from experiments.cell import Cell
from experiments.compare import METHOD, Pair, pairs
from experiments.plot import bars

NOTES = {"†": "made by other code than today's", "‡": "validated or tested on rows that its checkpoint was trained on"}


@dataclasses.dataclass(frozen=True)
class Number:
    """What a row's runs say of a column; `place` is its rank by mean among the rows on the same test data, 0 where it has none."""

    mean: float
    std: float
    runs: tuple[Path, ...]
    place: int


@dataclasses.dataclass(frozen=True)
class Line:
    """A row as it is shown: its numbers, or why it has none."""

    name: str
    marks: str
    cells: tuple[Cell, ...]
    numbers: dict[str, Number]
    trouble: str | None
    published: Mapping[str, Mapping[str, Any]]


def lines_of(table: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], cells: Mapping[tuple[str, int], Cell]) -> list[Line]:
    """The rows that are shown."""
    found, groups = [], {}
    for row in (row for row in rows if not row.get("hidden")):
        mine = [cell for cell in cells.values() if cell.row == row["name"]]
        done = [(cell, summary) for cell in mine if (summary := cell.summary()) is not None]
        marks = {"†": any(cell.stale() for cell, _ in done), "‡": any("leaked" in summary for _, summary in done)}
        trouble = next((cell.error or cell.absent for cell in mine if cell.error or cell.absent), None)
        numbers = {}
        for key in table["columns"] if not trouble else ():
            values = {cell.folder: summary[key] for cell, summary in done if key in summary}
            if values:
                given = np.array(list(values.values()))
                numbers[key] = Number(float(given.mean()), float(given.std(ddof=1)) if len(given) > 1 else 0.0, tuple(values), 0)
        found.append(Line(row["name"], "".join(m for m, given in marks.items() if given), tuple(c for c, _ in done), numbers,
                          trouble, row.get("published") or {}))
        data = mine[0].config["data"]
        groups[row["name"]] = json.dumps([data["path"], data.get("label_column"), data.get("target"), data.get("limit")])
    return [dataclasses.replace(line, numbers={key: dataclasses.replace(x, place=place(line, key, found, groups, table))
                                               for key, x in line.numbers.items()}) for line in found]


def place(line: Line, key: str, lines: Sequence[Line], groups: Mapping[str, str], table: Mapping[str, Any]) -> int:
    """The rank of a row in a column among those of its group; 0 where it is alone."""
    sign = -1 if table["columns"][key].get("better", "max") == "min" else 1
    values = [sign * other.numbers[key].mean for other in lines if key in other.numbers and groups[other.name] == groups[line.name]]
    return 1 + len({x for x in values if x > sign * line.numbers[key].mean}) if len(values) > 1 else 0


def verdict(line: Line, key: str, digits: int) -> str:
    """A published value beside ours: the difference, and whether it counts as reproduced (within 5 %, or the `tolerance`, of it,
    or within two of its standard deviations, over at least three seeds)."""
    about = line.published[key]
    said = f"{about['value']:.{digits}f}" + (f" ± {about['std']:.{digits}f}" if about.get("std") is not None else "")
    if key not in line.numbers:
        return said
    number, value = line.numbers[key], about["value"]
    gap, share = number.mean - value, about.get("tolerance") or 0.05
    said += f", {gap:+.{digits}f}"
    if about.get("beside"):
        return f"{said}: beside"
    if len(number.runs) < FEW and line.cells[0].command != "baseline":
        return f"{said}: too few seeds"
    if abs(gap) <= share * abs(value):
        return f"{said}: within {share:.0%}"
    near = about.get("std") is not None and abs(gap) <= 2 * about["std"]
    return f"{said}: within 2 σ" if near else f"{said}: outside {share:.0%}"


def write(table: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], cells: Mapping[tuple[str, int], Cell], out: Path) -> None:
    """table.md, table.tex, table.csv, differences.csv and table.png; the first is printed too."""
    lines, found = lines_of(table, rows, cells), pairs(rows, cells, table["columns"])
    text = [f"# {table['title']}", "", *markdown(table, lines, out), *notes(lines), *differences(found, table)]
    out.mkdir(parents=True, exist_ok=True)
    record.write_text("\n".join([*text, *runs(lines, out)]) + "\n", out / "table.md")
    record.write_text(latex.tabular(table, lines), out / "table.tex")
    spread(out / "table.csv", ["row", "column", "mean", "std", "n", "published", "verdict", "runs"], [
        [line.name, key, repr(x.mean), repr(x.std), len(x.runs), line.published[key]["value"] if key in line.published else "",
         verdict(line, key, spec["digits"]) if key in line.published else "", " ".join(map(str, x.runs))]
        for line in lines for key, spec in table["columns"].items() for x in [line.numbers.get(key)] if x is not None])
    spread(out / "differences.csv", ["first", "second", "column", *(f.name for f in dataclasses.fields(Difference)), "p_holm"],
           [[pair.first, pair.second, pair.column, *map(repr, dataclasses.astuple(pair.found)),
             "" if pair.holm is None else repr(pair.holm)] for pair in found])
    titles = {key: spec["title"] for key, spec in table["columns"].items()}
    bars({line.name: {titles[key]: (x.mean, x.std) for key, x in line.numbers.items()} for line in lines if line.numbers},
         list(titles.values()), out / "table.png",
         {line.name: {titles[key]: about["value"] for key, about in line.published.items()} for line in lines})
    print("\n" + "\n".join(text) + f"\n\nplot: {out / 'table.png'}\neverything is in {out}", flush=True)


def markdown(table: Mapping[str, Any], lines: Sequence[Line], out: Path) -> list[str]:
    """The numbers, linked to the folders of their runs; the best of each column and test set in bold, published values beside."""
    columns = table["columns"]
    beside = [key for key in columns if any(key in line.published for line in lines)]
    heads = [title for key, spec in columns.items() for title in (spec["title"], *(["published"] if key in beside else []))]
    text = ["| | n | " + " | ".join(heads) + " |", "|---|---|" + "---|" * len(heads)]
    for line in lines:
        shown = []
        for key, spec in columns.items():
            number, digits = line.numbers.get(key), spec["digits"]
            said = short(line.trouble) if line.trouble else "–"
            if number is not None:
                said = f"{number.mean:.{digits}f}" + (f" ± {number.std:.{digits}f}" if len(number.runs) > 1 else "")
                said = f"[{f'**{said}**' if number.place == 1 else said}]({number.runs[0].parent.relative_to(out)}/)"
            shown += [said, *([verdict(line, key, digits) if key in line.published else ""] if key in beside else [])]
        text.append(f"| {escaped(line.name)}{line.marks} | {len(line.cells)} | " + " | ".join(shown) + " |")
    return text


def short(trouble: str) -> str:
    """Why there is no number, in the room that a cell has."""
    for key, said in (("model.checkpoint:", "checkpoint not here"), ("data.path: no file", "data not here")):
        if trouble.startswith(key):
            return said
    return escaped(trouble)


def escaped(text: str) -> str:
    """A text that doesn't end its cell."""
    return text.replace("|", "\\|")


def notes(lines: Sequence[Line]) -> list[str]:
    """What marks mean, what is not here, and where published values come from."""
    found = [f"{mark} {note}" for mark, note in NOTES.items() if any(mark in line.marks for line in lines)]
    found += [f"{line.name}: {line.trouble}" for line in lines if line.trouble and short(line.trouble) != escaped(line.trouble)]
    sources: dict[str, list[str]] = {}
    for line in lines:
        for about in line.published.values():
            said = f"published by {about['source']}"
            said += f"; beside, without verdict: {about['beside']}" if about.get("beside") else ""
            sources.setdefault(said, []).append(line.name)
    found += [f"{', '.join(dict.fromkeys(names))}: {said}" for said, names in sources.items()]
    return ["", *(f"{note}  " for note in found)] if found else []


def differences(found: Sequence[Pair], table: Mapping[str, Any]) -> list[str]:
    """The pairs of rows, with what may be claimed of them."""
    if not found:
        return []
    text = ["", "## Differences", "", "| | less | | difference [95 %] | effect | p (Holm) |", "|---|---|---|---|---|---|"]
    for pair in found:
        said = " | ".join(pair.words(table["columns"][pair.column]))
        text.append(f"| {escaped(pair.first)} | {escaped(pair.second)} | {said} |")
    return [*text, "", METHOD]


def runs(lines: Sequence[Line], out: Path) -> list[str]:
    """The folders of every row."""
    return ["", "## Runs", "", *(f"- {line.name}: " + ", ".join(f"[seed {cell.seed}]({cell.folder.relative_to(out)}/)"
                                                              for cell in line.cells) for line in lines if line.cells)]


def spread(path: Path, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """CSV, whole or not at all."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([names, *rows])
    record.write_text(text.getvalue(), path)
