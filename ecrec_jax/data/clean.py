"""Text cleaning with a count of what was changed."""

import html
import re
import unicodedata
from collections import Counter

import numpy as np
import pandas as pd
from jaxtyping import Int

ATTRIBUTE = r"""\s+[\w:.-]+\s*=\s*(?:"[^"]*"|'[^']*'|[^\s<>"']+)"""   # with a value, or "x <y and z> w" would hold a tag
TAG = re.compile(rf"<(?:/?[a-zA-Z][\w:-]*(?:{ATTRIBUTE})*\s*/?|!--.*?--)>", re.DOTALL)
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u2060\ufeff\ud800-\udfff]")


def clean(text: str | None, counts: Counter[str]) -> str:
    """NFC, HTML entities and tags out, control characters out, runs of white space to one blank.

    `counts` gets one for every text that a rule changed.
    """
    text = text or ""
    for name, rule in (
        ("html", lambda t: TAG.sub(" ", html.unescape(t)) if "<" in t or "&" in t else t),
        ("control characters", lambda t: t if t.isprintable() else CONTROL.sub("", t)),
        ("unicode form", lambda t: t if t.isascii() else unicodedata.normalize("NFC", t)),
        ("white space", lambda t: " ".join(t.split())),
    ):
        new = rule(text)
        counts[name] += new != text
        text = new
    return text


def codes(cells: list[str | None]) -> tuple[Int[np.ndarray, "N"], list[str]]:
    """(the number of each cell's text, counted in order of appearance; the texts, stripped, "" for none)."""
    code, distinct = pd.factorize(np.array([(cell or "").strip() for cell in cells], object))
    return code, list(distinct)


def cleaned(cells: list[str | None], counts: Counter[str]) -> np.ndarray:
    """Cleaned texts ("" = none); `counts` gets one for every distinct text that a rule changed."""
    code, distinct = codes(cells)
    return np.array([clean(text, counts) for text in distinct], object)[code]


def settled(items: list[str], texts: np.ndarray) -> np.ndarray:
    """For every event the text that its item has most often, the first in the file among equals; without item its own."""
    pairs = Counter((item, text) for item, text in zip(items, texts, strict=True) if item and text)
    best: dict[str, str] = {}
    for (item, text), _ in pairs.most_common():   # equals in order of appearance
        best.setdefault(item, text)
    return np.array([best.get(item, text) if text else text for item, text in zip(items, texts, strict=True)], object)
