"""What a table would need, before anything starts: its runs, what isn't there, and the hours, from a few measured steps."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ecrec_jax import build
from ecrec_jax.types import InputError
from ecrec_jax.use import steps
from experiments import wiring
from experiments.cell import Cell

MEASURED = 5   # steps, after the first


def foresee(cells: Sequence[Cell]) -> None:
    """Print a line a row, and the sum."""
    wiring.compilation_cache()
    total, unknown, absent = 0.0, [], {}
    print("| row | runs | done | to do | hours a run |\n|---|---|---|---|---|", flush=True)
    for name in dict.fromkeys(cell.row for cell in cells):
        mine = [cell for cell in cells if cell.row == name]
        done = [cell for cell in mine if cell.summary() is not None]
        left = [cell for cell in mine if cell.summary() is None and cell.absent is None]
        absent |= {cell.row: cell.absent for cell in mine if cell.absent is not None}
        said = "–"
        if left:
            try:
                hours = hours_of(left[0])
                total, said = total + hours * len(left), f"{hours:.2g}"
            except InputError as error:
                unknown.append(f"{name}: {error}")
        stale = sum(cell.stale() for cell in done)
        print(f"| {name} | {len(mine)} | {len(done)}" + (f", {stale} by other code" if stale else "")
              + f" | {len(left)} | {said} |", flush=True)
    print(f"\nabout {total:.2g} hours one after the other on this machine, from {MEASURED} measured steps of each row")
    for title, lines in (("not here", [f"{name}: {said}" for name, said in absent.items()]), ("not measured", unknown)):
        print(*(f"{title}: {line}" for line in lines), sep="\n", end="\n" if lines else "", flush=True)


def hours_of(cell: Cell) -> float:
    """The time that a run is expected to take: of the start, the steps, the evaluations.

    Raises:
        InputError: it can't be built.
    """
    if cell.command == "baseline":
        return 1 / 60   # minutes at most: a guess, they are not measured
    config, began = measurable(cell), time.perf_counter()
    parts = build.build(config)
    built = time.perf_counter() - began
    first, step = steps.seconds(steps.trainer(parts, parts.feeds["train"]), MEASURED)
    splits = {split: feed.count(None, 0) for split, feed in parts.feeds.items() if split != "train"}
    compiling, batch = steps.seconds(steps.evaluator(parts, parts.feeds["valid"]), min(MEASURED, splits["valid"]))
    epochs = config["epochs"] if config["steps"] is None else -(-config["steps"] // parts.feeds["train"].count(config["seed"], 0))
    evaluated = epochs * splits["valid"] + sum(splits.values())
    began_reading, reading = steps.seconds(steps.reader(parts), 1) if parts.texts is not None else (0.0, 0.0)
    total = built + first + compiling + began_reading + parts.facts.steps * step + evaluated * batch + (epochs + 2) * reading
    return total / 3600


def measurable(cell: Cell) -> dict[str, Any]:
    """The configuration of a cell, with a model of the same size where its checkpoint is another cell's, not made yet."""
    config: Mapping[str, Any] = cell.config
    while cell.source is not None and (cell.source.summary() is None or not cell.source.start().exists()):
        cell = cell.source
        words = {name: x for name, x in cell.config["data"].items() if name == "tokenizer"}
        shared = config["model"] if config["model"]["_target_"] == cell.config["model"]["_target_"] else {}
        model = cell.config["model"] | {name: x for name, x in shared.items() if name == "causal"}
        config = {**config, "model": model, "data": {**config["data"], **words}}
    return dict(config)
