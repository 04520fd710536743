"""debug=nan names where a step stops being finite; debug=profile says what a step's time goes to."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecrec_jax import evaluate, nan, profile
from ecrec_jax.model.bert import Attention, Pooler
from ecrec_jax.step import make_step
from ecrec_jax.types import InputError
from tests import world
from tests.test_commands import TINY, call
from tests.test_input import HUGE

EACH = ["jit", *(pytest.param(name, marks=pytest.mark.slow) for name in world.names("strategy") if name != "jit")]


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


@pytest.mark.parametrize("strategy", EACH)
def test_a_parameter(strategy):
    said = message(strategy, lambda name, x: x.at[(0,) * x.ndim].set(jnp.nan) if "layer.1.output.dense.kernel" in name else x)
    assert said.startswith("train/gradient_norm and train/loss not finite at step 2: before the step 1 of ")
    assert said.endswith("arrays are not finite, the first is model.encoder.layer.1.output.dense.kernel")


@pytest.mark.parametrize("strategy", EACH)
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


@pytest.mark.slow
def test_infinity(monkeypatch):
    """A hidden state of it is no nan before the classifier adds it to its opposite; a library's line is its caller's."""
    right = Pooler.__call__
    monkeypatch.setattr(Pooler, "__call__", lambda self, hidden: right(self, hidden) + jnp.exp(self.dense.bias[...]).sum())
    said = message(spoil=lambda name, x: x + 100 if name == "model.pooler.dense.bias" else x)
    assert re.search(r"nan first appears in the forward pass, in head\.classifier, ecrec_jax/matmul\.py line \d+: ", said)
    assert said.endswith("; the largest parameter is 100, in model.pooler.dense.bias")


@pytest.mark.slow
def test_the_backward_pass(monkeypatch):
    """√0 is 0, and has no derivative."""
    right = Pooler.__call__
    monkeypatch.setattr(Pooler, "__call__", lambda self, hidden: right(self, hidden) + jnp.sqrt(
        jnp.maximum(50 - self.dense.bias[...].max(), 0)))
    said = message(spoil=lambda name, x: x + 100 if name == "model.pooler.dense.bias" else x)
    assert said.startswith("train/gradient_norm not finite at step 2: nan first appears in the backward pass, ")
    assert "tests/test_debug.py line " in said and "self.dense.bias[...].max()" in said


@pytest.mark.slow
def test_a_run(tmp_path, capsys):
    """One sentence; the same command without it has said that it helps. Hydra takes the word for a number."""
    words = ["experiment=sentiment", "steps=20", "data.limit=200", "tracker=[jsonl]", f"run_dir={tmp_path / 'run'}", *TINY, *HUGE]
    for more, wanted in (([], "debug=nan says where it begins"), (["debug=nan"], " line ")):
        assert call("train", *words, *more) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: train/") and wanted in said and said.count("\n") == 1
    assert "the largest parameter is " in said and "e+" in said and world.composed("debug=nan")["debug"] == "nan"


@pytest.mark.parametrize("first,then,code", [("fast", "null", 2), ("null", "fast", 2), ("nan", "null", 0), ("null", "nan", 0)])
def test_a_debug_run_is_no_start_of_another(first, then, code, tmp_path, capsys):
    """Of other data, rates and steps; debug=nan only looks."""
    words = ["experiment=sentiment", "steps=2", "data.limit=60", "tracker=[jsonl]", f"run_dir={tmp_path / 'run'}", *TINY]
    assert call("train", *words, f"debug={first}") == 0
    capsys.readouterr()
    assert call("train", *words, f"debug={then}") == code
    assert code == 0 or "another debug" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["classification", "masked_lm"])
def test_a_loss_of_validation_that_is_not_finite_is_refused(task, monkeypatch):
    made = world.parts(task, "strategy.devices=1")
    feed = world.feed(made.task, task)
    trained, frozen = made.peft.split(made.parameters)
    broken = {name: np.full_like(x, np.nan) for name, x in trained.items()}
    evaluator = evaluate.Evaluator(made, made.strategy.place(frozen | made.constants))
    with pytest.raises(InputError, match="valid loss is nan"):
        evaluator.measure(made.strategy.place(broken), feed, title="valid")


def test_shares():
    """By hand: of two that overlap each has half of that time; what is nobody's is left out."""
    spans = [profile.Span("a", 0, 10), profile.Span("b", 4, 8), profile.Span("a", 20, 21), profile.Span("c", 5, 6)]
    found = profile.shares(spans)
    assert found == pytest.approx({"a": 4 + 0.5 + 1 / 3 + 1 + 2 + 1, "b": 0.5 + 1 / 3 + 1, "c": 1 / 3})
    assert sum(found.values()) == pytest.approx(11)


def test_parts_of_a_program():
    """Every scope of the step is found, forward and backward, whatever the strategy makes of it."""
    text = """  %fusion.2 = f32[2] fusion(%a), metadata={op_name="jit(step)/transpose(jvp(model))/attention/dot" stack_frame_id=3}
  ROOT %add.1 = f32[] add(%b), metadata={op_name="jit(step)/optimizer/mul"}"""
    assert {name: profile.part(path) for name, path in profile.scopes(text).items()} == {
        "fusion.2": ("model/attention", True), "add.1": ("optimizer", False)}
    assert profile.part("jit(step)/headless/reduce_sum") == ("rest", False)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", world.names("strategy"))
def test_profile(strategy, tmp_path, capsys):
    """The parts and what is between them make up the step; its result is that of a step that nobody looks at."""
    words = ["experiment=sentiment", "data.batch_size=8", "tracker=[jsonl]", f"strategy={strategy}", *TINY,
             f"data.limit={(profile.WARM + profile.STEPS + 1) * 8}"]
    assert call("train", *words, "debug=profile", f"run_dir={tmp_path / 'run'}") == 0
    text = (tmp_path / "run" / "profile.md").read_text()
    assert text in capsys.readouterr().out and list((tmp_path / "run" / "profile").rglob("*.trace.json.gz"))
    rows = {cells[0].strip(" *"): cells[1:] for line in text.splitlines() if line.startswith("| ")
            for cells in [[x.strip() for x in line.strip("|").split("|")]]}
    assert list(rows)[:1] == ["part"] and {"model/embeddings", "model/attention", "model/feed_forward", "head", "loss", "optimizer",
                                           "rest", "between", "step", "outside"} <= set(rows)
    value = {name: float(cells[2]) for name, cells in rows.items() if name != "part"}
    inside = sum(x for name, x in value.items() if name not in ("step", "outside"))
    assert inside == pytest.approx(value["step"], rel=0.3) and value["step"] > 0   # a sum of medians is no median of sums
    assert all(float(rows[name][way]) > 0 for name in ("model/attention", "model/feed_forward") for way in (0, 1))
    assert f"{profile.STEPS} steps after {profile.WARM} to warm up" in text and "on 2 × cpu" in text
    assert call("train", *words, f"steps={profile.WARM + profile.STEPS}", "log_every=1", f"run_dir={tmp_path / 'bare'}") == 0
    ours, bare = ([json.loads(x).get("train/loss") for x in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
                  for name in ("run", "bare"))
    assert ours == bare
