"""What of histories is trained on, validated and tested with: where each split's part of a user's history ends, what is asked."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

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


def leave_one_target_out(target: Sequence[Bool[np.ndarray, "n"]]) -> Parts:
    """The same of such events alone: a user's last one tests, the one before it validates, what lies before that is trained on.
    Who has fewer than three is trained on alone, or not at all, where nothing but a first event is one."""
    whole = np.array([found.sum() >= LEAST for found in target])
    last = [np.array([np.flatnonzero(found)[-back] if ok else 0 for found, ok in zip(target, whole, strict=True)])
            for back in (1, 2)]
    train = np.where(whole, last[1], [len(found) for found in target])
    train = np.where([found[1:end].any() for found, end in zip(target, train, strict=True)], train, 0)
    return parts(train, (last[1], np.where(whole, last[1] + 1, 0)), (last[0], np.where(whole, last[0] + 1, 0)))


def without_new(histories: Sequence[Int[np.ndarray, "n"]], items: int, share: float, seed: int
                ) -> tuple[list[Int[np.ndarray, "n"]], set[int], tuple[int, ...]]:
    """(histories without the new items but for a last one that is to be tested, the users who have such a one, new items, a
    share of all that the seed draws)."""
    new = np.zeros(items + 1, bool)
    new[1 + np.random.default_rng((seed, 2)).permutation(items)[: round(share * items)]] = True
    kept = [history[~new[history] | (np.arange(len(history)) == len(history) - 1)] for history in histories]
    asked = {user for user, history in enumerate(kept) if len(history) >= LEAST and new[history[-1]]}
    kept = [history if user in asked or not new[history[-1]] else history[:-1] for user, history in enumerate(kept)]
    return kept, asked, tuple(np.flatnonzero(new).tolist())


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


def chosen(split: str, length: Int[np.ndarray, "U"], times: Sequence[Float[np.ndarray, "n"]], at: Sequence[float], last: int | None,
           seed: int, target: Sequence[Bool[np.ndarray, "n"]] | None) -> Parts:
    """The parts of a `split` by its name, of the `target` events alone if there are any, checked."""
    found = {"leave_one_out": lambda: last_n(length) if target is None else leave_one_target_out(target),
             "last_n": lambda: last_n(length, last), "time": lambda: by_time(times, at, last),
             "users": lambda: by_users(length, at, seed, last)}[split]()
    check(found, times if split == "time" else None)
    return found


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
