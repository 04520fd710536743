"""Bring the two halves of a pair together, against all other texts of the batch."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from ecrec_jax import losses, metrics
from ecrec_jax.types import Batch, Columns, Example, InputError


@dataclasses.dataclass(frozen=True)
class Contrastive:
    """InfoNCE with in-batch negatives. A text pair becomes two segments of one row; a text without a partner is read
    twice, under two dropout masks (Gao et al. 2021, SimCSE)."""

    temperature: float
    cls_id: int
    couples_rows = True
    target = "vector"

    def __post_init__(self):
        if self.temperature <= 0:
            raise InputError(f"task.temperature {self.temperature} must be positive")

    def size(self, example: Example) -> tuple[int, int]:
        """Both halves, two slots."""
        second = int(example.type.sum())
        return len(example.tokens) + (1 if second else len(example.tokens)), 2

    def prepare(self, example: Example, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Two segments whose first tokens are the slots; the label is the pair's number."""
        first = example.tokens[example.type == 0]
        second = example.tokens[example.type == 1]
        second = np.concatenate([[self.cls_id], second]) if len(second) else first
        tokens = np.concatenate([first, second]).astype("i4")
        segment = np.repeat(np.array([1, 2], "i4"), [len(first), len(second)])
        return {"tokens": tokens, "type": np.zeros_like(tokens), "segment": segment,
                "slot": np.array([0, len(first)], "i4"), "label": np.full(2, example.index, "i4"),
                "weight": np.ones(2, "f4")}

    def loss(self, outputs: Float[Array, "B S D"], batch: Batch, gather: Callable[[Any], Any]) -> Float[Array, "B S"]:
        """InfoNCE of every slot against all slots of the global batch but itself."""
        label, weight = batch["label"], batch["weight"]
        place = batch["row"][:, None] * batch["tokens"].shape[1] + batch["slot"]
        vector, mine, here = outputs.reshape(-1, outputs.shape[-1]), label.reshape(-1), place.reshape(-1)
        keys, labels, weights, places = gather((vector, mine, weight.reshape(-1), here))
        allowed = (weights > 0)[None] & (here[:, None] != places[None])
        return losses.info_nce(vector, keys, mine[:, None] == labels[None], allowed, self.temperature).reshape(label.shape)

    def columns(self, outputs: Float[Array, "B S D"], batch: Batch) -> dict[str, Array]:
        """The vectors."""
        return {"vector": outputs}

    def metrics(self, columns: Columns) -> dict[str, Any]:
        """How often the partner is the nearest of the whole split."""
        return metrics.retrieval(columns["vector"], columns["label"])
