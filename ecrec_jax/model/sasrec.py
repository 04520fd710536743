"""Self-attention over a user's items: SASRec as published and cleaned, and the gated layers of eSASRec."""

import copy
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from ecrec_jax.attention import Look, choose, inside
from ecrec_jax.block import Constant, LayerNorm, Linear, dropout, embedding, linear, named, read, scramble
from ecrec_jax.lookup import Divided, dropped, lookup
from ecrec_jax.types import Batch, InputError, Noise, Strategy
from ecrec_jax.weights import initial

TEXTS = 64   # of items, that a text encoder reads at a time


class Attention(nnx.Module):
    """Multi-head attention: of `asking` to `x`."""

    def __init__(self, width: int, heads: int, dropout: float, spread: float | str, rngs: nnx.Rngs):
        self.query, self.key, self.value, self.output = (linear(width, width, spread, rngs) for _ in range(4))
        self.heads, self.dropout = heads, dropout

    def __call__(self, asking: Float[Array, "B T D"], x: Float[Array, "B L D"], noise: Noise | None, site: int,
                 look: Look) -> Float[Array, "B T D"]:
        split = lambda y: y.reshape(*y.shape[:2], self.heads, -1)  # noqa: E731
        found = look.attend(split(self.query(asking)), split(self.key(x)), split(self.value(x)), noise, site, self.dropout)
        return self.output(found.reshape(asking.shape))


class FeedForward(nnx.Module):
    """Dropout(W₂ dropout(relu(W₁ x))), pointwise (Kang & McAuley 2018, eq. 4)."""

    def __init__(self, width: int, inner: int, dropout: float, spread: float | str, rngs: nnx.Rngs):
        self.inner, self.outer, self.dropout = linear(width, inner, spread, rngs), linear(inner, width, spread, rngs), dropout

    def __call__(self, x: Float[Array, "B T D"], noise: Noise | None, site: int) -> Float[Array, "B T D"]:
        x = dropout(jax.nn.relu(self.inner(x)), noise, site, self.dropout)
        return dropout(self.outer(x), noise, site + 1, self.dropout)


class SwiGlu(nnx.Module):
    """Dropout(W₃ dropout(silu(W₁ x) ⊙ W₂ x)), no bias (Shazeer 2020, eq. 6), with the dropout of eSASRec's code."""

    def __init__(self, width: int, inner: int, dropout: float, spread: float | str, rngs: nnx.Rngs):
        plain = functools.partial(Linear, use_bias=False, kernel_init=initial(spread, rngs), rngs=rngs)
        self.gate, self.inner, self.outer = plain(width, inner), plain(width, inner), plain(inner, width)
        self.dropout = dropout

    def __call__(self, x: Float[Array, "B T D"], noise: Noise | None, site: int) -> Float[Array, "B T D"]:
        x = dropout(jax.nn.silu(self.gate(x)) * self.inner(x), noise, site, self.dropout)
        return dropout(self.outer(x), noise, site + 1, self.dropout)


