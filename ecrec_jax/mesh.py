"""The devices of a run: which there are, how host arrays get onto them and back, what a program says of them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from ecrec_jax import processes
from ecrec_jax.block import pad_rows
from ecrec_jax.types import Batch, InputError

Transfer = Callable[[Any, Sharding], Any]   # (an array, where it shall lie) -> it, there


def options(platform: str) -> dict[str, Any] | None:
    """What XLA is told besides the program: on CPU, to see for itself that parameters and optimizer state, which an update
    overwrites, need no copy first (on other devices it does so unasked), and to give products that are added up to its library as
    one (docs/recommend.md); on GPUs, to leave matrix products to cuBLAS, as those that it writes itself win when tried alone and
    lose in a step (docs/benchmarks.md)."""
    return {"cpu": {"xla_cpu_copy_insertion_use_region_analysis": True,
                    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"},
            "gpu": {"xla_gpu_enable_triton_gemm": False}}.get(platform)


def at_most(devices: int | None) -> int | None:
    """So many devices, or all (null) where there are fewer."""
    return None if devices is None or devices > len(jax.devices()) else devices


def over(devices: int | None, found: Sequence[Any] | None = None) -> Mesh:
    """A mesh with one axis, "data", over so many (null: all) of the devices `found` (null: those of all processes).

    Raises:
        InputError: there are fewer, or several processes were to share a part of them.
    """
    found = jax.devices() if found is None else found
    if devices is not None and not 1 <= devices <= len(found):
        raise InputError(f"strategy.devices {devices} asked for, {len(found)} found")
    if devices not in (None, len(found)) and not processes.alone():
        raise InputError(f"strategy.devices is {devices}, but several processes use all their {len(found)} devices: leave it null")
    return Mesh(np.array(found[:devices]), ("data",), axis_types=(AxisType.Auto,))


def layouts(data: Mesh) -> tuple[NamedSharding, NamedSharding]:
    """(rows divided over the mesh, whole on every device)."""
    return NamedSharding(data, PartitionSpec("data")), NamedSharding(data, PartitionSpec())


def onto(x: Any, layout: Sharding) -> jax.Array:
    """A host array, the same on every process, as a global one of this sharding. A process puts its own parts and asks
    nothing of the others, so that a thread may do it."""
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, layout, lambda index: np.asarray(x[index]))


def lay(tree: Any, layout: Callable[[Any], Sharding], transfer: Transfer = onto) -> Any:
    """Host arrays onto the devices, each with the sharding that `layout` gives it."""
    return jax.tree.map(lambda x: transfer(x, layout(x)), tree)


def deal(batch: Batch, rows: NamedSharding, multiple: int, transfer: Transfer = onto) -> Batch:
    """A batch with its rows dealt out, after empty ones up to a multiple of devices × `multiple`."""
    return lay(pad_rows(batch, rows.mesh.size * multiple), lambda _: rows, transfer)


def hold(tree: Any, layout: Callable[[Any], Sharding]) -> Any:
    """Inside a program: arrays of these shardings from here on."""
    return jax.lax.with_sharding_constraint(tree, jax.tree.map(layout, tree))


def apart() -> bool:
    """Whether the program being written is one device's, on its own rows."""
    return bool(jax.sharding.get_abstract_mesh().manual_axes)


def each(function: Callable[..., Any], rows: NamedSharding) -> Callable[..., Any]:
    """A function of arrays of rows, on every device's own."""
    if apart():
        return function
    return jax.shard_map(function, mesh=rows.mesh, in_specs=rows.spec, out_specs=rows.spec, check_vma=False)


def collect(tree: Any) -> Any:
    """In a program of one device's rows: the rows of all."""
    return jax.tree.map(lambda x: jax.lax.all_gather(x, "data", tiled=True), tree)


def join(part: jax.Array, spec: PartitionSpec, dtype: str) -> jax.Array:
    """In a program of one device's rows: the whole of an array that lies like `spec`, numbers sent in `dtype`, ids as they are."""
    if "data" not in spec:
        return part
    sent = part.astype(dtype) if jax.numpy.issubdtype(part.dtype, jax.numpy.floating) else part
    return jax.lax.all_gather(sent, "data", axis=spec.index("data"), tiled=True).astype(part.dtype)


def share(whole: jax.Array, spec: PartitionSpec, dtype: str) -> jax.Array:
    """In a program of one device's rows: this device's part of the sum of all devices' arrays, sent in `dtype`."""
    sent = whole.astype(dtype)
    if "data" not in spec:
        return jax.lax.psum(sent, "data").astype(whole.dtype)
    return jax.lax.psum_scatter(sent, "data", scatter_dimension=spec.index("data"), tiled=True).astype(whole.dtype)


def row(x: jax.Array, index: int) -> np.ndarray:
    """One row to numpy, of an array whose rows are divided: its own device alone is asked, so that threads may do it."""
    for part in x.addressable_shards:
        first = part.index[0].start or 0
        if first <= index < first + part.data.shape[0]:
            return np.asarray(part.data[index - first])
    raise IndexError(f"row {index} of {x.shape[0]}")


def fetch(tree: Any) -> Any:
    """Global arrays to numpy, whole on every process; what is spread over processes one array after the other, so that
    no device ever holds more than one of them whole."""
    def one(x: Any) -> Any:
        if x.is_fully_addressable or x.is_fully_replicated:
            return x
        return multihost_utils.process_allgather(x, tiled=True)

    return jax.device_get(jax.tree.map(one, tree))
