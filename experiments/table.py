"""Run an ablation and write its table: `python -m experiments.table table=quickstart [seeds=N]`."""

if __name__ == "__main__":
    from experiments.launch import huge_pages

    huge_pages()

import csv
import hashlib
import io
import json
import re
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose
from hydra.core.hydra_config import HydraConfig

from ecrec_jax.evaluate import Interrupted
from ecrec_jax.types import InputError
from experiments import record, wiring
from experiments.cell import Cell, run
from experiments.plot import bars

NOTES = {"†": "made by other code than today's", "‡": "validated or tested on rows that its checkpoint was trained on"}
KEYS = {"name", "hidden", "command", "overrides", "from", "seeds"}


def check(table: dict[str, Any]) -> None:
    """Whether the rows are rows.

    Raises:
        InputError: a key, command or `from` that can't be used.
    """
    names = [row.get("name") for row in table["rows"]]
    for i, row in enumerate(table["rows"]):
        if set(row) - KEYS or not row.get("name") or row.get("command") not in ("train", "baseline"):
            raise InputError(f"table.rows[{i}] needs name and command (train or baseline), knows {', '.join(sorted(KEYS))}")
        if names.count(row["name"]) > 1:
            raise InputError(f"table.rows[{i}]: two rows are named {row['name']!r}")
        if row.get("from") is not None and row["from"] not in names[:i]:
            raise InputError(f"table.rows[{i}].from: {row['from']!r} is no row above it")


def cells_of(table: dict[str, Any], name: str, out: Path, seeds: list[int]) -> dict[tuple[str, int], Cell]:
    """All cells in the order in which they must run; composing each config finds mistakes before anything starts."""
    cells: dict[tuple[str, int], Cell] = {}
    for row in table["rows"]:
        for seed in row.get("seeds", seeds):
            source = cells.get((row.get("from"), seed))
            if row.get("from") and source is None:
                raise InputError(f"row {row['name']!r}: {row['from']!r} has no seed {seed}")
            overrides = [*row["overrides"], f"seed={seed}"]
            if source is not None:
                overrides.append(f"model.checkpoint={source.folder / 'export'}")
            config = wiring.plain(compose(row["command"], overrides))
            mark = hashlib.sha256(json.dumps(record.compared(config), sort_keys=True).encode()).hexdigest()[:8]
            overrides += [f"tracker.wandb.group={name}"] if "wandb" in config["tracker"] else []
            slug = re.sub(r"\W+", "-", row["name"]).strip("-")
            cells[row["name"], seed] = Cell(row["name"], seed, row["command"], overrides, out / slug / f"seed{seed}-{mark}", source)
    return cells


def main(config: dict[str, Any]) -> None:
    """Run what is missing, write what is there."""
    table, name = config["table"], HydraConfig.get().runtime.choices["table"]
    check(table)
    out = Path(config["out"] or f"runs/table-{name}")
    seeds = list(range(config["seeds"])) if isinstance(config["seeds"], int) else table["seeds"]
    cells = cells_of(table, name, out, seeds)

    def stop(number: int, frame: Any) -> None:
        raise Interrupted

    signal.signal(signal.SIGTERM, stop)
    for i, cell in enumerate(cells.values(), 1):
        title, began = f"[{i}/{len(cells)}] {cell.row}, seed {cell.seed}", time.perf_counter()
        if cell.summary() is None:
            print(f"{title} …", flush=True)
            run(cell)
        done = cell.summary() or {}
        shown = {spec["title"]: f"{done[key]:.{spec['digits']}f}" for key, spec in table["columns"].items() if key in done}
        numbers = "  ".join(f"{title} {value}" for title, value in shown.items())
        print(f"{title}: {cell.error or numbers or 'done'}  ({time.perf_counter() - began:.0f} s)", flush=True)
    write(table, cells, out)
    if any(cell.error for cell in cells.values()):
        raise OSError("some cells failed; the table says which, the same command tries them again")


def write(table: dict[str, Any], cells: dict[tuple[str, int], Cell], out: Path) -> None:
    """table.md, table.csv, table.png; printed too."""
    columns = table["columns"]
    lines = [f"# {table['title']}", "", "| | n | " + " | ".join(spec["title"] for spec in columns.values()) + " |",
             "|---|---|" + "---|" * len(columns)]
    records, means, notes = [["row", "column", "mean", "std", "n", "runs"]], {}, {}
    for row in (r for r in table["rows"] if not r.get("hidden")):
        mine = [cell for cell in cells.values() if cell.row == row["name"]]
        done = [(cell, cell.summary()) for cell in mine if cell.summary()]
        marks = {"†": any(cell.stale() for cell, _ in done), "‡": any("leaked" in summary for _, summary in done)}
        notes |= {mark: NOTES[mark] for mark, given in marks.items() if given}
        failed = next((cell.error for cell in mine if cell.error), None)
        texts = []
        for key, spec in columns.items():
            values = [summary[key] for _, summary in done if key in summary]
            if not values or failed:
                texts.append(failed or "–")
                continue
            mean, std = float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
            means.setdefault(row["name"], {})[spec["title"]] = (mean, std)
            texts.append(f"{mean:.{spec['digits']}f}" + (f" ± {std:.{spec['digits']}f}" if len(values) > 1 else ""))
            runs = " ".join(str(cell.folder) for cell, _ in done)
            records.append([row["name"], key, repr(mean), repr(std), str(len(values)), runs])
        name = row["name"].replace("|", "\\|") + "".join(mark for mark, given in marks.items() if given)
        lines.append(f"| {name} | {len(done)} | " + " | ".join(texts) + " |")
    lines += ["", *(f"{mark} {note}  " for mark, note in notes.items())] if notes else []
    out.mkdir(parents=True, exist_ok=True)
    record.write_text("\n".join(lines) + "\n", out / "table.md")
    rows = io.StringIO()
    csv.writer(rows, lineterminator="\n").writerows(records)
    record.write_text(rows.getvalue(), out / "table.csv")
    bars(means, [spec["title"] for spec in columns.values()], out / "table.png")
    print("\n" + "\n".join(lines) + f"\n\nplot: {out / 'table.png'}\neverything is in {out}", flush=True)


if __name__ == "__main__":
    from experiments.launch import main as launch

    launch(main, "table")
