"""Predict the items of a user's history that were hidden."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from jaxtyping import Array, Float

from ecrec_jax import losses, ranking
from ecrec_jax.factored import Factored
from ecrec_jax.types import Batch, Columns, Example, InputError


@dataclasses.dataclass(frozen=True)
class MaskedItem:
    """The Cloze task of BERT4Rec (Sun et al. 2019, §3.6): of a history of n items max(1, round(rate · n)) are hidden by [MASK] and
    predicted from both sides; in evaluation a [MASK] follows the history. As in its code the last item alone is hidden in a share
    `last` of the examples, since that is what evaluation asks.

    `hidden`: a "share" of each history, as its code has it, or "each" item by itself with a chance of `rate`, maybe none, as in
    Klenitskiy & Vasilev 2023 (arXiv:2309.07602); never more than three standard deviations above rate · n.
    """

    rate: float
    last: float
    filter_seen: bool
    cutoffs: list[int]
    most: int
    item_counts: tuple[int, ...]
    special_ids: tuple[int, ...]
    new_ids: tuple[int, ...]
    mask_id: int
    positions: int
    hidden: Literal["share", "each"] = "share"
    prices: tuple[float, ...] | None = None
    vectors: Any = None
    categories: tuple[int, ...] | None = None
    couples_rows = False
    target = "masked_item"

    def __post_init__(self):
        ranking.check(self.cutoffs, len(self.item_counts) - 2, self.most)
        for name, share, least in (("rate", self.rate, 1e-9), ("last", self.last, 0)):
            if not least <= share < 1:
                raise InputError(f"task.{name} {share} must lie between 0 and 1")
        if self.hidden == "each" and self.last:
            raise InputError(f"task.last {self.last} hides one item of a history, task.hidden=each maybe none: set one of them")

    def whole(self, example: Example) -> np.ndarray:
        """The history as it is read: in training with its last label, else with [MASK] at the end; the newest items fit."""
        end = self.mask_id if np.ndim(example.label) == 0 else example.label[-1]
        return np.append(example.tokens, np.int32(end))[-self.positions :]

    def size(self, example: Example) -> tuple[int, int]:
        """All items, a slot for every one that may be hidden."""
        n = min(len(example.tokens) + 1, self.positions)
        if np.ndim(example.label) == 0:
            return n, 1
        mean = self.rate * n
        return n, max(1, round(mean)) if self.hidden == "share" else min(n, math.ceil(mean + 3 * (mean * (1 - self.rate)) ** 0.5))

    def drawn(self, example: Example, rng: np.random.Generator) -> int:
        """How many slots `prepare` will fill, by the same generator."""
        n, slots = self.size(example)
        return slots if self.hidden == "share" or np.ndim(example.label) == 0 else min(slots, int(rng.binomial(n, self.rate)))

    def prepare(self, example: Example, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Draw the hidden items; the weight of slots that are left over is 0."""
        tokens, slots = self.whole(example), self.drawn(example, rng)
        n = len(tokens)
        found = {"type": np.zeros(n, "i4"), "weight": np.ones(slots, "f4"), "first": max(0, example.first - 1)}
        if np.ndim(example.label) == 0:
            found |= ranking.asked(example, self.filter_seen)
            return found | {"tokens": tokens, "slot": np.array([n - 1], "i4"), "label": np.array([example.label], "i4")}
        slot = np.sort(rng.permutation(n)[:slots]).astype("i4")
        if rng.random() < self.last:
            slot[:], found["weight"][1:] = n - 1, 0
        label = tokens[slot]
        tokens[slot] = self.mask_id
        return found | {"tokens": tokens, "slot": slot, "label": label}

    def loss(self, outputs: Factored, batch: Batch, gather: Callable[[Any], Any]) -> Float[Array, "B S"]:
        """Cross-entropy over the items that are trained on."""
        return losses.item_cross_entropy(outputs, batch["label"], self.special_ids, self.new_ids)

    def columns(self, outputs: Factored, batch: Batch) -> dict[str, Array]:
        """Rank and list of every slot, items that were read besides [MASK]."""
        return ranking.ranks(outputs, batch, self.special_ids, self.most) | {"length": ranking.lengths(batch) - 1}

    def metrics(self, columns: Columns) -> dict[str, Any]:
        """Recall, NDCG and the like at the cut-offs, over all items; revenue where prices are known; diversity where
        items have vectors (`data.vectors`) or categories."""
        return ranking.measured(columns, self.cutoffs, self.item_counts, self.prices, self.vectors, self.categories)
