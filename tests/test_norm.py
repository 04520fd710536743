"""Layer norm: its gradient against jax's own, and the kernel's against XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecrec_jax import norm

EPSILON = 1e-5


def given(shape):
    """(input, scale, bias, gradient) of a shape."""
    rng = np.random.default_rng(0)
    x, gradient = (jnp.asarray(rng.normal(1, 2, shape), jnp.float32) for _ in range(2))
    return x, *(jnp.asarray(rng.normal(size=shape[-1]), jnp.float32) for _ in range(2)), gradient


def test_its_gradient_is_that_of_its_formula():
    x, scale, bias, gradient = given((3, 7, 24))

    def formula(x, scale, bias):
        centered = x - x.mean(-1, keepdims=True)
        return centered / jnp.sqrt((centered**2).mean(-1, keepdims=True) + EPSILON) * scale + bias

    with jax.enable_x64(True):
        wide = [np.asarray(y, "f8") for y in (x, scale, bias, gradient)]
        wanted, back = jax.vjp(formula, *wide[:3])
        wanted = [wanted, *back(wide[3])]
    found, back = jax.vjp(lambda *y: norm.layer_norm(*y, EPSILON), x, scale, bias)
    for a, b in zip((found, *back(gradient)), wanted, strict=True):
        assert float(np.abs(np.asarray(a) - np.asarray(b)).max()) < 2e-5 < float(np.abs(b).max())


@pytest.mark.parametrize("shape", [(1, 64), (5000, 24), (33, 768),
                                   pytest.param((2100, 1500), marks=pytest.mark.slow)])
def test_the_kernel_for_gpus_computes_what_xla_does(shape):
    """Rows that programs don't divide, widths that are filled up, more rows than a round of programs takes."""
    x, scale, _, gradient = given(shape)
    wanted = norm.whole(x, scale, gradient, EPSILON)
    for a, b in zip(norm.by_blocks(x, scale, gradient, EPSILON, interpret=True), wanted, strict=True):
        assert float(jnp.abs(a - b).max()) < 1e-5 * float(1 + jnp.abs(b).max())
