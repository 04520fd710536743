"""Machines that are not there: the devices of a TPU topology, as the compiler in the package libtpu knows them."""

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

GIB = 2**30
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
    if chip not in HBM or not all(part.isdigit() and int(part) for part in parts):
        raise InputError(f"topology is {topology!r}, expected cpu, or a chip and its layout such as v5e:2x2 or v5p:2x2x1; known "
                         f"chips are {', '.join(HBM)}")
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


def take_turns() -> None:
    """Wait until no other planner runs, and hold the turn until this process ends."""
    if not HELD:
        path = Path(tempfile.gettempdir()) / f"ecrec-libtpu-{os.getuid()}.lock"
        HELD.append(open(path, "w"))  # noqa: SIM115 (held for the life of the process)
        fcntl.flock(HELD[0], fcntl.LOCK_EX)


HELD: list[Any] = []
