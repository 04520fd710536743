"""Who had what, and when, from the text files of recommender papers."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ecrec_jax.types import InputError


class Events(NamedTuple):
    """E events, sorted by user and in each user's order: numbers of user and item, times, and what users and items are called."""

    user: Int[np.ndarray, "E"]
    item: Int[np.ndarray, "E"]
    time: Float[np.ndarray, "E"]
    users: list[str]
    items: list[str]
    digest: str


def pairs(path: Path, lines: list[str]) -> tuple[list[str], list[str]]:
    """`user item` a line, in each user's order, as SASRec's and BERT4Rec's files are."""
    rows = [line.split() for line in lines]
    for number, row in enumerate(rows, 1):
        if len(row) not in (0, 2):
            raise InputError(f"{path}, line {number}: {len(row)} fields instead of a user and an item")
    return [row[0] for row in rows if row], [row[1] for row in rows if row]


def lists(path: Path, lines: list[str]) -> tuple[list[str], list[str]]:
    """`user item item …` a line, as S3-Rec's files are."""
    user, item, known = [], [], {}
    for number, line in enumerate(lines, 1):
        name, *items = line.split() or [""]
        if name and not items:
            raise InputError(f"{path}, line {number}: user {name} has no item")
        if known.setdefault(name, number) != number and name:
            raise InputError(f"{path}, line {number}: user {name} is on line {known[name]} already")
        user += [name] * len(items)
        item += items
    return user, item
