"""Predict one number of each text."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from ecrec_jax import losses, metrics
from ecrec_jax.types import Batch, Columns, Example, InputError


@dataclasses.dataclass(frozen=True)
class Regression:
    """Mean squared error in units of the training labels' standard deviation (`scale`); errors of more than `huber_delta` such
    units count by their size alone, so that few wild labels don't rule."""

    huber_delta: float | None
    scale: float
    couples_rows = False
    target = "number"

    def __post_init__(self):
        if self.huber_delta is not None and self.huber_delta <= 0:
            raise InputError(f"task.huber_delta is {self.huber_delta}, must be above 0; null: squared error")

    def size(self, example: Example) -> tuple[int, int]:
        """All tokens, one slot."""
        return len(example.tokens), 1

    def prepare(self, example: Example, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The slot is the first token."""
        return {"tokens": example.tokens, "type": example.type, "slot": np.zeros(1, "i4"),
                "label": np.array([example.label], "f4"), "weight": np.ones(1, "f4"),
                **({} if example.value is None else {"value": example.value})}

    def loss(self, outputs: Float[Array, "B S"], batch: Batch, gather: Callable[[Any], Any]) -> Float[Array, "B S"]:
        """Squared error or Huber loss of each slot."""
        if self.huber_delta is not None:
            return losses.huber(outputs, batch["label"], self.huber_delta, self.scale)
        return losses.squared_error(outputs, batch["label"], self.scale)

    def columns(self, outputs: Float[Array, "B S"], batch: Batch) -> dict[str, Array]:
        """The values."""
        return {"scores": outputs}

    def metrics(self, columns: Columns) -> dict[str, Any]:
        """MAE, RMSE, R², Spearman, in the units of the labels."""
        return metrics.regression(columns["label"], columns["scores"])
