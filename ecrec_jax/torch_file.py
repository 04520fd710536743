"""Tensors of a `pytorch_model.bin` without torch: an unpickler that can build tensors and nothing else."""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ecrec_jax.types import InputError

TYPES = {"FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
         "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8",
         "BoolStorage": "bool"}


class Held:
    """An array while the pickle is read: it must not reach numpy's own methods for pickles."""

    __slots__ = ("array",)

    def __init__(self, array: np.ndarray):
        self.array = array


def tensor(held: Held, offset: int, size: Sequence[int], stride: Sequence[int], *rest: Any) -> Held:
    """A copy of a view of a storage; refused if it would reach outside, or repeat what is there."""
    storage = held.array
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    count = int(np.prod(size, dtype=object))
    if min((offset, *size, *stride)) < 0 or count > len(storage) or (count and last >= len(storage)):
        raise ValueError("a tensor reaches outside its storage")
    bytes_apart = [step * storage.itemsize for step in stride]
    if not count:
        return Held(np.empty(size, storage.dtype))
    return Held(np.lib.stride_tricks.as_strided(storage[offset:], size, bytes_apart).copy())


def parameter(data: Held, *rest: Any) -> Held:
    """A parameter is its tensor."""
    return data


class Tensors(pickle.Unpickler):
    """Reads data.pkl of an archive. Whatever else a pickle names is refused before it is looked up."""

    known = {("collections", "OrderedDict"): OrderedDict, ("torch._utils", "_rebuild_tensor_v2"): tensor,
             ("torch._utils", "_rebuild_parameter"): parameter}

    def __init__(self, archive: zipfile.ZipFile, root: str):
        super().__init__(archive.open(f"{root}/data.pkl"))
        self.archive, self.root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        """The few things a file of tensors needs."""
        if module == "torch" and name in TYPES:
            return TYPES[name]
        if (module, name) not in self.known:
            raise ValueError(f"it asks for {module}.{name}, which no tensor needs")
        return self.known[module, name]

    def persistent_load(self, pid: Any) -> Held:
        """A storage: ("storage", type, key, device, count)."""
        kind, dtype, key, _, count = pid
        if kind != "storage" or dtype not in TYPES.values() or not str(key).isdigit():
            raise ValueError("a storage of an unknown kind")
        return Held(np.frombuffer(self.archive.read(f"{self.root}/data/{key}"), jnp.dtype(dtype), count))


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file that torch.save wrote (since torch 1.6), by name.

    Raises:
        InputError: it is damaged, of the format before, big-endian, compressed, or holds anything but tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
                raise ValueError("it is compressed, which torch.save never does")
            root = next((name.removesuffix("/data.pkl") for name in names if name.endswith("/data.pkl")), None)
            if root is None or (f"{root}/byteorder" in names and archive.read(f"{root}/byteorder") != b"little"):
                raise ValueError("no little-endian archive of torch.save")
            found = Tensors(archive, root).load()
    except Exception as error:  # noqa: BLE001 (a pickle can fail in any way)
        raise InputError(f"{path}: can't be read safely ({error}); convert it to safetensors where torch is installed") from None
    if not isinstance(found, dict) or not all(isinstance(k, str) and isinstance(v, Held) for k, v in found.items()):
        raise InputError(f"{path}: holds something other than named tensors; convert it to safetensors where torch is installed")
    return {name: held.array for name, held in found.items()}
