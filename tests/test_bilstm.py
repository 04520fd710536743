"""The BiLSTM: packed rows against one text after the other in NumPy, and what commands make of its runs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from flax import nnx

from ecrec_jax import pretrained
from ecrec_jax.model.bilstm import Bilstm
from ecrec_jax.types import InputError, Noise
from ecrec_jax.use.flops import model_flops
from tests import world
from tests.test_commands import call

WORDS = ["model=bilstm", "model.width=32", "model.embedding=20", "head.pooling=mean", "data.max_length=32", "tracker=[jsonl]",
         "optimizer.learning_rate=1e-2", "strategy.devices=2"]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def states(x, parameters, prefix):
    """The states of one LSTM over one text, float64, a token at a time."""
    kernel, bias, recurrent = (np.asarray(parameters[f"{prefix}.{leaf}"], "f8")
                               for leaf in ("input.kernel", "input.bias", "recurrent.kernel"))
    h = c = np.zeros(len(recurrent))
    found = []
    for token in x:
        i, f, g, o = np.split(token @ kernel + bias + h @ recurrent, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        found.append(h)
    return np.array(found)


def plain(tokens, parameters, depth, causal):
    """The model on one text alone."""
    x = np.asarray(parameters["model.embeddings.word_embeddings.embedding"], "f8")[tokens]
    for number in range(depth):
        layer = f"model.encoder.layer.{number}"
        sides = [states(x, parameters, f"{layer}.forward")]
        if not causal:
            sides.append(states(x[::-1], parameters, f"{layer}.backward")[::-1])
        x = np.concatenate(sides, -1)
    return x


@pytest.mark.parametrize("causal", [False, True])
def test_packed_rows_are_texts_alone(causal):
    made = world.parts("classification", "model=bilstm", f"model.causal={causal}", "head.pooling=mean")
    rng = np.random.default_rng(0)
    parameters = {name: jnp.asarray(rng.normal(0, 0.5, x.shape), "f4") for name, x in made.parameters.items()}   # biases too
    batch = next(world.feed(made.task, "classification").batches(0, 0))
    found = np.asarray(made.graph.net(parameters).model(jax.tree.map(jnp.asarray, batch)))
    texts = 0
    for tokens, segment, row in zip(batch["tokens"], batch["segment"], found, strict=True):
        for part in range(1, segment.max() + 1):
            mine, texts = segment == part, texts + 1
            np.testing.assert_allclose(row[mine], plain(tokens[mine], parameters, 2, causal), atol=1e-5)
    assert texts > 30 and (batch["segment"].max(1) > 1).any() and (batch["segment"] == 0).any()


def test_a_causal_one_has_no_gradient_from_the_future():
    made = world.parts("classification", "model=bilstm", "model.causal=true", "head.pooling=mean")
    batch = jax.tree.map(jnp.asarray, world.batches(made.task, "classification", 1)[0])
    size = made.parameters["model.embeddings.word_embeddings.embedding"].shape[1]
    state = lambda offset: made.graph.net(made.parameters).model(batch | {"offset": offset})[0, 2].sum()  # noqa: E731
    slope = np.asarray(jax.grad(state)(jnp.zeros((*batch["tokens"].shape, size))))[0]
    assert (slope[:3] != 0).any(1).all() and (slope[3:] == 0).all()


def test_dropout_is_on_word_vectors_and_states():
    made = world.parts("classification", "model=bilstm", "head.pooling=mean")
    batch = jax.tree.map(jnp.asarray, world.batches(made.task, "classification", 1)[0])
    model = made.graph.net(made.parameters).model
    one, other = (np.asarray(model(batch, Noise(jnp.uint32(seed), batch["row"]))) for seed in (1, 2))
    assert abs((one == 0).mean() - 0.5) < 0.05 and (one != other).any() and (np.asarray(model(batch)) != 0).all()


@pytest.mark.parametrize("gradient,strategy", [
    pytest.param("plain", "pmap", marks=pytest.mark.slow), pytest.param("accumulate", "jit", marks=pytest.mark.slow),
    ("plain", "fsdp")])
def test_it_goes_with_the_other_nouns(gradient, strategy):
    """As on one device; bfloat16 computes near it."""
    words = ["model=bilstm", "head.pooling=mean", "optimizer.clip=null"]
    alone = world.parts("classification", *words, "strategy.devices=1")
    given = world.batches(alone.task, "classification", 3)
    wanted, _ = world.curve(alone, given)
    mixed = world.parts("classification", *words, f"gradient={gradient}", f"strategy={strategy}", "strategy.devices=4")
    found, _ = world.curve(mixed, given)
    assert np.abs(found - wanted).max() < 1e-5 and wanted[0] != wanted[-1]
    if strategy == "jit":
        half, _ = world.curve(world.parts("classification", *words, "strategy.devices=1", "model.dtype=bfloat16"), given)
        assert 0 < np.abs(half - wanted).max() < 0.05
        assert all(x for path, x in alone.optimizer.decayed(list(alone.parameters)).items() if path.endswith("kernel"))


def test_flops_of_a_batch():
    """6 numbers a token: 8 · 16 · (20 + 16) of the LSTMs, and 6 a text: 32 · 3 of the head."""
    made = world.parts("classification", *WORDS[:4], "model.depth=1")
    batch = world.batches(made.task, "classification", 1)[0]
    tokens, texts = (batch["segment"] > 0).sum(), (batch["weight"] > 0).sum()
    rows = (batch["segment"] > 0).any(1).sum()
    assert model_flops(made, batch) == pytest.approx(6 * (8 * 16 * (20 + 16) * tokens + 32 * 3 * texts) / rows)


def test_sizes_and_heads_that_are_refused():
    sizes = {"vocabulary": 9, "embedding": 4, "width": 6, "depth": 1, "dropout": 0.0, "initializer_range": 0.02, "causal": False}
    for wrong, said in (({"width": 5}, "model.width 5 is not a multiple of 2"), ({"embedding": 0}, "model.embedding is 0"),
                        ({"dropout": 1.0}, "model.dropout is 1.0")):
        with pytest.raises(InputError, match=said):
            Bilstm(**sizes | wrong, rngs=nnx.Rngs(0))
    assert Bilstm(**sizes | {"width": 5, "causal": True, "embedding": 5}, rngs=nnx.Rngs(0)).table().shape == (9, 5)
    with pytest.raises(InputError, match="head.pooling is cls, but a Bilstm has no pooler"):
        world.parts("classification", "model=bilstm")
    made = world.parts("classification", "model=bilstm", "head.pooling=mean")
    model = made.graph.net(made.parameters).model
    with pytest.raises(InputError, match="model.embedding is 300 and model.width 32"):
        model.table()
    assert world.parts("masked_lm", "model=bilstm", "model.embedding=32").parameters.keys() > {"head.bias"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short run on the reviews."""
    folder = tmp_path_factory.mktemp("bilstm") / "run"
    assert call("train", "experiment=department", "steps=12", "data.limit=300", f"run_dir={folder}", *WORDS) == 0
    return folder


