"""metrics.jsonl: one object a line."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Jsonl:
    """Appends to a file in the run's folder. A continued run first cuts it to where its checkpoint was."""

    def __init__(self, folder: str):
        self.path = Path(folder) / "metrics.jsonl"

    def start(self, step: int, total: int, saved: Mapping[str, Any]) -> None:
        """Open, cut to the saved length."""
        self.file = open(self.path, "ab")  # noqa: SIM115 (held open for the run)
        self.file.truncate(min(int(saved.get("bytes", 0)), self.file.tell()))
        self.file.seek(0, os.SEEK_END)   # or the length is told from the old end until a line is written

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One line."""
        self.file.write((json.dumps({"step": step} | dict(values)) + "\n").encode())
        self.file.flush()

    def state(self) -> dict[str, Any]:
        """The length so far, on disk."""
        self.file.flush()
        os.fsync(self.file.fileno())
        return {"bytes": self.file.tell()}

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Close."""
        self.file.close()
