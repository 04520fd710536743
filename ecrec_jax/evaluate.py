"""Evaluation of one split: columns on the devices, metrics on the host, predictions as a table."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ecrec_jax import processes
from ecrec_jax.build import Parts
from ecrec_jax.data.corpus import Catalogue
from ecrec_jax.data.feed import Feed, ahead
from ecrec_jax.step import make_columns, make_reader
from ecrec_jax.text_encoder import VECTORS
from ecrec_jax.types import Columns, Facts, InputError
from ecrec_jax.writing import writing


class Interrupted(Exception):
    """A stop was asked for."""


class Evaluator:
    """The evaluating program of a run, compiled once. `training`: the weights change, so that a text encoder has to read the items
    before each measurement."""

    def __init__(self, parts: Parts, constant: Any, training: bool = False):
        self.parts, self.constant = parts, constant
        self.program = parts.strategy.compile(make_columns(parts.graph, parts.task, parts.peft, parts.strategy), donate=False)
        reader = make_reader(parts.graph, parts.peft, parts.strategy)
        self.reader = parts.strategy.compile(reader, donate=False) if training and parts.texts else None

    def columns(self, trained: Any, feed: Feed, stop: Callable[[], bool] = lambda: False, title: str = "") -> Columns:
        """One entry a real slot, sorted by example; the device works on a batch while the host reads the one before.

        Raises:
            Interrupted: `stop` came true.
        """
        put, constant = lambda batch: self.parts.strategy.put(batch, 1), self.constant | self.vectors(trained)  # noqa: E731
        found: list[Any] = []
        pending = None
        batches = ahead(feed.batches(None, 0), put)
        for batch in tqdm(batches, title, feed.count(None, 0), leave=False, disable=None):
            if stop():
                raise Interrupted
            running = self.program(trained, constant, batch)
            if pending is not None:
                found.append(real(self.parts.strategy.fetch(pending)))
            pending = running
        found.append(real(self.parts.strategy.fetch(pending)))
        columns = {key: np.concatenate([part[key] for part in found]) for key in found[0]}
        order = np.argsort(columns["example"], kind="stable")
        return {key: x[order] for key, x in columns.items()}

    def vectors(self, trained: Any) -> dict[str, Any]:
        """The constant that the text encoder, if there is one, makes of all items' texts, on the devices."""
        if self.reader is None:
            return {}
        strategy, count = self.parts.strategy, len(self.parts.texts.texts)
        items = strategy.put({"row": np.arange(count, dtype="i4")}, 1)
        found = strategy.fetch(self.reader(trained, self.constant, items))[:count]
        return strategy.place({VECTORS: np.asarray(found, "f4")})

    def measure(self, trained: Any, feed: Feed, stop: Callable[[], bool] = lambda: False,
                title: str = "") -> tuple[dict[str, Any], Columns]:
        """(metrics with the mean loss, columns).

        Raises:
            InputError: the loss isn't finite.
        """
        columns = self.columns(trained, feed, stop, title)
        loss = float((columns["loss"] * columns["weight"]).sum() / columns["weight"].sum())
        if not math.isfinite(loss):
            raise InputError(f"{title or 'the'} loss is {loss} after these steps; the checkpoint before is kept: lower "
                             "optimizer.learning_rate or set optimizer.clip")
        return {"loss": loss} | self.parts.task.metrics(columns), columns


def real(columns: Columns) -> Columns:
    """The slots that carry weight, flat."""
    keep = columns["weight"].reshape(-1) > 0
    return {key: x.reshape(-1, *x.shape[2:])[keep] for key, x in columns.items()}


def scalars(metrics: dict[str, Any], prefix: str) -> dict[str, float]:
    """The single numbers of a metrics dictionary under `prefix/`."""
    return {f"{prefix}/{key}": value for key, value in metrics.items() if isinstance(value, int | float)}


def predictions(columns: Columns, facts: Facts, catalogue: Catalogue | None = None) -> dict[str, list[Any]] | None:
    """One row an example: its row in the file, label, prediction, ids, scores, or user, target, rank and the items at the top with
    their scores, target and rank being lists where several items are relevant; None where a task has no scores."""
    if catalogue is not None and "rank" in columns:
        items, users = np.array(["", *catalogue.items, ""], object), np.array(catalogue.users, object)
        target, rank = columns.get("relevant", columns["label"]), columns["rank"]
        several = lambda x: x.tolist() if rank.ndim == 1 else [row[given].tolist() for row, given in zip(x, rank > 0, strict=True)]  # noqa: E731
        return {"user": users[columns["example"]].tolist(), "target": several(items[target]), "rank": several(rank),
                "top_items": items[columns["top_items"]].tolist(),
                "top_scores": columns["top_scores"].tolist()}
    if "scores" not in columns:
        return None
    scores, names = columns["scores"], facts.labels
    table: dict[str, list[Any]] = {"example": columns["example"].tolist()}
    if names is None:
        return table | {"label": columns["label"].tolist(), "prediction": scores.tolist(), "scores": scores.tolist()}
    if columns["label"].ndim == 2:
        chosen = [[np.flatnonzero(row > 0.5).tolist() for row in side] for side in (columns["label"], scores)]
        naming = lambda ids: [[names[i] for i in row] for row in ids]  # noqa: E731
    else:
        chosen = [columns["label"].tolist(), scores.argmax(-1).tolist()]
        naming = lambda ids: [names[i] for i in ids]  # noqa: E731
    return table | {"label": naming(chosen[0]), "prediction": naming(chosen[1]), "label_id": chosen[0],
                    "prediction_id": chosen[1], "scores": scores.tolist()}


def write_table(table: dict[str, list[Any]], path: Path) -> None:
    """Parquet."""
    with writing(path) as part:
        pq.write_table(pa.table(table), part, compression="zstd")


def keep(folder: Path, split: str, metrics: dict[str, Any], columns: Columns, facts: Facts,
         catalogue: Catalogue | None = None) -> dict[str, float]:
    """Write predictions/SPLIT.parquet and report/SPLIT.json, on process 0; returns what belongs into the summary."""
    if not processes.first():
        return scalars(metrics, split)
    table = predictions(columns, facts, catalogue)
    if table is not None:
        write_table(table, folder / "predictions" / f"{split}.parquet")
    rest = {key: x for key, x in metrics.items() if not isinstance(x, int | float)}
    if rest:
        write_json(rest, folder / "report" / f"{split}.json")
    return scalars(metrics, split)


def write_json(value: Any, path: Path) -> None:
    """JSON."""
    with writing(path) as part:
        part.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")
