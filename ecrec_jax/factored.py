"""Logits over a large table, made only as far as they are asked for."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ecrec_jax.lookup import lookup

MOST_LOGITS = 1 << 25   # 128 MB in f32: more are made in tiles
MOST_POWERS = 3 << 24   # 192 MB: more are made again for the gradient, tile by tile
TILE = 1 << 13          # ids of a tile
PIECE, MOST_PIECES = 1 << 21, 4   # logits of a piece (8 MB in f32) of which powers are kept, and how many there are at most
BLOCK = 32              # ids of which the largest logit is looked at before the others, where few at the top are asked for
LEAST = -1e8            # of a bias: ids below are in nobody's list


@jax.custom_vjp
def log_sum(query: Float[Array, "B S D"], table: Float[Array, "V D"], bias: Float[Array, "V"]) -> Float[Array, "B S"]:
    """log Σ exp(query · table + bias), piece by piece. Nothing of the logits' size is kept but their powers, each piece's over its
    largest one: the gradient scales queries and results by what softmax divides by. On CPU pieces stay in the caches and in memory
    that is used again, which halves the time. Without a gradient all logits are made as `ranked` makes them, so that a program that
    does both multiplies once."""
    return jax.nn.logsumexp(Factored(query, table, bias).filled(BLOCK).logits(), -1)


def pieces(logits: int, ids: int) -> list[int]:
    """Where pieces of the table begin and end."""
    return np.linspace(0, ids, min(MOST_PIECES, -(-logits // PIECE)) + 1).astype(int).tolist()


def powers(query: Array, table: Array, bias: Array) -> tuple[Array, Any]:
    """(log Σ exp, what the gradient needs)."""
    edges, found = pieces(query[..., 0].size * len(table), len(table)), []
    for first, end in itertools.pairwise(edges):
        logits = Factored(query, table[first:end], bias[first:end]).logits()
        most = logits.max(-1, keepdims=True)
        found.append((jnp.exp(logits - most), most))
    total = jax.nn.logsumexp(jnp.concatenate([jnp.log(power.sum(-1, keepdims=True)) + most for power, most in found], -1), -1)
    return total, (query, table, bias, found, total)


def powers_gradient(kept: Any, gradient: Float[Array, "B S"]) -> tuple[Array, Array, Array]:
    """Of query, table and bias: with p = softmax of the logits, g p T, (g p)ᵀ query and Σ g p."""
    query, table, bias, found, total = kept
    edges, wide = pieces(query[..., 0].size * len(table), len(table)), query.astype(jnp.float32)
    of_query, of_table, of_bias = jnp.zeros_like(wide), [], []
    for first, end, (power, most) in zip(edges, edges[1:], found, strict=False):
        scale = gradient[..., None] * jnp.exp(most - total[..., None])
        power = power.astype(table.dtype)
        of_query += (power @ table[first:end]).astype(jnp.float32) * scale
        flat = power.reshape(-1, end - first).T
        of_table.append(flat @ (wide * scale).astype(table.dtype).reshape(-1, table.shape[1]))
        of_bias.append((flat @ scale.astype(table.dtype).reshape(-1, 1))[:, 0])
    return of_query.astype(query.dtype), jnp.concatenate(of_table), jnp.concatenate(of_bias).astype(bias.dtype)


log_sum.defvjp(powers, powers_gradient)


def largest(values: Float[Array, "*B V"], most: int) -> tuple[Float[Array, "*B K"], Int[Array, "*B K"]]:
    """The `most` largest of each row and their places, as `jax.lax.top_k` has them: the first of equals, what isn't a number before
    all. None of them lies outside the `most` blocks with the largest maxima, so the others are left out."""
    blocks = values.shape[-1] // BLOCK
    if values.shape[-1] % BLOCK or blocks < 4 * most:
        return jax.lax.top_k(values, most)
    window = (*(1 for _ in values.shape[:-1]), BLOCK)
    best = jax.lax.reduce_window(values, -jnp.inf, lambda a, b: jnp.where((a > b) | jnp.isnan(a), a, b), window, window, "VALID")
    block = jnp.sort(jax.lax.top_k(best, most)[1])[..., None]   # in their order, so that the first of equals comes first
    some = jnp.take_along_axis(values.reshape(*values.shape[:-1], blocks, BLOCK), block, -2)
    value, place = jax.lax.top_k(some.reshape(*values.shape[:-1], -1), most)
    return value, jnp.take_along_axis((BLOCK * block + jnp.arange(BLOCK)).reshape(*values.shape[:-1], -1), place, -1)


@jax.custom_vjp
def products(query: Float[Array, "M P D"], table: Float[Array, "V D"], ids: Int[Array, "M N"]) -> Float[Array, "M P N"]:
    """What the P queries of each of M groups and its N vectors of the table have as products, f32; zeros where the ids are 0. Else
    no id comes twice in a group. A group's vectors are gathered, and their gradients made, while they are in the caches."""
    def one(group: tuple[Array, Array]) -> Array:
        some = lambda: (group[0] @ table[group[1]].T).astype(jnp.float32)  # noqa: E731
        return jax.lax.cond(group[1][0] > 0, some, lambda: jnp.zeros((query.shape[1], ids.shape[1]), jnp.float32))

    return jax.lax.map(one, (query, ids))


