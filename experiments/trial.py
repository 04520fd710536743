"""One trial of a search: a run in a process of its own, watched through its metrics.jsonl, stopped where it doesn't pay."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from ecrec_jax.source import load_config
from ecrec_jax.types import InputError
from experiments.cell import started, wait_for
from experiments.override import overrides
from experiments.space import Sweep

EVERY = 0.5   # seconds between two looks


class Broken(Exception):
    """A trial ended without a result; says why."""


class Trial:
    """Optuna's trial `drawn` as a run in `folder`; `given_up`: whether its pruner stopped it."""

    def __init__(self, drawn: Any, sweep: Sweep, group: str, folder: Path):
        self.drawn, self.metric, self.group, self.folder, self.given_up = drawn, sweep.metric, group, folder, False
        self.values = sweep.draw(drawn)

    def run(self) -> float:
        """The metric of the best checkpoint; of a run that was given up, its last one.

        Raises:
            Broken: the run ended without one.
            InputError: such runs log no such metric.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        wait_for(self.folder / ".lock")
        reported = 0
        with open(self.folder / "log.txt", "a", encoding="utf-8") as log, started(self.command(), log) as child:
            while child.poll() is None:
                time.sleep(EVERY)
                reported = self.report(reported)
                if not self.given_up and child.poll() is None and reported and self.drawn.should_prune() and not self.over():
                    self.given_up = True
                    child.terminate()   # it saves and leaves
        self.report(reported)
        return self.result(child.returncode)

    def command(self) -> list[str]:
        """The run's command."""
        words = [word for key, x in self.values.items() for word in overrides(key, x)]
        if "wandb" in self.values.get("tracker", ["wandb"]):
            words += overrides("tracker.wandb.group", self.group)
        return [sys.executable, "-m", "experiments.train", *words, *overrides("run_dir", str(self.folder))]

    def report(self, known: int) -> int:
        """Tell Optuna of validations after the first `known`; how many there are now. One step is one validation, as for W&B."""
        found = self.course()
        for step, value in enumerate(found[known:], known + 1):
            self.drawn.report(value, step)
        return max(known, len(found))

    def course(self) -> list[float]:
        """The metric at every validation so far.

        Raises:
            InputError: it isn't among what they say.
        """
        found = self.validations()
        if found and self.metric not in found[0]:
            known = ", ".join(key for key in found[0] if key.startswith("valid/"))
            raise InputError(f"metric: runs of this sweep log no {self.metric}; they log {known}")
        return [row[self.metric] for row in found]

    def validations(self) -> list[dict[str, Any]]:
        """What every validation so far said; a line that is being written doesn't count."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
        return [row for row in map(json.loads, lines) if "valid/loss" in row]

    def over(self) -> bool:
        """Whether all epochs or steps are behind: what is left is to evaluate the best checkpoint, too late to give up."""
        found = self.validations()
        config = load_config(self.folder) if found else {}
        return bool(found) and (found[-1]["epoch"] >= config["epochs"] if config["steps"] is None
                                else found[-1]["step"] >= config["steps"])

    def result(self, code: int) -> float:
        """What the run came to."""
        path, found = self.folder / "summary.json", self.course()
        if path.is_file():   # it may have got through although it was told to stop
            self.given_up = False
            summary = json.loads(path.read_text(encoding="utf-8"))
            if self.metric not in summary:
                raise Broken(f"no {self.metric} in {path}")
            return summary[self.metric]
        if self.given_up:
            return found[-1]
        said = [line for line in (self.folder / "log.txt").read_text(encoding="utf-8").splitlines() if line.startswith("error: ")]
        raise Broken(said[-1].removeprefix("error: ") if said else f"exit code {code}")
