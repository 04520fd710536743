"""Matrix factorisation of who had what, by the package implicit: recommenders that don't look at the order of items."""

import contextlib
import dataclasses
import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import threadpoolctl
from jaxtyping import Float
from scipy import sparse

from ecrec_jax.types import InputError
from ecrec_jax.use.neighbours import History, matrix

LEAST = {"factors": 1, "iterations": 1, "seed": 0, "regularization": 0, "alpha": 0, "learning_rate": 1e-9}
SINGULAR = "raise baseline.regularization or lower baseline.alpha"


def check(model: Any) -> None:
    """Whether the keys of a model make sense.

    Raises:
        InputError: the first that doesn't.
    """
    for name, least in LEAST.items():
        if getattr(model, name, least) < least:
            raise InputError(f"baseline.{name} {getattr(model, name)} is too small")


@contextlib.contextmanager
def solving(advice: str) -> Iterator[None]:
    """What implicit solves meanwhile.

    Raises:
        InputError: it can't, with `advice`.
    """
    failed = importlib.import_module("implicit.recommender_base").ModelFitError
    try:
        yield
    except (ValueError, failed) as error:
        raise InputError(f"baseline: implicit can't fit it ({str(error).partition('. ')[0]}): {advice}") from error


def fitted(module: str, name: str, seen: sparse.csr_matrix, advice: str, **options: Any) -> Any:
    """A model of implicit, fitted; BLAS has one thread meanwhile, as the package asks.

    Raises:
        InputError: it isn't installed, or can't fit, with `advice`.
    """
    try:
        made = getattr(importlib.import_module(f"implicit.cpu.{module}"), name)
    except ImportError:
        raise InputError("this baseline needs the package implicit: pip install -e '.[factors]'") from None
    with threadpoolctl.threadpool_limits(1, "blas"), solving(advice):
        model = made(**options)
        model.fit(seen, show_progress=False)
    return model


@dataclasses.dataclass(frozen=True)
class Als:
    """User · item, fitted by alternating least squares: Σ c (p − x · y)² + `regularization` (Σ |x|² + Σ |y|²) over all pairs, with
    p = 1 and c = 1 + `alpha` where the user had the item, else p = 0 and c = 1. A history's vector solves the users' equation.
    Source: Hu, Koren & Volinsky 2008, eq. 3 and 4."""

    factors: int
    regularization: float
    alpha: float
    iterations: int
    seed: int

    def __post_init__(self):
        check(self)

    def fit(self, histories: Sequence[History], items: int) -> Any:
        """The fitted model."""
        return fitted("als", "AlternatingLeastSquares", matrix(histories, items), SINGULAR, factors=self.factors,
                      alpha=1 + self.alpha, regularization=self.regularization, iterations=self.iterations, random_state=self.seed)

    def scores(self, model: Any, histories: Sequence[History], users: Sequence[int]) -> Float[np.ndarray, "U I"]:
        """Of vectors that are solved anew, so that what came after training counts."""
        rows = matrix(histories, len(model.item_factors))
        with solving(SINGULAR):
            return model.recalculate_user(np.arange(len(histories)), rows) @ model.item_factors.T


@dataclasses.dataclass(frozen=True)
class Bpr:
    """User · item + an item's bias, fitted so that what a user had scores above what not: −log σ(difference). A user has the vector
    of training; who wasn't trained on gets the items' biases. Source: Rendle et al. 2009, BPR-MF (§4.3.1)."""

    factors: int
    learning_rate: float
    regularization: float
    iterations: int
    seed: int

    def __post_init__(self):
        check(self)

    def fit(self, histories: Sequence[History], items: int) -> Any:
        """The fitted model, in one thread: several would race."""
        return fitted("bpr", "BayesianPersonalizedRanking", matrix(histories, items), "lower baseline.learning_rate",
                      factors=self.factors, learning_rate=self.learning_rate, regularization=self.regularization,
                      iterations=self.iterations, num_threads=1, random_state=self.seed)

    def scores(self, model: Any, histories: Sequence[History], users: Sequence[int]) -> Float[np.ndarray, "U I"]:
        """Of the users of training."""
        known = np.array(users)[:, None] >= 0
        of_bias = np.append(np.zeros(model.user_factors.shape[1] - 1, "f4"), 1)   # the last factor of an item is its bias
        return np.where(known, model.user_factors[np.maximum(users, 0)], of_bias) @ model.item_factors.T
