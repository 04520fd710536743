"""The runs of a table through a launcher of Hydra: one after the other, in processes (joblib), on Slurm (submitit)."""

import ctypes
import functools
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from experiments.cell import Cell, run


def send(cells: Sequence[Cell], columns: Mapping[str, Any], name: str) -> None:
    """Make all cells, those that others start from first; errors stay with their cells."""
    depth = lambda cell: 0 if cell.source is None else 1 + depth(cell.source)  # noqa: E731
    given = [word for word in HydraConfig.get().overrides.task if not word.startswith("cell=")]
    for level in sorted({depth(cell) for cell in cells}):
        wave = [cell for cell in cells if depth(cell) == level]
        work = functools.partial(one, wave, dict(columns), os.getpid())
        jobs = launcher(name, work).launch([[*given, f"cell={i}"] for i in range(len(wave))], 0)
        for cell, done in zip(wave, jobs, strict=True):
            cell.error = done.return_value


def launcher(name: str, work: Callable[[DictConfig], Any]) -> Launcher:
    """The launcher that the command line chose, `hydra/launcher=NAME`."""
    hydra = GlobalHydra.instance().hydra
    overrides = HydraConfig.get().overrides
    config = hydra.compose_config(name, [*overrides.task, *overrides.hydra], run_mode=RunMode.MULTIRUN)
    context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
    return Plugins.instance().instantiate_launcher(hydra_context=context, task_function=work, config=config)


def one(wave: Sequence[Cell], columns: Mapping[str, Any], parent: int, config: DictConfig) -> str | None:
    """One job: the cell of this number; its error."""
    if os.getpid() != parent and os.getppid() == parent and sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)   # PR_SET_PDEATHSIG: a worker ends with the table, and its run with it
    cell, began = wave[config.cell], time.perf_counter()
    title = f"[{config.cell + 1}/{len(wave)}] {cell.row}, seed {cell.seed}"
    print(f"{title} …", flush=True)
    run(cell)
    done = cell.summary() or {}
    numbers = "  ".join(f"{spec['title']} {done[key]:.{spec['digits']}f}" for key, spec in columns.items() if key in done)
    print(f"{title}: {cell.error or numbers or 'done'}  ({time.perf_counter() - began:.0f} s)", flush=True)
    return cell.error
