"""S3-Rec's pretraining: items, attributes and parts of a history told from each other."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ecrec_jax.negatives import drawn
from ecrec_jax.types import Batch, Columns, Example, InputError

ENDS = 3   # slots of an example that aren't an item's: ends of the history without a segment, of the segment, of another


@dataclasses.dataclass(frozen=True)
class S3Rec:
    """The four objectives of S3-Rec (Zhou et al. 2020, §4.2, as its code computes them), by a model that sees both sides.

    Of a history of n items each but the last is hidden by [MASK] with chance `rate`, the last one always. With logits z of the
    attributes and their binary cross-entropy BCE, summed: an item that is seen costs `associated` · BCE(z), a hidden one
    `masked` · BCE(z) − `item` · log σ(σ(s⁺) − σ(s⁻)), with scores of the item and of one that is none of the history's. A stretch
    of 1 … n / 2 items is hidden too, in a copy; it alone is seen in a second copy, and one as long of anybody's history in a third:
    −`segment` · log σ(σ(s⁺) − σ(s⁻)), with scores of the first copy's end with those of the others. All four are segments of a row.
    """

    rate: float
    associated: float
    item: float
    masked: float
    segment: float
    items: int
    mask_id: int
    positions: int
    attributes: tuple[tuple[int, ...], ...]
    history_items: tuple[int, ...]
    new_ids: tuple[int, ...]
    couples_rows = False
    target = "s3rec"
    slot_tokens = 2   # tokens that a slot's attributes cost as much as (Beauty's, 64 numbers, 2 layers, 2 CPU cores)

    def __post_init__(self):
        if not 0 < self.rate < 1:
            raise InputError(f"task.rate {self.rate} must lie between 0 and 1")
        for name in ("associated", "item", "masked", "segment"):
            if getattr(self, name) < 0:
                raise InputError(f"task.{name} {getattr(self, name)} must be at least 0")

    @functools.cached_property
    def listed(self) -> Int[np.ndarray, "V M"]:
        """Every item's attributes, filled up with -1."""
        most = max(1, *map(len, self.attributes))
        return np.array([found + (-1,) * (most - len(found)) for found in self.attributes], "i4")

    @functools.cached_property
    def stream(self) -> Int[np.ndarray, "E"]:
        """Items of all histories, one after the other."""
        return np.array(self.history_items, "i4")

    @functools.cached_property
    def new(self) -> Int[np.ndarray, "N"]:
        """The items that nothing is trained on."""
        return np.array(self.new_ids, "i4")

    def whole(self, example: Example) -> Int[np.ndarray, "n"]:
        """The history with its last item; the newest ones fit."""
        return np.append(example.tokens, np.atleast_1d(example.label)[-1]).astype("i4")[-self.positions :]

    def size(self, example: Example) -> tuple[int, int]:
        """Four copies; a slot for each item, and the ends of three copies."""
        n = min(len(example.tokens) + 1, self.positions)
        return 4 * n, n + ENDS

    def prepare(self, example: Example, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Draw what is hidden, other items and another stretch; labels are items, 0 where the history ends that lacks a stretch,
        and -1 where the stretches end."""
        items = self.whole(example)
        n = len(items)
        hidden = rng.random(n) < self.rate
        hidden[-1] = True
        length = int(rng.integers(1, max(n // 2, 1) + 1))
        first = int(rng.integers(0, n - length + 1))
        other = int(rng.integers(0, max(len(self.stream) - length, 0) + 1))
        copies = np.full((4, n), self.mask_id, "i4")
        copies[0, ~hidden] = items[~hidden]
        copies[1] = items
        copies[1, first : first + length] = self.mask_id
        copies[2, first : first + length] = items[first : first + length]
        copies[3, first : first + length] = self.stream.take(np.arange(other, other + length), mode="wrap")
        slot, label, negative = np.arange(n + ENDS, dtype="i4"), np.zeros(n + ENDS, "i4"), np.zeros((n + ENDS, 1), "i4")
        slot[n:], label[:n], label[n + 1 :] = (2 * n - 1, 3 * n - 1, 4 * n - 1), items, -1
        negative[:n, 0] = drawn((n,), self.items, np.union1d(items, self.new), rng)
        return {"tokens": copies.reshape(-1), "type": np.zeros(4 * n, "i4"), "first": max(0, example.first - 1),
                "segment": np.repeat(np.arange(1, 5, dtype="i4"), n), "slot": slot, "label": label,
                "weight": np.ones(n + ENDS, "f4"), "negative": negative}

    def parts(self, outputs: Float[Array, "B S A+4"], batch: Batch) -> dict[str, Float[Array, "B S"]]:
        """The four losses of every slot without their weights, 0 where a slot has none."""
        logits, items, ends = outputs[..., :-4], outputs[..., -4:-2], outputs[..., -2:]
        own = jnp.asarray(self.listed)[jnp.maximum(batch["label"], 0)]
        chosen = jnp.where(own < 0, 0, jnp.take_along_axis(logits, jnp.maximum(own, 0), -1)).sum(-1)
        attributes = jax.nn.softplus(logits).sum(-1) - chosen
        told = lambda pair: -jax.nn.log_sigmoid(jax.nn.sigmoid(pair[..., 0]) - jax.nn.sigmoid(pair[..., 1]))  # noqa: E731
        masked = jnp.take_along_axis(batch["tokens"], batch["slot"], 1) == self.mask_id
        item = batch["label"] > 0
        return {"associated": jnp.where(item & ~masked, attributes, 0), "item": jnp.where(item & masked, told(items), 0),
                "masked": jnp.where(item & masked, attributes, 0), "segment": jnp.where(batch["label"] == 0, told(ends), 0)}

    def loss(self, outputs: Float[Array, "B S A+4"], batch: Batch, gather: Callable[[Any], Any]) -> Float[Array, "B S"]:
        """The weighted sum of the four."""
        found = self.parts(outputs, batch)
        return (self.associated * found["associated"] + self.item * found["item"] + self.masked * found["masked"]
                + self.segment * found["segment"])

    def columns(self, outputs: Float[Array, "B S A+4"], batch: Batch) -> dict[str, Array]:
        """The four losses of every slot."""
        return self.parts(outputs, batch)

    def metrics(self, columns: Columns) -> dict[str, Any]:
        """Mean of each loss over the slots that have it."""
        return {f"{name}_loss": float(columns[name][columns[name] > 0].mean()) if (columns[name] > 0).any() else 0.0
                for name in ("associated", "item", "masked", "segment")}
