"""Layer normalisation, with a gradient that GPUs make in one pass."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

NUMBERS, PROGRAMS = 2048, 1024   # of the block that a program works on at a time, and programs at most


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: Float[Array, "... D"], scale: Float[Array, "D"], bias: Float[Array, "D"], epsilon: float
               ) -> Float[Array, "... D"]:
    """Over the last axis, computed in f32 whatever the input's type.

    Source: Ba et al. 2016, "Layer normalization", eq. 4.
    """
    normal, _ = normalised(x.astype(jnp.float32), epsilon)
    return (normal * scale.astype(jnp.float32) + bias.astype(jnp.float32)).astype(x.dtype)


def normalised(x: Float[Array, "... D"], epsilon: float) -> tuple[Float[Array, "... D"], Float[Array, "... 1"]]:
    """(numbers of mean 0 and variance 1, one over the standard deviation)."""
    centered = x - x.mean(-1, keepdims=True)
    over = jax.lax.rsqrt(jnp.square(centered).mean(-1, keepdims=True) + epsilon)
    return centered * over, over


def forward(x: Array, scale: Array, bias: Array, epsilon: float) -> tuple[Array, Any]:
    """(the result, what the gradient needs)."""
    return layer_norm(x, scale, bias, epsilon), (x, scale, bias)


def backward(epsilon: float, kept: Any, gradient: Float[Array, "... D"]) -> tuple[Array, Array, Array]:
    """Of input, scale and bias. XLA's form reads rows once for the input's and, as numbers in f32, once more for the scale's."""
    x, scale, bias = kept
    flat = x.reshape(-1, x.shape[-1]), scale, gradient.reshape(-1, x.shape[-1])
    ways = {"default": functools.partial(whole, epsilon=epsilon)}
    if jax.default_backend() == "gpu":   # jax lowers a kernel for the GPU at hand alone
        ways["cuda"] = functools.partial(by_blocks, epsilon=epsilon)
    made = jax.lax.platform_dependent(*flat, **ways)
    return made[0].reshape(x.shape), made[1].astype(scale.dtype), made[2].astype(bias.dtype)


layer_norm.defvjp(forward, backward)


def whole(x: Float[Array, "N D"], scale: Float[Array, "D"], gradient: Float[Array, "N D"], epsilon: float
          ) -> tuple[Float[Array, "N D"], Float[Array, "D"], Float[Array, "D"]]:
    """The gradients by XLA."""
    normal, over = normalised(x.astype(jnp.float32), epsilon)
    wide = gradient.astype(jnp.float32)
    scaled = wide * scale.astype(jnp.float32)
    of_x = over * (scaled - scaled.mean(-1, keepdims=True) - normal * (scaled * normal).mean(-1, keepdims=True))
    return of_x.astype(x.dtype), (wide * normal).sum(0), wide.sum(0)


def by_blocks(x: Float[Array, "N D"], scale: Float[Array, "D"], gradient: Float[Array, "N D"], epsilon: float,
              interpret: bool = False) -> tuple[Float[Array, "N D"], Float[Array, "D"], Float[Array, "D"]]:
    """The same in a Pallas kernel: every program goes through some rows, a few at a time, and sums what they say of scale and
    bias."""
    from jax.experimental.pallas import triton

    count, width = x.shape
    wide = 1 << (width - 1).bit_length()
    rows = max(1, NUMBERS // wide)
    programs = min(PROGRAMS, pl.cdiv(count, rows))
    times = pl.cdiv(count, rows * programs)

    def kernel(x: Any, scale: Any, gradient: Any, of_x: Any, of_scale: Any, of_bias: Any) -> None:
        columns, inside = pl.ds(0, wide), jnp.arange(wide) < width
        load = lambda ref, place, mask: triton.load(ref.at[place], mask=mask, other=0.0).astype(jnp.float32)  # noqa: E731
        factor, begin = load(scale, (columns,), inside)[None, :], pl.program_id(0) * times * rows

        def add(number: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            mask = (begin + number * rows + jnp.arange(rows) < count)[:, None] & inside[None, :]
            place = pl.ds(number * rows, rows), columns
            given, felt = load(x, place, mask), load(gradient, place, mask)
            centered = jnp.where(mask, given - given.sum(1, keepdims=True) * (1 / width), 0.0)
            over = jax.lax.rsqrt(jnp.square(centered).sum(1, keepdims=True) * (1 / width) + epsilon)
            normal, scaled = centered * over, felt * factor
            mean, along = (y.sum(1, keepdims=True) * (1 / width) for y in (scaled, scaled * normal))
            triton.store(of_x.at[place], (over * (scaled - mean - normal * along)).astype(of_x.dtype), mask=mask)
            return carry[0] + (felt * normal).sum(0), carry[1] + felt.sum(0)

        none = jnp.zeros(wide, jnp.float32)
        for ref, total in zip((of_scale, of_bias), jax.lax.fori_loop(0, times, add, (none, none)), strict=True):
            triton.store(ref.at[columns,], total, mask=inside)

    array, line = pl.BlockSpec((rows * times, wide), lambda i: (i, 0)), pl.BlockSpec((wide,), lambda i: (0,))
    share = pl.BlockSpec((None, wide), lambda i: (i, 0))   # blocks reach beyond the arrays, masks don't
    of_x, *sums = pl.pallas_call(
        kernel, grid=(programs,), in_specs=[array, line, array], out_specs=[array, share, share], name="layer_norm_gradient",
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype), *[jax.ShapeDtypeStruct((programs, width), jnp.float32)] * 2],
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2), interpret=interpret)(x, scale, gradient)
    return of_x, *(total.sum(0) for total in sums)
