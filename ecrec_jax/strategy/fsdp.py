"""One program over a mesh of all devices: parameters, optimizer state and rows divided (fully sharded data parallelism)."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from ecrec_jax import mesh
from ecrec_jax.types import Batch, InputError, Parameters


class Fsdp:
    """`devices`: how many (null: all). Arrays of fewer than `smallest` numbers stay whole on every device. A planner
    gives the devices `found` elsewhere, and a `transfer` that keeps shapes only.

    Source: Rajbhandari et al. 2020, "ZeRO", stage 3; Xu et al. 2020, "Automatic cross-replica sharding of weight update".
    """

    def __init__(self, devices: int | None, smallest: int, found: Sequence[Any] | None = None,
                 transfer: mesh.Transfer = mesh.onto):
        if smallest < 0:
            raise InputError(f"strategy.smallest is {smallest}, must not be negative")
        self.mesh, self.smallest, self.transfer = mesh.over(devices, found), smallest, transfer
        self.devices, (self.rows, self.whole) = self.mesh.size, mesh.layouts(self.mesh)
        self.platform = self.mesh.devices.flat[0].platform

    def layout(self, x: Any) -> NamedSharding:
        """An array's largest axis that the devices divide is divided; whole where there is none, or the array is small."""
        axes = [axis for axis, size in enumerate(x.shape) if size and size % self.devices == 0]
        if x.size < self.smallest or not axes:
            return self.whole
        return NamedSharding(self.mesh, PartitionSpec(*[None] * max(axes, key=lambda axis: x.shape[axis]), "data"))

    def compile(self, function: Callable[..., Any], donate: bool) -> Callable[..., Any]:
        """jax.jit; `donate` gives the first argument's memory to the result."""
        return jax.jit(function, donate_argnums=(0,) if donate else (), compiler_options=mesh.options(self.platform))

    def place(self, tree: Any) -> Any:
        """A part of every array onto each device."""
        return mesh.lay(tree, self.layout, self.transfer)

    def put(self, batch: Batch, multiple: int) -> Batch:
        """Rows onto the devices, after empty rows up to a multiple of devices × `multiple`."""
        return mesh.deal(batch, self.rows, multiple, self.transfer)

    def use(self, parameters: Parameters) -> Parameters:
        """Whole on every device, once for forward and backward pass: one gather a weight."""
        return parameters if mesh.apart() else self.gather(parameters)

    def reduce(self, tree: Any) -> Any:
        """As it is: a sum in the program is a sum over the mesh."""
        return tree

    def total(self, function: Callable[..., Any], dtype: str) -> Callable[..., Any]:
        """On each device its own rows with whole weights, then of each sum its own part. The partitioner would sum the gradient
        of a table after each of its uses, and all gradients after each micro-batch."""
        if self.devices == 1:
            return function

        def summed(whole: tuple[Parameters, ...], rows: Batch) -> Any:
            layouts = jax.tree.map(self.layout, whole)
            specs = jax.tree.map(lambda layout: layout.spec, layouts)

            def parts(whole: Any, rows: Batch) -> Any:
                number, sums = function(jax.tree.map(lambda x, spec: mesh.join(x, spec, dtype), whole, specs), rows)
                return jax.lax.psum(number, "data"), jax.tree.map(lambda x, spec: mesh.share(x, spec, dtype), sums, specs[0])

            return jax.shard_map(parts, mesh=self.mesh, in_specs=(specs, self.rows.spec), out_specs=(self.whole.spec, specs[0]),
                                 check_vma=False)(whole, rows)

        return summed

    def gather(self, tree: Any) -> Any:
        """Whole on every device."""
        return mesh.collect(tree) if mesh.apart() else mesh.hold(tree, lambda _: self.whole)

    def each(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function on every device's rows; nothing else is told of the mesh."""
        return mesh.each(function, self.rows)

    def fetch(self, tree: Any) -> Any:
        """Arrays to numpy, their parts put together."""
        return mesh.fetch(tree)
