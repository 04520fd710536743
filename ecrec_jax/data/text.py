"""Texts with a target, from a table: read, cleaned, split, tokenised."""

import dataclasses
from collections import Counter
from typing import Any, Literal

import numpy as np

from ecrec_jax.data import file, parse, read, tokenise
from ecrec_jax.data.clean import clean
from ecrec_jax.data.corpus import Corpus
from ecrec_jax.data.split import SPLITS, check, draw, is_number, natural, number, rarest, share, spread
from ecrec_jax.data.split import texts as pairs
from ecrec_jax.types import InputError

NAMES = {"train": "train", "training": "train", "valid": "valid", "validation": "valid", "dev": "valid", "test": "test"}


@dataclasses.dataclass(frozen=True)
class Text:
    """A table of texts.

    `target`: class (one name), multi (several, joined by `label_separator`), number, none. Several text columns are read
    as one text. Splits come from the files of `path` or from `split_column`, or are drawn once from `split_seed`, stratified
    by `stratify_column` (default: the label) over all rows of the file, so that tasks on one file share their test set.
    """

    path: file.Files | None
    root: str
    source: str | None
    sha256: file.Files | None
    pattern: str | None
    encoding: str
    text_column: str | list[str]
    text_pair_column: str | None
    label_column: str | None
    label_separator: str
    label_names: dict[str, str] | None
    split_column: str | None
    stratify_column: str | None
    target: Literal["class", "multi", "number", "none"]
    valid_fraction: float
    test_fraction: float
    split_seed: int
    train_fraction: float
    max_length: int
    row_length: int | None
    batch_size: int
    tokenizer: str | None
    segmenter: Literal["jieba"] | None
    limit: int | None
    augment: dict[str, dict[str, Any]]
    copies: int

    def __post_init__(self):
        check(self)
        pairs(self, "label_names")
        file.check(self.path, self.sha256, self.split_column, self.pattern, self.encoding)
        if self.target != "none" and self.label_column is None:
            raise InputError("data.label_column is not set: name the column of the labels")
        if not self.label_separator or (self.target == "multi" and any(
                self.names(name) != [name] for name in (self.label_names or {}).values())):
            raise InputError("data.label_separator is empty, or stands in a name of data.label_names")
        if self.augment and self.text_pair_column is not None:
            raise InputError("data.augment changes single texts, not pairs: set augment=[] or data.text_pair_column=null")

    def table(self) -> read.Table:
        """The rows of all files, with the complaints of `file.located` and `file.table`."""
        return file.table(file.located(self.path, self.root, self.source, self.sha256), self.sha256, self.pattern, self.encoding)

    def texts(self, table: read.Table, counts: Counter[str]) -> tuple[list[str], list[str] | None]:
        """Cleaned texts, and their partners where pairs are asked for."""
        names = [self.text_column] if isinstance(self.text_column, str) else self.text_column
        if not names:
            raise InputError("data.text_column is empty: name the columns that a text is made of")
        columns = [[clean(t, counts) for t in read.column(table, name, "data.text_column")] for name in names]
        first = [" ".join(part for part in parts if part) for parts in zip(*columns, strict=True)]
        if self.text_pair_column is None:
            return first, None
        return first, [clean(t, counts) for t in read.column(table, self.text_pair_column, "data.text_pair_column")]

    def load(self, tokenizer: str, max_length: int) -> Corpus:
        """Read, clean, split, tokenise; `tokenizer` is a folder, examples longer than `max_length` are truncated.

        Raises:
            InputError: file, column, label or split that can't be used; nothing to train on.
        """
        table, counts = self.table(), Counter[str]()
        first, second = self.texts(table, counts)
        raw = self.cells(table)
        keep = [bool(text) and (self.target == "none" or bool(label)) and (second is None or bool(second[i]))
                for i, (text, label) in enumerate(zip(first, raw, strict=True))]
        strata = self.strata(table, raw, keep)
        split = self.split(table, strata, keep)
        members = {name: [i for i in np.flatnonzero(split == name) if keep[i]] for name in SPLITS}
        if not members["train"]:
            raise InputError(f"{table.path}: no usable row to train on "
                             f"({len(first)} rows, {keep.count(False)} without text or label)")
        known = [raw[i] for i in members["train"]]
        members = {name: share(rows, strata, self.train_fraction if name == "train" else 1.0, self.limit, self.split_seed)
                   for name, rows in members.items()}
        labels, facts = self.labels(table, raw, known, members)
        ragged = tokenise.tokenise(tokenizer, first, second, max_length, self.segmenter)
        if self.target == "none":
            facts["token_counts"] = tuple(np.bincount(np.concatenate([ragged[i][0] for i in members["train"]])).tolist())
        texts = [a if second is None else f"{a} {second[i]}" for i, a in enumerate(first)]
        examples = {name: [ragged.example(int(i), labels.get(i, 0)) for i in rows] for name, rows in members.items()}
        seen = {text: name for name in reversed(SPLITS) for text in {texts[i] for i in members[name]}}
        report = {"rows": len(first), "dropped without text or label": keep.count(False),
                  "cleaned": {k: v for k, v in counts.items() if v},
                  **{name: len(rows) for name, rows in members.items()},
                  "truncated": sum(bool(ragged.truncated[i]) for rows in members.values() for i in rows), "max_length": max_length,
                  "texts of valid or test that also stand in an earlier split":
                      sum(seen[texts[i]] != name for name in ("valid", "test") for i in members[name])}
        return Corpus(examples, {name: [texts[i] for i in rows] for name, rows in members.items()}, facts, table.digest, report)

    def cells(self, table: read.Table) -> list[str]:
        """What stands for the label of every row, in the words of `label_names`; empty where nothing does."""
        if self.target == "none":
            return [""] * len(table.place)
        raw = [(x or "").strip() for x in read.column(table, self.label_column, "data.label_column")]
        known = self.label_names or {}
        for i, cell in enumerate(raw if known else ()):
            parts = self.names(cell)
            for part in parts:
                if part and part not in known:
                    raise InputError(f"{table.where(i)}: label {part!r} is none of {', '.join(known)} (data.label_names)")
            raw[i] = self.label_separator.join(known[part] for part in parts if part)
        return raw

    def names(self, cell: str) -> list[str]:
        """The labels a cell holds."""
        if self.target == "class":
            return [cell]
        return list(dict.fromkeys(filter(None, parse.parts_of(cell, self.label_separator))))

    def labels(self, table: read.Table, raw: list[str], known: list[str],
               members: dict[str, list[int]]) -> tuple[dict[int, Any], dict[str, Any]]:
        """(target of each row, facts about the targets); names come from `known`, the cells of the whole training split,
        spread and counts from the rows of it that are used."""
        if self.target == "none":
            return {}, {}
        where = {i: table.where(i) for rows in members.values() for i in rows}
        if self.target == "number":
            values = {i: number(raw[i], where[i]) for i in where}
            train = np.array([values[i] for i in members["train"]])
            return values, {"center": float(train.mean()), "scale": spread(train)}
        sets = {i: self.names(raw[i]) for i in where}
        counts = Counter(name for i in members["train"] for name in sets[i])
        order = list((self.label_names or {}).values())
        names = tuple(sorted({name for cell in known for name in self.names(cell)}, key=order.index if order else natural))
        if len(names) < 2:
            only = "".join(names)
            raise InputError(f"data.label_column: {self.label_column!r} has only one value in the training split, {only!r}")
        for i, parts in sets.items():
            for part in parts:
                if part not in names:
                    raise InputError(f"{where[i]}: label {part!r} does not occur in the training split "
                                     f"(known: {', '.join(names[:10])}{'…' if len(names) > 10 else ''})")
        ids = {name: k for k, name in enumerate(names)}
        facts = {"labels": names, "class_counts": tuple(counts[name] for name in names)}
        if self.target == "class":
            return {i: ids[parts[0]] for i, parts in sets.items()}, facts
        return {i: np.isin(np.arange(len(names)), [ids[p] for p in parts]).astype("f4") for i, parts in sets.items()}, facts

    def split(self, table: read.Table, strata: list[str], keep: list[bool]) -> np.ndarray:
        """The split of every row."""
        assigned = np.full(len(strata), "train", dtype="<U5")
        given = table.split or (read.column(table, self.split_column, "data.split_column") if self.split_column is not None else ())
        for i, value in enumerate(given):
            name = NAMES.get((value or "").strip().lower())
            if name is None:
                raise InputError(f"{table.where(i)}: split {value!r} is none of train, valid, dev, test")
            assigned[i] = name
        drawn = 1.0   # what a share is a share of: all rows, less those of a test split that was drawn
        for name, fraction in (("test", self.test_fraction), ("valid", self.valid_fraction)):
            if not (assigned == name).any():
                pool = [i for i in np.flatnonzero(assigned == "train") if self.stratify_column or keep[i]]
                sizes = Counter(strata[i] for i in pool)
                pool = [i for i in pool if sizes[strata[i]] > 1]   # a class of one row stays in training
                fraction, drawn = fraction / drawn, drawn - fraction
                assigned[draw(pool, [strata[i] for i in pool], fraction, self.split_seed)] = name
        return assigned

    def strata(self, table: read.Table, raw: list[str], keep: list[bool]) -> list[str]:
        """What a drawn split is balanced by: `stratify_column`, the label, the rarest of several, or the decile of a number that
        has many values."""
        if self.stratify_column:
            return [x or "" for x in read.column(table, self.stratify_column, "data.stratify_column")]
        if self.target == "multi":
            return rarest([self.names(cell) if kept else [] for cell, kept in zip(raw, keep, strict=True)])
        if self.target != "number":
            return raw
        if len(set(raw)) <= 20:
            counts = Counter(raw)
            return [cell if counts[cell] > 1 else "" for cell in raw]
        values = np.array([float(x) if is_number(x) else np.nan for x in raw])
        edges = np.nanquantile(values, np.linspace(0.1, 0.9, 9))
        return [str(k) for k in np.searchsorted(edges, values)]
