"""Logits over a large table, made only as far as they are asked for."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

MOST_LOGITS = 1 << 25   # numbers held at once: 128 MB in f32


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
        score = jnp.einsum("bsd,bsnd->bsn", self.query, self.table[ids])
        return score.astype(jnp.float32) + self.bias[ids].astype(jnp.float32)

    def tiles(self, size: int) -> "Factored":
        """Table and bias as T tiles of `size` ids each, the last one filled up with ids of no weight."""
        more = -len(self.table) % size
        table, bias = jnp.pad(self.table, ((0, more), (0, 0))), jnp.pad(self.bias, (0, more), constant_values=-1e9)
        return Factored(self.query, table.reshape(-1, size, table.shape[-1]), bias.reshape(-1, size))

    def over(self, read: Callable[["Factored"], Any], most: int = MOST_LOGITS) -> Any:
        """What `read` says of every tile, stacked [T, ...]. One tile where all logits are at most `most` numbers; else the
        logits of one tile at a time exist, made again for the gradient."""
        size = max(most // max(self.query[..., 0].size, 1), 1)
        tiled = self.tiles(min(size, len(self.table)))
        one = lambda part: read(Factored(self.query, *part))  # noqa: E731
        if len(tiled.table) == 1:
            return jax.tree.map(lambda x: x[None], one((self.table, self.bias)))
        return jax.lax.map(jax.checkpoint(one), (tiled.table, tiled.bias))

    def normaliser(self, most: int = MOST_LOGITS) -> Float[Array, "B S"]:
        """log Σ exp of all logits."""
        return jax.nn.logsumexp(self.over(lambda tile: jax.nn.logsumexp(tile.logits(), -1), most), 0)

    def best(self, most: int = MOST_LOGITS) -> Int[Array, "B S"]:
        """The id with the largest logit, the first one of equals."""
        found = self.over(lambda tile: (tile.logits().max(-1), tile.logits().argmax(-1), jnp.int32(len(tile.table))), most)
        tile = found[0].argmax(0)
        return tile * found[2][0] + jnp.take_along_axis(found[1], tile[None], 0)[0]
