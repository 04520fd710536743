"""The sections of a report on runs: configuration, metrics, differences, curves, calibration, confusion, examples."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecrec_jax import metrics, section
from ecrec_jax.meter import brief
from experiments import examples, figure, lines, page, plot
from experiments.cell import Cell
from experiments.compare import METHOD, answers, asked, pairs
from experiments.lines import Line, verdict
from experiments.page import Markup, tag

Sides = dict[str, list[Cell]]   # name of a row -> its runs


def differing(sides: Sides) -> Markup:
    """The keys in which the rows differ, and all others but those of folder and trackers, which change nothing."""
    flat = {name: section.flatten(cells[0].config) for name, cells in sides.items()}
    free = ["run_dir", "tracker", *(["seed"] if any(len(cells) > 1 for cells in sides.values()) else [])]
    keys = [key for key in dict.fromkeys(key for node in flat.values() for key in node) if key.partition(".")[0] not in free]
    said = {key: [said_of(node, key) for node in flat.values()] for key in keys}
    differ = [[key, *values] for key, values in said.items() if len(set(values)) > 1]
    equal = [[key, values[0]] for key, values in said.items() if len(set(values)) == 1]
    top = page.table(["", *sides], differ) if differ else None
    none = tag("p.soft", "They have the same configuration.") if len(sides) > 1 and not differ else None
    return page.joined(tag("h2", "Configuration"), none, top, page.folded(f"{len(equal)} keys that are equal" if len(sides) > 1 else
                                                                         f"{len(equal)} keys", page.table(["", ""], equal)))


def said_of(node: Mapping[str, Any], key: str) -> str:
    """A value as a reader sees it; a dash where there is none."""
    value = node.get(key, "–")
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def numbers(shown: Sequence[Line], columns: Mapping[str, Any]) -> Markup:
    """Mean and standard deviation of every row, beside what was published; what marks mean, what isn't there and why."""
    beside, heads = lines.headed(shown, columns)
    rows = []
    for line in shown:
        cells = []
        for key, spec in columns.items():
            number, digits = line.numbers.get(key), spec["digits"]
            cells.append("–" if number is None else number.words(digits))
            cells += [verdict(line, key, digits) if key in line.published else ""] if key in beside else []
        rows.append([line.name + line.marks, lines.count(line), *cells])
    done = all(len(line.cells) == line.asked for line in shown)
    found = [*lines.notes(shown, columns), *([] if done else ["n counts the runs that are finished."])]
    return page.joined(tag("h2", "Metrics"), page.table(["", "n", *heads], rows, "number"), *(tag("p.soft", x) for x in found))


def significance(rows: Sequence[Mapping[str, Any]], cells: Mapping[tuple[str, int], Cell],
                 columns: Mapping[str, Any]) -> Markup | None:
    """What may be claimed of differences, and what wasn't compared."""
    found, left = pairs(rows, cells, columns)
    said = [tag("p.soft", f"Not compared: {x}") for x in left]
    if not found:
        return page.joined(tag("h2", "Differences"), *said) if said else None
    told = [[f"{pair.first} less {pair.second}", *pair.words(columns[pair.column])] for pair in found]
    return page.joined(tag("h2", "Differences"), page.table(["", "", "difference [95 %]", "effect", "p (Holm)"], told, "number"),
                       tag("p.soft", METHOD), *said)


def courses(sides: Sides) -> Markup | None:
    """Training loss and validation metrics over the steps, a curve a run; not what was measured once."""
    drawn: dict[str, list[figure.Curve]] = {}
    for i, (name, cells) in enumerate(sides.items()):
        for cell in cells:
            path, series = cell.folder / "metrics.jsonl", {}
            for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
                row = json.loads(line)
                for key in row:
                    if key == "train/loss" or key.startswith("valid/"):
                        series.setdefault(key, []).append((row["step"], row[key]))
            for key, points in series.items():
                drawn.setdefault(key, []).append((i, f"{name}, seed {cell.seed}", points))
    drawn = {key: drawn[key] for key in brief(drawn) if any(len(points) > 1 for *_, points in drawn[key])}
    if not drawn:
        return None
    last = max(points[-1][0] for curves in drawn.values() for *_, points in curves)
    panels = (figure.curves(key, drawn[key], last) for key in sorted(drawn, key=lambda key: (not key.endswith("/loss"), key)))
    return page.joined(tag("h2", "Curves"), figure.legend(list(sides)), tag("div.grid", *panels))


def answered(sides: Sides, split: str) -> Iterator[tuple[int, str, list[pa.Table]]]:
    """(place, name, predictions of the runs) of every row that has a class, or several, to predict."""
    for i, (name, cells) in enumerate(sides.items()):
        paths = [path for cell in cells if (path := cell.folder / "predictions" / f"{split}.parquet").is_file()]
        tables = [table for path in paths if "label_id" in (table := pq.read_table(path)).column_names]
        if tables:
            yield i, name, tables


