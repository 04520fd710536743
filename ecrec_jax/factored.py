"""Logits over a large table, made only as far as they are asked for."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

MOST_LOGITS = 1 << 25   # 128 MB in f32: more are made in tiles
TILE = 1 << 13          # ids of a tile
LEAST = -1e8            # of a bias: ids below are in nobody's list


class Factored(NamedTuple):
    """Logits over a table, `query @ table.T + bias`, made only when asked. `first`: the id of its first row, in a tile."""

    query: Float[Array, "B S D"]
    table: Float[Array, "V D"]
    bias: Float[Array, "V"]
    first: int | Int[Array, ""] = 0

    def logits(self) -> Float[Array, "B S V"]:
        """All logits, f32."""
        return (self.query @ self.table.T).astype(jnp.float32) + self.bias.astype(jnp.float32)

    def at(self, ids: Int[Array, "B S N"]) -> Float[Array, "B S N"]:
        """Logits of some ids only, f32."""
        score = jnp.einsum("bsd,bsnd->bsn", self.query, self.table[ids])
        return score.astype(jnp.float32) + self.bias[ids].astype(jnp.float32)

    def tiles(self, size: int) -> "Factored":
        """Table and bias as T tiles of `size` ids each, the last one filled up with ids of no weight."""
        more = -len(self.table) % size
        table, bias = jnp.pad(self.table, ((0, more), (0, 0))), jnp.pad(self.bias, (0, more), constant_values=10 * LEAST)
        return Factored(self.query, table.reshape(-1, size, table.shape[-1]), bias.reshape(-1, size))

    def over(self, read: Callable[["Factored"], Any], size: int | None = None) -> Any:
        """What `read` says of every tile of `size` ids (None: all ids, or `TILE` where there are too many logits), stacked
        [T, ...]. Of several tiles the logits of one exist at a time, and are made again for the gradient."""
        ids = len(self.table)
        if size is None:
            size = ids if self.query[..., 0].size * ids <= MOST_LOGITS else TILE
        one = lambda part: read(Factored(self.query, *part))  # noqa: E731
        if size >= ids:
            return jax.tree.map(lambda x: x[None], one((self.table, self.bias)))
        tiled = self.tiles(size)
        return jax.lax.map(jax.checkpoint(one), (tiled.table, tiled.bias, size * jnp.arange(len(tiled.table))))

    def normaliser(self, size: int | None = None) -> Float[Array, "B S"]:
        """log Σ exp of all logits."""
        return jax.nn.logsumexp(self.over(lambda tile: jax.nn.logsumexp(tile.logits(), -1), size), 0)

    def ranked(self, target: Int[Array, "B S"], seen: Int[Array, "B S M"], most: int, size: int | None = None
               ) -> tuple[Int[Array, "B S"], Int[Array, "B S K"], Float[Array, "B S K"]]:
        """(1-based rank of each slot's target among all ids but the other `seen` ones, the `most` ids at the top, their logits).

        A tie counts against the target, and so does a logit that isn't a number: rank = 1 + #{other ids with not z < z_target}.
        Ids whose bias is `LEAST` or less are in nobody's list; `seen` is filled up with any of those.
        """
        rows = jnp.indices(target.shape)[..., None]
        own = lambda tile: tile.first + jnp.arange(len(tile.table)) == target[..., None]  # noqa: E731
        mine = self.over(lambda tile: jnp.where(own(tile), tile.logits(), 0).sum(-1), size).sum(0)[..., None]   # to the last bit

        def count(tile: Factored) -> tuple[Array, Array, Array]:
            logits, ids = tile.logits(), len(tile.table)
            place = seen - tile.first
            place = jnp.where((place < 0) | (place >= ids) | (seen == target[..., None]), ids, place)   # `ids`: nowhere
            logits = logits.at[(*rows, place)].set(-jnp.inf, mode="drop")
            value, place = jax.lax.top_k(logits, min(most, ids))
            return (~(logits < mine) & ~own(tile) & (tile.bias > LEAST)).sum(-1), tile.first + place, value

        above, ids, value = self.over(count, size)
        merge = lambda x: jnp.moveaxis(x, 0, -2).reshape(*target.shape, -1)  # noqa: E731
        value, place = jax.lax.top_k(merge(value), most)
        return 1 + above.sum(0), jnp.take_along_axis(merge(ids), place, -1), value

    def best(self, size: int | None = None) -> Int[Array, "B S"]:
        """The id with the largest logit, the first one of equals."""
        def top(tile: Factored) -> tuple[Array, Array, Array]:
            logits = tile.logits()
            return logits.max(-1), logits.argmax(-1), jnp.int32(len(tile.table))

        value, place, ids = self.over(top, size)
        tile = value.argmax(0)
        return tile * ids[0] + jnp.take_along_axis(place, tile[None], 0)[0]
