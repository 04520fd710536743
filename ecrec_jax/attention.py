"""Self-attention inside the segments of a row."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ecrec_jax.block import dropout
from ecrec_jax.types import Noise


def visible(segment: Int[Array, "B L"], causal: bool) -> Bool[Array, "B 1 L L"]:
    """Who may attend to whom: tokens of one segment to each other, or only to themselves and earlier ones (`causal`).

    Padding (0) sees padding, so that no row of softmax is empty.
    """
    same = (segment[:, :, None] == segment[:, None, :])[:, None]
    return jnp.tril(same) if causal else same


def attend(
    query: Float[Array, "B L N K"], key: Float[Array, "B L N K"], value: Float[Array, "B L N K"],
    allowed: Bool[Array, "B 1 L L"], noise: Noise | None, site: int | Int[Array, ""], rate: float,
) -> Float[Array, "B L N K"]:
    """Scaled dot-product attention (Vaswani et al. 2017, eq. 1) with softmax in f32.

    Heads are moved to the front before the products: on CPU the other order costs five times as much.
    """
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    score = (query * query.shape[-1] ** -0.5) @ key.swapaxes(-1, -2)
    probability = jax.nn.softmax(jnp.where(allowed, score.astype(jnp.float32), -1e9)).astype(value.dtype)
    return (dropout(probability, noise, site, rate) @ value).swapaxes(1, 2)
