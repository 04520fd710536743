"""What a program of `flash` does with a block of queries, or of keys."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ecrec_jax.block import hashed, kept

HIDDEN = -1e30               # a score that no softmax sees
LOG2E = 1.4426950408889634   # scores are powers of two: GPUs have that exponential


class How(NamedTuple):
    """Whether tokens see earlier ones only, the rate of dropout, what scores are scaled by, whether kernels are interpreted."""

    causal: bool
    rate: float
    scale: float
    interpret: bool


class Block(NamedTuple):
    """What a program knows of its own block: its tokens and their segments, which blocks to go through, the hash's state."""

    token: Array
    segment: Array
    first: Array
    end: Array
    bits: Array


def product(a: Array, b: Array) -> Array:
    """Of two blocks, f32."""
    return jnp.dot(a, b, preferred_element_type=jnp.float32)


def scores(products: Array, query: tuple[Array, Array], key: tuple[Array, Array], how: How) -> Array:
    """Of base 2; `HIDDEN` where queries and keys, (tokens, segments) each that broadcast, don't see each other."""
    seen = query[1] == key[1]
    if how.causal:
        seen &= query[0] >= key[0]
    return jnp.where(seen, products * (how.scale * LOG2E), HIDDEN)


def dropped(x: Array, bits: Array, query: Array, key: Array, rate: float) -> Array:
    """What dropout leaves of a block, not made larger for it."""
    if rate == 0:
        return x
    return jnp.where(kept(hashed(bits, query), key, rate), x, 0.0)


def forward_kernel(mine: Block, other: Callable[..., Any], how: How, query: Any, key: Any, value: Any, out: Any,
                   total: Any) -> None:
    """One block of queries: softmax over the blocks of keys that it reaches, kept running."""
    asked, token, segment = query[...], mine.token[:, None], mine.segment[:, None]

    def add(number: Any, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        made, most, summed = carry
        place, tokens, segments = other(number)
        score = scores(product(asked, key[place, :].T), (token, segment), (tokens[None, :], segments[None, :]), how)
        top = jnp.maximum(most, score.max(1))
        weight, less = jnp.exp2(score - top[:, None]), jnp.exp2(most - top)
        held = dropped(weight, mine.bits, token, tokens[None, :], how.rate).astype(value.dtype)
        return made * less[:, None] + product(held, value[place, :]), top, summed * less + weight.sum(1)

    start = jnp.zeros(asked.shape, jnp.float32), jnp.full(len(asked), HIDDEN, jnp.float32), jnp.zeros(len(asked), jnp.float32)
    made, most, summed = jax.lax.fori_loop(mine.first, mine.end, add, start)
    out[...] = (made / (summed * (1 - how.rate))[:, None]).astype(out.dtype)
    total[...] = most + jnp.log2(summed)


def queries_kernel(mine: Block, other: Callable[..., Any], how: How, query: Any, gradient: Any, total: Any,
                   delta: Any, key: Any, value: Any, of_query: Any) -> None:
    """One block of queries: their gradient from the blocks of keys that it reaches."""
    asked, back, sums, deltas = query[...], gradient[...], total[...][:, None], delta[...][:, None]
    token, segment = mine.token[:, None], mine.segment[:, None]

    def add(number: Any, carry: Array) -> Array:
        place, tokens, segments = other(number)
        score = scores(product(asked, key[place, :].T), (token, segment), (tokens[None, :], segments[None, :]), how)
        felt = dropped(product(back, value[place, :].T) * (1 / (1 - how.rate)), mine.bits, token, tokens[None, :], how.rate)
        change = jnp.exp2(score - sums) * (felt - deltas)
        return carry + product(change.astype(key.dtype), key[place, :])

    made = jax.lax.fori_loop(mine.first, mine.end, add, jnp.zeros(asked.shape, jnp.float32))
    of_query[...] = (made * how.scale).astype(of_query.dtype)


def keys_kernel(mine: Block, other: Callable[..., Any], how: How, key: Any, value: Any, query: Any, gradient: Any,
                total: Any, delta: Any, of_key: Any, of_value: Any) -> None:
    """One block of keys and values: their gradients from the blocks of queries that reach it. Keys are rows here, queries columns:
    what the products are of needs no turning."""
    known, said, token, segment = key[...], value[...], mine.token[:, None], mine.segment[:, None]

    def add(number: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        place, tokens, segments = other(number)
        asked, back = query[place, :], gradient[place, :]
        score = scores(product(known, asked.T), (tokens[None, :], segments[None, :]), (token, segment), how)
        weight, keep = jnp.exp2(score - total[place][None, :]), (mine.bits, tokens[None, :], token, how.rate)
        felt = dropped(product(said, back.T) * (1 / (1 - how.rate)), *keep)
        change = weight * (felt - delta[place][None, :])
        return (carry[0] + product(change.astype(key.dtype), asked),
                carry[1] + product(dropped(weight, *keep).astype(key.dtype), back))

    none = jnp.zeros(known.shape, jnp.float32)
    made, taken = jax.lax.fori_loop(mine.first, mine.end, add, (none, none))
    of_key[...], of_value[...] = (made * how.scale).astype(of_key.dtype), (taken * (1 / (1 - how.rate))).astype(of_value.dtype)
