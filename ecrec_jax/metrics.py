"""Metrics on the host, over whole columns; classification and regression come from scikit-learn and SciPy.

Both are imported where they are used: they take seconds, and training begins long before it measures.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int


def classification(label: Int[np.ndarray, "E"], scores: Float[np.ndarray, "E C"], labels: Sequence[str]) -> dict[str, Any]:
    """Accuracy, macro/micro/weighted F1, MCC, ROC-AUC and PR-AUC (average precision; both one against the rest, macro), log loss,
    expected calibration error with its bins, per class, confusion matrix.

    Log loss is −mean log p(label) in nats, p at least 2e-16, without the weights, smoothing and focus of a training loss.
    Classes without an example count with F1 = 0 in the macro mean; both areas are left out where a class is missing.
    """
    from sklearn import metrics as sk

    predicted, ids = scores.argmax(-1), np.arange(len(labels))
    found: dict[str, Any] = {"accuracy": float(sk.accuracy_score(label, predicted))}
    for name in ("macro", "micro", "weighted"):
        found[f"{name}_f1"] = float(sk.f1_score(label, predicted, labels=ids, average=name, zero_division=0))
    found["mcc"] = float(sk.matthews_corrcoef(label, predicted))
    own = scores[np.arange(len(label)), label] / scores.sum(-1, dtype="f8")
    found["log_loss"] = float(-np.log(np.maximum(own, np.finfo("f8").eps)).mean())
    if len(np.unique(label)) == len(labels):
        binary = len(labels) == 2
        found["roc_auc"] = float(sk.roc_auc_score(label, scores[:, 1] if binary else scores / scores.sum(-1, keepdims=True),
                                                  multi_class="ovr", labels=None if binary else ids))
        found["pr_auc"] = float(np.mean([sk.average_precision_score(label == c, scores[:, c]) for c in ids[int(binary):]]))
    found["ece"], bins = calibration(scores.max(-1), predicted == label)
    precision, recall, f1, support = sk.precision_recall_fscore_support(label, predicted, labels=ids, zero_division=0)
    return found | {
        "per_class": {name: {"precision": float(precision[i]), "recall": float(recall[i]), "f1": float(f1[i]),
                             "support": int(support[i])} for i, name in enumerate(labels)},
        "calibration": bins, "confusion_matrix": sk.confusion_matrix(label, predicted, labels=ids).tolist(),
    }


def multi_label(label: Float[np.ndarray, "E C"], scores: Float[np.ndarray, "E C"], labels: Sequence[str]) -> dict[str, Any]:
    """Subset accuracy, macro/micro/weighted F1 at threshold .5, ROC-AUC and PR-AUC (macro over labels that have both values); the
    calibration error of the scores of all labels together."""
    from sklearn import metrics as sk

    truth, predicted = label > 0.5, scores > 0.5
    found: dict[str, Any] = {"accuracy": float(sk.accuracy_score(truth, predicted))}
    for name in ("macro", "micro", "weighted"):
        found[f"{name}_f1"] = float(sk.f1_score(truth, predicted, average=name, zero_division=0))
    mixed = [c for c in range(truth.shape[1]) if 0 < truth[:, c].sum() < len(truth)]
    if mixed:
        found["roc_auc"] = float(np.mean([sk.roc_auc_score(truth[:, c], scores[:, c]) for c in mixed]))
        found["pr_auc"] = float(np.mean([sk.average_precision_score(truth[:, c], scores[:, c]) for c in mixed]))
    found["ece"], bins = calibration(scores.ravel(), truth.ravel())
    precision, recall, f1, support = sk.precision_recall_fscore_support(truth, predicted, average=None, zero_division=0)
    return found | {
        "per_class": {name: {"precision": float(precision[i]), "recall": float(recall[i]), "f1": float(f1[i]),
                             "support": int(support[i])} for i, name in enumerate(labels)},
        "calibration": bins,
    }


def calibration(
    confidence: Float[np.ndarray, "E"], hit: Bool[np.ndarray, "E"], bins: int = 15
) -> tuple[float, list[dict[str, Any]]]:
    """(Σ_b n_b / n · |accuracy_b − confidence_b|, the bins) over equal shares (low, high] of [0, 1]; an empty bin has nulls.

    Source: Guo et al. 2017, eq. 3.
    """
    edges = np.linspace(0, 1, bins + 1)
    own, gap, found = np.searchsorted(edges[1:-1], confidence), 0.0, []
    for b in range(bins):
        mine = own == b
        sure, right = (float(x[mine].mean()) if mine.any() else None for x in (confidence, hit))
        gap += 0.0 if sure is None else float(mine.mean()) * abs(right - sure)
        found.append({"low": float(edges[b]), "high": float(edges[b + 1]), "confidence": sure, "accuracy": right,
                      "count": int(mine.sum())})
    return gap, found


def regression(label: Float[np.ndarray, "E"], value: Float[np.ndarray, "E"]) -> dict[str, float]:
    """MAE, RMSE, R², Spearman's rank correlation (left out where one side is constant)."""
    from sklearn import metrics as sk

    found = {
        "mae": float(sk.mean_absolute_error(label, value)),
        "rmse": float(sk.root_mean_squared_error(label, value)),
    }
    if len(label) > 1 and np.ptp(label) > 0:
        found["r2"] = float(sk.r2_score(label, value))
        if np.ptp(value) > 0:
            from scipy import stats

            found["spearman"] = float(stats.spearmanr(label, value).statistic)
    return found


