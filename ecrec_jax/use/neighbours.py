"""Recommenders that need no network: what is popular, what is bought together, a linear autoencoder."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from ecrec_jax.types import InputError

History = Int[np.ndarray, "n"]   # items 1 … I in a user's order


def matrix(histories: Sequence[History], items: int) -> sparse.csr_matrix:
    """f32[U, I], 1 where a user had an item, however often."""
    distinct = [np.unique(history) - 1 for history in histories]
    places = np.concatenate([[0], np.cumsum([len(row) for row in distinct])])
    return sparse.csr_matrix((np.ones(places[-1], "f4"), np.concatenate(distinct), places), (len(histories), items))


@dataclasses.dataclass(frozen=True)
class Popularity:
    """An item's score is in how many training histories it occurs."""

    def fit(self, histories: Sequence[History], items: int) -> Float[np.ndarray, "I"]:
        """The scores."""
        return np.asarray(matrix(histories, items).sum(0)).reshape(-1)

    def scores(self, fitted: Float[np.ndarray, "I"], histories: Sequence[History], users: Sequence[int]
               ) -> Float[np.ndarray, "U I"]:
        """The same for everybody."""
        return np.repeat(fitted[None], len(histories), 0)


@dataclasses.dataclass(frozen=True)
class ItemKnn:
    """An item's score: Σ of its similarity, cosine with `shrink` in the denominator, to those items of a history that are among its
    own `neighbours` most similar ones. Source: Ferrari Dacrema et al. 2019, eq. 1, and their code (Deshpande & Karypis 2004, §4,
    keep the most similar ones of each item of the history instead)."""

    neighbours: int
    shrink: float

    def __post_init__(self):
        if self.neighbours < 1 or self.shrink < 0:
            raise InputError(f"baseline.neighbours is {self.neighbours}, baseline.shrink {self.shrink}: expected at least 1 and 0")

    def fit(self, histories: Sequence[History], items: int) -> sparse.csr_matrix:
        """Similarity of item (row) to item, its own and all but the nearest left out."""
        seen = matrix(histories, items)
        norm = np.sqrt(np.asarray(seen.sum(0)).reshape(-1))
        both = (seen.T @ seen).tocsr()
        rows = np.repeat(np.arange(items), np.diff(both.indptr))
        both.data /= norm[rows] * norm[both.indices] + self.shrink
        both.data[rows == both.indices] = 0
        order = np.lexsort((-both.data, rows))
        place = np.arange(len(rows)) - both.indptr[rows]
        both.data[order[place >= self.neighbours]] = 0
        both.eliminate_zeros()
        return both

    def scores(self, fitted: sparse.csr_matrix, histories: Sequence[History], users: Sequence[int]) -> Float[np.ndarray, "U I"]:
        """Sums of similarities."""
        return (matrix(histories, fitted.shape[0]) @ fitted.T).toarray()


@dataclasses.dataclass(frozen=True)
class Ease:
    """The item-item weights of ridge regression without a diagonal: B = −P / diag(P), P = (XᵀX + λ I)⁻¹. Source: Steck 2019,
    algorithm 1."""

    ridge: float

    def __post_init__(self):
        if self.ridge <= 0:
            raise InputError(f"baseline.ridge {self.ridge} must be above 0")

    def fit(self, histories: Sequence[History], items: int) -> Float[np.ndarray, "I I"]:
        """The weights, dense: I² numbers.

        Raises:
            InputError: there is no memory for them.
        """
        seen = matrix(histories, items)
        try:
            gram = (seen.T @ seen).toarray()
            gram[np.diag_indices(items)] += self.ridge
            inverse = np.linalg.inv(gram)
        except MemoryError:
            raise InputError(f"baseline=ease has a number for each of {items:,} × {items:,} pairs of items, several times "
                             f"{items**2 * 4 / 1e9:.0f} GB, more than there is memory: choose item_knn, als or bpr") from None
        weight = inverse / -np.diag(inverse)
        weight[np.diag_indices(items)] = 0
        return weight

    def scores(self, fitted: Float[np.ndarray, "I I"], histories: Sequence[History], users: Sequence[int]
               ) -> Float[np.ndarray, "U I"]:
        """X B."""
        return np.asarray(matrix(histories, len(fitted)) @ fitted)


def ranked(scores: Float[np.ndarray, "U I"], target: Int[np.ndarray, "U *R"], seen: Sequence[History], most: int
           ) -> tuple[Int[np.ndarray, "U *R"], Int[np.ndarray, "U K"], Float[np.ndarray, "U K"]]:
    """(1-based rank of each target, or of each user's distinct targets (0: there are no more), among all items but the other seen
    ones, ties against it; the `most` best items, 0 where there are no more; their scores), as `Factored.ranked` does on devices.

    Raises:
        InputError: scores that aren't numbers below infinity; -inf hides an item.
    """
    if not (scores < np.inf).all():
        raise InputError("baseline: it gives scores that are not numbers, which rank nothing: choose other values of its keys")
    targets = target.reshape(len(target), -1)
    (row, _), given, scores = np.nonzero(targets), targets > 0, scores.copy()
    mine = np.where(given, np.take_along_axis(scores, np.maximum(targets - 1, 0), 1), -np.inf)
    for user, history in enumerate(seen):
        scores[user, history - 1] = -np.inf
    scores[row, targets[given] - 1] = -np.inf
    above = np.stack([(scores >= one[:, None]).sum(1) for one in mine.T], 1) + np.argsort(np.argsort(-mine, 1, kind="stable"), 1)
    rank = np.where(given, 1 + above, 0).reshape(target.shape)
    scores[row, targets[given] - 1] = mine[given]
    order = np.argsort(-scores, 1, kind="stable")[:, :most] if most * 8 > scores.shape[1] else best(scores, most)
    top = np.take_along_axis(scores, order, 1)
    return rank, np.where(top > -np.inf, order + 1, 0), top


def best(scores: Float[np.ndarray, "U I"], most: int) -> Int[np.ndarray, "U K"]:
    """The places of the largest scores, in order, of equals the first ones."""
    least = -np.partition(-scores, most - 1, 1)[:, most - 1 : most]
    above, same = scores > least, scores == least
    chosen = above | (same & (np.cumsum(same, 1) <= most - above.sum(1, keepdims=True)))
    some = np.nonzero(chosen)[1].reshape(len(scores), most)
    return np.take_along_axis(some, np.argsort(-np.take_along_axis(scores, some, 1), 1, kind="stable"), 1)
