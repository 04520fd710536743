"""Baselines that need no network: the majority class, and linear models of TF-IDF or of fields."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier

from ecrec_jax.types import Example

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

    def scores(self, given: Sequence[str], labels: Any, target: Target, classes: int,
               asked: Sequence[str]) -> Float[np.ndarray, "E C"]:
        """What is predicted for the asked texts after seeing the labelled ones."""
        words = TfidfVectorizer(analyzer=self.analyzer, ngram_range=(1, self.ngrams), min_df=self.min_count, sublinear_tf=True,
                                dtype=np.float32)
        known, new = words.fit_transform(given), words.transform(asked)
        if target == "number":
            return Ridge(alpha=1 / self.strength).fit(known, labels).predict(new)
        model: Any = LogisticRegression(C=self.strength, max_iter=1000)
        if target == "multi":
            model = OneVsRestClassifier(model)
        return model.fit(known, np.asarray(labels)).predict_proba(new)


@dataclasses.dataclass(frozen=True)
class Linear:
    """Logistic regression of strength C over the values of fields, each a column; ridge regression for numbers."""

    reads = ("fields",)
    strength: float

    def scores(self, given: Sequence[Example], labels: Any, target: Target, classes: int,
               asked: Sequence[Example]) -> Float[np.ndarray, "E C"]:
        """What is predicted for the asked examples after seeing the labelled ones."""
        width = 1 + max(int(e.tokens.max()) for some in (given, asked) for e in some)
        known, new = (sparse(some, width) for some in (given, asked))
        if target == "number":
            return Ridge(alpha=1 / self.strength).fit(known, labels).predict(new)
        return LogisticRegression(C=self.strength, max_iter=1000).fit(known, np.asarray(labels)).predict_proba(new)


def sparse(examples: Sequence[Example], width: int) -> csr_matrix:
    """A row an example, a column a token, what it counts."""
    offset = np.cumsum([0, *(len(e.tokens) for e in examples)])
    parts = [np.concatenate([getattr(e, name) for e in examples]) for name in ("value", "tokens")]
    return csr_matrix((*parts, offset), (len(examples), width))
