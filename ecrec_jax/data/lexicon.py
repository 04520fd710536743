"""Synonyms from a file, and what of a noisy English list can be used."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from ecrec_jax.data.read import decode
from ecrec_jax.types import InputError

Lexicon = dict[str, list[str]]   # word in lower case -> its synonyms, sorted

CILIN = re.compile(r"[A-Z][a-z]\d\d[A-Z]\d\d([=#@])\s*(.*)")   # = synonyms, # related, @ alone
PLAIN = re.compile(r"[a-z]{3,}")
OVERLAP = 0.2
ENDINGS = ("ing", "ed", "ly", "est", "er", "s")
FUNCTION = (   # and number words
    "about above after again against ain all also although always among and another any anybody anyone anything are aren "
    "because been before being below between both but can cannot could couldn did didn does doesn doing don done down "
    "during each eight either else ever every few five for four from further had hadn has hasn have haven having her here "
    "hers herself him himself his how however into isn its itself just least less let lot many may maybe mine more most "
    "much must myself neither never nine nobody none nor not nothing now off often once one only onto other others ought "
    "our ours ourselves out over own per perhaps quite rather same seven shall shan she should shouldn since six some "
    "somebody someone something still such ten than that the their theirs them themselves then there these they this those "
    "though three through thus too toward towards two under until upon very was wasn were weren what whatever when where "
    "whether which while who whom whose why will with within without won would wouldn yes yet you your yours yourself "
    "yourselves ")
STOP = frozenset(FUNCTION.split())


def load(path: Path) -> Lexicon:
    """The synonyms of every word of a file: a line is a group of words parted by tabs, or a line of the Chinese thesaurus
    Cilin (`Aa01A01= 人 士 人物`, of which words of one character are left out: they mean too much).

    Raises:
        InputError: the file isn't UTF-8, a line is neither, or there is no group.
    """
    table: dict[str, set[str]] = defaultdict(set)
    for group in groups(path):
        for word in group:
            table[word.lower()].update(other for other in group if other.lower() != word.lower())
    if not table:
        raise InputError(f"{path}: no synonyms in it")
    return {word: sorted(others) for word, others in table.items() if others}


def groups(path: Path) -> Iterator[list[str]]:
    """The words of each line that lists synonyms."""
    for number, line in enumerate(decode(path, path.read_bytes()).split("\n"), 1):
        thesaurus = CILIN.fullmatch(line.strip())
        if thesaurus:
            yield [word for word in thesaurus[2].split() if len(word) > 1] if thesaurus[1] == "=" else []
        elif line.strip(" \r"):
            group = [word.strip(" \r") for word in line.split("\t")]
            if len(group) < 2 or not all(group):
                raise InputError(f"{path}, line {number}: expected two or more words parted by tabs, or a line of Cilin "
                                 f"(Aa01A01= WORD WORD), found {line[:40]!r}")
            yield group


def english(lexicon: Lexicon, common: set[str]) -> Lexicon:
    """What can be used of a noisy English list such as PPDB's. A pair stays if
    both are `common` words of three letters or more, neither is a function or number word (EDA leaves those alone too), they
    are not forms of one word (`forms`), they end alike (same one of -ing -ed -ly -est -er -s, or none: number, tense and part
    of speech mostly agree), and of their synonyms A and B by these rules enough are the same, |A ∩ B| / |A ∪ B| ≥ .2 (pairs
    that met by chance, or in a rare sense, seldom have a third word in common).
    """
    usable = {word for word in common if PLAIN.fullmatch(word) and word not in STOP}
    first = {word: {x for x in others if x in usable and ending(x) == ending(word) and not forms(word, x)}
             for word, others in lexicon.items() if word in usable}
    alike = lambda a, b: len(a & b) >= OVERLAP * len(a | b)  # noqa: E731
    found = {word: sorted(x for x in others if alike(others, first.get(x, set()))) for word, others in first.items()}
    return {word: others for word, others in found.items() if others}


def ending(word: str) -> str:
    """The inflection that a word shows; -ss is none."""
    return next((end for end in ENDINGS if word.endswith(end) and not word.endswith("ss")), "")


def forms(one: str, other: str) -> bool:
    """Whether two words look like forms of one: one holds the other (unhappy, happy), or they agree in three letters or more
    from the left, and in all but three of the longer (colour, color; buying, buyer)."""
    same = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one in other or other in one or same >= max(3, max(len(one), len(other)) - 3)
