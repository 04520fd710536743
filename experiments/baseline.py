"""An honest baseline on an experiment's data: `python -m experiments.baseline experiment=sentiment baseline=tfidf`."""

if __name__ == "__main__":
    from experiments.launch import settle

    settle()

import time
from typing import Any

import numpy as np

from ecrec_jax import build, evaluate, ranking, section, source
from ecrec_jax.data import copies, tokenise
from ecrec_jax.types import Facts, InputError
from ecrec_jax.use import neighbours
from experiments import record, wiring
from experiments.plot import reports
from experiments.protocol import protocol, told
from experiments.train import show, trackers

USERS = 1024   # whose scores are held at once
CHOICE = {"texts": "majority, tfidf or tfidf_char", "fields": "majority or linear",
          "items": "popularity, item_knn, ease, als or bpr"}


def main(config: dict[str, Any]) -> None:
    """Fit on the training split, evaluate on the others with the task's metrics; the folder is like that of a run."""
    began = time.perf_counter()
    folder = record.folder_of(config, config["baseline"]["_target_"].rpartition(".")[2].lower())
    kind = "texts" if "tokenizer" in config["data"] else "fields" if "fields" in config["data"] else "items"
    if kind not in getattr(section.target(config["baseline"], "baseline"), "reads", ("items",)):
        raise InputError(f"baseline: of {kind}, choose {CHOICE[kind]}")
    if kind != "items" and config["data"].get("target", "none") == "none":
        raise InputError("data.target is none: a baseline needs labels")
    wiring.labelled(config)
    lock, summary = record.open_run(config, folder)
    with lock:
        if summary is None:
            summary = (recommend if kind == "items" else fit)(config, folder) | {"wall_seconds": time.perf_counter() - began}
            reports(folder)
            tell(config, folder, summary)
            evaluate.write_json(summary, folder / "summary.json")
    show(summary, config["best"]["metric"], folder)


def tell(config: dict[str, Any], folder: Any, summary: dict[str, Any]) -> None:
    """Trackers hear the numbers at once, as of a run that took no step; the console is told by `show`."""
    marks = {key: x for key, x in summary.items() if key.startswith("fingerprint/")}
    told = {name: node for name, node in config["tracker"].items() if name != "console"}
    for tracker in trackers({**config, **marks, "tracker": told}, folder).values():
        tracker.start(0, 0, {})
        tracker.log(0, {key: x for key, x in summary.items() if key.startswith(("valid/", "test/"))})
        tracker.finish(summary)


def fit(config: dict[str, Any], folder: Any) -> dict[str, Any]:
    """The summary of the baseline."""
    data = section.make(config["data"], "data", Facts())
    words = build.tokenizer_folder(config, None)
    corpus = data.load(words, data.max_length)
    if config["data"].get("augment"):
        corpus = copies.add(corpus, data, words, data.max_length, config["seed"])
    facts = Facts(**(tokenise.facts(words) if words else {}) | corpus.facts)
    task, model = section.make(config["task"], "task", facts), section.make(config["baseline"], "baseline", facts)
    source.save_facts(facts, folder)
    evaluate.write_json({"sha256": corpus.digest, **corpus.report}, folder / "data.json")
    known, summary = [e.label for e in corpus.examples["train"]], record.marks(config, corpus.digest)
    splits = [split for split in ("valid", "test") if corpus.examples[split]]
    given = corpus.examples if "fields" in config["data"] else corpus.texts
    asked = [one for split in splits for one in given[split]]
    scores = np.asarray(model.scores(given["train"], known, data.target, len(facts.labels or ()), asked))
    for split in splits:
        examples = corpus.examples[split]
        columns = {"label": np.array([e.label for e in examples]), "scores": scores[: len(examples)],
                   "example": np.array([e.index for e in examples])}
        scores = scores[len(examples) :]
        summary |= evaluate.keep(folder, split, task.metrics(columns), columns, facts)
    return summary


def recommend(config: dict[str, Any], folder: Any) -> dict[str, Any]:
    """The summary of a baseline that ranks items: fitted on the histories for training, asked with those before each label."""
    if section.target(config["task"], "task").target not in ("next_item", "masked_item"):
        raise InputError("task: baselines of items rank them: set task=next_item")
    data = section.make(config["data"], "data", Facts())
    corpus = data.load("", data.max_length)
    facts = Facts(**corpus.facts, positions=data.max_length)
    task = section.make(config["task"], "task", facts, vectors=corpus.vectors)
    model = section.make(config["baseline"], "baseline", facts)
    source.save_facts(facts, folder)
    evaluate.write_json({"sha256": corpus.digest, **corpus.report}, folder / "data.json")
    ranked = protocol(config, corpus) | {"loss": "none"}
    evaluate.write_json(ranked, folder / "protocol.json")
    print(told(ranked))
    fitted = model.fit(list(corpus.trained.values()), facts.items)
    summary, place = record.marks(config, corpus.digest), {user: i for i, user in enumerate(corpus.trained)}
    for split in (split for split in ("valid", "test") if corpus.examples[split]):
        examples, found = corpus.examples[split], []
        relevant = None if examples[0].relevant is None else ranking.padded([e.relevant for e in examples])
        for first in range(0, len(examples), USERS):
            some = examples[first : first + USERS]
            seen = [e.seen for e in some]
            scores, label = model.scores(fitted, seen, [place.get(e.index, -1) for e in some]), np.array([e.label for e in some])
            target = label if relevant is None else relevant[first : first + USERS]
            rank, top, score = neighbours.ranked(scores, target, seen if task.filter_seen else [], task.most)
            made = {"label": label, "rank": rank, "top_items": top, "top_scores": score}
            made |= {} if relevant is None else {"relevant": target}
            if getattr(task, "sampled", "none") != "none":
                others = np.take_along_axis(scores, np.concatenate([task.candidates(e) for e in some]) - 1, 1)
                made["sampled_rank"] = 1 + (others >= np.take_along_axis(scores, label[:, None] - 1, 1)).sum(1)
            found.append(made)
        columns = {key: np.concatenate([part[key] for part in found]) for key in found[0]}
        columns |= {"example": np.array([e.index for e in examples]), "loss": np.zeros(len(examples)),
                    "length": np.array([len(e.tokens) for e in examples])}
        summary |= evaluate.keep(folder, split, task.metrics(columns), columns, facts, corpus.catalogue)
    return summary


if __name__ == "__main__":
    from experiments.launch import main as launch

    launch(main, "baseline")
