"""A table of results as a file that the user names."""

from pathlib import Path

import pandas as pd

from ecrec_jax.types import InputError

WRITERS = {".csv": lambda t, p: t.to_csv(p, index=False), ".jsonl": lambda t, p: t.to_json(p, orient="records", lines=True,
           force_ascii=False), ".parquet": lambda t, p: t.to_parquet(p, index=False)}


def named(output: str) -> Path:
    """Where it shall lie.

    Raises:
        InputError: no such file can be written.
    """
    path = Path(output)
    if path.suffix not in WRITERS:
        raise InputError(f"output: unknown ending {path.suffix!r}; known are {', '.join(WRITERS)}")
    return path


def write(rows: pd.DataFrame, path: Path) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    WRITERS[path.suffix](rows, part)
    part.replace(path)
