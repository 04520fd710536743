"""A page about runs: `python -m experiments.report run_dir=RUN`, `run_dir=[RUN,RUN]`, or `table=NAME`; one file for any browser."""

if __name__ == "__main__":
    from experiments.launch import settle

    settle()

import json
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from ecrec_jax import section, source
from ecrec_jax.data.text import SPLITS
from ecrec_jax.types import InputError
from experiments import page, record, saved, sections
from experiments.cell import Cell
from experiments.lines import lines_of
from experiments.rows import rows_of, seeds_of
from experiments.table import cells_of


def of_runs(names: Any) -> tuple[list[dict[str, Any]], dict[tuple[str, int], Cell]]:
    """Rows and cells, as a table has them, of runs by their folders; the runs of a row differ in the seed alone.

    Raises:
        InputError: a folder holds no run.
    """
    rows, cells, known = [], {}, {}
    folders = [Path(str(name)) for name in dict.fromkeys(names if isinstance(names, list) else [names])]
    for folder in folders:
        config = saved.complete(source.load_config(folder))
        mark = json.dumps(record.compared(config) | {"seed": None}, sort_keys=True, default=str)
        if (known.get(mark), config["seed"]) in cells:   # the same run twice: two rows
            mark = str(folder)
        if mark not in known:
            known[mark] = short(folder, folders)
            rows.append({"name": known[mark], "against": []})
        command = "baseline" if "baseline" in config else "train"
        cells[known[mark], config["seed"]] = Cell(known[mark], config["seed"], command, [], config, folder, None)
    return rows, cells


def short(folder: Path, folders: list[Path]) -> str:
    """The end of a folder's name that no other has."""
    ends = ("/".join(folder.parts[-n:]) for n in range(1, len(folder.parts) + 1))
    return next((end for end in ends if sum(f"/{x}".endswith(f"/{end}") for x in folders) == 1), str(folder))


def columns_of(cells: list[Cell], split: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(all metrics of a split that runs told, those that picked their checkpoints), as the columns of a table."""
    told = dict.fromkeys(key for cell in cells for key in cell.summary() or {} if key.startswith(f"{split}/"))
    every = {key: {"title": key.partition("/")[2], "digits": 3} for key in told}
    best = {f"{split}/{cell.config['best']['metric']}" for cell in cells}
    return every, {key: x for key, x in every.items() if key in best}


def of_table(config: dict[str, Any], name: str) -> tuple[list[dict[str, Any]], dict[tuple[str, int], Cell]]:
    """Rows and cells of a table, begun or not.

    Raises:
        InputError: none is begun.
    """
    rows, out = rows_of(config["table"]), Path(config["out"])
    cells = cells_of(rows, name, out, seeds_of(config["seeds"], config["table"]), fetch=False)
    if not any(map(begun, cells.values())):
        raise InputError(f"table: {out} holds no runs of {name}; make them: python -m experiments.table table={name}")
    return rows, cells


def begun(cell: Cell) -> bool:
    """Whether a run's folder says what it is."""
    return (cell.folder / "config.yaml").is_file()


def main(config: dict[str, Any]) -> None:
    """Write report.html."""
    config = section.typed(config, {"out": str | None})
    table, split = config.get("table"), config["split"]
    if (table is None) == (not config["run_dir"]):
        raise InputError("give run_dir=RUN, run_dir=[RUN,RUN] or table=NAME")
    if split not in SPLITS:
        raise InputError(f"split is {split!r}, must be one of {', '.join(SPLITS)}")
    if table is None:
        rows, cells = of_runs(config["run_dir"])
        columns, tested = columns_of(list(cells.values()), split)
        out, title = Path(config["out"] or next(iter(cells.values())).folder), ", ".join(row["name"] for row in rows)
    else:
        name = HydraConfig.get().runtime.choices["table"]
        out = Path(config["out"] or f"runs/table-{name}")
        rows, cells = of_table(config | {"out": str(out)}, name)
        columns, tested, title = table["columns"], table["columns"], table["title"]
    sides = {row["name"]: mine for row in rows if not row.get("hidden")
             if (mine := [cell for cell in cells.values() if cell.row == row["name"] and begun(cell)])}
    text = page.whole(title, sections.numbers(lines_of({"columns": columns}, rows, cells), columns),
                      sections.significance(rows, cells, tested),
                      sections.differing(sides), sections.courses(sides), sections.calibration(sides, split),
                      sections.confusion(sides, split), sections.lists(sides, split),
                      sections.against(rows, sides, split, config["data"]["root"]),
                      sections.surroundings(sides))
    out.mkdir(parents=True, exist_ok=True)
    record.write_text(text, out / "report.html")
    print(f"report: {out / 'report.html'}")


if __name__ == "__main__":
    from experiments.launch import main as launch

    launch(main, "report")
