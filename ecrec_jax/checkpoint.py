"""Checkpoints of a run, through Orbax: the latest to go on from, the best to report."""

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from ecrec_jax import processes
from ecrec_jax.types import InputError, Parameters, State

WRITING = threading.Lock()   # runs of one process save one after the other: stderr is theirs together
logging.getLogger("absl").setLevel(logging.ERROR)


class Checkpoints:
    """The folder `checkpoints/` of a run.

    Orbax's number of a checkpoint is 2 · step, + 1 where it carries validation metrics: an interrupted evaluation leaves
    the even one, and finishing it adds the odd one. Written under another name first, then renamed. With several processes
    the first alone reads and writes, as Orbax's only one, and tells the others: they need not see the folder. Who only reads
    (`writing`) leaves alone what another process is writing.
    """

    def __init__(self, folder: Path, mode: Literal["max", "min"], writing: bool = True):
        sign = 1 if mode == "max" else -1

        def rank(metrics: dict[str, float]) -> Any:   # among equals the earlier one
            return sign * metrics["value"], -metrics["step"]

        keep = managers.AnyPreservationPolicy([
            managers.LatestN(1),
            managers.BestN(get_metric_fn=rank, n=1, keep_checkpoints_without_metrics=False),
        ])
        self.folder = folder.absolute()
        self.constants = self.folder / "constant"
        self.only = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0}, barrier_sync_key_prefix="first")
        if processes.first():
            self.folder.mkdir(parents=True, exist_ok=True)
            self.manager = ocp.CheckpointManager(self.folder, options=ocp.CheckpointManagerOptions(
                preservation_policy=keep, best_fn=rank, best_mode="max", enable_async_checkpointing=False, create=False,
                read_only=not writing, cleanup_tmp_directories=writing, multiprocessing_options=self.only))

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        if processes.first():
            self.manager.close()

    def save(self, state: State, meta: dict[str, Any], value: float | None = None) -> None:
        """Write a checkpoint: host arrays of the state, and what JSON can hold. `value`: the metric it is judged by."""
        if not processes.first():
            return
        step = int(state.step)
        rest = {"opt": state.opt, "step": np.asarray(state.step), "seed": np.asarray(state.seed)}
        items = ocp.args.Composite(trained=ocp.args.StandardSave(state.trained), state=ocp.args.StandardSave(rest),
                                   meta=ocp.args.JsonSave(meta))
        number = 2 * step + (value is not None)

        def save() -> None:
            self.manager.save(number, args=items, metrics=None if value is None else {"value": value, "step": step})
            self.manager.wait_until_finished()

        if number not in self.manager.all_steps():
            self.write(save, f"the checkpoint of step {step}")

    def latest(self, like: State) -> tuple[State, dict[str, Any]] | None:
        """The newest checkpoint, shaped like a given state."""
        found = self.read_latest(like) if processes.first() else None
        state, mine = (None, None) if found is None else found
        meta = processes.agree(lambda: mine)
        return None if meta is None else (processes.share(state, like), meta)

    def read_latest(self, like: State) -> tuple[State, dict[str, Any]] | None:
        """As `latest`, from the folder."""
        number = self.manager.latest_step()
        if number is None:
            return None
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype), like)
        rest = {"opt": shapes.opt, "step": shapes.step, "seed": shapes.seed}
        found = self.manager.restore(number, args=ocp.args.Composite(
            trained=ocp.args.StandardRestore(shapes.trained), state=ocp.args.StandardRestore(rest),
            meta=ocp.args.JsonRestore()))
        return State(found.trained, found.state["opt"], found.state["step"], found.state["seed"]), found.meta

    def best(self) -> tuple[Parameters, Parameters]:
        """(trained, constant) of the checkpoint with the best metric; the newest where none has one.

        Raises:
            InputError: nothing was saved yet.
        """
        return processes.read(self.read_best), self.constant()

    def read_best(self) -> Parameters:
        """What is trained, of `best`, from the folder."""
        number = self.manager.best_step() if self.manager.best_step() is not None else self.manager.latest_step()
        if number is None:
            raise InputError(f"{self.folder} holds no checkpoint yet")
        found = self.manager.restore(number, args=ocp.args.Composite(trained=ocp.args.StandardRestore()))
        return dict(found.trained)

    def keep_constant(self, constant: Parameters) -> None:
        """Save what never changes, once a run."""
        def save() -> None:
            with ocp.StandardCheckpointer(multiprocessing_options=self.only) as saver:
                saver.save(self.constants, constant)

        if processes.first() and constant and not self.constants.exists():
            self.write(save, "the constant arrays")

    def write(self, save: Callable[[], object], what: str) -> None:
        """Save, and once more if that fails: on a busy machine the storage library's threads lose a race now and then.

        Raises:
            OSError: both failed; what was saved before is whole.
        """
        for last in (False, True):
            try:
                with WRITING, silent():
                    save()
                return
            except (OSError, ValueError) as error:
                if last:
                    why = str(error).splitlines()[0].rpartition(": ")[2]
                    raise OSError(f"{what} could not be written to {self.folder} ({why}); what was saved before is whole: make "
                                  "room and start the same command again") from error

    def constant(self) -> Parameters:
        """What `keep_constant` saved."""
        return processes.read(self.read_constant)

    def read_constant(self) -> Parameters:
        """As `constant`, from the folder."""
        if not self.constants.exists():
            return {}
        with ocp.StandardCheckpointer(multiprocessing_options=self.only) as reader:
            return dict(reader.restore(self.constants))


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Nothing on the process's stderr: when a write fails, the storage library's threads print a traceback each, although
    the failure is raised as one exception too."""
    sys.stderr.flush()
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    except BaseException:
        time.sleep(0.5)   # the threads are still talking
        raise
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)
