"""Where evaluation of a recommender over all items spends its time: `python -m bench.evaluation [key=value …]`.

The whole is `Evaluator.columns` of the test split, without compilation; the parts are its programs alone, batch by batch (in one
program ranking and loss share a product), and what the host does: packing and fetching. Figures are seconds of the split over some
rounds in turns, by the clock and of all cores together.
"""

if __name__ == "__main__":
    from experiments.launch import settle

    settle()

import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from bench import ours
from ecrec_jax import build, evaluate
from ecrec_jax.step import make_columns

ROUNDS = 5


def seconds(work: Callable[[], Any]) -> tuple[float, float]:
    """(by the clock, of all cores)."""
    clock, cores = time.perf_counter(), time.process_time()
    jax.block_until_ready(work())
    return time.perf_counter() - clock, time.process_time() - cores


def parts_of(parts: build.Parts, trained: Any, constant: Any) -> dict[str, Callable[[], Any]]:
    """What is timed."""
    feed, strategy = parts.feeds["test"], parts.strategy
    whole = evaluate.Evaluator(parts, constant)
    batches = [strategy.put(batch, 1) for batch in feed.batches(None, 0)]
    encode = jax.jit(lambda t, c, b: parts.graph.net(parts.peft.merge(t, c))(b, None, strategy))
    rank, loss = jax.jit(parts.task.columns), jax.jit(lambda o, b: parts.task.loss(o, b, strategy.gather))
    columns = jax.jit(make_columns(parts.graph, parts.task, parts.peft, strategy))
    outputs = [encode(trained, constant, batch) for batch in batches]
    made = [columns(trained, constant, batch) for batch in batches]
    pairs = list(zip(outputs, batches, strict=True))
    return {"whole": lambda: whole.columns(trained, feed), "programs": lambda: [columns(trained, constant, b) for b in batches],
            "encoder": lambda: [encode(trained, constant, b) for b in batches], "ranking": lambda: [rank(*pair) for pair in pairs],
            "loss": lambda: [loss(*pair) for pair in pairs], "packing": lambda: len(list(feed.batches(None, 0))),
            "fetch": lambda: len([evaluate.real(strategy.fetch(x)) for x in made])}


def main(words: list[str]) -> None:
    """Print the table."""
    parts = ours.parts_of("next-item", words)
    trained, frozen = parts.peft.split(parts.parameters)
    place, feed = parts.strategy.place, parts.feeds["test"]
    jobs = parts_of(parts, place(trained), place(frozen | parts.constants))
    for work in jobs.values():
        seconds(work)
    found = {name: [] for name in jobs}
    for _ in range(ROUNDS):
        for name, work in jobs.items():
            found[name].append(seconds(work))
    full = np.mean([(batch["weight"] > 0).mean() for batch in feed.batches(None, 0)])
    print(f"{len(feed.examples)} users, {parts.facts.items} items, {feed.count(None, 0)} batches of {feed.shape.rows} rows, "
          f"{feed.shape.slots} slots each, {full:.0%} of them full\n")
    print("| | s, least | s, median | s of all cores, least |\n|---|---|---|---|")
    for name, times in found.items():
        clock, cores = np.array(times).T
        print(f"| {name} | {clock.min():.2f} | {np.median(clock):.2f} | {cores.min():.2f} |")


if __name__ == "__main__":
    main(sys.argv[1:])
