"""Text cleaning with a count of what was changed."""

import html
import re
import unicodedata
from collections import Counter

ATTRIBUTE = r"""\s+[\w:.-]+\s*=\s*(?:"[^"]*"|'[^']*'|[^\s<>"']+)"""   # with a value, or "x <y and z> w" would hold a tag
TAG = re.compile(rf"<(?:/?[a-zA-Z][\w:-]*(?:{ATTRIBUTE})*\s*/?|!--.*?--)>", re.DOTALL)
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u2060\ufeff\ud800-\udfff]")
SPACE = re.compile(r"\s+")


def clean(text: str | None, counts: Counter[str]) -> str:
    """NFC, HTML entities and tags out, control characters out, runs of white space to one blank.

    `counts` gets one for every text that a rule changed.
    """
    text = text or ""
    for name, rule in (
        ("html", lambda t: TAG.sub(" ", html.unescape(t)) if "<" in t or "&" in t else t),
        ("control characters", lambda t: CONTROL.sub("", t)),
        ("unicode form", lambda t: t if t.isascii() else unicodedata.normalize("NFC", t)),
        ("white space", lambda t: SPACE.sub(" ", t).strip()),
    ):
        new = rule(text)
        counts[name] += new != text
        text = new
    return text
