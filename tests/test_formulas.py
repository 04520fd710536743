"""Losses against their formulas in float64, metrics against numbers derived by hand, blocks against what they promise."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from ecrec_jax import block, factored, lookup, losses, metrics, products, section
from ecrec_jax.optimizer.adamw import clipped
from ecrec_jax.task.classification import Classification
from ecrec_jax.task.regression import Regression
from ecrec_jax.types import Example, Facts, InputError, Noise
from tests import world

RNG = np.random.default_rng(0)
LOGITS, LABEL = RNG.normal(size=(4, 5, 7)) * 3, RNG.integers(0, 7, (4, 5))


def softmax_loss(logits, target):
    """−Σ target · log softmax, float64."""
    normal = logits - logits.max(-1, keepdims=True)
    return -(target * (normal - np.log(np.exp(normal).sum(-1, keepdims=True)))).sum(-1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_cross_entropy(smoothing):
    target = (1 - smoothing) * np.eye(7)[LABEL] + smoothing / 7
    found = losses.cross_entropy(jnp.asarray(LOGITS, "f4"), jnp.asarray(LABEL), smoothing)
    np.testing.assert_allclose(found, softmax_loss(LOGITS, target), rtol=2e-6, atol=1e-6)


def test_factored_cross_entropy_is_the_plain_one():
    query, table, bias = RNG.normal(size=(4, 5, 6)), RNG.normal(size=(7, 6)), RNG.normal(size=7)
    outputs = factored.Factored(*(jnp.asarray(x, "f4") for x in (query, table, bias)))
    np.testing.assert_allclose(losses.factored_cross_entropy(outputs, jnp.asarray(LABEL)),
                               softmax_loss(query @ table.T + bias, np.eye(7)[LABEL]), rtol=1e-5)
    np.testing.assert_allclose(outputs.at(jnp.asarray(LABEL)[..., None])[..., 0],
                               np.take_along_axis(np.asarray(outputs.logits()), LABEL[..., None], -1)[..., 0], rtol=1e-5)


@pytest.mark.parametrize("slots,copies", [(2, False), (3, True)])
def test_logits_are_the_product_and_the_bias(slots, copies):
    """4 rows of slots with 8 numbers each, 300 ids, of which one has no share; the table, 300 · 8, is copied with its bias for more
    queries than it has columns alone."""
    rng = np.random.default_rng(0)
    query, table, bias = (rng.normal(size=shape).astype("f4") for shape in ((4, slots, 8), (300, 8), (300,)))
    bias[7] = factored.LEAST
    outputs = factored.Factored(*map(jnp.asarray, (query, table, bias)))
    np.testing.assert_allclose(outputs.logits(), query.astype("f8") @ table.T + bias, rtol=1e-6, atol=1e-5)
    text = jax.jit(lambda o: o.logits()).lower(outputs).as_text()
    assert ("concatenate" in text) == copies


@pytest.mark.parametrize("size", [1, 3, 6, 7, 8, None])   # of 7 ids
def test_tiles_change_nothing(size):
    """Loss, gradients and the likeliest id are those of all logits at once."""
    rng = np.random.default_rng(1)
    outputs = factored.Factored(*(jnp.asarray(rng.normal(size=shape), "f4") for shape in ((4, 5, 6), (7, 6), (7,))))
    plain = lambda o: jax.nn.logsumexp(o.logits(), -1).sum()  # noqa: E731
    found = jax.value_and_grad(lambda o: o.normaliser(size).sum())(outputs)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(jax.value_and_grad(plain)(outputs)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(outputs.best(size), outputs.logits().argmax(-1))
    tied = outputs._replace(table=0 * outputs.table, bias=jnp.asarray([0.0, 1, 0, 1, 0, 1, 0]))
    np.testing.assert_array_equal(tied.best(size), np.ones((4, 5)))


@pytest.mark.parametrize("groups", [5, 1])       # of 5 slots a row: ids of each, or of all
@pytest.mark.parametrize("at_a_time", [1, 3, 100])   # of 4 groups or 20
def test_logits_of_some_ids_in_parts(groups, at_a_time, monkeypatch):
    """The picked ones of all logits, and their gradients, ids that come twice and groups without any included, however many groups
    are gathered at a time."""
    rng, ids = np.random.default_rng(0), np.random.default_rng(1).integers(1, 7, (4, groups, 3))
    ids[1, :, 0], ids[1, :, 1], weight = 4, 4, np.ones((4, 5, 3))
    ids[2], weight[2] = 0, 0                     # a row of no weight: where it is a part of its own, it is skipped
    outputs = factored.Factored(*(jnp.asarray(rng.normal(size=shape), "f4") for shape in ((4, 5, 6), (7, 6), (7,))))
    monkeypatch.setitem(products.GATHERED, "cpu", 18 * at_a_time)
    each = np.repeat(ids, 5 // groups, 1)
    loss = lambda read: lambda *x: (jnp.sin(read(factored.Factored(*x))) * weight).sum()  # noqa: E731
    picked = loss(lambda x: jnp.take_along_axis(x.logits(), each, -1))
    expected = jax.value_and_grad(picked, (0, 1, 2))(*outputs)
    found = jax.jit(jax.value_and_grad(loss(lambda x: x.at(ids)), (0, 1, 2)))(*outputs)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), found, expected)


def test_tiles_keep_memory_small():
    """Compiled for 1,024 slots and 54,542 ids, whose logits take 223 MB; those of a tile of 8,192 ids 34."""
    given = factored.Factored(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((8, 128, 64), (54542, 64), (54542,))))
    sizes = [jax.jit(jax.grad(lambda o, size=size: o.normaliser(size).sum())).lower(given).compile().memory_analysis()
             .temp_size_in_bytes for size in (54542, None)]
    assert sizes[0] > 220e6 and sizes[1] < sizes[0] / 2, sizes


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_binary_cross_entropy(smoothing):
    label = RNG.integers(0, 2, LOGITS.shape)
    target, chance = label * (1 - smoothing) + smoothing / 2, 1 / (1 + np.exp(-LOGITS))
    wanted = -(target * np.log(chance) + (1 - target) * np.log(1 - chance)).mean(-1)
    found = losses.binary_cross_entropy(jnp.asarray(LOGITS, "f4"), jnp.asarray(label, "f4"), smoothing)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert np.isfinite(losses.binary_cross_entropy(jnp.full((1, 1, 1), 1e4), jnp.zeros((1, 1, 1)))).all()


def test_squared_error_is_in_units_of_the_spread():
    found = losses.squared_error(jnp.array([[5.0]]), jnp.array([[2.0]]), 1.5)
    assert float(found[0, 0]) == 4.0   # ((5 − 2) / 1.5)²


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal(gamma, smoothing):
    chance = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    target = (1 - smoothing) * np.eye(7)[LABEL] + smoothing / 7
    found = losses.focal(jnp.asarray(LOGITS, "f4"), jnp.asarray(LABEL), gamma, smoothing)
    np.testing.assert_allclose(found, -(target * (1 - chance) ** gamma * np.log(chance)).sum(-1), rtol=1e-5, atol=1e-6)
    chance, label = 1 / (1 + np.exp(-LOGITS)), RNG.integers(0, 2, LOGITS.shape)
    target = (1 - smoothing) * label + smoothing / 2
    wanted = -(target * (1 - chance) ** gamma * np.log(chance) + (1 - target) * chance ** gamma * np.log(1 - chance)).mean(-1)
    found = losses.binary_focal(jnp.asarray(LOGITS, "f4"), jnp.asarray(label, "f4"), gamma, smoothing)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    sure = jnp.array([[[1e4, 0.0, -1e4]]])   # chances 1 and 0
    for form, right in ((losses.focal, jnp.zeros((1, 1), int)), (losses.binary_focal, jnp.array([[[1.0, 0.0, 0.0]]]))):
        loss, slope = jax.value_and_grad(lambda z, form=form, right=right: form(z, right, gamma, smoothing).sum())(sure)
        assert np.isfinite(loss) and np.isfinite(slope).all()


def test_focal_without_focus_is_cross_entropy():
    """And the task takes one or the other."""
    logits, label = jnp.asarray(LOGITS, "f4"), jnp.asarray(LABEL)
    np.testing.assert_allclose(losses.focal(logits, label, 0.0, 0.1), losses.cross_entropy(logits, label, 0.1), rtol=1e-5,
                               atol=1e-6)
    several = jnp.asarray(RNG.integers(0, 2, LOGITS.shape), "f4")
    np.testing.assert_allclose(losses.binary_focal(logits, several, 0.0, 0.1), losses.binary_cross_entropy(logits, several, 0.1),
                               rtol=1e-5, atol=1e-6)
    for multi, given, form in ((False, label, losses.focal), (True, several, losses.binary_focal)):
        task = Classification(multi, 0.1, 2.0, None, tuple("abcdefg"), (1,) * 7)
        assert (task.loss(logits, {"label": given}, None) == form(logits, given, 2.0, 0.1)).all()
    with pytest.raises(InputError, match=r"task\.focal_gamma is -1"):
        Classification(False, 0.0, -1.0, None, ("a", "b"), (1, 1))


def test_huber():
    """In units of the spread, 1.5: an error of 3 is 2, of 0.75 is a half; δ = 1: 1 · (2 · 2 − 1) = 3, and ½² = 1/4."""
    value, label = jnp.array([[5.0, 1.25, -1.0]]), jnp.array([[2.0, 2.0, 2.0]])
    assert losses.huber(value, label, 1.0, 1.5).tolist() == [[3.0, 0.25, 3.0]]
    slope = jax.grad(lambda v: losses.huber(v, label, 1.0, 1.5).sum())(value)
    np.testing.assert_allclose(slope, [[2 / 1.5, -1 / 1.5, -2 / 1.5]], rtol=1e-6)   # no more than at δ
    assert (losses.huber(value, label, 1e3, 1.5) == losses.squared_error(value, label, 1.5)).all()
    for delta, form in ((1.0, [[3.0, 0.25, 3.0]]), (None, losses.squared_error(value, label, 1.5).tolist())):
        assert Regression(delta, 1.5).loss(value, {"label": label}, None).tolist() == form
    with pytest.raises(InputError, match=r"task\.huber_delta is 0"):
        Regression(0.0, 1.5)


def test_info_nce():
    vector = RNG.normal(size=(6, 4))
    vector /= np.linalg.norm(vector, axis=1, keepdims=True)
    pair, other = np.array([0, 0, 1, 1, 2, 3]), ~np.eye(6, dtype=bool)
    found = np.asarray(losses.info_nce(jnp.asarray(vector, "f4"), jnp.asarray(vector, "f4"), jnp.asarray(pair[:, None] == pair),
                                       jnp.asarray(other), 0.1))
    score = np.exp(vector @ vector.T / 0.1)
    for i, partner in enumerate([1, 0, 3, 2]):
        assert found[i] == pytest.approx(-math.log(score[i, partner] / score[i][other[i]].sum()), rel=1e-4)
    assert found[4] == found[5] == 0   # no partner: nothing to learn


def test_class_weights_weigh_the_mean():
    """Balanced: 5 + 3 + 2 examples, so 10/(3·5), 10/(3·3), 10/(3·2)."""
    task = Classification(False, 0.0, 0.0, "balanced", ("a", "b", "c"), (5, 3, 2))
    np.testing.assert_allclose(task.weight(), [10 / 15, 10 / 9, 10 / 6], rtol=1e-6)
    prepared = task.prepare(Example(np.arange(4, dtype="i4"), np.zeros(4, "i4"), 2, 0), np.random.default_rng(0))
    assert prepared["weight"][0] == np.float32(10 / 6) and prepared["slot"][0] == 0
    with pytest.raises(InputError, match=r"task\.class_weights has 2 numbers"):
        Classification(False, 0.0, 0.0, [1.0, 2.0], ("a", "b", "c"), (5, 3, 2))
    for weight in (0.0, -1.0):   # rows without weight would be left out of the metrics too
        with pytest.raises(InputError, match=f"task.class_weights: {weight:g} is too small, each must be above 0"):
            Classification(False, 0.0, 0.0, [1.0, weight, 1.0], ("a", "b", "c"), (5, 3, 2))


def test_normalised_weights_sum_to_one_and_zero_stays():
    weight = jnp.array([[1.0, 3.0], [0.0, 4.0]])
    assert float(block.normalise(weight, lambda x: x).sum()) == 1.0
    assert float(block.normalise(weight, lambda x: 2 * x).sum()) == 0.5      # two devices with equal shares
    assert (block.normalise(0 * weight, lambda x: x) == 0).all()


def test_classification_metrics():
    """Labels 0 0 0 1 1 2, predicted 0 0 1 1 0 1: hits 2 + 1 + 0 of 6.

    Class 0: precision 2/3, recall 2/3, F1 2/3. Class 1: precision 1/3, recall 1/2, F1 2/5. Class 2: 0.
    Macro F1 = (2/3 + 2/5) / 3 = 16/45; weighted = (3 · 2/3 + 2 · 2/5) / 6 = 7/15; micro = accuracy = 1/2.
    MCC = (c·s − Σ p·t) / √((s² − Σ p²)(s² − Σ t²)) = (18 − 15) / √(18 · 22), p = (3, 3, 0), t = (3, 2, 1).
    """
    scores = np.eye(3)[[0, 0, 1, 1, 0, 1]] * 0.8 + 0.1 / 1.5
    found = metrics.classification(np.array([0, 0, 0, 1, 1, 2]), scores, ("a", "b", "c"))
    wanted = {"accuracy": 1 / 2, "macro_f1": 16 / 45, "weighted_f1": 7 / 15, "micro_f1": 1 / 2, "mcc": 3 / math.sqrt(18 * 22)}
    assert {k: found[k] for k in wanted} == pytest.approx(wanted)
    assert found["confusion_matrix"] == [[2, 1, 0], [1, 1, 0], [0, 1, 0]]
    assert found["per_class"]["b"] == pytest.approx({"precision": 1 / 3, "recall": 1 / 2, "f1": 2 / 5, "support": 2})


def test_roc_auc_of_two_classes():
    """Scores of the positives .9 .4, of the negatives .5 .1: three of four pairs are in order."""
    high = np.array([0.9, 0.5, 0.4, 0.1])
    assert metrics.classification(np.array([1, 0, 1, 0]), np.stack([1 - high, high], 1), ("n", "y"))["roc_auc"] == 0.75
    assert "roc_auc" not in metrics.classification(np.array([1, 1]), np.array([[0.5, 0.5]] * 2), ("n", "y"))


def test_log_loss():
    """As scikit-learn's, on f32 probabilities that don't sum to one exactly, with a class that has no example."""
    scores = np.random.default_rng(0).dirichlet(np.ones(3), 50).astype("f4")
    label, exact = np.arange(50) % 2, scores.astype("f8")
    wanted = sk.log_loss(label, exact / exact.sum(1, keepdims=True), labels=[0, 1, 2])
    assert metrics.classification(label, scores, ("a", "b", "c"))["log_loss"] == pytest.approx(wanted, rel=1e-12)
    sure = metrics.classification(np.array([0, 1]), np.array([[0, 1], [0, 1]], "f4"), ("n", "y"))["log_loss"]
    assert sure == pytest.approx(26 * math.log(2))   # certain and wrong once in two: half of -log 2^-52, not infinite


def test_average_precision():
    """Positives rank 1 and 3 of 4: precision 1 at half the recall, 2/3 at the other half: 5/6. Of several classes their mean."""
    high = np.array([0.9, 0.5, 0.4, 0.1])
    found = metrics.classification(np.array([1, 0, 1, 0]), np.stack([1 - high, high], 1), ("n", "y"))
    assert found["pr_auc"] == pytest.approx(5 / 6)
    scores, label = RNG.dirichlet(np.ones(3), 200), np.arange(200) % 3
    wanted = sk.average_precision_score(np.eye(3)[label], scores, average="macro")
    assert metrics.classification(label, scores, ("a", "b", "c"))["pr_auc"] == pytest.approx(wanted)
    truth = RNG.integers(0, 2, scores.shape)
    assert metrics.multi_label(truth, scores, ("a", "b", "c"))["pr_auc"] == pytest.approx(sk.average_precision_score(truth, scores))
    assert "pr_auc" not in metrics.classification(np.array([1, 1]), np.array([[0.5, 0.5]] * 2), ("n", "y"))


def test_calibration():
    """.95 and .97 with one of two right, .6 and .6 both right: (2 · |.5 − .96| + 2 · |1 − .6|) / 4. Bins as in scikit-learn."""
    gap, bins = metrics.calibration(np.array([0.95, 0.97, 0.6, 0.6]), np.array([True, False, True, True]))
    assert gap == pytest.approx((2 * 0.46 + 2 * 0.4) / 4) and len(bins) == 15
    assert [(b["count"], b["accuracy"]) for b in bins if b["count"]] == [(2, 1.0), (2, 0.5)]
    assert bins[0] == {"low": 0.0, "high": pytest.approx(1 / 15), "confidence": None, "accuracy": None, "count": 0}
    confidence = np.concatenate([RNG.uniform(0, 1, 500), np.linspace(0, 1, 16)])   # the edges too
    hit = RNG.uniform(0, 1, len(confidence)) < confidence
    gap, bins = metrics.calibration(confidence, hit)
    right, sure = calibration_curve(hit, confidence, n_bins=15)
    np.testing.assert_allclose([b["accuracy"] for b in bins], right)
    np.testing.assert_allclose([b["confidence"] for b in bins], sure)
    assert gap == pytest.approx(sum(b["count"] * abs(a - c) for b, a, c in zip(bins, right, sure, strict=True)) / len(hit))
    scores = RNG.dirichlet(np.ones(3), 100)
    found = metrics.classification(np.arange(100) % 3, scores, ("a", "b", "c"))
    assert found["ece"] == metrics.calibration(scores.max(-1), scores.argmax(-1) == np.arange(100) % 3)[0]
    assert sum(b["count"] for b in found["calibration"]) == 100


def test_multi_label_metrics():
    """Two texts, two labels: one text fully right; label a: F1 1, label b: one missed of one, F1 0.
    Four scores, each in a bin of its own."""
    found = metrics.multi_label(np.array([[1, 0], [0, 1]]), np.array([[0.9, 0.1], [0.2, 0.3]]), ("a", "b"))
    assert found["accuracy"] == 0.5 and found["macro_f1"] == 0.5 and found["micro_f1"] == pytest.approx(2 / 3)
    assert found["ece"] == pytest.approx((0.1 + 0.1 + 0.2 + 0.7) / 4) and sum(b["count"] for b in found["calibration"]) == 4


def test_regression_metrics():
    """Errors 1, −1, 2 on labels 1, 2, 6 (mean 3, spread Σ(y − 3)² = 14): MAE 4/3, RMSE √2, R² 1 − 6/14; ranks agree."""
    found = metrics.regression(np.array([1.0, 2.0, 6.0]), np.array([0.0, 3.0, 4.0]))
    assert found == pytest.approx({"mae": 4 / 3, "rmse": math.sqrt(2), "r2": 1 - 6 / 14, "spearman": 1.0})
    assert "spearman" not in metrics.regression(np.array([1.0, 2.0]), np.array([1.0, 1.0]))


def test_language_model_metrics():
    """Mean loss log 4: perplexity 4."""
    found = metrics.language_model(np.log(np.array([2.0, 8.0])), np.array([1.0, 0.0]))
    assert found == pytest.approx({"perplexity": 4.0, "accuracy": 0.5})


def test_retrieval_ranks_ties_against_us():
    """Vectors 0 and 1 are partners and nearest; 2 and 3 are partners, but 2 lies as near to 0 as to 3: rank 2."""
    vector = np.array([[1.0, 0.0], [0.98, 0.2], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    found = metrics.retrieval(vector, np.array([0, 0, 1, 1, 2]))
    assert found["recall@1"] == 2 / 5 and found["mrr"] == pytest.approx((1 + 1 + 1 / 2 + 1 / 2 + 0) / 5)


def test_alignment_and_uniformity():
    """Pairs at right angles and equal: (2 + 0) / 2. Squared distances over groups, both ways: 0 2 2 2 2 ..."""
    vector, group = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]), np.array([7, 3, 7, 3])
    assert metrics.alignment(vector, group) == 1.0
    # from (1, 0) of group 7 to both of group 3: 2, 2; from (0, 1) of group 7: 0, 0
    assert metrics.uniformity(vector, group) == pytest.approx(math.log((2 * math.exp(-4) + 2) / 4))
    vector = RNG.normal(size=(2500, 3))   # several tiles; at random on the sphere
    vector /= np.linalg.norm(vector, axis=1, keepdims=True)
    assert metrics.uniformity(vector, np.arange(2500) // 2) == pytest.approx(math.log((1 - math.exp(-8)) / 8), abs=0.01)
    assert metrics.uniformity(np.ones((4, 1)), np.array([0, 0, 1, 1])) == 0 == metrics.uniformity(np.ones((2, 1)), np.zeros(2, int))


def test_dropout_mask():
    """Right share, mean kept, another mask for another seed, site or row, the same for the same row anywhere."""
    x, noise = jnp.ones((64, 16, 128)), Noise(jnp.uint32(7), jnp.arange(64))
    found = np.asarray(block.dropout(x, noise, 3, 0.1))
    assert set(np.unique(found)) == {0.0, np.float32(1 / 0.9)}
    n = found.size
    assert abs((found == 0).mean() - 0.1) < 5 * math.sqrt(0.09 / n)
    for axis in range(3):   # no index is favoured
        share = (found == 0).mean(tuple(a for a in range(3) if a != axis))
        assert np.abs(share - 0.1).max() < 5 * math.sqrt(0.09 / (n / found.shape[axis]))
    for other in (block.dropout(x, noise._replace(seed=jnp.uint32(8)), 3, 0.1), block.dropout(x, noise, 4, 0.1)):
        assert abs(((np.asarray(other) == 0) & (found == 0)).mean() - 0.01) < 1e-3   # independent
    part = block.dropout(x[:5], noise._replace(row=jnp.array([9, 3, 60, 1, 0])), 3, 0.1)
    assert (np.asarray(part) == found[[9, 3, 60, 1, 0]]).all()
    assert block.dropout(x, None, 3, 0.1) is x and block.dropout(x, noise, 3, 0.0) is x


@pytest.mark.parametrize("rows", [2, lookup.FEW + 1])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_tables_gradient_counts_every_use(rows, dtype):
    """Thousands of tokens of one row: a sum in bfloat16 would stand still at 256."""
    ids = jnp.asarray(np.random.default_rng(0).integers(0, 2, (4, 2000)))
    table, weight = jnp.ones((rows, 3), dtype), jnp.asarray([1, 2, 4], dtype)
    found = jax.grad(lambda t: (lookup.lookup(t, ids) * weight).astype(jnp.float32).sum())(table)
    wanted = np.bincount(np.asarray(ids).ravel(), minlength=rows)[:, None] * np.array([1.0, 2, 4])
    assert found.dtype == table.dtype
    np.testing.assert_allclose(np.asarray(found, "f8"), wanted, rtol=4e-3 if dtype == "bfloat16" else 0)


def test_mean_pooling_is_over_the_segment_of_the_slot():
    hidden = jnp.arange(12.0).reshape(1, 6, 2)
    batch = {"segment": jnp.array([[1, 1, 2, 2, 2, 0]]), "slot": jnp.array([[0, 2, 4]])}
    np.testing.assert_allclose(block.average(hidden, batch)[0], [[1, 2], [6, 7], [6, 7]])
    np.testing.assert_allclose(block.read(hidden, batch["slot"])[0], [[0, 1], [4, 5], [8, 9]])


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_pooling_of_heads(pooling):
    made = world.parts("classification", f"head.pooling={pooling}")
    assert any("pooler" in name for name in made.parameters) == (pooling == "cls")
    batch = {k: jnp.asarray(x) for k, x in world.batches(made.task, "classification", 1)[0].items()}
    net = made.graph.net(made.parameters)
    hidden = net.model(batch)
    pooled = block.average(hidden, batch) if pooling == "mean" else net.model.pool(block.read(hidden, batch["slot"]))
    kernel, bias = (made.parameters[f"head.classifier.{leaf}"] for leaf in ("kernel", "bias"))
    np.testing.assert_allclose(net(batch), pooled @ kernel + bias, atol=1e-5)


def test_regression_head_speaks_in_units_of_the_labels():
    made = world.parts("regression")
    batch = {k: jnp.asarray(x) for k, x in world.batches(made.task, "regression", 1)[0].items()}
    net = made.graph.net(made.parameters | {"head.classifier.kernel": jnp.zeros((32, 1))})
    assert (np.asarray(net(batch)) == 2.0).all()                     # a silent network says the labels' mean
    assert isinstance(made.task, Regression) and made.task.scale == 1.5


def test_activations():
    x = jnp.linspace(-3, 3, 13)
    exact = np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in np.asarray(x, "f8")])
    np.testing.assert_allclose(block.activation("gelu")(x), exact, atol=1e-6)
    tanh = np.array([0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) for v in np.asarray(x, "f8")])
    np.testing.assert_allclose(block.activation("gelu_new")(x), tanh, atol=1e-6)
    with pytest.raises(InputError, match="'swosh'"):
        block.activation("swosh")


def test_layer_norm_computes_in_float32():
    norm = block.LayerNorm(64, 1e-12)
    x = RNG.normal(3, 0.01, (5, 64))
    wanted = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
    np.testing.assert_allclose(norm(jnp.asarray(x, "f4")), wanted, atol=2e-3)
    assert norm(jnp.asarray(x, "bfloat16")).dtype == jnp.bfloat16


def test_select_covers_every_path():
    assert block.select(["a.bias", "a.kernel"], ["bias$"], ["kernel$"], ("x", "y")) == {"a.bias": True, "a.kernel": False}
    for yes, no, word in ((["bias"], ["none"], "neither"), (["a"], ["kernel"], "both")):
        with pytest.raises(InputError, match=f"a.kernel matches {word} of x and y"):
            block.select(["a.kernel", "a.bias"], yes, no, ("x", "y"))
    with pytest.raises(InputError, match="not a regular expression"):
        block.select(["a"], ["("], [], ("x", "y"))


def test_accumulation_deals_rows_out():
    """Micro-batch k of 6 rows in 3 holds rows k and k + 3, so that on a mesh every device keeps its own: 0·3 + 1·4 + 2·5."""
    made = world.parts("classification", "gradient=accumulate", "gradient.count=3")
    product = lambda t, rows: t[0] * rows["row"][0] * rows["row"][1]  # noqa: E731
    loss, gradient = made.gradient(product, jnp.ones(1), {"row": jnp.arange(6)})
    assert float(loss) == float(gradient[0]) == 14


def test_a_new_vocabulary_bias_is_the_log_frequency():
    """Add-one shares of the training texts' tokens, special tokens unseen; a loss of the unigram entropy at once."""
    from ecrec_jax.head.tokens import log_frequency
    np.testing.assert_array_equal(log_frequency(None, (0,), 5), np.zeros(5))
    np.testing.assert_allclose(np.exp(log_frequency((9, 9, 3, 1), (0, 1), 5)), np.array([1, 1, 4, 2, 1]) / 9, rtol=1e-6)


