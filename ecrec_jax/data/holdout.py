"""What of histories is trained on, validated and tested with: where each split's part of a user's history ends, what is asked.

A `target` says of every event whether it may be asked for; what lies between those asked for is in nobody's history."""

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


def told(split: str, at: Sequence[float], last: int | None, target_types: Sequence[str] | None, new: int) -> str:
    """The split in words."""
    of = f" of the events {', '.join(target_types)}, whose items alone a user had" if target_types else ""
    if split == "leave_one_out":
        return "leave one out" + of + (f", {new} items in nobody's training" if new else "")
    if split == "last_n":
        return f"the last {last} items of each user" + of
    asked = {None: "all later items", 1: "the next item"}.get(last, f"{last} items")
    return f"by {split} at {at[0]:g} and {at[1]:g}, {asked}{of}"


def parts(train: Int[np.ndarray, "U"], valid: tuple[Int[np.ndarray, "U"], Int[np.ndarray, "U"]],
          test: tuple[Int[np.ndarray, "U"], Int[np.ndarray, "U"]]) -> Parts:
    """From where training ends, and from the (begin, end) of what the others ask for; nothing where these are equal."""
    made = {name: Part(np.where(end > begin, end, 0), np.maximum(end - begin, 0))
            for name, (begin, end) in (("valid", valid), ("test", test))}
    return {"train": Part(train, np.maximum(train - 1, 0)), **made}


def reach(target: Sequence[Bool[np.ndarray, "n"]], begin: Int[np.ndarray, "U"], end: Int[np.ndarray, "U"], part: slice
          ) -> tuple[Int[np.ndarray, "U"], Int[np.ndarray, "U"]]:
    """(where, of each user's targets between `begin` and `end`, this part of them begins, and where it ends); both 0 where there is
    none."""
    found = np.zeros((len(target), 2), int)
    for own, mine, first, after in zip(found, target, begin, end, strict=True):
        at = first + np.flatnonzero(mine[first:after])[part]
        own[:] = (at[0], at[-1] + 1) if len(at) else 0
    return found[:, 0], found[:, 1]


def last_n(target: Sequence[Bool[np.ndarray, "n"]], last: int = 1) -> Parts:
    """A user's `last` targets test and as many before them validate, with 1 leave-one-out. Who has none besides them is trained on
    alone, or not at all, where nothing but a first event is one."""
    length = np.array([len(found) for found in target])
    whole = np.array([found.sum() > 2 * last for found in target])
    valid, test = (reach(target, 0 * length, length * whole, part) for part in (slice(-2 * last, -last), slice(-last, None)))
    train = np.where(whole, valid[0], length)
    train = np.where([found[1:end].any() for found, end in zip(target, train, strict=True)], train, 0)
    return parts(train, valid, test)


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


def by_users(target: Sequence[Bool[np.ndarray, "n"]], at: Sequence[float], seed: int, last: int = 1) -> Parts:
    """Whole users: the first share of a shuffle trains, the next validates with the `last` targets, the rest tests with them."""
    length, enough = (np.array([count(mine) for mine in target]) for count in (len, lambda mine: mine[1:].sum() >= last))
    place = np.random.default_rng((seed, 3)).permutation(len(length)) / len(length)
    first, second = at
    valid, test = (reach(target, 0 * length + 1, length * (mine & enough), slice(-last, None))
                   for mine in ((place >= first) & (place < second), place >= second))
    return parts(np.where(place < first, length, 0), valid, test)


def by_time(times: Sequence[Float[np.ndarray, "n"]], at: Sequence[float], target: Sequence[Bool[np.ndarray, "n"]],
            last: int | None = 1) -> Parts:
    """Two moments, before which such shares of all events lie: what comes until the first trains; each user's next `last` targets
    after the first (until the second; None: all of them) validate, the next after the second test, with all that was before
    them as history."""
    first, second = np.quantile(np.concatenate(times), at, method="lower")
    until = [np.array([np.searchsorted(time, moment, "right") for time in times]) for moment in (first, second)]
    length = np.array([len(time) for time in times])
    return parts(until[0], *(reach(target, begin, end, slice(last)) for begin, end in (until, (until[1], length))))


def chosen(split: str, times: Sequence[Float[np.ndarray, "n"]], at: Sequence[float], last: int | None, seed: int,
           target: Sequence[Bool[np.ndarray, "n"]]) -> Parts:
    """The parts of a `split` by its name, checked; `target` events alone are asked for."""
    found = {"leave_one_out": lambda: last_n(target), "last_n": lambda: last_n(target, last),
             "time": lambda: by_time(times, at, target, last), "users": lambda: by_users(target, at, seed, last)}[split]()
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
