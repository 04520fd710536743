"""What a number of a recommender depends on besides the model: most arguments about published ones are about this."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ecrec_jax.data.corpus import Corpus

BEFORE = {"leave_one_out": "the history with the validation item", "last_n": "the history with the validation items"}


def protocol(config: Mapping[str, Any], corpus: Corpus) -> dict[str, Any]:
    """How items were ranked, and its `fingerprint`, equal where metrics may be compared; then how the model was trained. What is
    said of some runs alone joins the fingerprint of those alone."""
    task, data, report = config["task"], config["data"], corpus.report
    counted = ("users", "items", "events", "split", "order", "users to test")
    judged = {"data": corpus.log, **{key: report[key] for key in counted},
              "test input": f"{BEFORE.get(data['split'], 'all that came before')}, its last {report['max_length']}",
              "candidates": "all items", "seen items": "filtered, of the whole history" if task.get("filter_seen")
              else "ranked too",
              "ties": "against the label"}
    if task.get("sampled", "none") != "none":
        judged["sampled"] = f"100 items by {task['sampled']} beside the label, none of the user's, under names that say so"
    if data["split"] == "users" or data["new_items"] or report["users to test"] == data["limit"]:
        judged["drawn by"] = f"data.split_seed {data['split_seed']}"
    if "prices" in corpus.facts:
        judged["prices"] = marked(corpus.facts["prices"])
    loss = ("objective", "negatives", "sampling", "unseen", "shared", "logq", "t", "rate", "hidden", "last")
    trained = {key: task[key] for key in loss if key in task}
    if trained.get("objective") == "ce":
        trained = {"objective": "ce"}
    lists = {"diversity": "of the vectors of data.vectors"} if corpus.vectors is not None else \
        {"diversity": "of the categories of data.items"} if "categories" in corpus.facts else {}
    return {"fingerprint": marked(judged), **judged, "cut-offs": task.get("cutoffs"), **lists,
            "loss": trained or task["_target_"].rpartition(".")[2]}


def marked(value: Any) -> str:
    """Twelve digits that say whether two values are the same."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def told(found: Mapping[str, Any]) -> str:
    """The same for a reader, in a line."""
    return "protocol " + "; ".join(f"{key} {value if key != 'data' else value[:12]}" for key, value in found.items())
