"""Class logits of each slot: binary, multi-class and multi-label alike."""

from typing import Literal

from flax import nnx
from jaxtyping import Array, Float

from ecrec_jax.block import HEAD_SITE, average, dropout, linear
from ecrec_jax.types import Batch, Model, Noise


class Classify(nnx.Module):
    """Pooled hidden state, dropout, one dense layer. `pooling`: cls (BERT's pooler on the first token) or mean."""

    reads = ("class", "multi")

    def __init__(self, width: int, labels: tuple[str, ...], pooling: Literal["cls", "mean"], dropout: float,
                 initializer_range: float, rngs: nnx.Rngs):
        self.classifier = linear(width, len(labels), initializer_range, rngs)
        self.pooling, self.dropout = pooling, dropout

    @property
    def at_slots(self) -> bool:
        """The pooler reads one token of a text."""
        return self.pooling == "cls"

    def __call__(self, hidden: Float[Array, "B T D"], batch: Batch, model: Model,
                 noise: Noise | None = None) -> Float[Array, "B S C"]:
        pooled = average(hidden, batch).astype(hidden.dtype) if self.pooling == "mean" else model.pool(hidden)
        return self.classifier(dropout(pooled, noise, HEAD_SITE, self.dropout)).astype("float32")
