"""Baselines that need no network: the majority class, and linear models of TF-IDF or of fields."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier

from ecrec_jax.types import Example, InputError

Target = Literal["class", "multi", "number"]


@dataclasses.dataclass(frozen=True)
class Majority:
    """Always the most frequent class with the classes' frequencies as scores; the mean of numbers."""

    reads = ("texts", "fields")

    def scores(self, given: Sequence[Any], labels: Any, target: Target, classes: int,
               asked: Sequence[Any]) -> Float[np.ndarray, "E C"]:
        """What is predicted for the asked texts after seeing the labelled ones."""
        labels = np.asarray(labels)
        if target == "class":
            labels = np.eye(classes)[labels]
        return np.repeat(labels.mean(0)[None], len(asked), 0)


@dataclasses.dataclass(frozen=True)
class Tfidf:
    """TF-IDF of n-grams of words or characters (sublinear counts) with logistic regression of strength C; ridge regression for
    numbers. Words are what white space and punctuation part: of Chinese, take characters."""

    reads = ("texts",)
    analyzer: Literal["word", "char"]
    ngrams: int
    min_count: int
    strength: float

    def __post_init__(self):
        positive(ngrams=self.ngrams, min_count=self.min_count, strength=self.strength)

    def scores(self, given: Sequence[str], labels: Any, target: Target, classes: int,
               asked: Sequence[str]) -> Float[np.ndarray, "E C"]:
        """What is predicted for the asked texts after seeing the labelled ones."""
        words = TfidfVectorizer(analyzer=self.analyzer, ngram_range=(1, self.ngrams), min_df=self.min_count, sublinear_tf=True,
                                dtype=np.float32)
        try:
            known, new = words.fit_transform(given), words.transform(asked)
        except ValueError as error:
            raise InputError(f"baseline.min_count: no {self.analyzer} of the {len(given)} texts is in {self.min_count} of them: "
                             "lower it, or count characters, baseline=tfidf_char") from error
        if target == "number":
            return Ridge(alpha=1 / self.strength).fit(known, labels).predict(new)
        if target == "multi":
            model = OneVsRestClassifier(LogisticRegression(C=self.strength, max_iter=1000))
            return model.fit(known, np.asarray(labels)).predict_proba(new)
        return logistic(known, np.asarray(labels), new, classes, self.strength)


@dataclasses.dataclass(frozen=True)
class Linear:
    """Logistic regression of strength C over the values of fields, each a column; ridge regression for numbers."""

    reads = ("fields",)
    strength: float

    def __post_init__(self):
        positive(strength=self.strength)

    def scores(self, given: Sequence[Example], labels: Any, target: Target, classes: int,
               asked: Sequence[Example]) -> Float[np.ndarray, "E C"]:
        """What is predicted for the asked examples after seeing the labelled ones."""
        width = 1 + max(int(e.tokens.max(initial=0)) for some in (given, asked) for e in some)
        known, new = (sparse(some, width) for some in (given, asked))
        if target == "number":
            return Ridge(alpha=1 / self.strength).fit(known, labels).predict(new)
        return logistic(known, np.asarray(labels), new, classes, self.strength)


def positive(**given: float) -> None:
    """Whether these keys are above 0.

    Raises:
        InputError: one isn't.
    """
    for name, value in given.items():
        if value <= 0:
            raise InputError(f"baseline.{name} is {value:g}, must be above 0")


def logistic(known: Any, labels: Int[np.ndarray, "N"], new: Any, classes: int, strength: float) -> Float[np.ndarray, "E C"]:
    """Probabilities of all classes, of which those without an example to learn from have none."""
    found, seen = np.zeros((new.shape[0], classes)), np.unique(labels)
    found[:, seen] = 1 if len(seen) == 1 else \
        LogisticRegression(C=strength, max_iter=1000).fit(known, labels).predict_proba(new)
    return found


def sparse(examples: Sequence[Example], width: int) -> csr_matrix:
    """A row an example, a column a token, what it counts."""
    offset = np.cumsum([0, *(len(e.tokens) for e in examples)])
    parts = [np.concatenate([getattr(e, name) for e in examples]) for name in ("value", "tokens")]
    return csr_matrix((*parts, offset), (len(examples), width))
