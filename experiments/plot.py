"""Plots: curves of a run, what its reports say of classes and confidence, bars of a table, trials of a search."""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
matplotlib.rcParams["text.parse_math"] = False   # a label's $ is a dollar
import matplotlib.pyplot as plt
import numpy as np

from ecrec_jax.meter import brief
from ecrec_jax.source import load_config
from ecrec_jax.writing import writing

COUNTED = 20   # classes up to which a confusion matrix says its counts


def curves(folder: Path) -> None:
    """plots/curves.png: training loss, validation loss and the validation metrics of metrics.jsonl."""
    series: dict[str, list[tuple[int, float]]] = {}
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for key, value in row.items():
            if key == "train/loss" or key.startswith("valid/"):
                series.setdefault(key, []).append((row["step"], value))
    left = {key: points for key, points in series.items() if key.endswith("/loss")}
    right = {key: series[key] for key in brief(series) if key not in left}
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    for axis, chosen, title in zip(axes, (left, right), ("loss", "validation"), strict=True):
        for key, points in chosen.items():
            axis.plot(*zip(*points, strict=True), label=key, marker="." if key.startswith("valid") else None)
        axis.set(xlabel="step", title=title)
        axis.grid(alpha=0.3)
        if chosen:
            axis.legend(fontsize=8)
    save(figure, folder / "plots" / "curves.png")


