"""What the cells of columns are as tokens with values."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from ecrec_jax.data.pack import within
from ecrec_jax.data.parse import parts_of
from ecrec_jax.data.split import is_number, natural, spread
from ecrec_jax.types import Example, InputError

KINDS = ("category", "list", "flags", "number", "count")


class Field(NamedTuple):
    """Of every value of a column its row, its token and what it counts; tokens 0 … `size` - 1, 0 for what training didn't see."""

    row: Int[np.ndarray, "N"]
    token: Int[np.ndarray, "N"]
    value: Float[np.ndarray, "N"]
    size: int


class Rows(NamedTuple):
    """Every field of every row, end to end: the field's number, the token, its value, and where each row begins."""

    type: Int[np.ndarray, "N"]
    tokens: Int[np.ndarray, "N"]
    value: Float[np.ndarray, "N"]
    offset: Int[np.ndarray, "R+1"]

    def example(self, i: int, label: Any) -> Example:
        """A row with its target."""
        part = slice(self.offset[i], self.offset[i + 1])
        return Example(self.tokens[part], self.type[part], label, i, value=self.value[part])


class Column(NamedTuple):
    """What training learnt of a column: the values of a category, and whether it met `others`, or mean and spread of numbers."""

    kind: str
    values: Sequence[str] = ()
    mean: float = 0.0
    spread: float = 1.0
    others: bool = True

    def read(self, cells: Sequence[str | None], separator: str, where: Callable[[int], str]) -> Field:
        """Cells as `data.clicks` says.

        Raises:
            InputError: a cell that should be a number isn't.
        """
        if self.kind in ("number", "count"):
            return self.scaled(amounts(self.kind, cells, where))
        parts = [parted(cell, self.kind, separator, partial(where, i)) for i, cell in enumerate(cells)]
        known = {name: k for k, name in enumerate(self.values, 1)}
        size = np.array([len(some) for some in parts])
        token = np.array([known.get(part, 0) for some in parts for part in some], "i4")
        counts = np.where((token > 0) | self.others, np.repeat(1 / np.maximum(size, 1), size), 0)   # else as it began, by chance
        return Field(np.repeat(np.arange(len(parts)), size), token, counts, len(known) + 1)

    def scaled(self, values: Float[np.ndarray, "R"]) -> Field:
        """One token a row, whose value is the number less the mean and over the spread; 0 where it is none."""
        value = np.nan_to_num((values - self.mean) / self.spread)
        return Field(np.arange(len(values)), np.zeros(len(values), "i4"), value, 1)


def learn(kind: str, cells: Sequence[str | None], train: Bool[np.ndarray, "R"], min_count: int, separator: str,
          where: Callable[[int], str]) -> Column:
    """A column from the training rows."""
    if kind in ("number", "count"):
        return learn_numbers(kind, amounts(kind, cells, where), train)
    counts = Counter(part for i in np.flatnonzero(train) for part in parted(cells[i], kind, separator, partial(where, i)))
    return Column(kind, sorted((name for name, n in counts.items() if n >= min_count), key=natural),
                  others=any(n < min_count for n in counts.values()))


def learn_numbers(kind: str, values: Float[np.ndarray, "R"], train: Bool[np.ndarray, "R"]) -> Column:
    """Their mean and spread, of the training rows that have one."""
    seen = values[train & ~np.isnan(values)]
    return Column(kind, (), float(seen.mean()), spread(seen)) if len(seen) else Column(kind)


def flagged(part: str, where: Callable[[], str]) -> bool:
    """Whether a flag is set.

    Raises:
        InputError: it is neither 0, 1, true, false nor empty.
    """
    found = {"1": True, "true": True, "1.0": True, "0": False, "false": False, "0.0": False, "": False}.get(part.lower())
    if found is None:
        raise InputError(f"{where()} has the flag {part!r}, which is neither 0 nor 1")
    return found


def parted(cell: str | None, kind: str, separator: str, where: Callable[[], str]) -> list[str]:
    """The values of a cell.

    Raises:
        InputError: as `flagged`.
    """
    if kind == "category":
        return [(cell or "").strip()]
    parts = parts_of(cell, separator)
    if kind == "flags":
        return [str(k) for k, part in enumerate(parts) if flagged(part, where)]
    return list(dict.fromkeys(part for part in parts if part))


def amounts(kind: str, cells: Sequence[str | None], where: Callable[[int], str]) -> Float[np.ndarray, "R"]:
    """The numbers of cells, of counts log(1 + x); not a number where one is empty."""
    found = np.full(len(cells), np.nan)
    for i, cell in enumerate(cells):
        text = (cell or "").strip()
        if text and (not is_number(text) or (kind == "count" and float(text) < 0)):
            raise InputError(f"{where(i)} is {text!r}, which is no {kind}")
        if text:
            found[i] = np.log1p(float(text)) if kind == "count" else float(text)
    return found


def lay(found: Sequence[Field], count: int, most: int) -> tuple[Rows, int, int]:
    """(the rows' tokens in the order of the fields, at most so many each, the ends of the longest lists being cut; how many tokens
    there are, 0 among them: padding; how many rows were cut)."""
    starts = np.cumsum([1, *(f.size for f in found)])
    row, token, value = (np.concatenate(parts) for parts in zip(
        *((f.row, f.token + start, f.value) for f, start in zip(found, starts, strict=False)), strict=True))
    kind = np.repeat(np.arange(len(found)), [len(f.row) for f in found])
    order = np.argsort(row, kind="stable")
    size = np.bincount(row, minlength=count)
    if size.max(initial=0) > most:
        rows = row[order]
        early = np.lexsort((within(rows * len(found) + kind[order]), rows))   # every field's first value, then every second one …
        kept = np.empty(len(order), bool)
        kept[early] = within(rows[early]) < most
        order = order[kept]
    offset = np.concatenate([[0], np.cumsum(np.minimum(size, most))])
    rows = Rows(kind[order].astype("i4"), token[order].astype("i4"), value[order].astype("f4"), offset)
    return rows, int(starts[-1]), int((size > most).sum())
