"""Products of queries with the vectors of a table, and their gradients."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ecrec_jax.lookup import filled
from ecrec_jax.matmul import exact, matmul

Product = Callable[[Array, Array], Array]
PIECE, MOST_PIECES = 1 << 21, 4   # logits of a piece (8 MB in f32) of which powers are kept, and how many there are at most
ALIGNED = 256           # ids that a piece has a multiple of: GPUs multiply others by slower kernels
EIGHT = 8               # columns are added by so many: other numbers of them are multiplied by slower kernels
GATHERED = {"cpu": 1 << 19, "other": 1 << 25}   # numbers of vectors that are gathered at a time
BLOCK = 32              # ids of which the largest logit is looked at before the others, where few at the top are asked for
LEAST = -1e8            # of a bias: ids below are in nobody's list


def logits(query: Float[Array, "B S D"], table: Float[Array, "V D"], bias: Float[Array, "V"], product: Product = matmul
           ) -> Float[Array, "B S V"]:
    """All of them, f32; as `matmul` makes them rounded to the type of both before, as `exact` does not, which has no gradient."""
    flat = query.reshape(-1, query.shape[-1])
    many = len(flat) > table.shape[1]   # the logits are larger than a copy of the table
    if many and query.dtype == table.dtype == bias.dtype == jnp.float32:
        made = jax.lax.platform_dependent(flat, table, bias, cpu=at_once, default=functools.partial(apart, product))
    else:
        made = apart(product, flat, table, bias)
    return made.reshape(*query.shape[:-1], len(table))


def apart(product: Product, query: Float[Array, "M D"], table: Float[Array, "V D"], bias: Float[Array, "V"]) -> Float[Array, "M V"]:
    """The product and the sum, which GPUs and TPUs make in one kernel; their products have fewer bits than f32."""
    return product(query, table.T).astype(jnp.float32) + bias.astype(jnp.float32)


def at_once(query: Float[Array, "M D"], table: Float[Array, "V D"], bias: Float[Array, "V"]) -> Float[Array, "M V"]:
    """The bias as a column of a copy of the table: on CPU a sum of all logits takes half the product's time."""
    wide = lambda x, last: jnp.concatenate([x, last, jnp.zeros((len(x), EIGHT - 1), x.dtype)], -1)  # noqa: E731
    return wide(query, jnp.ones_like(query[:, :1])) @ wide(table, bias[:, None]).T


@jax.custom_vjp
def log_sum(query: Float[Array, "B S D"], table: Float[Array, "V D"], bias: Float[Array, "V"]) -> Float[Array, "B S"]:
    """log Σ exp(query · table + bias), piece by piece. Nothing of the logits' size is kept but their powers, each piece's over its
    largest one: the gradient scales queries and results by what softmax divides by. On CPU pieces stay in the caches and in memory
    that is used again, which halves the time. Without a gradient all logits are made as `ranked` makes them, so that a program that
    does both multiplies once."""
    return jax.nn.logsumexp(logits(query, filled(table, BLOCK, 0), filled(bias, BLOCK, 10 * LEAST), exact), -1)