def reports(folder: Path) -> None:
    """plots/confusion_SPLIT.png and reliability_SPLIT.png, or of runs that rank items length_SPLIT.png and exposure_SPLIT.png, of
    every report that says so much."""
    for path in sorted((folder / "report").glob("*.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        if "confusion_matrix" in report:
            confusion(np.array(report["confusion_matrix"]), list(report["per_class"]), path.stem,
                      folder / "plots" / f"confusion_{path.stem}.png")
        if "calibration" in report:
            reliability(report["calibration"], path.stem, folder / "plots" / f"reliability_{path.stem}.png")
        if "by_length" in report:
            metric, cutoff = measured_by(report, load_config(folder)["best"]["metric"])
            lengths(report["by_length"], metric, path.stem, folder / "plots" / f"length_{path.stem}.png")
            if cutoff is not None:
                exposure(report["exposure"], cutoff, path.stem, folder / "plots" / f"exposure_{path.stem}.png")


def measured_by(report: Mapping[str, Any], metric: str) -> tuple[str, str | None]:
    """(the metric that users' groups are drawn by, the cut-off "@k" of the lists, if these are long enough for one): the one that
    picked the checkpoint, if it is a mean over users, else NDCG at the last cut-off."""
    known = [name for name in report["by_length"][0] if name == metric or name.startswith("ndcg@")]
    metric = metric if metric in known else known[-1]
    cutoff = metric[metric.find("@") :]
    return metric, cutoff if cutoff in report["exposure"] else next((x for x in [*report["exposure"]][::-1] if x[0] == "@"), None)


def lengths(groups: Sequence[Mapping[str, Any]], metric: str, title: str, path: Path) -> None:
    """A metric of users by the length of their histories, and how many there are of each."""
    figure, axis = plt.subplots(figsize=(6, 4), constrained_layout=True)
    axis.bar(range(len(groups)), [group[metric] for group in groups], color="tab:blue", alpha=0.8)
    spans = [f"{g['least']}" + (f"–{g['most']}" if g["most"] > g["least"] else "") + f"\n{g['users']:,}" for g in groups]
    axis.set_xticks(range(len(groups)), spans)
    axis.set(title=title, xlabel="items in the history, users", ylabel=metric)
    axis.grid(axis="y", alpha=0.3)
    save(figure, path)


def exposure(shares: Mapping[str, Sequence[float]], cutoff: str, title: str, path: Path) -> None:
    """How much of the training events and of the lists each tenth of the items has."""
    figure, axis = plt.subplots(figsize=(6, 4), constrained_layout=True)
    for key, name, shift in (("training", "training events", -0.2), (cutoff, f"recommended {cutoff}", 0.2)):
        axis.bar(np.arange(1, 11) + shift, shares[key], 0.4, label=name)
    axis.set(title=title, xlabel="tenth of the items, the most popular first", ylabel="share", xticks=range(1, 11))
    axis.grid(axis="y", alpha=0.3)
    axis.legend(fontsize=8)
    save(figure, path)


def confusion(counts: np.ndarray, names: Sequence[str], title: str, path: Path) -> None:
    """Shades are shares of a label's examples (a row sums to 1, or to 0 where there is none), figures are counts."""
    classes = len(names)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = max(4.0, min(0.55, 12 / classes) * classes) + 1.5
    figure, axis = plt.subplots(figsize=(side + 1, side), constrained_layout=True)
    figure.colorbar(axis.imshow(shares, cmap="Blues", vmin=0, vmax=1), shrink=0.8, label="share of the label")
    if classes <= COUNTED:
        for i, j in np.ndindex(classes, classes):
            axis.text(j, i, str(counts[i, j]), ha="center", va="center", fontsize=8,
                      color="white" if shares[i, j] > 0.5 else "black")
    size = 8 if classes <= COUNTED else 4
    axis.set(title=title, xlabel="prediction", ylabel="label")
    axis.set_xticks(range(classes), names, rotation=90, fontsize=size)
    axis.set_yticks(range(classes), names, fontsize=size)
    save(figure, path)


def reliability(bins: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """How often predictions of a confidence are right, beside how many there are; on the dashed line both are equal."""
    full = [b for b in bins if b["count"]]
    total = sum(b["count"] for b in full)
    gap = sum(b["count"] * abs(b["accuracy"] - b["confidence"]) for b in full) / total
    figure, axes = plt.subplots(2, 1, figsize=(5, 6), sharex=True, height_ratios=(3, 1), constrained_layout=True)
    for axis, heights in zip(axes, ([b["accuracy"] for b in full], [b["count"] / total for b in full]), strict=True):
        axis.bar([b["low"] for b in full], heights, [b["high"] - b["low"] for b in full], align="edge", edgecolor="white")
        axis.grid(alpha=0.3)
    axes[0].plot([b["confidence"] for b in full], [b["accuracy"] for b in full], "o", color="tab:orange", markersize=4)
    axes[0].plot((0, 1), (0, 1), "--", color="black", linewidth=1)
    axes[0].set(title=f"{title}: expected calibration error {gap:.3f}", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes[1].set(xlabel="confidence", ylabel="share")
    save(figure, path)


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


def over(labels: Sequence[str], panels: Mapping[str, Mapping[str, Sequence[tuple[int, float, float]]]], axis: str,
         path: Path) -> None:
    """A panel a column: curves {name: (place among the `labels`, mean, standard deviation)} over what an axis of a table says."""
    figure, axes = plt.subplots(1, len(panels), figsize=(5.5 * len(panels), 4.5), constrained_layout=True, squeeze=False)
    for panel, (title, curves) in zip(axes[0], panels.items(), strict=True):
        for name, points in curves.items():
            x, mean, std = zip(*sorted(points), strict=True)
            panel.errorbar(x, mean, std, label=name, marker="o", markersize=4, capsize=3)
        panel.set(title=title, xlabel=axis, xticks=range(len(labels)), xticklabels=labels)
        panel.grid(alpha=0.3)
        if curves:
            panel.legend(fontsize=8)
    save(figure, path)


def trials(done: Sequence[tuple[int, float]], courses: Sequence[Sequence[tuple[int, float]]], metric: str, high: bool,
           path: Path) -> None:
    """A search: (number, metric) of every trial that got through beside the best so far, and all courses over the validations."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    numbers, values = zip(*sorted(done), strict=True) if done else ((), ())
    best = itertools.accumulate(values, max if high else min)
    axes[0].plot(numbers, values, ".", label="trial")
    axes[0].step(numbers, list(best), where="post", label="best so far")
    axes[0].set(xlabel="trial", ylabel=metric)
    axes[0].legend(fontsize=8)
    for course in courses:
        axes[1].plot(*zip(*course, strict=True), marker=".", alpha=0.6)
    axes[1].set(xlabel="validation", ylabel=metric)
    for axis in axes:
        axis.xaxis.get_major_locator().set_params(integer=True)   # there is no half a trial
        axis.grid(alpha=0.3)
    save(figure, path)


def save(figure: plt.Figure, path: Path) -> None:
    """PNG."""
    with writing(path) as part:
        figure.savefig(part, dpi=130, format="png")
    plt.close(figure)
