"""A table of results as a file that the user names."""

from pathlib import Path

import pandas as pd

from ecrec_jax import section
from ecrec_jax.types import InputError
from ecrec_jax.writing import writing

WRITERS = {".csv": lambda t, p: t.to_csv(p, index=False), ".jsonl": lambda t, p: t.to_json(p, orient="records", lines=True,
           force_ascii=False), ".parquet": lambda t, p: t.to_parquet(p, index=False)}


def named(output: str) -> Path:
    """Where it shall lie.

    Raises:
        InputError: no such file can be written.
    """
    path = Path(section.checked(output, str, "output"))
    if path.suffix not in WRITERS:
        raise InputError(f"output: unknown ending {path.suffix!r}; known are {', '.join(WRITERS)}")
    return path


def write(rows: pd.DataFrame, path: Path) -> None:
    """The file."""
    with writing(path) as part:
        WRITERS[path.suffix](rows, part)
