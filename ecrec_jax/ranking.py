"""Ranking all items for a user: on the devices the ranks of those that were hidden and the items at the top, their metrics on the
host."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ecrec_jax.factored import LEAST, Factored
from ecrec_jax.types import Batch, Columns, Example, InputError


def asked(example: Example, filter_seen: bool) -> dict[str, Int[np.ndarray, "n"]]:
    """What ranking needs of an example besides its label: what the user has seen, if that is filtered, and all relevant items,
    where these may be several."""
    found = {"seen": example.seen} if filter_seen else {}
    return found if example.relevant is None else found | {"relevant": example.relevant}


def padded(rows: Sequence[Sequence[int] | Int[np.ndarray, "n"]]) -> Int[np.ndarray, "E R"]:
    """Lists of different lengths, filled up with 0."""
    found = np.zeros((len(rows), max(map(len, rows))), "i4")
    for place, row in zip(found, rows, strict=True):
        place[: len(row)] = row
    return found


def gain(name: str, rank: Int[np.ndarray, "E *R"]) -> Float[np.ndarray, "E"] | None:
    """What each user, whose relevant item has the 1-based `rank`, or whose R items have (0: there are no more), adds to the mean
    that a metric is; None for another metric.

    With h the items of rank ≤ k, in order: hit@k = [h > 0]; recall@k = h / R; precision@k = h / k; ndcg@k = Σ 1 / log2(rank + 1)
    over its value for the ranks 1 … min(k, R) (Järvelin & Kekäläinen 2002); mrr@k = 1 / rank of the first; map@k = Σ_j j / rank_j
    over R, as trec_eval's map_cut has it. Without @k there is no cut-off. For R = 1 hit = recall and map = mrr.
    """
    kind, _, k = name.partition("@")
    if k and not k.isdigit():   # among sampled items
        return None
    rank = np.sort(np.where(rank > 0, rank, np.inf).reshape(len(rank), np.prod(rank.shape[1:], dtype=int)), 1)
    number, place, end = np.isfinite(rank).sum(1), 1.0 + np.arange(rank.shape[1]), int(k) if k else rank.shape[1]
    hit = np.isfinite(rank) & (rank <= int(k) if k else True)
    discount = lambda at: 1 / np.log2(at + 1)  # noqa: E731
    found = {"hit": lambda: hit[:, 0].astype(float), "recall": lambda: hit.sum(1) / number,
             "precision": lambda: hit.sum(1) / int(k or 1), "mrr": lambda: hit[:, 0] / rank[:, 0],
             "ndcg": lambda: (hit * discount(rank)).sum(1) / np.cumsum(discount(place))[np.minimum(number, end) - 1],
             "map": lambda: (hit * place / rank).sum(1) / number}.get(kind)
    return found and found()


def accuracy(rank: Int[np.ndarray, "E *R"], cutoffs: Sequence[int]) -> dict[str, float]:
    """MRR, and recall, precision, NDCG and MRR at every cut-off; for several relevant items MAP and hits too."""
    kinds = ("recall", "precision", "ndcg", "mrr", *(("map", "hit") if rank.ndim > 1 else ()))
    names = ["mrr", *(["map"] if rank.ndim > 1 else []), *(f"{kind}@{k}" for k in cutoffs for kind in kinds)]
    return {name: float(gain(name, rank).mean()) for name in names}


def beyond(top: Int[np.ndarray, "E K"], counts: Int[np.ndarray, "I"], cutoffs: Sequence[int]) -> dict[str, float]:
    """What the k items at the top say of the catalogue, at every cut-off k ≤ K. `top` numbers items from 0, `counts` says how often
    each was in the training data; -1 is nothing.

    coverage@k: share of the catalogue that is recommended to anyone. gini@k: Gini coefficient of how often items are recommended,
    0 = all equally. novelty@k: mean −log2 of an item's share of the training events (Zhou et al. 2010; items never seen count
    as seen once). popularity@k: mean training events of a recommended item, over that of the catalogue.
    """
    found: dict[str, float] = {}
    share = np.maximum(counts, 1) / max(counts.sum(), 1)
    for k in [k for k in cutoffs if k <= top.shape[1]]:
        shown = top[:, :k].reshape(-1)
        shown = shown[shown >= 0]
        times = np.sort(np.bincount(shown, minlength=len(counts)))
        place = np.arange(1, len(times) + 1)
        found |= {f"coverage@{k}": float((times > 0).mean()),
                  f"gini@{k}": float(((2 * place - len(times) - 1) * times).sum() / (len(times) * times.sum())),
                  f"novelty@{k}": float(-np.log2(share[shown]).mean()),
                  f"popularity@{k}": float(counts[shown].mean() / max(counts.mean(), 1e-12))}
    return found


def valued(rank: Int[np.ndarray, "E *R"], price: Float[np.ndarray, "E *R"], cutoffs: Sequence[int]) -> dict[str, float]:
    """What the lists are worth, each user's relevant items having prices. revenue@k: mean of a user's Σ price · [rank ≤ k], what is
    paid by those who buy what is shown. price_ndcg@k: Σ price · ndcg@k / Σ price, NDCG in which users weigh as much as they pay."""
    of_user = lambda x: x.reshape(len(x), -1).sum(1)  # noqa: E731
    found = {f"revenue@{k}": float(of_user(price * ((rank > 0) & (rank <= k))).mean()) for k in cutoffs}
    price = of_user(price)
    return found | {f"price_ndcg@{k}": float((price * gain(f"ndcg@{k}", rank)).sum() / max(price.sum(), 1e-12)) for k in cutoffs}


def by_length(length: Int[np.ndarray, "E"], rank: Int[np.ndarray, "E *R"], cutoffs: Sequence[int]) -> list[dict[str, Any]]:
    """Accuracy of users with histories of about one length: at most six groups, which quantiles of the lengths part; shortest and
    longest, mean and number of each. Lengths count items that were read, so none is above data.max_length."""
    ends = np.unique(np.quantile(length, np.arange(1, 7) / 6, method="lower"))
    groups = [np.flatnonzero(np.searchsorted(ends, length) == i) for i in range(len(ends))]
    return [{"least": int(length[some].min()), "most": int(length[some].max()), "length": float(length[some].mean()),
             "users": len(some), **accuracy(rank[some], cutoffs)} for some in groups]


def exposure(top: Int[np.ndarray, "E K"], counts: Int[np.ndarray, "I"], cutoffs: Sequence[int]) -> dict[str, list[float]]:
    """The share of the training events ("training") and of what is recommended at every cut-off ("@k") that each tenth of the items
    has, the most popular tenth first; items are numbered from 0, -1 is nothing."""
    tenth = np.empty(len(counts), int)
    tenth[np.argsort(-counts, kind="stable")] = np.arange(len(counts)) * 10 // len(counts)
    share = lambda events: (np.bincount(tenth, events, 10) / max(events.sum(), 1)).tolist()  # noqa: E731
    shown = {f"@{k}": np.bincount(top[:, :k][top[:, :k] >= 0], minlength=len(counts)) for k in cutoffs if k <= top.shape[1]}
    return {name: share(events) for name, events in {"training": counts, **shown}.items()}


def diversity(top: Int[np.ndarray, "E K"], kinds: Float[np.ndarray, "V F"] | Int[np.ndarray, "V"], cutoffs: Sequence[int]
              ) -> dict[str, float]:
    """diversity@k: 1 − the mean similarity of the pairs of a list's first k items, mean over the lists that hold at least two
    (Smyth & McClave 2001; 1 less the intra-list similarity of Ziegler et al. 2005, eq. 5, over its number of pairs). `top` numbers
    items from 1, 0 is nothing.

    Similarity is the cosine of the items' vectors where `kinds` are those, 0 for a vector of zeros; where they are numbers of
    categories it is 1 in the same one and else 0, which is the cosine of vectors with a 1 at the category; category 0, which isn't
    known, is like no other.
    """
    shown, by_vectors, found = (top > 0).astype(float), kinds.ndim == 2, {}
    if by_vectors:
        kinds = kinds / np.maximum(np.linalg.norm(kinds, axis=1, keepdims=True), 1e-12)
        total = np.zeros((len(top), kinds.shape[1]), "f4")
    alike, deepest = np.zeros(len(top)), max((k for k in cutoffs if k <= top.shape[1]), default=0)
    for place in range(deepest):
        here = kinds[top[:, place]]
        if by_vectors:
            here = here * shown[:, place, None].astype("f4")
            alike += (total * here).sum(1)   # with all before it
            total += here
        else:
            alike += ((kinds[top[:, :place]] == here[:, None]) & (here[:, None] > 0)).sum(1)
        number = shown[:, : place + 1].sum(1)
        some = number > 1
        if place + 1 in cutoffs and some.any():
            found[f"diversity@{place + 1}"] = float(1 - (alike[some] / (number * (number - 1) / 2)[some]).mean())
    return found


def lengths(batch: Batch) -> Int[Array, "B S"]:
    """Tokens of each slot's example."""
    mine = jnp.take_along_axis(batch["segment"], batch["slot"], 1)
    return (batch["segment"][:, None] == mine[..., None]).sum(-1)


