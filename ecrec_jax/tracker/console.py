"""A progress bar at a terminal, a line now and then elsewhere."""

import sys
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from ecrec_jax.meter import brief
from ecrec_jax.types import InputError

SHOWN = {"train/loss": "loss", "train/learning_rate": "lr", "train/gradient_norm": "grad", "train/examples_per_second": "ex/s"}


class Console:
    """`lines_every`: away from a terminal, print training values every so many logs."""

    def __init__(self, lines_every: int):
        if lines_every < 1:
            raise InputError(f"tracker.console.lines_every is {lines_every}, must be at least 1")
        self.lines_every = lines_every

    def start(self, step: int, total: int, saved: Mapping[str, Any]) -> None:
        """Show the bar."""
        self.bar = tqdm(total=total, initial=step, unit="step", disable=None, dynamic_ncols=True, file=sys.stderr)
        self.logs = 0

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Move the bar; print validation, at one cut-off."""
        short = {name: f"{values[key]:.3g}" for key, name in SHOWN.items() if key in values}
        if short:
            self.bar.set_postfix(short, refresh=False)
            self.bar.update(step - self.bar.n)
            self.logs += 1
            if self.bar.disable and self.logs % self.lines_every == 0:
                print(f"step {step}/{self.bar.total}  " + "  ".join(f"{k} {v}" for k, v in short.items()), flush=True)
        else:
            text = "  ".join(f"{key} {values[key]:.4g}" for key in brief(values))
            tqdm.write(f"step {step}  {text}", file=sys.stdout)
            sys.stdout.flush()
        if self.bar.disable:
            self.bar.n = step

    def state(self) -> dict[str, Any]:
        """Nothing to remember."""
        return {}

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Close the bar."""
        self.bar.close()