def test_a_run_trains_evaluates_and_predicts(trained, tmp_path, capsys):
    before = json.loads((trained / "summary.json").read_text())
    logs = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    losses = [row["train/loss"] for row in logs if "train/loss" in row]
    assert losses[-1] < losses[0] and "attention" not in before
    assert call("evaluate", f"run_dir={trained}", "split=test") == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert all(before[key] == pytest.approx(value, abs=1e-6) for key, value in found.items())
    pd.DataFrame({"title": ["A dress"], "text": ["lovely"]}).to_csv(tmp_path / "new.csv")
    assert call("predict", f"run_dir={trained}", f"input={tmp_path / 'new.csv'}", f"output={tmp_path / 'out.csv'}") == 0
    assert pd.read_csv(tmp_path / "out.csv").shape[0] == 1


@pytest.mark.slow
def test_a_run_is_a_checkpoint_for_its_kind_only(trained, tmp_path, capsys):
    """A new head on the same model; no transformers class, no BERT."""
    more = ["data.limit=100", "steps=1", f"model.checkpoint={trained}", f"run_dir={tmp_path / 'run'}"]
    assert call("train", "experiment=sentiment", *more, "model.new_head=true", *WORDS) == 0
    assert call("export", f"run_dir={trained}", f"out={tmp_path / 'out'}") == 2
    assert "the model is no BERT, so no transformers class has a place for it" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="its model is no BERT"):
        pretrained.load(str(trained))
    assert call("train", "experiment=sentiment", *more[:3], "model=bert", f"run_dir={tmp_path / 'other'}") == 2
    assert "it is a run of another kind of model" in capsys.readouterr().err


def test_the_first_token_is_no_summary(tmp_path, capsys):
    words = [word for word in WORDS if not word.startswith("head")]
    assert call("train", "experiment=sentiment", "data.limit=100", "steps=1", f"run_dir={tmp_path / 'run'}", *words) == 2
    assert "set head.pooling=mean" in capsys.readouterr().err
    assert call("train", "experiment=pretrain", "data.limit=100", f"run_dir={tmp_path / 'other'}", *words) == 2
    assert "head.activation is missing; neither model nor data says it" in capsys.readouterr().err
