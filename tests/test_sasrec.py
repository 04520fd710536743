"""SASRec in its three forms against plain formulas in float64, and what its dropout leaves out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ecrec_jax.block import dropout
from ecrec_jax.data import pack
from ecrec_jax.data.feed import Feed
from ecrec_jax.lookup import dropped
from ecrec_jax.model.sasrec import Sasrec
from ecrec_jax.types import Noise
from tests import world
from tests.test_recommend import contents, data, written

HEADS, KEPT, RATE = 4, 9, 0.3   # heads of a layer, data.max_length, what is dropped
EPSILON, SCALE = 1e-8, 32**0.5


class Named(dict):
    """Parameters by name, and which were asked for."""

    def __init__(self, given):
        super().__init__(given)
        self.read = set()

    def __getitem__(self, name):
        self.read.add(name)
        return super().__getitem__(name)


# ---- formulas, each of one history alone: `drop(x, site)` is what dropout leaves of x, all of it where nothing is trained
def norm(p, name, x, epsilon):
    """Ba et al. 2016, eq. 4."""
    unit = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)
    return unit * p[f"{name}.scale"] + p[f"{name}.bias"]


def dense(p, name, x):
    """W x + b."""
    return x @ p[f"{name}.kernel"] + p[f"{name}.bias"]


def sigmoid(x):
    """The logistic function."""
    return 1 / (1 + np.exp(-x))


def attention(p, name, asking, x, drop, site):
    """Of each place to itself and earlier ones, head by head (Vaswani et al. 2017, eq. 1 and section 3.2.2)."""
    q, k, v = (np.split(dense(p, f"{name}.{part}", y), HEADS, -1) for part, y in (("query", asking), ("key", x), ("value", x)))
    weight = np.zeros((HEADS, len(x), len(x)))
    for head in range(HEADS):
        for place in range(len(x)):
            score = np.exp(k[head][: place + 1] @ q[head][place] / np.sqrt(q[head].shape[1]))
            weight[head, place, : place + 1] = score / score.sum()
    weight = drop(weight, site)
    return dense(p, f"{name}.output", np.concatenate([weight[head] @ v[head] for head in range(HEADS)], -1))


def pointwise(p, name, x, drop, site):
    """Kang & McAuley 2018, eq. 4, with the dropout of its code."""
    inner = drop(np.maximum(dense(p, f"{name}.inner", x), 0), site)
    return drop(dense(p, f"{name}.outer", inner), site + 1)


def original(p, items, position, drop):
    """Kang & McAuley 2018 as model.py and modules.py of kang205/SASRec have it, but for attention's output projection, which came
    with its ports to PyTorch: queries alone are normalised, and what is normalised is added."""
    x = drop(items * SCALE + p["position.embedding"][position], 0)
    for i in range(2):
        query = norm(p, f"layer.{i}.norm.0", x, EPSILON)
        x = norm(p, f"layer.{i}.norm.1", query + attention(p, f"layer.{i}.attention", query, x, drop, 4 * i + 1), EPSILON)
        x = x + pointwise(p, f"layer.{i}.feed_forward", x, drop, 4 * i + 2)
    return norm(p, "norm", x, EPSILON)


def clean(p, items, position, drop):
    """g(x) = x + dropout(g(norm(x))) of both halves (Kang & McAuley 2018, section III-C), normalised at the end (Xiong et al. 2020,
    "On Layer Normalization in the Transformer Architecture", table 1)."""
    x = drop(items * SCALE + p["position.embedding"][position], 0)
    for i in range(2):
        normal = norm(p, f"layer.{i}.norm.0", x, EPSILON)
        x = x + drop(attention(p, f"layer.{i}.attention", normal, normal, drop, 4 * i + 1), 4 * i + 4)
        x = x + pointwise(p, f"layer.{i}.feed_forward", norm(p, f"layer.{i}.norm.1", x, EPSILON), drop, 4 * i + 2)
    return norm(p, "norm", x, EPSILON)


def ligr(p, items, position, drop):
    """x + σ(W x + b) ⊙ sublayer(norm(x)) of both halves (Borisyuk et al. 2025, arXiv:2502.03417, LiGR), the second one SwiGLU
    without bias (Shazeer 2020, eq. 6), as LiGRLayer and SwigluFeedForward of eSASRec's code (Tikhonovich et al. 2025,
    arXiv:2508.06450) have it: vectors are not scaled, nothing is normalised at the end, PyTorch's epsilon."""
    x = drop(items + p["position.embedding"][position], 0)
    for i in range(2):
        normal = norm(p, f"layer.{i}.norm.0", x, 1e-5)
        found = drop(attention(p, f"layer.{i}.attention", normal, normal, drop, 4 * i + 1), 4 * i + 4)
        x = x + sigmoid(dense(p, f"layer.{i}.gate.0", x)) * found
        normal = norm(p, f"layer.{i}.norm.1", x, 1e-5)
        gate, inner, outer = (p[f"layer.{i}.feed_forward.{part}.kernel"] for part in ("gate", "inner", "outer"))
        swish = normal @ gate * sigmoid(normal @ gate)
        found = drop(drop(swish * (normal @ inner), 4 * i + 2) @ outer, 4 * i + 3)
        x = x + sigmoid(dense(p, f"layer.{i}.gate.1", x)) * found
    return x


FORMS = {"sasrec": original, "sasrec_clean": clean, "esasrec": ligr}


