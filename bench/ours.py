"""Our side of a benchmark: `python -m bench.ours JOB`; on each line N of standard input it makes N steps and says how fast.

The steps are those of training and evaluation: the experiment's own parts, packing, feed thread and compiled step.
"""

if __name__ == "__main__":
    from experiments.launch import huge_pages

    huge_pages()

import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hydra import compose, initialize_config_dir
from jaxtyping import Array, Float

from bench import serve
from ecrec_jax import block, build, step
from ecrec_jax.data.feed import ahead
from ecrec_jax.types import Batch, Parameters, State
from experiments import launch, wiring

JOBS = {"fine-tune": ["experiment=sentiment"], "masked-LM": ["experiment=pretrain"],
        "encode": ["experiment=sentiment", "data.batch_size=64"]}


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

    def vectors(given: Parameters, batch: Batch) -> Float[Array, "B S D"]:
        pooled = block.average(parts.graph.net(given).model(batch), batch)
        return pooled / jnp.linalg.norm(pooled, axis=-1, keepdims=True)

    encode = strategy.compile(vectors, False)

    def run(steps: int) -> int:
        tokens, pending = 0, None
        for batch, count in itertools.islice(given, steps):
            if pending is not None:
                np.asarray(pending)
            pending, tokens = encode(parameters, batch), tokens + count
        np.asarray(pending)
        return tokens

    return run


def main(job: str, *words: str) -> None:
    """Serve steps until standard input ends."""
    wiring.compilation_cache()
    parts = parts_of(job, list(words))
    x, product = jnp.ones((2048, 2048)), jax.jit(jnp.matmul)
    about = {"ceiling": serve.ceiling(lambda: product(x, x).block_until_ready(), 2048), "shape": list(parts.feeds["train"].shape)}
    serve.serve((encoder if job == "encode" else trainer)(parts), about)


if __name__ == "__main__":
    main(*sys.argv[1:])
