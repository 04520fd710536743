"""What a table says: a number a row and column, beside published ones, as Markdown, LaTeX, CSV and a plot."""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ecrec_jax.use.significance import Difference
from experiments import latex, record
from experiments.cell import Cell
from experiments.compare import METHOD, Pair, pairs
from experiments.lines import Line, Number, count, escaped, headed, lines_of, notes, short, verdict
from experiments.plot import bars, over


def write(table: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], cells: Mapping[tuple[str, int], Cell], out: Path) -> None:
    """table.md, table.tex, table.csv, differences.csv and table.png; the first is printed too."""
    lines, (found, left) = lines_of(table, rows, cells), pairs(rows, cells, table["columns"])
    said = [*paragraphs(notes(lines, table["columns"])), *differences(found, left, table)]
    text = [f"# {table['title']}", "", *markdown(table, lines, out), *said]
    out.mkdir(parents=True, exist_ok=True)
    record.write_text("\n".join([*text, *runs(lines, out)]) + "\n", out / "table.md")
    record.write_text(latex.tabular(table, lines), out / "table.tex")
    spread(out / "table.csv", ["row", "marks", "column", "mean", "std", "n", "published", "verdict", "runs", "trouble"], [
        [line.name, line.marks, key, *figures(line.numbers.get(key)),
         *((line.published[key]["value"], verdict(line, key, spec["digits"])) if key in line.published else ("", "")),
         " ".join(map(str, line.numbers[key].runs if key in line.numbers else ())), line.trouble or ""]
        for line in lines for key, spec in table["columns"].items()])
    spread(out / "differences.csv", ["first", "second", "column", *(f.name for f in dataclasses.fields(Difference)), "p_holm"],
           [[pair.first, pair.second, pair.column, *map(repr, dataclasses.astuple(pair.found)),
             "" if pair.holm is None else repr(pair.holm)] for pair in found])
    titles = {key: spec["title"] for key, spec in table["columns"].items()}
    bars({line.name: {titles[key]: (x.mean, x.std) for key, x in line.numbers.items()} for line in lines if line.numbers},
         list(titles.values()), out / "table.png",
         {line.name: {titles[key]: about["value"] for key, about in line.published.items()} for line in lines})
    if table.get("curve"):
        curve(rows, lines, table, out / "curve.png")
    print("\n" + "\n".join(text) + f"\n\nplot: {out / 'table.png'}\neverything is in {out}", flush=True)


def curve(rows: Sequence[Mapping[str, Any]], lines: Sequence[Line], table: Mapping[str, Any], path: Path) -> None:
    """Every column over the axis that `curve` names, a line for the rows that differ in it alone."""
    axis, drawn = table["curve"], {}
    place = {row["name"]: (row["series"][axis], row["labels"][axis]) for row in rows if axis in row["labels"]}
    labels = list(dict.fromkeys(label for _, label in place.values()))
    for line in (line for line in lines if line.name in place):
        series, label = place[line.name]
        for key, x in line.numbers.items():
            drawn.setdefault(key, {}).setdefault(series, []).append((labels.index(label), x.mean, x.std))
    over(labels, {spec["title"]: drawn.get(key, {}) for key, spec in table["columns"].items()}, axis, path)


def figures(number: Number | None) -> tuple[Any, ...]:
    """Mean, standard deviation and n, each as far as there is one."""
    if number is None:
        return "", "", 0
    return repr(number.mean), repr(number.std) if len(number.runs) > 1 else "", len(number.runs)


def markdown(table: Mapping[str, Any], lines: Sequence[Line], out: Path) -> list[str]:
    """The numbers, linked to the folders of their runs; the best of each column and test set in bold, published values beside."""
    columns = table["columns"]
    beside, heads = headed(lines, columns)
    text = ["| | n | " + " | ".join(heads) + " |", "|---|---|" + "---|" * len(heads)]
    for line in lines:
        shown = []
        for key, spec in columns.items():
            number, digits = line.numbers.get(key), spec["digits"]
            said = short(line.trouble) if line.trouble else "–"
            if number is not None:
                said = number.words(digits)
                said = f"[{f'**{said}**' if number.place == 1 else said}]({number.runs[0].parent.relative_to(out)}/)"
            shown += [said, *([verdict(line, key, digits) if key in line.published else ""] if key in beside else [])]
        text.append(f"| {escaped(line.name)}{line.marks} | {count(line)} | " + " | ".join(shown) + " |")
    return text


def paragraphs(found: Sequence[str]) -> list[str]:
    """Lines under a table."""
    return ["", *(f"{note}  " for note in found)] if found else []


def differences(found: Sequence[Pair], left: Sequence[str], table: Mapping[str, Any]) -> list[str]:
    """The pairs of rows, with what may be claimed of them; what is `left` uncompared."""
    last = paragraphs([f"Not compared: {said}" for said in left])
    if not found:
        return last
    text = ["", "## Differences", "", "| | less | | difference [95 %] | effect | p (Holm) |", "|---|---|---|---|---|---|"]
    for pair in found:
        said = " | ".join(pair.words(table["columns"][pair.column]))
        text.append(f"| {escaped(pair.first)} | {escaped(pair.second)} | {said} |")
    return [*text, "", METHOD, *last]


def runs(lines: Sequence[Line], out: Path) -> list[str]:
    """The folders of every row."""
    return ["", "## Runs", "", *(f"- {line.name}: " + ", ".join(f"[seed {cell.seed}]({cell.folder.relative_to(out)}/)"
                                                              for cell in line.cells) for line in lines if line.cells)]


def spread(path: Path, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """CSV, whole or not at all."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([names, *rows])
    record.write_text(text.getvalue(), path)