def products_forward(query: Array, table: Array, ids: Array) -> tuple[Array, Any]:
    """(products, what the gradient needs)."""
    return products(query, table, ids), (query, table, ids)


def products_gradient(kept: Any, gradient: Float[Array, "M P N"]) -> tuple[Array, Array, None]:
    """Of queries and table; sums of a vector's gradients are f32."""
    query, table, ids = kept

    def one(total: Array, given: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        query, ids, gradient = given
        gradient = gradient.astype(table.dtype)
        some = lambda total: (total.at[ids].add((gradient.T @ query).astype(jnp.float32), unique_indices=True),  # noqa: E731
                              gradient @ table[ids])
        return jax.lax.cond(ids[0] > 0, some, lambda total: (total, jnp.zeros_like(query)), total)

    of_table, of_query = jax.lax.scan(one, jnp.zeros(table.shape, jnp.float32), (query, ids, gradient))
    return of_query, of_table.astype(table.dtype), None


products.defvjp(products_forward, products_gradient)


class Factored(NamedTuple):
    """Logits over a table, `query @ table.T + bias`, made only when asked."""

    query: Float[Array, "B S D"]
    table: Float[Array, "V D"]
    bias: Float[Array, "V"]

    def logits(self) -> Float[Array, "B S V"]:
        """All logits, f32."""
        return (self.query @ self.table.T).astype(jnp.float32) + self.bias.astype(jnp.float32)

    def at(self, ids: Int[Array, "B S N"]) -> Float[Array, "B S N"]:
        """Logits of some ids only, f32."""
        score = jnp.einsum("bsd,bsnd->bsn", self.query, lookup(self.table, ids))
        return score.astype(jnp.float32) + lookup(self.bias[:, None], ids)[..., 0].astype(jnp.float32)

    def among(self, ids: Int[Array, "B G N"]) -> Float[Array, "B S N"]:
        """Logits of some ids, f32: the same ones, each once, for each of the G groups that the S slots of a row make."""
        b, groups, n = ids.shape
        score = products(self.query.reshape(b * groups, -1, self.query.shape[-1]), self.table, ids.reshape(-1, n))
        bias = lookup(self.bias[:, None], ids)[..., 0].astype(jnp.float32)
        return (score.reshape(b, groups, -1, n) + bias[:, :, None]).reshape(b, -1, n)

    def filled(self, size: int) -> "Factored":
        """With ids of no weight up to a multiple of `size`."""
        more = -len(self.table) % size
        table, bias = jnp.pad(self.table, ((0, more), (0, 0))), jnp.pad(self.bias, (0, more), constant_values=10 * LEAST)
        return Factored(self.query, table, bias)

    def tiles(self, size: int) -> "Factored":
        """Table and bias as T tiles of `size` ids each, the last one filled up with ids of no weight."""
        _, table, bias = self.filled(size)
        return Factored(self.query, table.reshape(-1, size, table.shape[-1]), bias.reshape(-1, size))

    def over(self, read: Callable[["Factored", Any], Any], size: int | None = None) -> Any:
        """What `read` says of every tile of `size` ids (None: all ids, or `TILE` where there are too many logits) and its first id,
        stacked [T, ...]. Of several tiles the logits of one exist at a time, and are made again for the gradient."""
        ids = len(self.table)
        if size is None:
            size = ids if self.query[..., 0].size * ids <= MOST_LOGITS else TILE
        one = lambda part: read(Factored(self.query, *part[:2]), part[2])  # noqa: E731
        if size >= ids:
            return jax.tree.map(lambda x: x[None], one((self.table, self.bias, 0)))
        tiled = self.tiles(size)
        return jax.lax.map(jax.checkpoint(one), (tiled.table, tiled.bias, size * jnp.arange(len(tiled.table))))

    def normaliser(self, size: int | None = None) -> Float[Array, "B S"]:
        """log Σ exp of all logits; their powers are kept for the gradient where they are few enough."""
        if (size or TILE) >= len(self.table) or (size is None and self.query[..., 0].size * len(self.table) <= MOST_POWERS):
            return log_sum(self.query, self.table, self.bias)
        return jax.nn.logsumexp(self.over(lambda tile, _: jax.nn.logsumexp(tile.logits(), -1), size or TILE), 0)

    def ranked(self, target: Int[Array, "B S *R"], seen: Int[Array, "B S M"], most: int, size: int | None = None
               ) -> tuple[Int[Array, "B S *R"], Int[Array, "B S K"], Float[Array, "B S K"]]:
        """(1-based rank of each slot's target, or of each of its distinct targets, among all ids but the other `seen` ones; the
        `most` ids at the top; their logits).

        A tie counts against a target, and so does a logit that isn't a number: rank = 1 + #{ids that are no target with not
        z < z_target} + the targets that come first by logit, of equals by their place. Ids whose bias is `LEAST` or less are in
        nobody's list; `seen` and targets are filled up with any of those.
        """
        rows, targets = jnp.indices(target.shape[:2])[..., None], target.reshape(*target.shape[:2], -1)

        def own(tile: Factored, first: Any) -> Array:
            place = targets - first
            found = jnp.take_along_axis(tile.logits(), jnp.clip(place, 0, len(tile.table) - 1), -1)
            return jnp.where((place >= 0) & (place < len(tile.table)), found, 0)

        whole = self.filled(BLOCK)
        mine = whole.over(own, size).sum(0)   # where all ids are one tile, the compiler makes these logits once for both

        def count(tile: Factored, first: Any) -> tuple[Array, Array, Array]:
            logits, ids = tile.logits(), len(tile.table)
            for some, value in ((seen, -jnp.inf), (targets, mine)):
                place = jnp.where((some < first) | (some >= first + ids), ids, some - first)   # `ids`: nowhere
                logits = logits.at[(*rows, place)].set(value, mode="drop")
            value, place = largest(logits, min(most, ids))
            above = lambda one: (~(logits < one[..., None]) & (tile.bias > LEAST)).sum(-1)  # noqa: E731
            one_by_one = jnp.moveaxis(mine, -1, 0)
            counts = jax.lax.map(above, one_by_one) if len(one_by_one) > 1 else above(mine[..., 0])[None]
            return jnp.moveaxis(counts, 0, -1), first + place, value

        above, ids, value = whole.over(count, size)
        counted = lookup(self.bias[:, None], targets)[..., 0] > LEAST
        among = (~(mine[..., None, :] < mine[..., None]) & counted[..., None, :]).sum(-1)   # of targets, itself too
        rank = 1 + above.sum(0) - among + jnp.argsort(jnp.argsort(-mine))
        merge = lambda x: jnp.moveaxis(x, 0, -2).reshape(*target.shape[:2], -1)  # noqa: E731
        value, place = jax.lax.top_k(merge(value), most)
        return rank.reshape(target.shape), jnp.take_along_axis(merge(ids), place, -1), value

    def best(self, size: int | None = None) -> Int[Array, "B S"]:
        """The id with the largest logit, the first one of equals."""
        def top(tile: Factored, first: Any) -> tuple[Array, Array]:
            logits = tile.logits()
            return logits.max(-1), first + logits.argmax(-1)

        value, ids = self.over(top, size)
        return jnp.take_along_axis(ids, value.argmax(0)[None], 0)[0]
