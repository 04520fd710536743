"""Rows of a group, such as the candidates of a user, in the order of a model's scores, and what an order is worth."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from ecrec_jax import ranking
from ecrec_jax.data.clean import codes
from ecrec_jax.types import InputError

TOLD = ("ndcg@10", "recall@10", "mrr")


def check(config: Mapping[str, Any]) -> None:
    """Whether the keys of an order fit together.

    Raises:
        InputError: they don't.
    """
    wanted = config["relevant"]
    if wanted is not None and not (isinstance(wanted, dict) and len(wanted) == 1
                                   and all(isinstance(x, int | float) and not isinstance(x, bool) for x in wanted.values())):
        raise InputError(f"relevant is {wanted!r}, must be a column and the least number of a relevant row: {{rating: 4}}")
    if config["group"] is None and (wanted is not None or config["by"] is not None):
        raise InputError("group is not set: name the column whose equal cells are ranked together, such as user")


def column_of(rows: pd.DataFrame, by: str | None) -> str:
    """The column of predictions that rows are ranked by: the one that is asked for, the score of the second of two classes, or
    the number.

    Raises:
        InputError: there are more classes, or no such column.
    """
    scores = [name for name in rows if name.startswith("score/")]
    if by is None and len(scores) not in (0, 2):
        raise InputError(f"by: rows are ranked by one of {', '.join(scores)}: say which")
    found = by or (scores[1] if scores else "prediction")
    if found not in rows or not pd.api.types.is_numeric_dtype(rows[found]):
        raise InputError(f"by: {found} is no number that the run says; it says {', '.join(scores) or 'prediction'}")
    return found


def places(group: Int[np.ndarray, "N"], score: Float[np.ndarray, "N"], last: Bool[np.ndarray, "N"] | None = None
           ) -> Int[np.ndarray, "N"]:
    """The 1-based rank of every row in its group, the highest score first, of equals those that aren't `last`, then those that come
    first."""
    order = np.lexsort((np.zeros(len(group)) if last is None else last, -score, group))
    start = np.flatnonzero(np.diff(group[order], prepend=-1))
    found = np.empty(len(group), int)
    found[order] = np.arange(len(group)) - np.repeat(start, np.diff([*start, len(group)])) + 1
    return found


def worth(group: Int[np.ndarray, "N"], rank: Int[np.ndarray, "N"], relevant: Bool[np.ndarray, "N"]) -> dict[str, float]:
    """NDCG, recall and MRR (`ranking.gain`) of an order, means over the groups that have a relevant row."""
    some = np.flatnonzero(relevant)
    some = some[np.argsort(group[some], kind="stable")]
    ranks = ranking.padded(np.split(rank[some], np.flatnonzero(np.diff(group[some])) + 1))
    return {name: float(ranking.gain(name, ranks).mean()) for name in TOLD}


def ordered(rows: pd.DataFrame, group: Sequence[str | None], by: str | None, relevant: Sequence[bool] | None
            ) -> tuple[pd.DataFrame, str]:
    """(the rows with their `rank`, group by group as these come, the best first; what the new order is worth beside that of the
    input, ties against it, where some rows are said to be `relevant`).

    Raises:
        InputError: as `column_of`; no row is relevant.
    """
    score = rows[column_of(rows, by)].to_numpy("f8", na_value=-np.inf)
    group = codes(["" if x is None else x for x in group])[0]
    first = np.full(group.max() + 1, len(group))
    np.minimum.at(first, group, np.arange(len(group)))
    group = first[group]   # groups in the order in which they come
    said, wanted = "", None if relevant is None else np.array(relevant, bool)
    if wanted is not None:
        if not wanted.any():
            raise InputError("relevant: no row is: lower its number")
        old, new = (worth(group, places(group, x, last), wanted) for x, last in ((-np.arange(len(group)), None), (score, wanted)))
        said = "; ".join(f"{name} {old[name]:.4f} -> {new[name]:.4f}" for name in TOLD) + \
            f" over the {len(np.unique(group[wanted]))} of {len(np.unique(group))} groups with something relevant"
    rank = places(group, score)
    return rows.assign(rank=rank).iloc[np.lexsort((rank, group))].reset_index(drop=True), said
