"""What S3-Rec's four objectives compare: items, attributes and segments with states."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ecrec_jax.block import embedding, linear
from ecrec_jax.factored import Factored
from ecrec_jax.types import Batch, Model, Noise


class S3Rec(nnx.Module):
    """f32[B,S,A+4]: logits of the A attributes, W h · e; scores of the slot's item and of another, W' h · e; and of the slot where
    a history without a segment ends, with the next two slots, where this segment and another end, W″ h · h₊₁ and W″ h · h₊₂. W is a
    matrix for items that are seen and another for [MASK]. Source: Zhou et al. 2020, §4.2, whose code gives each matrix a bias."""

    reads, at_slots = ("s3rec",), True

    def __init__(self, width: int, attribute_names: tuple[str, ...], mask_id: int, initializer_range: float, rngs: nnx.Rngs):
        spread = initializer_range
        self.attribute = embedding(len(attribute_names), width, spread, rngs)
        self.associated, self.item, self.masked, self.segment = (linear(width, width, spread, rngs) for _ in range(4))
        self.mask_id = mask_id

    def __call__(self, hidden: Float[Array, "B S D"], batch: Batch, model: Model,
                 noise: Noise | None = None) -> Float[Array, "B S A+4"]:
        token = jnp.take_along_axis(batch["tokens"], batch["slot"], 1)
        query = jnp.where((token == self.mask_id)[..., None], self.masked(hidden), self.associated(hidden))
        attributes = (query @ jnp.asarray(self.attribute.embedding[...]).T).astype(jnp.float32)
        table, both = model.table(), jnp.concatenate([jnp.maximum(batch["label"], 0)[..., None], batch["negative"]], -1)
        items = Factored(self.item(hidden), table, jnp.zeros(len(table), jnp.float32)).at(both)
        context = self.segment(hidden)
        ends = jnp.stack([(context * jnp.roll(hidden, -by, 1)).sum(-1).astype(jnp.float32) for by in (1, 2)], -1)
        asked = (batch["label"] == 0) & (batch["weight"] > 0)   # the neighbours of other slots are none of theirs
        ends = jnp.where(asked[..., None], ends, 0)
        return jnp.concatenate([attributes, items, ends], -1)
