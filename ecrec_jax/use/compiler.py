"""A run's train step, compiled ahead of time for devices that need not be there, and what its compiler says of it."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ecrec_jax import section
from ecrec_jax.build import Parts
from ecrec_jax.replicas import Group
from ecrec_jax.step import make_columns, make_step
from ecrec_jax.types import Facts, InputError, State, Strategy

COLLECTIVES = "all-gather|all-reduce|all-to-all|collective-broadcast|collective-permute|ragged-all-to-all|reduce-scatter"
INSTRUCTION = re.compile(rf"^\s*(?:ROOT )?%?(\S+) = (.*?) ({COLLECTIVES})(-start)?\(.*?(?:channel_id=(\d+)|$)"
                         r"(?:.*?chain_id=\"(\d+)\")?(?:.*(shard_map)/)?", re.M)
ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)[a-z0-9]*)\[([\d,]*)\]")
MARGIN = 0.9   # of the rows that fit


@dataclasses.dataclass(frozen=True)
class Program:
    """What the compiler says of a program, all per device: bytes by kind and at the peak, FLOPs, exchanges
    (operation -> bytes of each), whether it recomputes what it could have kept, seconds a step; None where it says nothing."""

    memory: dict[str, int]
    peak: int
    flops: float | None
    exchanged: dict[str, list[int]]
    rematerialised: bool
    looped: bool
    seconds: float | None


class TooLarge(Exception):
    """The compiler refuses a program for its memory; the text is its sentence."""


def shape(x: Any, layout: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    """Instead of an array its shape, its type and where it would lie."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout)


def strategy(node: Mapping[str, Any], devices: Sequence[Any] | None) -> Strategy:
    """The strategy of a section on these devices (None: those at hand), moving shapes only.

    Raises:
        InputError: its program can't be had without the devices.
    """
    cls = section.target(node, "strategy")
    if "transfer" not in section.arguments(cls):
        raise InputError(f"strategy: {cls.__name__} compiles for devices at hand only: plan with strategy=jit")
    return section.make(node, "strategy", Facts(), found=devices, transfer=shape)


def lower(parts: Parts, seed: int, rows: int, group: Group | None = None) -> Any:
    """The lowered step of training for batches of `rows` rows, of all runs of a group if there is one; nothing of it is run."""
    trained, frozen = parts.peft.split(parts.parameters)
    state = State(trained, jax.eval_shape(parts.optimizer.init, trained), jnp.int32(0), jnp.uint32(seed))
    one = next(parts.feeds["train"].batches(seed, 0))
    batch = {key: np.zeros((rows, *x.shape[1:]), x.dtype) for key, x in one.items()}
    place, put = parts.strategy.place, parts.strategy.put
    step = make_step(parts.graph, parts.task, parts.peft, parts.gradient, parts.optimizer, parts.strategy)
    if group is not None:
        group.compile("step", step, True)
        given = (state, np.bool_(True), frozen | parts.constants, put(batch, parts.gradient.count))
        return group.programs["step"].lower(*(jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((group.count, *x.shape), x.dtype, sharding=group.rows), tree) for tree in given))
    return parts.strategy.compile(step, True).lower(place(state), place(frozen | parts.constants),
                                                    put(batch, parts.gradient.count))


def lower_columns(parts: Parts, rows: int) -> Any:
    """The lowered program of evaluation for batches of `rows` rows of the validation split; nothing of it is run."""
    trained, frozen = map(parts.strategy.place, parts.peft.split(parts.parameters))
    one = next(parts.feeds["valid"].batches(None, 0))
    batch = parts.strategy.put({key: np.zeros((rows, *x.shape[1:]), x.dtype) for key, x in one.items()}, 1)
    columns = make_columns(parts.graph, parts.task, parts.peft, parts.strategy)
    return parts.strategy.compile(columns, False).lower(trained, frozen | parts.strategy.place(parts.constants), batch)


def compiled(lowered: Any) -> Program:
    """Compile and read.

    Raises:
        TooLarge: it does not fit into the memory of the device.
    """
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        text = " ".join(str(error).split())
        if "RESOURCE_EXHAUSTED" not in text:
            raise
        raise TooLarge(text.partition("RESOURCE_EXHAUSTED:")[2].strip()) from error
    stats, costs, text = program.memory_analysis(), program.cost_analysis() or {}, program.as_text()
    kinds = {"arguments": "argument", "outputs": "output", "aliased": "alias", "temporaries": "temp", "code": "generated_code"}
    memory = {name: getattr(stats, f"{kind}_size_in_bytes") for name, kind in kinds.items()}
    peak = stats.peak_memory_in_bytes
    if peak < memory["temporaries"]:   # the CPU's compiler leaves them out
        peak = memory["arguments"] + memory["outputs"] - memory["aliased"] + memory["temporaries"]
    seconds = costs.get("optimal_seconds", 0.0)
    believed = seconds > 0 and "ConcatBitcast" not in text   # each of these counts as minus one second
    again = bool(re.search(r"^\s*(?:ROOT )?%?\S*\.remat\S* = ", text, re.M))
    return Program(memory, peak, costs.get("flops"), collectives(text), again, " while(" in text, seconds if believed else None)


def collectives(text: str) -> dict[str, list[int]]:
    """Operation -> bytes of the result of each, from the text of a compiled program; a channel counts once, but that of what
    stands in a shard_map, which all share. What is spread over several fusions (a chain) stands in each, and counts once.

    An asynchronous start shows operands and results side by side (but all-reduce-start): the second half counts.
    """
    found: dict[str, list[int]] = {}
    seen = set()
    instructions = INSTRUCTION.findall(text)
    shared = {channel for *_, channel, _, inside in instructions if inside}
    for name, result, operation, start, channel, chain, _ in instructions:
        sizes = [array_bytes(*array.groups()) for array in ARRAY.finditer(result)]
        one = (chain, *sizes) if chain else name if channel in shared else channel or name
        if one not in seen:
            seen.add(one)
            if start and operation != "all-reduce":
                sizes = sizes[len(sizes) // 2 :] if operation != "collective-permute" else sizes[1:2]
            found.setdefault(operation, []).append(sum(sizes))
    return found


def array_bytes(kind: str, bits: str | None, dimensions: str) -> int:
    """Bytes of an array as the text of a program writes it: f32[8,128]."""
    count = int(np.prod([int(side) for side in dimensions.split(",") if side], dtype=np.int64))
    return count if kind == "pred" else -(-count * int(bits) // 8)


def largest(kept: Callable[[int], bool], unit: int, start: int) -> int:
    """The most rows, a multiple of `unit`, that are `kept`, less a margin of 10 %; 0 if there are none.

    Doubles from `start` on, or halves, then closes in until the answer is known to 5 %.
    """
    good, bad = 0, None
    trial = max(1, start // unit)
    while bad is None or bad - good > max(1, good // 20):
        if kept(trial * unit):
            good = trial
        else:
            bad = trial
        trial = 2 * good if bad is None else (good + bad) // 2
    return max(int(good * MARGIN), min(good, 1)) * unit
