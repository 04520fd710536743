"""The gradient in several parts, one after the other, to save memory."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

from ecrec_jax import block
from ecrec_jax.types import Batch, InputError, Parameters


@dataclasses.dataclass(frozen=True)
class Accumulate:
    """`count` micro-batches. Rows are dealt out in turn, so that on a mesh every device keeps its own."""

    count: int
    splits_rows = True
    one_example_per_row = False

    def __post_init__(self):
        if self.count < 1:
            raise InputError(f"gradient.count {self.count} must be at least 1")

    def normalise(self, batch: Batch, reduce: Callable[[Any], Any]) -> Float[Array, "B S"]:
        """Weights that sum to 1 over the global batch, not over a micro-batch."""
        return block.normalise(batch["weight"], reduce)

    def __call__(self, local: Callable[..., Any], trained: Parameters, batch: Batch) -> tuple[Any, Parameters]:
        """(loss, gradient), sums over the rows at hand."""
        micro = jax.tree.map(lambda x: x.reshape(x.shape[0] // self.count, self.count, *x.shape[1:]).swapaxes(0, 1), batch)

        def add(carry: Any, rows: Batch) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, carry, jax.value_and_grad(local)(trained, rows)), None

        zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, trained))
        return jax.lax.scan(add, zero, micro)[0]

    def release(self, gradient: Parameters, noise: UInt32[Array, ""]) -> Parameters:
        """The gradient as it is."""
        return gradient