def language_model(loss: Float[np.ndarray, "E"], hit: Float[np.ndarray, "E"]) -> dict[str, float]:
    """Perplexity = exp(mean loss of the read tokens), and the share of them that were predicted exactly."""
    return {"perplexity": float(np.exp(min(loss.mean(), 80.0))), "accuracy": float(hit.mean())}


def alignment(vector: Float[np.ndarray, "E D"], group: Int[np.ndarray, "E"]) -> float:
    """E ‖f(x) − f(y)‖² over groups of two unit vectors; 0 is perfect, 2 is chance.

    Source: Wang & Isola 2020, eq. 1 with α = 2.
    """
    pairs = vector[np.argsort(group, kind="stable")].reshape(-1, 2, vector.shape[-1])
    return float(np.square(pairs[:, 0] - pairs[:, 1]).sum(-1).mean())


def uniformity(vector: Float[np.ndarray, "E D"], group: Int[np.ndarray, "E"]) -> float:
    """log E exp(−2 ‖f(x) − f(y)‖²) over all pairs of unit vectors of two groups; 0 where all collapse, lower is better.

    Source: Wang & Isola 2020, eq. 2 with t = 2.
    """
    total, pairs = 0.0, 0
    for start in range(0, len(vector), 1024):
        rows = slice(start, start + 1024)
        other = group[rows, None] != group[None]
        total += float(np.exp(4 * (vector[rows] @ vector.T) - 4, where=other, out=np.zeros(other.shape)).sum())
        pairs += int(other.sum())
    return float(np.log(total / pairs)) if pairs else 0.0


def retrieval(vector: Float[np.ndarray, "E D"], group: Int[np.ndarray, "E"]) -> dict[str, float]:
    """Recall@1 and MRR of finding another vector of the same group among all others; ties rank against us."""
    rank = np.empty(len(vector))
    for start in range(0, len(vector), 1024):
        rows = np.arange(start, min(start + 1024, len(vector)))
        score = vector[rows] @ vector.T
        score[np.arange(len(rows)), rows] = -np.inf
        same = group[rows, None] == group[None]
        same[np.arange(len(rows)), rows] = False
        best = np.where(same, score, -np.inf).max(1, keepdims=True)
        rank[rows] = 1 + ((score >= best) & ~same).sum(1)
        rank[rows[~same.any(1)]] = np.inf
    return {"recall@1": float((rank == 1).mean()), "mrr": float((1 / rank).mean())}
