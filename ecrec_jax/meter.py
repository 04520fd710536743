"""What a loop reports: logs one step late, checked to be finite, and throughput."""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ecrec_jax.types import Batch, InputError, Strategy, Tracker


def brief(names: Iterable[str]) -> list[str]:
    """What a reader wants to see of many metrics: of those at several cut-offs the ones at 10, or else at the last."""
    names, cut = list(names), re.compile(r"@(\d+)")
    found = {int(match[1]) for name in names if (match := cut.search(name))}
    shown = 10 if 10 in found else max(found, default=0)
    return [name for name in names if (match := cut.search(name)) is None or int(match[1]) == shown]


@dataclasses.dataclass
class Progress:
    """Where a run is; everything here is in the checkpoint."""

    epoch: int = 0
    batch: int = 0
    best: float | None = None
    best_step: int | None = None
    waited: int = 0
    seconds: float = 0.0
    examples: int = 0
    tokens: int = 0
    wall: float = 0.0


class Meter:
    """Holds the logs of the step that is running until the next one has been started, so that the host never waits."""

    def __init__(self, trackers: Mapping[str, Tracker], strategy: Strategy, log_every: int, total: int, hint: str):
        self.trackers, self.strategy, self.log_every, self.total, self.hint = trackers, strategy, log_every, total, hint
        self.progress = Progress()
        self.pending: tuple[int, Any] | None = None

    def took(self, seconds: float, examples: int, tokens: int) -> None:
        """Add to what throughput is computed from."""
        progress = self.progress
        progress.seconds += seconds
        progress.examples, progress.tokens = progress.examples + examples, progress.tokens + tokens

    def speed(self) -> dict[str, float]:
        """Throughput so far: real examples and tokens, without compilation, evaluation and saves."""
        progress = self.progress
        return {f"train/{key}_per_second": value / progress.seconds for key, value in
                (("examples", progress.examples), ("tokens", progress.tokens)) if progress.seconds}

    def read(self) -> None:
        """Fetch the pending logs, check them, tell the trackers.

        Raises:
            InputError: loss or gradient norm is not finite.
        """
        if self.pending is None:
            return
        number, logs = self.pending
        self.pending = None
        values = {f"train/{key}": float(x) for key, x in self.strategy.fetch(logs).items()}
        bad = [key for key, x in values.items() if not math.isfinite(x)]
        if bad:
            raise InputError(f"{' and '.join(bad)} not finite at step {number}; {self.hint}")
        if number % self.log_every == 0 or number == self.total:
            self.tell(number, values | self.speed())

    def tell(self, step: int, values: Mapping[str, float]) -> None:
        """Log to every tracker."""
        for tracker in self.trackers.values():
            tracker.log(step, values)


def counts(batch: Batch) -> tuple[int, int]:
    """(examples, real tokens) of a batch."""
    live = batch["weight"] > 0
    return len(np.unique(batch["example"][live])), int((batch["segment"] > 0).sum())
