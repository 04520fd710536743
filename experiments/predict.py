"""Label new rows with a run: `python -m experiments.predict run_dir=DIR input=FILE output=FILE`."""

if __name__ == "__main__":
    from experiments.launch import settle

    settle()

import json
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from ecrec_jax import build, evaluate, section, source
from ecrec_jax.data import leak, read, tokenise
from ecrec_jax.data.feed import Feed
from ecrec_jax.data.split import is_number
from ecrec_jax.types import Facts, InputError
from experiments import order, output, saved, wiring

KEYS = {"input": str, "batch_size": int, "keep": list[str], "group": str | None, "by": str | None, "unseen": bool}


def main(config: dict[str, Any]) -> None:
    """Read texts, predict in packed rows, write text, prediction and scores in the order of the input, or ranked in each group."""
    config = section.typed(config, KEYS)
    if config["batch_size"] < 1:
        raise InputError(f"batch_size is {config['batch_size']}, must be at least 1")
    wiring.compilation_cache()
    path = output.named(config["output"])
    order.check(config)
    folder, run = saved.opened(config["run_dir"])
    parts = build.rebuild(folder, run)
    if parts.task.target not in ("class", "multi", "number"):
        raise InputError(f"run_dir: a run of {run['task']['_target_'].rpartition('.')[2]} has nothing to predict for a text")
    moved = {} if config["data"]["root"] is None else {"root": config["data"]["root"]}
    data = section.make(run["data"] | moved, "data", Facts())
    whole = table = read.read(read.locate(config["input"], ".", "input"))
    blank = np.zeros(len(parts.facts.labels), "f4") if parts.task.target == "multi" else 0
    longest, kept = parts.facts.longest(data.max_length), folder / source.FIELDS
    some = np.flatnonzero(~output.empty(table))
    if not len(some) and len(table.place):
        raise InputError(f"input: {table.path}: every row says that nothing is left to show")
    if len(some) < len(table.place):
        table = table.some(some)
    if kept.is_file():
        examples, first, truncated = data.new(table, json.loads(kept.read_text(encoding="utf-8")), longest)
        second = None
    else:
        first, second = data.texts(table, Counter())
        ragged = tokenise.tokenise(parts.tokenizer, first, second, longest)
        examples, truncated = [ragged.example(i, blank) for i in range(len(first))], int(ragged.truncated.sum())
    feed = Feed(examples, parts.task, None)
    feed.shaped(config["batch_size"], None)
    trained, frozen = parts.peft.split(parts.parameters)
    place = parts.strategy.place
    columns = evaluate.Evaluator(parts, place(frozen | parts.constants)).columns(place(trained), feed, title="predict")
    found = evaluate.predictions(columns, parts.facts)
    rows = pd.DataFrame({"text": first} | ({"text_pair": second} if second else {}) | {"prediction": found["prediction"]})
    if parts.facts.labels:
        rows["score"] = columns["scores"].max(-1)
        scores = pd.DataFrame(columns["scores"], columns=[f"score/{name}" for name in parts.facts.labels])
        rows = pd.concat([rows, scores], axis=1)
    if config["unseen"]:
        if not (folder / leak.FILE).is_file():
            raise InputError(f"unseen: {folder} doesn't say what it was trained on (no {leak.FILE}), so no score can be left out")
        texts = [a if second is None else f"{a} {second[i]}" for i, a in enumerate(first)]
        said = [name for name in rows if name.startswith(("prediction", "score"))]
        rows.loc[leak.seen(texts, leak.known(folder)), said] = None
    if len(some) < len(whole.place):   # rows without an item keep their place, and have no score
        rows = rows.set_axis(some).reindex(range(len(whole.place)))
    for name in config["keep"]:
        if name in rows or (name == "rank" and config["group"] is not None):
            raise InputError(f"keep: the output has a column {name!r} of its own")
    rows, said = pd.concat([pd.DataFrame({name: read.column(whole, name, "keep") for name in config["keep"]}), rows], axis=1), ""
    if config["group"] is not None:
        rows, said = order.ordered(rows, read.column(whole, config["group"], "group"), config["by"], wanted(config, whole))
    output.write(rows, path)
    print(f"{len(rows)} rows, {truncated} truncated to {data.max_length} tokens, {first.count('')} without text; "
          f"written to {path}")
    if said:
        print(said)


def wanted(config: dict[str, Any], table: read.Table) -> list[bool] | None:
    """Which rows of the input are relevant, if it is said.

    Raises:
        InputError: a cell is no number.
    """
    if config["relevant"] is None:
        return None
    (name, least), = config["relevant"].items()
    found = []
    for i, (cell, empty) in enumerate(zip(read.column(table, name, "relevant"), output.empty(table), strict=True)):
        if not empty and not is_number(cell or ""):
            raise InputError(f"relevant: {table.where(i)}: {name} {cell or ''!r} is not a number")
        found.append(not empty and float(cell) >= least)
    return found


if __name__ == "__main__":
    from experiments.launch import main as launch

    launch(main, "predict")
