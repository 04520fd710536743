"""Products in bfloat16 on one CPU: the numbers of any other product, in steps of every way of computing layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecrec_jax import matmul
from ecrec_jax.factored import Factored
from ecrec_jax.step import make_step
from tests import world


@pytest.fixture
def alone(monkeypatch):
    """As on a machine with one CPU device that multiplies in bfloat16; tests have eight devices, of any kind."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(matmul, "units", lambda: True)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 77), (65, 32, 2), (64, 384, 129)])
def test_its_numbers_and_gradients_are_those_of_a_product(shape):
    rng = np.random.default_rng(0)
    m, k, n = shape
    a, b, gradient = (jnp.asarray(rng.normal(size=size), jnp.bfloat16) for size in ((m, k), (k, n), (m, n)))
    wide = [np.asarray(x, "f8") for x in (a, b, gradient)]
    wanted = [wide[0] @ wide[1], wide[2] @ wide[1].T, wide[0].T @ wide[2]]

    def run(a, b, gradient):
        made, back = jax.vjp(matmul.half, a, b)
        return made, *back(gradient)

    once = jax.jit(run)(a, b, gradient)
    twice = jax.jit(jax.vmap(run))(*(jnp.stack([x, x]) for x in (a, b, gradient)))
    for x, both, y in zip(once, twice, wanted, strict=True):
        assert x.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(x, "f8"), y, rtol=2**-8, atol=1e-5)   # the result alone is rounded
        np.testing.assert_allclose(np.asarray(both, "f8"), np.stack([y, y]), rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("size", [None, 64])
def test_ranks_are_of_logits_that_nothing_rounded(fast, size, request):
    """Eight bits would tie labels with what is ranked beside them, and ties count against labels; the loss that is shown is of the
    same logits. With `fast` units and without."""
    if fast:
        request.getfixturevalue("alone")
    rng = np.random.default_rng(0)
    query, table = (jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in ((2, 40, 8), (2048, 8)))
    target, none = rng.integers(0, 2048, (2, 40)), np.zeros((2, 40, 1), int)
    whole = np.asarray(query, "f8") @ np.asarray(table, "f8").T
    outputs = Factored(query, table, jnp.zeros(2048, jnp.bfloat16))
    rank, top, value = jax.jit(lambda o, t, s: o.ranked(t, s, 5, size))(outputs, target, none)
    own = np.take_along_axis(whole, target[..., None], -1)
    wanted = 1 + (whole[..., 1:] >= own).sum(-1) - (target > 0) + (target == 0)   # 0 is seen, where it isn't asked for
    assert np.abs(np.asarray(rank) - wanted).max() <= 1 and (np.asarray(rank) == wanted).mean() > 0.9   # sums of f32
    np.testing.assert_allclose(value, np.take_along_axis(whole, np.asarray(top), -1), rtol=1e-5)
    np.testing.assert_allclose(jax.jit(lambda o: o.normaliser())(outputs), np.log(np.exp(whole).sum(-1)), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("task,words", [("masked_lm", []), ("classification", ["model.scan=true", "model.remat=true"]),
                                        ("next_item", []), ("classification", ["peft=bitfit"])])
def test_training_on_one_cpu_goes_that_way_and_computes_the_same(alone, monkeypatch, task, words):
    """Losses of a few steps beside those of plain products in bfloat16."""
    words = ["model.dtype=bfloat16", "strategy.devices=1", *words]
    laid, losses = [], []
    for plain in (False, True):
        with monkeypatch.context() as patch:
            if plain:
                patch.setattr(matmul, "half", jnp.matmul)
            made = world.parts(task, *words)
            given = world.batches(made.task, task, 4)
            step = make_step(made.graph, made.task, made.peft, made.gradient, made.optimizer, made.strategy)
            laid.append("LayoutConstraint" in jax.jit(step).lower(*world.start(made), given[0]).as_text())
            losses.append(world.curve(made, given)[0])
    assert laid == [True, False]
    assert np.abs(losses[0] - losses[1]).max() < 0.02 * losses[1].max()


def test_numbers_in_f32_several_devices_and_other_cpus_keep_the_plain_product(monkeypatch):
    def custom(dtype):
        """Whether the product has a gradient of its own; jax remembers what it traced of a function."""
        x = jnp.ones((3, 3), dtype)
        return "custom_vjp" in str(jax.make_jaxpr(lambda a, b: matmul.matmul(a, b))(x, x))

    monkeypatch.setattr(matmul, "units", lambda: True)
    assert not custom("bfloat16")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert custom("bfloat16") and not custom("float32")
    with monkeypatch.context() as patch:
        patch.setattr(matmul, "units", lambda: False)
        assert not custom("bfloat16")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not custom("bfloat16")


@pytest.mark.parametrize("told,able", [("flags : fpu avx512_bf16 amx_tile", True), ("flags\t: fma amx_bf16", True),
                                       ("flags : fpu avx2 fma", False), ("Features : asimd bf16", False), (None, False)])
def test_units_are_those_that_linux_names(told, able, tmp_path, monkeypatch):
    path = tmp_path / "cpuinfo"
    if told is not None:
        path.write_text(f"processor : 0\n{told}\n")
    monkeypatch.setattr(matmul, "Path", lambda name: path)
    assert matmul.units.__wrapped__() is able
