"""Losses a slot. Every function takes outputs and targets and returns one number a slot; weighing comes later."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ecrec_jax.factored import Factored


def cross_entropy(
    logits: Float[Array, "B S C"], label: Int[Array, "B S"], smoothing: float = 0.0
) -> Float[Array, "B S"]:
    """Softmax cross-entropy with label smoothing e: (1 − e) · (lse − z_y) + e · (lse − mean z).

    Source: Szegedy et al. 2016, §7 (uniform prior over the C classes, the label's class included).
    """
    normaliser = jax.nn.logsumexp(logits, -1)
    chosen = jnp.take_along_axis(logits, label[..., None], -1)[..., 0]
    return normaliser - (1 - smoothing) * chosen - smoothing * logits.mean(-1)


def factored_cross_entropy(outputs: Factored, label: Int[Array, "B S"]) -> Float[Array, "B S"]:
    """Softmax cross-entropy over a table: lse(all logits) − logit of the label."""
    return outputs.normaliser() - outputs.at(label[..., None])[..., 0]


def binary_cross_entropy(
    logits: Float[Array, "B S C"], label: Float[Array, "B S C"], smoothing: float = 0.0
) -> Float[Array, "B S"]:
    """Mean over the C labels of max(z, 0) − z·t + log(1 + exp(−|z|)), with t = (1 − e)·label + e/2."""
    target = label * (1 - smoothing) + smoothing / 2
    return (jnp.maximum(logits, 0) - logits * target + jnp.log1p(jnp.exp(-jnp.abs(logits)))).mean(-1)


def squared_error(value: Float[Array, "B S"], label: Float[Array, "B S"], scale: float = 1.0) -> Float[Array, "B S"]:
    """((value − label) / scale)²: the scale is the spread of the training labels, so that rates carry over."""
    return jnp.square((value - label) / scale)


def info_nce(
    query: Float[Array, "P D"], key: Float[Array, "Q D"], positive: Bool[Array, "P Q"], allowed: Bool[Array, "P Q"],
    temperature: float,
) -> Float[Array, "P"]:
    """−log(Σ_positive exp(q·k/τ) / Σ_allowed exp(q·k/τ)) of unit vectors; 0 where a query has no positive.

    Source: van den Oord et al. 2018, eq. 4; in-batch negatives as in Gao et al. 2021 (SimCSE), eq. 1.
    """
    score = jnp.where(allowed, (query @ key.T).astype(jnp.float32) / temperature, -1e9)
    hit = positive & allowed
    loss = jax.nn.logsumexp(score, -1) - jax.nn.logsumexp(jnp.where(hit, score, -1e9), -1)
    return jnp.where(hit.any(-1), loss, 0.0)
