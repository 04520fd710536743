"""Self-attention inside the segments of a row for GPUs, block by block in a Pallas kernel, with dropout."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int, UInt32

from ecrec_jax.block import hashed, starts

BLOCK = 64      # queries, and keys, of a block
HIDDEN = -1e30  # a score that no softmax sees


def flash(
    query: Float[Array, "B L N K"], key: Float[Array, "B L N K"], value: Float[Array, "B L N K"], segment: Int[Array, "B L"],
    bits: UInt32[Array, "B N"], causal: bool, rate: float, interpret: bool = False,
) -> Float[Array, "B L N K"]:
    """Scaled dot-product attention between tokens of one segment, dropped at `rate` by the hash that `block.dropout` has (`bits`:
    its state for a row and a head). A segment's tokens must stand together: blocks that share none are not computed. No array of
    L × L is made; for the gradient the scores are computed again. `interpret` runs it anywhere, slowly.

    Source: Dao 2023, "FlashAttention-2", algorithms 1 and 2; its dropout as in Dao et al. 2022, appendix B.
    """
    length, width = query.shape[1], query.shape[3]
    more, wider = -length % BLOCK, max(16, 1 << (width - 1).bit_length()) - width
    fill = lambda x: jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, wider)))  # noqa: E731
    segment = jnp.pad(segment, ((0, 0), (0, more)), constant_values=-1)
    given = segment, *reach(segment), bits
    return attend(fill(query * width**-0.5), fill(key), fill(value), given, causal, rate, interpret)[:, :length, :, :width]


def reach(segment: Int[Array, "B L"]) -> tuple[Int[Array, "B T"], Int[Array, "B T"]]:
    """Of every block of tokens, the first block that shares a segment with it, and the one after the last."""
    begins, at, length = starts(segment), jnp.arange(segment.shape[1]), segment.shape[1]
    first = jax.lax.cummax(jnp.where(begins, at, 0), axis=1)
    ends = jnp.pad(begins[:, 1:], ((0, 0), (0, 1)), constant_values=True)
    last = jax.lax.cummin(jnp.where(ends, at, length), axis=1, reverse=True)
    return first[:, ::BLOCK] // BLOCK, last[:, BLOCK - 1 :: BLOCK] // BLOCK + 1


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def attend(query: Array, key: Array, value: Array, given: tuple[Array, ...], causal: bool, rate: float, interpret: bool) -> Array:
    """The kernel on whole blocks of scaled queries; `given`: segments, where each block reaches from and to, bits."""
    return forward(query, key, value, given, causal, rate, interpret)[0]


def forward(query: Array, key: Array, value: Array, given: tuple[Array, ...], causal: bool, rate: float, interpret: bool
            ) -> tuple[Array, Any]:
    """(what attention says, what the gradient needs)."""
    kinds = [BLOCKED, WHOLE, WHOLE, LINE, SCALAR, SCALAR, HEAD]
    out, total = call(functools.partial(forward_kernel, causal, rate), (query, key, value, *given), kinds,
                      ((BLOCKED, query.dtype), (BLOCKED_LINE, jnp.float32)), interpret)
    return out, (query, key, value, given, out, total)


def backward(causal: bool, rate: float, interpret: bool, kept: Any, gradient: Array) -> tuple[Any, ...]:
    """The gradients of query, key and value."""
    query, key, value, given, out, total = kept
    delta = (out.astype(jnp.float32) * gradient.astype(jnp.float32)).sum(-1).swapaxes(1, 2)
    kinds = [WHOLE, WHOLE, WHOLE, WHOLE, WHOLE_LINE, WHOLE_LINE, LINE, SCALAR, SCALAR, HEAD]
    made = call(functools.partial(backward_kernel, causal, rate), (query, key, value, gradient, total, delta, *given), kinds,
                [(BLOCKED, query.dtype)] * 3, interpret)
    return *made, None


attend.defvjp(forward, backward)

# What a program (row, head, block) is handed of an array: its axes, and which part of them
BLOCKED = ("BLNK", (None, BLOCK, None, 0), lambda b, n, t: (b, t, n, 0))          # a head's block
WHOLE = ("BLNK", (None, 0, None, 0), lambda b, n, t: (b, 0, n, 0))                # a head's row
BLOCKED_LINE = ("BNL", (None, None, BLOCK), lambda b, n, t: (b, n, t))            # a number each for a head's block
WHOLE_LINE = ("BNL", (None, None, 0), lambda b, n, t: (b, n, 0))                  # a number each for a head's row
LINE = ("BL", (None, 0), lambda b, n, t: (b, 0))                                  # a number each for a row
SCALAR = ("BT", (None, None), lambda b, n, t: (b, t))
HEAD = ("BN", (None, None), lambda b, n, t: (b, n))


def call(kernel: Any, arrays: tuple[Array, ...], kinds: list[Any], results: Any, interpret: bool) -> Any:
    """A kernel over all rows, heads and blocks."""
    from jax.experimental.pallas import triton

    batch, length, heads, width = arrays[0].shape
    sizes = {"B": batch, "L": length, "N": heads, "K": width}

    def part(kind: Any) -> pl.BlockSpec:
        axes, shape, index = kind
        return pl.BlockSpec(tuple(sizes[axis] if size == 0 else size for axis, size in zip(axes, shape, strict=True)), index)

    return pl.pallas_call(
        kernel, grid=(batch, heads, length // BLOCK), in_specs=[part(kind) for kind in kinds],
        out_specs=[part(kind) for kind, _ in results],
        out_shape=[jax.ShapeDtypeStruct(tuple(sizes[axis] for axis in kind[0]), dtype) for kind, dtype in results],
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2), interpret=interpret)(*arrays)


def block(number: Any) -> Any:
    """The tokens of a block."""
    return pl.ds(number * BLOCK, BLOCK)


def scores(query: Array, key: Array, segments: tuple[Array, Array], numbers: tuple[Any, Any], causal: bool) -> Array:
    """Of a block of queries and a block of keys; `HIDDEN` where they don't see each other."""
    seen = segments[0][:, None] == segments[1][None, :]
    if causal:
        row, column = (number * BLOCK + jnp.arange(BLOCK) for number in numbers)
        seen &= row[:, None] >= column[None, :]
    return jnp.where(seen, jnp.dot(query, key.T, preferred_element_type=jnp.float32), HIDDEN)


