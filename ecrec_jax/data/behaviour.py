"""Logs of what users did, read as texts: a user's events in order of time, in windows."""

import dataclasses
import re
from collections import Counter
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from ecrec_jax.data import read, split, tokenise, window
from ecrec_jax.data.clean import cleaned, codes, settled
from ecrec_jax.data.corpus import Corpus
from ecrec_jax.data.split import SPLITS
from ecrec_jax.types import InputError


def times(table: read.Table, time_column: str, time_format: str | None, kept: Int[np.ndarray, "E"]) -> np.ndarray:
    """What orders the events: the ranks of their times, equal ones having one."""
    code, found = distinct_times(table, time_column, time_format, kept)
    return found.rank(method="dense").to_numpy()[code]


def clock(table: read.Table, time_column: str, time_format: str | None, kept: Int[np.ndarray, "E"]) -> np.ndarray:
    """The events' times as they are, dates in seconds."""
    code, found = distinct_times(table, time_column, time_format, kept)
    if not pd.api.types.is_numeric_dtype(found):
        found = (found - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)
    return found.to_numpy(float)[code]


def distinct_times(table: read.Table, time_column: str, time_format: str | None, kept: Int[np.ndarray, "E"]
                   ) -> tuple[Int[np.ndarray, "E"], pd.Series]:
    """(the number of each event's time, the distinct times): numbers, where the first cell is one; else dates of ISO 8601 or
    `time_format`.

    Raises:
        InputError: a cell that is neither, or absent.
    """
    cells = read.column(table, time_column, "data.time_column")
    code, distinct = codes([cells[i] for i in kept])
    if time_format is None and split.is_number(distinct[0]):
        found, wanted = pd.to_numeric(pd.Series(distinct), errors="coerce"), "a number, as the first time is"
    else:
        wanted = f"a date like {time_format}" if time_format else "a date of ISO 8601 (see data.time_format)"
        try:
            found = pd.to_datetime(pd.Series(distinct), format=time_format or "ISO8601", utc=True, errors="coerce")
        except ValueError as error:
            raise InputError(f"data.time_format: {time_format!r} can't be used ({error})") from None
    if found.isna().any():
        first = int(np.argmax(found.isna().to_numpy()[code]))
        raise InputError(f"{table.where(kept[first])}: time {distinct[code[first]]!r} is not {wanted}")
    return code, found