def test_a_long_gradient_is_clipped_and_a_short_one_is_left_alone():
    """3, 4 and 12 have norm 13."""
    given = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([[12.0]])}
    for most, share in ((6.5, 0.5), (13.0, 1.0), (20.0, 1.0)):
        found = clipped(given, most)
        assert all((found[key] == given[key] * share).all() for key in given), most
    assert all((x == 0).all() for x in clipped(jax.tree.map(jnp.zeros_like, given), 1.0).values())


def test_each_layer_learns_slower_than_the_one_above():
    """Rates of Howard & Ruder, and the decayed share of the weights with them."""
    options = world.section_of("optimizer", "adamw") | {"layer_decay": 0.5, "clip": None, "weight_decay": 0.5, "learning_rate": 0.1,
                                                        "schedule": "constant", "warmup": 0.0}
    names = {"model.embeddings.word_embeddings.embedding": 0.125, "model.encoder.layer.0.attention.output.dense.kernel": 0.25,
             "model.encoder.layer.1.output.dense.bias": 0.5, "model.pooler.dense.kernel": 1.0, "head.classifier.kernel": 1.0}
    made = section.make(options, "optimizer", Facts(steps=10))
    assert made.shares(list(names)) == names
    ones = {name: jnp.ones((2, 3)) for name in names}
    moved, _ = made.update(ones, made.init(ones), ones)   # Adam's first step is 1 in every number
    for name, share in names.items():
        np.testing.assert_allclose(moved[name], -0.1 * share * (1.0 if name.endswith("bias") else 1.5), rtol=1e-5)
    names = {"model.items.embedding": 0.25, "model.position.embedding": 0.25, "model.text.kernel": 0.25, "model.norm.scale": 1.0,
             "model.layer.0.norm.0.scale": 0.5, "model.text_encoder.model.encoder.layer.1.output.dense.bias": 0.125,
             "model.text_encoder.model.encoder.layer.0.output.dense.bias": 0.0625,
             "model.text_encoder.model.embeddings.LayerNorm.bias": 0.03125}
    assert made.shares(list(names)) == names
    names = {"model.vectors.embedding": 0.25, "model.weights.embedding": 0.25, "model.slots.layer.0.kernel": 0.5, "head.x": 1.0}
    assert made.shares(list(names)) == names
    with pytest.raises(InputError, match="optimizer.layer_decay is 0"):
        section.make(options | {"layer_decay": 0.0}, "optimizer", Facts(steps=10))
