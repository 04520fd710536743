"""Machines that are not there: the devices of a TPU topology, as the compiler in the package libtpu knows them, or GPUs."""

import fcntl
import importlib.util
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from ecrec_jax.types import InputError
from ecrec_jax.use.cards import CARDS, described

GIB = 2**30
PLUGINS = ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13")   # either has the compiler of GPUs
# GiB of a chip that a program may take: the limits that the compiler names when it refuses one (libtpu 0.0.42). Google Cloud's
# specifications say 32, 16, 95 and 32.
HBM = {"v4": 30.5, "v5e": 15.75, "v5p": 95.74, "v6e": 31.25}
ALONE = {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost",
         "TPU_LOG_DIR": "disabled"}   # libtpu asks nobody on the network what machine this is


def named(topology: str) -> tuple[str, int]:
    """(chip, number of chips) of a name such as v5e:2x2; this machine's CPU is ("cpu", 0).

    Raises:
        InputError: it is no such name.
    """
    chip, _, sides = topology.partition(":")
    if topology == "cpu":
        return chip, 0
    parts = sides.split("x")
    known = (chip in HBM or chip in CARDS and len(parts) < 3) and all(part.isdigit() and int(part) for part in parts)
    if not known:
        raise InputError(f"topology is {topology!r}, expected cpu, or a chip and its layout such as v5e:2x2, v5p:2x2x1, h100:8 or "
                         f"h100:2x8 (two machines); known chips are {', '.join((*HBM, *CARDS))}")
    return chip, math.prod(map(int, parts))


def devices(topology: str) -> tuple[list[Any] | None, int | None]:
    """(devices to compile for, bytes of memory each has); (None, None) for the CPU of this machine.

    From here on this process has no other devices than its CPU. Processes take turns: libtpu allows one at a time.

    Raises:
        InputError: the compiler is not installed, is taken, or knows no such topology.
    """
    chip, chips = named(topology)
    jax.config.update("jax_platforms", "cpu")
    if chip == "cpu":
        return None, None
    if chip in CARDS:
        return gpus(topology), CARDS[chip].memory
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(f"topology {topology} needs the TPU compiler, the package libtpu: `pip install -e '.[tpu]'`, or `make "
                         "test-compilers`, which puts it into .venv-tpu")
    take_turns()
    for name, value in ALONE.items():
        os.environ.setdefault(name, value)
    host = {"chips_per_host_bounds": [1, 1, 1]} if chips == 1 else {}
    try:
        found = list(topologies.get_topology_desc(topology_name=topology, platform="tpu", **host).devices)
    except jax.errors.JaxRuntimeError as error:
        if "ABORTED" in str(error):
            raise InputError("topology: another process has the TPU compiler, which serves one at a time: wait for it") from error
        raise InputError(f"topology: the compiler knows no {topology}: {str(error).splitlines()[0]}") from error
    return found, int(HBM[chip] * GIB * chips / len(found))   # v4 shows two devices a chip


def gpus(topology: str) -> list[Any]:
    """The GPUs of a topology. Kernels are not tried on a card, which is how XLA otherwise chooses among them.

    Raises:
        InputError: the compiler is not installed.
    """
    chip, chips = named(topology)
    if importlib.util.find_spec("jax_plugins") is None or not any(map(importlib.util.find_spec, PLUGINS)):
        raise InputError(f"topology {topology} needs CUDA's compiler: `pip install -e '.[cuda]'`")
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0".strip()
    machines, _, each = topology.partition(":")[2].rpartition("x")
    found = topologies.get_topology_desc(topology_name=chip, platform="cuda", target_config=described(CARDS[chip]),
                                         topology=f"1x{machines or 1}x{each}")
    assert len(found.devices) == chips
    return list(found.devices)


def take_turns() -> None:
    """Wait until no other planner runs, and hold the turn until this process ends."""
    if not HELD:
        path = Path(tempfile.gettempdir()) / f"ecrec-libtpu-{os.getuid()}.lock"
        HELD.append(open(path, "w"))  # noqa: SIM115 (held for the life of the process)
        fcntl.flock(HELD[0], fcntl.LOCK_EX)


HELD: list[Any] = []
