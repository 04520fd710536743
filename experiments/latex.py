"""A table as LaTeX for booktabs."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.lines import Line, headed

SPECIAL = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
           "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--", "·": r"$\cdot$", "†": r"$\dagger$",
           "‡": r"$\ddagger$", "<": r"$<$", ">": r"$>$", "|": r"$|$",
           "[": "{[}", "*": "{*}"}   # after a line's end they would be its height


def escaped(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(SPECIAL.get(sign, sign) for sign in text)


def tabular(table: Mapping[str, Any], lines: Sequence[Line]) -> str:
    """A tabular environment: best mean of each column and test set in bold, the second underlined, published values beside."""
    columns = table["columns"]
    beside, heads = headed(lines, columns)
    rows = []
    for line in lines:
        cells = []
        for key, spec in columns.items():
            cells.append(number(line, key, spec["digits"]))
            if key in beside:
                cells.append(f"{line.published[key]['value']:.{spec['digits']}f}" if key in line.published else "")
        rows.append(" & ".join([escaped(line.name + line.marks), *cells]) + r" \\")
    title = " & ".join(["", *map(escaped, heads)]) + r" \\"
    lacking = ["% " + " ".join(f"{line.name}: {line.trouble}".split()) for line in lines if line.trouble]
    begin = f"% {' '.join(table['title'].split())}; needs \\usepackage{{booktabs}}"
    return "\n".join([begin, *lacking, rf"\begin{{tabular}}{{l{'r' * len(heads)}}}",
                      r"\toprule", title, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}", ""])


def number(line: Line, key: str, digits: int) -> str:
    """A cell."""
    if key not in line.numbers:
        return "--"
    x = line.numbers[key]
    said = x.words(digits, r" $\pm$ ")
    return {1: rf"\textbf{{{said}}}", 2: rf"\underline{{{said}}}"}.get(x.place, said)
