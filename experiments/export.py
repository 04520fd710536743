"""Write a run for transformers: `python -m experiments.export run_dir=DIR format=hf|hf_flax dtype=float32|bfloat16 out=DIR`."""

if __name__ == "__main__":
    from experiments.launch import settle

    settle()

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ecrec_jax import build, pretrained, section, source
from ecrec_jax.data import leak
from ecrec_jax.types import InputError
from experiments import saved

PROBLEMS = {"number": "regression", "multi": "multi_label_classification", "class": "single_label_classification"}
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}


def main(config: dict[str, Any]) -> None:
    """Best checkpoint, tokenizer and label names in one folder."""
    config = section.typed(config, {"out": str})
    export(*saved.opened(config["run_dir"]), Path(config["out"]), config["format"], config["dtype"])


def export(folder: Path, run: Mapping[str, Any], out: Path, format: str, dtype: str) -> None:
    """Write the folder `out` from a run's; say what no transformers class has a place for."""
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is none of {', '.join(DTYPES)}")
    parts = build.rebuild(folder, run)
    arrays = {name: np.asarray(x) for name, x in parts.parameters.items()}
    if parts.task.target == "number":
        arrays = source.in_units(arrays, parts.facts.center, parts.facts.scale)
    arrays = {name: x.astype(DTYPES[dtype]) for name, x in arrays.items()}
    left = pretrained.write(arrays, parts.facts, folder / "tokenizer", out, format, [folder / leak.FILE],
                            PROBLEMS.get(parts.task.target))
    print(f"written to {out}" + (f"; no transformers class has a place for {', '.join(left)}" if left else ""))


if __name__ == "__main__":
    from experiments.launch import main as launch

    launch(main, "export")
