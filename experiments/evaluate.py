"""Evaluate a run's best checkpoint again: `python -m experiments.evaluate run_dir=DIR split=test`; one line of JSON."""

if __name__ == "__main__":
    from experiments.launch import settle

    settle()

import dataclasses
import json
from typing import Any

from ecrec_jax import build, evaluate, section
from ecrec_jax.data.feed import Feed
from ecrec_jax.data.text import SPLITS
from ecrec_jax.types import Facts, InputError
from experiments import record, saved, wiring
from experiments.plot import reports


def main(config: dict[str, Any]) -> None:
    """Rebuild the run from its folder, read its data, measure one split, merge into summary.json."""
    wiring.compilation_cache()
    (folder, run), split = saved.opened(config["run_dir"]), config["split"]
    if split not in SPLITS:
        raise InputError(f"split is {split!r}, must be one of {', '.join(SPLITS)}")
    parts = build.rebuild(folder, run)
    node = wiring.debugged(run)["data"] | {"root": config["data"]["root"]}
    data = section.make(node, "data", Facts())
    corpus = data.load(parts.tokenizer, parts.facts.longest(data.max_length))
    record.same_data(folder, corpus.digest)
    if not corpus.examples[split]:
        raise InputError(f"split: the data of {folder} has no {split} split")
    feed = Feed(corpus.examples[split], parts.task, None)
    feed.shaped(data.batch_size, data.row_length)
    if corpus.catalogue is not None:
        feed.shape = feed.few(feed.shape, build.READ)._replace(seen=feed.seen, relevant=feed.relevant)
    trained, frozen = parts.peft.split(parts.parameters)
    place = parts.strategy.place
    evaluator = evaluate.Evaluator(dataclasses.replace(parts, corpus=corpus), place(frozen | parts.constants))
    metrics, columns = evaluator.measure(place(trained), feed, title=split)
    found = evaluate.keep(folder, split, metrics, columns, parts.facts, corpus.catalogue)
    reports(folder)
    path = folder / "summary.json"
    if path.is_file():
        evaluate.write_json(json.loads(path.read_text(encoding="utf-8")) | found, path)
    print(json.dumps(found))


if __name__ == "__main__":
    from experiments.launch import main as launch

    launch(main, "evaluate")
