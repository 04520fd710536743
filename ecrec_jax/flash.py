"""Self-attention inside the segments of a row for GPUs, block by block in Pallas kernels, with dropout."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int, UInt32

from ecrec_jax.block import starts
from ecrec_jax.flash_kernels import Block, How, forward_kernel, keys_kernel, queries_kernel

LEAST = 64   # rows are filled up to a multiple of so many tokens


class Sizes(NamedTuple):
    """A kernel's: tokens of a program's own block, tokens of the blocks that it goes through, warps, and blocks loaded ahead."""

    own: int
    other: int
    warps: int
    stages: int


FORWARD = OF_KEYS = OF_QUERIES = Sizes(64, 32, 4, 3)   # docs/benchmarks.md


def flash(
    query: Float[Array, "B L N K"], key: Float[Array, "B L N K"], value: Float[Array, "B L N K"], segment: Int[Array, "B L"],
    bits: UInt32[Array, "B N"], causal: bool, rate: float, interpret: bool = False,
) -> Float[Array, "B L N K"]:
    """Scaled dot-product attention between tokens of one segment, dropped at `rate` by the hash that `block.dropout` has (`bits`:
    its state for a row and a head). A segment's tokens must stand together: blocks that share none are not computed. No array of
    L × L is made; for the gradient the scores are computed again. `interpret` runs it anywhere, slowly.

    Source: Dao 2023, "FlashAttention-2", algorithms 1 and 2, the latter as a kernel for keys and values and one for queries; its
    dropout as in Dao et al. 2022, appendix B.
    """
    length, width = query.shape[1], query.shape[3]
    more, wider = -length % LEAST, max(16, 1 << (width - 1).bit_length()) - width
    fill = lambda x: jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, wider)))  # noqa: E731
    segment = jnp.pad(segment, ((0, 0), (0, more)), constant_values=-1)
    given = segment, *reach(segment), bits
    return attend(fill(query), fill(key), fill(value), given, How(causal, rate, width**-0.5, interpret))[:, :length, :, :width]


def reach(segment: Int[Array, "B L"]) -> tuple[Int[Array, "B L"], Int[Array, "B L"]]:
    """Of every token, the first token of its segment, and the one after the last."""
    begins, at, length = starts(segment), jnp.arange(segment.shape[1]), segment.shape[1]
    ends = jnp.pad(begins[:, 1:], ((0, 0), (0, 1)), constant_values=True)
    first = jax.lax.cummax(jnp.where(begins, at, 0), axis=1)
    return first, jax.lax.cummin(jnp.where(ends, at, length), axis=1, reverse=True) + 1


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def attend(query: Array, key: Array, value: Array, given: tuple[Array, ...], how: How) -> Array:
    """The kernels on whole blocks; `given`: segments, where each token's begins and ends, bits."""
    return forward(query, key, value, given, how)[0]


def forward(query: Array, key: Array, value: Array, given: tuple[Array, ...], how: How) -> tuple[Array, Any]:
    """(what attention says, what the gradient needs)."""
    out, total = call(forward_kernel, FORWARD, how, {"own": (query,), "row": (key, value)}, given,
                      ((OWN, query.dtype), (OWN_LINE, jnp.float32)))
    return out, (query, key, value, given, out, total)


def backward(how: How, known: Any, gradient: Array) -> tuple[Any, ...]:
    """The gradients of query, key and value."""
    query, key, value, given, out, total = known
    result = OWN, query.dtype
    delta = (out.astype(jnp.float32) * gradient.astype(jnp.float32)).sum(-1).swapaxes(1, 2)
    of_query, = call(queries_kernel, OF_QUERIES, how, {"own": (query, gradient), "own_line": (total, delta), "row": (key, value)},
                     given, [result])
    of_key, of_value = call(keys_kernel, OF_KEYS, how, {"own": (key, value), "row": (query, gradient), "row_line": (total, delta)},
                            given, [result] * 2)
    return of_query, of_key, of_value, None


attend.defvjp(forward, backward)

# What a program (row, head, block) is handed of an array: its axes, which part of them (0: all, -1: its own block), and where
OWN = ("BLNK", (None, -1, None, 0), lambda b, n, t: (b, t, n, 0))
ROW = ("BLNK", (None, 0, None, 0), lambda b, n, t: (b, 0, n, 0))
OWN_LINE = ("BNL", (None, None, -1), lambda b, n, t: (b, n, t))      # a number each
ROW_LINE = ("BNL", (None, None, 0), lambda b, n, t: (b, n, 0))
LINE = ("BL", (None, 0), lambda b, n, t: (b, 0))
HEAD = ("BN", (None, None), lambda b, n, t: (b, n))
KINDS = {"own": OWN, "own_line": OWN_LINE, "row": ROW, "row_line": ROW_LINE}


def call(kernel: Callable[..., None], sizes: Sizes, how: How, arrays: dict[str, tuple[Array, ...]], given: tuple[Array, ...],
         results: Any) -> Any:
    """A kernel over all rows, heads and blocks."""
    from jax.experimental.pallas import triton

    batch, length, heads, width = arrays["own"][0].shape
    own = sizes.own if width <= 64 and length % sizes.own == 0 else LEAST
    whole = {"B": batch, "L": length, "N": heads, "K": width}

    def part(kind: Any) -> pl.BlockSpec:
        axes, shape, index = kind
        return pl.BlockSpec(tuple({0: whole[axis], -1: own}.get(size) for axis, size in zip(axes, shape, strict=True)), index)

    def run(*refs: Any) -> None:
        count = sum(map(len, arrays.values()))
        segment, first, end, bits = refs[count : count + 4]
        number = pl.program_id(2)
        begin = number * own
        lower, upper = first[begin] // sizes.other, pl.cdiv(end[begin + own - 1], sizes.other)
        if how.causal and kernel is keys_kernel:
            lower = begin // sizes.other
        elif how.causal:
            upper = pl.cdiv(begin + own, sizes.other)
        mine = Block(begin + jnp.arange(own), segment[pl.ds(begin, own)], lower, upper, bits[...])

        def other(number: Any) -> tuple[Any, Array, Array]:
            place = pl.ds(number * sizes.other, sizes.other)
            return place, number * sizes.other + jnp.arange(sizes.other), segment[place]

        kernel(mine, other, how, *refs[:count], *refs[count + 4 :])

    kinds = [KINDS[kind] for kind, some in arrays.items() for _ in some]
    return pl.pallas_call(
        run, grid=(batch, heads, length // own), in_specs=[part(kind) for kind in (*kinds, LINE, LINE, LINE, HEAD)],
        out_specs=[part(kind) for kind, _ in results], name=kernel.__name__,
        out_shape=[jax.ShapeDtypeStruct(tuple(whole[axis] for axis in kind[0]), dtype) for kind, dtype in results],
        compiler_params=triton.CompilerParams(num_warps=sizes.warps, num_stages=sizes.stages), interpret=how.interpret,
    )(*(x for some in arrays.values() for x in some), *given)
