"""Baselines that need no network: the majority class, and TF-IDF with a linear model."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier

Target = Literal["class", "multi", "number"]


@dataclasses.dataclass(frozen=True)
class Majority:
    """Always the most frequent class with the classes' frequencies as scores; the mean of numbers."""

    def scores(self, texts: Sequence[str], labels: Any, target: Target, classes: int,
               asked: Sequence[str]) -> Float[np.ndarray, "E C"]:
        """What is predicted for the asked texts after seeing the labelled ones."""
        labels = np.asarray(labels)
        if target == "class":
            labels = np.eye(classes)[labels]
        return np.repeat(labels.mean(0)[None], len(asked), 0)


@dataclasses.dataclass(frozen=True)
class Tfidf:
    """TF-IDF of n-grams of words or characters (sublinear counts) with logistic regression of strength C; ridge regression for
    numbers. Words are what white space and punctuation part: of Chinese, take characters."""

    analyzer: Literal["word", "char"]
    ngrams: int
    min_count: int
    strength: float

    def scores(self, texts: Sequence[str], labels: Any, target: Target, classes: int,
               asked: Sequence[str]) -> Float[np.ndarray, "E C"]:
        """What is predicted for the asked texts after seeing the labelled ones."""
        words = TfidfVectorizer(analyzer=self.analyzer, ngram_range=(1, self.ngrams), min_df=self.min_count, sublinear_tf=True,
                                dtype=np.float32)
        known, new = words.fit_transform(texts), words.transform(asked)
        if target == "number":
            return Ridge(alpha=1 / self.strength).fit(known, labels).predict(new)
        model: Any = LogisticRegression(C=self.strength, max_iter=1000)
        if target == "multi":
            model = OneVsRestClassifier(model)
        return model.fit(known, np.asarray(labels)).predict_proba(new)
