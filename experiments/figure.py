"""Figures of a page: curves over steps, reliability diagrams, confusion matrices; drawn as SVG and tables, without a library."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from experiments.page import LIGHT, Markup, joined, tag

WIDE, HIGH, LEFT, RIGHT, TOP, BOTTOM = 340, 210, 46, 10, 8, 24
MOST = 300   # points of a curve; of more, means of neighbours are drawn
Curve = tuple[int, str, list[tuple[float, float]]]   # (number of its colour, name, points)


def legend(names: Sequence[str]) -> Markup:
    """Whose colour is which."""
    return tag("ul.legend", *(tag("li", tag("i", at={"style": f"border-color:var({colour(i)});border-top-style:{line(i)}"}), name)
                              for i, name in enumerate(names)))


def colour(i: int) -> str:
    """The variable of the i-th colour; they come again, with another line."""
    return f"--c{i % len(LIGHT)}"


def line(i: int) -> str:
    """Solid, then dashed, then dotted."""
    return ("solid", "dashed", "dotted")[i // len(LIGHT) % 3]


def curves(title: str, drawn: Sequence[Curve], last: float, unit: str = "step") -> Markup:
    """Curves over the steps, or another `unit`, up to the `last`, in one frame."""
    frame = Frame(0, last, *span([y for _, _, points in drawn for _, y in points]))
    inside = [frame.axes()]
    for i, name, points in drawn:
        dash = {"solid": "none", "dashed": "6 3", "dotted": "2 3"}[line(i)]
        style = {"style": f"stroke:var({colour(i)});stroke-dasharray:{dash}", "class": "drawn"}
        places = [frame.at(*point) for point in thinned(points)]
        inside.append(tag("polyline", tag("title", name), at=style | {"points": " ".join(f"{x:.1f},{y:.1f}" for x, y in places)}))
        if len(points) <= 20:   # a curve of one point would not be seen
            inside += [tag("circle", tag("title", f"{name}, {unit} {step:g}: {value:.4g}"), at={
                "cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": 2.5, "style": f"fill:var({colour(i)})"})
                for (x, y), (step, value) in zip(places, points, strict=True)]
    return figure(title, inside)


def reliability(title: str, bins: Sequence[Mapping[str, Any]], i: int) -> Markup:
    """How often a score is right, bar by bar, beside the line on which it says so itself."""
    frame = Frame(0.0, 1.0, 0.0, 1.0)
    x0, y0 = frame.at(0, 0)
    inside = [frame.axes()]
    for part in bins:
        if part["count"]:
            (x, y), (end, _) = frame.at(part["low"], part["accuracy"]), frame.at(part["high"], part["accuracy"])
            said = f"{part['count']} scores, {part['confidence']:.3f} on average; right {part['accuracy']:.3f}"
            inside.append(tag("rect", tag("title", said), at={
                "x": f"{x + 1:.1f}", "y": f"{min(y, y0 - 1):.1f}", "width": f"{end - x - 2:.1f}", "height": f"{max(y0 - y, 1):.1f}",
                "style": f"fill:var({colour(i)})", "opacity": ".75"}))
    x1, y1 = frame.at(1, 1)
    style = {"class": "drawn", "style": "stroke:var(--soft);stroke-dasharray:4 3"}
    inside.append(tag("path", at=style | {"d": f"M{x0} {y0}L{x1} {y1}"}))
    return figure(title, inside)


def confusion(matrix: Int[np.ndarray, "C C"], names: Sequence[str]) -> Markup:
    """Counts and row shares: a row is a label, a column what was said."""
    top = tag("tr", tag("th", "label ╲ said"), *(tag("th.number", name) for name in names))
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    rows = [tag("tr", tag("th", name), *(
        tag("td.number", str(n), tag("small", f"{s:.0%}"), at={"style": f"--share:{s:.2f}"}) if n else tag("td")
        for n, s in zip(counts, shares, strict=True))) for name, counts, shares in zip(names, matrix, share, strict=True)]
    return tag("div.wide", tag("table.heat", tag("thead", top), tag("tbody", *rows)), at={"tabindex": 0})


def figure(title: str, inside: Sequence[Markup]) -> Markup:
    """A drawing with its title."""
    drawing = tag("svg", *inside, at={"viewBox": f"0 0 {WIDE} {HIGH}", "role": "img", "aria-label": title})
    return tag("figure", tag("figcaption", title), drawing)


class Frame:
    """The part of the plane that is drawn."""

    def __init__(self, x0: float, x1: float, y0: float, y1: float):
        self.x0, self.x1, self.y0, self.y1 = x0, x1, y0, y1

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies in the drawing."""
        return (LEFT + (WIDE - LEFT - RIGHT) * (x - self.x0) / (self.x1 - self.x0),
                HIGH - BOTTOM - (HIGH - TOP - BOTTOM) * (y - self.y0) / (self.y1 - self.y0))

    def axes(self) -> Markup:
        """Lines at round numbers, and the numbers."""
        found = []
        for value in ticks(self.y0, self.y1):
            y = self.at(self.x0, value)[1]
            found += [tag("path", at={"class": "axis", "d": f"M{LEFT} {y:.1f}H{WIDE - RIGHT}"}),
                      tag("text", f"{value:g}", at={"x": LEFT - 5, "y": f"{y + 4:.1f}", "text-anchor": "end"})]
        for value in ticks(self.x0, self.x1):
            found.append(tag("text", f"{value:g}", at={"x": f"{self.at(value, 0)[0]:.1f}", "y": HIGH - 8, "text-anchor": "middle"}))
        return joined(*found)


def span(values: Sequence[float]) -> tuple[float, float]:
    """From the least to the largest, with some room."""
    low, high = min(values), max(values)
    room = (high - low) / 20 or abs(low) / 10 or 1
    return low - room, high + room


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers inside an interval."""
    rough = (high - low) / about
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(k * unit for k in (1, 2, 5, 10) if k * unit >= rough)
    return [round(k * step, 12) for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points, or means of neighbours."""
    if len(points) <= MOST:
        return list(points)
    return [(float(x), float(y)) for x, y in (part.mean(0) for part in np.array_split(np.asarray(points, "f8"), MOST))]
