"""Whether packed rows learn what one history a row does: `python -m bench.packing [steps=40] [key=value …]`.

SASRec on Beauty with cross-entropy over all items, as in `bench next-item`, without dropout, whose masks are a row's. Two states
begin alike; each step takes a batch in packed rows and the same histories one a row of that length. Printed: both losses
and their greatest gap.
"""

if __name__ == "__main__":
    from experiments.launch import settle

    settle()

import itertools
import sys

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from bench import ours
from ecrec_jax.step import make_step
from ecrec_jax.types import Batch, State

WORDS = ("data.align=right", "model.dropout=0.0", "strategy.devices=1")


def apart(batch: Batch, rows: int) -> Batch:
    """The segments of a batch [B, L], slots [B, S], each in a row of its own: [rows, L] and [rows, S]."""
    found = {key: np.zeros((rows, *x.shape[1:]), x.dtype) for key, x in batch.items()}
    found["row"] = np.arange(rows, dtype="i4")
    places = [(row, segment) for row, x in enumerate(batch["segment"]) for segment in range(1, x.max() + 1)]
    for new, (row, segment) in enumerate(places):
        at = np.flatnonzero(batch["segment"][row] == segment)
        for key in ("tokens", "position", "type"):
            found[key][new, : len(at)] = batch[key][row, at]
        found["segment"][new, : len(at)] = 1
        mine = np.flatnonzero((batch["weight"][row] > 0) & np.isin(batch["slot"][row], at))
        found["slot"][new, : len(mine)] = batch["slot"][row, mine] - at[0]
        for key in ("label", "weight", "example"):
            found[key][new, : len(mine)] = batch[key][row, mine]
    return found


def main(steps: int, *words: str) -> None:
    """Train both, side by side."""
    parts = ours.parts_of("next-item", [*WORDS, f"steps={steps}", *words])
    feed, strategy = parts.feeds["train"], parts.strategy
    given = [*itertools.islice((b for epoch in itertools.count() for b in feed.batches(0, epoch)), steps)]
    rows = max(int(batch["segment"].max(1).sum()) for batch in given)
    trained, frozen = parts.peft.split(parts.parameters)
    step = strategy.compile(make_step(parts.graph, parts.task, parts.peft, parts.gradient, parts.optimizer, strategy), False)
    first = State(trained, parts.optimizer.init(trained), jnp.int32(0), jnp.uint32(0))
    states, constant, losses = [strategy.place(first)] * 2, strategy.place(frozen | parts.constants), []
    for batch in tqdm(given, "packed and apart", leave=False, disable=None):
        made = [step(state, constant, strategy.put(one, parts.gradient.count))
                for state, one in zip(states, (batch, apart(batch, rows)), strict=True)]
        states = [state for state, _ in made]
        losses.append([float(strategy.fetch(logs)["loss"]) for _, logs in made])
    found = np.array(losses)
    for number in sorted({0, steps // 4, steps // 2, 3 * steps // 4, steps - 1}):
        print(f"step {number + 1}: {found[number, 0]:.6f} packed, {found[number, 1]:.6f} apart")
    filled, padded = (float(np.mean([(x["segment"] > 0).mean() for x in some])) for some in (given, [apart(given[0], rows)]))
    print(f"{steps} steps, greatest gap {np.abs(found[:, 0] - found[:, 1]).max():.1e}; rows {filled:.0%} full, {padded:.0%} apart")


if __name__ == "__main__":
    asked = dict(word.split("=", 1) for word in sys.argv[1:] if word.startswith("steps="))
    main(int(asked.get("steps", 40)), *(word for word in sys.argv[1:] if not word.startswith("steps=")))
