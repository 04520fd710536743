"""The program on each device, with explicit sums: for code that must agree with jax.pmap's world."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ecrec_jax import mesh, processes
from ecrec_jax.block import pad_rows
from ecrec_jax.types import Batch, InputError, Parameters


class Pmap:
    """`devices`: how many (null: all). Every array gets a leading axis of devices."""

    def __init__(self, devices: int | None):
        if not processes.alone():
            raise InputError("strategy pmap works in one process: choose strategy=jit or strategy=fsdp")
        data = mesh.over(devices)
        self.devices, self.found, (self.rows, _) = data.size, list(data.devices), mesh.layouts(data)
        self.platform = self.found[0].platform

    def compile(self, function: Callable[..., Any], donate: bool) -> Callable[..., Any]:
        """jax.pmap; `donate` gives the first argument's memory to the result."""
        return jax.pmap(function, axis_name="data", devices=self.found, donate_argnums=(0,) if donate else ())

    def place(self, tree: Any) -> Any:
        """A copy for every device."""
        copies = jax.tree.map(lambda x: np.broadcast_to(x, (self.devices, *np.shape(x))), tree)
        return mesh.lay(copies, lambda _: self.rows)

    def put(self, batch: Batch, multiple: int) -> Batch:
        """[devices, rows / devices, …], after empty rows up to a multiple of devices × `multiple`."""
        padded = pad_rows(batch, self.devices * multiple)
        return {key: x.reshape(self.devices, -1, *x.shape[1:]) for key, x in padded.items()}

    def use(self, parameters: Parameters) -> Parameters:
        """As they are: every device has all."""
        return parameters

    def reduce(self, tree: Any) -> Any:
        """Sum over the devices."""
        return jax.lax.psum(tree, "data")

    def total(self, function: Callable[..., Any], dtype: str) -> Callable[..., Any]:
        """Sums over the devices, in the type that they have."""
        return lambda *given: self.reduce(function(*given))

    def divide(self, function: Callable[..., Any], dtype: str) -> Callable[..., Any]:
        """As it is."""
        return function

    def gather(self, tree: Any) -> Any:
        """All rows on every device."""
        return mesh.collect(tree)

    def each(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """As it is: the program runs on each device."""
        return function

    def fetch(self, tree: Any) -> Any:
        """The first device's copy to numpy."""
        return jax.tree.map(lambda x: np.asarray(x.addressable_shards[0].data)[0], tree)
