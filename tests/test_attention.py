"""The kernels for TPUs and GPUs against the dense form: values and gradients, interpreted on the CPU; and which is chosen."""

import functools
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecrec_jax import attention, block, build
from ecrec_jax.flash import flash
from ecrec_jax.types import InputError, Noise
from experiments import wiring
from tests import world
from tests.test_commands import TINY, call

INTERPRETED = functools.partial(attention.splash, interpret=True)


def given(length, width, rows=2, heads=2):
    """(query, key, value, a direction, segments): three segments of different lengths a row, padding at the end."""
    rng = np.random.default_rng(length)
    arrays = [jnp.asarray(rng.normal(size=(rows, length, heads, width)), jnp.float32) for _ in range(4)]
    segment = np.zeros((rows, length), "i4")
    for row in range(rows):
        cuts = [0, *np.sort(rng.choice(np.arange(1, length - 4), 3, replace=False))]
        for number in range(3):
            segment[row, cuts[number] : cuts[number + 1]] = number + 1
    return *arrays, jnp.asarray(segment)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length,width", [(256, 64), (100, 8)])
def test_the_kernel_computes_what_the_dense_form_does(length, width, causal):
    """A whole number of blocks, and rows that must be filled up to one; padding included."""
    query, key, value, direction, segment = given(length, width)
    allowed = attention.visible(segment, causal)
    dense = lambda *x: attention.attend(*x, allowed, None, 0, 0.0)  # noqa: E731
    kernel = lambda *x: INTERPRETED(*x, segment, causal)  # noqa: E731
    made = []
    for form in (dense, kernel):
        out, back = jax.vjp(jax.jit(form), query, key, value)
        made.append((out, *back(direction)))
    gaps = [float(jnp.abs(a - b).max()) for a, b in zip(*made, strict=True)]
    print(f"{length} × {width}, causal={causal}: output {gaps[0]:.1e}, gradients {max(gaps[1:]):.1e}")
    assert max(gaps) < 1e-5 and all(float(jnp.abs(x).max()) > 0.1 for x in made[0])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length,width,rate", [
    (256, 64, 0.0), (100, 8, 0.3), pytest.param(200, 24, 0.1, marks=pytest.mark.slow)])
def test_the_kernel_for_gpus_drops_what_the_dense_form_drops(length, width, rate, causal):
    """Rows of four blocks and of a part of two; widths that are filled up."""
    query, key, value, direction, segment = given(length, width)
    noise, site = Noise(jnp.uint32(7), jnp.arange(3, 3 + len(query))), 5
    allowed, bits = attention.visible(segment, causal), block.hashed(block.row_bits(noise, site)[:, None], jnp.arange(2))
    dense = lambda *x: attention.attend(*x, allowed, noise if rate else None, site, rate)  # noqa: E731
    made = []
    for form in (dense, lambda *x: flash(*x, segment, bits, causal, rate, True)):
        out, back = jax.vjp(jax.jit(form), query, key, value)
        made.append((out, *back(direction)))
    gaps = [float(jnp.abs(a - b).max()) for a, b in zip(*made, strict=True)]
    assert max(gaps) < 1e-5 and all(float(jnp.abs(x).max()) > 0.1 for x in made[0])


KERNELS = {"splash": INTERPRETED, "flash": lambda *x: flash(*x[:4], jnp.zeros((2, 2), jnp.uint32), x[4], 0.0, True)}


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_kernel_does_not_look_out_of_its_segment(kernel):
    query, key, value, _, segment = given(256, 64)
    second = (segment == 2)[..., None, None]
    changed = KERNELS[kernel](*(jnp.where(second, 3 * x, x) for x in (query, key, value)), segment, False)
    same = KERNELS[kernel](query, key, value, segment, False)
    assert float(jnp.where(second, 0, jnp.abs(changed - same)).max()) == 0 < float(jnp.abs(changed - same).max())


RUNS = [("splash", "tpu", 0.0, "fsdp", "causal_lm", ["model.remat=true", "model.scan=true"]),
        ("flash", "gpu", 0.2, "fsdp", "causal_lm", ["model.remat=true"]),
        *((kernel, platform, rate, strategy, "masked_lm", ways) for kernel, platform, rate in (
            ("splash", "tpu", 0.0), ("flash", "gpu", 0.2)) for strategy, ways in (("jit", ["model.scan=true"]), ("pmap", [])))]


