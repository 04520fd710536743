"""Our side of a benchmark: `python -m bench.ours JOB`; on each line N of standard input it makes N steps and says how fast.

The steps are those of training and evaluation: the experiment's own parts, packing, feed thread and compiled step.
"""

if __name__ == "__main__":
    from experiments.launch import huge_pages

    huge_pages()

import itertools
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hydra import compose, initialize_config_dir

from ecrec_jax import build, step
from ecrec_jax.data.feed import ahead
from ecrec_jax.types import State
from experiments import launch, wiring

JOBS = {"fine-tune": ["experiment=sentiment"], "masked-LM": ["experiment=pretrain"],
        "encode": ["experiment=pretrain_contrastive", "data.batch_size=64"]}


def parts_of(job: str, words: list[str]) -> build.Parts:
    """The parts of a job's experiment with MiniLM."""
    with initialize_config_dir(launch.CONF, version_base="1.3"):
        return build.build(wiring.plain(compose("train", [*JOBS[job], "model=minilm", "model.new_head=true", *words])))


def batches(parts: build.Parts, seed: int | None) -> Iterator[tuple[Any, int]]:
    """Batches for ever, on the devices, with the tokens of each; laid out in a thread ahead."""
    feed = parts.feeds["train"]
    put = lambda b: (parts.strategy.put(b, parts.gradient.count), int((b["segment"] > 0).sum()))  # noqa: E731
    yield from ahead(itertools.chain.from_iterable(feed.batches(seed, epoch) for epoch in itertools.count()), put)


def trainer(parts: build.Parts) -> Callable[[int], int]:
    """A function that makes steps of training and returns the tokens they read."""
    strategy, (trained, frozen) = parts.strategy, parts.peft.split(parts.parameters)
    state = strategy.place(State(trained, parts.optimizer.init(trained), np.int32(0), np.uint32(0)))
    constant, given = strategy.place(frozen | parts.constants), batches(parts, 0)
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


def encoder(parts: build.Parts) -> Callable[[int], int]:
    """A function that encodes batches to unit vectors, one a text."""
    strategy, given = parts.strategy, batches(parts, None)
    parameters = strategy.place(parts.parameters)
    encode = strategy.compile(lambda p, b: parts.graph.net(p)(b), False)

    def run(steps: int) -> int:
        tokens, pending = 0, None
        for batch, count in itertools.islice(given, steps):
            if pending is not None:
                np.asarray(pending)
            pending, tokens = encode(parameters, batch), tokens + count
        np.asarray(pending)
        return tokens

    return run


def ceiling(size: int = 2048) -> float:
    """GFLOP/s of a plain f32 matrix product here, the best of ten."""
    x, product, best = jnp.ones((size, size)), jax.jit(jnp.matmul), 0.0
    for _ in range(11):
        began = time.perf_counter()
        product(x, x).block_until_ready()
        best = max(best, 2e-9 * size**3 / (time.perf_counter() - began))
    return best


def main(job: str, *words: str) -> None:
    """Serve steps until standard input ends."""
    wiring.compilation_cache()
    parts = parts_of(job, list(words))
    run = (encoder if job == "encode" else trainer)(parts)
    run(1)
    print(json.dumps({"ready": True, "ceiling": ceiling(), "shape": list(parts.feeds["train"].shape)}), flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        tokens = run(int(line))
        print(json.dumps({"tokens": tokens, "seconds": time.perf_counter() - began,
                          "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
