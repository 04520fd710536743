"""TensorBoard: the course of the run as scalars, its configuration and summary as text."""

import importlib.util
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ecrec_jax.types import InputError


class Tensorboard:
    """Event files in the run's folder, for `tensorboard --logdir`. A continued run first cuts them to where its checkpoint was,
    and goes on in a file of its own: nothing is told twice."""

    def __init__(self, folder: str, config: dict[str, Any]):
        if importlib.util.find_spec("tensorboard") is None:
            raise InputError("tracker.tensorboard: tensorboard is not installed; pip install -e '.[tensorboard]'")
        self.folder, self.config = Path(folder) / "tensorboard", config

    def start(self, step: int, total: int, saved: Mapping[str, Any]) -> None:
        """Cut what the last process wrote, open a new file."""
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        kept = saved.get("bytes", {})
        for path in self.files():
            if path.name in kept:
                os.truncate(path, min(kept[path.name], path.stat().st_size))
            else:
                path.unlink()
        self.writer, self.step = EventFileWriter(str(self.folder)), step
        if not kept:
            self.tell("config", f"```yaml\n{yaml.safe_dump(self.config, allow_unicode=True, sort_keys=False)}```")

    def files(self) -> list[Path]:
        """The event files that are there."""
        return sorted(self.folder.glob("events.out.tfevents.*"))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """A point of every value."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        self.step = step
        self.add(Summary(value=[Summary.Value(tag=key, simple_value=x) for key, x in values.items()]))

    def tell(self, name: str, text: str) -> None:
        """A text, read as Markdown."""
        from tensorboard.plugins.text.summary_v2 import text_pb

        self.add(text_pb(name, text))

    def add(self, summary: Any) -> None:
        """One event at the present step."""
        from tensorboard.compat.proto.event_pb2 import Event

        self.writer.add_event(Event(wall_time=time.time(), step=self.step, summary=summary))

    def state(self) -> dict[str, Any]:
        """The length of every file so far, written out."""
        self.writer.flush()
        return {"bytes": {path.name: path.stat().st_size for path in self.files()}}

    def finish(self, summary: Mapping[str, Any]) -> None:
        """The summary as a table, and close."""
        self.tell("summary", "\n".join(["| | |", "|---|---|", *(f"| {key} | {x} |" for key, x in summary.items())]))
        self.writer.close()
