"""Many runs at once: `replicas=N` trains N seeds, or as many values of a number, in one compiled program."""

import contextlib
import copy
import dataclasses
import io
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from ecrec_jax import build, evaluate, processes, section
from ecrec_jax.loop import Loop
from ecrec_jax.replicas import Group, Replica
from ecrec_jax.types import InputError
from experiments import record, wiring
from experiments.train import begin, finish, note, show

PATHS = ("run_dir", "model.checkpoint")
FINISHING = threading.Lock()   # plots are drawn one at a time


@dataclasses.dataclass
class Member:
    """One run: its configuration, its folder, and what came of it."""

    config: dict[str, Any]
    folder: Path
    loop: Loop | None = None
    about: dict[str, Any] = dataclasses.field(default_factory=dict)
    summary: dict[str, Any] | None = None
    error: BaseException | None = None


def members(config: Mapping[str, Any]) -> list[Member]:
    """The runs that `replicas` asks for; each is a run as if it had been started alone.

    Raises:
        InputError: `replicas` is neither a number nor lists of the same length of what may differ.
    """
    given = config["replicas"]
    if isinstance(given, int) and not isinstance(given, bool) and given > 0:
        given = {"seed": [config["seed"] + i for i in range(given)]}
    lengths = {len(x) if isinstance(x, list) else 0 for x in given.values()} if isinstance(given, dict) else set()
    if len(lengths) != 1 or 0 in lengths:
        raise InputError(f"replicas is {given!r}, must be a number of seeds, or lists of the same length: "
                         "{seed: [0, 1], optimizer.learning_rate: [1e-4, 3e-4]}")
    wrong = [key for key, values in given.items() if key not in ("seed", *PATHS) and not numeric(config, key, values)]
    if wrong:
        raise InputError(f"replicas: {wrong[0]} can't differ inside one program; seed, model.checkpoint, run_dir and the numbers "
                         "of optimizer and task can")
    above = record.folder_of(config)
    found = []
    for i in range(lengths.pop()):
        mine = copy.deepcopy(dict(config)) | {"replicas": None}
        names = [f"{key.rpartition('.')[2]}_{values[i]}" for key, values in given.items() if key not in PATHS]
        mine["run_dir"] = str(above / ("-".join(names) or f"replica_{i}"))
        for key, values in given.items():
            *path, last = key.split(".")
            at = mine
            for part in path:
                at = at[part]
            at[last] = values[i]
        found.append(Member(mine, Path(mine["run_dir"])))
    if len({member.folder for member in found}) < len(found):
        raise InputError("replicas: two of the runs are the same")
    return found


def numeric(config: Mapping[str, Any], key: str, values: Sequence[Any]) -> bool:
    """Whether these are numbers of a key that the optimizer keeps in its state, or that the task takes as a float."""
    noun, _, name = key.partition(".")
    if noun not in ("optimizer", "task") or name not in config[noun]:
        return False
    cls = section.target(config[noun], noun)
    floating = name in cls.leaves if noun == "optimizer" else float in (hint := section.arguments(cls)[name][0], *get_args(hint))
    return floating and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def train(config: dict[str, Any]) -> None:
    """Train all that aren't finished, side by side; each ends when it would end alone.

    Raises:
        InputError: a mistake in one of them; the others have gone on to their end.
        evaluate.Interrupted: a stop was asked for; all are saved.
    """
    began = time.perf_counter()
    wiring.compilation_cache()
    runs = members(config)
    for run in runs:
        wiring.plan_of(run.config)
        wiring.check(run.config)
    together(config)
    with contextlib.ExitStack() as held:
        for run in runs:
            lock, run.summary = record.open_run(run.config, run.folder)
            held.enter_context(lock)
        left = [run for run in runs if run.summary is None]
        group = Group(max(len(left), 1), config["strategy"]["devices"])
        prepare(left, group, config)
        threads = [threading.Thread(target=work, args=(run, i, group, began), daemon=True) for i, run in enumerate(left)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for run in runs:
        if run.error is None:
            if run not in left:
                note(run.folder)
            show(run.summary, run.config["best"]["metric"], run.folder)
    errors = [run.error for run in runs if run.error is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, evaluate.Interrupted)):
        raise error
    spread([run.summary for run in runs])


def together(config: Mapping[str, Any]) -> None:
    """Whether the runs can share a program.

    Raises:
        InputError: they can't.
    """
    wiring.connect(config)
    if not processes.alone() or section.target(config["strategy"], "strategy").__name__ != "Jit":
        raise InputError("replicas are dealt to the devices of one process, each to one device: choose strategy=jit")
    if config["debug"] in ("nan", "profile"):
        raise InputError(f"debug={config['debug']} looks at the steps of one run: leave replicas null")
    if config["model"].get("text_encoder"):
        raise InputError("replicas: a text encoder reads the items of one run at a time; leave replicas or model.text_encoder null")
    if os.environ.get("WANDB_SWEEP_ID") or os.environ.get("WANDB_RUN_ID"):
        raise InputError("replicas: an agent's trial is one run; leave replicas null in a sweep")


def prepare(runs: Sequence[Member], group: Group, config: Mapping[str, Any]) -> None:
    """Build the runs one after the other; data is read once, the first one speaks for all."""
    stop, first = wiring.Stop(), None
    for i, run in enumerate(runs):
        changed = wiring.debugged(run.config)
        parts = build.build(changed, first)
        first = first or parts
        for name, feed in parts.feeds.items():
            if feed.shape != first.feeds[name].shape:
                here, there = tuple(feed.shape[:3]), tuple(first.feeds[name].shape[:3])
                raise InputError(f"replicas: batches of {run.folder.name} have {here} rows, tokens and slots, those of the first "
                                 f"{there}: copies of texts, or shares of what is read, differ; run them one after the other")
        numbers = {key: np.float32(changed["task"][key.removeprefix("task.")])
                   for key in (config["replicas"] if isinstance(config["replicas"], dict) else ()) if key.startswith("task.")}
        parts = dataclasses.replace(parts, strategy=Replica(group, i), constants=parts.constants | numbers)
        if i == 0:
            print(f"{len(runs)} runs in one program; the lines of the first are shown: {run.folder}", flush=True)
        else:
            run.config["tracker"] = {name: node for name, node in run.config["tracker"].items() if name != "console"}
        with contextlib.redirect_stdout(io.StringIO()) if i else contextlib.nullcontext():
            run.loop, run.about = begin(run.config, changed, parts, run.folder, stop)


def work(run: Member, index: int, group: Group, began: float) -> None:
    """A run in its thread, from its start or its checkpoint to its end."""
    try:
        summary = run.loop.run() | run.about | {"wall_seconds": run.loop.wall(began), "replicas": group.count}
        with FINISHING:
            finish(run.loop, summary, run.folder)
        run.summary = summary
    except BaseException as error:  # noqa: BLE001 (raised again when all are at their end)
        run.error = error
    finally:
        group.leave(index)


def spread(summaries: Sequence[Mapping[str, Any]]) -> None:
    """Mean and spread over all runs, of what a reader of one looks at."""
    for key in (key for key in summaries[0] if key.startswith("test/") and all(key in s for s in summaries)):
        values = np.array([summary[key] for summary in summaries])
        print(f"{key:32} {values.mean():.4f} ± {values.std(ddof=1) if len(values) > 1 else 0.0:.4f} (n {len(values)})")
