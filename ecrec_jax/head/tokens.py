"""Vocabulary logits at the slots: BERT's language-model head."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ecrec_jax.block import LayerNorm, activation, linear
from ecrec_jax.factored import Factored
from ecrec_jax.types import Batch, Model, Noise


class Transform(nnx.Module):
    """Dense, activation, layer norm."""

    def __init__(self, width: int, name: str, epsilon: float, spread: float, rngs: nnx.Rngs):
        self.dense, self.LayerNorm = linear(width, width, spread, rngs), LayerNorm(width, epsilon)
        self.activation = activation(name)

    def __call__(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        return self.LayerNorm(self.activation(self.dense(x)))


def log_frequency(counts: Sequence[int] | None, special: Sequence[int], vocabulary: int) -> Float[Array, "V"]:
    """Log of the tokens' shares after one more of each was seen, `special` ones never; zeros where nothing was counted."""
    if counts is None:
        return jnp.zeros(vocabulary)
    seen = np.zeros(vocabulary)
    seen[: len(counts)] = counts
    seen[list(special)] = 0
    return jnp.asarray(np.log((seen + 1) / (seen + 1).sum()), jnp.float32)


class Tokens(nnx.Module):
    """Transform, then the product with the word table (or a table of its own where a checkpoint isn't tied).

    A new bias starts at the log frequencies of the training texts' tokens: a bias of zeros lets the word vectors learn the
    frequencies first, all in one direction. Special tokens are hidden never, but a next token may be one.
    """

    reads, at_slots = ("tokens", "next_token", "next_item", "masked_item"), True

    def __init__(self, width: int, vocabulary: int, activation: str, norm_epsilon: float, initializer_range: float,
                 tied: bool, rngs: nnx.Rngs, token_counts: tuple[int, ...] | None = None,
                 special_ids: tuple[int, ...] = (), causal: bool = False):
        self.transform = Transform(width, activation, norm_epsilon, initializer_range, rngs)
        self.bias = nnx.Param(log_frequency(token_counts, () if causal else special_ids, vocabulary))
        self.decoder = None if tied else linear(width, vocabulary, initializer_range, rngs)
        if self.decoder is not None:
            self.decoder.bias = None   # one bias is enough

    def __call__(self, hidden: Float[Array, "B S D"], batch: Batch, model: Model,
                 noise: Noise | None = None) -> Factored:
        table = model.table() if self.decoder is None else self.decoder.kernel[...].T
        return Factored(self.transform(hidden), table, self.bias[...])