def dropped(x: Array, bits: Array, numbers: tuple[Any, Any], rate: float) -> Array:
    """What dropout leaves of a block of weights."""
    if rate == 0:
        return x
    row, column = (number * BLOCK + jnp.arange(BLOCK) for number in numbers)
    return jnp.where(hashed(hashed(bits, row)[:, None], column[None, :]) >= jnp.uint32(int(rate * 2**32)), x / (1 - rate), 0.0)


def forward_kernel(causal: bool, rate: float, query: Any, key: Any, value: Any, segment: Any, first: Any, end: Any, bits: Any,
                   out: Any, total: Any) -> None:
    """One block of queries: softmax over the blocks of keys that it reaches, kept running."""
    number, asked, own = pl.program_id(2), query[...], segment[block(pl.program_id(2))]

    def add(other: Any, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        made, most, summed = carry
        numbers = number, other
        score = scores(asked, key[block(other), :], (own, segment[block(other)]), numbers, causal)
        top = jnp.maximum(most, score.max(1))
        weight, less = jnp.exp(score - top[:, None]), jnp.exp(most - top)
        held = dropped(weight, bits[...], numbers, rate).astype(value.dtype)
        said = jnp.dot(held, value[block(other), :], preferred_element_type=jnp.float32)
        return made * less[:, None] + said, top, summed * less + weight.sum(1)

    start = (jnp.zeros(asked.shape, jnp.float32), jnp.full(BLOCK, HIDDEN, jnp.float32), jnp.zeros(BLOCK, jnp.float32))
    made, most, summed = jax.lax.fori_loop(first[...], number + 1 if causal else end[...], add, start)
    out[...] = (made / summed[:, None]).astype(out.dtype)
    total[...] = most + jnp.log(summed)


def backward_kernel(causal: bool, rate: float, query: Any, key: Any, value: Any, gradient: Any, total: Any, delta: Any,
                    segment: Any, first: Any, end: Any, bits: Any, of_query: Any, of_key: Any, of_value: Any) -> None:
    """One block as queries (the gradient of query), and as keys (those of key and value)."""
    number = pl.program_id(2)
    load = lambda ref, other: ref[block(other), :]  # noqa: E731

    def pair(asking: Any, told: Any) -> tuple[Array, Array, Array, Array]:
        """(weights that were kept, gradient of the scores, queries, gradient of the result) of two blocks."""
        asked, back, numbers = load(query, asking), load(gradient, asking), (asking, told)
        seen = segment[block(asking)], segment[block(told)]
        weight = jnp.exp(scores(asked, load(key, told), seen, numbers, causal) - total[block(asking)][:, None])
        felt = jnp.dot(back, load(value, told).T, preferred_element_type=jnp.float32)
        change = weight * (dropped(felt, bits[...], numbers, rate) - delta[block(asking)][:, None])
        return dropped(weight, bits[...], numbers, rate).astype(value.dtype), change.astype(query.dtype), asked, back

    def as_keys(other: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        weight, change, asked, back = pair(other, number)
        return (carry[0] + jnp.dot(change.T, asked, preferred_element_type=jnp.float32),
                carry[1] + jnp.dot(weight.T, back, preferred_element_type=jnp.float32))

    def as_queries(other: Any, carry: Array) -> Array:
        change = pair(number, other)[1]
        return carry + jnp.dot(change, load(key, other), preferred_element_type=jnp.float32)

    none = jnp.zeros((BLOCK, query.shape[1]), jnp.float32)
    made = jax.lax.fori_loop(number if causal else first[...], end[...], as_keys, (none, none))
    of_key[...], of_value[...] = (x.astype(of_key.dtype) for x in made)
    of_query[...] = jax.lax.fori_loop(first[...], number + 1 if causal else end[...], as_queries, none).astype(of_query.dtype)
