"""Self-attention inside the segments of a row: a dense form, kernels for TPUs and GPUs, and which one a run uses."""

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ecrec_jax.block import dropout, hashed, row_bits
from ecrec_jax.flash import flash
from ecrec_jax.types import InputError, Noise, Strategy

LANES = 128                     # splash's blocks have a multiple of so many tokens
# The kernel of a kind of devices, and from how many tokens on `auto` takes it: shorter rows gain little memory by splash
# (docs/scale.md), flash was measured from there on (docs/benchmarks.md)
KERNELS = {"tpu": ("splash", 256), "gpu": ("flash", 64), "cuda": ("flash", 64)}


class Look(NamedTuple):
    """How the tokens of a layer look at each other: (query [B,T,N,K], key, value [B,L,N,K], noise, site, rate) -> [B,T,N,K], and
    which of them ask (None: all)."""

    attend: Callable[..., Array]
    slot: Int[Array, "B S"] | None


def choose(asked: Literal["auto", "dense", "splash", "flash"], platform: str, length: int, rate: float) -> str:
    """How rows of `length` tokens are attended to on devices of a `platform`, at an attention dropout of `rate`: `dense`, or the
    platform's kernel, `splash` or `flash`.

    Raises:
        InputError: a kernel was asked for, and can't be had.
    """
    kernel, least = KERNELS.get(platform, ("dense", 0))
    able = kernel != "splash" or rate == 0
    if asked == "auto":
        return kernel if able and length >= least else "dense"
    if asked not in ("dense", kernel):
        needed = "TPUs" if asked == "splash" else "GPUs"
        raise InputError(f"model.attention is {asked}, which needs {needed}, and the devices are of kind {platform}: set "
                         "model.attention=auto")
    if asked == "splash" and not able:
        raise InputError(f"model.attention is splash, which has no dropout, and attention's is {rate}: set model.attention_dropout "
                         "(of SASRec model.dropout) to 0, or model.attention=auto")
    return asked


def inside(segment: Int[Array, "B L"], causal: bool, form: str, strategy: Strategy | None,
           slot: Int[Array, "B S"] | None = None) -> Look:
    """Attention inside these segments in one of the forms, dense where only the tokens at `slot` ask; a kernel runs on each
    device's own rows."""
    if form == "splash" and slot is None:
        kernel = strategy.each(functools.partial(splash, causal=causal))
        return Look(lambda query, key, value, noise, site, rate: kernel(query, key, value, segment), None)
    if form == "flash" and slot is None:
        def look(query: Array, key: Array, value: Array, noise: Noise | None, site: int | Array, rate: float) -> Array:
            own = jnp.zeros(len(segment), jnp.uint32) if noise is None else row_bits(noise, site)
            bits = hashed(own[:, None], jnp.arange(query.shape[2]))
            kernel = functools.partial(flash, causal=causal, rate=0.0 if noise is None else rate)
            return strategy.each(kernel)(query, key, value, segment, bits)
        return Look(look, None)
    allowed = visible(segment, causal)
    if slot is not None:
        allowed = jnp.take_along_axis(allowed, slot[:, None, :, None], 2)
    return Look(lambda query, key, value, noise, site, rate: attend(query, key, value, allowed, noise, site, rate), slot)


def visible(segment: Int[Array, "B L"], causal: bool) -> Bool[Array, "B 1 L L"]:
    """Who may attend to whom: tokens of one segment to each other, or only to themselves and earlier ones (`causal`).

    Padding (0) sees padding, so that no row of softmax is empty.
    """
    same = (segment[:, :, None] == segment[:, None, :])[:, None]
    return jnp.tril(same) if causal else same


def attend(
    query: Float[Array, "B T N K"], key: Float[Array, "B L N K"], value: Float[Array, "B L N K"],
    allowed: Bool[Array, "B 1 T L"], noise: Noise | None, site: int | Int[Array, ""], rate: float,
) -> Float[Array, "B T N K"]:
    """Scaled dot-product attention (Vaswani et al. 2017, eq. 1) with softmax in f32.

    Heads are moved to the front before the products: on CPU the other order costs five times as much. What is hidden is a sum
    and no choice, for XLA fuses a sum with the product before it: a third of the forward pass there. Without dropout what softmax
    divides by waits until the end, where it divides K numbers of a query instead of L.
    """
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    score = (query * query.shape[-1] ** -0.5) @ key.swapaxes(-1, -2)
    score = score.astype(jnp.float32) + jnp.where(allowed, 0.0, -1e9)
    if noise is None:
        weight = jnp.exp(score - jax.lax.stop_gradient(score.max(-1, keepdims=True)))
        total = weight.sum(-1, keepdims=True).astype(value.dtype)
        return ((weight.astype(value.dtype) @ value) / total).swapaxes(1, 2)
    return (dropout(jax.nn.softmax(score).astype(value.dtype), noise, site, rate) @ value).swapaxes(1, 2)


def splash(
    query: Float[Array, "B L N K"], key: Float[Array, "B L N K"], value: Float[Array, "B L N K"],
    segment: Int[Array, "B L"], causal: bool, interpret: bool = False,
) -> Float[Array, "B L N K"]:
    """The same without dropout, block by block in jax's Pallas kernel for TPUs: no array of L × L leaves the chip. Rows are
    filled up to whole blocks with a segment of their own. `interpret` runs it anywhere, slowly.

    Source: Dao et al. 2022, "FlashAttention", algorithms 1 and 4.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as pallas

    length, heads, width = query.shape[1:]
    more = -length % LANES
    block = next(size for size in (4 * LANES, 2 * LANES, LANES) if (length + more) % size == 0)
    sizes = pallas.BlockSizes(block_q=block, block_kv=block, block_q_dkv=block, block_kv_dkv=block, block_q_dq=block,
                              block_kv_dq=block)
    shape = (length + more, length + more)
    mask = pallas.MultiHeadMask([pallas.CausalMask(shape) if causal else pallas.FullMask(shape)] * heads)
    kernel = pallas.make_splash_mha(mask, block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret)
    filled = [jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, 0))).swapaxes(1, 2) for x in (query * width ** -0.5, key, value)]
    segment = jnp.pad(segment, ((0, 0), (0, more)), constant_values=-1)
    found = jax.vmap(lambda q, k, v, s: kernel(q, k, v, pallas.SegmentIds(s, s)))(*filled, segment)
    return found.swapaxes(1, 2)[:, :length]
