"""What a search has found: the best trials as Markdown, all of them as CSV, their course as a plot."""

import json
import math
from pathlib import Path
from typing import Any

from experiments.plot import trials as plot
from experiments.record import write_text
from experiments.sheet import escaped, spread

SHOWN = 10   # trials in the Markdown table
SAID = {"COMPLETE": "", "PRUNED": "given up", "FAIL": "broken", "RUNNING": "not finished", "WAITING": "waits"}


def folder_of(trial: Any) -> str:
    """The name of a trial's folder: its own, or that of the trial it takes up again."""
    return trial.user_attrs.get("folder", f"trial-{trial.number:04d}")


def unique(study: Any) -> dict[str, Any]:
    """folder -> its latest trial, in the order in which the folders were made."""
    return {folder_of(trial): trial for trial in study.get_trials()}


def ranked(study: Any) -> list[tuple[str, Any]]:
    """(folder, trial), the best first: those that got through, then those that were given up, then the others."""
    sign = -1 if study.direction.name == "MAXIMIZE" else 1
    order = list(SAID)
    return sorted(unique(study).items(), key=lambda item: (order.index(item[1].state.name),
                                                           math.inf if item[1].value is None else sign * item[1].value))


def shown(value: Any) -> str:
    """A value as yaml writes it."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def short(value: Any) -> str:
    """A value in the room that a cell has."""
    return f"{value:.6g}" if isinstance(value, float) else escaped(shown(value))


def write(study: Any, metric: str, out: Path) -> None:
    """search.md, trials.csv and history.png; the first is printed too."""
    found = ranked(study)
    names = list(dict.fromkeys(name for _, trial in found for name in trial.params))
    rows = [[folder, "" if trial.value is None else trial.value, SAID[trial.state.name] or "done", len(trial.intermediate_values),
             *(trial.params.get(name, "") for name in names), trial.user_attrs.get("error", "")] for folder, trial in found]
    spread(out / "trials.csv", ["trial", metric, "state", "validations", *names, "error"],
           [[folder, value, state, count, *map(shown, values), error] for folder, value, state, count, *values, error in rows])
    counts = [f"{sum(row[2] == said for row in rows)} {said}" for said in dict.fromkeys(row[2] for row in rows)]
    text = [f"# {study.study_name}: {metric}, {study.direction.name.lower()}", "", f"{len(rows)} trials: {', '.join(counts)}.", "",
            "| | " + " | ".join([metric, *names]) + " |", "|---" * (2 + len(names)) + "|"]
    for folder, value, state, _, *values, error in rows[:SHOWN]:
        said = f"{value:.4f}" if value != "" else escaped(error) or "–"
        said += f" ({state})" if state == "given up" else ""
        text.append(f"| [{folder}]({folder}/) | {said} | " + " | ".join(map(short, values)) + " |")
    write_text("\n".join(text) + "\n", out / "search.md")
    done = [(trial.number, trial.value) for _, trial in found if trial.state.name == "COMPLETE"]
    courses = [sorted(trial.intermediate_values.items()) for _, trial in found if trial.intermediate_values]
    plot(done, courses, metric, study.direction.name == "MAXIMIZE", out / "history.png")
    print("\n" + "\n".join(text) + f"\n\nplot: {out / 'history.png'}\neverything is in {out}", flush=True)
