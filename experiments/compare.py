"""Rows against rows: on the same test examples, is a difference more than chance?"""

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ecrec_jax.ranking import gain, padded
from ecrec_jax.use.significance import FEW, Counts, Difference, Metric, compare, counts_of, holm
from experiments.cell import Cell

METHOD = ("Paired permutation and bootstrap over the test examples, and the spread between seeds; the larger p counts, corrected "
          "by Holm over all lines. The effect is the difference in standard deviations of one example's.")
SAMPLES, SHARPER = 2000, 100   # random exchanges a comparison: at least, and for each comparison of the table


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two rows in one column; `holm` is the corrected p, None where there are too few seeds to claim anything."""

    first: str
    second: str
    column: str
    found: Difference
    holm: float | None

    def words(self, spec: Mapping[str, Any]) -> list[str]:
        """What a table says of it: the metric, the difference with its interval, the effect, what may be claimed."""
        x = self.found
        gap = "{:+.{n}f} [{:+.{n}f}, {:+.{n}f}]".format(x.difference, x.low, x.high, n=spec["digits"])
        claim = f"too few seeds ({FEW} at least)" if self.holm is None else f"{self.holm:.2g}" + (" *" if self.holm < 0.05 else "")
        return [spec["title"], gap, f"{x.effect:+.2f}", claim]


def pairs(rows: Sequence[Mapping[str, Any]], cells: Mapping[tuple[str, int], Cell], columns: Mapping[str, Any]
          ) -> tuple[list[Pair], list[str]]:
    """(the rows that `asked` names, where they were tested on the same examples, in columns whose metric is a function of means
    over examples; what can't be compared of those that have numbers, in words)."""
    done = {row["name"]: [c for c in cells.values() if c.row == row["name"] and c.summary() is not None]
            for row in rows if not row.get("hidden")}
    told = {name: set.intersection(*({*cell.summary()} for cell in mine)) if mine else set() for name, mine in done.items()}
    known: dict[tuple[str, str], tuple[Any, list[Counts], Metric] | None] = {}
    found: list[tuple[str, str, str, tuple[list[Counts], list[Counts], Metric], bool]] = []
    untested, unlike = {}, {}
    for (one, two), column in itertools.product(asked(rows), columns):
        if not all(column in told.get(name, ()) for name in (one, two)):
            continue
        for name in (one, two):
            if (name, column) not in known:
                known[name, column] = counts(done[name], column)
        a, b = known[one, column], known[two, column]
        if a is None or b is None:
            untested[f"{columns[column]['title']}: no test of it over examples"] = None
        elif not same(a[0], b[0]):
            unlike[f"{one} and {two}: tested on other examples"] = None
        else:
            enough = all(len(done[name]) >= FEW or not done[name][0].chance() for name in (one, two))
            found.append((one, two, column, (a[1], b[1], a[2]), enough))
    samples = max(SAMPLES, SHARPER * sum(enough for *_, enough in found))   # the least p is 1 / samples, times their number
    made = [compare(*given, samples=samples) for *_, given, _ in found]
    corrected = iter(holm([x.p for x, (*_, enough) in zip(made, found, strict=True) if enough]))
    return ([Pair(one, two, column, x, next(corrected) if enough else None)
             for x, (one, two, column, _, enough) in zip(made, found, strict=True)], [*untested, *unlike])


def asked(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Each row against those its `against` names; where no row of the table has one, all against all, the later one first."""
    shown = [row for row in rows if not row.get("hidden")]
    if any(row["against"] for row in rows):
        return [(row["name"], other) for row in shown for other in row["against"]]
    return [(b["name"], a["name"]) for a, b in itertools.combinations(shown, 2)]


def counts(cells: Sequence[Cell], column: str) -> tuple[Any, list[Counts], Metric] | None:
    """(examples and labels, what each run's predictions add to the metric, the metric); None where they say nothing of it."""
    split, _, name = column.partition("/")
    made, about = [], None
    for cell in cells:
        path = cell.folder / "predictions" / f"{split}.parquet"
        if not path.is_file():
            return None
        table = pq.read_table(path)
        if "rank" in table.column_names:   # ranked by the same protocol
            target, rank = ranks(table)
            mine, gained = (np.asarray(table["user"]), target, np.array([cell.protocol()])), gain(name, rank)
            found = None if gained is None else (gained[:, None], mean)
        else:
            label, prediction, classes = answers(table)
            prediction = np.array(table["scores"].to_pylist()) if name == "log_loss" else prediction
            mine, found = (np.asarray(table["example"]), label), counts_of(name, label, prediction, classes)
        if about is not None and not same(about, mine):
            return None
        if found is None:
            return None
        about = mine
        made.append(found[0])
    return (about, made, found[1]) if made else None


def ranks(table: Any) -> tuple[np.ndarray, np.ndarray]:
    """(what was relevant for each user, its rank): of one item each, or of several, filled up with 0."""
    target, rank = (table[name].to_pylist() for name in ("target", "rank"))
    if isinstance(rank[0], list):
        return np.array([json.dumps(names) for names in target]), padded(rank)
    return np.array(target), np.array(rank)


def mean(means: Counts) -> Any:
    """The metric that is a mean over examples."""
    return means[..., 0]


def answers(table: Any) -> tuple[np.ndarray, np.ndarray, int]:
    """(labels, predictions, how many classes) of a run's predictions: ids, several of them, or numbers."""
    if "label_id" not in table.column_names:
        return np.asarray(table["label"], "f8"), np.asarray(table["prediction"], "f8"), 0
    classes = len(table["scores"][0])
    sides = [table[name].to_pylist() for name in ("label_id", "prediction_id")]
    if isinstance(sides[0][0], list):
        several = [np.array([np.isin(np.arange(classes), ids) for ids in side]) for side in sides]
        return several[0], several[1], classes
    return np.array(sides[0]), np.array(sides[1]), classes


def same(one: Any, two: Any) -> bool:
    """Whether two tests are of the same examples with the same labels."""
    return all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
