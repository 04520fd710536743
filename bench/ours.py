"""Our side of a benchmark: `python -m bench.ours JOB`; on each line N of standard input it makes N steps and says how fast.

The steps are those of training and evaluation: the experiment's own parts, packing, feed thread and compiled step.
"""

if __name__ == "__main__":
    from experiments.launch import settle

    settle()

import itertools
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from hydra import compose, initialize_config_dir
from jaxtyping import Array, Float

from bench import serve
from ecrec_jax import block, build
from ecrec_jax.data.feed import several
from ecrec_jax.types import Batch, Parameters
from ecrec_jax.use import steps
from experiments import launch, wiring
from experiments.encode import THREADS

JOBS = {"fine-tune": ["experiment=sentiment"], "masked-LM": ["experiment=pretrain"],
        "encode": ["experiment=sentiment", f"data.batch_size={32 // THREADS}"], "next-item": ["experiment=next_item"]}


def parts_of(job: str, words: list[str]) -> build.Parts:
    """The parts of a job's experiment, of texts with MiniLM."""
    model = [] if job == "next-item" else ["model=minilm", "model.new_head=true"]
    with initialize_config_dir(launch.CONF, version_base="1.3"):
        return build.build(wiring.plain(compose("train", [*JOBS[job], *model, *words])))


def encoder(parts: build.Parts) -> Callable[[int], int]:
    """A function that encodes batches of 32 to unit vectors, one a text, a third in each thread, as experiments.encode does."""
    strategy, given = parts.strategy, steps.batches(parts, parts.feeds["train"], None)
    parameters = strategy.place(jax.tree.map(parts.graph.cast, parts.parameters))   # once, as experiments.encode does

    def vectors(given: Parameters, batch: Batch) -> Float[Array, "B S D"]:
        pooled = block.average(parts.graph.net(given).model(batch), batch)
        return pooled / jnp.linalg.norm(pooled, axis=-1, keepdims=True)

    encode = strategy.compile(vectors, False)

    def one(given: tuple[Batch, int]) -> int:
        np.asarray(encode(parameters, given[0]))
        return given[1]

    def run(count: int) -> int:
        return sum(several(itertools.islice(given, THREADS * count), one, THREADS))

    return run


def main(job: str, *words: str) -> None:
    """Serve steps until standard input ends."""
    wiring.compilation_cache()
    parts = parts_of(job, list(words))
    x, product = jnp.ones((2048, 2048)), jax.jit(jnp.matmul)
    about = {"shape": list(parts.feeds["train"].shape)}
    serve.serve(encoder(parts) if job == "encode" else steps.trainer(parts, parts.feeds["train"]), about,
                lambda: product(x, x).block_until_ready(), 2048)


if __name__ == "__main__":
    main(*sys.argv[1:])
