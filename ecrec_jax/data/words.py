"""Texts as words and what stands between them, for transforms that change words."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ecrec_jax.data.tokenise import cutter

SIGN = "\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef"   # ideographs, kana, full-width signs: one by one
PIECE = re.compile(rf"\s+|[{SIGN}]|[^\s{SIGN}]+")
EDGE = re.compile(r"^[\W_]+|[\W_]+$")


class Words(NamedTuple):
    """The words of a text, punctuation attached, and the gap after each: white space or nothing."""

    words: list[str]
    gaps: list[str]

    def text(self) -> str:
        """All of it again."""
        return "".join(part for pair in zip(*self, strict=True) for part in pair).strip()

    def part(self, keep: list[int]) -> "Words":
        """Some of the words in their order, each with its gap, or, if it has none, that of a word left out behind it."""
        gaps = [next(filter(None, self.gaps[i:end]), "") for i, end in zip(keep, [*keep[1:], len(self.gaps)], strict=True)]
        return Words([self.words[i] for i in keep], gaps)


def split(text: str, cut: Callable[[str], list[str]] | None = None) -> Words:
    """The words of a text: what `cut` finds, or else what white space parts, and CJK characters one by one."""
    found = Words([], [])
    for piece in PIECE.findall(text.strip()) if cut is None else cut(text.strip()):
        if piece.isspace() and found.gaps:
            found.gaps[-1] += piece
        else:
            found.words.append(piece)
            found.gaps.append("")
    return found


def each(change: Callable[[Words, np.random.Generator], str], texts: Sequence[str], rngs: Sequence[np.random.Generator],
         segmenter: str | None) -> list[str]:
    """Every text, cut into words, as `change` leaves it."""
    cut = cutter(segmenter)
    return [change(split(text, cut), rng) for text, rng in zip(texts, rngs, strict=True)]


def share(alpha: float) -> None:
    """Whether a number is a share.

    Raises:
        ValueError: it isn't.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha {alpha} must be a share, 0 to 1")


def changes(alpha: float, count: int) -> int:
    """How many of `count` words a share `alpha` changes: max(1, ⌊alpha · count⌋), none for alpha = 0.

    Source: Wei & Zou 2019, §2, n = αl, and their code's floor and at least one.
    """
    return min(count, max(1, int(alpha * count))) if alpha else 0


def core(word: str) -> tuple[int, int]:
    """Where a word begins and ends without the punctuation at its edges."""
    start = EDGE.match(word)
    first = start.end() if start else 0
    return first, len(EDGE.sub("", word)) + first


def cased(word: str, like: str) -> str:
    """A word in capitals, or with one, if that is how the other is written."""
    if len(like) > 1 and like.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if like[:1].isupper() else word
