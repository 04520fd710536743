"""Items that were shown and whether they were taken, as fields of user, item and moment, for pointwise models."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from ecrec_jax.data import catalogue, file, history, read
from ecrec_jax.data.behaviour import clock
from ecrec_jax.data.corpus import Corpus
from ecrec_jax.data.fields import KINDS, Column, Field, lay, learn, learn_numbers
from ecrec_jax.data.past import Past
from ecrec_jax.data.split import SPLITS, check, draw, number, share, spread
from ecrec_jax.types import Example, InputError

LABELS = "no click", "click"
TABLE = {"path", "key", "pattern", "sha256"}   # what is said of a table that is joined


class Log(NamedTuple):
    """The rows of a file: when, with what label, whether that is a click, and in which split (0: train, 1: valid, 2: test)."""

    table: read.Table
    time: Float[np.ndarray, "R"]
    label: Float[np.ndarray, "R"]
    clicked: Bool[np.ndarray, "R"]
    split: Int[np.ndarray, "R"]


@dataclasses.dataclass(frozen=True)
class Clicks:
    """A table with one row a shown item. `fields`: {column: kind} of this table, or of one of the `tables` {name: {path, key}},
    whose columns are joined where the column `key` holds the same. A kind is category (one value), list (several, joined by
    `separator`), flags (zeros and ones, joined by it: which are one), number, or count (its logarithm is taken: log(1 + x)).

    Each value of a category in the training split with `min_count` rows is a token, every field has one for all others; a number
    is its field's token with a value, less the mean and over the spread of the training split, 0 where it is absent. The values
    of a list share 1. `history`: four numbers more, of the rows strictly before, see `data.history`; `recency`: two more, how
    long ago the last of them was. `vectors`: a file of `experiments.encode`, for one number more, how the item's text matches those
    of what its user took before.

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
    recency: bool = False

    def __post_init__(self):
        check(self)
        file.check(self.path, self.sha256, None, self.pattern, self.encoding)
        if not self.fields:
            raise InputError("data.fields is not set: name the columns to learn from, data.fields={user: category, price: number}")
        for name, kind in self.fields.items():
            if kind not in KINDS:
                raise InputError(f"data.fields: {name} is of kind {kind!r}, expected one of {', '.join(KINDS)}")
        if strange := sorted(set(self.item_fields) - set(self.fields)):
            raise InputError(f"data.item_fields: {strange[0]!r} is none of data.fields")
        if self.split == "random" and (self.history or self.vectors):
            raise InputError("data.split=random holds out clicks that data.history and data.vectors tell later rows of: set "
                             "data.history=false data.vectors=null, or data.split=time")
        for name, given in (self.tables or {}).items():
            if not isinstance(given, dict) or not {"path", "key"} <= set(given) <= TABLE or {*map(type, given.values())} != {str}:
                raise InputError(f"data.tables.{name}: {given} must have path and key, and may have pattern and sha256, all texts")
            file.check(given["path"], None, None, given.get("pattern"), self.encoding, f"data.tables.{name}")

    def log(self) -> Log:
        """The file's rows.

        Raises:
            InputError: a file, column or cell that can't be used; nothing to train on.
        """
        path = file.located(self.path, self.root, self.source, self.sha256)[""]
        table = read.read(path, self.pattern, self.encoding, self.sha256)
        raw = read.column(table, self.label_column, "data.label_column")
        label = np.array([number(x or "", table.where(i)) for i, x in enumerate(raw)])
        time, clicked = clock(table, self.time_column, self.time_format, np.arange(len(label))), label >= self.label_at
        split = self.splits(time, clicked)
        if not (split == 0).any():
            raise InputError(f"{table.path}: data.split={self.split} leaves no row to train on")
        return Log(table, time, label, clicked, split)

    def load(self, tokenizer: str, max_length: int) -> Corpus:
        """Read, join, split, number the values. There is no `tokenizer`; rows of more than `max_length` tokens are cut.

        Raises:
            InputError: as `log`; one kind of label only.
        """
        table, time, label, clicked, split = self.log()
        (columns, digest), count, past = self.joined(table), len(time), self.past()
        if self.target == "class" and len(set(clicked[split == 0])) < 2:
            raise InputError(f"data.label_at: {self.label_at} leaves labels of one kind in the training split of {table.path}")
        rates, strata = {"train": self.train_fraction}, [str(x) for x in clicked]
        members = {name: share(np.flatnonzero(split == k).tolist(), strata, rates.get(name, 1.0), self.limit, self.split_seed)
                   for k, name in enumerate(SPLITS)}
        used = np.isin(np.arange(count), members["train"])
        kept = {name: learn(kind, columns[name], used, self.min_count, self.separator, table.cell(name))
                for name, kind in self.fields.items()}
        found, sides, digest = self.cells(table, columns, kept), self.sides(table), catalogue.digest(digest, *past.files())
        for name, values in past.before(sides, time, clicked, kept).items():
            kept[name] = learn_numbers("number", values, used)
            found.append(kept[name].scaled(values))
        names, (rows, vocabulary, cut) = list(kept), lay(found, count, min(max_length, self.max_length))
        targets = clicked.astype(int).tolist() if self.target == "class" else label.tolist()
        trained = np.array([targets[i] for i in members["train"]])
        facts: dict[str, Any] = {"vocabulary": vocabulary, "types": len(names), "item_fields": tuple(
            k for k, name in enumerate(names) if name in self.item_fields or name in history.ITEM)}
        facts |= {"labels": LABELS, "class_counts": tuple(np.bincount(trained, minlength=2).tolist())} if self.target == "class" \
            else {"center": float(trained.mean()), "scale": spread(trained)}
        report = {"rows": count, "truncated": cut, **{name: len(some) for name, some in members.items()}, "fields": names,
                  "tokens": vocabulary, "clicks": {name: float(clicked[x].mean()) if x else None for name, x in members.items()}}
        known = {"columns": {name: column._asdict() for name, column in kept.items()}} | past.kept(sides, time, clicked)
        return Corpus({name: [rows.example(i, targets[i]) for i in some] for name, some in members.items()},
                      {name: self.texts(columns, some) for name, some in members.items()}, facts, digest, report, fields=known)

    def new(self, table: read.Table, known: Mapping[str, Any], max_length: int) -> tuple[list[Example], list[str], int]:
        """(another table's rows without labels, what they say, how many were cut), by what a run has `known`, whose log is earlier.

        Raises:
            InputError: a column or cell that can't be used, an earlier time, or other vectors than those of the run.
        """
        columns, _ = self.joined(table)
        kept = {name: Column(**column) for name, column in known["columns"].items()}
        found = self.cells(table, columns, {name: kept[name] for name in self.fields})
        time = clock(table, self.time_column, self.time_format, np.arange(len(table.place))) \
            if self.recency or self.time_column in table.columns else None
        past = self.past().after(known, self.sides(table), time, table.where)
        found += [kept[name].scaled(values) for name, values in past.items()]
        rows, _, cut = lay(found, len(table.place), min(max_length, self.max_length))
        return [rows.example(i, 0) for i in range(len(table.place))], self.texts(columns, range(len(table.place))), cut

    def cells(self, table: read.Table, columns: Mapping[str, list[str | None]], kept: Mapping[str, Column]) -> list[Field]:
        """The cells of every field."""
        return [column.read(columns[name], self.separator, table.cell(name)) for name, column in kept.items()]

    def texts(self, columns: Mapping[str, list[str | None]], rows: Iterable[int]) -> list[str]:
        """What rows say, for a reader."""
        return [" ".join(f"{name}={columns[name][i] or ''}" for name in self.fields) for i in rows]

    def past(self) -> Past:
        """Which numbers the rows before make."""
        return Past(self.history, self.recency, self.vectors and read.locate(self.vectors, self.root, "data.vectors"))

    def sides(self, table: read.Table) -> dict[str, list[str | None]]:
        """Users and items of the rows, where something is made of them."""
        pairs = ("user", self.user_column), ("item", self.item_column)
        return {side: read.column(table, column, f"data.{side}_column")
                for side, column in pairs if self.history or self.recency or self.vectors}

    def joined(self, table: read.Table) -> tuple[dict[str, list[str | None]], str]:
        """(the cells of every column, the digest of all files)."""
        columns, digest = file.join(table, self.tables or {}, self.root, self.encoding, self.source)
        for name in self.fields:
            if name not in columns:
                raise InputError(f"data.fields: no file has a column {name!r}; there are {', '.join(columns)}")
        return columns, digest

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
