"""Rows of a table by their numbers, and the gradient of that."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

FEW = 16   # rows of a table whose gradient is a product


@jax.custom_vjp
def lookup(table: Float[Array, "V D"], ids: Int[Array, "..."]) -> Float[Array, "... D"]:
    """Rows of a table. Its gradient is summed in f32: in bfloat16 a sum stands still once it is 256 times its addends, and on GPUs,
    which have no such addition in memory, thousands of tokens that share a row wait for each other."""
    return table[ids]


def lookup_forward(table: Array, ids: Array) -> tuple[Array, Any]:
    """(rows, what the gradient needs)."""
    return table[ids], (table, ids)


def lookup_backward(kept: tuple[Array, Array], gradient: Array) -> tuple[Array, None]:
    """Sums of the gradients of each row; of a few rows by a product, without a single collision."""
    table, ids = kept
    flat, wide = ids.reshape(-1), gradient.reshape(-1, table.shape[1])
    if len(table) <= FEW:
        of = jax.nn.one_hot(flat, len(table), axis=0, dtype=wide.dtype)
        return jnp.matmul(of, wide, preferred_element_type=jnp.float32).astype(table.dtype), None
    return jnp.zeros(table.shape, jnp.float32).at[flat].add(wide.astype(jnp.float32)).astype(table.dtype), None


lookup.defvjp(lookup_forward, lookup_backward)
