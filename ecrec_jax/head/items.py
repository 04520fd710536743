"""Scores of all items at the slots: products with the item vectors."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ecrec_jax.block import embedding
from ecrec_jax.factored import Factored
from ecrec_jax.types import Batch, InputError, Model, Noise


class Items(nnx.Module):
    """Hidden states times the vectors that items are read with, or vectors of their own where not `tied`; no bias. Of `new_ids`
    nothing would train the latter."""

    reads, at_slots = ("next_item", "masked_item"), True

    def __init__(self, width: int, vocabulary: int, initializer_range: float, tied: bool, rngs: nnx.Rngs,
                 new_ids: tuple[int, ...] = ()):
        if new_ids and not tied:
            raise InputError("head.tied is false: nothing would train the scores of new items (data.new_items): set it to null")
        self.decoder = None if tied else embedding(vocabulary, width, initializer_range, rngs)

    def __call__(self, hidden: Float[Array, "B S D"], batch: Batch, model: Model, noise: Noise | None = None) -> Factored:
        table = model.table() if self.decoder is None else self.decoder.embedding[...]
        return Factored(hidden, table, jnp.zeros(len(table), jnp.float32))
