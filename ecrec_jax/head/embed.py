"""A unit vector a slot."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ecrec_jax.block import average
from ecrec_jax.types import Batch, Model, Noise


class Embed(nnx.Module):
    """Pooled hidden state, divided by its length (f32). `pooling`: mean, cls (BERT's pooler) or first (raw)."""

    reads = ("vector",)

    def __init__(self, pooling: Literal["mean", "cls", "first"]):
        self.pooling = pooling

    @property
    def at_slots(self) -> bool:
        """All but a mean read one token of a text."""
        return self.pooling != "mean"

    def __call__(self, hidden: Float[Array, "B T D"], batch: Batch, model: Model,
                 noise: Noise | None = None) -> Float[Array, "B S D"]:
        pooled = average(hidden, batch) if self.pooling == "mean" else hidden
        pooled = model.pool(pooled) if self.pooling == "cls" else pooled
        pooled = pooled.astype(jnp.float32)
        return pooled * jax.lax.rsqrt(jnp.square(pooled).sum(-1, keepdims=True) + 1e-12)
