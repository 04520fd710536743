"""One number a slot, in the units of the labels."""

from typing import Literal

from flax import nnx
from jaxtyping import Array, Float

from ecrec_jax.block import HEAD_SITE, average, dropout, linear
from ecrec_jax.types import Batch, Model, Noise, Parameters


class Regress(nnx.Module):
    """center + scale · dense(pooled): the network itself works in units of the training labels' spread."""

    reads = ("number",)

    def __init__(self, width: int, pooling: Literal["cls", "mean"], dropout: float, initializer_range: float,
                 center: float, scale: float, rngs: nnx.Rngs):
        self.classifier = linear(width, 1, initializer_range, rngs)
        self.pooling, self.dropout, self.center, self.scale = pooling, dropout, center, scale

    def standardised(self, parameters: Parameters) -> Parameters:
        """The net's parameters where those of this head say labels as they are, as other programs' do."""
        kernel, bias = (parameters[f"head.classifier.{leaf}"] for leaf in ("kernel", "bias"))
        return parameters | {"head.classifier.kernel": kernel / self.scale,
                             "head.classifier.bias": (bias - self.center) / self.scale}

    @property
    def at_slots(self) -> bool:
        """The pooler reads one token of a text."""
        return self.pooling == "cls"

    def __call__(self, hidden: Float[Array, "B T D"], batch: Batch, model: Model,
                 noise: Noise | None = None) -> Float[Array, "B S"]:
        pooled = average(hidden, batch).astype(hidden.dtype) if self.pooling == "mean" else model.pool(hidden)
        value = self.classifier(dropout(pooled, noise, HEAD_SITE, self.dropout))[..., 0]
        return value.astype("float32") * self.scale + self.center
