"""The one training loop: steps, logs one step late, evaluation, checkpoints, early stopping, the end."""

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from ecrec_jax import evaluate
from ecrec_jax.build import Parts
from ecrec_jax.checkpoint import Checkpoints
from ecrec_jax.data.feed import ahead
from ecrec_jax.step import make_step
from ecrec_jax.types import InputError, State, Tracker


@dataclasses.dataclass(frozen=True)
class Plan:
    """The root of the config: what belongs to no noun."""

    seed: int
    epochs: int
    steps: int | None
    best: dict[str, str]
    patience: int | None
    log_every: int
    save_every: int | None
    last: bool
    debug: Literal["overfit", "fast"] | None


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


class Loop:
    """A run being trained in its folder. `stop` is asked after every step whether to save and leave."""

    def __init__(self, parts: Parts, plan: Plan, folder: Path, trackers: Sequence[Tracker], stop: Callable[[], bool]):
        self.parts, self.plan, self.folder, self.trackers, self.stop = parts, plan, folder, trackers, stop
        self.checkpoints = Checkpoints(folder / "checkpoints", plan.best["mode"])
        trained, frozen = parts.peft.split(parts.parameters)
        self.kept = frozen | parts.constants
        opt = parts.optimizer.init(trained)
        self.start = State(trained, opt, jnp.int32(0), jnp.uint32(plan.seed))
        self.progress, self.pending, self.valid = Progress(), None, None
        self.total, self.began = parts.facts.steps, time.perf_counter()

    def run(self) -> dict[str, Any]:
        """Train from the latest checkpoint, or from the start, to the end; the summary.

        Raises:
            evaluate.Interrupted: `stop` came true; everything is saved.
            InputError: the loss is not finite.
        """
        with self.checkpoints:
            state = self.restore()
            self.evaluator = evaluate.Evaluator(self.parts, self.constant)
            step = self.parts.strategy.compile(make_step(self.parts.graph, self.parts.task, self.parts.peft,
                                                         self.parts.gradient, self.parts.optimizer, self.parts.strategy), True)
            while self.progress.epoch < self.epochs() and not self.exhausted():
                state = self.epoch(step, state)
                self.evaluate_and_save(state)
                self.progress.epoch, self.progress.batch = self.progress.epoch + 1, 0
            return self.finish(state)

    def epochs(self) -> int:
        """How many epochs at most; with `steps`, as many as it takes."""
        return self.plan.epochs if self.plan.steps is None else 1 << 30

    def exhausted(self) -> bool:
        """Whether all steps are done or patience is at its end."""
        return self.done >= self.total if self.plan.steps else \
            self.plan.patience is not None and self.progress.waited >= self.plan.patience

    def restore(self) -> State:
        """The latest state on the devices, or the first one; trackers are told."""
        found = self.checkpoints.latest(self.start)
        saved: dict[str, Any] = {}
        state = self.start
        if found is not None:
            state, meta = found
            self.progress, saved = Progress(**meta["progress"]), meta["trackers"]
        else:
            self.checkpoints.keep_constant(evaluate.host(self.kept))
        self.done = int(state.step)
        for i, tracker in enumerate(self.trackers):
            tracker.start(self.done, self.total, {}, saved.get(str(i), {}))
        self.constant = self.parts.strategy.place(self.checkpoints.constant() if found and self.kept else self.kept)
        return self.parts.strategy.place(state)

    def batches(self) -> Iterator[dict[str, np.ndarray]]:
        """The rest of this epoch's batches."""
        feed = self.parts.feeds["train"]
        if self.plan.debug == "overfit":
            return itertools.repeat(next(feed.batches(self.plan.seed, 0)), self.total - self.done)
        rest = feed.batches(self.plan.seed, self.progress.epoch, self.progress.batch)
        return itertools.islice(rest, self.total - self.done) if self.plan.steps else rest

    def epoch(self, step: Callable[..., Any], state: State) -> State:
        """The steps of an epoch."""
        put = lambda b: (self.parts.strategy.put(b, self.parts.gradient.count), counts(b))  # noqa: E731
        clock = None
        for batch, (examples, tokens) in ahead(self.batches(), put):
            state, logs = step(state, self.constant, batch)
            self.read()
            self.done, self.progress.batch = self.done + 1, self.progress.batch + 1
            self.pending = (self.done, logs)
            now = time.perf_counter()
            if clock is not None:   # the first step compiles, or waits for data
                self.count(now - clock, examples, tokens)
            clock = now
            if self.stop():
                self.save(state)
                raise evaluate.Interrupted
            if self.plan.save_every and self.done % self.plan.save_every == 0 and self.done < self.total:
                self.save(state)
                clock = None
        self.read()
        return state

    def count(self, seconds: float, examples: int, tokens: int) -> None:
        """Add to what throughput is computed from."""
        progress = self.progress
        progress.seconds += seconds
        progress.examples, progress.tokens = progress.examples + examples, progress.tokens + tokens

    def read(self) -> None:
        """Fetch the logs of the step before, check them, tell the trackers.

        Raises:
            InputError: loss or gradient norm is not finite.
        """
        if self.pending is None:
            return
        number, logs = self.pending
        self.pending = None
        values = {f"train/{key}": float(x) for key, x in self.parts.strategy.fetch(logs).items()}
        bad = [key for key, x in values.items() if not math.isfinite(x)]
        if bad:
            raise InputError(f"{' and '.join(bad)} not finite at step {number}; the last good checkpoint is kept in "
                             f"{self.checkpoints.folder}: lower optimizer.learning_rate or set optimizer.clip")
        if number % self.plan.log_every == 0 or number == self.total:
            self.tell(number, values | self.speed())

    def speed(self) -> dict[str, float]:
        """Throughput so far: real examples and tokens, without compilation, evaluation and saves."""
        progress = self.progress
        return {f"train/{key}_per_second": value / progress.seconds for key, value in
                (("examples", progress.examples), ("tokens", progress.tokens)) if progress.seconds}

    def wall(self, began: float) -> float:
        """Seconds of work in this folder: earlier processes' and this one's since `began`."""
        return self.progress.wall + time.perf_counter() - began

    def tell(self, step: int, values: dict[str, float]) -> None:
        """Log to every tracker."""
        for tracker in self.trackers:
            tracker.log(step, values)

    def save(self, state: State, value: float | None = None) -> None:
        """Checkpoint; waits for the step's log, and is refused if that isn't finite."""
        self.read()
        trackers = {str(i): tracker.state() for i, tracker in enumerate(self.trackers)}
        progress = dataclasses.asdict(self.progress) | {"wall": self.wall(self.began)}
        if value is not None:   # the epoch is over
            progress |= {"epoch": self.progress.epoch + 1, "batch": 0}
        try:
            self.checkpoints.save(self.parts.strategy.fetch(state), {"progress": progress, "trackers": trackers}, value)
        except (OSError, ValueError) as error:
            raise OSError(f"the checkpoint of step {self.done} could not be written to {self.checkpoints.folder} "
                          f"({str(error).splitlines()[0].rpartition(': ')[2]}); the one before is whole: make room and start the same command again"
                          ) from error

    def evaluate_and_save(self, state: State) -> None:
        """Validation at an epoch's end, then one save with its metric."""
        progress, metric, mode = self.progress, self.plan.best["metric"], self.plan.best["mode"]
        try:
            self.valid = self.evaluator.measure(state.trained, self.parts.feeds["valid"], self.stop, "valid")
        except evaluate.Interrupted:
            self.save(state)
            raise
        found = singles(self.valid[0])
        if metric not in found:
            raise InputError(f"best.metric: {metric!r} is none of {', '.join(found)}")
        value = found[metric] if mode == "max" else -found[metric]
        if progress.best is None or value > progress.best:
            progress.best, progress.best_step, progress.waited = value, self.done, 0
        else:
            progress.waited += 1
        self.tell(self.done, {f"valid/{key}": x for key, x in found.items()} | {"epoch": progress.epoch + 1})
        self.save(state, found[metric])

    def finish(self, state: State) -> dict[str, Any]:
        """Evaluate the best checkpoint on validation and test, keep its predictions; the flat summary."""
        summary: dict[str, Any] = {"steps": self.done, "epochs": self.progress.epoch, "best_step": self.progress.best_step}
        last_is_best = self.progress.best_step == self.done
        trained = state.trained if last_is_best else self.parts.strategy.place(self.checkpoints.best()[0])
        for split in ("valid", "test"):
            if split not in self.parts.feeds:
                continue
            known = split == "valid" and last_is_best and self.valid is not None
            metrics, columns = self.valid if known else self.evaluator.measure(trained, self.parts.feeds[split], self.stop, split)
            summary |= evaluate.keep(self.folder, split, metrics, columns, self.parts.facts)
            if self.plan.last:
                final, _ = self.evaluator.measure(state.trained, self.parts.feeds[split], self.stop, split)
                summary |= evaluate.scalars(final, f"{split}_last")
        self.tell(self.done, {key: x for key, x in summary.items() if key.startswith("test/")})
        return summary | self.speed()


def singles(metrics: dict[str, Any]) -> dict[str, float]:
    """The metrics that are one number."""
    return {key: x for key, x in metrics.items() if isinstance(x, int | float)}


def counts(batch: dict[str, np.ndarray]) -> tuple[int, int]:
    """(examples, real tokens) of a batch."""
    live = batch["weight"] > 0
    return len(np.unique(batch["example"][live])), int((batch["segment"] > 0).sum())
