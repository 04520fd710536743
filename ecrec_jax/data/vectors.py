"""Vectors of items, as `experiments.encode` writes them: a Parquet file with the columns `item` and `vector`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from ecrec_jax.data.parse import text_of
from ecrec_jax.types import InputError
from ecrec_jax.writing import writing


def load(path: Path, items: Sequence[str]) -> Float[np.ndarray, "V F"]:
    """The vectors of items 1 … I in their order, zeros before and after them (padding and mask).

    Raises:
        InputError: the file has other columns, vectors of different lengths, numbers that aren't finite, or of an item two or none.
    """
    try:
        table = pq.read_table(path, columns=["item", "vector"])
        flat = np.asarray(table["vector"].combine_chunks().flatten(), "f4")
    except (pa.ArrowException, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"data.vectors: {path} isn't a Parquet file with columns item and vector ({error})") from None
    known = {(text_of(name) or "").strip(): i for i, name in enumerate(table["item"].to_pylist())}
    if not len(table) or len(flat) % len(table) or set(table["vector"].combine_chunks().value_lengths().to_pylist()) != {
            len(flat) // len(table)}:
        raise InputError(f"data.vectors: {path} has vectors of different lengths, or none")
    if len(known) < len(table):
        names = [(text_of(name) or "").strip() for name in table["item"].to_pylist()]
        raise InputError(f"data.vectors: {path} has two vectors of item {next(x for i, x in enumerate(names) if known[x] != i)!r}")
    if not np.isfinite(flat).all():
        raise InputError(f"data.vectors: {path} has a number that is not finite")
    lacking = [item for item in items if item not in known]
    if lacking:
        raise InputError(f"data.vectors: {path} has no vector of item {lacking[0]!r}" +
                         (f" and {len(lacking) - 1} others" if len(lacking) > 1 else "") + ": encode their texts too")
    found = flat.reshape(len(table), -1)[[known[item] for item in items]]
    return np.pad(found, ((1, 1), (0, 0)))


def write(path: Path, items: Sequence[str], vectors: Float[np.ndarray, "I F"]) -> None:
    """The file."""
    column = pa.FixedSizeListArray.from_arrays(pa.array(np.asarray(vectors, "f4").reshape(-1)), vectors.shape[1])
    with writing(path) as part:
        pq.write_table(pa.table({"item": pa.array(items, pa.string()), "vector": column}), part)


def keep(vectors: Float[np.ndarray, "V F"], path: Path) -> None:
    """Beside a run.

    Raises:
        InputError: it began with others.
    """
    if path.is_file() and not np.array_equal(np.load(path, allow_pickle=False), vectors):
        raise InputError(f"data.vectors: {path.parent} began with other vectors; name another run_dir")
    with writing(path) as part, open(part, "wb") as file:
        np.save(file, vectors, allow_pickle=False)
