"""One program over a mesh of all devices: parameters, optimizer state and rows divided (fully sharded data parallelism)."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from ecrec_jax import mesh
from ecrec_jax.lookup import Divided
from ecrec_jax.types import Batch, InputError, Parameters


class Fsdp:
    """`devices`: how many (null: all). Arrays of fewer than `smallest` numbers stay whole on every device. Tables of at least
    `table_rows` rows (null: none) are never put together in training: each device has some of their columns, which the devices
    must divide, and what is looked up crosses instead, as in Divided. A planner gives the devices `found` elsewhere, and a
    `transfer` that keeps shapes only.

    Source: Rajbhandari et al. 2020, "ZeRO", stage 3; Xu et al. 2020, "Automatic cross-replica sharding of weight update".
    """

    def __init__(self, devices: int | None, smallest: int, table_rows: int | None, found: Sequence[Any] | None = None,
                 transfer: mesh.Transfer = mesh.onto):
        if smallest < 0:
            raise InputError(f"strategy.smallest is {smallest}, must not be negative")
        if table_rows is not None and table_rows < 1:
            raise InputError(f"strategy.table_rows is {table_rows}, must be at least 1; null: every table is put together")
        self.table_rows = table_rows
        self.mesh, self.smallest, self.transfer = mesh.over(devices, found), smallest, transfer
        self.devices, (self.rows, self.whole) = self.mesh.size, mesh.layouts(self.mesh)
        self.platform = self.mesh.devices.flat[0].platform

    def large(self, x: Any) -> bool:
        """Whether an array lies as a large table does: each device has some of its columns."""
        return self.table_rows is not None and x.ndim == 2 and len(x) >= self.table_rows and x.shape[1] % self.devices == 0

    def layout(self, x: Any) -> NamedSharding:
        """An array's largest axis that the devices divide is divided; whole where there is none, or the array is small."""
        if self.large(x):
            return NamedSharding(self.mesh, PartitionSpec(None, "data"))
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
            specs, tables = self.specs(whole), [self.tables(tree) for tree in whole[:2]]

            def parts(whole: Any, rows: Batch) -> Any:
                number, sums = function(self.join(whole, specs, tables, dtype), rows)
                share = lambda spec, table, x: x.part if table else mesh.share(x, spec, dtype)  # noqa: E731
                return jax.lax.psum(number, "data"), jax.tree.map(share, specs[0], tables[0], sums)

            return jax.shard_map(parts, mesh=self.mesh, in_specs=(specs, self.rows.spec), out_specs=(self.whole.spec, specs[0]),
                                 check_vma=False)(whole, rows)

        return summed

    def divide(self, function: Callable[..., Any], dtype: str) -> Callable[..., Any]:
        """Where there may be large tables, on each device its own rows."""
        if self.devices == 1 or self.table_rows is None:
            return function

        def divided(whole: tuple[Parameters, ...], rows: Batch) -> Any:
            specs, tables = self.specs(whole), [self.tables(tree) for tree in whole[:2]]
            return jax.shard_map(lambda whole, rows: function(self.join(whole, specs, tables, dtype), rows), mesh=self.mesh,
                                 in_specs=(specs, self.rows.spec), out_specs=self.rows.spec, check_vma=False)(whole, rows)

        return divided

    def tables(self, parameters: Parameters) -> dict[str, bool]:
        """Which parameters are large tables: those that rows are looked up in.

        Raises:
            InputError: one has columns that the devices don't divide.
        """
        found = {name: self.table_rows is not None and name.endswith(".embedding") and len(x) >= self.table_rows
                 for name, x in parameters.items()}
        for name in [name for name, large in found.items() if large and not self.large(parameters[name])]:
            raise InputError(f"strategy.table_rows: {self.devices} devices don't divide the {parameters[name].shape[1]} columns of "
                             f"{name}: choose another model.width, or null")
        return found

    def specs(self, whole: tuple[Parameters, ...]) -> Any:
        """How the arrays lie."""
        return jax.tree.map(lambda x: self.layout(x).spec, whole)

    def join(self, whole: tuple[Parameters, ...], specs: Any, tables: Any, dtype: str) -> tuple[Any, ...]:
        """In a program of one device's rows: what is whole on all, put together, but for the large tables, trained and frozen."""
        join = lambda x, spec, table=False: Divided(x) if table else mesh.join(x, spec, dtype)  # noqa: E731
        parameters = [jax.tree.map(join, *some) for some in zip(whole, specs, tables, strict=False)]
        return *parameters, *jax.tree.map(join, whole[len(tables) :], specs[len(tables) :])

    def gather(self, tree: Any) -> Any:
        """Whole on every device."""
        return mesh.collect(tree) if mesh.apart() else mesh.hold(tree, lambda _: self.whole)

    def each(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function on every device's rows; nothing else is told of the mesh."""
        return mesh.each(function, self.rows)

    def fetch(self, tree: Any) -> Any:
        """Arrays to numpy, their parts put together."""
        return mesh.fetch(tree)
