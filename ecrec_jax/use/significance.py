"""Whether two rows of a table differ by more than chance: of the examples, and of the seeds."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from scipy import special

Counts = Float[np.ndarray, "E K"]       # what an example adds to the sums that a metric is made of
Metric = Callable[[Float[np.ndarray, "... K"]], Float[np.ndarray, "..."]]   # means over examples -> the metric
FEW = 3                                 # seeds from which on a difference may be claimed


@dataclasses.dataclass(frozen=True)
class Difference:
    """One row less another, in the metric's units, with the two-sided p of chance alone."""

    difference: float
    low: float            # 95 % confidence interval
    high: float
    effect: float         # the difference in standard deviations of a single example's (Cohen's d of pairs)
    p: float              # the larger of both
    p_permutation: float  # over examples
    p_bootstrap: float    # over examples and seeds


def counts_of(name: str, label: np.ndarray, prediction: np.ndarray, classes: int) -> tuple[Counts, Metric] | None:
    """(what each example adds, the metric of the mean of it) for accuracy, macro_f1, micro_f1, weighted_f1 (i[E] class ids or
    bool[E C] several labels), log_loss (predicted: f[E C] shares) and mae, rmse (f[E]); None for a metric that is no function of
    means over examples."""
    if name in ("mae", "rmse"):
        error = np.abs(np.asarray(prediction, "f8") - np.asarray(label, "f8"))[:, None]
        return (error, lambda m: m[..., 0]) if name == "mae" else (np.square(error), lambda m: np.sqrt(m[..., 0]))
    if name == "log_loss":
        own = np.take_along_axis(prediction, label[:, None], 1) / prediction.sum(1, keepdims=True)
        return -np.log(np.maximum(own, np.finfo("f8").eps)), lambda m: m[..., 0]
    several = label.ndim == 2
    if name == "accuracy":
        hit = (label == prediction).all(1) if several else label == prediction
        return hit[:, None].astype("f8"), lambda m: m[..., 0]
    if name not in ("macro_f1", "micro_f1", "weighted_f1"):
        return None
    truth, given = (x if several else np.eye(classes, dtype=bool)[x] for x in (label, prediction))
    found = np.concatenate([truth & given, given, truth], 1).astype("f8")

    def f1(means: Float[np.ndarray, "... K"]) -> Float[np.ndarray, "..."]:
        hit, said, is_ = np.split(means, 3, -1)
        if name == "micro_f1":
            hit, said, is_ = (x.sum(-1, keepdims=True) for x in (hit, said, is_))
        each = 2 * hit / np.maximum(said + is_, 1e-12)
        return each.mean(-1) if name != "weighted_f1" else (each * is_).sum(-1) / np.maximum(is_.sum(-1), 1e-12)

    return found, f1


def compare(first: Sequence[Counts], second: Sequence[Counts], metric: Metric, seed: int = 0, samples: int = 2000) -> Difference:
    """The mean metric of `first`'s runs less that of `second`'s, on the same examples.

    Two tests, of which the worse counts. Approximate randomisation (Noreen 1989): each example's results, means over a row's
    runs, change sides or not. Paired bootstrap (Efron & Tibshirani 1993; Koehn 2004): examples are drawn again for both sides
    at once, which gives the variance over examples; to it comes the variance between seeds, less what of it is the examples'
    own noise; p and interval are of Student's t with degrees of freedom after Satterthwaite (1946), in which the variance
    between seeds counts whole: three runs don't tell how much of it is which.
    """
    rng, examples = np.random.default_rng(seed), len(first[0])
    runs = [*first, *second]
    at_hand = np.array([metric(x.mean(0)) for x in runs])
    drawn = resampled(runs, metric, rng, samples)
    sides = (slice(0, len(first)), slice(len(first), None))
    gap = float(at_hand[sides[0]].mean() - at_hand[sides[1]].mean())
    over_examples = float((drawn[:, sides[0]].mean(1) - drawn[:, sides[1]].mean(1)).var(ddof=1))
    seeds = [of_seeds(at_hand[side], drawn[:, side]) for side in sides if len(at_hand[side]) > 1]
    variance = over_examples + max(0.0, sum(between - own for between, own, _ in seeds))
    freedom = variance**2 / max(over_examples**2 / max(examples - 1, 1) + sum(x**2 / (n - 1) for x, _, n in seeds), 1e-300)
    error = math.sqrt(variance)
    p_bootstrap = float(2 * special.stdtr(freedom, -abs(gap) / error)) if error > 0 else float(gap == 0)
    margin = float(special.stdtrit(freedom, 0.975)) * error if error > 0 else 0.0
    p_permutation = permuted(first, second, metric, rng, samples)
    effect = gap / math.sqrt(over_examples * examples) if over_examples > 0 else 0.0
    return Difference(gap, gap - margin, gap + margin, effect, max(p_bootstrap, p_permutation), p_permutation, p_bootstrap)


def resampled(runs: Sequence[Counts], metric: Metric, rng: np.random.Generator, samples: int) -> Float[np.ndarray, "R N"]:
    """The metric of every run on examples drawn with replacement, the same for all runs."""
    examples = len(runs[0])
    found, step = [], max(1, (1 << 22) // examples)
    for start in range(0, samples, step):
        times = rng.multinomial(examples, np.full(examples, 1 / examples), min(step, samples - start)).astype("f4")
        found.append(np.stack([metric((times @ x.astype("f4")).astype("f8") / examples) for x in runs], 1))
    return np.concatenate(found)


def of_seeds(at_hand: Float[np.ndarray, "N"], drawn: Float[np.ndarray, "R N"]) -> tuple[float, float, int]:
    """(variance of a row's mean as its runs differ, how much of that other examples would change, how many runs)."""
    count = len(at_hand)
    own = (drawn - drawn.mean(1, keepdims=True)).var(0, ddof=1).mean() * count / (count - 1)
    return float(at_hand.var(ddof=1)) / count, float(own) / count, count


def permuted(first: Sequence[Counts], second: Sequence[Counts], metric: Metric, rng: np.random.Generator, samples: int) -> float:
    """The share of random exchanges of sides, example by example, that give at least the difference at hand."""
    one, two = (np.mean(side, 0) for side in (first, second))
    examples, half = len(one), (one + two) / 2
    lean = ((one - two) / 2).astype("f4")
    gap = abs(float(metric(one.mean(0)) - metric(two.mean(0))))
    hits, step = 0, max(1, (1 << 22) // examples)
    for start in range(0, samples, step):
        sign = rng.integers(0, 2, (min(step, samples - start), examples), dtype=np.int8).astype("f4") * 2 - 1
        moved = (sign @ lean).astype("f8") / examples
        centre = half.mean(0)
        hits += int((np.abs(metric(centre + moved) - metric(centre - moved)) >= gap * (1 - 1e-6)).sum())
    return (hits + 1) / (samples + 1)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's p-values (1979): the k-th smallest of n, times n − k + 1, never below one before it, at most 1."""
    order, found, most = np.argsort(p, kind="stable"), [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        most = max(most, min(1.0, (len(p) - rank) * p[i]))
        found[i] = most
    return found
