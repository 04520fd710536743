"""Self-attention over a user's items: SASRec as published and cleaned, and the gated layers of eSASRec."""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from ecrec_jax.attention import Look, choose, inside
from ecrec_jax.block import Constant, LayerNorm, Linear, dropout, embedding, initial, linear, named, read
from ecrec_jax.lookup import lookup
from ecrec_jax.types import Batch, InputError, Noise, Strategy


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
    """Dropout(W₃ (silu(W₁ x) ⊙ W₂ x)), no bias (Shazeer 2020, eq. 6)."""

    def __init__(self, width: int, inner: int, dropout: float, spread: float | str, rngs: nnx.Rngs):
        plain = functools.partial(Linear, use_bias=False, kernel_init=initial(spread), rngs=rngs)
        self.gate, self.inner, self.outer = plain(width, inner), plain(width, inner), plain(inner, width)
        self.dropout = dropout

    def __call__(self, x: Float[Array, "B T D"], noise: Noise | None, site: int) -> Float[Array, "B T D"]:
        return dropout(self.outer(jax.nn.silu(self.gate(x)) * self.inner(x)), noise, site, self.dropout)


class Layer(nnx.Module):
    """Attention, then feed-forward, in one of three forms.

    original: h = LN(x) + attention(LN(x), x), y = LN(h) + feed_forward(LN(h)): only the query is normalised, and what is normalised
    is added, as in SASRec's code. clean: h = x + attention(LN(x)), y = h + feed_forward(LN(h)). ligr: x + σ(W x) ⊙ sublayer(LN(x))
    for both, with SwiGLU (eSASRec, after Borisyuk et al. 2024, LiGR).
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
    the layer is the whitening of UniSRec (Hou et al. 2022, eq. 2).

    Raises:
        InputError: a size below 1, a rate outside [0, 1), or a `width` that is no multiple of `heads`.
    """

    def __init__(self, vocabulary: int, positions: int, width: int, depth: int, heads: int, feed_forward: int, dropout: float,
                 initializer_range: float, norm_epsilon: float, form: Literal["original", "clean", "ligr"], scaled: bool,
                 normed: bool, glorot: bool, causal: bool, text: Literal["none", "only", "add"], rngs: nnx.Rngs,
                 vectors: Any = None, attention: Literal["auto", "dense", "splash", "flash"] = "auto", types: int | None = None):
        for name, size in (("vocabulary", vocabulary), ("positions", positions), ("width", width), ("depth", depth),
                           ("heads", heads), ("feed_forward", feed_forward)):
            if size < 1:
                raise InputError(f"model.{name} is {size}, must be at least 1")
        if not 0 <= dropout < 1:
            raise InputError(f"model.dropout is {dropout}, must be 0 or more, below 1")
        if width % heads:
            raise InputError(f"model.width {width} is not a multiple of model.heads {heads}")
        spread = "glorot" if glorot else initializer_range
        if text != "none" and vectors is None:
            raise InputError("model.text reads vectors of items: set data.vectors, or model.text=none")
        self.items = embedding(vocabulary, width, spread, rngs) if text != "only" else None
        self.position = embedding(positions, width, spread, rngs)
        self.text = linear(vectors.shape[1], width, spread, rngs) if text != "none" else None
        self.vectors = Constant(jnp.asarray(vectors)) if text != "none" else None
        self.layer = nnx.List([Layer(form, width, heads, feed_forward, dropout, spread, norm_epsilon, rngs) for _ in range(depth)])
        self.norm = LayerNorm(width, norm_epsilon) if normed else None
        self.type = embedding(types, width, spread, rngs) if types is not None and types > 1 else None
        self.scale, self.dropout, self.causal, self.attention = width**0.5 if scaled else 1.0, dropout, causal, attention

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
