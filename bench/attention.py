"""Forms of attention on the device at hand, both passes: `python -m bench.attention [form …]`, dense flash cudnn by default.

12 heads of 64 numbers in bfloat16; rows are filled with segments of about so many tokens. cudnn is jax's public function with a
mask, which has no dropout. Milliseconds, the least of five times ten steps; beside it the largest difference to the dense form.
"""

import functools
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from ecrec_jax import attention, block
from ecrec_jax.flash import flash
from ecrec_jax.types import Noise

SHAPES = ((64, 512, 512, False), (64, 512, 60, False), (256, 128, 40, False), (512, 64, 12, True))   # rows, tokens, segment, causal
HEADS, WIDTH = 12, 64


def segments(rows: int, length: int, size: int) -> Int[np.ndarray, "B L"]:
    """Rows of segments of `size` / 2 to 3/2 `size` tokens; of one, if `size` is a row's."""
    rng, found = np.random.default_rng(0), np.ones((rows, length), "i4")
    for row in found if size < length else ():
        ends = np.cumsum(rng.integers(size // 2, size * 3 // 2, length))
        row[:] = 1 + np.searchsorted(ends, np.arange(length), "right")
    return found


def forms(segment: Array, causal: bool, rate: float) -> dict[str, Callable[..., Array]]:
    """name -> attention of (query, key, value)."""
    noise, allowed = Noise(jnp.uint32(1), jnp.arange(len(segment))), attention.visible(segment, causal)
    bits = block.hashed(block.row_bits(noise, 0)[:, None], jnp.arange(HEADS))
    return {"dense": lambda *x: attention.attend(*x, allowed, noise if rate else None, 0, rate),
            "flash": lambda *x: flash(*x, segment, bits, causal, rate)} | \
        ({} if rate else {"cudnn": functools.partial(jax.nn.dot_product_attention, mask=allowed, implementation="cudnn")})


def milliseconds(form: Callable[..., Array], given: list[Array], direction: Array) -> tuple[float, list[Array]]:
    """(the least time of a step, the result and its gradients)."""
    def step(direction: Array, *given: Array) -> list[Array]:
        out, back = jax.vjp(form, *given)
        return [out, *back(direction)]

    step, times = jax.jit(step), []
    made = jax.block_until_ready(step(direction, *given))
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(10):
            made = step(direction, *given)
        jax.block_until_ready(made)
        times.append((time.perf_counter() - began) / 10)
    return 1e3 * min(times), made


def main(names: list[str]) -> None:
    """Print the table."""
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}\n")
    print("| rows × tokens | segments | dropout | form | ms | difference |\n|---|---|---|---|---|---|")
    for rows, length, size, causal in SHAPES:
        rng, segment = np.random.default_rng(0), jnp.asarray(segments(rows, length, size))
        *given, direction = (jnp.asarray(rng.normal(size=(rows, length, HEADS, WIDTH)), jnp.bfloat16) for _ in range(4))
        for rate in (0.1, 0.0):
            known, wanted = forms(segment, causal, rate), None
            for name in (name for name in names if name in known):
                took, made = milliseconds(known[name], given, direction)
                wanted = wanted or made
                gap = max(float(jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32)).max())
                          for a, b in zip(made, wanted, strict=True))
                print(f"| {rows} × {length} | {size}{', causal' if causal else ''} | {rate:g} | {name} | {took:.3f} | {gap:.3f} |",
                      flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or ["dense", "flash", "cudnn"])