class Layer(nnx.Module):
    """Attention, then feed-forward, in one of three forms.

    original: h = LN(x) + attention(LN(x), x), y = LN(h) + feed_forward(LN(h)): only the query is normalised, and what is normalised
    is added, as in SASRec's code (where attention has no output matrix). clean: h = x + attention(LN(x)), y = h +
    feed_forward(LN(h)). ligr: x + σ(W x) ⊙ sublayer(LN(x)) for both, with SwiGLU (eSASRec, after Borisyuk et al. 2025, LiGR).
    """

    def __init__(self, form: str, width: int, heads: int, inner: int, dropout: float, spread: float | str, epsilon: float,
                 rngs: nnx.Rngs):
        self.norm = nnx.List([LayerNorm(width, epsilon), LayerNorm(width, epsilon)])
        self.attention = Attention(width, heads, dropout, spread, rngs)
        self.feed_forward = (SwiGlu if form == "ligr" else FeedForward)(width, inner, dropout, spread, rngs)
        self.gate = nnx.List([linear(width, width, spread, rngs) for _ in range(2)]) if form == "ligr" else None
        self.form, self.dropout = form, dropout

    def __call__(self, x: Float[Array, "B L D"], noise: Noise | None, site: int, look: Look) -> Float[Array, "B T D"]:
        asking = x if look.slot is None else read(x, look.slot)
        if self.form == "original":
            asking = self.norm[0](asking)
            x = self.norm[1](asking + named("attention", self.attention, asking, x, noise, site, look))
            return x + named("feed_forward", self.feed_forward, x, noise, site + 1)
        normal = self.norm[0](x)
        query = normal if look.slot is None else read(normal, look.slot)
        found = dropout(named("attention", self.attention, query, normal, noise, site, look), noise, site + 3, self.dropout)
        x = asking + self.gated(0, asking, found)
        return x + self.gated(1, x, named("feed_forward", self.feed_forward, self.norm[1](x), noise, site + 1))

    def gated(self, number: int, x: Float[Array, "B T D"], found: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """What a sublayer found, as far as its gate lets it through."""
        return found if self.gate is None else jax.nn.sigmoid(self.gate[number](x)) * found


class Sasrec(nnx.Module):
    """Item and position vectors, `depth` layers of a `form`, layer norm (if `normed`). `scaled`: item vectors times √width, as in
    the original. `glorot`: matrices begin so, `initializer_range` is then the head's alone. `text`: items have vectors of their
    numbers (none), what a dense layer makes of their texts' `vectors` (only, so that new items have one too), or the sum (add);
    the layer is the whitening of UniSRec (Hou et al. 2022, eq. 2). Vectors are given and stay, or a `text_encoder` makes them of
    the items' `texts` (token ids, 0 where there is none) and is trained along.

    Raises:
        InputError: a size below 1, a rate outside [0, 1), or a `width` that is no multiple of `heads`.
    """

    def __init__(self, vocabulary: int, positions: int, width: int, depth: int, heads: int, feed_forward: int, dropout: float,
                 initializer_range: float, norm_epsilon: float, form: Literal["original", "clean", "ligr"], scaled: bool,
                 normed: bool, glorot: bool, causal: bool, text: Literal["none", "only", "add"], rngs: nnx.Rngs,
                 vectors: Any = None, attention: Literal["auto", "dense", "splash", "flash"] = "auto", types: int | None = None,
                 text_encoder: Any = None, texts: Any = None, item_dropout: float = 0.0):
        for name, size in (("vocabulary", vocabulary), ("positions", positions), ("width", width), ("depth", depth),
                           ("heads", heads), ("feed_forward", feed_forward)):
            if size < 1:
                raise InputError(f"model.{name} is {size}, must be at least 1")
        for name, rate in (("dropout", dropout), ("item_dropout", item_dropout)):
            if not 0 <= rate < 1:
                raise InputError(f"model.{name} is {rate}, must be 0 or more, below 1")
        if width % heads:
            raise InputError(f"model.width {width} is not a multiple of model.heads {heads}")
        spread = "glorot" if glorot else initializer_range
        if text == "none" and text_encoder is not None:
            raise InputError("model.text is none, and model.text_encoder reads texts: set model.text=only, or add")
        if text_encoder is not None:
            vectors = np.zeros((len(texts), text_encoder.model.table().shape[1]), "f4")   # until it reads the catalogue
        if text != "none" and vectors is None:
            raise InputError("model.text reads vectors of items: set data.vectors, or a model.text_encoder, or model.text=none")
        self.items = embedding(vocabulary, width, spread, rngs) if text != "only" else None
        self.position = embedding(positions, width, spread, rngs)
        self.text = linear(vectors.shape[1], width, spread, rngs) if text != "none" else None
        self.vectors = Constant(jnp.asarray(vectors)) if text != "none" else None
        self.text_encoder, self.texts = text_encoder, None if text_encoder is None else Constant(jnp.asarray(texts))
        self.layer = nnx.List([Layer(form, width, heads, feed_forward, dropout, spread, norm_epsilon, rngs) for _ in range(depth)])
        self.norm = LayerNorm(width, norm_epsilon) if normed else None
        self.type = embedding(types, width, spread, rngs) if types is not None and types > 1 else None
        self.scale, self.dropout, self.causal, self.attention = width**0.5 if scaled else 1.0, dropout, causal, attention
        self.item_dropout = item_dropout

    def look(self, segment: Int[Array, "B L"], strategy: Strategy | None, slot: Int[Array, "B S"] | None = None) -> Look:
        """Attention inside the segments, in the form that suits the devices."""
        form = choose(self.attention, strategy.platform, segment.shape[1], self.dropout) if strategy else "dense"
        return inside(segment, self.causal, form, strategy, slot)

    def __call__(self, batch: Batch, noise: Noise | None = None, strategy: Strategy | None = None,
                 slot: Int[Array, "B S"] | None = None) -> Float[Array, "B T D"]:
        """The last layer's states, of all items or of those at `slot`."""
        if slot is not None and 2 * slot.shape[1] > batch["tokens"].shape[1]:
            return read(self(batch, noise, strategy), slot)
        x = lookup(self.table(), batch["tokens"]) * self.scale
        x = x + lookup(self.position.embedding[...], batch["position"])
        if self.type is not None:
            x = x + lookup(self.type.embedding[...], batch["type"])
        if "offset" in batch:
            x = x + batch["offset"].astype(x.dtype)
        x = dropout(x, noise, 0, self.dropout)
        whole = self.look(batch["segment"], strategy)
        for number, layer in enumerate(self.layer):
            last = slot is not None and number == len(self.layer) - 1
            x = layer(x, noise, 4 * number + 1, self.look(batch["segment"], strategy, slot) if last else whole)
        return x if self.norm is None else self.norm(x)

    def table(self) -> Float[Array, "V D"]:
        """The item vectors."""
        if self.text is None:
            return self.items.embedding[...]
        found = self.text(self.vectors[...])
        return found if self.items is None else found + self.items.embedding[...]

    def encode(self, ids: Int[Array, "N"], noise: Noise | None) -> Float[Array, "N F"]:
        """What the text encoder makes of these items' texts, `TEXTS` at a time; of ids beyond the last, nothing to be used. The
        gradient keeps the ids alone and reads their texts again."""
        count, length = self.texts.shape
        filled = jnp.pad(ids, (0, -len(ids) % TEXTS), constant_values=count).reshape(-1, TEXTS)

        def some(ids: Int[Array, "M"]) -> Float[Array, "M F"]:
            tokens = self.texts[...][jnp.minimum(ids, count - 1)]
            batch = {"tokens": tokens, "segment": (tokens > 0).astype(jnp.int32), "type": jnp.zeros_like(tokens),
                     "position": jnp.broadcast_to(jnp.arange(length), tokens.shape), "slot": jnp.zeros((len(ids), 1), jnp.int32)}
            own = None if noise is None else Noise(scramble(noise.seed), ids)   # an item's dropout, whichever rows name it
            return self.text_encoder(batch, own)[:, 0].astype(self.vectors.dtype)

        none = lambda ids: jnp.zeros((len(ids), self.vectors.shape[1]), self.vectors.dtype)  # noqa: E731
        tile = jax.checkpoint(some)
        if not isinstance(self.text_encoder.model.table(), Divided):   # else devices meet in each tile, whoever has items in it
            tile = lambda ids: jax.lax.cond(ids[0] < count, jax.checkpoint(some), none, ids)  # noqa: E731
        return jax.lax.map(tile, filled).reshape(filled.size, -1)[: len(ids)]

    def reading(self, batch: Batch, noise: Noise) -> "Sasrec":
        """This model as a step of training reads items: less what `item_dropout` drops of their vectors (as in RecTools) and with
        a text encoder's vectors of those that a batch names, so that the gradient reaches it; others' are worth nothing."""
        found = copy.copy(self)
        if self.item_dropout and self.items is not None:
            found.items = copy.copy(self.items)
            found.items.embedding = nnx.Param(dropped(self.items.embedding[...], noise, self.item_dropout))
        if self.text_encoder is None:
            return found
        asked = jnp.concatenate([batch[key].reshape(-1) for key in ("tokens", "label", "negative") if key in batch])
        count = len(self.texts)
        ids = jnp.unique(jnp.where(asked > 0, asked, count), size=min(count, len(asked)), fill_value=count)
        found.vectors = Constant(self.vectors[...].at[ids].set(self.encode(ids, noise), mode="drop"))
        return found
