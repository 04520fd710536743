"""One run of a table: a process of its own, whose folder follows from what it is."""

import dataclasses
import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from experiments.record import code_hash


@dataclasses.dataclass
class Cell:
    """One run of a row: its folder follows from configuration and data, so a changed row never meets an old folder. `absent`:
    what it needs and isn't there; `error`: why it failed."""

    row: str
    seed: int
    command: str
    overrides: list[str]
    config: dict[str, Any]
    folder: Path
    source: "Cell | None"
    absent: str | None = None
    error: str | None = None

    def summary(self) -> dict[str, Any] | None:
        """What the run reported; None while it isn't finished."""
        path = self.folder / "summary.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def stale(self) -> bool:
        """Whether other code made it."""
        return self.made_by() != code_hash()

    def made_by(self) -> str:
        """The mark of the code that made it."""
        return json.loads((self.folder / "environment.json").read_text(encoding="utf-8"))["code"]

    def put_aside(self) -> None:
        """Keep what other code made under another name, so that it is made again."""
        other, count = self.folder.with_name(f"{self.folder.name}.{self.made_by()}"), 0
        while other.exists():
            count += 1
            other = other.with_name(f"{self.folder.name}.{self.made_by()}.{count}")
        self.folder.rename(other)


def run(cell: Cell) -> None:
    """Make one cell in a process of its own; what it prints goes to its folder. A failure becomes the cell's text."""
    if cell.source is not None:
        if cell.source.summary() is None:
            cell.error = f"{cell.source.row} failed"
            return
        out = cell.source.folder / "export"
        if not out.exists():
            call(["experiments.export", f"run_dir={cell.source.folder}", "format=hf_flax", f"out={out}"], cell)
    if cell.error is None:
        call([f"experiments.{cell.command}", *cell.overrides, f"run_dir={cell.folder}"], cell)


def call(words: list[str], cell: Cell) -> None:
    """A command of ours as a child that stops when we do. Keys with `=` in their value are safe: values are paths."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    wait_for(cell.folder / ".lock")
    with open(cell.folder / "log.txt", "a", encoding="utf-8") as log:
        child = subprocess.Popen([sys.executable, "-m", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                 env=os.environ | {"ECREC_PARENT": str(os.getpid())})
        try:
            last = follow(child, log)
        except BaseException:
            child.terminate()
            child.wait()
            raise
    if child.returncode:
        cell.error = last or f"exit code {child.returncode}"


def follow(child: subprocess.Popen, log: Any) -> str:
    """Keep what a child prints, show its steps; its sentence if it made a mistake, else the last line it said."""
    last = ""
    for line in child.stdout:
        log.write(line)
        if line.strip() and not last.startswith("error: "):
            last = line.strip()
        if line.startswith("step "):
            print(f"    {line.rstrip()[:110]}", flush=True)
    child.wait()
    return last.removeprefix("error: ")


def wait_for(lock: Path, seconds: float = 60) -> None:
    """Until a process that is just being stopped has let go of a run."""
    end = time.monotonic() + seconds
    while lock.exists() and time.monotonic() < end:
        with open(lock) as file:
            try:
                return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                time.sleep(0.5)
