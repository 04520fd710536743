"""Predict the tokens that were hidden."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ecrec_jax import losses, metrics
from ecrec_jax.factored import Factored
from ecrec_jax.types import Batch, Columns, Example, InputError


@dataclasses.dataclass(frozen=True)
class MaskedLM:
    """Masked language modelling (Devlin et al. 2019, §3.1).

    Of an example's n ordinary tokens exactly round(rate · n) are read; of those a share `masked` becomes [MASK],
    `random` a random ordinary token, the rest stays. The slots are these tokens, so the vocabulary product runs on them alone.
    """

    rate: float
    masked: float
    random: float
    vocabulary: int
    mask_id: int
    special_ids: tuple[int, ...]
    couples_rows = False
    target = "tokens"

    def __post_init__(self):
        if not 0 < self.rate < 1:
            raise InputError(f"task.rate {self.rate} must lie between 0 and 1")
        if self.masked < 0 or self.random < 0 or self.masked + self.random > 1:
            raise InputError(f"task.masked {self.masked} and task.random {self.random} must be shares that sum to at most 1")

    def ordinary(self, example: Example) -> np.ndarray:
        """Positions of the tokens that may be hidden."""
        return np.flatnonzero(np.isin(example.tokens, self.special_ids, invert=True))

    def size(self, example: Example) -> tuple[int, int]:
        """All tokens, a slot for every hidden one."""
        return len(example.tokens), round(self.rate * len(self.ordinary(example)))

    def prepare(self, example: Example, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Draw the hidden tokens and what stands in their place."""
        slot = np.sort(rng.permutation(self.ordinary(example))[: self.size(example)[1]]).astype("i4")
        label, tokens, draw = example.tokens[slot], example.tokens.copy(), rng.random(len(slot))
        other = rng.integers(0, self.vocabulary - len(self.special_ids), len(slot))
        for special in sorted(self.special_ids):   # ordinary ids only: step over each special one
            other += other >= special
        tokens[slot] = np.where(draw < self.masked, self.mask_id, np.where(draw < self.masked + self.random, other, label))
        return {"tokens": tokens, "type": example.type, "slot": slot, "label": label, "weight": np.ones(len(slot), "f4")}

    def loss(self, outputs: Factored, batch: Batch, gather: Callable[[Any], Any]) -> Float[Array, "B S"]:
        """Cross-entropy over the vocabulary."""
        return losses.factored_cross_entropy(outputs, batch["label"])

    def columns(self, outputs: Factored, batch: Batch) -> dict[str, Array]:
        """Whether the likeliest token is the hidden one."""
        return {"hit": (outputs.best() == batch["label"]).astype(jnp.float32)}

    def metrics(self, columns: Columns) -> dict[str, Any]:
        """Perplexity and accuracy on the hidden tokens."""
        return metrics.language_model(columns["loss"], columns["hit"])
