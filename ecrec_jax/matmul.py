"""A product of two matrices that CPUs with bfloat16 units make as fast as they can."""

import functools
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float


def matmul(a: Float[Array, "M K"], b: Float[Array, "K N"]) -> Float[Array, "M N"]:
    """a b, of the type of both."""
    return half(a, b) if pays(a, b) else a @ b


def exact(a: Float[Array, "M K"], b: Float[Array, "K N"]) -> Float[Array, "M N"]:
    """a b in f32, however few bits both have. For programs without a gradient."""
    if pays(a, b):
        return jax.lax.platform_dependent(a, b, cpu=by_rows, default=wide)
    return wide(a, b)


def wide(a: Array, b: Array) -> Array:
    """The product in f32."""
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def pays(a: Array, b: Array) -> bool:
    """Whether a product goes another way.

    On one CPU device with `units` products in bfloat16 go another way: XLA has kernels for AMX and AVX-512 where the result is f32
    and all three matrices lie row by row, and otherwise makes a product in f32 (jax 0.10; docs/benchmarks.md). On several devices
    it would gather what is divided among them before it lays it out.
    """
    return a.dtype == b.dtype == jnp.bfloat16 and jax.default_backend() == "cpu" and jax.device_count() == 1 and units()


@functools.cache
def units() -> bool:
    """Whether this machine's CPU multiplies in bfloat16, as Linux says of x86; without it that way takes longer."""
    told = Path("/proc/cpuinfo")
    return told.is_file() and bool(re.search(r"\b(amx|avx512)_bf16\b", told.read_text()))


@jax.custom_vjp
def half(a: Float[Array, "M K"], b: Float[Array, "K N"]) -> Float[Array, "M N"]:
    """The product in bfloat16, its gradient (reverse mode alone) made in the same way. Programs that are compiled here for other
    devices have a plain one."""
    return jax.lax.platform_dependent(a, b, cpu=lambda a, b: by_rows(a, b).astype(a.dtype), default=jnp.matmul)


def by_rows(a: Array, b: Array) -> Array:
    """In f32, with everything laid out row by row: a transposed matrix is copied."""
    return laid_out(wide(laid_out(a), laid_out(b)))


def laid_out(x: Array) -> Array:
    """The array, its last axis contiguous."""
    return with_layout_constraint(x, Layout(major_to_minor=tuple(range(x.ndim))))


def forward(a: Array, b: Array) -> tuple[Array, Any]:
    """(the product, what the gradient needs)."""
    return half(a, b), (a, b)


def backward(kept: Any, gradient: Float[Array, "M N"]) -> tuple[Array, Array]:
    """Of both matrices."""
    a, b = kept
    return half(gradient, b.T), half(a.T, gradient)


half.defvjp(forward, backward)
