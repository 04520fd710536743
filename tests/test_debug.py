"""debug=nan names where a step stops being finite."""

import re

import jax
import jax.numpy as jnp
import pytest

from ecrec_jax import nan
from ecrec_jax.model.bert import Attention, Pooler
from ecrec_jax.step import make_step
from ecrec_jax.types import InputError
from tests import world
from tests.test_commands import TINY, call
from tests.test_input import HUGE


def message(strategy="jit", spoil=lambda name, x: x, task="classification"):
    """What a watched step says of the second of two batches, before which parameters are spoilt."""
    made = world.parts(task, f"strategy={strategy}")
    state, constant = world.start(made)
    first, second = world.batches(made.task, task, 2)
    step = nan.watched(made.strategy.compile(make_step(made.graph, made.task, made.peft, made.gradient, made.optimizer,
                                                       made.strategy), False), made)
    state, constant = made.strategy.place(jax.tree.map(jnp.array, state)), made.strategy.place(constant)
    put = lambda batch: made.strategy.put(batch, made.gradient.count)  # noqa: E731
    state, logs = step(state, constant, put(first))
    state = state._replace(trained={name: spoil(name, x) for name, x in state.trained.items()})
    with pytest.raises(InputError) as error:
        step(state, constant, put(second))
    return str(error.value)


@pytest.mark.parametrize("strategy", world.names("strategy"))
def test_a_parameter(strategy):
    said = message(strategy, lambda name, x: x.at[(0,) * x.ndim].set(jnp.nan) if "layer.1.output.dense.kernel" in name else x)
    assert said.startswith("train/gradient_norm and train/loss not finite at step 2: before the step 1 of ")
    assert said.endswith("arrays are not finite, the first is model.encoder.layer.1.output.dense.kernel")


@pytest.mark.parametrize("strategy", world.names("strategy"))
def test_the_forward_pass(strategy, monkeypatch):
    """In the layer where it happens, in the line of the code: of two layers the second, whose scale is large."""
    def call(self, x, noise, site, look):
        found = right(self, x, noise, site, look)
        return found + jnp.log(1e4 - jnp.abs(self.output.LayerNorm.scale[...]).max())

    right = Attention.__call__
    monkeypatch.setattr(Attention, "__call__", call)
    said = message(strategy, lambda name, x: x + 1e5 if "layer.1.attention.output.LayerNorm.scale" in name else x)
    assert "at step 2: nan first appears in the forward pass, in model.encoder.layer.1.attention, tests/test_debug.py line " in said
    assert "return found + jnp.log(1e4 - jnp.abs(self.output.LayerNorm.scale[...]).max())" in said


def test_infinity(monkeypatch):
    """A hidden state of it is no nan before the classifier adds it to its opposite; a library's line is its caller's."""
    right = Pooler.__call__
    monkeypatch.setattr(Pooler, "__call__", lambda self, hidden: right(self, hidden) + jnp.exp(self.dense.bias[...]).sum())
    said = message(spoil=lambda name, x: x + 100 if name == "model.pooler.dense.bias" else x)
    assert re.search(r"nan first appears in the forward pass, in head\.classifier, ecrec_jax/block\.py line \d+: ", said)
    assert said.endswith("; the largest parameter is 100, in model.pooler.dense.bias")


def test_the_backward_pass(monkeypatch):
    """√0 is 0, and has no derivative."""
    right = Pooler.__call__
    monkeypatch.setattr(Pooler, "__call__", lambda self, hidden: right(self, hidden) + jnp.sqrt(
        jnp.maximum(50 - self.dense.bias[...].max(), 0)))
    said = message(spoil=lambda name, x: x + 100 if name == "model.pooler.dense.bias" else x)
    assert said.startswith("train/gradient_norm not finite at step 2: nan first appears in the backward pass, ")
    assert "tests/test_debug.py line " in said and "self.dense.bias[...].max()" in said


def test_a_run(tmp_path, capsys):
    """One sentence; the same command without it has said that it helps. Hydra takes the word for a number."""
    words = ["experiment=sentiment", "steps=20", "data.limit=200", "tracker=[jsonl]", f"run_dir={tmp_path / 'run'}", *TINY, *HUGE]
    for more, wanted in (([], "debug=nan says where it begins"), (["debug=nan"], " line ")):
        assert call("train", *words, *more) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: train/") and wanted in said and said.count("\n") == 1
    assert "the largest parameter is " in said and "e+" in said and world.composed("debug=nan")["debug"] == "nan"
