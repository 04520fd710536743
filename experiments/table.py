"""Run an ablation and write its table: `python -m experiments.table table=quickstart [seeds=N] [plan=true] [stale=rerun]`."""

if __name__ == "__main__":
    from experiments.launch import settle

    settle()

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from ecrec_jax import section, source
from ecrec_jax.types import InputError
from experiments import inputs, record, saved, wiring
from experiments.cell import Cell, stoppable
from experiments.estimate import foresee
from experiments.fleet import send
from experiments.override import overrides
from experiments.rows import rows_of, seeds_of
from experiments.sheet import write


def cells_of(rows: Sequence[Mapping[str, Any]], name: str, out: Path, seeds: Sequence[int], fetch: bool
             ) -> dict[tuple[str, int], Cell]:
    """All cells in the order in which they must run; composing each config finds mistakes before anything starts. `fetch`: get
    checkpoints of a hub that aren't here."""
    cells: dict[tuple[str, int], Cell] = {}
    for row in rows:
        made = compose(row["command"], [*row["overrides"]])
        given = [*row["overrides"], *named(wiring.plain(made), name, row["name"])]
        for seed in row["seeds"] or seeds:
            start = cells.get((row["from"], seed))
            if row["from"] and start is None:
                raise InputError(f"row {row['name']!r}: {row['from']!r} has no seed {seed}")
            config = wiring.plain(OmegaConf.merge(made, {"seed": seed}))   # a baseline's may be the same
            if start is not None:
                config = config | {"model": config["model"] | {"checkpoint": None}}
            found, absent = needs(config, start, fetch)
            folder = folder_of(config, out / re.sub(r"\W+", "-", row["name"]).strip("-"), found)
            if start is not None:
                config = config | {"model": config["model"] | {"checkpoint": str(start.start())}}
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


def needs(config: Mapping[str, Any], start: Cell | None, fetch: bool) -> tuple[dict[str, str], str | None]:
    """(digests of what a cell reads, what isn't there). Of the row that it starts from the folder's name says enough."""
    try:
        return inputs.digests(config, fetch) | ({} if start is None else {"from": start.folder.name}), start and start.absent
    except InputError as error:
        return {}, str(error)


def folder_of(config: Mapping[str, Any], row: Path, found: Mapping[str, str]) -> Path:
    """The folder of a cell, whose name follows from what it reads and from its configuration; or one that is there, on the same
    files, with a configuration that says the same although keys were added to conf/ since."""
    mark = lambda x: hashlib.sha256(json.dumps(x, sort_keys=True).encode()).hexdigest()[:8]  # noqa: E731
    start = f"seed{config['seed']}-{mark(found)}-"
    folder = row / f"{start}{mark(essence(config, found))}"
    if folder.exists():
        return folder
    there = (path.parent for path in sorted(row.glob(f"{start}????????/config.yaml")))
    return next((path for path in there if essence(source.load_config(path), found) == essence(config, found)), folder)


def essence(config: Mapping[str, Any], found: Mapping[str, str]) -> dict[str, Any]:
    """What makes a run what it is; not where the row lies that it starts from, whichever keys name it."""
    keys = record.compared(saved.complete(config))
    return {key: None if x == config["model"]["checkpoint"] else x for key, x in keys.items()} if "from" in found else keys


def main(config: dict[str, Any]) -> None:
    """Run what is missing, write what is there."""
    config = section.typed(config, {"out": str | None, "plan": bool})
    table, name = config["table"], HydraConfig.get().runtime.choices["table"]
    if config["stale"] not in ("keep", "rerun"):
        raise InputError(f"stale is {config['stale']!r}, must be keep or rerun")
    rows = rows_of(table)
    out = Path(config["out"] or f"runs/table-{name}")
    cells = cells_of(rows, name, out, seeds_of(config["seeds"], table), fetch=not config["plan"])
    if config["plan"]:
        return foresee(list(cells.values()))

    if config["stale"] == "rerun":
        for cell in [cell for cell in reversed(cells.values()) if cell.begun() and cell.stale()]:
            cell.put_aside()   # those that start from others first: a kill here leaves none that only its source would mark
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
