"""Plots: curves of a run, bars of a table."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def curves(folder: Path) -> None:
    """plots/curves.png: training loss, validation loss and the validation metrics of metrics.jsonl."""
    series: dict[str, list[tuple[int, float]]] = {}
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for key, value in row.items():
            if key == "train/loss" or key.startswith("valid/"):
                series.setdefault(key, []).append((row["step"], value))
    left = {key: points for key, points in series.items() if key.endswith("/loss")}
    right = {key: points for key, points in series.items() if key not in left}
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    for axis, chosen, title in zip(axes, (left, right), ("loss", "validation"), strict=True):
        for key, points in chosen.items():
            axis.plot(*zip(*points, strict=True), label=key, marker="." if key.startswith("valid") else None)
        axis.set(xlabel="step", title=title)
        axis.grid(alpha=0.3)
        if chosen:
            axis.legend(fontsize=8)
    save(figure, folder / "plots" / "curves.png")


def bars(cells: Mapping[str, Mapping[str, tuple[float, float]]], columns: Sequence[str], path: Path,
         published: Mapping[str, Mapping[str, float]]) -> None:
    """One panel a column, one bar a row with its standard deviation, and a diamond where a published value lies."""
    figure, axes = plt.subplots(1, len(columns), figsize=(4.5 * len(columns) + 2, 0.45 * len(cells) + 1.4), sharey=True,
                                constrained_layout=True, squeeze=False)
    names = list(cells)[::-1]
    for axis, column in zip(axes[0], columns, strict=True):
        for i, name in enumerate(names):
            if column in cells[name]:
                mean, std = cells[name][column]
                axis.barh(i, mean, xerr=std, color="tab:blue", alpha=0.8, capsize=3)
                axis.text(0.02, i, f"{mean:.3f}", va="center", color="white", transform=axis.get_yaxis_transform())
            if column in published.get(name, {}):
                axis.plot(published[name][column], i, marker="D", color="tab:orange", label="published")
        axis.set(title=column, yticks=range(len(names)), yticklabels=names)
        axis.grid(axis="x", alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(*[x[:1] for x in axis.get_legend_handles_labels()], fontsize=8)
    save(figure, path)


def save(figure: plt.Figure, path: Path) -> None:
    """PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    figure.savefig(part, dpi=130, format="png")
    plt.close(figure)
    part.replace(path)
