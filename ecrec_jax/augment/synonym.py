"""Words replaced by synonyms of a lexicon."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal

import numpy as np

from ecrec_jax.data import read, words
from ecrec_jax.data.lexicon import Lexicon, english, load


@dataclasses.dataclass(frozen=True)
class Synonym:
    """Of the words that the lexicon knows, max(1, ⌊alpha · words⌋) are replaced by one of their synonyms, drawn evenly;
    capitals and the punctuation at a word's edges stay.

    `lexicon` is a file (see `data.lexicon.load`); `common`, a file of English words, one a line, holds a noisy one to what
    `data.lexicon.english` says.

    Source: Wei & Zou 2019 (EDA), §2, synonym replacement.

    Raises:
        InputError: a file that isn't there, or a line that can't be read.
    """

    lexicon: str
    common: str | None
    alpha: float
    root: str
    segmenter: Literal["jieba"] | None
    mark = ""

    def __post_init__(self):
        words.share(self.alpha)

    @functools.cached_property
    def table(self) -> Lexicon:
        """Every word that may be replaced, and by what."""
        found = load(read.locate(self.lexicon, self.root, "lexicon"))
        if self.common is None:
            return found
        known = read.locate(self.common, self.root, "common")
        return english(found, set(read.decode(known, known.read_bytes()).split()))

    def __call__(self, texts: Sequence[str], rngs: Sequence[np.random.Generator]) -> list[str]:
        """Every text with some words replaced."""
        return words.each(self.replaced, texts, rngs, self.segmenter)

    def replaced(self, found: words.Words, rng: np.random.Generator) -> str:
        """One text."""
        edges = [words.core(word) for word in found.words]
        bare = [word[slice(*edge)] for word, edge in zip(found.words, edges, strict=True)]
        known = [i for i, word in enumerate(bare) if word.lower() in self.table]
        for i in rng.permutation(known)[: words.changes(self.alpha, len(found.words))]:
            choices, (first, last) = self.table[bare[i].lower()], edges[i]
            new = words.cased(choices[rng.integers(len(choices))], bare[i])
            found.words[i] = found.words[i][:first] + new + found.words[i][last:]
        return found.text()
