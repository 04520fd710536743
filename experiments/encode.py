"""Vectors of texts by an encoder: `python -m experiments.encode checkpoint=FOLDER input=items.parquet output=vectors.parquet`."""

if __name__ == "__main__":
    from experiments.launch import settle

    settle()

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from ecrec_jax import pretrained, section
from ecrec_jax.data import catalogue, pack, read, tokenise, vectors
from ecrec_jax.data.feed import ahead, several
from ecrec_jax.head.embed import Embed
from ecrec_jax.net import Net, split
from ecrec_jax.types import Batch, InputError
from experiments import wiring

KEYS = {"checkpoint": str, "input": str, "output": str, "item_column": str, "columns": list[str], "max_length": int,
        "batch_size": int, "pooling": Literal["mean", "cls", "first"], "dtype": Literal["float32", "bfloat16"]}
THREADS = 3   # that compute at once


def main(config: dict[str, Any]) -> None:
    """Read the texts, encode them in packed rows, write one vector an item.

    Raises:
        InputError: a column that isn't there, an item without text or with two, a checkpoint that can't be read.
    """
    asked = section.typed(config, KEYS)
    for key, least in (("max_length", 3), ("batch_size", 1)):
        if asked[key] < least:
            raise InputError(f"{key} is {asked[key]}, must be at least {least}")
    wiring.compilation_cache()
    output = Path(asked["output"])
    if output.suffix != ".parquet":
        raise InputError(f"output: {output} must end in .parquet")
    table = read.read(read.locate(asked["input"], ".", "input"))
    known = catalogue.texts(table, ("item_column", asked["item_column"]), ("columns", asked["columns"]))
    found, cut = encoded(list(known.values()), asked["checkpoint"], asked["max_length"], asked["batch_size"], asked["pooling"],
                         asked["dtype"])
    output.parent.mkdir(parents=True, exist_ok=True)
    vectors.write(output, list(known), found)
    print(f"{len(known)} vectors of {found.shape[1]} numbers, {cut} texts truncated to {asked['max_length']} tokens; written to "
          f"{output}")


def encoded(texts: Sequence[str], checkpoint: str, max_length: int, batch_size: int, pooling: Literal["mean", "cls", "first"],
            dtype: Literal["float32", "bfloat16"]) -> tuple[Float[np.ndarray, "I F"], int]:
    """(unit vectors, how many texts were cut), computed in `dtype`. On a CPU `batch_size` texts are those of all threads together:
    small arrays stay in its caches."""
    loaded = pretrained.load(checkpoint)
    if pooling != "mean" and loaded.facts.causal:
        raise InputError(f"pooling is {pooling}, but the first token of a causal model sees no other: set pooling=mean")
    if pooling == "cls" and not loaded.facts.pooler:
        raise InputError(f"pooling is cls, but {checkpoint} has no pooler: set pooling=mean, or first")
    ragged = tokenise.tokenise(str(loaded.folder), list(texts), None, loaded.facts.longest(max_length))
    size, one = np.diff(ragged.offset), np.ones(len(texts), int)
    together = max(1, batch_size // THREADS) if jax.default_backend() == "cpu" else batch_size
    shape = pack.choose_shape(size, one, together, int(size.max()), None, False)
    rows = pack.plan(size, one, shape, None)
    graph, parameters, _ = split(Net(loaded.net.model, Embed(pooling)), dtype)
    parameters = jax.tree.map(graph.cast, parameters)
    run = jax.jit(lambda weights, batch: graph.net(weights)(batch))   # weights closed over would be constants of the program

    def laid(chosen: list[list[int]]) -> Batch:
        order = [i for row in chosen for i in row]
        given = [{"tokens": ragged[i][0], "type": ragged[i][1], "slot": np.zeros(1, "i4"), "label": np.zeros(1, "i4"),
                  "weight": np.ones(1, "f4")} for i in order]
        return pack.lay(given, order, [r for r, row in enumerate(chosen) for _ in row],
                        [i == 0 for row in chosen for i in range(len(row))], shape)

    def computed(batch: Batch) -> tuple[Int[np.ndarray, "N"], Float[np.ndarray, "N F"]]:
        real, found = batch["weight"] > 0, run(parameters, {key: jnp.asarray(x) for key, x in batch.items()})
        return batch["example"][real], np.asarray(found)[real]

    made = np.zeros((len(texts), loaded.facts.width), "f4")
    steps = [rows[first : first + shape.rows] for first in range(0, len(rows), shape.rows)]
    batches = several(ahead(iter(steps), laid), computed, THREADS)
    for example, found in tqdm(batches, "encode", len(steps), leave=False, disable=None):
        made[example] = found
    return made, int(ragged.truncated.sum())


if __name__ == "__main__":
    from experiments.launch import main as launch

    launch(main, "encode")
