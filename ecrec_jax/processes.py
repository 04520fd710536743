"""The processes of a run: how they find each other, and what they agree on."""

import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from ecrec_jax.types import InputError, Parameters

T = TypeVar("T")


def connect(coordinator: str | None, processes: int | None, process_id: int | None) -> None:
    """Join the other processes of a run; needed before anything asks for devices. `coordinator` is host:port of process 0,
    `auto` where the surroundings say all of it (Slurm, TPU pods, MPI), null for a run of one process.

    Raises:
        InputError: the three don't fit together, or the others are not found.
    """
    numbers = {"processes": processes, "process_id": process_id}
    given = [name for name, value in numbers.items() if value is not None]
    if coordinator in (None, "auto") and given:
        raise InputError(f"strategy.{given[0]} is set, strategy.coordinator is not: give the host:port of process 0")
    if coordinator not in (None, "auto"):
        if len(given) < 2:
            raise InputError("strategy.coordinator is set: give strategy.processes and strategy.process_id too")
        if not re.fullmatch(r".+:\d+", coordinator):
            raise InputError(f"strategy.coordinator is {coordinator!r}, must be host:port of process 0, auto or null")
        if not 0 <= process_id < processes:
            raise InputError(f"strategy.process_id is {process_id}, must be at least 0 and below strategy.processes, {processes}")
    if coordinator is None or jax.distributed.is_initialized():
        return
    try:
        where = {} if coordinator == "auto" else {"coordinator_address": coordinator, "num_processes": processes,
                                                  "process_id": process_id}
        jax.distributed.initialize(**where, shutdown_timeout_seconds=30)   # one that fails alone waits so long for the others
    except (ValueError, RuntimeError) as error:
        raise InputError(f"strategy.coordinator={coordinator}: {str(error).splitlines()[0]}") from error


def alone() -> bool:
    """Whether this is the only process."""
    return jax.process_count() == 1


def first() -> bool:
    """Whether this process is the one that writes files and tells trackers."""
    return jax.process_index() == 0


def agree(find: Callable[[], Any]) -> Any:
    """What process 0 finds, on every process; `find` runs there alone and gives what JSON can hold.

    Raises:
        InputError: `find` raised it; every process does.
    """
    if alone():
        return find()
    said: dict[str, Any] = {}
    if first():
        try:
            said = {"found": find()}
        except InputError as error:
            said = {"error": str(error)}
    text = np.frombuffer(json.dumps(said).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    said = json.loads(multihost_utils.broadcast_one_to_all(np.resize(text, size)).tobytes())
    if "error" in said:
        raise InputError(said["error"])
    return said["found"]


def together(make: Callable[[], T]) -> T:
    """What every process makes for itself, once all have: a mistake that only one sees would leave the others waiting.

    Raises:
        InputError: `make` raised it somewhere; every process raises the first one.
    """
    if alone():
        return make()
    made, said = None, b""
    try:
        made = make()
    except InputError as error:
        said = str(error).encode()[:1000]
    found = multihost_utils.process_allgather(np.frombuffer(said.ljust(1000, b"\0"), np.uint8))
    texts = [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in found]
    wrong = [f"{text} (process {i})" for i, text in enumerate(texts) if text]
    if wrong:
        raise InputError(wrong[0])
    return made


def share(tree: Any, like: Any) -> Any:
    """Process 0's host arrays on every process, bit by bit; the others give `like`, arrays of the same shapes and types."""
    if alone():
        return tree
    given = jax.tree.map(np.asarray, tree if first() else like)
    bits = jax.tree.map(lambda x: x.view(f"u{x.dtype.itemsize}"), given)   # a sum with zeros would lose the sign of -0.0
    return jax.tree.map(lambda x, b: np.asarray(b).view(x.dtype), given, multihost_utils.broadcast_one_to_all(bits))


def read(find: Callable[[], Parameters]) -> Parameters:
    """The arrays that process 0 finds, on every process; `find` runs there alone.

    Raises:
        InputError: `find` raised it; every process does.
    """
    found: Parameters = {}

    def shapes() -> dict[str, Any]:
        found.update(find())
        return {name: (x.shape, np.dtype(x.dtype).name) for name, x in found.items()}

    known = agree(shapes)
    return share(found, {name: np.zeros(shape, dtype) for name, (shape, dtype) in known.items()})


def same(value: Any, what: str) -> None:
    """Whether all processes have the same of what JSON can hold.

    Raises:
        InputError: they haven't; every process raises it.
    """
    mine = json.dumps(value, sort_keys=True)
    theirs = agree(lambda: mine)

    def compare() -> None:
        if mine != theirs:
            raise InputError(f"{what} must be the same on every process")

    together(compare)


def stopping(call: int) -> bool:
    """Whether some process got SIGTERM and all of them have come to the `call` that they agreed to stop at."""
    return multihost_utils.reached_preemption_sync_point(call)
