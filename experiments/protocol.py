"""What a number of a recommender depends on besides the model: most arguments about published ones are about this."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ecrec_jax.data.corpus import Corpus


def protocol(config: Mapping[str, Any], corpus: Corpus) -> dict[str, Any]:
    """How items were ranked, and its `fingerprint`, equal where metrics may be compared; then how the model was trained."""
    task, report = config["task"], corpus.report
    counted = ("users", "items", "events", "split", "order", "users to test")
    judged = {"data": corpus.digest, **{key: report[key] for key in counted},
              "test input": "the history with the validation item, its last " + str(report["max_length"]),
              "candidates": "all items", "seen items": "filtered, of the whole history" if task.get("filter_seen")
              else "ranked too",
              "ties": "against the label"}
    if task.get("sampled", "none") != "none":
        judged["sampled"] = f"100 items by {task['sampled']} beside the label, none of the user's, under names that say so"
    loss = ("objective", "negatives", "sampling", "unseen", "shared", "logq", "t", "rate", "last")
    trained = {key: task[key] for key in loss if key in task}
    if trained.get("objective") == "ce":
        trained = {"objective": "ce"}
    digest = hashlib.sha256(json.dumps(judged, sort_keys=True).encode()).hexdigest()[:12]
    lists = {"diversity": "of the vectors of data.vectors"} if corpus.vectors is not None else \
        {"diversity": "of the categories of data.items"} if "categories" in corpus.facts else {}
    return {"fingerprint": digest, **judged, "cut-offs": task.get("cutoffs"), **lists,
            "loss": trained or task["_target_"].rpartition(".")[2]}


def told(found: Mapping[str, Any]) -> str:
    """The same for a reader, in a line."""
    return "protocol " + "; ".join(f"{key} {value if key != 'data' else value[:12]}" for key, value in found.items())
