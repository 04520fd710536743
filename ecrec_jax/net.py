"""A model with a head, and how it becomes a plain tree of arrays and back."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import nnx

from ecrec_jax.block import Constant, named
from ecrec_jax.types import Batch, Head, Model, Noise, Parameters, Strategy


class Net(nnx.Module):
    """`head(model(batch), batch, model)`: the whole network of a run."""

    def __init__(self, model: Model, head: Head):
        self.model, self.head = model, head

    def __call__(self, batch: Batch, noise: Noise | None = None, strategy: Strategy | None = None) -> Any:
        """Outputs at the slots; without noise there is no dropout."""
        slot = batch["slot"] if getattr(self.head, "at_slots", False) else None
        model = self.model
        if noise is not None and hasattr(model, "reading"):
            model = named("items", model.reading, batch, noise)
        hidden = named("model", model, batch, noise, strategy, slot)
        return named("head", self.head, hidden, batch, model, noise)


@dataclasses.dataclass(frozen=True)
class Graph:
    """The structure of a net without its arrays: what a compiled program closes over."""

    definition: Any
    paths: tuple[tuple[str, tuple[Any, ...]], ...]
    dtype: str

    def net(self, parameters: Parameters) -> Net:
        """The net over these arrays, parameters cast to the compute type. Meant for the inside of a trace."""
        cast = {path: self.cast(parameters[name]) for name, path in self.paths}
        return nnx.merge(self.definition, nnx.from_flat_state(cast))

    def cast(self, x: Any) -> Any:
        """Floating arrays in the compute type, others as they are."""
        return x.astype(self.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x


def split(net: Net, dtype: str = "float32") -> tuple[Graph, Parameters, Parameters]:
    """(graph, trainable parameters, constants), the last two keyed by dotted path."""
    definition, trainable, constant = nnx.split(net, nnx.Param, Constant)
    found = [[(".".join(map(str, path)), path, leaf[...]) for path, leaf in nnx.to_flat_state(part)]
             for part in (trainable, constant)]
    graph = Graph(definition, tuple((name, path) for part in found for name, path, _ in part), dtype)
    return graph, *({name: leaf for name, _, leaf in part} for part in found)
