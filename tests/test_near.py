"""Near-duplicate texts against a comparison of every pair."""

import itertools

import numpy as np
import pytest

from ecrec_jax.data import near
from ecrec_jax.types import InputError


def test_alike():
    """By hand: ' abc ' has two shingles, ' abcd ' three, of which they share ' abc'."""
    assert near.shingles("abc") == {" abc", "abc "} and near.shingles("") == {"  "}
    assert near.alike("abc", "abcd") == 1 / 4 and near.alike("A  b\nC", "a B c") == 1 and near.alike("abc", "xyz") == 0
    name = "{} painted egg cups in a wooden box, 12 x {} cm"
    assert near.alike(name.format(6, 34), name.format(12, 34)) == near.alike(name.format(6, 34), name.format(6, 3.4)) == 0
    assert near.alike(name.format(6, 34), name.format(34, 6)) > 0.7


def test_merged():
    items, names = zip(*[("a", "Red spotty cup, large size"), ("b", "RED  SPOTTY CUP, LARGE SIZE"), ("c", None), ("d", ""),
                         ("e", "Red spotty cup, large sizes"), ("f", "Blue plate"), ("g", "blue plate"), ("h", None)], strict=True)
    found = near.merged(items, names, 0.8)
    assert [(x, y) for x, y, _ in found] == [("b", "a"), ("e", "a"), ("g", "f")]
    assert found[0][2] == found[2][2] == 1.0 and found[1][2] == near.alike(names[0], names[4])
    assert near.merged(items, names, 1.0) == [found[0], found[2]] and near.merged([], [], 0.8) == []


def test_no_chains():
    """Each is like the one before; what is merged is like the one it is merged into."""
    long = "".join(np.random.default_rng(1).choice(list("abcdefghijklmnopqrstuvwxyz"), 120))
    texts = [long[start:start + 60] for start in range(0, 60, 3)]
    found = near.merged([str(i) for i in range(len(texts))], texts, 0.8)
    into = {y for _, y, _ in found}
    assert found and len(into) > 2 and not into & {x for x, _, _ in found}
    assert all(near.alike(texts[int(x)], texts[int(y)]) == s >= 0.8 for x, y, s in found)


@pytest.mark.parametrize("threshold", [0.6, 0.8, 0.95])
def test_every_pair(threshold):
    """MinHash finds what comparing all finds, each time the same."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghij"), 6)) for _ in range(60)]
    texts = [" ".join(rng.choice(words, 12)) for _ in range(40)]
    for i in range(200):
        old = list(texts[i % 40])
        for place in rng.integers(0, len(old), rng.integers(0, 6)):
            old[place] = "z"
        texts.append("".join(old))
    stay, expected = [], []
    for i, text in enumerate(texts):
        best, k = max(((near.alike(text, texts[k]), -k) for k in stay), default=(0, 0))
        if best >= threshold:
            expected.append((str(i), str(-k), best))
        else:
            stay.append(i)
    found = near.merged([str(i) for i in range(240)], texts, threshold)
    assert found == expected == near.merged([str(i) for i in range(240)], texts, threshold) and 20 < len(found) < 220


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.5, 0.01])
def test_refused(threshold):
    with pytest.raises(InputError, match="near_duplicates is"):
        near.merged(["a"], ["b"], threshold)


def test_bands():
    """The chance of a miss is at most 1 in 1,000 at the threshold, and smaller above it."""
    for threshold, above in itertools.product((0.3, 0.5, 0.8, 0.9, 1.0), (0.0, 0.05)):
        b, r = near.bands(threshold)
        assert b * r <= 128 and (1 - min(1.0, threshold + above) ** r) ** b <= 1e-3
