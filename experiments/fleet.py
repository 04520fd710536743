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
        wave = bundles([cell for cell in cells if depth(cell) == level])
        work = functools.partial(one, wave, dict(columns), os.getpid())
        jobs = launcher(name, work).launch([[*given, f"cell={i}"] for i in range(len(wave))], 0)
        for bundle, done in zip(wave, jobs, strict=True):
            for cell, error in zip(bundle, done.return_value, strict=True):
                cell.error = error


def bundles(cells: Sequence[Cell]) -> list[list[Cell]]:
    """What is one process: a cell, or the cells of a row that share a program."""
    found: dict[Any, list[Cell]] = {}
    for i, cell in enumerate(cells):
        found.setdefault(cell.row if cell.together else i, []).append(cell)
    return list(found.values())


def launcher(name: str, work: Callable[[DictConfig], Any]) -> Launcher:
    """The launcher that the command line chose, `hydra/launcher=NAME`."""
    hydra = GlobalHydra.instance().hydra
    overrides = HydraConfig.get().overrides
    config = hydra.compose_config(name, [*overrides.task, *overrides.hydra], run_mode=RunMode.MULTIRUN)
    context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
    return Plugins.instance().instantiate_launcher(hydra_context=context, task_function=work, config=config)


def one(wave: Sequence[Sequence[Cell]], columns: Mapping[str, Any], parent: int, config: DictConfig) -> list[str | None]:
    """One job: the cells of this number; their errors."""
    if os.getpid() != parent and os.getppid() == parent and sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)   # PR_SET_PDEATHSIG: a worker ends with the table, and its run with it
    cells, began = wave[config.cell], time.perf_counter()
    title = f"[{config.cell + 1}/{len(wave)}] {cells[0].row}, seed {', '.join(str(cell.seed) for cell in cells)}"
    print(f"{title} …", flush=True)
    run(cells)
    for cell in cells:
        done = cell.summary() or {}
        numbers = "  ".join(f"{spec['title']} {done[key]:.{spec['digits']}f}" for key, spec in columns.items() if key in done)
        print(f"{title if cell is cells[0] else f'    seed {cell.seed}'}: {cell.error or numbers or 'done'}"
              f"  ({time.perf_counter() - began:.0f} s)", flush=True)
    return [cell.error for cell in cells]
