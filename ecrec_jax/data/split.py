"""Shares of a table: stratified draws, and what cells mean."""

import numpy as np

from ecrec_jax.types import InputError


def draw(pool: list[int], strata: list[str], fraction: float, seed: int) -> list[int]:
    """A stratified share of the pool: shuffled, sorted by stratum, every 1/fraction-th taken."""
    order = np.random.default_rng(seed).permutation(len(pool))
    order = order[np.argsort(np.array(strata)[order], kind="stable")] if len(pool) else order
    steps = np.floor(np.arange(len(pool) + 1) * fraction + 0.5)
    return [pool[i] for i in order[np.diff(steps) > 0]]


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
