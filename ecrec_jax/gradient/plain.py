"""The gradient of all rows at once."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float, UInt32

from ecrec_jax import block
from ecrec_jax.types import Batch, Parameters


@dataclasses.dataclass(frozen=True)
class Plain:
    """One forward, one backward."""

    count = 1
    splits_rows = False
    one_example_per_row = False

    def normalise(self, batch: Batch, reduce: Callable[[Any], Any]) -> Float[Array, "B S"]:
        """Weights that sum to 1 over the global batch."""
        return block.normalise(batch["weight"], reduce)

    def __call__(self, local: Callable[..., Any], trained: Parameters, batch: Batch) -> tuple[Any, Parameters]:
        """(loss, gradient), sums over the rows at hand."""
        return jax.value_and_grad(local)(trained, batch)

    def release(self, gradient: Parameters, noise: UInt32[Array, ""]) -> Parameters:
        """The gradient as it is."""
        return gradient
