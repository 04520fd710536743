"""Where a step's time goes on this machine: `python -m bench.parts`. Parts of a fine-tuning step of MiniLM, each alone, beside the
matmul ceiling; the median of turns and their spread."""

if __name__ == "__main__":
    from experiments.launch import settle

    settle()

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bench import ours
from ecrec_jax.attention import attend
from ecrec_jax.types import Noise

ROWS, LENGTH, HEADS, TURNS = 21, 128, 12, 15   # of a batch of 32 reviews


def backward(function: Callable[..., Any]) -> Callable[..., Any]:
    """What takes the output's gradient and the arguments, and gives the gradients of these; the forward pass with it."""
    return lambda given, *arguments: jax.vjp(function, *arguments)[1](given)


def products(draw: Callable[..., Any]) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...], float]]:
    """Name -> (function, arguments, FLOPs) of a layer's dense products: forward, gradient of the input, gradient of the weight."""
    tokens, found = ROWS * LENGTH, {}
    for inputs, outputs in ((384, 384), (384, 1536), (1536, 384)):
        x, weight, given = draw(tokens, inputs), draw(inputs, outputs), draw(tokens, outputs)
        flops = 2.0 * tokens * inputs * outputs
        found[f"{inputs} × {outputs}, forward"] = jnp.matmul, (x, weight), flops
        found[f"{inputs} × {outputs}, gradient of its input"] = (lambda g, w: g @ w.T), (given, weight), flops
        found[f"{inputs} × {outputs}, gradient of the weight"] = (lambda x, g: x.T @ g), (x, given), flops
    return found


def attention(draw: Callable[..., Any]) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...], float]]:
    """The same of one layer's attention, forward and backward, and of its six products alone."""
    shape, flops = (ROWS, LENGTH, HEADS, 32), 6 * 2.0 * ROWS * HEADS * LENGTH**2 * 32
    allowed, row = jnp.ones((ROWS, 1, LENGTH, LENGTH), bool), jnp.arange(ROWS)

    def whole(given: Any, seed: Any, *heads: Any) -> Any:
        return backward(lambda q, k, v: attend(q, k, v, allowed, Noise(seed, row), 1, 0.1))(given, *heads)

    def bare(q: Any, k: Any, v: Any) -> Any:
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
        return ((q @ k.swapaxes(-1, -2)) @ v).swapaxes(1, 2)

    four = tuple(draw(*shape) for _ in range(4))
    return {"attention with dropout, both passes": (whole, (four[0], jnp.uint32(3), *four[1:]), flops),
            "its six products alone": (backward(bare), four, flops)}


def seconds(run: Callable[[], Any]) -> list[float]:
    """Of every turn, after two to warm up."""
    found = []
    for _ in range(TURNS + 2):
        began = time.perf_counter()
        jax.block_until_ready(run())
        found.append(time.perf_counter() - began)
    return found[2:]


def update() -> Callable[[], Any]:
    """One of AdamW on all parameters, clipped, in place."""
    parts = ours.parts_of("fine-tune", [])
    trained, _ = parts.peft.split(parts.parameters)
    gradient = jax.tree.map(lambda x: jnp.full(x.shape, 1e-3), trained)
    held = [parts.strategy.place((trained, parts.optimizer.init(trained)))]

    def one(state: Any, gradient: Any) -> Any:
        updates, opt = parts.optimizer.update(gradient, state[1], state[0])
        return optax.apply_updates(state[0], updates), opt

    step = parts.strategy.compile(one, True)

    def run() -> Any:
        held[0] = step(held[0], gradient)
        return held[0]

    return run


def main() -> None:
    """Measure the ceiling, then each part, and print a table."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape) * 0.05, jnp.float32)  # noqa: E731
    known = {"ceiling: 2,048 × 2,048": (jnp.matmul, (draw(2048, 2048), draw(2048, 2048)), 2.0 * 2048**3),
             **products(draw), **attention(draw)}
    runs = {name: (functools.partial(jax.jit(f), *given), flops) for name, (f, given, flops) in known.items()}
    runs["AdamW on all parameters"] = update(), None
    print("| part | GFLOP | ms, median [least, most] | GFLOP/s |\n|---|---|---|---|")
    for name, (run, flops) in runs.items():
        ms = sorted(1e3 * x for x in seconds(run))
        middle = statistics.median(ms)
        count, speed = ("", "") if flops is None else (f"{flops / 1e9:.2f}", f"{flops / middle / 1e6:.0f}")
        print(f"| {name} | {count} | {middle:.1f} [{ms[0]:.1f}, {ms[-1]:.1f}] | {speed} |", flush=True)


if __name__ == "__main__":
    main()
