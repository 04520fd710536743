"""Drawing items that are none of a user's: negatives of a loss, and what a label is ranked among."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int


def shares(counts: Sequence[int], without: Sequence[int]) -> Float[np.ndarray, "V"]:
    """Of the counts, one at least for every item; of `without` none."""
    found = np.maximum(np.array(counts, float), 1)
    found[list(without)] = 0
    return found / found.sum()


def drawn(count: tuple[int, ...], items: int, seen: Int[np.ndarray, "m"], rng: np.random.Generator) -> Int[np.ndarray, "..."]:
    """Items 1 … `items`, each alike, but for the `seen` ones (rising), unless these are all."""
    if len(seen) >= items:
        return rng.integers(1, items + 1, count, dtype=np.int32)
    place = rng.integers(1, items - len(seen) + 1, count, dtype=np.int32)   # among those that are left
    return place if not len(seen) else place + np.searchsorted(seen - np.arange(len(seen)), place, "right").astype(np.int32)


def popular(count: tuple[int, ...], share: Float[np.ndarray, "I"], seen: Int[np.ndarray, "m"], rng: np.random.Generator
            ) -> Int[np.ndarray, "..."]:
    """Items 1 … I, each as likely as the rise of `share` (its sum so far, up to 1) at it; drawn anew while it is a `seen` one, a
    hundred times at most."""
    found = 1 + np.searchsorted(share, rng.random(count), "right").astype(np.int32)
    for _ in range(100 if len(seen) else 0):
        again = np.isin(found, seen)
        if not again.any():
            break
        found[again] = 1 + np.searchsorted(share, rng.random(int(again.sum())), "right")
    return found


def distinct(count: int, items: int, seen: Int[np.ndarray, "m"], rng: np.random.Generator) -> Int[np.ndarray, "N"]:
    """`count` different items of 1 … `items`, none of the `seen` ones (rising): each set alike.

    Raises:
        ValueError: there are not so many.
    """
    place = 1 + rng.choice(items - len(seen), count, replace=False, shuffle=False).astype(np.int32)   # among those that are left
    return place + np.searchsorted(seen - np.arange(len(seen)), place, "right").astype(np.int32)
