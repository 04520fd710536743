"""Words left out at random."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from ecrec_jax.data import words
from ecrec_jax.data.tokenise import cutter


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
        cut = cutter(self.segmenter)
        return [self.shorter(words.split(text, cut), rng) for text, rng in zip(texts, rngs, strict=True)]

    def shorter(self, found: words.Words, rng: np.random.Generator) -> str:
        """One text."""
        kept = np.flatnonzero(rng.random(len(found.words)) >= self.alpha)
        if not len(kept) and found.words:
            kept = rng.integers(len(found.words), size=1)
        return found.part(kept.tolist()).text()
