"""Predict every next token."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ecrec_jax import losses, metrics
from ecrec_jax.factored import Factored
from ecrec_jax.types import Batch, Columns, Example


@dataclasses.dataclass(frozen=True)
class CausalLM:
    """Causal language modelling: −log P(token i + 1 | tokens 0 … i), by a model that sees earlier tokens only.

    Source: Radford et al. 2018, eq. 1, on a whole text. The slots are all tokens but the last; the last label is [SEP], the
    end of the text.
    """

    couples_rows = False
    target = "next_token"

    def size(self, example: Example) -> tuple[int, int]:
        """All tokens, a slot for each that has a next one."""
        return len(example.tokens), len(example.tokens) - 1

    def prepare(self, example: Example, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The label of a token is the one after it."""
        n = len(example.tokens) - 1
        return {"tokens": example.tokens, "type": example.type, "slot": np.arange(n, dtype="i4"), "label": example.tokens[1:],
                "weight": np.ones(n, "f4")}

    def loss(self, outputs: Factored, batch: Batch, gather: Callable[[Any], Any]) -> Float[Array, "B S"]:
        """Cross-entropy over the vocabulary."""
        return losses.factored_cross_entropy(outputs, batch["label"])

    def columns(self, outputs: Factored, batch: Batch) -> dict[str, Array]:
        """Whether the likeliest token is the next one."""
        return {"hit": (outputs.best() == batch["label"]).astype(jnp.float32)}

    def metrics(self, columns: Columns) -> dict[str, Any]:
        """Perplexity and accuracy on all next tokens."""
        return metrics.language_model(columns["loss"], columns["hit"])
