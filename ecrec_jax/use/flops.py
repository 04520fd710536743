"""Model FLOPs: what a step has to compute, whatever the program makes of it."""

import re
from typing import Any

import jax
import numpy as np

from ecrec_jax.build import Parts
from ecrec_jax.text_encoder import PREFIX, VECTORS
from ecrec_jax.types import Batch

TABLES = ("model.embeddings.word_embeddings.embedding", "model.items.embedding")
SLOTS = ("model.pooler.", "model.slots.")   # what a model computes of slots alone
OVER_TABLES = ("tokens", "next_token", "next_item", "masked_item")   # targets of heads over a table
QUERY = (".attention.self.query.kernel", ".attention.query.kernel")
TEXT = "model.text.kernel"   # what makes item vectors of their texts'


def model_flops(parts: Parts, batch: Batch) -> float:
    """FLOPs of one row of training, the mean of a batch's rows that hold something.

    Σ 6·P_token·tokens + 6·P_slot·slots + 12·D·layers·Σ n², where P counts the numbers of the matrices a token (encoder) or a
    used slot (pooler, head, tied table) is multiplied with and n runs over the segments. A frozen matrix counts 4, not 6:
    nothing is computed for its own gradient. Tables that are only looked up count nothing, padding neither; of a table that
    negatives are sampled of, the label's row and theirs count. Where a head reads the slots alone, so does the last layer, but for
    its keys and values: its n² are a segment's used slots times its tokens. A text encoder reads each distinct item once; vectors
    of items' texts are made so often too, or of all items where a slot is scored with all.

    Source: Kaplan et al. 2020, §2.1 (6·N a token); attention: 2 products of 2·n²·D each, and twice that backwards.
    """
    trained, _ = parts.peft.split(parts.parameters)
    cost = {True: 0.0, False: 0.0}   # whether a token pays, or a slot
    last = last_layer(parts)
    for path, kernel in matrices(parts).items():
        of_slots = (*SLOTS, *TABLES) if last is None else (*SLOTS, *TABLES, last)
        asked = path.endswith((".key.kernel", ".value.kernel"))   # of all tokens in every layer
        by_token = path.startswith("model.") and (asked or not path.startswith(of_slots))
        met = len(kernel) if path.endswith(".kernel") else min(scored(parts, batch), len(kernel))   # of its rows
        cost[by_token] += (6 if path in trained else 4) * float(met * np.prod(kernel.shape[1:]))
    segment = np.asarray(batch["segment"])
    rows = max(1, int((segment > 0).any(1).sum()))
    used = np.asarray(batch["weight"]) > 0
    counts = np.stack([np.bincount(row, minlength=segment.max() + 1) for row in segment])
    sizes = np.take_along_axis(counts, segment, 1) * (segment > 0)   # of each token's segment
    asking = np.take_along_axis(sizes, np.asarray(batch["slot"]), 1) * used
    widths = {path: x.shape[-1] for path, x in parts.parameters.items()
              if path.endswith(QUERY) and not path.startswith(PREFIX)}
    attention = 12.0 * sum(width * float((asking if last and path.startswith(last) else sizes).sum())
                           for path, width in widths.items())
    tokens, slots = int((segment > 0).sum()), int(used.sum())
    own = of_texts(parts, batch) + of_vectors(parts, batch, slots)
    return (cost[True] * tokens + cost[False] * slots + attention + own) / rows


def of_texts(parts: Parts, batch: Batch) -> float:
    """FLOPs of reading the texts of all items that a batch names, each once; a second time for the gradient doesn't count."""
    if parts.texts is None:
        return 0.0
    sizes = (parts.texts.texts[named(batch)] > 0).sum(1)
    trained, _ = parts.peft.split(parts.parameters)
    own = {path: x for path, x in parts.parameters.items() if path.startswith(PREFIX)}
    dense = sum((6 if path in trained else 4) * float(x.size) for path, x in own.items() if path.endswith(".kernel"))
    attention = 12.0 * sum(x.shape[-1] for path, x in own.items() if path.endswith(QUERY))
    return dense * float(sizes.sum()) + attention * float((sizes.astype(float) ** 2).sum())


def of_vectors(parts: Parts, batch: Batch, slots: int) -> float:
    """FLOPs of making items' vectors of their texts', and of the products with them where items have no others. Given vectors need
    no gradient, a text encoder's do."""
    if TEXT not in parts.parameters:
        return 0.0
    kernel, count, each = parts.parameters[TEXT], len(parts.constants[VECTORS]), scored(parts, batch)
    products = 1 + (TEXT in parts.peft.split(parts.parameters)[0]) + (parts.texts is not None)
    made = 2.0 * products * kernel.size * (count if each == np.inf else len(named(batch)))
    return made + 6.0 * kernel.shape[1] * min(each, count) * slots * parts.parameters.keys().isdisjoint(TABLES)


def named(batch: Batch) -> np.ndarray:
    """The distinct items of a batch."""
    found = np.unique(np.concatenate([np.ravel(batch[key]) for key in ("tokens", "label", "negative") if key in batch]))
    return found[found > 0]


def scored(parts: Parts, batch: Batch) -> float:
    """How many rows of a table a slot's query is multiplied with; infinite: all."""
    if "negative" in batch:
        return 1 + batch["negative"].shape[-1]
    return int((np.asarray(batch["weight"]) > 0).sum()) if getattr(parts.task, "sampling", "") == "batch" else np.inf


def last_layer(parts: Parts) -> str | None:
    """How the paths of the last layer begin, where the head reads its slots alone."""
    found: list[bool] = []
    jax.eval_shape(lambda given: found.append(getattr(parts.graph.net(given).head, "at_slots", False)),
                   parts.parameters | parts.constants)
    layers = [path for path in parts.parameters if path.endswith(QUERY) and not path.startswith(PREFIX)]
    if not found[0] or not layers:
        return None
    return re.match(r".*\.\d+\.", max(layers, key=lambda path: int(re.search(r"\.(\d+)\.", path)[1])))[0]


def matrices(parts: Parts) -> dict[str, Any]:
    """The parameters that something is multiplied with: kernels, and the table of words or items that the head reads."""
    found = {path: x for path, x in parts.parameters.items()
             if (path.endswith(".kernel") or path == "head.decoder.embedding") and not path.startswith((PREFIX, TEXT))}
    if parts.task.target in OVER_TABLES and not any(path.startswith("head.decoder.") for path in found):
        found |= {path: x for path, x in parts.parameters.items() if path in TABLES}
    return found
