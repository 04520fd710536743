"""What the cells of a column are as tokens with values."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from ecrec_jax.data.split import is_number, natural
from ecrec_jax.types import InputError

KINDS = ("category", "list", "flags", "number", "count")


class Field(NamedTuple):
    """Of every value of a column its row, its token and what it counts; tokens 0 … `size` - 1, 0 for what training didn't see."""

    row: Int[np.ndarray, "N"]
    token: Int[np.ndarray, "N"]
    value: Float[np.ndarray, "N"]
    size: int


def field(kind: str, cells: Sequence[str | None], train: Bool[np.ndarray, "R"], min_count: int, separator: str,
          where: Callable[[int], str]) -> Field:
    """A column as `data.clicks` says.

    Raises:
        InputError: a cell that should be a number isn't.
    """
    if kind in ("number", "count"):
        return numbers(np.array([amount(cell, kind, where, i) for i, cell in enumerate(cells)]), train)
    parts = [parted(cell or "", kind, separator) for cell in cells]
    counts = Counter(part for some, used in zip(parts, train, strict=True) if used for part in some)
    known = {name: k for k, name in enumerate(sorted((x for x, n in counts.items() if n >= min_count), key=natural), 1)}
    size = np.array([len(some) for some in parts])
    token = np.array([known.get(part, 0) for some in parts for part in some], "i4")
    return Field(np.repeat(np.arange(len(parts)), size), token, np.repeat(1 / np.maximum(size, 1), size), len(known) + 1)


def parted(cell: str, kind: str, separator: str) -> list[str]:
    """The values of a cell."""
    if kind == "category":
        return [cell.strip()]
    parts = [part.strip() for part in cell.split(separator)]
    if kind == "flags":
        return [str(k) for k, part in enumerate(parts) if part == "1"]
    return list(dict.fromkeys(part for part in parts if part))


def amount(cell: str | None, kind: str, where: Callable[[int], str], i: int) -> float:
    """The number of a cell; not a number where it is empty."""
    text = (cell or "").strip()
    if not text:
        return np.nan
    if not is_number(text) or (kind == "count" and float(text) < 0):
        raise InputError(f"{where(i)} is {text!r}, which is no {'number' if kind == 'number' else 'count'}")
    return float(np.log1p(float(text))) if kind == "count" else float(text)


def numbers(values: Float[np.ndarray, "R"], train: Bool[np.ndarray, "R"]) -> Field:
    """One token a row, whose value is the number less the mean and over the spread of the training rows; 0 where it is none."""
    seen = values[train & ~np.isnan(values)]
    mean, spread = (seen.mean(), seen.std() or 1.0) if len(seen) else (0.0, 1.0)
    count = len(values)
    return Field(np.arange(count), np.zeros(count, "i4"), np.nan_to_num((values - mean) / spread), 1)
