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
from ecrec_jax.types import Batch, Columns, Example, InputError

SAMPLED = 100   # items that a label is ranked among, if sampled
LOSSES = {"sampled_ce": losses.sampled_cross_entropy, "bce": losses.pointwise, "gbce": losses.pointwise, "bpr": losses.pairwise}


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


def popular(count: tuple[int, ...], share: Float[np.ndarray, "I"], seen: Int[np.ndarray, "m"], rng: np.random.Generator
            ) -> Int[np.ndarray, "..."]:
    """Items 1 … I, each as likely as the rise of `share` (its sum so far, up to 1) at it; drawn anew while it is a `seen` one, a
    hundred times at most."""
    found = 1 + np.searchsorted(share, rng.random(count), "right").astype(np.int32)
    for _ in range(100 if len(seen) else 0):
        again = np.isin(found, seen)
        if not again.any():
            break
        found[again] = 1 + np.searchsorted(share, rng.random(int(again.sum())), "right")
    return found


@dataclasses.dataclass(frozen=True)
class NextItem:
    """Next-item prediction by a model that sees earlier items only: in training every item but the first is the label of the one
    before it, evaluation ranks one item after the whole history.

    `objective`: ce, over all items; sampled_ce, bce, gbce or bpr, over `negatives` items a slot: each alike (`sampling`=uniform),
    by training events (popularity), or all other labels of the batch (batch, for sampled_ce alone); `unseen`: but for those of
    the user's training history, in the batch but for the label itself. `logq`: log shares of the training events are taken off the
    logits, where these draw (Yi et al. 2019, eq. 3). `t` calibrates gbce, see `calibrated`. `filter_seen`: what the user had is not
    ranked, but for the label itself. Ties rank against the label. `sampled`: the label is ranked among `SAMPLED` others too, drawn
    alike or by popularity, none of the user's, under names that say so.
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
    prices: tuple[float, ...] | None = None
    vectors: Any = None
    categories: tuple[int, ...] | None = None
    couples_rows = {"sampling": "batch"}
    target = "next_item"

    def __post_init__(self):
        ranking.check(self.cutoffs, self.items, self.most)
        if self.negatives < 1:
            raise InputError(f"task.negatives {self.negatives} must be at least 1")
        if self.sampling == "batch" and self.objective != "sampled_ce":
            raise InputError("task.sampling=batch is for task.objective=sampled_ce")
        if not 0 <= self.t <= 1:
            raise InputError(f"task.t {self.t} must lie between 0 and 1")

    @functools.cached_property
    def share(self) -> Float[np.ndarray, "V"]:
        """Of the training events, one at least for every item; the special ids have none."""
        counts = np.maximum(np.array(self.item_counts, float), 1)
        counts[list(self.special_ids + self.new_ids)] = 0
        return counts / counts.sum()

    @functools.cached_property
    def rising(self) -> Float[np.ndarray, "I"]:
        """The sum of the items' shares so far."""
        return np.cumsum(self.share[1 : self.items + 1])

    @functools.cached_property
    def new(self) -> Int[np.ndarray, "N"]:
        """The items that nothing is trained on."""
        return np.array(self.new_ids, "i4")

    def size(self, example: Example) -> tuple[int, int]:
        """All items, a slot for each that is trained on; one to be ranked."""
        return len(example.tokens), np.size(example.label)

    def prepare(self, example: Example, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Labels, and negatives or what was seen."""
        n, label = len(example.tokens), np.atleast_1d(np.asarray(example.label, "i4"))
        found = {"tokens": example.tokens, "type": example.type, "slot": np.arange(n - len(label), n, dtype="i4"), "label": label,
                 "weight": np.ones(len(label), "f4"), "first": example.first}
        if self.objective != "ce" and self.sampling != "batch":
            had = example.seen if np.ndim(example.label) else self.had(example)
            had = had if self.unseen else had[:0]
            had = np.union1d(had, self.new) if len(self.new) else had
            found["negative"] = self.draw((len(label), self.negatives), self.sampling, had, rng)
        if np.ndim(example.label):
            return found
        if self.sampled != "none":
            found["candidate"] = self.candidates(example)
        return found | ranking.asked(example, self.filter_seen)

    def had(self, example: Example) -> Int[np.ndarray, "m"]:
        """All items of a user who is asked for some, rising."""
        return np.union1d(example.seen, example.label if example.relevant is None else example.relevant).astype("i4")

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
            outputs = outputs._replace(bias=outputs.bias.astype(jnp.float32) - np.log(np.maximum(self.share, 1e-12)))
        positive = outputs.at(batch["label"][..., None])[..., 0]
        negative = self.others(outputs, batch, gather) if self.sampling == "batch" else outputs.at(batch["negative"])
        beta = {"beta": calibrated(self.t, self.negatives, self.items)} if self.objective == "gbce" else {}
        return LOSSES[self.objective](positive, negative, **beta)

    def others(self, outputs: Factored, batch: Batch, gather: Callable[[Any], Any]) -> Float[Array, "B S N"]:
        """Logits of all labels of the global batch, N = its slots; `LEAST` for a slot's own label and for what isn't trained on."""
        label, weight = gather((batch["label"].reshape(-1), batch["weight"].reshape(-1)))
        logits = Factored(outputs.query, lookup(outputs.table, label), lookup(outputs.bias[:, None], label)[:, 0]).logits()
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
