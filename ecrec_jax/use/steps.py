"""Steps of training and evaluation as a run makes them, to be timed: packing, feed thread and compiled step."""

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from ecrec_jax import build, step
from ecrec_jax.data.feed import Feed, ahead
from ecrec_jax.evaluate import Evaluator
from ecrec_jax.types import State


def batches(parts: build.Parts, feed: Feed, seed: int | None) -> Iterator[tuple[Any, int]]:
    """Batches for ever, on the devices, with the tokens of each; laid out in a thread ahead."""
    put = lambda b: (parts.strategy.put(b, parts.gradient.count), int((b["segment"] > 0).sum()))  # noqa: E731
    yield from ahead(itertools.chain.from_iterable(feed.batches(seed, epoch) for epoch in itertools.count()), put)


def trainer(parts: build.Parts, feed: Feed) -> Callable[[int], int]:
    """A function that makes steps of training and returns the tokens they read."""
    strategy, (trained, frozen) = parts.strategy, parts.peft.split(parts.parameters)
    state = strategy.place(State(trained, parts.optimizer.init(trained), np.int32(0), np.uint32(0)))
    constant, given = strategy.place(frozen | parts.constants), batches(parts, feed, 0)
    one = strategy.compile(step.make_step(parts.graph, parts.task, parts.peft, parts.gradient, parts.optimizer, strategy), True)

    def run(steps: int) -> int:
        nonlocal state
        tokens, logs = 0, None
        for batch, count in itertools.islice(given, steps):
            state, logs = one(state, constant, batch)
            tokens += count
        jax.block_until_ready((state, logs))
        return tokens

    return run


def evaluator(parts: build.Parts, feed: Feed) -> Callable[[int], None]:
    """A function that evaluates batches of a split."""
    trained, frozen = parts.peft.split(parts.parameters)
    program = Evaluator(parts, parts.strategy.place(frozen | parts.constants))
    trained, given = parts.strategy.place(trained), batches(parts, feed, None)

    def run(count: int) -> None:
        for batch, _ in itertools.islice(given, count):
            jax.block_until_ready(program.program(trained, program.constant, batch))

    return run


def reader(parts: build.Parts) -> Callable[[int], None]:
    """A function that reads the texts of all items so many times, as each evaluation while training does; nothing where there is no
    text encoder."""
    trained, frozen = parts.peft.split(parts.parameters)
    program = Evaluator(parts, parts.strategy.place(frozen | parts.constants), training=True)
    trained = parts.strategy.place(trained)
    return lambda count: jax.block_until_ready([program.vectors(trained) for _ in range(count)])


def seconds(run: Callable[[int], Any], count: int) -> tuple[float, float]:
    """(seconds of the first call, which compiles; seconds of each of `count` after it)."""
    began = time.perf_counter()
    run(1)
    between = time.perf_counter()
    run(count)
    return between - began, (time.perf_counter() - between) / count
