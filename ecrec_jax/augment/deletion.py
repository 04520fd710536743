"""Words left out at random."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from ecrec_jax.data import words


@dataclasses.dataclass(frozen=True)
class Deletion:
    """Each word is left out with probability `alpha`; a text that would lose all keeps one of them.

    Source: Wei & Zou 2019 (EDA), §2, random deletion.
    """

    alpha: float
    segmenter: Literal["jieba"] | None
    mark = ""

    def __post_init__(self):
        words.share(self.alpha)

    def __call__(self, texts: Sequence[str], rngs: Sequence[np.random.Generator]) -> list[str]:
        """Every text with some words less."""
        return words.each(self.shorter, texts, rngs, self.segmenter)

    def shorter(self, found: words.Words, rng: np.random.Generator) -> str:
        """One text."""
        kept = np.flatnonzero(rng.random(len(found.words)) >= self.alpha)
        if not len(kept) and found.words:
            kept = rng.integers(len(found.words), size=1)
        return found.part(kept.tolist()).text()
