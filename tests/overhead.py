"""What a step costs outside the compiled program: `python -m tests.overhead [experiment=… model=…]`.

Prints, for the reviews by default: the cost of planning an epoch and the fill of its rows, Python's time to prepare and lay out
a batch (in the thread ahead of the step), to hand it to the devices, to dispatch a step, and to read its logs.
"""

import sys
import time

import numpy as np
from hydra import compose, initialize_config_dir

from ecrec_jax import build
from ecrec_jax.step import make_step
from ecrec_jax.types import State
from experiments import launch, wiring


def spread(seconds):
    """Median and the middle 80 %, in milliseconds."""
    low, middle, high = np.percentile(np.array(seconds) * 1e3, [10, 50, 90])
    return f"{middle:8.3f} ms  [{low:.3f}, {high:.3f}]"


def timed(function, *args):
    """(result, seconds)."""
    began = time.perf_counter()
    result = function(*args)
    return result, time.perf_counter() - began


def main(words):
    """Measure."""
    wiring.compilation_cache()
    with initialize_config_dir(launch.CONF, version_base="1.3"):   # not tests.world: its flags slow programs down
        made = build.build(wiring.plain(compose("train", words or ["experiment=sentiment"])))
    feed, strategy = made.feeds["train"], made.strategy
    plans = [timed(feed.plan, 0, epoch) for epoch in range(5)]
    rows = plans[0][0]
    print(f"plan an epoch of {len(feed.examples)} examples      {spread([s for _, s in plans])}")
    full = feed.tokens.sum() / (len(rows) * feed.shape.length)
    print(f"rows {len(rows)} x {feed.shape.length}, fill {full:.4f}, shape {feed.shape}")
    batches, lay = feed.batches(0, 0), []
    given = []
    for _ in range(40):
        batch, seconds = timed(next, batches)
        lay.append(seconds)
        given.append(batch)
    print(f"prepare and lay out a batch            {spread(lay[1:])}")
    trained, frozen = made.peft.split(made.parameters)
    state = strategy.place(State(trained, made.optimizer.init(trained), np.int32(0), np.uint32(0)))
    constant = strategy.place(frozen | made.constants)
    step = strategy.compile(make_step(made.graph, made.task, made.peft, made.gradient, made.optimizer, strategy), True)
    puts, calls, reads, whole = [], [], [], []
    for batch in given:
        on, seconds = timed(strategy.put, batch, made.gradient.count)
        puts.append(seconds)
        began = time.perf_counter()
        (state, logs), seconds = timed(step, state, constant, on)
        calls.append(seconds)
        logs["loss"].block_until_ready()
        _, seconds = timed(strategy.fetch, logs)
        reads.append(seconds)
        whole.append(time.perf_counter() - began)
    print(f"hand it to the devices                 {spread(puts[2:])}\ndispatch a step                        {spread(calls[2:])}")
    print(f"read its logs                          {spread(reads[2:])}\na whole step                           {spread(whole[2:])}")


if __name__ == "__main__":
    main(sys.argv[1:])
