"""Histories of users as sequences of items, from text files of recommender papers or a table of events."""

import dataclasses
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int

from ecrec_jax.data import catalogue, file, holdout, read, split
from ecrec_jax.data import vectors as vectors_of
from ecrec_jax.data.behaviour import times
from ecrec_jax.data.corpus import Catalogue, Corpus
from ecrec_jax.data.interactions import Events, numbered, of_text, targets
from ecrec_jax.data.split import SPLITS
from ecrec_jax.types import Example, InputError


@dataclasses.dataclass(frozen=True)
class Sequences:
    """Histories for next-item prediction. `split`: leave_one_out (of each user's items the last one is for testing, the one before
    it for validation), last_n (the `last` ones and as many before them, all relevant at once), time (two moments, before which
    shares `split_at` of all events lie) or users (shares of them), see `data.holdout`; the last two ask for `last` items too, time
    with null for all later ones. To test, the validation items belong to the history.

    `format`: pairs, lists (see the functions), or table: one event a row, a user's events in the order of `time_column`, equal
    times in the order of the file. `align`: whether positions are counted from a history's first item, or so that its last item
    has the last position (padding on the left). `items`: a table with the columns item and price, for revenue, or category, for
    diversity. `vectors`: a file of `experiments.encode` for models that read items' texts, and for diversity.
    `new_items`: a share of the items, drawn by `split_seed`, of which nothing is trained on or validated with; who bought one of
    them last is tested, which asks what a model can say of items it has never seen.

    `type_column`, of a table: what kind of event it was (view, cart, purchase …), which models are told with every item.
    `texts`: a table with a column item and the `text_columns`, for models that train an encoder of them; `text_length` tokens each.
    `attributes`: a JSON file {item: [attribute, …]}. `prefixes`: each beginning of a training history is one too.
    `target_types`: such events alone are labels in training and asked for, and their items alone are what a user had.
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
    split: Literal["leave_one_out", "last_n", "time", "users"]
    last: int | None
    split_at: list[float]
    train_fraction: float
    valid_users: int | None
    split_seed: int
    max_length: int
    row_length: int | None
    batch_size: int
    limit: int | None
    type_column: str | None = None
    target_types: list[str] | None = None
    attributes: str | None = None
    attributes_sha256: str | None = None
    prefixes: bool = False
    texts: str | None = None
    text_columns: list[str] = dataclasses.field(default_factory=lambda: ["text"])
    text_length: int = 32

    def __post_init__(self):
        if self.path is None:
            raise InputError("data.path is not set: give the file, data.path=my.csv")
        if not 0 < self.train_fraction <= 1:
            raise InputError(f"data.train_fraction {self.train_fraction} must be above 0 and at most 1")
        if len(self.split_at) != 2 or not 0 < self.split_at[0] < self.split_at[1] < 1:
            raise InputError(f"data.split_at {self.split_at} must be two shares that rise, between 0 and 1")
        if self.split == "time" and self.format != "table":
            raise InputError(f"data.split is time, and a file of format {self.format} has no times: choose another split")
        if self.new_items and self.split != "leave_one_out":
            raise InputError("data.new_items needs data.split=leave_one_out")
        if self.last is None and self.split != "time":
            raise InputError("data.last is null, all later items, which needs data.split=time")
        if self.last != 1 and self.split == "leave_one_out":
            raise InputError(f"data.last is {self.last}, and data.split=leave_one_out asks for one item: choose data.split=last_n")
        if self.type_column is not None and (self.format != "table" or self.new_items):
            raise InputError("data.type_column is a column of a table: it needs data.format=table, and data.new_items=0")
        if self.target_types is not None and self.type_column is None:
            raise InputError("data.target_types needs data.type_column, which says what they are")
        if not 0 <= self.new_items < 1:
            raise InputError(f"data.new_items {self.new_items} must be 0 or more, below 1")
        for name, least in {"max_length": 2, "text_length": 3, "split_seed": 0, "batch_size": 1, "limit": 1, "valid_users": 1,
                            "last": 1}.items():
            if (value := getattr(self, name)) is not None and value < least:
                raise InputError(f"data.{name} {value} is too small")

    def events(self) -> Events:
        """The file's events in each user's order.

        Raises:
            InputError: it isn't there, is another file, or has a row that can't be used.
        """
        path = file.located(self.path, self.root, self.source, self.sha256)[""]
        if self.format == "table":
            table = read.read(path, None, "utf-8", self.sha256)
            user, item = (read.column(table, name, f"data.{key}") for name, key in
                          ((self.user_column, "user_column"), (self.item_column, "item_column")))
            kind = read.column(table, self.type_column, "data.type_column") if self.type_column is not None else None
            digest, time = table.digest, times(table, self.time_column, self.time_format, np.arange(len(user)))
        else:
            user, item, digest = of_text(path, self.format, self.sha256)
            kind, time = None, np.zeros(len(user))
        if not user:
            raise InputError(f"{path}: no rows")
        return numbered(user, item, time, kind, digest, lambda i: table.where(i) if self.format == "table" else str(path))

    def load(self, tokenizer: str, max_length: int) -> Corpus:
        """Read and split; histories keep their last `max_length` items. There is no tokenizer.

        Raises:
            InputError: as `events`; nobody to train on.
        """
        events = self.events()
        bounds = np.concatenate([[0], np.flatnonzero(np.diff(events.user)) + 1, [len(events.user)]]).tolist()
        tokens = (events.item + 1).astype("i4")
        histories = [tokens[first:end] for first, end in zip(bounds[:-1], bounds[1:], strict=True)]
        types, target = (np.split(x, bounds[1:-1]) for x in (events.type.astype("i4"), targets(events, self.target_types)))
        histories, asked, new = holdout.without_new(histories, len(events.items), self.new_items, self.split_seed)
        if self.new_items:   # then nothing has a type
            types, target = ([np.full(len(history), x) for history in histories] for x in (np.int32(0), True))
        parts = holdout.chosen(self.split, np.split(events.time, bounds[1:-1]), self.split_at, self.last, self.split_seed, target)
        members, report = self.members(parts)
        if self.new_items:
            members["test"] = [user for user in members["test"] if user in asked]
            report |= {"users to test": len(members["test"]), "new items": self.new_items}
        count = lambda items: np.bincount(np.concatenate([np.empty(0, "i4"), *items]), minlength=len(events.items) + 2)  # noqa: E731
        trained = [histories[user][: parts["train"].end[user]] for user in members["train"]]
        bought = [some[target[user][: len(some)]] for user, some in zip(members["train"], trained, strict=True)]
        counts = count(trained)
        if not counts.any():
            raise InputError(f"{self.path}: no user has {2 * self.last + 2} events, of which two are trained on"
                             if self.split in ("leave_one_out", "last_n") else
                             f"{self.path}: data.split leaves nobody two events to train on")
        cut = lambda user, end: (histories[user][:end], types[user][:end], target[user][:end])  # noqa: E731
        upto = lambda name, end: range(2 if self.prefixes and name == "train" else end, end + 1)  # noqa: E731
        examples = {name: [self.example(*cut(user, end), part.asked[user], user, name, max_length) for user in members[name]
                           for end in upto(name, part.end[user])] for name, part in parts.items()}
        seen = {example.index: example.seen for example in examples["train"]}   # of a user's beginnings the last, all of it
        examples["train"] = [example._replace(seen=seen[example.index]) for example in examples["train"]
                             if example.read is None or example.read.any()]
        labels = [example.label if example.read is None else example.label[example.read] for example in examples["train"]]
        facts = {"vocabulary": len(counts), "items": len(events.items), "item_counts": tuple(count(bought).tolist()),
                 "label_counts": tuple(count(labels).tolist()), "pad_id": 0, "mask_id": len(counts) - 1,
                 "special_ids": (0, len(counts) - 1), "new_ids": new}
        facts |= {"types": len(events.types), "events": tuple(events.types)} if events.types else {}
        report |= {"longest history": max(map(len, histories)), "users": len(events.users), "items": len(events.items),
                   "events": len(tokens), "items never trained on": int((counts[1:-1] == 0).sum()),
                   "histories cut": sum(len(h) - 1 > max_length for h in histories), "max_length": max_length,
                   "split": holdout.told(self.split, self.split_at, self.last, self.target_types, len(new)),
                   "order": f"{self.time_column}, then as in the file" if self.format == "table" else "as in the file"}
        files = {"items": self.items, "vectors": self.vectors, "texts": self.texts}
        given = {name: path and read.locate(path, self.root, f"data.{name}") for name, path in files.items()}
        if self.attributes:
            path = file.here(self.attributes, self.root, "data.attributes", self.source, self.attributes_sha256)
            facts |= catalogue.attributes(path, self.attributes_sha256, events.items, np.concatenate(trained))
        if given["items"]:
            known, lacking = catalogue.known(given["items"], events.items)
            facts, report = facts | known, report | lacking
        return Corpus(examples, {name: [] for name in SPLITS}, facts, self.digest(events), report,
                      Catalogue(events.items, events.users), given["vectors"] and vectors_of.load(given["vectors"], events.items),
                      given["texts"] and (catalogue.texts_of(given["texts"], self.text_columns, events.items), self.text_length),
                      trained=seen, log=events.digest)

    def digest(self, events: Events) -> str:
        """Of the events and of what is told of items in words."""
        files = (("attributes", self.attributes), ("texts", self.texts))
        return catalogue.digest(events.digest, *(read.locate(path, self.root, f"data.{key}") for key, path in files if path))

    def members(self, parts: holdout.Parts) -> tuple[dict[str, list[int]], dict[str, Any]]:
        """(users of each split, who are asked for something after something, how many they are)."""
        pool = {name: np.flatnonzero((asked > 0) & (end > asked)).tolist() for name, (end, asked) in parts.items()}
        limit = {"valid": min(self.limit or len(pool["valid"]), self.valid_users or len(pool["valid"]))}
        found = {name: split.share(users, [""] * len(parts["train"].end), self.train_fraction if name == "train" else 1.0,
                                   limit.get(name, self.limit), self.split_seed) for name, users in pool.items()}
        return found, {f"users to {name}": len(users) for name, users in found.items()}

    def example(self, known: Int[np.ndarray, "n"], types: Int[np.ndarray, "n"], target: Bool[np.ndarray, "n"], asked: int,
                user: int, name: str, max_length: int) -> Example:
        """A user's example of what a split knows: in training every item but the first is a label, else the `asked` last ones are
        ranked after the others, and the first of them is the label."""
        end = len(known) - (1 if (train := name == "train") else asked)
        tokens, rest, had = known[:end][-max_length:], known[end:][target[end:]], slice(None if train else end)
        read = target[1:][-max_length:] if train and self.target_types else None
        first = max_length - len(tokens) if self.align == "right" else 0
        relevant = None if train or self.last == 1 else np.array(list(dict.fromkeys(rest.tolist())), "i4")
        return Example(tokens, types[:end][-max_length:], known[1:][-max_length:] if train else int(rest[0]), user, None,
                       np.unique(known[had][target[had]]), first, relevant, read)
