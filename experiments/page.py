"""A page of HTML in one file: no scripts, nothing from elsewhere, light and dark, wide things scroll by themselves."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
LIGHT = ("#2a78d6", "#d95926", "#12875f", "#a87200", "#c2407a", "#4a3aa7", "#5c6670", "#b3261e")
DARK = ("#5b9df0", "#f08a5d", "#3fc796", "#e0ae3a", "#e983ac", "#a79cf2", "#a9b4be", "#f2857f")
STYLE = """
:root{color-scheme:light dark;--ink:#1c2127;--soft:#5a646e;--paper:#fff;--card:#f6f7f9;--line:#d9dee3;LIGHT}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8ec;--soft:#a0aab4;--paper:#14171b;--card:#1d2127;--line:#363d45;DARK}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:72rem;padding:0 1rem 4rem;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif;
overflow-wrap:anywhere}
h1{font-size:1.5rem;line-height:1.25;margin:1.5rem 0 .25rem}
h2{font-size:1.15rem;margin:2.5rem 0 .75rem;padding-top:.75rem;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:1.5rem 0 .5rem}
p{margin:.5rem 0}
.soft{color:var(--soft)}
.wide{overflow-x:auto;margin:.75rem 0}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;overflow-wrap:normal}
th,td{padding:.3rem .6rem;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
th{font-weight:600;white-space:nowrap}
td.value{max-width:26rem;min-width:8rem;overflow-wrap:anywhere}
td.number,th.number{text-align:right;white-space:nowrap}
.heat td.number{background:rgb(42 120 214/calc(var(--share)*.6));border:1px solid var(--line)}
.heat small{display:block;opacity:.8}
details{margin:.75rem 0}
summary{cursor:pointer;padding:.35rem 0}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,19rem),1fr));gap:1rem}
.grid>*{min-width:0;max-width:26rem}
figure{margin:0}
figcaption{font-size:.9rem;font-weight:600}
svg{display:block;width:100%;height:auto}
svg text{fill:var(--soft);font:11px system-ui,sans-serif}
.axis{stroke:var(--line);fill:none}
.drawn{fill:none;stroke-width:1.6}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.25rem 1rem;padding:0;margin:.5rem 0 1rem;font-size:.9rem}
.legend i{display:inline-block;width:1.5rem;border-top:3px solid;vertical-align:middle;margin-right:.4rem}
article{background:var(--card);border-radius:6px;padding:.6rem .8rem;margin:.6rem 0}
article p{margin:.2rem 0}
"""


class Markup(str):
    """HTML. Any other text that `tag` is given is escaped."""


def tag(name: str, *inside: str | None, at: Mapping[str, Any] | None = None) -> Markup:
    """An element; `name` may say a class as in `td.number`. What is None is left out."""
    name, _, kind = name.partition(".")
    given = {**({"class": kind} if kind else {}), **(at or {})}
    words = "".join(f' {key}="{html.escape(str(value))}"' for key, value in given.items())
    return Markup(f"<{name}{words}>{joined(*inside)}</{name}>")


def joined(*inside: str | None) -> Markup:
    """One after the other, text escaped."""
    return Markup("".join(x if isinstance(x, Markup) else html.escape(x) for x in inside if x is not None))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "value") -> Markup:
    """A table that scrolls by itself; the first cell of a row is its head, the others are of one kind: value or number."""
    top = tag("tr", *(tag(f"th.{kind}" if i else "th", head) for i, head in enumerate(heads)))
    body = (tag("tr", tag("th", row[0]), *(x if isinstance(x, Markup) else tag(f"td.{kind}", x) for x in row[1:])) for row in rows)
    return tag("div.wide", tag("table", tag("thead", top), tag("tbody", *body)), at={"tabindex": 0})


def folded(title: str, *inside: str | None, shown: bool = False) -> Markup:
    """Something to open."""
    return tag("details", tag("summary", title), *inside, at={"open": ""} if shown else None)


def whole(title: str, *inside: str | None) -> str:
    """The page."""
    style = STYLE
    for word, colours in (("LIGHT", LIGHT), ("DARK", DARK)):
        style = style.replace(word, "".join(f"--c{i}:{x};" for i, x in enumerate(colours)))
    said = html.escape(title)
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" '
            f'content="{html.escape(POLICY, quote=False)}"><meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{said}</title><style>{style}</style></head>\n<body>{tag('h1', title)}{joined(*inside)}</body></html>\n")
