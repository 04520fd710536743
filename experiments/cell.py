"""One run of a table: a process of its own, whose folder follows from what it is."""

import contextlib
import dataclasses
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ecrec_jax.evaluate import Interrupted
from experiments.override import overrides, written
from experiments.record import code_hash


@dataclasses.dataclass
class Cell:
    """One run of a row: its folder follows from configuration and data, so a changed row never meets an old folder. `together`:
    whether its row's runs share a program. `absent`: what it needs and isn't there; `error`: why it failed."""

    row: str
    seed: int
    command: str
    overrides: list[str]
    config: dict[str, Any]
    folder: Path
    source: "Cell | None"
    absent: str | None = None
    together: bool = False
    error: str | None = None

    def summary(self) -> dict[str, Any] | None:
        """What the run reported; None while it isn't finished."""
        path = self.folder / "summary.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def begun(self) -> bool:
        """Whether it was begun, and nobody works on it now."""
        if not (self.folder / "environment.json").is_file():
            return False
        with open(self.folder / ".lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
        return True

    def stale(self) -> bool:
        """Whether other code made it, or what it starts from."""
        return self.made_by() != code_hash() or (self.source is not None and self.source.summary() is not None
                                                 and self.source.stale())

    def chance(self) -> bool:
        """Whether another seed would give another number."""
        return "baseline" not in self.config or "seed" in self.config["baseline"] or bool(self.config["data"].get("augment"))

    def made_by(self) -> str:
        """The mark of the code that made it."""
        return json.loads((self.folder / "environment.json").read_text(encoding="utf-8"))["code"]

    def protocol(self) -> str:
        """The fingerprint of how it ranked items, the same where numbers may be compared; empty where it didn't rank any."""
        path = self.folder / "protocol.json"
        return json.loads(path.read_text(encoding="utf-8"))["fingerprint"] if path.is_file() else ""

    def put_aside(self) -> None:
        """Keep what other code made under another name, so that it is made again."""
        other, count = self.folder.with_name(f"{self.folder.name}.{self.made_by()}"), 0
        while other.exists():
            count += 1
            other = other.with_name(f"{self.folder.name}.{self.made_by()}.{count}")
        self.folder.rename(other)

    def own(self) -> dict[str, Any]:
        """The keys that runs of a row differ in."""
        found = {"seed": self.seed, "run_dir": str(self.folder)}
        return found if self.source is None else found | {"model.checkpoint": str(self.source.start())}

    def start(self) -> Path:
        """What rows that go on from this one begin with: what was exported, or a run of what only we have a form for."""
        bert = "tokenizer" in self.config["data"] and self.config["model"]["_target_"].endswith(".Bert")
        return self.folder / "export" if bert else self.folder


def run(cells: Sequence[Cell]) -> None:
    """Make one cell, or several of a row in one program, in a process of its own; what it prints goes to its folder. A failure
    becomes the cell's text."""
    ready = [cell for cell in cells if exported(cell)]
    if len(ready) > 1:
        own = [cell.own() for cell in ready]
        given = [f"replicas={written({key: [x[key] for x in own] for key in own[0]})}", f"run_dir={written(own[0]['run_dir'])}"]
        call(["experiments.train", *ready[0].overrides, *given], ready)
    elif ready:
        given = [word for key, value in ready[0].own().items() for word in overrides(key, value)]
        call([f"experiments.{ready[0].command}", *ready[0].overrides, *given], ready)


def exported(cell: Cell) -> bool:
    """Whether a cell can start: the checkpoint that it starts from, if any, is made and in its place."""
    if cell.source is not None and cell.source.summary() is None:
        cell.error = f"{cell.source.row} failed"
    elif cell.source is not None:
        with open(cell.source.folder / ".export.lock", "w") as lock:   # jobs side by side may start from one run
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not cell.source.start().exists():
                given = {"run_dir": str(cell.source.folder), "format": "hf_flax", "out": str(cell.source.folder / "export")}
                call(["experiments.export", *(word for key, value in given.items() for word in overrides(key, value))], [cell])
    return cell.error is None


def call(words: list[str], cells: Sequence[Cell]) -> None:
    """A command of ours as a child that stops when we do; its lines are kept with the first cell."""
    for cell in cells:
        cell.folder.mkdir(parents=True, exist_ok=True)
        wait_for(cell.folder / ".lock")
    command = [sys.executable, "-m", *words]
    with open(cells[0].folder / "log.txt", "a", encoding="utf-8") as log, started(command, subprocess.PIPE) as child:
        last = follow(child, log)
    for cell in cells if child.returncode else ():
        if len(cells) == 1 or cell.summary() is None:
            cell.error = last or f"exit code {child.returncode}"


@contextlib.contextmanager
def started(command: Sequence[str], output: Any) -> Iterator[subprocess.Popen]:
    """A command of ours as a child, which stops when we do, whether by an error or a signal; `output` takes what it prints."""
    child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, text=True,
                             env=os.environ | {"ECREC_PARENT": str(os.getpid())})
    try:
        yield child
    except BaseException:
        child.terminate()
        child.wait()
        raise


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM is a Ctrl-C, once: what follows a stop is still written.

    Raises:
        Interrupted: either came.
    """
    def stop(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted from None


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
