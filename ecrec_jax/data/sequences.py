"""Histories of users as sequences of items, from text files of recommender papers or a table of events."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int

from ecrec_jax.data import catalogue, file, read, split
from ecrec_jax.data import vectors as vectors_of
from ecrec_jax.data.behaviour import times
from ecrec_jax.data.clean import codes
from ecrec_jax.data.corpus import Catalogue, Corpus
from ecrec_jax.data.split import SPLITS
from ecrec_jax.types import Example, InputError

LEAST = 3   # events of a user who has something to train on, to validate and to test


class Events(NamedTuple):
    """E events, sorted by user and in each user's order: numbers of user and item, and what these are called."""

    user: Int[np.ndarray, "E"]
    item: Int[np.ndarray, "E"]
    users: list[str]
    items: list[str]
    digest: str


def pairs(path: Path, lines: list[str]) -> tuple[list[str], list[str]]:
    """`user item` a line, in each user's order, as SASRec's and BERT4Rec's files are."""
    rows = [line.split() for line in lines]
    for number, row in enumerate(rows, 1):
        if len(row) not in (0, 2):
            raise InputError(f"{path}, line {number}: {len(row)} fields instead of a user and an item")
    return [row[0] for row in rows if row], [row[1] for row in rows if row]


def lists(path: Path, lines: list[str]) -> tuple[list[str], list[str]]:
    """`user item item …` a line, as S3-Rec's files are."""
    user, item, known = [], [], {}
    for number, line in enumerate(lines, 1):
        name, *items = line.split() or [""]
        if name and not items:
            raise InputError(f"{path}, line {number}: user {name} has no item")
        if known.setdefault(name, number) != number and name:
            raise InputError(f"{path}, line {number}: user {name} is on line {known[name]} already")
        user += [name] * len(items)
        item += items
    return user, item


