"""The program on each device, with explicit sums: for code that must agree with jax.pmap's world."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ecrec_jax.block import pad_rows
from ecrec_jax.types import Batch, InputError, Parameters


class Pmap:
    """`devices`: how many (null: all local ones). Every array gets a leading axis of devices."""

    def __init__(self, devices: int | None):
        found = jax.local_devices()
        if devices is not None and not 1 <= devices <= len(found):
            raise InputError(f"strategy.devices {devices} asked for, {len(found)} found")
        self.devices = devices or len(found)
        self.found = found[: self.devices]
        self.each = NamedSharding(Mesh(np.array(self.found), ("data",)), PartitionSpec("data"))

    def compile(self, function: Callable[..., Any], donate: bool) -> Callable[..., Any]:
        """jax.pmap; `donate` gives the first argument's memory to the result."""
        return jax.pmap(function, axis_name="data", devices=self.found, donate_argnums=(0,) if donate else ())

    def place(self, tree: Any) -> Any:
        """A copy for every device."""
        copies = jax.tree.map(lambda x: np.broadcast_to(x, (self.devices, *np.shape(x))), tree)
        return jax.device_put(copies, self.each)

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

    def gather(self, tree: Any) -> Any:
        """All rows on every device."""
        return jax.tree.map(lambda x: jax.lax.all_gather(x, "data", tiled=True), tree)

    def fetch(self, tree: Any) -> Any:
        """The first device's copy to numpy."""
        return jax.tree.map(lambda x: np.asarray(x.addressable_shards[0].data)[0], tree)
