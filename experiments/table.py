"""Run an ablation and write its table: `python -m experiments.table table=quickstart [seeds=N] [plan=true] [stale=rerun]`."""

if __name__ == "__main__":
    from experiments.launch import settle

    settle()

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig

from ecrec_jax import source
from ecrec_jax.data import file
from ecrec_jax.types import InputError
from experiments import record, wiring
from experiments.cell import Cell, stoppable
from experiments.estimate import foresee
from experiments.fleet import send
from experiments.override import overrides
from experiments.rows import rows_of
from experiments.sheet import write


def cells_of(rows: Sequence[Mapping[str, Any]], name: str, out: Path, seeds: Sequence[int]) -> dict[tuple[str, int], Cell]:
    """All cells in the order in which they must run; composing each config finds mistakes before anything starts."""
    cells: dict[tuple[str, int], Cell] = {}
    for row in rows:
        plain = wiring.plain(compose(row["command"], [*row["overrides"]]))
        given = [*row["overrides"], *named(plain, name, row["name"])]
        for seed in row.get("seeds", seeds):
            start = cells.get((row["from"], seed))
            if row["from"] and start is None:
                raise InputError(f"row {row['name']!r}: {row['from']!r} has no seed {seed}")
            config = plain | {"seed": seed}
            if start is not None:
                config = config | {"model": config["model"] | {"checkpoint": str(start.start())}}
            digests, absent = needs(config, start)
            mark = hashlib.sha256(json.dumps([record.compared(config), digests], sort_keys=True).encode()).hexdigest()[:8]
            slug = re.sub(r"\W+", "-", row["name"]).strip("-")
            folder = out / slug / f"seed{seed}-{mark}"
            cells[row["name"], seed] = Cell(row["name"], seed, row["command"], given, config, folder, start, absent,
                                            bool(row.get("replicas")))
    return cells


def named(config: Mapping[str, Any], table: str, row: str) -> list[str]:
    """Where W&B files the runs of a row, unless the row says so itself: a group of the table's row, a tag for each."""
    about = config["tracker"].get("wandb")
    if about is None:
        return []
    given = {"group": about["group"] or f"{table}/{row}", "tags": about["tags"] or [table, row]}
    return [word for key, value in given.items() for word in overrides(f"tracker.wandb.{key}", value)]


def needs(config: Mapping[str, Any], start: Cell | None) -> tuple[list[str], str | None]:
    """(digests of the data files, what isn't there)."""
    data, model = config["data"], config["model"]
    try:
        digests = [digest(path) for path in file.located(data["path"], data["root"], data.get("source")).values()]
        if start is not None:
            return digests, start.absent
        if model["checkpoint"] and "baseline" not in config:
            source.locate(model["checkpoint"])
    except InputError as error:
        return [], str(error)
    return digests, None


@functools.cache
def digest(path: Path) -> str:
    """The sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(config: dict[str, Any]) -> None:
    """Run what is missing, write what is there."""
    table, name = config["table"], HydraConfig.get().runtime.choices["table"]
    if config["stale"] not in ("keep", "rerun"):
        raise InputError(f"stale is {config['stale']!r}, must be keep or rerun")
    rows = rows_of(table)
    out = Path(config["out"] or f"runs/table-{name}")
    seeds = list(range(config["seeds"])) if isinstance(config["seeds"], int) else table["seeds"]
    cells = cells_of(rows, name, out, seeds)
    if config["plan"]:
        return foresee(list(cells.values()))

    if config["stale"] == "rerun":
        for cell in cells.values():
            if cell.summary() is not None and cell.stale():
                cell.put_aside()
    missing = [cell for cell in cells.values() if cell.summary() is None and cell.absent is None]
    with stoppable():
        try:
            send(missing, table["columns"], "table")
        finally:
            write(table, rows, cells, out)
    if any(cell.error for cell in cells.values()):
        raise OSError("some cells failed; the table says which, the same command tries them again")


if __name__ == "__main__":
    from experiments.launch import main as launch

    launch(main, "table")