def pieces(numbers: int, ids: int) -> list[int]:
    """Where pieces of the table begin and end."""
    size = -(-ids // min(MOST_PIECES, -(-numbers // PIECE)))
    return [*range(0, ids, -(-size // ALIGNED) * ALIGNED), ids]


def powers(query: Array, table: Array, bias: Array) -> tuple[Array, Any]:
    """(log Σ exp, what the gradient needs)."""
    edges, found, sums = pieces(query[..., 0].size * len(table), len(table)), [], []
    for first, end in itertools.pairwise(edges):
        made = logits(query, table[first:end], bias[first:end])
        most = made.max(-1, keepdims=True)
        power = jnp.exp(made - most)
        found.append((power.astype(table.dtype), most))
        sums.append(jnp.log(power.sum(-1, keepdims=True)) + most)
    total = jax.nn.logsumexp(jnp.concatenate(sums, -1), -1)
    return total, (query, table, bias, found, total)


def powers_gradient(kept: Any, gradient: Float[Array, "B S"]) -> tuple[Array, Array, Array]:
    """Of query, table and bias: with p = softmax of the logits, g p T, (g p)ᵀ query and Σ g p. The last two are one product,
    (g query, g)ᵀ p: on CPU a sum of p's rows takes as long as a product with 64 columns, and p transposed twice as long as this."""
    query, table, bias, found, total = kept
    edges, wide = pieces(query[..., 0].size * len(table), len(table)), query.astype(jnp.float32)
    of_query, of_both = jnp.zeros_like(wide), []
    for first, end, (power, most) in zip(edges, edges[1:], found, strict=False):
        scale, flat = gradient[..., None] * jnp.exp(most - total[..., None]), power.reshape(-1, end - first)
        of_query += matmul(flat, table[first:end]).reshape(query.shape).astype(jnp.float32) * scale
        both = jnp.concatenate([wide * scale, scale, jnp.zeros((*scale.shape[:-1], EIGHT - 1))], -1)
        of_both.append(matmul(both.astype(table.dtype).reshape(-1, both.shape[-1]).T, flat))
    width, made = table.shape[1], jnp.concatenate(of_both, 1)
    return of_query.astype(query.dtype), made[:width].T, made[width].astype(bias.dtype)


log_sum.defvjp(powers, powers_gradient)


@jax.custom_vjp
def among(query: Float[Array, "M P D"], table: Float[Array, "V D"], ids: Int[Array, "M N"]) -> Float[Array, "M P N"]:
    """What the P queries of each of M groups and its N vectors of the table have as products, f32. The vectors of some groups at a
    time are gathered, and their gradients made: on CPU of so few that they stay in the caches."""
    return jax.lax.platform_dependent(query, table, ids, cpu=functools.partial(gathered, GATHERED["cpu"]),
                                      default=functools.partial(gathered, GATHERED["other"]))


def by_parts(step: Callable[[Any, Sequence[Array]], tuple[Any, Array]], start: Any, most: int, table: Float[Array, "V D"],
             ids: Int[Array, "M N"], query: Float[Array, "M P D"], *others: Array) -> tuple[Any, Array]:
    """(what `step` carries on from part to part, what it makes [M, ...]): of all groups, where their vectors are `most` numbers or
    less or one a group, else of parts that are. Where queries share ids, many groups may belong to nobody: a part whose ids are all
    0 is left out."""
    size = max(1, most // (ids.shape[1] * table.shape[1]))
    if ids.shape[1] == 1 or len(ids) <= size:
        return step(start, (ids, query, *others))

    def used(carried: Any, part: Sequence[Array]) -> tuple[Any, Array]:
        made = jax.eval_shape(step, carried, part)[1]
        none = lambda carried, _: (carried, jnp.zeros(made.shape, made.dtype))  # noqa: E731
        return jax.lax.cond((part[0] > 0).any(), step, none, carried, part)

    parts = [filled(x, size, 0).reshape(-1, size, *x.shape[1:]) for x in (ids, query, *others)]
    end, made = jax.lax.scan(used if query.shape[1] > 1 else step, start, parts)
    return end, made.reshape(-1, *made.shape[2:])[: len(ids)]


def gathered(most: int, query: Array, table: Array, ids: Array) -> Array:
    """`among`, of `most` numbers at a time."""
    def step(_: None, part: Sequence[Array]) -> tuple[None, Array]:
        return None, jnp.einsum("gpd,gnd->gpn", part[1], table[part[0]], preferred_element_type=jnp.float32)

    return by_parts(step, None, most, table, ids, query)[1]


def among_forward(query: Array, table: Array, ids: Array) -> tuple[Array, Any]:
    """(products, what the gradient needs)."""
    return among(query, table, ids), (query, table, ids)


def gathered_gradient(most: int, query: Array, table: Array, ids: Array, gradient: Array) -> tuple[Array, Array]:
    """Of queries and table, of `most` numbers at a time; sums of a vector's gradients are f32."""
    def step(total: Array, part: Sequence[Array]) -> tuple[Array, Array]:
        ids, query, gradient = part
        of_vectors = jnp.einsum("gpn,gpd->gnd", gradient, query).astype(jnp.float32)
        return total.at[ids].add(of_vectors), jnp.einsum("gpn,gnd->gpd", gradient, table[ids])

    total, of_query = by_parts(step, jnp.zeros(table.shape, jnp.float32), most, table, ids, query, gradient.astype(table.dtype))
    return of_query, total.astype(table.dtype)


def among_gradient(kept: Any, gradient: Float[Array, "M P N"]) -> tuple[Array, Array, None]:
    """Of queries and table."""
    return *jax.lax.platform_dependent(*kept, gradient, cpu=functools.partial(gathered_gradient, GATHERED["cpu"]),
                                       default=functools.partial(gathered_gradient, GATHERED["other"])), None


among.defvjp(among_forward, among_gradient)
