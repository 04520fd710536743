"""Tests between rows: their formulas, how often they claim what isn't so, and how often they see what is."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from ecrec_jax.use.significance import compare, counts_of, holm


def runs(rng, hard, sigma, shift, seeds=3):
    """Right or wrong of simulated runs: examples differ in difficulty, seeds in skill (logits), rows by `shift`."""
    skill = rng.normal(shift, sigma, (seeds, 1))
    return [x[:, None].astype("f8") for x in rng.random((seeds, len(hard))) < 1 / (1 + np.exp(-(hard + skill)))]


def p_values(rng, shifts, sigma, examples=300, samples=200):
    """Holm's p of all pairs of rows of a simulated table."""
    hard = rng.normal(1.5, 2, examples)
    rows = [runs(rng, hard, sigma, shift) for shift in shifts]
    found = [compare(rows[j], rows[i], lambda m: m[..., 0], int(rng.integers(1 << 30)), samples)
             for i in range(len(rows)) for j in range(i)]
    return np.array([x.p for x in found]), holm([x.p for x in found])


@pytest.mark.parametrize("sigma", [pytest.param(0.0, marks=pytest.mark.slow), 0.2])
def test_equal_rows_are_seldom_said_to_differ(sigma):
    """200 tables of three equal rows with three seeds: a false claim in about 5 % of the comparisons, and of the tables, at most.
    Of 200 tables of which 5 % have one, 19 or more have probability .003."""
    rng = np.random.default_rng(0)
    found = [p_values(rng, [0, 0, 0], sigma) for _ in range(200)]
    single, tables = np.mean([p < 0.05 for p, _ in found]), sum(min(corrected) < 0.05 for _, corrected in found)
    print(f"seeds' spread {sigma}: {single:.3f} of comparisons, {tables / 200:.3f} of tables")
    assert single < 0.07 and tables < 19


def test_one_example_says_nothing():
    """A test of one user is compared without a claim."""
    found = compare([np.ones((1, 1))], [np.zeros((1, 1))], lambda m: m[..., 0], 0, 100)
    assert found.difference == 1 and found.p == 1


@pytest.mark.parametrize("shift,points,least", [(0.25, 3.1, 0.3), (0.5, 6.1, 0.9), (1.0, 11.3, 0.98)])
def test_a_difference_is_seen(shift, points, least):
    """Of 50 tables with one row so many points of accuracy better, three seeds each, 1,000 examples."""
    rng = np.random.default_rng(1)
    seen = np.mean([p_values(rng, [0, shift], 0.05, 1000)[1][0] < 0.05 for _ in range(50)])
    hard = rng.normal(1.5, 2, 100_000)
    better, base = (np.mean(runs(rng, hard, 0, x)) for x in (shift, 0))
    print(f"{points} points: seen in {seen:.2f} of the tables")
    assert seen >= least and 100 * (better - base) == pytest.approx(points, abs=0.4)


def test_one_run_against_one_is_the_paired_test_over_examples():
    """Without seeds: the bootstrap's p is the paired t-test's; the permutation's the exact sign test's of the discordant pairs."""
    rng = np.random.default_rng(2)
    a, b = (rng.random((2, 400, 1)) < [[[0.8]], [[0.74]]]).astype("f8")
    found = compare([a], [b], lambda m: m[..., 0], samples=20_000)
    paired = stats.ttest_rel(a[:, 0], b[:, 0])
    assert found.difference == pytest.approx(a.mean() - b.mean()) and found.p_bootstrap == pytest.approx(paired.pvalue, rel=0.1)
    low, high = paired.confidence_interval()
    assert (found.low, found.high) == (pytest.approx(low, abs=3e-3), pytest.approx(high, abs=3e-3))
    difference = a[:, 0] - b[:, 0]
    assert found.effect == pytest.approx(difference.mean() / difference.std(ddof=1), rel=0.05)
    exact = stats.binomtest(int((a > b).sum()), int((a != b).sum())).pvalue
    assert found.p_permutation == pytest.approx(exact, rel=0.15) and found.p == max(found.p_permutation, found.p_bootstrap)


def test_seeds_alone_can_make_a_difference_uncertain():
    """One row's runs are right on nine, one and five tenths, the other's on four: 0.1 apart, with a standard error of 0.4 / √3
    from three runs alone, beside which that of a thousand examples is small."""
    *hits, four = [(np.arange(1000) % 10 < k)[:, None].astype("f8") for k in (9, 1, 5, 4)]
    found = compare(hits, [four], lambda m: m[..., 0])
    assert found.difference == pytest.approx(0.1) and found.p_permutation < 0.01 and found.p == found.p_bootstrap > 0.5
    assert found.low < -0.5


@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "micro_f1", "weighted_f1", "mae", "rmse"])
@pytest.mark.parametrize("several", [False, True])
def test_metrics_from_counts(name, several):
    """As scikit-learn has them, a class that never occurs included."""
    rng = np.random.default_rng(3)
    if name in ("mae", "rmse"):
        label, prediction = rng.normal(size=(2, 50))
        wanted = {"mae": sk.mean_absolute_error, "rmse": sk.root_mean_squared_error}[name](label, prediction)
    else:
        label, prediction = rng.random((2, 50, 4)) < [0.5, 0.3, 0.1, 0.0] if several else rng.integers(0, 3, (2, 50))
        average = {"average": name.removesuffix("_f1"), "zero_division": 0, "labels": range(4)} if name != "accuracy" else {}
        wanted = (sk.f1_score if average else sk.accuracy_score)(label, prediction, **average)
    found, metric = counts_of(name, label, prediction, 4)
    assert metric(found.mean(0)) == pytest.approx(wanted, abs=1e-12) and counts_of("roc_auc", label, prediction, 4) is None
    assert metric(np.stack([found.mean(0)] * 2)).shape == (2,)


def test_log_loss_from_counts():
    """As scikit-learn has it, of shares that sum to anything."""
    rng = np.random.default_rng(4)
    label, shares = rng.integers(0, 3, 50), rng.random((50, 3))
    found, metric = counts_of("log_loss", label, shares, 3)
    wanted = sk.log_loss(label, shares / shares.sum(1, keepdims=True))
    assert metric(found.mean(0)) == pytest.approx(wanted, abs=1e-12) and found.shape == (50, 1)


def test_equal_predictions_do_not_differ():
    same = [np.ones((20, 1))]
    found = compare(same, same, lambda m: m[..., 0])
    assert (found.difference, found.low, found.high, found.effect, found.p) == (0, 0, 0, 0, 1)


def test_holm():
    """By hand: .01·4, then .02·3, .03·2 (not below .06), .5·1."""
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06]) and holm([0.9, 0.8]) == [1, 1] and holm([]) == []
