"""A part of a text, cut out at random."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from ecrec_jax.data import words


@dataclasses.dataclass(frozen=True)
class Crop:
    """Of n words a contiguous part of n − max(1, ⌊alpha · n⌋) stays, at least one; where it begins is drawn evenly."""

    alpha: float
    segmenter: Literal["jieba"] | None
    mark = ""

    def __post_init__(self):
        words.share(self.alpha)

    def __call__(self, texts: Sequence[str], rngs: Sequence[np.random.Generator]) -> list[str]:
        """Every text without its edges."""
        return words.each(self.part, texts, rngs, self.segmenter)

    def part(self, found: words.Words, rng: np.random.Generator) -> str:
        """One text."""
        count = len(found.words)
        length = min(count, max(1, count - words.changes(self.alpha, count)))
        start = int(rng.integers(count - length + 1))
        return found.part([*range(start, start + length)]).text()
