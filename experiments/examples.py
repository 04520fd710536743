"""Examples of a test that one run got right and another wrong, with their texts."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ecrec_jax import section
from ecrec_jax.types import Facts, InputError
from experiments import record, saved
from experiments.cell import Cell
from experiments.page import Markup, folded, joined, tag

SHOWN, LONGEST = 20, 1000   # examples of a list, letters of a text
COLUMNS, RANKED = {"example", "label", "prediction", "scores"}, {"user", "target", "rank", "top_items"}


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a run said of an example. `off`: how far that was from the label: 1 less the label's score, the mean distance of scores
    from several labels, or of a number from the number, 1 less the reciprocal rank of an item; `right` is None where answers are
    numbers."""

    label: str
    said: str
    off: float
    right: bool | None


def answers(path: Path) -> dict[int | str, Answer]:
    """The answers of a run by the number of the example, or the name of the user; none where the file isn't there or holds no
    answers with scores."""
    table = pq.read_table(path) if path.is_file() else None
    if table and set(table.column_names) >= RANKED:
        return {row["user"]: ranked(row) for row in table.to_pylist()}
    return {row["example"]: answer(row) for row in table.to_pylist()} if table and set(table.column_names) >= COLUMNS else {}


def ranked(row: Mapping[str, Any]) -> Answer:
    """One user's items; of several that were asked for, the one that is ranked first. Right is what stands in the list."""
    target, rank = ([x] if not isinstance(x, list) else x for x in (row["target"], row["rank"]))
    first, top = min(rank), row["top_items"]
    return Answer(", ".join(target), f"rank {first:,} ({', '.join(top[:3])} …)", 1 - 1 / first, first <= len(top))


def answer(row: Mapping[str, Any]) -> Answer:
    """One row of a run's predictions."""
    label, said, scores = row["label"], row["prediction"], row["scores"]
    if "label_id" not in row:
        return Answer(f"{label:.4g}", f"{said:.4g}", abs(said - label), None)
    if isinstance(label, list):
        off = float(np.abs(np.asarray(scores) - np.isin(np.arange(len(scores)), row["label_id"])).mean())
        return Answer(", ".join(label) or "none", ", ".join(said) or "none", off, set(label) == set(said))
    return Answer(label, f"{said} {scores[row['prediction_id']]:.2f}", 1 - scores[row["label_id"]], label == said)


def texts(cell: Cell, root: str) -> list[str] | str:
    """The text of every row of a run's data file; a sentence where it can't be had."""
    node = saved.complete(cell.config)["data"] | {"root": root}
    try:
        data = section.make(node, "data", Facts())
        if not hasattr(data, "table"):   # windows of behaviour, rows of several columns
            return "The examples are no texts of a file, so they are not shown."
        table = data.table()
        record.same_data(cell.folder, table.digest)
    except InputError as error:
        return f"The texts are not shown. {error}"
    first, second = data.texts(table, Counter())
    return [a if second is None else f"{a} ‖ {second[i]}" for i, a in enumerate(first)]


def between(one: Cell, two: Cell, split: str, root: str) -> Markup | None:
    """Examples that `one` won against `two`, and lost; None where they have no example with the same label in common."""
    mine, theirs = (answers(cell.folder / "predictions" / f"{split}.parquet") for cell in (one, two))
    both = [i for i in mine if i in theirs and mine[i].label == theirs[i].label]
    if not both:
        return None
    lists, numbers = [], mine[both[0]].right is None
    for winner, loser in ((mine, theirs), (theirs, mine)):
        better = lambda a, b: a.off < b.off if numbers else a.right and not b.right  # noqa: E731
        found = [i for i in both if better(winner[i], loser[i])]
        lists.append(sorted(found, key=lambda i: winner[i].off - loser[i].off))
    users = isinstance(both[0], str)
    known = "Won is a user of whose items the list has one, and the other's list has none." if users else texts(one, root)
    words = ("closer", "further") if numbers else ("won", "lost")
    count = " · ".join(f"{word} {len(found)}" for word, found in zip(words, lists, strict=True))
    title = f"{one.row} against {two.row}: {count} of {len(both)}" + (f" (seed {one.seed})" if one.seed == two.seed else "")
    note = tag("p.soft", known) if isinstance(known, str) else None
    return folded(title, note, *(listed(f"{word} by {one.row}", found, (one, mine), (two, theirs), known)
                                 for word, found in zip(words, lists, strict=True)))


def listed(title: str, found: Sequence[Any], one: tuple[Cell, Mapping[Any, Answer]], two: tuple[Cell, Mapping[Any, Answer]],
           known: list[str] | str) -> Markup:
    """One list, the widest gaps first; the rest is counted."""
    cards = []
    for i in found[:SHOWN]:
        said = [f" · {cell.row}: {given[i].said}" for cell, given in (one, two)]
        text = None if isinstance(known, str) else tag("p", known[i][:LONGEST] + ("…" if len(known[i]) > LONGEST else ""))
        named = f"{'user' if isinstance(i, str) else 'row'} {i} · label "
        cards.append(tag("article", tag("p.soft", named, tag("b", one[1][i].label), *said), text))
    rest = tag("p.soft", f"and {len(found) - SHOWN} more") if len(found) > SHOWN else None
    return joined(tag("h3", f"{title}: {len(found)}"), *cards, rest)
