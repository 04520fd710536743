"""What was known of a user and of an item when it was shown: counts, how long ago, and whether texts match. Of who has no name
nothing is known."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from ecrec_jax.data.clean import codes

ITEM = ("item_shown", "item_rate", "item_since")   # of the numbers below, those that describe the item


def text(cell: str | None) -> str:
    """A cell as names are told apart by."""
    return (cell or "").strip()


def alone(cells: Sequence[str | None]) -> Int[np.ndarray, "R"]:
    """The number of each cell's text; a cell without one, who isn't known, has its own."""
    code, texts = codes(cells)
    empty = code == (texts.index("") if "" in texts else -1)
    code[empty] = len(texts) + np.arange(empty.sum())
    return code


def before(sides: Mapping[str, Sequence[str | None]], time: Float[np.ndarray, "R"], clicked: Bool[np.ndarray, "R"]
           ) -> dict[str, Float[np.ndarray, "R"]]:
    """Of every row, from the rows of strictly earlier time: NAME_shown = log(1 + how many have the same user, or item), and
    NAME_rate = (clicks among them + 1) / (how many + 2), Laplace's estimate. Rows of the same moment don't know each other."""
    found = {}
    for name, cells in sides.items():
        order, begins, now = moments(alone(cells), time)
        total = np.concatenate([[0], np.cumsum(clicked[order])])
        shown, clicks = now - begins, total[now] - total[begins]
        back = np.argsort(order)
        found |= numbers(name, shown[back], clicks[back])
    return found


def numbers(name: str, shown: Int[np.ndarray, "R"], clicks: Int[np.ndarray, "R"]) -> dict[str, Float[np.ndarray, "R"]]:
    """Both, by their names."""
    return {f"{name}_shown": np.log1p(shown), f"{name}_rate": (clicks + 1) / (shown + 2)}


def since(sides: Mapping[str, Sequence[str | None]], time: Float[np.ndarray, "R"]) -> dict[str, Float[np.ndarray, "R"]]:
    """NAME_since = log(1 + the time since the last earlier row of the same user, or item); not a number where there is none."""
    found = {}
    for name, cells in sides.items():
        order, begins, now = moments(alone(cells), time)
        gap = np.where(now > begins, time[order] - time[order][np.maximum(now - 1, 0)], np.nan)
        found[f"{name}_since"] = np.log1p(gap)[np.argsort(order)]
    return found


def last(sides: Mapping[str, Sequence[str | None]], time: Float[np.ndarray, "R"]) -> dict[str, dict[str, float]]:
    """{side: {user or item: the time of its last row}} of a whole log."""
    found = {}
    for name, cells in sides.items():
        code, texts = codes(cells)
        latest = np.full(len(texts), -np.inf)
        np.maximum.at(latest, code, time)
        found[name] = {text: moment for text, moment in zip(texts, latest.tolist(), strict=True) if text}
    return found


def since_last(known: Mapping[str, Mapping[str, float]], sides: Mapping[str, Sequence[str | None]], time: Float[np.ndarray, "R"]
               ) -> dict[str, Float[np.ndarray, "R"]]:
    """`since` for rows that come after all those of `last`."""
    return {f"{name}_since": np.log1p(time - np.array([known[name].get(text(cell), np.nan) for cell in cells]))
            for name, cells in sides.items()}


def totals(sides: Mapping[str, Sequence[str | None]], clicked: Bool[np.ndarray, "R"]) -> dict[str, dict[str, list[int]]]:
    """{side: {user or item: [rows, clicks]}} of a whole log."""
    found = {}
    for name, cells in sides.items():
        code, texts = codes(cells)
        both = np.bincount(code, minlength=len(texts)), np.bincount(code[clicked], minlength=len(texts))
        found[name] = {text: [int(n), int(k)] for text, n, k in zip(texts, *both, strict=True) if text}
    return found


def now(known: Mapping[str, Mapping[str, list[int]]], sides: Mapping[str, Sequence[str | None]]
        ) -> dict[str, Float[np.ndarray, "R"]]:
    """The numbers of rows that come after all those of `totals`."""
    found = {}
    for name, cells in sides.items():
        both = np.array([known[name].get(text(cell), [0, 0]) for cell in cells]).T
        found |= numbers(name, *both)
    return found


def moments(code: Int[np.ndarray, "R"], time: Float[np.ndarray, "R"]
            ) -> tuple[Int[np.ndarray, "R"], Int[np.ndarray, "R"], Int[np.ndarray, "R"]]:
    """(the rows sorted by `code`, then time; for each in this order where its code's rows begin, and where its moment's)."""
    order = np.lexsort((time, code))
    own, when, place = code[order], time[order], np.arange(len(order))
    fresh = np.concatenate([[True], own[1:] != own[:-1]])
    moment = fresh | np.concatenate([[True], when[1:] != when[:-1]])
    return order, *(np.maximum.accumulate(np.where(x, place, 0)) for x in (fresh, moment))


def match(users: Sequence[str | None], time: Float[np.ndarray, "R"], clicked: Bool[np.ndarray, "R"],
          item: Int[np.ndarray, "R"], vectors: Float[np.ndarray, "V F"]) -> Float[np.ndarray, "R"]:
    """Cosine of the vector of a row's item and the sum of those of the items that its user took strictly before; not a number where
    there is none."""
    order, begins, now = moments(alone(users), time)
    found, edges = np.full(len(order), np.nan), np.append(np.unique(begins), len(order))
    several = np.flatnonzero(np.diff(edges) > 1)   # of a user's only row nothing is known
    for first, end in zip(edges[several], edges[several + 1], strict=True):
        rows = order[first:end]
        own = vectors[item[rows]].astype("f8")
        taken = np.concatenate([np.zeros((1, own.shape[1])), np.cumsum(own * clicked[rows, None], 0)])[now[first:end] - first]
        found[rows] = cosine(taken, own)
    return found


def cosine(a: Float[np.ndarray, "R F"], b: Float[np.ndarray, "R F"]) -> Float[np.ndarray, "R"]:
    """Row by row, not a number where one is zero."""
    size = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return np.where(size > 0, (a * b).sum(1) / np.where(size > 0, size, 1), np.nan)


def taken(users: Sequence[str | None], clicked: Bool[np.ndarray, "R"], items: Sequence[str | None]) -> dict[str, list[str]]:
    """{user: the items that it took} of a whole log."""
    found: dict[str, list[str]] = {}
    for user, click, item in zip(users, clicked, items, strict=True):
        if click and text(user):
            found.setdefault(text(user), []).append(text(item))
    return found


def recent(users: Sequence[str | None], time: Float[np.ndarray, "R"], clicked: Bool[np.ndarray, "R"],
           items: Sequence[str | None], most: int) -> list[list[str]]:
    """Of every row the last items that its user took strictly before, at most so many, the latest first."""
    order, begins, now = moments(alone(users), time)
    found: list[list[str]] = [[] for _ in order]
    took = np.flatnonzero(clicked[order])   # places in the order
    for row, first, end in zip(order, begins, now, strict=True):
        a, b = np.searchsorted(took, (first, end))
        found[row] = [text(items[order[k]]) for k in took[max(a, b - most) : b][::-1]]
    return found


def match_all(known: Mapping[str, Sequence[str]], users: Sequence[str | None], items: Sequence[str | None],
              vectors: Mapping[str, Float[np.ndarray, "F"]]) -> Float[np.ndarray, "R"]:
    """`match` for rows that come after all those of `taken`, with the vectors of all items in question."""
    none = np.zeros(len(next(iter(vectors.values()))))
    sums = {user: sum((vectors[item].astype("f8") for item in known.get(user, ())), none) for user in set(map(text, users))}
    return cosine(np.array([sums[text(user)] for user in users]), np.array([vectors[text(item)].astype("f8") for item in items]))
