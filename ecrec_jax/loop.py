"""The one training loop: steps, logs one step late, evaluation, checkpoints, early stopping, the end."""

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from ecrec_jax import evaluate, nan
from ecrec_jax.build import Parts
from ecrec_jax.checkpoint import Checkpoints
from ecrec_jax.data.feed import ahead
from ecrec_jax.meter import Meter, Progress, counts
from ecrec_jax.profile import Profile
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
    debug: Literal["overfit", "fast", "nan", "profile"] | None


class Loop:
    """A run being trained in its folder. `stop` is asked after every step whether to save and leave."""

    def __init__(self, parts: Parts, plan: Plan, folder: Path, trackers: Mapping[str, Tracker], stop: Callable[[], bool]):
        self.parts, self.plan, self.folder, self.trackers, self.stop = parts, plan, folder, trackers, stop
        self.checkpoints = Checkpoints(folder / "checkpoints", plan.best["mode"])
        trained, frozen = parts.peft.split(parts.parameters)
        self.kept = frozen | parts.constants
        opt = parts.optimizer.init(trained)
        self.start = State(trained, opt, jnp.int32(0), jnp.uint32(plan.seed))
        self.total, self.began, self.valid = parts.facts.steps, time.perf_counter(), None
        self.meter = Meter(trackers, parts.strategy, plan.log_every, self.total, "the last good checkpoint is kept in "
                           f"{self.checkpoints.folder}: lower optimizer.learning_rate or set optimizer.clip; debug=nan says where "
                           "it begins")

    def run(self) -> dict[str, Any]:
        """Train from the latest checkpoint, or from the start, to the end; the summary.

        Raises:
            evaluate.Interrupted: `stop` came true; everything is saved.
            InputError: the loss is not finite.
        """
        with self.checkpoints:
            state = self.restore()
            self.evaluator = evaluate.Evaluator(self.parts, self.constant, training=True)
            step = self.compiled()
            while self.progress.epoch < self.epochs() and not self.exhausted():
                state = self.epoch(step, state)
                self.evaluate_and_save(state)
                self.progress.epoch, self.progress.batch = self.progress.epoch + 1, 0
            return self.finish(state)

    def compiled(self) -> Callable[..., Any]:
        """The step, under the eyes that `debug` asks for."""
        parts, debug = self.parts, self.plan.debug
        step = make_step(parts.graph, parts.task, parts.peft, parts.gradient, parts.optimizer, parts.strategy)
        if debug == "nan":
            return nan.watched(parts.strategy.compile(step, False), parts)
        compiled = parts.strategy.compile(step, True)
        if debug == "profile":
            rows, length = parts.feeds["train"].shape[:2]
            return Profile(compiled, self.folder, f"{rows} rows × {length} tokens a step, on {parts.strategy.devices} × "
                           f"{parts.strategy.platform}")
        return compiled

    @property
    def progress(self) -> Progress:
        """Where the run is."""
        return self.meter.progress

    def epochs(self) -> int:
        """How many epochs at most; with `steps`, as many as it takes."""
        return self.plan.epochs if self.plan.steps is None else 1 << 30

    def exhausted(self) -> bool:
        """Whether all steps are done and judged, or patience is at its end."""
        impatient = self.plan.patience is not None and self.progress.waited >= self.plan.patience
        return impatient or (self.plan.steps is not None and self.done >= self.total and self.progress.batch == 0)

    def restore(self) -> State:
        """The latest state on the devices, or the first one; trackers are told."""
        found = self.checkpoints.latest(self.start)
        saved: dict[str, Any] = {}
        state = self.start
        if found is not None:
            state, meta = found
            self.meter.progress, saved = Progress(**meta["progress"]), meta["trackers"]
        else:
            self.checkpoints.keep_constant({name: np.asarray(x) for name, x in self.kept.items()})
        self.done = int(state.step)
        for name, tracker in self.trackers.items():
            tracker.start(self.done, self.total, saved.get(name, {}))
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
            self.meter.read()
            self.done, self.progress.batch = self.done + 1, self.progress.batch + 1
            self.meter.pending = (self.done, logs)
            now = time.perf_counter()
            if clock is not None:   # the first step compiles, or waits for data
                self.meter.took(now - clock, examples, tokens)
            clock = now
            if self.stop():
                self.save(state)
                raise evaluate.Interrupted
            if self.plan.save_every and self.done % self.plan.save_every == 0 and self.done < self.total:
                self.save(state)
                clock = None
        self.meter.read()
        return state

    def wall(self, began: float) -> float:
        """Seconds of work in this folder: earlier processes' and this one's since `began`."""
        return self.progress.wall + time.perf_counter() - began

    def save(self, state: State, value: float | None = None) -> None:
        """Checkpoint; waits for the step's log, and is refused if that isn't finite."""
        self.meter.read()
        trackers = {name: tracker.state() for name, tracker in self.trackers.items()}
        progress = dataclasses.asdict(self.progress) | {"wall": self.wall(self.began)}
        if value is not None:   # the epoch is over
            progress |= {"epoch": self.progress.epoch + 1, "batch": 0}
        self.checkpoints.save(self.parts.strategy.fetch(state), {"progress": progress, "trackers": trackers}, value)

    def evaluate_and_save(self, state: State) -> None:
        """Validation at an epoch's end, then one save with its metric."""
        progress, metric, mode = self.progress, self.plan.best["metric"], self.plan.best["mode"]
        try:
            self.valid = self.evaluator.measure(state.trained, self.parts.feeds["valid"], self.stop, "valid")
        except evaluate.Interrupted:
            self.save(state)
            raise
        found = evaluate.scalars(self.valid[0], "valid")
        if f"valid/{metric}" not in found:
            self.save(state)
            raise InputError(f"best.metric: {metric!r} is none of {', '.join(key.removeprefix('valid/') for key in found)}; with "
                             "another the same command goes on")
        judged = found[f"valid/{metric}"]
        if not math.isfinite(judged):
            self.save(state)
            raise InputError(f"best.metric: {metric} is {judged} on the rows for validation; with another the same command goes on")
        value = judged if mode == "max" else -judged
        if progress.best is None or value > progress.best:
            progress.best, progress.best_step, progress.waited = value, self.done, 0
        else:
            progress.waited += 1
        self.meter.tell(self.done, found | {"epoch": progress.epoch + 1})
        self.save(state, judged)

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
            summary |= evaluate.keep(self.folder, split, metrics, columns, self.parts.facts, self.parts.corpus.catalogue)
            if self.plan.last:
                final, _ = self.evaluator.measure(state.trained, self.parts.feeds[split], self.stop, split)
                summary |= evaluate.scalars(final, f"{split}_last")
        self.meter.tell(self.done, {key: x for key, x in summary.items() if key.startswith("test/")})
        return summary | self.meter.speed()
