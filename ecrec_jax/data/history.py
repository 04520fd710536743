"""What was known of a user and of an item when it was shown."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from ecrec_jax.data.clean import codes

ITEM = ("item_shown", "item_rate")   # of the numbers below, those that describe the item


def before(sides: Sequence[tuple[str, Sequence[str | None]]], time: Float[np.ndarray, "R"], clicked: Bool[np.ndarray, "R"]
           ) -> dict[str, Float[np.ndarray, "R"]]:
    """Of every row, from the rows of strictly earlier time: NAME_shown = log(1 + how many have the same user, or item), and
    NAME_rate = (clicks among them + 1) / (how many + 2), Laplace's estimate. Rows of the same moment don't know each other."""
    found = {}
    for name, cells in sides:
        code, _ = codes(cells)
        order = np.lexsort((time, code))
        own, when, hit = code[order], time[order], clicked[order].astype(float)
        fresh = np.concatenate([[True], own[1:] != own[:-1]])                       # of a user
        moment = fresh | np.concatenate([[True], when[1:] != when[:-1]])            # of a user's moment
        begins = np.maximum.accumulate(np.where(fresh, np.arange(len(own)), 0))
        now = np.maximum.accumulate(np.where(moment, np.arange(len(own)), 0))
        total = np.concatenate([[0], np.cumsum(hit)])
        shown, clicks = now - begins, total[now] - total[begins]
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        found[f"{name}_shown"] = np.log1p(shown)[back]
        found[f"{name}_rate"] = ((clicks + 1) / (shown + 2))[back]
    return found
