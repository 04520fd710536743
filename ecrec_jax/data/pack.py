"""Packing: which examples share a row, and the arrays of a batch. Plans are pure functions of (seed, epoch)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

WINDOW = 1024   # examples that are packed together


class Shape(NamedTuple):
    """Rows B, tokens a row L, slots a row S: of every batch of a run; items a slot M that its user has seen, where they count, and
    R that are relevant, where these may be several."""

    rows: int
    length: int
    slots: int
    seen: int = 0
    relevant: int = 0


Rows = list[list[int]]   # the examples of each row


def best_fit(order: Sequence[int], tokens: Sequence[int], slots: Sequence[int], length: int, capacity: int) -> Rows:
    """Best-fit decreasing: longest first, each into the fullest row that still has room for its tokens and slots.

    `free` keeps rows by the tokens they have left; a bit of `present` is set where that list is not empty.
    """
    rows: Rows = []
    left: list[int] = []                                  # slots left in each row
    free: list[list[int]] = [[] for _ in range(length + 1)]
    present = 0
    for example in sorted(order, key=lambda i: -tokens[i]):
        need, read = tokens[example], slots[example]
        candidates = present >> need << need
        row = None
        while candidates and row is None:
            room = (candidates & -candidates).bit_length() - 1
            row = next((r for r in reversed(free[room]) if left[r] >= read), None)
            candidates &= candidates - 1
        if row is None:
            row, room = len(rows), length
            rows.append([])
            left.append(capacity)
        else:
            free[room].remove(row)
            if not free[room]:
                present &= ~(1 << room)
        rows[row].append(example)
        left[row] -= read
        if left[row] > 0 and room > need:
            free[room - need].append(row)
            present |= 1 << (room - need)
    return rows


def plan(tokens: Int[np.ndarray, "E"], slots: Int[np.ndarray, "E"], shape: Shape, seed: Sequence[int] | None,
         alone: bool = False) -> Rows:
    """The rows of one epoch: shuffle all, pack inside windows, shuffle the rows of each window (packing sorts them).

    Without a seed examples keep their order from window to window, for evaluation. `alone`: one example a row.
    """
    rng = None if seed is None else np.random.default_rng(seed)
    order = np.arange(len(tokens)) if rng is None else rng.permutation(len(tokens))
    if alone:
        return [[int(i)] for i in order]
    rows: Rows = []
    sizes, reads = tokens.tolist(), slots.tolist()
    for start in range(0, len(order), WINDOW):
        packed = best_fit(order[start : start + WINDOW].tolist(), sizes, reads, shape.length, shape.slots)
        rows += [packed[i] for i in (range(len(packed)) if rng is None else rng.permutation(len(packed)))]
    return rows


def choose_shape(tokens: Int[np.ndarray, "E"], slots: Int[np.ndarray, "E"], batch_size: int, longest: int,
                 row_length: int | None, alone: bool = False, slot: int = 0) -> Shape:
    """B, L, S from the configuration and the data's lengths alone, never from the seed or the devices.

    L is `row_length`, or the first of `longest` (rounded up to 8), then multiples of 32, for which the examples of B rows
    come within 5 % of `batch_size` and rows are 97 % full in a trial packing; S is the most slots of its rows, or where a slot
    costs something, as many as cost least.
    """
    first = max(8, -(-longest // 8) * 8)
    sample = np.random.default_rng(0).permutation(len(tokens))[: 8 * WINDOW]
    best: tuple[float, Shape] | None = None
    for length in [row_length] if row_length else [first, *range(first // 32 * 32 + 32, max(4 * first, 256) + 1, 32)]:
        trial = Shape(1, length, int(slots.sum()) + 1)
        rows = plan(tokens[sample], slots[sample], trial, (0,), alone)
        a_row = len(sample) / len(rows)
        count = max(1, round(batch_size / a_row))
        if best is not None and count < 4:   # too few rows for devices and accumulation to share
            break
        full = int(tokens[sample].sum()) / (len(rows) * length)
        cost = max(abs(count * a_row / batch_size - 1) - 0.05, 0) + max(0.97 - full, 0)
        if best is None or cost < best[0]:
            best = (cost, Shape(count, length, max(1, *(int(slots[sample][row].sum()) for row in rows))))
        if cost == 0:
            break
    assert best is not None
    if slot:
        count, most = bound(tokens[sample], slots[sample], best[1], slot, (0,), alone)
        return Shape(max(1, round(batch_size * count / len(sample))), best[1].length, most)
    return best[1]


def bound(tokens: Int[np.ndarray, "E"], slots: Int[np.ndarray, "E"], shape: Shape, slot: int, seed: Sequence[int] | None,
          alone: bool = False) -> tuple[int, int]:
    """How many rows of L tokens the examples need, and the most slots of one, under that of some bounds on slots which costs least,
    where a slot costs as much as `slot` tokens: short examples would fill rows with many more slots than others have, most of
    which are empty then."""
    mean, cost = float(tokens.sum()) / shape.length, {}
    for share in (0.5, 0.7, 0.85, 1, 1.2, 2, np.inf):
        slots_a_row = max(int(min(share * slots.sum() / mean, slots.sum())), int(slots.max()), 1)
        rows = plan(tokens, slots, shape._replace(slots=slots_a_row), seed, alone)
        most = max(int(slots[row].sum()) for row in rows)
        cost[len(rows) * (shape.length + slot * most)] = len(rows), most
    return cost[min(cost)]


def lay(examples: Sequence[dict[str, np.ndarray]], numbers: Sequence[int], rows: Sequence[int], first: Sequence[bool],
        shape: Shape) -> dict[str, np.ndarray]:
    """The arrays of a batch from prepared examples in row order.

    `numbers` are the examples' rows in their file, `rows` the row of each example, `first` whether it begins its row.
    """
    b, length, capacity, *_ = shape
    label = np.asarray(examples[0]["label"])
    batch = {key: np.zeros((b, length), "i4") for key in ("tokens", "segment", "position", "type")}
    batch |= {"slot": np.zeros((b, capacity), "i4"), "example": np.zeros((b, capacity), "i4"),
              "weight": np.zeros((b, capacity), "f4"), "row": np.arange(b, dtype="i4"),
              "label": np.zeros((b, capacity, *label.shape[1:]), "f4" if label.dtype.kind == "f" else "i4")}
    if "value" in examples[0]:
        batch["value"] = np.zeros((b, length), "f4")
    lists = {key: size for key, size in (("seen", shape.seen), ("relevant", shape.relevant)) if size}
    batch |= {key: np.zeros((b, capacity, size), "i4") for key, size in lists.items()}
    drawn = [key for key in ("negative", "candidate") if key in examples[0]]
    each = {key: len(examples[0]["slot"]) // len(examples[0][key]) for key in drawn}   # slots that share what is drawn
    batch |= {key: np.zeros((b, capacity // each[key], examples[0][key].shape[1]), "i4") for key in drawn}
    for example, number, row, begins in zip(examples, numbers, rows, first, strict=True):
        if begins:
            at, slot, segments = 0, 0, 0
        n, s = len(example["tokens"]), len(example["slot"])
        inner = example.get("segment")
        batch["tokens"][row, at : at + n] = example["tokens"]
        batch["type"][row, at : at + n] = example["type"]
        batch["segment"][row, at : at + n] = segments + (1 if inner is None else inner)
        if "value" in batch:
            batch["value"][row, at : at + n] = example["value"]
        batch["position"][row, at : at + n] = example.get("first", 0) + (np.arange(n) if inner is None else within(inner))
        batch["slot"][row, slot : slot + s] = at + example["slot"]
        batch["label"][row, slot : slot + s] = example["label"]
        batch["weight"][row, slot : slot + s] = example["weight"]
        batch["example"][row, slot : slot + s] = number
        for key in lists:
            some = example.get(key, ())
            batch[key][row, slot, : len(some)] = some
        for key in drawn:
            batch[key][row, slot // each[key] : (slot + s) // each[key]] = example[key]
        at, slot, segments = at + n, slot + s, segments + (1 if inner is None else int(inner[-1]))
    return batch


def within(segment: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """Positions that start again at 0 wherever the number beside changes, such as with every segment."""
    place = np.arange(len(segment))
    starts = np.where(segment[1:] != segment[:-1], place[1:], 0)
    place[1:] -= np.maximum.accumulate(starts)
    return place
