"""One program over a mesh of all devices: parameters replicated, rows divided. The reference strategy."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from ecrec_jax import mesh
from ecrec_jax.types import Batch, Parameters


class Jit:
    """`devices`: how many (null: all). A planner gives those `found` elsewhere, and a `transfer` that keeps shapes only."""

    def __init__(self, devices: int | None, found: Sequence[Any] | None = None, transfer: mesh.Transfer = mesh.onto):
        data, self.transfer = mesh.over(devices, found), transfer
        self.devices, (self.rows, self.whole) = data.size, mesh.layouts(data)
        self.platform = data.devices.flat[0].platform

    def compile(self, function: Callable[..., Any], donate: bool) -> Callable[..., Any]:
        """jax.jit; `donate` gives the first argument's memory to the result."""
        return jax.jit(function, donate_argnums=(0,) if donate else (), compiler_options=mesh.options(self.platform))

    def place(self, tree: Any) -> Any:
        """Arrays onto every device."""
        return mesh.lay(tree, lambda _: self.whole, self.transfer)

    def put(self, batch: Batch, multiple: int) -> Batch:
        """Rows onto the devices, after empty rows up to a multiple of devices × `multiple`."""
        return mesh.deal(batch, self.rows, multiple, self.transfer)

    def use(self, parameters: Parameters) -> Parameters:
        """As they are: every device has all."""
        return parameters

    def reduce(self, tree: Any) -> Any:
        """As it is: a sum in the program is a sum over the mesh."""
        return tree

    def total(self, function: Callable[..., Any], dtype: str) -> Callable[..., Any]:
        """On each device its own rows, then one sum. The partitioner would sum the gradient of a table after each of its uses,
        and all gradients after each micro-batch. Numbers cross in the compute type, as the partitioner sends them."""
        if self.devices == 1:
            return function

        def parts(whole: Any, rows: Batch) -> Any:
            found = function(whole, rows)
            sent = jax.tree.map(lambda x: x.astype(dtype) if x.ndim else x, found)
            return jax.tree.map(lambda x, own: x.astype(own.dtype), jax.lax.psum(sent, "data"), found)

        return jax.shard_map(parts, mesh=self.rows.mesh, in_specs=(self.whole.spec, self.rows.spec), out_specs=self.whole.spec,
                             check_vma=False)   # which would sum once more

    def divide(self, function: Callable[..., Any], dtype: str) -> Callable[..., Any]:
        """As it is."""
        return function

    def gather(self, tree: Any) -> Any:
        """All rows on every device."""
        if mesh.apart():
            return mesh.collect(tree)
        return mesh.hold(tree, lambda _: self.whole)

    def each(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function on every device's rows; nothing else is told of the mesh."""
        return mesh.each(function, self.rows)

    def fetch(self, tree: Any) -> Any:
        """Whole arrays to numpy."""
        return mesh.fetch(tree)
