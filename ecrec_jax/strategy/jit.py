"""One program over a mesh of all local devices: parameters replicated, rows divided. The reference strategy."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ecrec_jax.block import pad_rows
from ecrec_jax.types import Batch, InputError, Parameters


class Jit:
    """`devices`: how many (null: all). `found` are the devices there are (null: the local ones) and `transfer(tree, sharding)`
    brings arrays onto them; a planner gives devices that are not attached, and a transfer that keeps shapes only."""

    def __init__(self, devices: int | None, found: Sequence[Any] | None = None,
                 transfer: Callable[[Any, Any], Any] = jax.device_put):
        found = jax.local_devices() if found is None else found
        if devices is not None and not 1 <= devices <= len(found):
            raise InputError(f"strategy.devices {devices} asked for, {len(found)} found")
        self.devices, self.transfer = devices or len(found), transfer
        self.mesh = Mesh(np.array(found[: self.devices]), ("data",), axis_types=(AxisType.Auto,))
        self.rows, self.whole = (NamedSharding(self.mesh, PartitionSpec(*axes)) for axes in (("data",), ()))

    def compile(self, function: Callable[..., Any], donate: bool) -> Callable[..., Any]:
        """jax.jit; `donate` gives the first argument's memory to the result."""
        return jax.jit(function, donate_argnums=(0,) if donate else ())

    def place(self, tree: Any) -> Any:
        """Arrays onto every device."""
        return self.transfer(tree, self.whole)

    def put(self, batch: Batch, multiple: int) -> Batch:
        """Rows onto the devices, after empty rows up to a multiple of devices × `multiple`."""
        return self.transfer(pad_rows(batch, self.devices * multiple), self.rows)

    def use(self, parameters: Parameters) -> Parameters:
        """As they are: every device has all."""
        return parameters

    def reduce(self, tree: Any) -> Any:
        """As it is: a sum in the program is a sum over the mesh."""
        return tree

    def gather(self, tree: Any) -> Any:
        """All rows on every device."""
        return jax.lax.with_sharding_constraint(tree, jax.tree.map(lambda _: self.whole, tree))

    def fetch(self, tree: Any) -> Any:
        """Replicated arrays to numpy."""
        return jax.device_get(tree)
