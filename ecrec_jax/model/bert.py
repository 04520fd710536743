"""BERT (Devlin et al. 2019): the encoder, with attribute names as in Hugging Face's Flax tree."""

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from ecrec_jax.attention import Look, choose, inside
from ecrec_jax.block import LayerNorm, activation, dropout, embedding, linear, named, read
from ecrec_jax.lookup import lookup
from ecrec_jax.types import Batch, InputError, Noise, Strategy

Site = int | Int[Array, ""]   # of dropout; each layer has three: attention, and the ends of both halves


class Embeddings(nnx.Module):
    """Word, position and token-type vectors, summed, normalised, dropped out."""

    def __init__(self, vocabulary: int, positions: int, types: int, width: int, epsilon: float, dropout: float,
                 spread: float, rngs: nnx.Rngs):
        self.word_embeddings = embedding(vocabulary, width, spread, rngs)
        self.position_embeddings = embedding(positions, width, spread, rngs)
        self.token_type_embeddings = embedding(types, width, spread, rngs)
        self.LayerNorm = LayerNorm(width, epsilon)
        self.dropout = dropout

    def __call__(self, batch: Batch, noise: Noise | None) -> Float[Array, "B L D"]:
        word, kind, place = (x.embedding[...] for x in (self.word_embeddings, self.token_type_embeddings, self.position_embeddings))
        x = lookup(word, batch["tokens"]) + lookup(kind, batch["type"]) + lookup(place, batch["position"])
        if "offset" in batch:
            x = x + batch["offset"].astype(x.dtype)
        return dropout(self.LayerNorm(x), noise, 0, self.dropout)


class Projections(nnx.Module):
    """Query, key and value of self-attention."""

    def __init__(self, width: int, spread: float, rngs: nnx.Rngs):
        self.query, self.key, self.value = (linear(width, width, spread, rngs) for _ in range(3))


class Output(nnx.Module):
    """Projection, dropout, residual, layer norm: how both halves of a layer end."""

    def __init__(self, inputs: int, width: int, epsilon: float, dropout: float, spread: float, rngs: nnx.Rngs):
        self.dense, self.LayerNorm = linear(inputs, width, spread, rngs), LayerNorm(width, epsilon)
        self.dropout = dropout

    def __call__(self, x: Float[Array, "B L F"], residual: Float[Array, "B L D"], noise: Noise | None,
                 site: Site) -> Float[Array, "B L D"]:
        return self.LayerNorm(residual + dropout(self.dense(x), noise, site, self.dropout))


class Attention(nnx.Module):
    """Multi-head self-attention with its output."""

    def __init__(self, heads: int, width: int, attention_dropout: float, output: Output, spread: float, rngs: nnx.Rngs):
        self.self, self.output = Projections(width, spread, rngs), output
        self.heads, self.dropout = heads, attention_dropout

    def __call__(self, x: Float[Array, "B L D"], noise: Noise | None, site: Site, look: Look) -> Float[Array, "B T D"]:
        asking = x if look.slot is None else read(x, look.slot)
        split = lambda y: y.reshape(*y.shape[:2], self.heads, -1)  # noqa: E731
        query, key, value = split(self.self.query(asking)), split(self.self.key(x)), split(self.self.value(x))
        found = look.attend(query, key, value, noise, site, self.dropout).reshape(asking.shape)
        return self.output(found, asking, noise, site + 1)


class Intermediate(nnx.Module):
    """The widening half of the feed-forward block."""

    def __init__(self, width: int, feed_forward: int, name: str, spread: float, rngs: nnx.Rngs):
        self.dense, self.activation = linear(width, feed_forward, spread, rngs), activation(name)

    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L F"]:
        return self.activation(self.dense(x.reshape(-1, x.shape[-1]))).reshape(*x.shape[:-1], -1)   # TPUs keep less of a matrix


class Layer(nnx.Module):
    """Attention, then feed-forward: of all tokens, or of those at `slot`, which look at all."""

    def __init__(self, attention: Attention, intermediate: Intermediate, output: Output):
        self.attention, self.intermediate, self.output = attention, intermediate, output

    def __call__(self, x: Float[Array, "B L D"], noise: Noise | None, site: Site, look: Look) -> Float[Array, "B T D"]:
        x = named("attention", self.attention, x, noise, site, look)
        return named("feed_forward", lambda x: self.output(self.intermediate(x), x, noise, site + 2), x)


