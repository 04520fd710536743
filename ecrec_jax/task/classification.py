"""Predict one class of each text, or any number of them."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Array, Float

from ecrec_jax import losses, metrics
from ecrec_jax.types import Batch, Columns, Example, InputError


@dataclasses.dataclass(frozen=True)
class Classification:
    """Softmax cross-entropy over exclusive classes, or binary cross-entropy a label (`multi_label`); with a `focal_gamma`
    their focal forms, in which what is already right weighs less.

    `class_weights`: null, `balanced` (examples over classes × count, King & Zeng 2001) or one number a class, in the
    order of the labels; they weigh examples, so the loss is their weighted mean.
    """

    multi_label: bool
    label_smoothing: float
    focal_gamma: float | None
    class_weights: Literal["balanced"] | list[float] | None
    labels: tuple[str, ...]
    class_counts: tuple[int, ...]
    couples_rows = False

    def __post_init__(self):
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"task.label_smoothing is {self.label_smoothing}, must be 0 or more, below 1")
        if self.focal_gamma is not None and self.focal_gamma < 0:
            raise InputError(f"task.focal_gamma is {self.focal_gamma}, must be 0 or more; null: cross-entropy")
        if isinstance(self.class_weights, list) and len(self.class_weights) != len(self.labels):
            raise InputError(f"task.class_weights has {len(self.class_weights)} numbers, the data has "
                             f"{len(self.labels)} classes: {', '.join(self.labels)}")
        if isinstance(self.class_weights, list) and min(self.class_weights) <= 0:
            raise InputError(f"task.class_weights: {min(self.class_weights):g} is too small, each must be above 0")
        if self.class_weights is not None and self.multi_label:
            raise InputError("task.class_weights weighs exclusive classes; set it to null or task.multi_label to false")

    @property
    def target(self) -> str:
        """What a label is."""
        return "multi" if self.multi_label else "class"

    def weight(self) -> np.ndarray:
        """f32[C]: what an example of each class weighs."""
        if self.class_weights == "balanced":
            counts = np.maximum(np.array(self.class_counts, "f4"), 1)
            return counts.sum() / (len(counts) * counts)
        return np.array(self.class_weights or np.ones(len(self.labels)), "f4")

    def size(self, example: Example) -> tuple[int, int]:
        """All tokens, one slot."""
        return len(example.tokens), 1

    def prepare(self, example: Example, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The slot is the first token."""
        label = np.asarray(example.label)
        weight = 1.0 if self.multi_label else self.weight()[label]
        return {"tokens": example.tokens, "type": example.type, "slot": np.zeros(1, "i4"), "label": label[None],
                "weight": np.full(1, weight, "f4"), **({} if example.value is None else {"value": example.value})}

    def loss(self, outputs: Float[Array, "B S C"], batch: Batch, gather: Callable[[Any], Any]) -> Float[Array, "B S"]:
        """Cross-entropy or focal loss of each slot."""
        if self.focal_gamma is not None:
            form = losses.binary_focal if self.multi_label else losses.focal
            return form(outputs, batch["label"], self.focal_gamma, self.label_smoothing)
        if self.multi_label:
            return losses.binary_cross_entropy(outputs, batch["label"], self.label_smoothing)
        return losses.cross_entropy(outputs, batch["label"], self.label_smoothing)

    def columns(self, outputs: Float[Array, "B S C"], batch: Batch) -> dict[str, Array]:
        """Probabilities."""
        return {"scores": jax.nn.sigmoid(outputs) if self.multi_label else jax.nn.softmax(outputs)}

    def metrics(self, columns: Columns) -> dict[str, Any]:
        """Accuracy, F1 in three means, ROC-AUC, PR-AUC, MCC, log loss, calibration, per class, confusion matrix."""
        measure = metrics.multi_label if self.multi_label else metrics.classification
        return measure(columns["label"], columns["scores"], self.labels)
