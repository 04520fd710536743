"""A table of results as a file that the user names."""

from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool

from ecrec_jax import section
from ecrec_jax.data import read
from ecrec_jax.types import InputError
from ecrec_jax.writing import writing

WRITERS = {".csv": lambda t, p: t.to_csv(p, index=False), ".jsonl": lambda t, p: t.to_json(p, orient="records", lines=True,
           force_ascii=False), ".parquet": lambda t, p: t.to_parquet(p, index=False)}

NOTHING = "nothing left"   # in the column `why` of what experiments.recommend writes: a user to whom no item may be shown


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


def empty(table: read.Table) -> Bool[np.ndarray, "N"]:
    """Whether rows are of users to whom no item may be shown."""
    return np.array(table.columns.get("why", [None] * len(table.place)), object) == NOTHING
