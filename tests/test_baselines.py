"""Baselines and plots on data that isn't as it should be: classes without an example, words that no text shares, dollars."""

import numpy as np
import pytest

from ecrec_jax.types import Example, InputError
from ecrec_jax.use.baseline import Linear, Tfidf
from experiments import plot

TEXTS = ["red dress", "red shoes", "blue dress", "blue hat", "red hat", "blue shoes"]


def rows(values):
    """Examples of one token each."""
    return [Example(np.array([v], "i4"), np.zeros(1, "i4"), 0, i, value=np.ones(1, "f4")) for i, v in enumerate(values)]


def test_a_class_without_an_example_keeps_its_place():
    """Of three classes the second has no row left: its probability is 0, and the others' stand where they belong."""
    labels = [0, 0, 2, 2, 0, 2]
    for found in (Tfidf("word", 1, 1, 10.0).scores(TEXTS, labels, "class", 3, TEXTS),
                  Linear(10.0).scores(rows(labels), labels, "class", 3, rows(labels))):
        assert found.shape == (6, 3) and (found[:, 1] == 0).all() and (found.argmax(1) == labels).all()
        np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)
    assert Tfidf("word", 1, 1, 1.0).scores(TEXTS, [2] * 6, "class", 3, TEXTS[:2]).tolist() == [[0, 0, 1]] * 2


@pytest.mark.parametrize("make,said", [
    (lambda: Tfidf("word", 1, 1, 0.0), "baseline.strength is 0"), (lambda: Tfidf("word", 0, 1, 1.0), "baseline.ngrams is 0"),
    (lambda: Tfidf("word", 1, 0, 1.0), "baseline.min_count is 0"), (lambda: Linear(-1.0), "baseline.strength is -1"),
    (lambda: Tfidf("word", 1, 3, 1.0).scores(["一句话", "两句话"], [0, 1], "class", 2, ["话"]), "baseline=tfidf_char")])
def test_refused(make, said):
    with pytest.raises(InputError, match=said):
        make()


def test_nothing_to_read():
    """Rows of empty lists have no token."""
    none = [Example(np.zeros(0, "i4"), np.zeros(0, "i4"), k, k, value=np.zeros(0, "f4")) for k in (0, 1)]
    assert Linear(1.0).scores(none, [0, 1], "class", 2, none).tolist() == [[0.5, 0.5]] * 2


def test_dollars_are_no_formulas(tmp_path):
    plot.confusion(np.eye(2, dtype=int), ["5% off $10 & 10% off $20", "$10-$20_a"], "test", tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").stat().st_size > 5000
