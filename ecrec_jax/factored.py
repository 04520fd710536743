"""Logits over a large table, made only as far as they are asked for."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ecrec_jax import products
from ecrec_jax.lookup import Divided, Here, filled, lookup
from ecrec_jax.matmul import exact, matmul
from ecrec_jax.products import BLOCK, LEAST

MOST_LOGITS = 1 << 25   # 128 MB in f32: more are made in tiles
MOST_POWERS = {"cpu": 3 << 24, "gpu": 1 << 28, "tpu": 3 << 24}   # 192 MB in f32, 512 in bfloat16: more are made again, by tiles
TILE = 1 << 13          # ids of a tile


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


class Factored(NamedTuple):
    """Logits over a table, `query @ table.T + bias`, made only when asked."""

    query: Float[Array, "B S D"]
    table: Float[Array, "V D"]
    bias: Float[Array, "V"]

    def logits(self, product: products.Product = matmul) -> Float[Array, "B S V"]:
        """All logits, f32."""
        return products.logits(self.query, jnp.asarray(self.table), self.bias, product)

    def at(self, ids: Int[Array, "B G N"]) -> Float[Array, "B S N"]:
        """Logits of some ids only, f32: of each slot its own (G = S), or the same for all slots of one of the G groups of a row."""
        b, groups, n = ids.shape
        query, flat = self.query.reshape(b * groups, -1, self.query.shape[-1]), ids.reshape(-1, n)
        if isinstance(self.table, Divided):
            score = jnp.einsum("mpd,mnd->mpn", query, lookup(self.table, flat), preferred_element_type=jnp.float32)
        else:
            score = products.among(query, self.table, flat)
        bias = lookup(self.bias[:, None], ids)[..., 0].astype(jnp.float32)
        return (score.reshape(b, groups, -1, n) + bias[:, :, None]).reshape(b, -1, n)

    def tiles(self, size: int) -> "Factored":
        """Table and bias as T tiles of `size` ids each, the last one filled up with ids of no weight."""
        table, bias = filled(jnp.asarray(self.table), size, 0), filled(self.bias, size, 10 * LEAST)
        return Factored(self.query, table.reshape(-1, size, table.shape[-1]), bias.reshape(-1, size))

    def over(self, read: Callable[["Factored", Any], Any], size: int | None = None) -> Any:
        """What `read` says of every tile of `size` ids (None: all ids, or `TILE` where there are too many logits) and its first id,
        stacked [T, ...]. Of several tiles the logits of one exist at a time, and are made again for the gradient."""
        ids = len(self.table)
        if size is None:
            size = ids if self.query[..., 0].size * ids <= MOST_LOGITS else TILE
        one = lambda part: read(Factored(self.query, *part[:2]), part[2])  # noqa: E731
        if size >= ids:
            return jax.tree.map(lambda x: x[None], one((jnp.asarray(self.table), self.bias, 0)))
        tiled = self.tiles(size)
        return jax.lax.map(jax.checkpoint(one), (tiled.table, tiled.bias, size * jnp.arange(len(tiled.table))))

    def normaliser(self, size: int | None = None) -> Float[Array, "B S"]:
        """log Σ exp of all logits; their powers are kept for the gradient where they are few enough."""
        few = self.query[..., 0].size * len(self.table) <= MOST_POWERS[jax.default_backend()]
        if (size or TILE) >= len(self.table) or (size is None and few):
            return products.log_sum(self.query, jnp.asarray(self.table), self.bias)
        return jax.nn.logsumexp(self.over(lambda tile, _: jax.nn.logsumexp(tile.logits(), -1), size or TILE), 0)

    def ranked(self, target: Int[Array, "B S *R"], seen: Int[Array, "B S M"], most: int, size: int | None = None
               ) -> tuple[Int[Array, "B S *R"], Int[Array, "B S K"], Float[Array, "B S K"]]:
        """(1-based rank of each slot's target, or of each of its distinct targets, among all ids but the other `seen` ones; the
        `most` ids at the top; their logits).

        Logits are not rounded, whatever the type of query and table: rounded ones would tie. A tie counts against a target, and
        so does a logit that isn't a number: rank = 1 + #{ids that are no target with not z < z_target} + the targets that come
        first by logit, of equals by their place. Ids whose bias is `LEAST` or less are in nobody's list; `seen` and targets are
        filled up with any of those.
        """
        own_targets = target.reshape(*target.shape[:2], -1)
        meet = self.table if isinstance(self.table, Divided) else Here(self.table)
        table, bias, first = meet.ids(self.bias, BLOCK, 10 * LEAST)   # this device's, where each ranks some
        query, targets, seen = (meet.all(x) for x in (self.query, own_targets, seen))
        whole = Factored(query, table, bias)
        rows = jnp.indices(targets.shape[:2])[..., None]

        def own(tile: Factored, start: Any) -> Array:
            place = targets - first - start
            found = jnp.take_along_axis(tile.logits(exact), jnp.clip(place, 0, len(tile.table) - 1), -1)
            return jnp.where((place >= 0) & (place < len(tile.table)), found, 0)

        mine = meet.sum(whole.over(own, size).sum(0))   # where all ids are one tile, the compiler makes these logits once for both
        all_mine = meet.all(mine)

        def count(tile: Factored, start: Any) -> tuple[Array, Array, Array]:
            logits, ids = tile.logits(exact), len(tile.table)
            for some, value in ((seen, -jnp.inf), (targets, all_mine)):
                place = some - first - start
                place = jnp.where((place < 0) | (place >= ids), ids, place)   # `ids`: nowhere
                logits = logits.at[(*rows, place)].set(value, mode="drop")
            value, place = largest(logits, min(most, ids))
            above = lambda one: (~(logits < one[..., None]) & (tile.bias > LEAST)).sum(-1)  # noqa: E731
            one_by_one = jnp.moveaxis(all_mine, -1, 0)
            counts = jax.lax.map(above, one_by_one) if len(one_by_one) > 1 else above(one_by_one[0])[None]
            return jnp.moveaxis(counts, 0, -1), first + start + place, value

        above, ids, value = whole.over(count, size)
        merge = lambda x: meet.lists(jnp.moveaxis(x, 0, -2).reshape(*targets.shape[:2], -1))  # noqa: E731
        value, place = jax.lax.top_k(merge(value), most)
        counted = lookup(self.bias[:, None], own_targets)[..., 0] > LEAST
        among = (~(mine[..., None, :] < mine[..., None]) & counted[..., None, :]).sum(-1)   # of targets, itself too
        rank = 1 + meet.sum(above.sum(0)) - among + jnp.argsort(jnp.argsort(-mine))
        return rank.reshape(target.shape), jnp.take_along_axis(merge(ids), place, -1), value

    def best(self, size: int | None = None) -> Int[Array, "B S"]:
        """The id with the largest logit, the first one of equals."""
        def top(tile: Factored, first: Any) -> tuple[Array, Array]:
            logits = tile.logits(exact)
            return logits.max(-1), first + logits.argmax(-1)

        value, ids = self.over(top, size)
        return jnp.take_along_axis(ids, value.argmax(0)[None], 0)[0]