@dataclasses.dataclass(frozen=True)
class Sequences:
    """Histories for next-item prediction, leave-one-out: of each user's items the last one is for testing, the one before it for
    validation, the others for training; users with fewer than three are trained on alone. To test, the validation item belongs to
    the history.

    `format`: pairs, lists (see the functions), or table: one event a row, a user's events in the order of `time_column`, equal
    times in the order of the file. `align`: whether positions are counted from a history's first item, or so that its last item
    has the last position (padding on the left). `items`: a table with the columns item and price, for revenue. `vectors`: a file of
    `experiments.encode` for models that read items' texts.
    `new_items`: a share of the items, drawn by `split_seed`, of which nothing is trained on or validated with; who bought one of
    them last is tested, which asks what a model can say of items it has never seen.
    """

    path: str | None
    root: str
    source: str | None
    sha256: str | None
    format: Literal["pairs", "lists", "table"]
    user_column: str
    item_column: str
    time_column: str
    time_format: str | None
    align: Literal["left", "right"]
    items: str | None
    vectors: str | None
    new_items: float
    train_fraction: float
    valid_users: int | None
    split_seed: int
    max_length: int
    row_length: int | None
    batch_size: int
    limit: int | None

    def __post_init__(self):
        if self.path is None:
            raise InputError("data.path is not set: give the file, data.path=my.csv")
        if not 0 < self.train_fraction <= 1:
            raise InputError(f"data.train_fraction {self.train_fraction} must be above 0 and at most 1")
        if not 0 <= self.new_items < 1:
            raise InputError(f"data.new_items {self.new_items} must be 0 or more, below 1")
        for name, least in (("max_length", 2), ("batch_size", 1), ("limit", 1), ("valid_users", 1), ("split_seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"data.{name} {value} is too small")

    def events(self) -> Events:
        """The file's events in each user's order.

        Raises:
            InputError: it isn't there, is another file, or has a row that can't be used.
        """
        path = file.located(self.path, self.root, self.source)[""]
        if self.format == "table":
            table = read.read(path, None, "utf-8", self.sha256)
            user, item = (read.column(table, name, f"data.{key}") for name, key in
                          ((self.user_column, "user_column"), (self.item_column, "item_column")))
            digest, time = table.digest, times(table, self.time_column, self.time_format, np.arange(len(user)))
        else:
            content = path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            if self.sha256 not in (None, digest):
                raise InputError(f"{path}: its sha256 is {digest}, data.sha256 says {self.sha256}: this is another file (null: "
                                 "don't compare)")
            user, item = (pairs if self.format == "pairs" else lists)(path, read.decode(path, content).split("\n"))
            time = np.zeros(len(user))
        if not user:
            raise InputError(f"{path}: no rows")
        (user, users), (item, items) = codes(user), codes(item)
        for key, names, code in (("user", users, user), ("item", items, item)):
            if "" in names:
                where = table.where(int(np.argmax(code == names.index("")))) if self.format == "table" else str(path)
                raise InputError(f"{where}: an event without {key}")
        order = np.lexsort((time, user))
        return Events(user[order], item[order], users, items, digest)

    def load(self, tokenizer: str, max_length: int) -> Corpus:
        """Read and split; histories keep their last `max_length` items. There is no tokenizer.

        Raises:
            InputError: as `events`; nobody to train on.
        """
        events = self.events()
        bounds = np.concatenate([[0], np.flatnonzero(np.diff(events.user)) + 1, [len(events.user)]]).tolist()
        tokens = (events.item + 1).astype("i4")
        histories = [tokens[first:end] for first, end in zip(bounds[:-1], bounds[1:], strict=True)]
        histories, asked, new = self.without_new(histories, len(events.items))
        members, report = self.members([len(history) for history in histories])
        if self.new_items:
            members["test"] = [user for user in members["test"] if user in asked]
            report |= {"users to test": len(members["test"]), "new items": self.new_items}
        counts = np.zeros(len(events.items) + 2, int)
        for user in members["train"]:
            counts += np.bincount(self.part(histories[user], "train"), minlength=len(counts))
        if not counts.any():
            raise InputError(f"{self.path}: no user has {LEAST + 1} events, of which two are trained on")
        examples = {name: [self.example(histories[user], user, name, max_length) for user in users]
                    for name, users in members.items()}
        facts = {"vocabulary": len(counts), "items": len(events.items), "item_counts": tuple(counts.tolist()), "pad_id": 0,
                 "mask_id": len(counts) - 1, "special_ids": (0, len(counts) - 1), "new_ids": new}
        report |= {"longest history": max(map(len, histories)), "users": len(events.users), "items": len(events.items),
                   "events": len(tokens), "items never trained on": int((counts[1:-1] == 0).sum()),
                   "histories cut": sum(len(h) - 1 > max_length for h in histories), "max_length": max_length,
                   "split": "leave one out" + (f", {len(new)} items in nobody's training" if new else ""),
                   "order": f"{self.time_column}, then as in the file" if self.format == "table" else "as in the file"}
        if self.items is not None:
            prices, lacking = catalogue.prices(read.locate(self.items, self.root, "data.items"), events.items)
            facts, report = facts | {"prices": prices}, report | {"items without price": lacking}
        where = self.vectors and read.locate(self.vectors, self.root, "data.vectors")
        return Corpus(examples, {name: [] for name in SPLITS}, facts, events.digest, report, Catalogue(events.items, events.users),
                      where and vectors_of.load(where, events.items))

    def without_new(self, histories: list[Int[np.ndarray, "n"]], items: int
                    ) -> tuple[list[Int[np.ndarray, "n"]], set[int], tuple[int, ...]]:
        """(histories without the new items but for a last one that is to be tested, the users who have such a one, new items)."""
        new = np.zeros(items + 1, bool)
        new[1 + np.random.default_rng((self.split_seed, 2)).permutation(items)[: round(self.new_items * items)]] = True
        kept = [history[~new[history] | (np.arange(len(history)) == len(history) - 1)] for history in histories]
        asked = {user for user, history in enumerate(kept) if len(history) >= LEAST and new[history[-1]]}
        kept = [history if user in asked or not new[history[-1]] else history[:-1] for user, history in enumerate(kept)]
        return kept, asked, tuple(np.flatnonzero(new).tolist())

    def members(self, lengths: list[int]) -> tuple[dict[str, list[int]], dict[str, Any]]:
        """(users of each split, how many they are)."""
        whole = [user for user, n in enumerate(lengths) if n >= LEAST]
        pool = [user for user, n in enumerate(lengths) if n >= (LEAST + 1 if n >= LEAST else 2)]
        found = {"train": split.share(pool, [""] * len(lengths), self.train_fraction, self.limit, self.split_seed),
                 "valid": split.share(whole, [""] * len(lengths), 1.0,
                                      min(self.limit or len(whole), self.valid_users or len(whole)), self.split_seed),
                 "test": split.share(whole, [""] * len(lengths), 1.0, self.limit, self.split_seed)}
        return found, {f"users to {name}": len(users) for name, users in found.items()}

    def part(self, history: Int[np.ndarray, "n"], name: str) -> Int[np.ndarray, "m"]:
        """The items that a split knows of: all for testing, all but the last for validation, all but two for training."""
        return history[: len(history) - {"train": 2, "valid": 1, "test": 0}[name]] if len(history) >= LEAST else history

    def example(self, history: Int[np.ndarray, "n"], user: int, name: str, max_length: int) -> Example:
        """A user's example: in training every item but the first is a label, else the last one, ranked after the others."""
        known = self.part(history, name)
        tokens, label = known[:-1][-max_length:], known[1:][-max_length:]
        seen = np.unique(known if name == "train" else known[:-1])
        first = max_length - len(tokens) if self.align == "right" else 0
        return Example(tokens, np.zeros(len(tokens), "i4"), label if name == "train" else int(label[-1]), user, None, seen, first)
