"""What of histories is trained on, validated and tested with: where each split's part of a user's history ends, what is asked."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ecrec_jax.types import InputError

LEAST = 3   # events of a user who has something to train on, to validate and to test


class Part(NamedTuple):
    """Of each user so many events are in a split, 0 where it hasn't the user, and the last `asked` of these are asked for at once,
    after those before them; in training every event but the first is, after those before it."""

    end: Int[np.ndarray, "U"]
    asked: Int[np.ndarray, "U"]


Parts = dict[str, Part]   # of train, valid and test


def parts(train: Int[np.ndarray, "U"], valid: tuple[Int[np.ndarray, "U"], Int[np.ndarray, "U"]],
          test: tuple[Int[np.ndarray, "U"], Int[np.ndarray, "U"]]) -> Parts:
    """From where training ends, and from the (begin, end) of what the others ask for; nothing where these are equal."""
    made = {name: Part(np.where(end > begin, end, 0), np.maximum(end - begin, 0))
            for name, (begin, end) in (("valid", valid), ("test", test))}
    return {"train": Part(train, np.maximum(train - 1, 0)), **made}


def last_n(length: Int[np.ndarray, "U"], last: int = 1) -> Parts:
    """The `last` items test and as many before them validate, with 1 leave-one-out; users who have none besides are trained on
    alone."""
    whole = length > 2 * last
    until = [np.where(whole, length - n * last, length) for n in (2, 1)]
    return parts(until[0], (until[0], until[1]), (until[1], length))


def by_users(length: Int[np.ndarray, "U"], at: Sequence[float], seed: int, last: int = 1) -> Parts:
    """Whole users: the first share of a shuffle trains, the next validates with the `last` items, the rest tests with them."""
    place = np.random.default_rng((seed, 3)).permutation(len(length)) / len(length)
    first, second = at
    valid, test = (np.where(mine, length, 0) for mine in ((place >= first) & (place < second), place >= second))
    some = lambda end: (np.where(end > last, end - last, end), end)  # noqa: E731
    return parts(np.where(place < first, length, 0), some(valid), some(test))


def by_time(times: Sequence[Float[np.ndarray, "n"]], at: Sequence[float], last: int | None = 1) -> Parts:
    """Two moments, before which such shares of all events lie: what comes until the first trains; each user's next `last` items
    after the first (until the second; None: all of them) validate, the next after the second test, with all that was before
    them as history."""
    first, second = np.quantile(np.concatenate(times), at, method="lower")
    until = [np.array([np.searchsorted(time, moment, "right") for time in times]) for moment in (first, second)]
    length = np.array([len(time) for time in times])
    some = lambda begin, end: (begin, end if last is None else np.minimum(begin + last, end))  # noqa: E731
    return parts(until[0], some(*until), some(until[1], length))


def check(found: Parts, times: Sequence[Float[np.ndarray, "n"]] | None) -> None:
    """Whether nothing that is asked for is trained on: no event of the same user, and (with `times`) none that comes later.

    Raises:
        InputError: something is.
    """
    trained = found["train"].end
    for name in ("valid", "test"):
        end, asked = found[name]
        users, begin = np.flatnonzero(end), end - asked
        leaked = users[trained[users] > begin[users]]
        if len(leaked):
            raise InputError(f"data.split: what user number {leaked[0]} is asked for in {name} is trained on too")
        if times is not None and len(users):
            latest = max((times[user][end - 1] for user, end in enumerate(trained) if end), default=-np.inf)
            soonest = min(times[user][max(begin[user], 0)] for user in users)
            if latest >= soonest:
                raise InputError(f"data.split: an event is trained on that isn't before the first one asked for in {name}")
