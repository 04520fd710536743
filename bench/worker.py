"""A side of a benchmark in a process of its own."""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


class Worker:
    """A process that makes steps when told to."""

    def __init__(self, words: list[str]):
        self.began = time.perf_counter()
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
                                        env=os.environ | {"TRANSFORMERS_VERBOSITY": "error"})
        self.about = self.answer()
        self.start_seconds = time.perf_counter() - self.began

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
