"""The rows of a table as they are shown: numbers of those of their runs that are done, verdicts, what isn't there and why."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ecrec_jax.use.significance import FEW
from experiments.cell import Cell

TESTED = ("path", "label_column", "target", "limit", "split", "split_at", "split_seed", "split_column", "stratify_column",
          "test_fraction", "last", "new_items", "label_at", "target_types")   # of data: rows that agree in them have the same test

NOTES = {"†": "made by other code than today's", "‡": "validated or tested on rows that its checkpoint was trained on"}


@dataclasses.dataclass(frozen=True)
class Number:
    """What a row's runs say of a column; `place` is its rank by mean among the rows on the same test data by the same
    protocol, 0 where it has none."""

    mean: float
    std: float
    runs: tuple[Path, ...]
    place: int

    def words(self, digits: int, sign: str = " ± ") -> str:
        """The mean, with the standard deviation where there are several runs."""
        return f"{self.mean:.{digits}f}" + (f"{sign}{self.std:.{digits}f}" if len(self.runs) > 1 else "")


@dataclasses.dataclass(frozen=True)
class Line:
    """A row as it is shown: the numbers of those of its runs that are done, and why others have none."""

    name: str
    marks: str
    cells: tuple[Cell, ...]
    asked: int
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
        for key in table["columns"]:
            values = {cell.folder: summary[key] for cell, summary in done if key in summary}
            if values:
                given = np.array(list(values.values()))
                numbers[key] = Number(float(given.mean()), float(given.std(ddof=1)) if len(given) > 1 else 0.0, tuple(values), 0)
        found.append(Line(row["name"], "".join(m for m, given in marks.items() if given), tuple(c for c, _ in done), len(mine),
                          numbers, trouble, row.get("published") or {}))
        data = mine[0].config["data"]
        protocols = {cell.protocol() for cell, _ in done}
        groups[row["name"]] = json.dumps([[data.get(key) for key in TESTED], sorted(protocols)])
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
    gap, share = number.mean - value, about.get("tolerance", 0.05)
    said += f", {gap:+.{digits}f}"
    if about.get("beside"):
        return f"{said}: beside"
    if len(number.runs) < FEW and line.cells[0].chance():
        return f"{said}: too few seeds"
    if abs(gap) <= share * abs(value):
        return f"{said}: within {share:.0%}"
    near = about.get("std") is not None and abs(gap) <= 2 * about["std"]
    return f"{said}: within 2 σ" if near else f"{said}: outside {share:.0%}"


def headed(lines: Sequence[Line], columns: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """(the columns that have published values beside them, the titles of all)."""
    beside = [key for key in columns if any(key in line.published for line in lines)]
    return beside, [title for key, spec in columns.items() for title in (spec["title"], *(["published"] if key in beside else []))]


def count(line: Line) -> str:
    """How many runs a row's numbers are of, and of how many, where one of them came to nothing."""
    return f"{len(line.cells)} of {line.asked}" if line.cells and line.trouble else str(len(line.cells))


def short(trouble: str) -> str:
    """Why there is no number, in the room that a cell has."""
    away = "is not here yet|is no (local )?folder|is not installed|does not exist"
    for start, said in ((rf"model\.\w+: .*({away})", "checkpoint not here"), (r"data\.[\w.]+: no file", "data not here")):
        if re.match(start, trouble):
            return said
    return escaped(trouble)


def escaped(text: str) -> str:
    """A text that doesn't end its cell."""
    return text.replace("|", "\\|")


def notes(lines: Sequence[Line], columns: Mapping[str, Any]) -> list[str]:
    """What marks mean, what is not here, what no run says, and where published values come from."""
    found = [f"{mark} {note}" for mark, note in NOTES.items() if any(mark in line.marks for line in lines)]
    told = dict.fromkeys(key for line in lines for cell in line.cells for key in cell.summary())
    found += [f"{key}: no run says it; they say {', '.join(x for x in told if x.startswith(key.partition('/')[0] + '/'))}"
              for key in columns if told and key not in told]
    found += [f"{line.name}: {line.trouble}" for line in lines
              if line.trouble and (line.numbers or short(line.trouble) != escaped(line.trouble))]
    sources: dict[str, list[str]] = {}
    for line in lines:
        for about in line.published.values():
            said = f"published by {about['source']}"
            said += f"; beside, without verdict: {about['beside']}" if about.get("beside") else ""
            sources.setdefault(said, []).append(line.name)
    return found + [f"{', '.join(dict.fromkeys(names))}: {said}" for said, names in sources.items()]