class Encoder(nnx.Module):
    """The stack of layers. `remat`: the gradient keeps the layers' inputs alone and computes each layer again (Chen et al. 2016,
    "Training deep nets with sublinear memory cost"). `scan`: one program of a layer, run over stacked parameters."""

    def __init__(self, layers: list[Layer], remat: bool, scan: bool):
        self.layer, self.remat, self.scan = nnx.List(layers), remat, scan

    def through(self, noise: Noise | None, look: Look) -> Callable[[Array, int], Float[Array, "B T D"]]:
        """What a layer, named by its number, makes of an input; traced once for all of them."""
        run = lambda layer, x, site: layer(x, noise, site, look)  # noqa: E731
        one = jax.jit(jax.checkpoint(run) if self.remat else run)
        return lambda x, number: one(self.layer[number], x, 3 * number + 1)

    def loop(self, x: Float[Array, "B L D"], noise: Noise | None, look: Look) -> Float[Array, "B L D"]:
        """What all layers but the last make of the input, one program run again and again."""
        layers = self.layer[:-1]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)

        def run(x: Array, given: tuple[Layer, Site]) -> tuple[Array, None]:
            return given[0](x, noise, given[1], look), None

        body = jax.checkpoint(run, prevent_cse=False) if self.remat else run   # a loop's body is not merged with another
        return jax.lax.scan(body, x, (stacked, 3 * jnp.arange(len(layers)) + 1))[0]

    def __call__(self, x: Float[Array, "B L D"], noise: Noise | None, look: Look, last: Look) -> Float[Array, "B T D"]:
        """The last layer's output; that one looks as `last` says."""
        before, through = len(self.layer) - 1, self.through(noise, look)
        looped = self.scan and before
        x = self.loop(x, noise, look) if looped else functools.reduce(through, range(before), x)
        return (through if last is look else self.through(noise, last))(x, before)


class Pooler(nnx.Module):
    """tanh(W h + b), of the first token in BERT."""

    def __init__(self, width: int, spread: float, rngs: nnx.Rngs):
        self.dense = linear(width, width, spread, rngs)

    def __call__(self, hidden: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        return jnp.tanh(self.dense(hidden))


class Bert(nnx.Module):
    """The encoder. Attention stays inside a segment, so that several examples may share a row; `causal`: and looks at
    earlier tokens only, as a decoder without cross-attention does.

    Raises:
        InputError: a size below 1, a rate outside [0, 1), or a `width` that is no multiple of `heads`.
    """

    def __init__(self, vocabulary: int, positions: int, types: int, width: int, depth: int, heads: int,
                 feed_forward: int, activation: str, norm_epsilon: float, dropout: float, attention_dropout: float,
                 initializer_range: float, pooler: bool, causal: bool, rngs: nnx.Rngs,
                 attention: Literal["auto", "dense", "splash", "flash"] = "auto", remat: bool = False, scan: bool = False):
        sizes = {"vocabulary": vocabulary, "positions": positions, "types": types, "width": width, "depth": depth, "heads": heads,
                 "feed_forward": feed_forward}
        for name, size in sizes.items():
            if size < 1:
                raise InputError(f"model.{name} is {size}, must be at least 1")
        for name, rate in (("dropout", dropout), ("attention_dropout", attention_dropout)):
            if not 0 <= rate < 1:
                raise InputError(f"model.{name} is {rate}, must be 0 or more, below 1")
        if width % heads:
            raise InputError(f"model.width {width} is not a multiple of model.heads {heads}")
        spread = initializer_range
        self.embeddings = Embeddings(vocabulary, positions, types, width, norm_epsilon, dropout, spread, rngs)
        output = functools.partial(Output, width=width, epsilon=norm_epsilon, dropout=dropout, spread=spread, rngs=rngs)
        self.encoder = Encoder([
            Layer(Attention(heads, width, attention_dropout, output(width), spread, rngs),
                  Intermediate(width, feed_forward, activation, spread, rngs), output(feed_forward))
            for _ in range(depth)], remat, scan)
        self.pooler = Pooler(width, spread, rngs) if pooler else None
        self.causal, self.attention, self.attention_dropout = causal, attention, attention_dropout

    def look(self, batch: Batch, strategy: Strategy | None, slot: Int[Array, "B S"] | None = None) -> Look:
        """Attention inside the batch's segments, in the form that suits the devices; dense where none are named."""
        length, rate = batch["segment"].shape[1], self.attention_dropout
        form = choose(self.attention, strategy.platform, length, rate) if strategy else "dense"
        return inside(batch["segment"], self.causal, form, strategy, slot)

    def states(self, batch: Batch) -> list[Float[Array, "B L D"]]:
        """The embeddings' output and every layer's, without dropout."""
        through, states = self.encoder.through(None, self.look(batch, None)), [self.embeddings(batch, None)]
        for number in range(len(self.encoder.layer)):
            states.append(through(states[-1], number))
        return states

    def __call__(self, batch: Batch, noise: Noise | None = None, strategy: Strategy | None = None,
                 slot: Int[Array, "B S"] | None = None) -> Float[Array, "B T D"]:
        """The last layer's hidden states, of all tokens or of those at `slot`: these ask all, and nothing else is computed, where
        they are few."""
        if slot is not None and 2 * slot.shape[1] > batch["tokens"].shape[1]:
            return read(self(batch, noise, strategy), slot)
        look = self.look(batch, strategy)
        last = look if slot is None else self.look(batch, strategy, slot)
        return self.encoder(named("embeddings", self.embeddings, batch, noise), noise, look, last)

    def table(self) -> Float[Array, "V D"]:
        """The word vectors, for heads that tie to them."""
        return self.embeddings.word_embeddings.embedding[...]

    def pool(self, hidden: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        """BERT's pooler on hidden states of first tokens."""
        return self.pooler(hidden)
