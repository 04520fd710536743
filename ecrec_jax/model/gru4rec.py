"""GRU4Rec: a recurrent network over a user's items, on packed rows."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ecrec_jax.block import Linear, dropout, embedding, linear, read, starts
from ecrec_jax.lookup import lookup
from ecrec_jax.types import Batch, InputError, Noise, Strategy


def gru(gates: Float[Array, "B L 3H"], fresh: Bool[Array, "B L"], kernel: Float[Array, "H 3H"], bias: Float[Array, "H"]
        ) -> Float[Array, "B L H"]:
    """The states h of a GRU that begins at zero where an item is `fresh`:

    r = σ(gᵣ + h Wᵣ), z = σ(g_z + h W_z), n = tanh(gₙ + r ⊙ (h Wₙ + b)), h ← (1 − z) ⊙ n + z ⊙ h.

    Source: Cho et al. 2014, with the reset gate after the product, as torch and cuDNN have it.
    """
    def step(hidden: Array, given: tuple[Array, Array]) -> tuple[Array, Array]:
        gate, new = given
        hidden = jnp.where(new[:, None], 0, hidden)
        before, after = jnp.split(gate, 3, -1), jnp.split(hidden @ kernel, 3, -1)
        reset, update = (jax.nn.sigmoid(a + b) for a, b in zip(before[:2], after[:2], strict=True))
        hidden = (1 - update) * jnp.tanh(before[2] + reset * (after[2] + bias)) + update * hidden
        return hidden, hidden

    blank = jnp.zeros_like(gates[:, 0, : len(kernel)])
    return jax.lax.scan(step, blank, (gates.swapaxes(0, 1), fresh.T))[1].swapaxes(0, 1)


class Layer(nnx.Module):
    """The parameters of a GRU: what inputs and what states are multiplied with, and the biases."""

    def __init__(self, inputs: int, units: int, rngs: nnx.Rngs):
        self.input = Linear(inputs, 3 * units, kernel_init=nnx.initializers.glorot_uniform(), rngs=rngs)
        self.recurrent = nnx.Linear(units, 3 * units, use_bias=False, kernel_init=nnx.initializers.orthogonal(), rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(units))

    def __call__(self, x: Float[Array, "B L I"], segment: Int[Array, "B L"]) -> Float[Array, "B L H"]:
        return gru(self.input(x), starts(segment), self.recurrent.kernel[...], self.bias[...])


class Gru4Rec(nnx.Module):
    """Item vectors, `depth` layers of `units` states, and a product back to the size of the vectors (Hidasi et al. 2016, with the
    whole history of a user as a session). It sees earlier items only.

    Raises:
        InputError: a size below 1 or a rate outside [0, 1).
    """

    only_causal = True

    def __init__(self, vocabulary: int, width: int, units: int, depth: int, dropout: float, initializer_range: float, causal: bool,
                 rngs: nnx.Rngs, types: int | None = None):
        for name, size in (("vocabulary", vocabulary), ("width", width), ("units", units), ("depth", depth)):
            if size < 1:
                raise InputError(f"model.{name} is {size}, must be at least 1")
        if not 0 <= dropout < 1:
            raise InputError(f"model.dropout is {dropout}, must be 0 or more, below 1")
        if not causal:
            raise InputError("model.causal is false, but a Gru4Rec sees earlier items only: set model.causal=true")
        self.items = embedding(vocabulary, width, initializer_range, rngs)
        self.layer = nnx.List([Layer(inputs, units, rngs) for inputs in (width, *[units] * (depth - 1))])
        self.output, self.dropout = linear(units, width, initializer_range, rngs), dropout
        self.type = embedding(types, width, initializer_range, rngs) if types is not None and types > 1 else None

    def __call__(self, batch: Batch, noise: Noise | None = None, strategy: Strategy | None = None,
                 slot: Int[Array, "B S"] | None = None) -> Float[Array, "B T D"]:
        """The states in the space of the item vectors, of all items or of those at `slot`; dropout on the vectors."""
        x = lookup(self.items.embedding[...], batch["tokens"])
        if self.type is not None:
            x = x + lookup(self.type.embedding[...], batch["type"])
        if "offset" in batch:
            x = x + batch["offset"].astype(x.dtype)
        x = dropout(x, noise, 0, self.dropout)
        for layer in self.layer:
            x = layer(x, batch["segment"])
        return self.output(x if slot is None else read(x, slot))

    def table(self) -> Float[Array, "V D"]:
        """The item vectors, for heads that tie to them."""
        return self.items.embedding[...]