@dataclasses.dataclass(frozen=True)
class Behaviour:
    """A table of events, one a row.

    An event is read as its kind and its text: [CLS] purchase white mug [SEP] pink bag [SEP] purchase red lamp [SEP]. The kind
    is said where it changes, where a session (basket, visit) begins and where a window opens. An example is a window, as many
    sessions of one user as fit into `max_length` tokens; its number is the row of its first event. Splits are of users.
    """

    path: str | None
    root: str
    user_column: str
    time_column: str
    time_format: str | None
    event_column: str | None
    event: str
    kinds: dict[str, str] | None
    session_column: str | None
    text_column: str | list[str]
    item_column: str | None
    drop: dict[str, str] | None
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

    def __post_init__(self):
        split.check(self)
        split.texts(self, "kinds", "drop")
        for name, pattern in (self.drop or {}).items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise InputError(f"data.drop.{name}: {pattern!r} is not a regular expression ({error})") from None

    def load(self, tokenizer: str, max_length: int) -> Corpus:
        """Read, clean, order, tokenise, cut, split; `tokenizer` is a folder, windows have at most `max_length` tokens.

        Raises:
            InputError: file, column, kind or time that can't be used; nothing to train on.
        """
        table = read.read(read.locate(self.path, self.root, "data.path"))
        counts: Counter[str] = Counter()
        log, kinds, texts, report = self.log(table, counts)
        told = tokenise.tokenise(tokenizer, kinds, None, max_length)
        room = max_length - int(np.diff(told.offset).max())   # of [CLS] kind text [SEP]; two of those are special to `told`
        if room < 1:
            raise InputError(f"data.max_length {max_length} leaves no room for a text beside its kind, one of {', '.join(kinds)}")
        ragged = tokenise.tokenise(tokenizer, texts, None, room + 2, self.segmenter)
        special = tokenise.facts(tokenizer)
        made, said, first = window.windows(log, told, ragged, (special["cls_id"], special["sep_id"]), max_length)
        strings = [" ".join(f"{kinds[k]} {texts[t]}" if s else texts[t] for k, t, s in zip(*columns, strict=True))
                   for columns in zip(*(np.split(x, first[1:]) for x in (log.kind, log.text, said)), strict=True)]
        of_user = self.splits(int(log.user.max()) + 1)
        members = {name: np.flatnonzero(of_user[log.user[first]] == name).tolist() for name in SPLITS}
        if not members["train"]:
            raise InputError(f"{table.path}: no user is left to train on ({len(of_user)} in all)")
        members = {name: split.share(rows, [""] * len(first), self.train_fraction if name == "train" else 1.0, self.limit,
                                    self.split_seed) for name, rows in members.items()}
        examples = {name: [made.example(i, 0)._replace(index=int(log.row[first[i]])) for i in rows]
                    for name, rows in members.items()}
        facts = {"token_counts": tuple(np.bincount(np.concatenate([e.tokens for e in examples["train"]])).tolist())}
        report |= {"users by split": {name: int((of_user == name).sum()) for name in SPLITS}, "windows": len(first),
                   **{name: len(rows) for name, rows in members.items()},
                   "events truncated": int(ragged.truncated[log.text].sum()), "max_length": max_length}
        return Corpus(examples, {name: [strings[i] for i in rows] for name, rows in members.items()}, facts, table.digest, report)

    def log(self, table: read.Table, counts: Counter[str]) -> tuple[window.Log, list[str], list[str], dict[str, Any]]:
        """(events in order, the words of their kinds, their distinct texts, what happened on the way)."""
        names = [self.text_column] if isinstance(self.text_column, str) else self.text_column
        parts = [cleaned(read.column(table, name, "data.text_column"), counts) for name in names]
        user, users = codes(read.column(table, self.user_column, "data.user_column"))
        kept, dropped = self.keep(table, {"without user": np.array(users)[user] == "",
                                          "without text": np.logical_and.reduce([part == "" for part in parts])})
        parts = [part[kept] for part in parts]
        if self.item_column is not None:
            item = read.column(table, self.item_column, "data.item_column")
            parts[0] = settled([item[i] for i in kept], parts[0])
        text, texts = codes([" ".join(filter(None, row)) for row in zip(*parts, strict=True)])
        kind, kinds = self.kind(table, kept)
        session = np.zeros_like(kept) if self.session_column is None else \
            codes(read.column(table, self.session_column, "data.session_column"))[0][kept]
        order = np.lexsort((kept, times(table, self.time_column, self.time_format, kept), user[kept]))
        found = window.Log(*(column[order] for column in (pd.factorize(user[kept])[0], session, kind, text, kept)))
        return found, kinds, texts, {
            "rows": len(user), **{f"dropped {name}": n for name, n in dropped.items()},
            "cleaned distinct texts": {k: v for k, v in counts.items() if v}, "users": len(np.unique(found.user)),
            "events": len(kept), "distinct texts": len(texts),
            "sessions": int(window.changes(found.user, found.session).sum())}

    def keep(self, table: read.Table, reasons: dict[str, Bool[np.ndarray, "R"]]) -> tuple[Int[np.ndarray, "E"], dict[str, int]]:
        """(rows that are used, how many were dropped for the first of some reasons, and of `drop`, that holds).

        Raises:
            InputError: none is left.
        """
        for name, pattern in (self.drop or {}).items():
            code, distinct = codes(read.column(table, name, f"data.drop.{name}"))
            reasons |= {f"by {name}": np.array([bool(re.fullmatch(pattern, cell)) for cell in distinct])[code]}
        left, dropped = np.ones(len(table.place), bool), {}
        for reason, holds in reasons.items():
            dropped[reason] = int((left & holds).sum())
            left &= ~holds
        if not left.any():
            raise InputError(f"{table.path}: no usable row ({', '.join(f'{n} {reason}' for reason, n in dropped.items() if n)})")
        return np.flatnonzero(left), dropped

    def kind(self, table: read.Table, kept: Int[np.ndarray, "E"]) -> tuple[Int[np.ndarray, "E"], list[str]]:
        """(number of every event's kind, the words for the kinds).

        Raises:
            InputError: a cell that is empty, or none of `kinds`, where these are given.
        """
        if self.event_column is None:
            return np.zeros(len(kept), int), [self.event]
        cells = read.column(table, self.event_column, "data.event_column")
        code, distinct = codes([cells[i] for i in kept])
        words = self.kinds or {cell: cell for cell in distinct}
        for k, cell in enumerate(distinct):
            if not cell or cell not in words:
                place = table.place[kept[np.argmax(code == k)]]
                raise InputError(f"{table.path}, {place}: event {cell!r} is none of {', '.join(words)} (data.kinds)" if cell
                                 else f"{table.path}, {place}: no event in column {self.event_column!r}")
        again, spoken = pd.factorize(np.array([words[cell] for cell in distinct], object))   # several may have one word
        return again[code], list(spoken)

    def splits(self, users: int) -> np.ndarray:
        """The split of every user, drawn from `split_seed`."""
        assigned, drawn = np.full(users, "train", dtype="<U5"), 1.0
        for name, fraction in (("test", self.test_fraction), ("valid", self.valid_fraction)):
            pool = np.flatnonzero(assigned == "train").tolist()
            assigned[split.draw(pool, [""] * len(pool), fraction / drawn, self.split_seed)] = name
            drawn -= fraction
        return assigned
