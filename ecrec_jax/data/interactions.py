"""Who had what, and when, from the text files of recommender papers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from ecrec_jax.data.clean import codes
from ecrec_jax.data.digest import checked
from ecrec_jax.data.read import decode
from ecrec_jax.types import InputError


class Events(NamedTuple):
    """E events, sorted by user and in each user's order: numbers of user and item, times, and what users and items are called; the
    numbers of their types and what these are called, none where they aren't known."""

    user: Int[np.ndarray, "E"]
    item: Int[np.ndarray, "E"]
    time: Float[np.ndarray, "E"]
    users: list[str]
    items: list[str]
    digest: str
    type: Int[np.ndarray, "E"]
    types: list[str]


def numbered(user: list[Any], item: list[Any], time: Float[np.ndarray, "E"], kind: list[Any] | None, digest: str,
             where: Callable[[int], str]) -> Events:
    """Events from their columns, of equal times those first that come first.

    Raises:
        InputError: a cell is empty, or has a line break: runs keep one name a line; `where` says in which line.
    """
    (user, users), (item, items) = codes(user), codes(item)
    kind, kinds = codes(kind) if kind is not None else (np.zeros(len(user), int), [])
    for key, names, code in (("user", users, user), ("item", items, item), ("type", kinds, kind)):
        for name in names:
            if len(name.splitlines()) != 1:
                wrong = f"a line break in the {key} {name!r}" if name else f"an event without {key}"
                raise InputError(f"{where(int(np.argmax(code == names.index(name))))}: {wrong}")
    order = np.lexsort((time, user))
    return Events(user[order], item[order], time[order], users, items, digest, kind[order], kinds)


def of_text(path: Path, format: str, sha256: str | None) -> tuple[list[str], list[str], str]:
    """(users, items, the file's sha256) of a file of `pairs` or `lists`, which must have this `sha256`, if any.

    Raises:
        InputError: it has another, or a line that can't be used.
    """
    content = path.read_bytes()
    digest = checked(path, content, sha256)
    return *(pairs if format == "pairs" else lists)(path, decode(path, content).split("\n")), digest


def targets(events: Events, chosen: Sequence[str] | None) -> Bool[np.ndarray, "E"]:
    """Which events are labels: those of the `chosen` types, or all.

    Raises:
        InputError: a type that no event has.
    """
    if chosen is None:
        return np.ones(len(events.user), bool)
    strange = [name for name in chosen if name not in events.types]
    if strange:
        raise InputError(f"data.target_types: no event is a {strange[0]!r}; they are {', '.join(events.types)}")
    return np.isin(events.type, [events.types.index(name) for name in chosen])


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
