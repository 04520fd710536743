"""Whether a file is the one that was asked for."""

import hashlib
from pathlib import Path
from typing import Any

from ecrec_jax.types import InputError


def checked(path: Path, content: bytes, sha256: str | None, key: str = "data.sha256") -> str:
    """The sha256 of a file's `content`.

    Raises:
        InputError: it isn't the `sha256` that `key` asks for.
    """
    return same(path, hashlib.sha256(content).hexdigest(), sha256, key)


def same(path: Path, digest: str, sha256: str | None, key: str) -> str:
    """`digest`, the sha256 of a file.

    Raises:
        InputError: it isn't the `sha256` that `key` asks for.
    """
    if sha256 not in (None, digest):
        raise InputError(f"{path}: its sha256 is {digest}, {key} says {sha256}: this is another file (null: don't compare)")
    return digest


def of(path: Path) -> str:
    """The sha256 of a file of any size."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_rows(path: Path) -> str:
    """sha256 of a Parquet file's rows as lines of CSV: the same from every engine and writer."""
    import pyarrow.csv as csv
    import pyarrow.parquet as pq

    found = hashlib.sha256()

    class Sink:
        closed = False   # pyarrow asks

        def write(self, data: Any) -> int:
            """Bytes that come next."""
            found.update(data)
            return len(data)

        def flush(self) -> None:
            """Nothing waits."""

        def close(self) -> None:
            """Nothing to close."""

    sink = Sink()
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(1 << 16):
            csv.write_csv(batch, sink, csv.WriteOptions(include_header=False))
    return found.hexdigest()
