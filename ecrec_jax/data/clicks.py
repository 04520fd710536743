"""Items that were shown and whether they were taken, as fields of user, item and moment, for pointwise models."""

import dataclasses
import hashlib
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from ecrec_jax.data import history, read, vectors
from ecrec_jax.data.behaviour import times
from ecrec_jax.data.clean import codes
from ecrec_jax.data.corpus import Corpus
from ecrec_jax.data.fields import KINDS, Field, field, numbers
from ecrec_jax.data.file import located
from ecrec_jax.data.split import SPLITS, check, draw, number, share
from ecrec_jax.types import Example, InputError

LABELS = "no click", "click"
TABLE = {"path", "key", "pattern", "sha256"}   # what is said of a table that is joined


class Rows(NamedTuple):
    """Every field of every row, end to end: the field's number, the token, its value, and where each row begins."""

    type: Int[np.ndarray, "N"]
    tokens: Int[np.ndarray, "N"]
    value: Float[np.ndarray, "N"]
    offset: Int[np.ndarray, "R+1"]


@dataclasses.dataclass(frozen=True)
class Clicks:
    """A table with one row a shown item. `fields`: {column: kind} of this table, or of one of the `tables` {name: {path, key}},
    whose columns are joined where the column `key` holds the same. A kind is category (one value), list (several, joined by
    `separator`), flags (zeros and ones, joined by it: which are one), number, or count (its logarithm is taken: log(1 + x)).

    Each value of a category in the training split with `min_count` rows is a token, every field has one for all others; a number
    is its field's token with a value, less the mean and over the spread of the training split, 0 where it is absent. The values
    of a list share 1. `history`: four numbers more, of the rows strictly before, see `data.history`. `vectors`: a file of
    `experiments.encode`, for one number more, how the item's text matches those of what its user took before.

    `target` class: a click where the label is at least `label_at`; number: the label itself. `split`: time (the last shares of the
    rows validate and test, equal times stay together) or random (drawn by `split_seed`, stratified by label).
    """

    path: str | None
    root: str
    source: str | None
    sha256: str | None
    pattern: str | None
    encoding: str
    tables: dict[str, dict[str, Any]] | None
    fields: dict[str, str] | None
    item_fields: list[str]
    separator: str
    history: bool
    vectors: str | None
    user_column: str
    item_column: str
    time_column: str
    time_format: str | None
    label_column: str
    label_at: float
    min_count: int
    target: Literal["class", "number"]
    split: Literal["time", "random"]
    valid_fraction: float
    test_fraction: float
    split_seed: int
    train_fraction: float
    max_length: int
    row_length: int | None
    batch_size: int
    limit: int | None

    def __post_init__(self):
        check(self)
        if not self.fields:
            raise InputError("data.fields is not set: name the columns to learn from, data.fields={user: category, price: number}")
        for name, kind in self.fields.items():
            if kind not in KINDS:
                raise InputError(f"data.fields: {name} is of kind {kind!r}, expected one of {', '.join(KINDS)}")
        strange = sorted(set(self.item_fields) - set(self.fields))
        if strange:
            raise InputError(f"data.item_fields: {strange[0]!r} is none of data.fields")
        for name, given in (self.tables or {}).items():
            if not isinstance(given, dict) or not {"path", "key"} <= set(given) <= TABLE:
                raise InputError(f"data.tables.{name}: {given} must have path and key, and may have pattern and sha256")

    def load(self, tokenizer: str, max_length: int) -> Corpus:
        """Read, join, split, number the values. There is no `tokenizer`; rows of more than `max_length` tokens are cut.

        Raises:
            InputError: a file, column or cell that can't be used; nothing to train on; one kind of label only.
        """
        table = read.read(located(self.path, self.root, self.source)[""], self.pattern, self.encoding, self.sha256)
        columns, digest = self.joined(table)
        count = len(table.place)
        raw = read.column(table, self.label_column, "data.label_column")
        label = np.array([number(x or "", table.where(i)) for i, x in enumerate(raw)])
        clicked = label >= self.label_at
        time = times(table, self.time_column, self.time_format, np.arange(count))
        split = self.splits(time, clicked)
        if self.target == "class" and len(set(clicked[split == 0])) < 2:
            raise InputError(f"data.label_at: {self.label_at} leaves labels of one kind in the training split of {table.path}")
        found = [field(kind, columns[name], split == 0, self.min_count, self.separator,
                       lambda i, name=name: f"{table.where(i)}: {name}") for name, kind in self.fields.items()]
        names = list(self.fields)
        for name, values in self.before(table, time, clicked).items():
            names.append(name)
            found.append(numbers(values, split == 0))
        rows, vocabulary = lay(found, count, min(max_length, self.max_length))
        targets = clicked.astype(int).tolist() if self.target == "class" else label.tolist()
        members = {name: share(np.flatnonzero(split == k).tolist(), [str(x) for x in clicked], self.train_fraction
                               if name == "train" else 1.0, self.limit, self.split_seed) for k, name in enumerate(SPLITS)}
        trained = np.array([targets[i] for i in members["train"]])
        facts: dict[str, Any] = {"vocabulary": vocabulary, "types": len(names), "item_fields": tuple(
            k for k, name in enumerate(names) if name in self.item_fields or name in history.ITEM)}
        facts |= {"labels": LABELS, "class_counts": tuple(np.bincount(trained, minlength=2).tolist())} if self.target == "class" \
            else {"center": float(trained.mean()), "scale": float(trained.std()) or 1.0}
        report = {"rows": count, **{name: len(some) for name, some in members.items()}, "fields": names, "tokens": vocabulary,
                  "clicks": {name: float(clicked[some].mean()) if some else None for name, some in members.items()}}
        given = list(self.fields)
        says = lambda i: " ".join(f"{name}={columns[name][i] or ''}" for name in given)  # noqa: E731
        return Corpus({name: [example(rows, i, targets[i]) for i in some] for name, some in members.items()},
                      {name: [says(i) for i in some] for name, some in members.items()}, facts, digest, report)

    def before(self, table: read.Table, time: Float[np.ndarray, "R"], clicked: Bool[np.ndarray, "R"]
               ) -> dict[str, Float[np.ndarray, "R"]]:
        """Numbers made of the rows before."""
        sides = {side: read.column(table, column, f"data.{side}_column") if self.history or self.vectors else []
                 for side, column in (("user", self.user_column), ("item", self.item_column))}
        found = history.before(list(sides.items()), time, clicked) if self.history else {}
        if self.vectors is not None:
            item, names = codes(sides["item"])
            known = vectors.load(read.locate(self.vectors, self.root, "data.vectors"), names)[1:]
            found["text_match"] = history.match(sides["user"], time, clicked, item, known)
        return found

    def joined(self, table: read.Table) -> tuple[dict[str, list[str | None]], str]:
        """(the cells of every field, the digest of all files)."""
        columns, digests = dict(table.columns), [table.digest]
        for name, given in (self.tables or {}).items():
            key = f"data.tables.{name}"
            other = read.read(read.locate(given["path"], self.root, f"{key}.path"), given.get("pattern"), self.encoding,
                              given.get("sha256"))
            digests.append(other.digest)
            place: dict[Any, int] = {}
            for i, cell in enumerate(read.column(other, given["key"], f"{key}.key")):
                if place.setdefault(cell, i) != i:
                    raise InputError(f"{other.where(i)}: {given['key']} {cell!r} stands at {other.where(place[cell])} already")
            at = [place.get(cell) for cell in read.column(table, given["key"], f"{key}.key")]
            for column, cells in other.columns.items():
                if column != given["key"] and column in columns:
                    raise InputError(f"{other.path}: its column {column!r} is in another file too")
                if column != given["key"]:
                    columns[column] = [None if i is None else cells[i] for i in at]
        for name in self.fields:
            if name not in columns:
                raise InputError(f"data.fields: no file has a column {name!r}; there are {', '.join(columns)}")
        return columns, hashlib.sha256("\n".join(digests).encode()).hexdigest() if len(digests) > 1 else digests[0]

    def splits(self, time: Float[np.ndarray, "R"], clicked: Bool[np.ndarray, "R"]) -> Int[np.ndarray, "R"]:
        """0: train, 1: valid, 2: test."""
        if self.split == "time":
            edges = [1 - self.valid_fraction - self.test_fraction, 1 - self.test_fraction]
            order = np.sort(time)
            cuts = [order[min(int(edge * len(order) + 0.5), len(order) - 1)] if edge < 1 else np.inf for edge in edges]
            return (time >= cuts[0]).astype(int) + (time >= cuts[1])
        found, strata = np.zeros(len(time), int), [str(x) for x in clicked]
        for k, fraction in ((2, self.test_fraction), (1, self.valid_fraction / (1 - self.test_fraction))):
            pool = np.flatnonzero(found == 0).tolist()
            found[draw(pool, [strata[i] for i in pool], fraction, self.split_seed)] = k
        return found


def lay(found: list[Field], count: int, most: int) -> tuple[Rows, int]:
    """(the rows' tokens in the order of the fields, at most so many each; how many tokens there are, 0 among them: padding)."""
    starts = np.cumsum([1, *(f.size for f in found)])
    row, token, value = (np.concatenate(parts) for parts in zip(
        *((f.row, f.token + start, f.value) for f, start in zip(found, starts, strict=False)), strict=True))
    kind = np.repeat(np.arange(len(found)), [len(f.row) for f in found])
    order = np.argsort(row, kind="stable")
    size = np.bincount(row, minlength=count)
    place = np.arange(len(order)) - np.repeat(np.cumsum(size) - size, size)
    order = order[place < most]
    offset = np.concatenate([[0], np.cumsum(np.minimum(size, most))])
    return Rows(kind[order].astype("i4"), token[order].astype("i4"), value[order].astype("f4"), offset), int(starts[-1])


def example(rows: Rows, i: int, label: Any) -> Example:
    """A row with its target."""
    part = slice(rows.offset[i], rows.offset[i + 1])
    return Example(rows.tokens[part], rows.type[part], label, i, value=rows.value[part])