def ranks(outputs: Factored, batch: Batch, special_ids: tuple[int, ...], most: int) -> dict[str, Array]:
    """Rank of each slot's label, or of all `relevant` ones (0: there are no more), among all items but the batch's `seen` ones, the
    items at the top and their scores; 0 where a user has seen so many that the list ends."""
    bias = outputs.bias.at[jnp.array(special_ids)].set(10 * LEAST)
    seen = batch.get("seen", jnp.zeros((*batch["label"].shape, 1), jnp.int32))
    asked = {key: batch[key] for key in ("relevant",) if key in batch}
    rank, top, score = outputs._replace(bias=bias).ranked(asked.get("relevant", batch["label"]), seen, most)
    if asked:
        rank = jnp.where(asked["relevant"] > 0, rank, 0)
    return asked | {"rank": rank, "top_items": jnp.where(score > LEAST, top, 0), "top_scores": score}


def measured(columns: Columns, cutoffs: list[int], item_counts: tuple[int, ...], prices: tuple[float, ...] | None = None,
             vectors: Float[np.ndarray, "V F"] | None = None, categories: tuple[int, ...] | None = None) -> dict[str, Any]:
    """Accuracy of the ranks, by the length of histories too where that is known, what the lists say of the catalogue, what they are
    worth where prices are known, and how much their items differ, by `vectors` of these or else by categories.

    Raises:
        InputError: scores that aren't numbers.
    """
    if not np.isfinite(columns["loss"]).all() or np.isnan(columns["top_scores"]).any():
        raise InputError("the model gives scores that are not numbers: lower optimizer.learning_rate or set optimizer.clip")
    found = accuracy(columns["rank"], cutoffs)
    if prices is not None:
        found |= valued(columns["rank"], np.array(prices)[columns.get("relevant", columns["label"])], cutoffs)
    kinds = categories if vectors is None else vectors
    if kinds is not None:
        found |= diversity(columns["top_items"], np.asarray(kinds), cutoffs)
    if "length" in columns:
        found["by_length"] = by_length(columns["length"], columns["rank"], cutoffs)
    lists = columns["top_items"] - 1, np.array(item_counts[1:-1]), cutoffs
    return found | beyond(*lists) | {"exposure": exposure(*lists)}


def check(cutoffs: list[int], items: int, most: int) -> None:
    """Whether the cut-offs, and how many items are kept of a list, make sense.

    Raises:
        InputError: they don't.
    """
    if not cutoffs or min(cutoffs) < 1 or sorted(set(cutoffs)) != cutoffs or max(cutoffs) > items:
        raise InputError(f"task.cutoffs {cutoffs} must rise from at least 1 to at most the {items} items")
    if not 1 <= most <= items:
        raise InputError(f"task.most {most} must lie between 1 and the {items} items")
