"""Losses a slot. Every function takes outputs and targets and returns one number a slot; weighing comes later."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ecrec_jax.factored import LEAST, Factored


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


def item_cross_entropy(logits: Factored, label: Int[Array, "B S"], special_ids: tuple[int, ...], new_ids: tuple[int, ...]
                       ) -> Float[Array, "B S"]:
    """Softmax cross-entropy over the items that are trained on: special ids and new items have no share, a new one's loss is 0."""
    bias = logits.bias.at[jnp.array(special_ids + new_ids)].set(10 * LEAST)
    found = factored_cross_entropy(logits._replace(bias=bias), label)
    return jnp.where(jnp.isin(label, jnp.array(new_ids)), 0.0, found) if new_ids else found


def sampled_cross_entropy(positive: Float[Array, "B S"], negative: Float[Array, "B S N"]) -> Float[Array, "B S"]:
    """Softmax cross-entropy of the label against sampled ids: lse(z⁺, z⁻₁ … z⁻_N) − z⁺. Logits that a sampler draws unevenly are
    corrected before (Bengio & Senécal 2008; Jean et al. 2015, eq. 9)."""
    both = jnp.concatenate([positive[..., None], negative], -1)
    return jax.nn.logsumexp(both, -1) - positive


def pointwise(positive: Float[Array, "B S"], negative: Float[Array, "B S N"], beta: float = 1.0) -> Float[Array, "B S"]:
    """−(β log σ(z⁺) + Σ_n log σ(−z⁻_n)) / (N + 1): binary cross-entropy with N negatives (Kang & McAuley 2018, eq. 7, for β = 1);
    with β < 1 the generalised form, σ(z⁺)^β, of gSASRec (Petrov & Macdonald 2023, eq. 8).

    Source of the mean over the N + 1 logits: the code of gSASRec. SASRec's code takes their sum for N = 1.
    """
    right = beta * jax.nn.log_sigmoid(positive) + jax.nn.log_sigmoid(-negative).sum(-1)
    return -right / (negative.shape[-1] + 1)


def pairwise(positive: Float[Array, "B S"], negative: Float[Array, "B S N"]) -> Float[Array, "B S"]:
    """Mean over the negatives of −log σ(z⁺ − z⁻). Source: Rendle et al. 2009 (BPR), §4.1."""
    return -jax.nn.log_sigmoid(positive[..., None] - negative).mean(-1)


def binary_cross_entropy(
    logits: Float[Array, "B S C"], label: Float[Array, "B S C"], smoothing: float = 0.0
) -> Float[Array, "B S"]:
    """Mean over the C labels of max(z, 0) − z·t + log(1 + exp(−|z|)), with t = (1 − e)·label + e/2."""
    target = label * (1 - smoothing) + smoothing / 2
    return (jnp.maximum(logits, 0) - logits * target + jnp.log1p(jnp.exp(-jnp.abs(logits)))).mean(-1)


def focal(logits: Float[Array, "B S C"], label: Int[Array, "B S"], gamma: float, smoothing: float = 0.0) -> Float[Array, "B S"]:
    """Focal loss: Σ_c t_c · (1 − p_c)^γ · (−log p_c) with p = softmax and t the smoothed label, as in `cross_entropy`.

    Source: Lin et al. 2017, eq. 4, over all classes instead of two; smoothing e: t = (1 − e) · one-hot + e / C.
    """
    target = jax.nn.one_hot(label, logits.shape[-1]) * (1 - smoothing) + smoothing / logits.shape[-1]
    return (target * hard(jax.nn.log_softmax(logits), gamma)).sum(-1)


def binary_focal(
    logits: Float[Array, "B S C"], label: Float[Array, "B S C"], gamma: float, smoothing: float = 0.0
) -> Float[Array, "B S"]:
    """Mean over the C labels of −t (1 − p)^γ log p − (1 − t) p^γ log(1 − p) with p = sigmoid(z), t = (1 − e)·label + e/2.

    Source: Lin et al. 2017, eq. 4.
    """
    target = label * (1 - smoothing) + smoothing / 2
    yes, no = (hard(jax.nn.log_sigmoid(z), gamma) for z in (logits, -logits))
    return (target * yes + (1 - target) * no).mean(-1)


def hard(log_chance: Float[Array, "..."], gamma: float) -> Float[Array, "..."]:
    """(1 − p)^γ · (−log p); the floor keeps the power's gradient finite where p is 1."""
    return jnp.maximum(-jnp.expm1(log_chance), 1e-12) ** gamma * -log_chance


def squared_error(value: Float[Array, "B S"], label: Float[Array, "B S"], scale: float = 1.0) -> Float[Array, "B S"]:
    """((value − label) / scale)²: the scale is the spread of the training labels, so that rates carry over."""
    return jnp.square((value - label) / scale)


def huber(
    value: Float[Array, "B S"], label: Float[Array, "B S"], delta: float, scale: float = 1.0
) -> Float[Array, "B S"]:
    """r² where |r| ≤ δ, else δ (2 |r| − δ), with r = (value − label) / scale: twice Huber's loss, so that it is the squared error
    where δ is large.

    Source: Huber 1964.
    """
    size = jnp.abs(value - label) / scale
    return jnp.where(size <= delta, jnp.square(size), delta * (2 * size - delta))


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
