"""Bring two views of one example together, against all other examples of the batch."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ecrec_jax import losses, metrics
from ecrec_jax.types import Batch, Columns, Example, InputError


@dataclasses.dataclass(frozen=True)
class Contrastive:
    """InfoNCE with in-batch negatives. The two views of an example are two segments of one row, so they share every batch.

    `views`: the two texts of a `pair`, or one text read twice under two `dropout` masks, which hash the place of a token in
    its row (Gao et al. 2021, SimCSE, §3). `negatives`: `all` other vectors of the batch (Chen et al. 2020, eq. 1), or those
    of the `other` view only (Gao et al. 2021, eq. 1); both views ask.
    """

    views: Literal["pair", "dropout"]
    negatives: Literal["all", "other"]
    temperature: float
    cls_id: int
    couples_rows = True
    target = "vector"

    def __post_init__(self):
        if self.temperature <= 0:
            raise InputError(f"task.temperature {self.temperature} must be positive")

    def both(self, example: Example) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of the two views.

        Raises:
            InputError: a pair is asked for where there is one text.
        """
        if self.views == "dropout":
            return example.tokens, example.tokens
        second = example.tokens[example.type == 1]
        if not len(second):
            raise InputError("task.views is pair, but the examples are single texts: set data.text_pair_column, or "
                             "task.views=dropout to read each text twice")
        return example.tokens[example.type == 0], np.concatenate([[self.cls_id], second])

    def size(self, example: Example) -> tuple[int, int]:
        """Both views, two slots."""
        return sum(map(len, self.both(example))), 2

    def prepare(self, example: Example, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Two segments whose first tokens are the slots; the label is the example's number."""
        first, second = self.both(example)
        tokens = np.concatenate([first, second]).astype("i4")
        segment = np.repeat(np.array([1, 2], "i4"), [len(first), len(second)])
        return {"tokens": tokens, "type": np.zeros_like(tokens), "segment": segment,
                "slot": np.array([0, len(first)], "i4"), "label": np.full(2, example.index, "i4"),
                "weight": np.ones(2, "f4")}

    def loss(self, outputs: Float[Array, "B S D"], batch: Batch, gather: Callable[[Any], Any]) -> Float[Array, "B S"]:
        """InfoNCE of every slot against the other slots of the global batch, or against those of the other view."""
        label, weight = batch["label"], batch["weight"]
        place = batch["row"][:, None] * batch["tokens"].shape[1] + batch["slot"]
        view = jnp.broadcast_to(jnp.arange(label.shape[1]) % 2, label.shape).reshape(-1)   # slots come in twos
        vector, mine, here = outputs.reshape(-1, outputs.shape[-1]), label.reshape(-1), place.reshape(-1)
        keys, labels, weights, places, views = gather((vector, mine, weight.reshape(-1), here, view))
        apart = here[:, None] != places[None] if self.negatives == "all" else view[:, None] != views[None]
        allowed = (weights > 0)[None] & apart
        return losses.info_nce(vector, keys, mine[:, None] == labels[None], allowed, self.temperature).reshape(label.shape)

    def columns(self, outputs: Float[Array, "B S D"], batch: Batch) -> dict[str, Array]:
        """The vectors."""
        return {"vector": outputs}

    def metrics(self, columns: Columns) -> dict[str, Any]:
        """Uniformity; for pairs also alignment and how often the partner is the nearest of the whole split.

        Without dropout two views of one text are one vector: their alignment would be 0 whatever was learnt.
        """
        vector, label = columns["vector"], columns["label"]
        found = {"uniformity": metrics.uniformity(vector, label)}
        if self.views == "dropout":
            return found
        return found | {"alignment": metrics.alignment(vector, label)} | metrics.retrieval(vector, label)
