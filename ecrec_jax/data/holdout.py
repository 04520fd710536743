"""What of histories is trained on, validated and tested with: where each split's part of a user's history ends."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from ecrec_jax.types import InputError

Ends = dict[str, Int[np.ndarray, "U"]]   # of train, valid and test: so many items are known, the last one is asked; 0: not in it
LEAST = 3                                # events of a user who has something to train on, to validate and to test


def leave_one_out(length: Int[np.ndarray, "U"]) -> Ends:
    """The last item tests, the one before it validates; users with fewer than three are trained on alone."""
    whole = length >= LEAST
    return {"train": np.where(whole, length - 2, length), "valid": np.where(whole, length - 1, 0),
            "test": np.where(whole, length, 0)}


def by_users(length: Int[np.ndarray, "U"], at: Sequence[float], seed: int) -> Ends:
    """Whole users: the first share of a shuffle trains, the next validates with the last item, the rest tests with it."""
    place = np.random.default_rng((seed, 3)).permutation(len(length)) / len(length)
    first, second = at
    return {"train": np.where(place < first, length, 0), "valid": np.where((place >= first) & (place < second), length, 0),
            "test": np.where(place >= second, length, 0)}


def by_time(times: Sequence[Float[np.ndarray, "n"]], at: Sequence[float]) -> Ends:
    """Two moments, before which such shares of all events lie: what comes until the first trains; each user's next item after the
    first (until the second) validates, the next after the second tests, with all that was before it as history."""
    first, second = np.quantile(np.concatenate(times), at, method="lower")
    until = [np.array([np.searchsorted(time, moment, "right") for time in times]) for moment in (first, second)]
    length = np.array([len(time) for time in times])
    return {"train": until[0], "valid": np.where(until[1] > until[0], until[0] + 1, 0),
            "test": np.where(length > until[1], until[1] + 1, 0)}


def check(ends: Ends, times: Sequence[Float[np.ndarray, "n"]] | None) -> None:
    """Whether nothing that is asked for is trained on: no event of the same user, and (with `times`) none that comes later.

    Raises:
        InputError: something is.
    """
    for name in ("valid", "test"):
        asked = np.flatnonzero(ends[name])
        leaked = asked[ends["train"][asked] >= ends[name][asked]]
        if len(leaked):
            raise InputError(f"data.split: what user number {leaked[0]} is asked for in {name} is trained on too")
        if times is not None and len(asked):
            latest = max((times[user][end - 1] for user, end in enumerate(ends["train"]) if end), default=-np.inf)
            soonest = min(times[user][ends[name][user] - 1] for user in asked)
            if latest >= soonest:
                raise InputError(f"data.split: an event is trained on that isn't before the first one asked for in {name}")
