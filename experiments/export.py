"""Write a run for transformers: `python -m experiments.export run_dir=DIR format=hf|hf_flax out=DIR`."""

if __name__ == "__main__":
    from experiments.launch import huge_pages

    huge_pages()

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ecrec_jax import build, pretrained
from ecrec_jax.data import leak
from ecrec_jax.types import Parameters
from experiments import saved


def main(config: dict[str, Any]) -> None:
    """Best checkpoint, tokenizer and label names in one folder."""
    export(*saved.opened(config["run_dir"]), Path(config["out"]), config["format"])


def export(folder: Path, run: Mapping[str, Any], out: Path, format: str) -> None:
    """Write the folder `out` from a run's; say what no transformers class has a place for."""
    parts = build.rebuild(folder, run)
    arrays = {name: np.asarray(x) for name, x in parts.parameters.items()}
    if parts.task.target == "number":
        arrays = in_units(arrays, parts.facts.center, parts.facts.scale)
    left = pretrained.write(arrays, parts.facts, folder / "tokenizer", out, format, [folder / leak.FILE])
    print(f"written to {out}" + (f"; no transformers class has a place for {', '.join(left)}" if left else ""))


def in_units(arrays: Parameters, center: float, scale: float) -> Parameters:
    """The last layer of a regression with the labels' mean and spread folded in."""
    kernel, bias = (arrays[f"head.classifier.{leaf}"] for leaf in ("kernel", "bias"))
    return arrays | {"head.classifier.kernel": (kernel * scale).astype("f4"),
                     "head.classifier.bias": (bias * scale + center).astype("f4")}


if __name__ == "__main__":
    from experiments.launch import main as launch

    launch(main, "export")
