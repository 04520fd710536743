"""Predict the next item of a user's history."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ecrec_jax import losses, ranking
from ecrec_jax.factored import LEAST, Factored
from ecrec_jax.types import Batch, Columns, Example, InputError

SAMPLED = {"sampled_ce": losses.sampled_cross_entropy, "bce": losses.pointwise, "gbce": losses.pointwise, "bpr": losses.pairwise}


def calibrated(t: float, negatives: int, items: int) -> float:
    """β = α ((1 − 1/α) t + 1/α) with the sampling rate α = k / (|I| − 1), which t from 0 (as it comes) to 1 (as full softmax)
    calibrates scores by. Source: Petrov & Macdonald 2023 (gSASRec), eq. 12."""
    rate = negatives / (items - 1)
    return rate * ((1 - 1 / rate) * t + 1 / rate)


def drawn(count: tuple[int, ...], items: int, seen: Int[np.ndarray, "m"], rng: np.random.Generator) -> Int[np.ndarray, "..."]:
    """Items 1 … `items`, each alike, but for the `seen` ones (rising), unless these are all."""
    if len(seen) >= items:
        return rng.integers(1, items + 1, count, dtype=np.int32)
    place = rng.integers(1, items - len(seen) + 1, count, dtype=np.int32)   # among those that are left
    return place + np.searchsorted(seen - np.arange(len(seen)), place, "right").astype(np.int32)


@dataclasses.dataclass(frozen=True)
class NextItem:
    """Next-item prediction by a model that sees earlier items only: in training every item but the first is the label of the one
    before it, evaluation ranks one item after the whole history.

    `objective`: ce, over all items; sampled_ce, bce, gbce or bpr, over `negatives` items a slot, each item alike; `unseen`: but for
    those of the user's training history. `t` calibrates gbce, see `calibrated`. `filter_seen`: what the user had is not ranked, but
    for the label itself. Ties rank against the label.
    """

    objective: Literal["ce", "sampled_ce", "bce", "gbce", "bpr"]
    negatives: int
    unseen: bool
    t: float
    filter_seen: bool
    cutoffs: list[int]
    most: int
    items: int
    item_counts: tuple[int, ...]
    special_ids: tuple[int, ...]
    couples_rows = False
    target = "next_item"

    def __post_init__(self):
        ranking.check(self.cutoffs, self.items, self.most)
        if self.negatives < 1:
            raise InputError(f"task.negatives {self.negatives} must be at least 1")
        if not 0 <= self.t <= 1:
            raise InputError(f"task.t {self.t} must lie between 0 and 1")

    def size(self, example: Example) -> tuple[int, int]:
        """All items, a slot for each that is trained on; one to be ranked."""
        return len(example.tokens), np.size(example.label)

    def prepare(self, example: Example, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Labels, and negatives or what was seen."""
        n, label = len(example.tokens), np.atleast_1d(np.asarray(example.label, "i4"))
        found = {"tokens": example.tokens, "type": example.type, "slot": np.arange(n - len(label), n, dtype="i4"), "label": label,
                 "weight": np.ones(len(label), "f4"), "first": example.first}
        if self.objective != "ce":
            had = example.seen if np.ndim(example.label) else np.union1d(example.seen, label)
            found["negative"] = drawn((len(label), self.negatives), self.items, had if self.unseen else had[:0], rng)
        return found | ({"seen": example.seen} if self.filter_seen and np.ndim(example.label) == 0 else {})

    def loss(self, outputs: Factored, batch: Batch, gather: Callable[[Any], Any]) -> Float[Array, "B S"]:
        """The loss that was chosen, over the items."""
        if self.objective == "ce":
            bias = outputs.bias.at[jnp.array(self.special_ids)].set(10 * LEAST)
            return losses.factored_cross_entropy(outputs._replace(bias=bias), batch["label"])
        positive, negative = outputs.at(batch["label"][..., None])[..., 0], outputs.at(batch["negative"])
        beta = {"beta": calibrated(self.t, self.negatives, self.items)} if self.objective == "gbce" else {}
        return SAMPLED[self.objective](positive, negative, **beta)

    def columns(self, outputs: Factored, batch: Batch) -> dict[str, Array]:
        """Rank and list of every slot."""
        return ranking.ranks(outputs, batch, self.special_ids, self.most)

    def metrics(self, columns: Columns) -> dict[str, Any]:
        """Recall, NDCG and the like at the cut-offs, over all items."""
        return ranking.measured(columns, self.cutoffs, self.item_counts)
