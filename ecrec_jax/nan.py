"""`debug=nan`: a step that is not finite is taken again slowly, to say where it stops being so."""

import linecache
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
from flax import nnx

from ecrec_jax.block import mix
from ecrec_jax.build import Parts
from ecrec_jax.types import Batch, InputError, Noise, Parameters, State

LIBRARY = re.compile(r"site-packages/(jax|jaxlib|flax|optax)/")


def watched(step: Callable[..., Any], parts: Parts) -> Callable[..., Any]:
    """A compiled step that keeps what it is given, with an eye on its loss and gradient.

    Raises:
        InputError: they are not finite; says where in the network, or in which parameters, that begins.
    """
    def run(state: State, constant: Parameters, batch: Batch) -> tuple[State, Any]:
        new, logs = step(state, constant, batch)
        found = parts.strategy.fetch(logs)
        bad = [name for name in found if not np.isfinite(found[name])]
        if bad:
            began, given = parts.strategy.fetch((state, constant))
            raise InputError(f"train/{' and train/'.join(bad)} not finite at step {int(began.step) + 1}: "
                             f"{where(parts, began, given, whole(parts, batch))}")
        return new, logs

    return run


def whole(parts: Parts, batch: Batch) -> Batch:
    """All rows of a batch on the host; pmap's have an axis of devices before them."""
    if batch["tokens"].ndim == 2:
        return parts.strategy.fetch(batch)
    return {key: x.reshape(-1, *x.shape[2:]) for key, x in batch.items()}


def where(parts: Parts, state: State, constant: Parameters, batch: Batch) -> str:
    """The first parameter that isn't finite; else the operation of the forward pass, then of the backward pass, that first gives
    nan, then inf, of the same batch with the same dropout on one device, operation by operation."""
    everything = parts.peft.merge(state.trained, constant)
    before = unsound(everything)
    if before:
        return f"before the step {before}"
    weight = parts.gradient.normalise(batch, lambda x: x)
    paths: dict[int, str] = {}

    def loss(trained: Parameters) -> Any:
        net = parts.graph.net(parts.peft.merge(trained, constant))
        paths.update((id(node), ".".join(map(str, path))) for path, node in nnx.iter_graph(net) if isinstance(node, nnx.Module))
        outputs = net(batch, Noise(mix(state.seed, state.step), batch["row"]))
        return (parts.task.loss(outputs, batch, lambda x: x) * weight).sum()

    for sort, watch in (("nan", jax.debug_nans), ("inf", jax.debug_infs)):
        for way, run in (("forward", loss), ("backward", jax.grad(loss))):
            try:
                with jax.disable_jit(), watch(True):
                    run(state.trained)
            except FloatingPointError as error:
                return f"{sort} first appears in the {way} pass, {place(error, paths)}; {largest(everything)}"
    gradient = unsound(jax.jit(jax.grad(loss))(state.trained))
    return f"of the gradient {gradient}" if gradient else "operation by operation on one device the step is finite"


def unsound(arrays: Parameters) -> str:
    """How many arrays aren't finite and which is the first; nothing where all are."""
    bad = [name for name, x in arrays.items() if not np.isfinite(np.asarray(x, "f4")).all()]
    return f"{len(bad)} of {len(arrays)} arrays are not finite, the first is {bad[0]}" if bad else ""


def largest(arrays: Parameters) -> str:
    """The largest number among the parameters: a diverged run has huge ones."""
    sizes = {name: float(np.abs(np.asarray(x, "f4")).max(initial=0)) for name, x in arrays.items()}
    name = max(sizes, key=lambda name: sizes[name])
    return f"the largest parameter is {sizes[name]:.3g}, in {name}"


def place(error: BaseException, paths: dict[int, str]) -> str:
    """The module and the line of ours, or the user's, that an operation comes from. What JAX differentiates remembers its line as
    the cause of the error."""
    frames = [x for e in (error, error.__cause__) if e is not None for x in walk(e.__traceback__)]
    modules = [paths[id(x)] for frame, _ in frames if (x := frame.f_locals.get("self")) is not None and id(x) in paths]
    ours = [(frame.f_code.co_filename, line) for frame, line in frames if not LIBRARY.search(frame.f_code.co_filename)]
    file, line = ours[-1]
    inside = f"in {modules[-1]}, " if modules and modules[-1] else ""
    return f"{inside}{'/'.join(Path(file).parts[-2:])} line {line}: {linecache.getline(file, line).strip()}"


def walk(traceback: TracebackType | None) -> Iterator[tuple[Any, int]]:
    """Its frames with their lines, the outermost first."""
    while traceback is not None:
        yield traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next
