"""A bidirectional LSTM over word vectors, on packed rows."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ecrec_jax.block import Linear, dropout, embedding, read, starts
from ecrec_jax.lookup import lookup
from ecrec_jax.types import Batch, InputError, Noise, Strategy


def forgetful(key: Array, shape: Sequence[int], dtype: jnp.dtype) -> Float[Array, "4H"]:
    """Zeros, but ones for the forget gate, so that a new cell keeps what it has. Source: Jozefowicz et al. 2015, §2.2."""
    return jnp.repeat(jnp.array([0, 1, 0, 0], dtype), shape[0] // 4)


def lstm(gates: Float[Array, "B L 4H"], fresh: Bool[Array, "B L"], kernel: Float[Array, "H 4H"]) -> Float[Array, "B L H"]:
    """The states h of an LSTM that forgets everything where a token is `fresh`:

    i, f, g, o = gates + h W; c ← σ(f) c + σ(i) tanh(g); h ← σ(o) tanh(c), cells in f32.

    Source: Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000; the gates in torch's and Keras' order.
    """
    def step(carry: tuple[Array, Array], given: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        gate, new = given
        hidden, cell = (jnp.where(new[:, None], 0, x) for x in carry)
        i, f, g, o = jnp.split((gate + hidden @ kernel).astype(jnp.float32), 4, -1)
        cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
        hidden = (jax.nn.sigmoid(o) * jnp.tanh(cell)).astype(gate.dtype)
        return (hidden, cell), hidden

    blank = jnp.zeros_like(gates[:, 0, : kernel.shape[0]])
    return jax.lax.scan(step, (blank, blank.astype(jnp.float32)), (gates.swapaxes(0, 1), fresh.T))[1].swapaxes(0, 1)


class Direction(nnx.Module):
    """The parameters of an LSTM: what inputs and what states are multiplied with, one bias."""

    def __init__(self, inputs: int, units: int, rngs: nnx.Rngs):
        self.input = Linear(inputs, 4 * units, kernel_init=nnx.initializers.glorot_uniform(), bias_init=forgetful, rngs=rngs)
        self.recurrent = nnx.Linear(units, 4 * units, use_bias=False, kernel_init=nnx.initializers.orthogonal(), rngs=rngs)


class Layer(nnx.Module):
    """An LSTM from the left and one from the right, half of the width each, side by side; only the first if `causal`."""

    def __init__(self, inputs: int, width: int, causal: bool, rngs: nnx.Rngs):
        units = width if causal else width // 2
        self.forward = Direction(inputs, units, rngs)
        self.backward = None if causal else Direction(inputs, units, rngs)

    def __call__(self, x: Float[Array, "B L I"], segment: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        gates, kernel = self.forward.input(x), self.forward.recurrent.kernel[...]
        if self.backward is None:
            return lstm(gates, starts(segment), kernel)
        turned = jnp.flip(self.backward.input(x), 1), starts(jnp.flip(segment, 1)), self.backward.recurrent.kernel[...]
        both = jax.vmap(lstm)(*map(jnp.stack, zip((gates, starts(segment), kernel), turned, strict=True)))   # in one loop
        return jnp.concatenate([both[0], jnp.flip(both[1], 1)], -1)


class Embeddings(nnx.Module):
    """Word vectors."""

    def __init__(self, vocabulary: int, size: int, spread: float, rngs: nnx.Rngs):
        self.word_embeddings = embedding(vocabulary, size, spread, rngs)


class Encoder(nnx.Module):
    """The stack of layers."""

    def __init__(self, sizes: Sequence[int], causal: bool, rngs: nnx.Rngs):
        self.layer = nnx.List([Layer(inputs, width, causal, rngs) for inputs, width in zip(sizes, sizes[1:], strict=False)])


class Bilstm(nnx.Module):
    """Word vectors of `embedding` numbers, then `depth` layers whose states have `width`. The state of a token knows its own
    segment alone: both directions begin anew at its ends. `causal`: the LSTM from the left alone, of the whole width.

    Raises:
        InputError: a size below 1, a rate outside [0, 1), or a `width` that two directions can't share.
    """

    def __init__(self, vocabulary: int, embedding: int, width: int, depth: int, dropout: float, initializer_range: float,
                 causal: bool, rngs: nnx.Rngs):
        for name, size in (("vocabulary", vocabulary), ("embedding", embedding), ("width", width), ("depth", depth)):
            if size < 1:
                raise InputError(f"model.{name} is {size}, must be at least 1")
        if not 0 <= dropout < 1:
            raise InputError(f"model.dropout is {dropout}, must be 0 or more, below 1")
        if width % 2 and not causal:
            raise InputError(f"model.width {width} is not a multiple of 2, the directions that share it")
        self.embeddings = Embeddings(vocabulary, embedding, initializer_range, rngs)
        self.encoder = Encoder([embedding, *[width] * depth], causal, rngs)
        self.width, self.dropout = width, dropout

    def __call__(self, batch: Batch, noise: Noise | None = None, strategy: Strategy | None = None,
                 slot: Int[Array, "B S"] | None = None) -> Float[Array, "B T D"]:
        """The last layer's states, of all tokens or of those at `slot`; dropout on the word vectors and each layer's states."""
        x = lookup(self.embeddings.word_embeddings.embedding[...], batch["tokens"])
        if "offset" in batch:
            x = x + batch["offset"].astype(x.dtype)
        x = dropout(x, noise, 0, self.dropout)
        for number, layer in enumerate(self.encoder.layer, 1):
            x = dropout(layer(x, batch["segment"]), noise, number, self.dropout)
        return x if slot is None else read(x, slot)

    def table(self) -> Float[Array, "V D"]:
        """The word vectors, for heads that tie to them.

        Raises:
            InputError: they have another size than the states.
        """
        found = self.embeddings.word_embeddings.embedding[...]
        if found.shape[1] != self.width:
            raise InputError(f"model.embedding is {found.shape[1]} and model.width {self.width}, so a head can't be tied to the "
                             "word vectors: make them equal, or set head.tied=false")
        return found