def random_net(model, *words):
    """(the net of a model, its parameters in float64), where no scale is 1 and no bias 0."""
    made = world.parts("next_item", f"model={model}", *words)
    rng = np.random.default_rng(4)
    p = {k: np.asarray(x, "f8") for k, x in made.parameters.items()}
    p |= {k: x + 0.1 * rng.normal(size=x.shape) for k, x in p.items() if k.endswith(("scale", "bias"))}
    net = made.graph.net({k: jnp.asarray(x, jnp.float32) for k, x in p.items()})
    return made.task, net, Named({k.removeprefix("model."): x for k, x in p.items()})


def packed(task, folder, align, split):
    """(the row in which two histories lie, [(where, items, positions)])."""
    lists = {"u": "a b c d e f g h i", "v": "x y c z w a"}
    path = written(folder / "x.txt", "".join(f"{user} {items}\n" for user, items in lists.items()))
    corpus = data(path, format="lists", max_length=KEPT, align=align).load("", KEPT)
    feed = Feed(corpus.examples[split], task, None)
    feed.shape = pack.Shape(1, 16, 9 if split == "train" else 2, 9)
    batch = next(feed.batches(None, 0))
    number = {name: i + 1 for i, name in enumerate(corpus.catalogue.items)}
    histories = []
    for user, read, *_ in contents(corpus, split):
        items = np.array([number[name] for name in read.split()])
        assert read == lists[user][: len(read)]
        at = next(at for at in (np.flatnonzero(batch["segment"][0] == s) for s in (1, 2)) if len(at) == len(items))
        assert batch["tokens"][0, at].tolist() == items.tolist()
        histories.append((at, items, np.arange(len(items)) + (KEPT - len(items) if align == "right" else 0)))
    return jax.tree.map(jnp.asarray, batch), histories


def check(found, batch, states, table):
    """Logits at all slots of the row."""
    used = np.flatnonzero(batch["weight"][0])
    assert set(np.asarray(batch["slot"])[0, used]) <= set(states) and len(used) in (2, len(states))
    for slot in used:
        np.testing.assert_allclose(found[0, slot], table @ states[int(batch["slot"][0, slot])], atol=1e-5)


@pytest.mark.parametrize("align", ["left", "right"])
@pytest.mark.parametrize("model", FORMS)
def test_sasrec_is_its_formula(model, align, tmp_path):
    """At all places of two histories that share a row, and at the last ones alone."""
    task, net, p = random_net(model)
    for split in ("train", "test"):
        batch, histories = packed(task, tmp_path, align, split)
        states = {}
        for at, items, position in histories:
            states |= zip(at.tolist(), FORMS[model](p, p["items.embedding"][items], position, lambda x, site: x), strict=True)
        check(net(batch).logits(), batch, states, p["items.embedding"])
    assert p.read == set(p)


@pytest.mark.parametrize("model", FORMS)
def test_dropout_is_where_the_source_has_it(model, tmp_path):
    """The same in training, with the masks that hashes give at these sites: of the items' own vectors too, as they are read and
    as they are scored with, of whole tables once a step."""
    task, net, p = random_net(model, f"model.dropout={RATE}", f"model.item_dropout={RATE}")
    batch, histories = packed(task, tmp_path, "right", "train")
    noise, length, states, sites = Noise(jnp.uint32(3), batch["row"]), batch["tokens"].shape[1], {}, set()
    table = p["items.embedding"] * np.asarray(dropped(jnp.ones(p["items.embedding"].shape), noise, RATE))
    for at, items, position in histories:
        def drop(x, site, at=at):
            sites.add(site)
            if x.ndim == 2:
                return x * np.asarray(dropout(jnp.ones((1, length, x.shape[1])), noise, site, RATE))[0, at]
            return x * np.asarray(dropout(jnp.ones((1, HEADS, length, length)), noise, site, RATE))[0][:, at][:, :, at]

        states |= zip(at.tolist(), FORMS[model](p, table[items], position, drop), strict=True)
    check(net(batch, noise).logits(), batch, states, table)
    assert len(sites) == (7 if model == "sasrec" else 9)


@pytest.mark.parametrize("text", ["only", "add"])
def test_no_vectors_of_texts_are_dropped(text):
    """model.item_dropout is of the items' own: what is made of their texts stays whole, and a dropped number learns nothing."""
    sizes = {"vocabulary": 50, "positions": 8, "width": 16, "depth": 1, "heads": 2, "feed_forward": 16}
    vectors = np.random.default_rng(0).normal(size=(50, 6)).astype("f4")
    model = Sasrec(**sizes, dropout=0.0, initializer_range=0.02, norm_epsilon=1e-8, form="clean", scaled=True, normed=True,
                   glorot=False, causal=True, text=text, rngs=nnx.Rngs(0), vectors=vectors, item_dropout=RATE)
    batch, noise = {"tokens": jnp.array([[3, 4]])}, Noise(jnp.uint32(3), jnp.arange(1))
    whole, found = np.asarray(model.table()), np.asarray(model.reading(batch, noise).table())
    texts = vectors @ np.asarray(model.text.kernel[...], "f8") + np.asarray(model.text.bias[...])
    if text == "only":
        return np.testing.assert_array_equal(found, whole)
    mask = np.asarray(dropped(jnp.ones((50, 16)), noise, RATE))
    np.testing.assert_allclose(found, np.asarray(model.items.embedding[...], "f8") * mask + texts, atol=1e-6)
    learnt = nnx.grad(lambda model: model.reading(batch, noise).table().sum())(model)["items"]["embedding"][...]
    np.testing.assert_allclose(learnt, mask, rtol=1e-6)
    assert np.mean(mask == 0) == pytest.approx(RATE, abs=0.05)
