"""Shares of a table: stratified draws, and what cells mean."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from ecrec_jax.types import InputError

SPLITS = ("train", "valid", "test")


def draw(pool: list[int], strata: list[str], fraction: float, seed: int) -> list[int]:
    """A stratified share of the pool: shuffled, sorted by stratum, every 1/fraction-th taken."""
    order = np.random.default_rng(seed).permutation(len(pool))
    order = order[np.argsort(np.array(strata)[order], kind="stable")] if len(pool) else order
    steps = np.floor(np.arange(len(pool) + 1) * fraction + 0.5)
    return [pool[i] for i in order[np.diff(steps) > 0]]


def share(rows: list[int], strata: list[str], fraction: float, limit: int | None, seed: int) -> list[int]:
    """What a share and a limit leave of a split: a stratified draw, in the order of the file. `strata`: of all rows."""
    for wanted in (max(1, round(fraction * len(rows))), len(rows) if limit is None else limit):
        if wanted < len(rows):
            rows = sorted(draw(rows, [strata[i] for i in rows], wanted / len(rows), seed))
    return rows


def check(data: Any) -> None:
    """Whether the keys that every kind of data has make sense.

    Raises:
        InputError: the first that doesn't.
    """
    if data.path is None:
        raise InputError("data.path is not set: give the file, data.path=my.csv")
    if not (data.valid_fraction >= 0 and data.test_fraction >= 0 and data.valid_fraction + data.test_fraction < 1):
        raise InputError("data.valid_fraction and data.test_fraction must be shares that leave something to train on")
    if not 0 < data.train_fraction <= 1:
        raise InputError(f"data.train_fraction {data.train_fraction} must be above 0 and at most 1")
    for name, least in (("max_length", 3), ("batch_size", 1), ("limit", 1), ("split_seed", 0), ("copies", 1)):
        value = getattr(data, name, None)   # copies: of texts only
        if value is not None and value < least:
            raise InputError(f"data.{name} {value} is too small")


def texts(data: Any, *keys: str) -> None:
    """Whether keys that hold {text: text} do.

    Raises:
        InputError: the first that doesn't.
    """
    for key in keys:
        for name, value in (getattr(data, key) or {}).items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise InputError(f"data.{key}: {name}: {value} is not a pair of texts; quote them both")


def rarest(sets: Sequence[Sequence[str]]) -> list[str]:
    """Of each row's labels the one that fewest rows have. The first row that has a label is alone, so that it stays in training."""
    counts = Counter(name for names in sets for name in names)
    first = {name: i for i, names in reversed([*enumerate(sets)]) for name in names}
    alone = {*first.values()}
    return [f"{name}, row {i}" if i in alone else name for i, name in enumerate(
        min(names, key=lambda name: (counts[name], name), default="") for names in sets)]


def spread(values: Float[np.ndarray, "N"]) -> float:
    """Their standard deviation; 1 where they are all the same, which floats may not say."""
    return float(values.std()) if np.ptp(values) else 1.0


def is_number(text: str) -> bool:
    """Whether float() reads it as a finite number."""
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def number(text: str, where: str) -> float:
    """The number a cell holds."""
    if not is_number(text):
        raise InputError(f"{where}: label {text!r} is not a number")
    return float(text)


def natural(name: str) -> tuple[int, float, str]:
    """Numbers in order of size, then names in order of the alphabet."""
    return (0, float(name), name) if is_number(name) else (1, 0.0, name)
