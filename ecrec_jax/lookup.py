"""Rows of a table by their numbers, and the gradient of that; of tables too large for a device, too."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ecrec_jax.block import kept, row_bits, scramble
from ecrec_jax.types import Noise

FEW = 16   # rows of a table whose gradient is a product


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Divided:
    """In a program of one device's rows: a table of which each device has D / n columns of all V rows. What is looked up crosses
    between the devices, the table doesn't; the gradient of a part is the sum over all devices' rows."""

    part: Float[Array, "V C"]
    axis: str = dataclasses.field(metadata={"static": True}, default="data")

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, key: Any) -> "Divided":
        return dataclasses.replace(self, part=self.part[key])

    def __jax_array__(self) -> Float[Array, "V D"]:
        """The whole table: whoever computes with all of it gathers it."""
        return jax.lax.all_gather(self.part, self.axis, axis=1, tiled=True)

    @property
    def dtype(self) -> Any:
        """Of its numbers."""
        return self.part.dtype

    def astype(self, dtype: Any) -> "Divided":
        """The table in another type."""
        return dataclasses.replace(self, part=self.part.astype(dtype))

    def rows(self, ids: Int[Array, "B ..."]) -> Float[Array, "B ... D"]:
        """Every device looks its columns up for the ids of all, then each is sent all columns of its own."""
        return self.lists(found(self.part, self.all(ids)))

    def ids(self, bias: Float[Array, "V"], block: int, fill: float
            ) -> tuple[Float[Array, "W D"], Float[Array, "W"], Int[Array, ""]]:
        """(all columns of this device's share of the ids, a multiple of `block`; what of the `bias` belongs to them, `fill` beyond
        its end; the first of them)."""
        size = jax.lax.axis_size(self.axis)
        part, bias = filled(self.part, size * block, 0), filled(bias, size * block, fill)
        first = jax.lax.axis_index(self.axis) * (len(part) // size)
        whole = jax.lax.all_to_all(part, self.axis, 0, 1, tiled=True)
        return whole, jax.lax.dynamic_slice_in_dim(bias, first, len(whole)), first

    def all(self, x: Float[Array, "B ..."]) -> Float[Array, "N ..."]:
        """The rows of all devices."""
        return jax.lax.all_gather(x, self.axis, tiled=True)

    def sum(self, x: Float[Array, "N ..."]) -> Float[Array, "B ..."]:
        """Of what every device has of all rows the sum, of this device's rows."""
        return jax.lax.psum_scatter(x, self.axis, tiled=True)

    def lists(self, x: Float[Array, "N ... K"]) -> Float[Array, "B ... L"]:
        """What every device has of this device's rows, side by side in the last axis."""
        return jax.lax.all_to_all(x, self.axis, 0, x.ndim - 1, tiled=True)


class Here(NamedTuple):
    """A table that is whole on this device: what it says of its ids is all that is said."""

    table: Float[Array, "V D"]

    def ids(self, bias: Float[Array, "V"], block: int, fill: float) -> tuple[Float[Array, "W D"], Float[Array, "W"], int]:
        """Of all ids, filled up to a multiple of `block`."""
        return filled(self.table, block, 0), filled(bias, block, fill), 0

    def all(self, x: Array) -> Array:
        """As it is."""
        return x

    sum = lists = all


def filled(x: Float[Array, "V ..."], size: int, fill: float) -> Float[Array, "W ..."]:
    """Up to a multiple of `size` rows."""
    return jnp.pad(x, ((0, -len(x) % size), *((0, 0),) * (x.ndim - 1)), constant_values=fill)


def lookup(table: Float[Array, "V D"] | Divided, ids: Int[Array, "..."]) -> Float[Array, "... D"]:
    """Rows of a table."""
    return table.rows(ids) if isinstance(table, Divided) else found(table, ids)


def dropped(table: Float[Array, "V D"] | Divided, noise: Noise, rate: float) -> Float[Array, "V D"] | Divided:
    """Inverted dropout of a table: one mask a step, for all who read a row. A device's columns have the mask that they have in the
    whole."""
    part, first = table, jnp.int32(0)
    if isinstance(table, Divided):
        part, first = table.part, jax.lax.axis_index(table.axis) * table.part.shape[1]
    bits = row_bits(Noise(scramble(noise.seed), jnp.arange(len(part))), 0)
    keep = kept(bits[:, None], first + jnp.arange(part.shape[1]), rate)
    part = jnp.where(keep, part * jnp.asarray(1 / (1 - rate), part.dtype), jnp.zeros((), part.dtype))
    return dataclasses.replace(table, part=part) if isinstance(table, Divided) else part


@jax.custom_vjp
def found(table: Float[Array, "V D"], ids: Int[Array, "..."]) -> Float[Array, "... D"]:
    """Rows of a table that is here. Its gradient is summed in f32: in bfloat16 a sum stands still once it is 256 times its addends,
    and on GPUs, which have no such addition in memory, thousands of tokens that share a row wait for each other."""
    return table[ids]


def found_forward(table: Array, ids: Array) -> tuple[Array, Any]:
    """(rows, what the gradient needs)."""
    return table[ids], (table, ids)


def found_backward(kept: tuple[Array, Array], gradient: Array) -> tuple[Array, None]:
    """Sums of the gradients of each row; of a few rows by a product, without a single collision."""
    table, ids = kept
    flat, wide = ids.reshape(-1), gradient.reshape(-1, table.shape[1])
    if len(table) <= FEW:
        of = jax.nn.one_hot(flat, len(table), axis=0, dtype=wide.dtype)
        return jnp.matmul(of, wide, preferred_element_type=jnp.float32).astype(table.dtype), None
    return jnp.zeros(table.shape, jnp.float32).at[flat].add(wide.astype(jnp.float32)).astype(table.dtype), None


found.defvjp(found_forward, found_backward)
