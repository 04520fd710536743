"""Building blocks of models and heads: dropout by hash, layer norm, reading at slots."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt32

from ecrec_jax.matmul import matmul
from ecrec_jax.norm import layer_norm
from ecrec_jax.types import Batch, InputError, Noise
from ecrec_jax.weights import initial

GOLDEN = 0x9E3779B9     # 2^32 over the golden ratio: consecutive numbers land far apart
HEAD_SITE = 1 << 16     # dropout sites below belong to the model, from here on to the head


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {   # by name, so that equal layers are equal
    "gelu": lambda x: 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5)),   # jax.nn's has erfc, which takes longer on CPU
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}


class Constant(nnx.Variable):
    """An array that is an input of the step and never trained: text features, popularity, a teacher's table."""


def scramble(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """A 32-bit mixing function (two rounds of xor-shift-multiply), bijective.

    Source: C. Wellons, "Prospecting for Hash Functions" (2018), the constants of lowbias32.
    """
    x = stirred(x)
    return x ^ (x >> 16)


def stirred(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """`scramble` before its last step, which leaves the upper 16 bits as they are."""
    x ^= x >> 16
    x *= jnp.uint32(0x7FEB352D)
    x ^= x >> 15
    return x * jnp.uint32(0x846CA68B)


def mix(seed: UInt32[Array, ""], step: Int[Array, ""]) -> UInt32[Array, ""]:
    """The seed of one step's noise."""
    return scramble(seed + step.astype(jnp.uint32) * jnp.uint32(GOLDEN))


def row_bits(noise: Noise, site: int | Int[Array, ""]) -> UInt32[Array, "B"]:
    """The hash of (step seed, site, row of the global batch)."""
    return scramble(noise.row.astype(jnp.uint32) * jnp.uint32(GOLDEN) + noise.seed + jnp.uint32(site) * jnp.uint32(0x85EBCA6B))


def joined(bits: UInt32[Array, "..."], index: Int[Array, "..."]) -> UInt32[Array, "..."]:
    """What the hash of `bits` and one more index is the hash of."""
    return bits + index.astype(jnp.uint32) * jnp.uint32(0xC2B2AE35)


def hashed(bits: UInt32[Array, "..."], index: Int[Array, "..."]) -> UInt32[Array, "..."]:
    """The hash that goes on from `bits` with one more index."""
    return scramble(joined(bits, index))


def kept(bits: UInt32[Array, "..."], index: Int[Array, "..."], rate: float) -> Bool[Array, "..."]:
    """Whether dropout leaves the number whose hash goes on from `bits` with `index`: its upper 16 bits are not below `rate`, which
    is cut to 65536ths."""
    return stirred(joined(bits, index)) >= jnp.uint32(int(rate * 2**16) << 16)


def dropout(x: Float[Array, "B ... D"], noise: Noise | None, site: int | Int[Array, ""], rate: float) -> Float[Array, "B ... D"]:
    """Inverted dropout whose mask is a hash of (step seed, site, row of the global batch, indices inside the row).

    A mask therefore does not depend on devices, accumulation or sharding. `site` numbers the places of a network; a loop over
    layers computes it.
    """
    if noise is None or rate == 0:
        return x
    bits = row_bits(noise, site)
    for size in x.shape[1:-1]:
        bits = hashed(bits[..., None], jnp.arange(size))
    keep = kept(bits[..., None], jnp.arange(x.shape[-1]), rate)
    return jnp.where(keep, x * jnp.asarray(1 / (1 - rate), x.dtype), jnp.zeros((), x.dtype))


def named(name: str, function: Callable[..., Any], *given: Any) -> Any:
    """The function's result, computed under a name that traces show and debug=profile counts by."""
    with jax.named_scope(name):
        return function(*given)


class LayerNorm(nnx.Module):
    """Layer normalisation (Ba et al. 2016) over the last axis."""

    def __init__(self, width: int, epsilon: float):
        self.scale, self.bias = nnx.Param(jnp.ones(width)), nnx.Param(jnp.zeros(width))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        return layer_norm(x, self.scale[...], self.bias[...], self.epsilon)


class Linear(nnx.Linear):
    """A dense layer that multiplies matrices: of arrays with more axes XLA computes the weight's gradient a fifth slower on CPU."""

    def __call__(self, x: Float[Array, "... I"]) -> Float[Array, "... O"]:
        bias = self.bias if self.bias is None else self.bias[...]
        flat, kernel, bias = self.promote_dtype((x.reshape(-1, x.shape[-1]), self.kernel[...], bias), dtype=self.dtype)
        made = matmul(flat, kernel)
        return (made if bias is None else made + bias).reshape(*x.shape[:-1], self.out_features)


def linear(inputs: int, outputs: int, spread: float | str, rngs: nnx.Rngs) -> Linear:
    """A dense layer with an `initial` kernel, BERT's (Devlin et al. 2019) if normal, and zero bias."""
    return Linear(inputs, outputs, kernel_init=initial(spread, rngs), rngs=rngs)


def embedding(count: int, width: int, spread: float | str, rngs: nnx.Rngs) -> nnx.Embed:
    """A table of `count` vectors, `initial`."""
    return nnx.Embed(count, width, embedding_init=initial(spread, rngs), rngs=rngs)


def activation(name: str) -> Callable[[Array], Array]:
    """The activation a BERT config names: `gelu` is the exact (erf) form, `gelu_new` the tanh approximation.

    Raises:
        InputError: the name is none of those implemented.
    """
    if name not in ACTIVATIONS:
        raise InputError(f"activation {name!r} is not implemented; known are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def read(hidden: Float[Array, "B L D"], slot: Int[Array, "B S"]) -> Float[Array, "B S D"]:
    """Hidden states at the slots."""
    return jnp.take_along_axis(hidden, slot[..., None], 1)


def starts(segment: Int[Array, "B L"]) -> Bool[Array, "B L"]:
    """Where a segment begins; padding (0) is one too."""
    return jnp.pad(segment[:, 1:] != segment[:, :-1], ((0, 0), (1, 0)), constant_values=True)


def average(hidden: Float[Array, "B L D"], batch: Batch) -> Float[Array, "B S D"]:
    """Mean of the hidden states of each slot's segment (f32)."""
    segment = jnp.take_along_axis(batch["segment"], batch["slot"], 1)
    member = (segment[:, :, None] == batch["segment"][:, None, :]).astype(jnp.float32)
    total = jnp.einsum("bsl,bld->bsd", member, hidden.astype(jnp.float32))
    return total / jnp.maximum(member.sum(-1, keepdims=True), 1)


def normalise(weight: Float[Array, "B S"], reduce: Callable[[Any], Any]) -> Float[Array, "B S"]:
    """Weights that sum to 1 over the global batch, so that nothing divides later. All zero stays all zero."""
    total = reduce(weight.sum())
    return weight * jnp.where(total > 0, 1 / jnp.where(total > 0, total, 1), 0)


def select(paths: Iterable[str], yes: Sequence[str], no: Sequence[str], what: tuple[str, str]) -> dict[str, bool]:
    """Decide for every parameter path by two lists of regular expressions; each path must match exactly one list.

    Raises:
        InputError: a path matches neither list or both; `what` names the lists.
    """
    for pattern in (*yes, *no):
        try:
            re.compile(pattern)
        except re.error as error:
            raise InputError(f"{what[pattern not in yes]}: {pattern!r} is not a regular expression ({error})") from None
    chosen = {}
    for path in paths:
        hit = [any(re.search(p, path) for p in patterns) for patterns in (yes, no)]
        if hit[0] == hit[1]:
            raise InputError(f"parameter {path} matches {'both' if hit[0] else 'neither'} of {what[0]} and {what[1]}")
        chosen[path] = hit[0]
    return chosen


def pad_rows(batch: Batch, multiple: int) -> dict[str, np.ndarray]:
    """Append rows of zeros (no weight) up to a multiple; row numbers go on counting."""
    rows = len(batch["row"])
    more = -rows % multiple
    if not more:
        return dict(batch)
    padded = {key: np.concatenate([x, np.zeros((more, *x.shape[1:]), x.dtype)]) for key, x in batch.items()}
    return padded | {"row": np.arange(rows + more, dtype="i4")}
