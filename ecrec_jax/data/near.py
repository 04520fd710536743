"""Texts that are nearly the same: candidates by MinHash, then compared."""

import re
from collections.abc import Sequence
from typing import Any

from ecrec_jax.types import InputError

HASHES = 128


def shingles(text: str) -> frozenset[str]:
    """Every four characters in a row, whatever their case, white space being one blank."""
    told = f" {' '.join(text.casefold().split())} "
    return frozenset(told[i:i + 4] for i in range(max(1, len(told) - 3)))


def alike(one: str, other: str) -> float:
    """Jaccard similarity |A ∩ B| / |A ∪ B| of two texts' shingles; 0 if their numbers differ: a pack of 6 is none of 12."""
    if sorted(re.findall(r"\d+", one)) != sorted(re.findall(r"\d+", other)):
        return 0.0
    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b)


def bands(threshold: float, key: str = "near_duplicates") -> tuple[int, int]:
    """(bands b, hashes r in each): the largest r with which a pair as alike as the threshold s is a candidate at least 999 times in
    1,000: 1 - (1 - s^r)^b. **Source** Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, 3.4.2."""
    good = [r for r in range(1, HASHES // 2 + 1) if 1 - (1 - threshold**r) ** (HASHES // r) >= 0.999]
    if not good:
        raise InputError(f"{key} is {threshold:g}: of texts so little alike not enough are found")
    return HASHES // good[-1], good[-1]


def merged(names: Sequence[Any], texts: Sequence[str | None], threshold: float, key: str = "near_duplicates"
           ) -> list[tuple[Any, Any, float]]:
    """(name, that of the earlier text that it goes to, how alike they are): a text goes to the one that is most like it of those
    that stay, so that no chain of small differences joins what differs much. What has no text stays.

    Raises:
        InputError: datasketch isn't installed; a threshold, the configuration's `key`, that isn't between 0 and 1, or so low that
            MinHash misses pairs.
    """
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError:
        raise InputError(f"{key} needs datasketch: pip install -e '.[prepare]'") from None
    if not 0 < threshold <= 1:
        raise InputError(f"{key} is {threshold:g}, must be above 0 and at most 1")
    index, found = MinHashLSH(num_perm=HASHES, params=bands(threshold, key)), []
    told = [i for i, text in enumerate(texts) if text]
    hashes = MinHash.generator(([x.encode() for x in shingles(texts[i])] for i in told), num_perm=HASHES, seed=1)
    for i, value in zip(told, hashes, strict=True):
        best, first = max(((alike(texts[i], texts[k]), -k) for k in index.query(value)), default=(0.0, 0))
        if best >= threshold:
            found.append((names[i], names[-first], best))
        else:
            index.insert(i, value)
    return found
