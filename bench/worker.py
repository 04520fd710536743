"""A side of a benchmark in a process of its own."""

import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def turns(sides: dict[str, "Worker"], rounds: int, steps: int, label: str) -> dict[str, Any]:
    """Let every side work in turns, each as long as the slowest takes for `steps` steps (in a first round, which isn't counted):
    steps after a wait are slower than those of an epoch, and a fast side would make few others. What each says of itself, its
    tokens a second of every round, its peak memory, its matmul ceiling and the seconds to its first step."""
    for side in sides.values():
        side.ready()
    took = {name: side.steps(steps)["seconds"] for name, side in sides.items()}
    count = {name: round(steps * max(took.values()) / seconds) for name, seconds in took.items()}
    told = {name: [] for name in sides}
    for i in range(rounds):
        for name, side in sides.items():
            told[name].append(side.steps(count[name]))
            speed = told[name][-1]["tokens"] / told[name][-1]["seconds"]
            print(f"  {label}, round {i + 1}/{rounds}, {name}: {speed:.0f} tokens/s in {count[name]} steps", file=sys.stderr)
    for side in sides.values():
        side.close()
    last = lambda name: {key: told[name][-1][key] for key in ("peak_mb", "ceiling")}  # noqa: E731
    return {name: {"tokens_per_second": [x["tokens"] / x["seconds"] for x in told[name]], **last(name),
                   "start_seconds": side.start_seconds, **side.about} for name, side in sides.items()}


class Worker:
    """A process that makes steps when told to."""

    def __init__(self, words: list[str]):
        self.began = time.perf_counter()
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
                                        env=os.environ | {"TRANSFORMERS_VERBOSITY": "error"})
        self.start_seconds: float | None = None

    @functools.cached_property
    def about(self) -> dict[str, Any]:
        """What it says of itself, before its first step."""
        return self.answer()

    def ready(self) -> "Worker":
        """Wait for its first step."""
        if self.about and self.start_seconds is None:
            self.answer()
            self.start_seconds = time.perf_counter() - self.began
        return self

    def answer(self) -> dict[str, Any]:
        """The next line of JSON it says; other lines are not for us."""
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"{' '.join(self.process.args[:4])} stopped with exit code {self.process.wait()}")

    def steps(self, count: int) -> dict[str, Any]:
        """What `count` steps took."""
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        """Let it end."""
        self.process.stdin.close()
        self.process.wait()