def calibration(sides: Sides, split: str) -> Markup | None:
    """A reliability diagram a row, of the answers of all its runs: of the class that is said; of every label, where there may be
    several."""
    found = []
    for i, name, tables in answered(sides, split):
        scores = np.array([row for table in tables for row in table["scores"].to_pylist()])
        label, said = (np.concatenate(side) for side in list(zip(*map(answers, tables), strict=True))[:2])
        several = label.ndim == 2
        gap, bins = metrics.calibration(*((scores.ravel(), label.ravel()) if several else (scores.max(1), label == said)))
        found.append(figure.reliability(f"{name}: error {gap:.3f}", bins, i))
    about = ("How often answers are right whose score is of this size; on the dashed line as often as the score says. The expected "
             "calibration error is the mean distance from the line over the bins, each by the number of its scores.")
    return page.joined(tag("h2", "Calibration"), tag("p.soft", about), tag("div.grid", *found)) if found else None


def confusion(sides: Sides, split: str) -> Markup | None:
    """A matrix a row, its runs added up; classes that no run was asked for and none said are left out."""
    found = []
    for _, name, tables in answered(sides, split):
        cells = [row for table in tables for row in table.select(["label_id", "prediction_id", "label", "prediction"]).to_pylist()]
        if isinstance(cells[0]["label_id"], list):
            continue
        known = {row[f"{side}_id"]: row[side] for row in cells for side in ("label", "prediction")}
        place = {n: k for k, n in enumerate(sorted(known))}
        matrix = np.zeros((len(known), len(known)), int)
        np.add.at(matrix, tuple(np.array([[place[row[f"{side}_id"]] for row in cells] for side in ("label", "prediction")])), 1)
        title = f"{name}, {len(tables)} run{'s' * (len(tables) > 1)}, {len(cells)} answers"
        found.append(page.folded(title, figure.confusion(matrix, [known[n] for n in place]), shown=len(sides) <= 4))
    about = tag("p.soft", "Counts, and their share of the label's row.")
    return page.joined(tag("h2", "Confusion"), about, *found) if found else None


def lists(sides: Sides, split: str) -> Markup | None:
    """Of runs that rank items: a metric over the length of histories, and whose the lists are by popularity; a curve a run."""
    drawn: dict[str, list[figure.Curve]] = {}
    for i, (name, cells) in enumerate(sides.items()):
        for cell in cells:
            path = cell.folder / "report" / f"{split}.json"
            report = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            if "by_length" not in report:
                continue
            metric, cutoff = plot.measured_by(report, cell.config["best"]["metric"])
            said, tenths = f"{name}, seed {cell.seed}", lambda shares: list(enumerate(shares, 1))
            by_length = [(group["length"], group[metric]) for group in report["by_length"]]
            drawn.setdefault(f"{metric} over items in the history", []).append((i, said, by_length))
            if cutoff is None:
                continue
            shares = drawn.setdefault(f"share of the lists {cutoff} over tenths of the items", [
                (len(sides), "training events", tenths(report["exposure"]["training"]))])
            shares.append((i, said, tenths(report["exposure"][cutoff])))
    if not drawn:
        return None
    panels = [figure.curves(title, curves, max(x for *_, points in curves for x, _ in points),
                            "items" if "history" in title else "tenth") for title, curves in drawn.items()]
    about = "Users by the items of their histories that were read; tenths of the items by training events, the most popular first."
    return page.joined(tag("h2", "Users and items"), tag("p.soft", about), figure.legend([*sides, "training events"]),
                       tag("div.grid", *panels))


def against(rows: Sequence[Mapping[str, Any]], sides: Sides, split: str, root: str) -> Markup | None:
    """Examples won and lost, of one run of each row, of the same seed where they have one."""
    found = []
    for first, second in (pair for pair in asked(rows) if {*pair} <= {*sides}):
        both = sorted({c.seed for c in sides[first]} & {c.seed for c in sides[second]})
        one, two = (next((c for c in sides[name] if c.seed in both), sides[name][0]) for name in (first, second))
        found.append(examples.between(one, two, split, root))
    shown = [x for x in found if x is not None]
    return page.joined(tag("h2", "Examples won and lost"), tag("p.soft", "The widest gaps first."), *shown) if shown else None


def surroundings(sides: Sides) -> Markup:
    """Where the runs are and what made them."""
    cards = []
    for name, cells in sides.items():
        for cell in cells:
            path, summary = cell.folder / "environment.json", cell.summary()
            about = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            took = "not finished" if summary is None else f"{summary.get('wall_seconds', 0):.0f} s"
            said = [str(cell.folder), took, about.get("started"), ", ".join(about.get("devices", [])), about.get("commit", "")[:12]]
            cards.append(tag("article", tag("p", tag("b", f"{name}, seed {cell.seed}")),
                             tag("p.soft", " · ".join(filter(None, said))), tag("p", " ".join(about.get("command", [])[1:]))))
    return page.joined(tag("h2", "Runs"), *cards)
