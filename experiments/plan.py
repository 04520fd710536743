"""What a step would need on machines that aren't there: `python -m experiments.plan experiment=pretrain topology=v5e:2x2`."""

if __name__ == "__main__":
    from experiments.launch import settle

    settle()

import dataclasses
import functools
import importlib.metadata
from collections.abc import Callable
from typing import Any

from ecrec_jax import build, section
from ecrec_jax.replicas import Group, Replica
from ecrec_jax.types import InputError
from ecrec_jax.use import compiler, flops, topology
from experiments import replicas, wiring

KEYS = {"topology": str, "rows": int | None, "largest": bool, "evaluation": bool}
UNITS = ("B", "KB", "MB", "GB", "TB")   # of 1000: what is exchanged; memory is in GiB


def main(config: dict[str, Any]) -> None:
    """Build the run, put its strategy onto the topology, compile, print. Nothing is trained and nothing is written."""
    asked = section.typed({key: config.pop(key) for key in KEYS}, KEYS)
    wiring.plan_of(config)
    wiring.check(config)
    if asked["rows"] is not None and asked["rows"] < 1:
        raise InputError(f"rows is {asked['rows']}, must be at least 1")
    found, limit = topology.devices(asked["topology"])
    if asked["evaluation"] and config["replicas"] is not None:
        raise InputError("evaluation=true plans one run: leave replicas null")
    if asked["largest"] and limit is None:
        raise InputError("largest=true looks for the limit of a device's memory: name a chip, such as topology=v5e:2x2")
    strategy, group = compiler.strategy(build.constructors(config, "strategy"), found), None
    if config["replicas"] is not None:
        replicas.together(config)
        group = Group(len(replicas.members(config)), config["strategy"]["devices"], found)
        strategy = Replica(group, 0)
    changed = wiring.debugged(config)
    parts = build.build(changed | {"strategy": changed["strategy"] | {"devices": None}})
    parts = dataclasses.replace(parts, strategy=strategy)
    split = "valid" if asked["evaluation"] else "train"
    rows = asked["rows"] or parts.feeds[split].shape.rows
    introduce(parts, asked["topology"], split, rows, group)
    if "attention" in changed["model"]:
        print(f"attention: {wiring.attention(changed, parts)}", flush=True)
    lower = compiler.lower_columns if asked["evaluation"] else functools.partial(compiler.lower, seed=config["seed"], group=group)
    compiled = functools.cache(lambda count: compiler.compiled(lower(parts, rows=count)))
    try:
        trained = None if asked["evaluation"] else rows * (group.count // group.mesh.size if group else 1)
        report(compiled(rows), parts, trained, limit)
    except compiler.TooLarge as error:
        print(f"does not fit: {rows} rows need more than a device's {limit / topology.GIB:.4g} GiB; the compiler says: {error}")
    if asked["largest"]:
        search(compiled, parts, rows, limit)


def introduce(parts: build.Parts, name: str, split: str, rows: int, group: Group | None) -> None:
    """What is compiled, by which compiler, for what."""
    chip = name.partition(":")[0]
    packages = ("jax", "libtpu" if chip in topology.HBM else "jaxlib")
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    shape, devices = parts.feeds[split].shape, parts.strategy.devices
    print(f"{name}: {group.mesh.size if group else devices} devices, {type(parts.strategy).__name__}; compiled by {versions}; "
          "nothing was run on a device")
    print(f"batch: {rows} rows × {shape.length} tokens, {shape.slots} slots a row; "
          f"{-(-rows // unit(parts)) * unit(parts) // devices} rows a device, empty ones included"
          + (f"; of each of {group.count} runs, {group.count // group.mesh.size} on a device" if group else ""))


def unit(parts: build.Parts) -> int:
    """The number that the rows of a step are filled up to a multiple of."""
    return parts.strategy.devices * parts.gradient.count


def report(program: compiler.Program, parts: build.Parts, rows: int | None, limit: int | None) -> None:
    """Memory, FLOPs (beside the model's for training on `rows` rows), exchanges, and a time if there is one; all per device."""
    for kind, size in (program.memory | {"peak": program.peak}).items():
        print(f"memory: {kind:12} {size / topology.GIB:8.3f} GiB")
    need = program.peak + program.memory["code"]
    if limit is not None:
        print(f"{'fits' if need <= limit else 'does not fit'}: peak and code are {need / topology.GIB:.2f} of "
              f"{limit / topology.GIB:.4g} GiB" + ("; near the limit: the compiler recomputes some of it by itself"
                                                   if program.rematerialised else ""))
    print(f"FLOPs: {arithmetic(program, parts, rows)}")
    for operation, sizes in program.exchanged.items():
        print(f"exchanged: {operation} × {len(sizes)}: {readable(sum(sizes))}, the largest {readable(max(sizes))}")
    if not program.exchanged:
        print("exchanged: nothing")
    if program.looped:
        print("note: the program has a loop, whose body is counted once in FLOPs and exchanges")
    if parts.strategy.platform == "gpu":
        print("note: on a card softmax keeps its powers where they take 0.5 GiB or less, the layer norm's gradient is a kernel, "
              "and libraries' kernels are chosen by trying; none of it was compiled here")
    if program.seconds is not None:
        print(f"step time: {program.seconds:.4g} s, the compiler's rough estimate for dense programs (±50 %), never measured")
    else:
        print("step time: the compiler gives no estimate for this program")


def arithmetic(program: compiler.Program, parts: build.Parts, rows: int | None) -> str:
    """What the program computes, and what training on `rows` rows has to."""
    made = f"program {program.flops:.4g}" if program.flops is not None else "the compiler doesn't say"
    if rows is None:
        return made
    model = flops.model_flops(parts, next(parts.feeds["train"].batches(0, 0))) * rows / parts.strategy.devices
    ratio = f", {program.flops / model:.2f} × the model's" if program.flops is not None else "; the model's are"
    return f"{made}{ratio} {model:.4g} (real tokens, used slots, attention inside segments)"


def readable(size: float) -> str:
    """Bytes with a unit."""
    power = 0
    while size >= 1000 and power < len(UNITS) - 1:
        size, power = size / 1000, power + 1
    return f"{size:.4g} {UNITS[power]}"


def search(compiled: Callable[[int], compiler.Program], parts: build.Parts, rows: int, limit: int) -> None:
    """The most rows a step, from `rows` on; every trial is a compilation and is told."""

    def kept(trial: int) -> bool:
        try:
            program = compiled(trial)
        except compiler.TooLarge:
            print(f"largest: {trial} rows do not fit", flush=True)
            return False
        each = f"{program.flops * parts.strategy.devices / trial:.4g} FLOPs a row, " if program.flops is not None else ""
        print(f"largest: {trial} rows: peak {program.peak / topology.GIB:.2f} GiB, {each}"
              f"{'recomputes' if program.rematerialised else 'recomputes nothing'}", flush=True)
        return not program.rematerialised and program.peak + program.memory["code"] <= limit   # CUDA's compiler refuses nothing

    found = compiler.largest(kept, unit(parts), rows)
    print(f"largest: {found} rows, {found // parts.strategy.devices} a device, before the compiler recomputes by itself, "
          f"{1 - compiler.MARGIN:.0%} left free" if found else "largest: not even the fewest rows fit")


if __name__ == "__main__":
    from experiments.launch import main as launch

    launch(main, "plan")
