"""Predict the next item of a user's history."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ecrec_jax import losses, ranking
from ecrec_jax.factored import LEAST, Factored
from ecrec_jax.lookup import lookup
from ecrec_jax.negatives import distinct, drawn, popular, shares
from ecrec_jax.types import Batch, Columns, Example, InputError

SAMPLED = 100   # items that a label is ranked among, if sampled
LOSSES = {"sampled_ce": losses.sampled_cross_entropy, "bce": losses.pointwise, "gbce": losses.pointwise, "bpr": losses.pairwise}


def calibrated(t: float, negatives: int, items: int) -> float:
    """β = α ((1 − 1/α) t + 1/α) with the sampling rate α = k / (|I| − 1), which t from 0 (as it comes) to 1 (as full softmax)
    calibrates scores by. Source: Petrov & Macdonald 2023 (gSASRec), eq. 12."""
    rate = negatives / (items - 1)
    return rate * ((1 - 1 / rate) * t + 1 / rate)


@dataclasses.dataclass(frozen=True)
class NextItem:
    """Next-item prediction by a model that sees earlier items only: in training every item but the first is the label of the one
    before it, evaluation ranks one item after the whole history.

    `objective`: ce, over all items; sampled_ce, bce, gbce or bpr, over `negatives` items a slot: each alike (`sampling`=uniform),
    by training events (popularity), or all other labels of the batch (batch, for sampled_ce alone); `unseen`: but for those of
    the user's training history, in the batch but for the label itself. `logq`: log shares of what draws them, events or labels, are
    taken off the logits (Yi et al. 2019, eq. 3). `t` calibrates gbce, see `calibrated`. `filter_seen`: what the user had is not
    ranked, but for the label itself. Ties rank against the label. `sampled`: the label is ranked among `SAMPLED` others too, drawn
    alike or by popularity, none of the user's, under names that say so.

    `shared`: the negatives of all slots of a history are the same, drawn alike without replacement from the items outside it. Its
    slots come in groups, an eighth of `positions` each, the last one filled up with slots of no weight: a group's logits are one
    product.
    """

    objective: Literal["ce", "sampled_ce", "bce", "gbce", "bpr"]
    negatives: int
    sampling: Literal["uniform", "popularity", "batch"]
    unseen: bool
    logq: bool
    t: float
    filter_seen: bool
    sampled: Literal["none", "uniform", "popularity"]
    cutoffs: list[int]
    most: int
    items: int
    item_counts: tuple[int, ...]
    special_ids: tuple[int, ...]
    new_ids: tuple[int, ...]
    shared: bool = False
    positions: int | None = None
    label_counts: tuple[int, ...] | None = None
    prices: tuple[float, ...] | None = None
    vectors: Any = None
    categories: tuple[int, ...] | None = None
    couples_rows = {"sampling": "batch"}
    over_all = {"objective": "ce"}   # else the loss is over the items that a batch names
    target = "next_item"

    def __post_init__(self):
        ranking.check(self.cutoffs, self.items, self.most)
        if self.negatives < 1:
            raise InputError(f"task.negatives {self.negatives} must be at least 1")
        if self.sampling == "batch" and self.objective != "sampled_ce":
            raise InputError("task.sampling=batch is for task.objective=sampled_ce")
        if self.shared and (self.objective == "ce" or self.sampling != "uniform" or not self.unseen):
            raise InputError("task.shared draws each history's negatives alike from the items outside it: it goes with "
                             "task.objective=sampled_ce, bce, gbce or bpr, task.sampling=uniform and task.unseen=true")
        if not 0 <= self.t <= 1:
            raise InputError(f"task.t {self.t} must lie between 0 and 1")

    @functools.cached_property
    def share(self) -> Float[np.ndarray, "V"]:
        """Of the training events that are asked for, of which popularity draws."""
        return shares(self.item_counts, self.special_ids + self.new_ids)

    @functools.cached_property
    def rising(self) -> Float[np.ndarray, "I"]:
        """The sum of the items' shares so far."""
        return np.cumsum(self.share[1 : self.items + 1])

    @functools.cached_property
    def new(self) -> Int[np.ndarray, "N"]:
        """The items that nothing is trained on."""
        return np.array(self.new_ids, "i4")

    @property
    def group(self) -> int:
        """Slots whose negatives are the same, in training."""
        return -(-self.positions // 8) if self.shared and self.positions else 1

    def size(self, example: Example) -> tuple[int, int]:
        """All items, a slot for each that is trained on, whole groups of them; one to be ranked."""
        read = np.size(example.label) if example.read is None else int(example.read.sum())
        return len(example.tokens), -(-read // self.group) * self.group if np.ndim(example.label) else 1

    def prepare(self, example: Example, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Labels, and negatives or what was seen; slots that fill up a group weigh nothing."""
        n, label = len(example.tokens), np.atleast_1d(np.asarray(example.label, "i4"))
        slot = np.arange(n - len(label), n, dtype="i4")
        slot, label = (slot, label) if example.read is None else (slot[example.read], label[example.read])
        found = {"tokens": example.tokens, "type": example.type, "slot": slot, "label": label,
                 "weight": np.ones(len(label), "f4"), "first": example.first}
        if self.shared:
            found |= self.grouped(found, self.had(example), self.size(example)[1], np.ndim(example.label) > 0, rng)
        elif self.objective != "ce" and self.sampling != "batch":
            had = self.had(example) if self.unseen else np.empty(0, "i4")
            had = np.union1d(had, self.new) if len(self.new) else had
            found["negative"] = self.draw((len(label), self.negatives), self.sampling, had, rng)
        if np.ndim(example.label):
            return found
        if self.sampled != "none":
            found["candidate"] = self.candidates(example)
        return found | ranking.asked(example, self.filter_seen)

    def had(self, example: Example) -> Int[np.ndarray, "m"]:
        """A user's items, rising: those that are trained on, or all of a user who is asked for some."""
        if np.ndim(example.label):
            return example.seen
        return np.union1d(example.seen, example.label if example.relevant is None else example.relevant).astype("i4")

    def grouped(self, found: dict[str, np.ndarray], had: Int[np.ndarray, "m"], slots: int, train: bool,
                rng: np.random.Generator) -> dict[str, np.ndarray]:
        """What is read, filled up to so many `slots`, and i32[groups, N] negatives, once for each group: none of what is read or
        asked for, nor else of what the user `had`, if there are enough others. Histories that are asked for an item are longer
        than any that is trained on: if there are too few others for one, some are drawn again.

        Raises:
            InputError: there are fewer items outside of a history to train on.
        """
        read = functools.reduce(np.union1d, (found["tokens"], found["label"], self.new)).astype("i4")
        left, had = self.items - len(read), np.union1d(read, had).astype("i4")
        if left < self.negatives and train:
            raise InputError(f"task.negatives is {self.negatives}, but only {left} items lie outside one of the "
                             "histories, and task.shared draws without replacement")
        without = had if self.items - len(had) >= self.negatives else read
        negative = distinct(self.negatives, self.items, without, rng) if left >= self.negatives else \
            drawn((self.negatives,), self.items, without, rng)
        groups = max(1, slots // self.group)
        filled = {key: np.pad(found[key], (0, slots - len(found[key]))) for key in ("slot", "label", "weight")}
        return filled | {"negative": np.tile(negative, (groups, 1))}

    def candidates(self, example: Example) -> Int[np.ndarray, "1 C"]:
        """What the label is ranked among: the same for every model."""
        rng = np.random.default_rng((SAMPLED, example.index, example.label))
        return self.draw((1, SAMPLED), self.sampled, self.had(example), rng)

    def draw(self, shape: tuple[int, ...], how: str, without: Int[np.ndarray, "m"], rng: np.random.Generator
             ) -> Int[np.ndarray, "..."]:
        """Items `without` some, each alike (uniform) or by popularity."""
        return drawn(shape, self.items, without, rng) if how == "uniform" else \
            popular(shape, self.rising, without, rng)

    def loss(self, outputs: Factored, batch: Batch, gather: Callable[[Any], Any]) -> Float[Array, "B S"]:
        """The loss that was chosen, over the items that are trained on; cross-entropy of a new one is 0."""
        if self.objective == "ce":
            return losses.item_cross_entropy(outputs, batch["label"], self.special_ids, self.new_ids)
        if self.logq and self.sampling != "uniform":
            share = self.share
            if self.sampling == "batch" and self.label_counts:
                share = shares(self.label_counts, self.special_ids + self.new_ids)
            outputs = outputs._replace(bias=outputs.bias.astype(jnp.float32) - np.log(np.maximum(share, 1e-12)))
        positive = outputs.at(batch["label"][..., None])[..., 0]
        negative = self.others(outputs, batch, gather) if self.sampling == "batch" else outputs.at(batch["negative"])
        beta = {"beta": calibrated(self.t, self.negatives, self.items - len(self.new_ids))} if self.objective == "gbce" else {}
        return LOSSES[self.objective](positive, negative, **beta)

    def others(self, outputs: Factored, batch: Batch, gather: Callable[[Any], Any]) -> Float[Array, "B S N"]:
        """Logits of all labels of the global batch, N = its slots; `LEAST` for a slot's own label and for what isn't trained on."""
        mine = batch["label"].reshape(-1)
        label, weight, vectors, bias = gather((mine, batch["weight"].reshape(-1), lookup(outputs.table, mine),
                                               lookup(outputs.bias[:, None], mine)[:, 0]))
        logits = Factored(outputs.query, vectors, bias).logits()
        return jnp.where((label != batch["label"][..., None]) & (weight > 0), logits, LEAST)

    def columns(self, outputs: Factored, batch: Batch) -> dict[str, Array]:
        """Rank and list of every slot, items that were read; the rank among the candidates where there are some."""
        found = ranking.ranks(outputs, batch, self.special_ids, self.most) | {"length": ranking.lengths(batch)}
        if "candidate" not in batch:
            return found
        below = outputs.at(batch["candidate"]) < outputs.at(batch["label"][..., None])
        return found | {"sampled_rank": 1 + (~below).sum(-1)}

    def metrics(self, columns: Columns) -> dict[str, Any]:
        """Recall, NDCG and the like at the cut-offs, over all items; revenue where prices are known;
        diversity where items have vectors (`data.vectors`) or categories; and among candidates."""
        found = ranking.measured(columns, self.cutoffs, self.item_counts, self.prices, self.vectors, self.categories)
        among = ranking.accuracy(columns["sampled_rank"], self.cutoffs) if "sampled_rank" in columns else {}
        return found | {f"{name}_of_{SAMPLED}_{self.sampled}": value for name, value in among.items()}