@pytest.mark.slow
@pytest.mark.parametrize("kernel,platform,rate,strategy,task,ways", RUNS)
def test_a_run_with_a_kernel_is_a_run_with_the_dense_form(kernel, platform, rate, strategy, task, ways, monkeypatch):
    """Three steps on two devices with dropout, interpreted: jit and fsdp need the kernel on each device's rows."""
    common = [f"strategy={strategy}", "strategy.devices=2", f"model.attention_dropout={rate}", *ways]
    dense = world.parts(task, *common)
    batches = world.batches(dense.task, task, 3)
    wanted, _ = world.curve(dense, batches)
    seen, real = [], getattr(attention, kernel)
    monkeypatch.setattr(attention, kernel, lambda *x, **keys: seen.append(x[0].shape) or real(*x, **keys, interpret=True))
    made = world.parts(task, *common, f"model.attention={kernel}")
    made.strategy.platform = platform
    found, _ = world.curve(made, batches)
    rows = -(-batches[0]["tokens"].shape[0] // 2)
    assert set(seen) == {(rows, world.LENGTH, 4, 8)}   # a device's part
    assert np.abs(found - wanted).max() < 1e-5 and wanted[0] != wanted[1]


@pytest.mark.parametrize("asked,platform,length,rate,form", [
    ("auto", "cpu", 512, 0.0, "dense"), ("auto", "gpu", 512, 0.1, "flash"), ("auto", "gpu", 63, 0.1, "dense"),
    ("dense", "cuda", 512, 0.0, "dense"), ("flash", "cuda", 32, 0.0, "flash"), ("auto", "tpu", 512, 0.1, "dense"),
    ("auto", "tpu", 512, 0.0, "splash"), ("auto", "tpu", 255, 0.0, "dense"), ("splash", "tpu", 32, 0.0, "splash"),
    ("dense", "tpu", 512, 0.0, "dense")])
def test_choice(asked, platform, length, rate, form):
    assert attention.choose(asked, platform, length, rate) == form


def test_evaluation_uses_the_form_of_training():
    """Attention dropout decides, not whether it is on: one run, one form."""
    made = world.parts("classification", "model.attention=splash", "model.attention_dropout=0.1")
    made.strategy.platform = "tpu"
    batch = jax.tree.map(jnp.asarray, world.batches(made.task, "classification", 1)[0])
    for noise in (None, Noise(jnp.uint32(0), batch["row"])):
        with pytest.raises(InputError, match="attention's is 0.1: set model.attention_dropout"):
            made.graph.net(made.parameters)(batch, noise, made.strategy)


@pytest.mark.parametrize("words,rate", [
    (["model=sasrec", "task=next_item", "head=items", "model.dropout=0.2"], 0.2),   # attention's too
    (["model=bert_tiny", "task=masked_lm", "head=tokens", "model.dropout=0.2", "model.attention_dropout=0.3"], 0.3)])
def test_what_is_told_is_what_is_computed(words, rate):
    """The rate that decides is the one that the model's attention has."""
    for given, form in ((words, None), ([x if "dropout" not in x else f"{x.partition('=')[0]}=0.0" for x in words], "splash")):
        config = world.drawn_up(*given, "model.attention=splash")
        made = SimpleNamespace(facts=build.model_facts(config)[0], strategy=SimpleNamespace(platform="tpu"),
                               feeds={"train": SimpleNamespace(shape=SimpleNamespace(length=56))})
        if form:
            assert wiring.attention(config, made) == form
        else:
            with pytest.raises(InputError, match=f"attention's is {rate}: set model.attention_dropout .of SASRec model.dropout"):
                wiring.attention(config, made)


@pytest.mark.slow
def test_the_choice_is_told_and_kept(tmp_path, capsys):
    words = ["experiment=sentiment", "steps=1", "data.limit=100", "tracker=[jsonl]", *TINY]
    assert call("train", *words, f"run_dir={tmp_path / 'run'}", "model.scan=true") == 0
    said = capsys.readouterr().out
    assert "attention: dense, on devices of kind cpu" in said and "warning: model.scan=true" in said
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["attention"] == "dense"
    assert call("train", *words, f"run_dir={tmp_path / 'other'}", "model.attention=splash") == 2
    assert "model.attention is splash, which needs TPUs, and the devices are of kind cpu" in capsys.readouterr().err
    assert call("train", *words, f"run_dir={tmp_path / 'third'}", "model.attention=cudnn") == 2
    assert "model.attention is 'cudnn', expected one of auto, dense, splash, flash" in capsys.readouterr().err
