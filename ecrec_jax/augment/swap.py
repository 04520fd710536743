"""Words that change places at random."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from ecrec_jax.data import words


@dataclasses.dataclass(frozen=True)
class Swap:
    """Two words change places, max(1, ⌊alpha · words⌋) times; white space stays where it is.

    Source: Wei & Zou 2019 (EDA), §2, random swap.
    """

    alpha: float
    segmenter: Literal["jieba"] | None
    mark = ""

    def __post_init__(self):
        words.share(self.alpha)

    def __call__(self, texts: Sequence[str], rngs: Sequence[np.random.Generator]) -> list[str]:
        """Every text with its words in another order."""
        return words.each(self.swapped, texts, rngs, self.segmenter)

    def swapped(self, found: words.Words, rng: np.random.Generator) -> str:
        """One text; a single word has nothing to change places with."""
        for _ in range(words.changes(self.alpha, len(found.words)) if len(found.words) > 1 else 0):
            i, j = rng.choice(len(found.words), 2, replace=False)
            found.words[i], found.words[j] = found.words[j], found.words[i]
        return found.text()
