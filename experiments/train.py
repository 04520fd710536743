"""Train one run: `python -m experiments.train experiment=sentiment run_dir=runs/mine [key=value …]`."""

if __name__ == "__main__":
    from experiments.launch import settle

    settle()

import contextlib
import re
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ecrec_jax import build, evaluate, processes, section, source
from ecrec_jax.data import leak, vectors
from ecrec_jax.data.copies import COPIES
from ecrec_jax.data.tokenise import FILES
from ecrec_jax.loop import Loop
from ecrec_jax.meter import brief
from ecrec_jax.types import Facts
from ecrec_jax.writing import writing
from experiments import record, wiring
from experiments.protocol import protocol, told


def train(config: dict[str, Any]) -> dict[str, Any]:
    """The whole way of a run: folder, parts, loop, summary."""
    began = time.perf_counter()
    wiring.compilation_cache()
    folder = record.folder_of(config)
    plan = wiring.plan_of(config)
    wiring.check(config)
    wiring.connect(config)
    with contextlib.ExitStack() as held:
        summary = processes.agree(lambda: take(config, folder, held))
        if summary is None:
            stop = wiring.Stop()
            changed = wiring.debugged(config)
            parts = processes.together(lambda: build.build(changed))
            copied = parts.corpus.report.get(COPIES, {}).get("sha256")
            processes.same([parts.corpus.digest, copied], "the data")
            loop, about = begin(config, changed, parts, folder, stop)
            summary = loop.run() | about | {"wall_seconds": loop.wall(began)}
            processes.agree(lambda: finish(loop, summary, folder))
        elif processes.first():
            note(folder)
    if processes.first():
        show(summary, plan.best["metric"], folder)
    return summary


def begin(config: Mapping[str, Any], changed: Mapping[str, Any], parts: build.Parts, folder: Path,
          stop: Callable[[], bool]) -> tuple[Loop, dict[str, Any]]:
    """(the loop of a run, what its summary says besides)."""
    copied = parts.corpus.report.get(COPIES, {}).get("sha256")
    processes.agree(lambda: record.same_data(folder, parts.corpus.digest, copied, parts.tokenizer))
    marks = record.marks(config, parts.corpus.digest)
    about = processes.agree(lambda: {**describe(changed, parts, folder), **computing(changed, parts), **marks})
    told: dict[str, Any] = {}
    processes.agree(lambda: told.update(trackers({**config, **marks}, folder)))
    return Loop(parts, wiring.plan_of(changed), folder, told, stop), about


def take(config: Mapping[str, Any], folder: Path, held: contextlib.ExitStack) -> dict[str, Any] | None:
    """Hold the folder's lock; the summary if the run is finished."""
    lock, summary = record.open_run(config, folder)
    held.enter_context(lock)
    return summary


def finish(loop: Loop, summary: Mapping[str, Any], folder: Path) -> None:
    """Draw, tell the trackers, write what a run leaves."""
    plot(folder)
    for tracker in loop.trackers.values():
        tracker.finish(summary)
    evaluate.write_json(summary, folder / "summary.json")


def trackers(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Everyone who is told."""
    made = {}
    for name, node in config["tracker"].items():
        known = section.arguments(section.target(node, f"tracker.{name}"))
        given = {key: value for key, value in (("folder", str(folder)), ("config", dict(config))) if key in known}
        made[name] = section.make(node, f"tracker.{name}", Facts(), **given)
    return made


def describe(config: Mapping[str, Any], parts: build.Parts, folder: Path) -> dict[str, Any]:
    """Keep what rebuilds the run, print what a reader wants to know before it starts; numbers for the summary."""
    source.save_facts(parts.facts, folder)
    evaluate.write_json({"sha256": parts.corpus.digest, **parts.corpus.report}, folder / "data.json")
    leak.save(parts.trained_on, folder)
    if parts.corpus.catalogue is not None:
        record.write_text("".join(f"{name}\n" for name in parts.corpus.catalogue.items), folder / "items.txt")
        ranked = protocol(config, parts.corpus)
        evaluate.write_json(ranked, folder / "protocol.json")
        print(told(ranked))
    if parts.corpus.vectors is not None:
        vectors.keep(parts.corpus.vectors, folder / source.VECTORS)
    if parts.texts is not None:
        parts.texts.save(folder)
    if parts.corpus.fields is not None:
        evaluate.write_json(parts.corpus.fields, folder / source.FIELDS)
    (folder / "tokenizer").mkdir(exist_ok=True)
    for name in (*FILES, "config.json"):
        if parts.tokenizer and (Path(parts.tokenizer) / name).is_file() and Path(parts.tokenizer) != folder / "tokenizer":
            with writing(folder / "tokenizer" / name) as part:
                shutil.copyfile(Path(parts.tokenizer) / name, part)
    trained, _ = parts.peft.split(parts.parameters)
    decayed = parts.optimizer.decayed(list(trained))
    rows = [(name, tuple(x.shape), name in trained, decayed.get(name, False)) for name, x in parts.parameters.items()]
    record.write_text("\n".join(f"{n}\t{s}\t{t}\t{d}" for n, s, t, d in rows) + "\n", folder / "parameters.tsv")
    groups: dict[Any, int] = {}
    for name, shape, *flags in rows:
        key = (re.sub(r"\.\d+\.", ".*.", name), shape, *flags)
        groups[key] = groups.get(key, 0) + 1
    print(f"{'parameter':62} {'shape':>14} {'×':>3}  trained decayed")
    for (name, shape, is_trained, is_decayed), times in groups.items():
        size = "×".join(map(str, shape))
        print(f"{name:62} {size:>14} {times:>3}  {'yes' if is_trained else 'no':7} {'yes' if is_decayed else 'no'}")
    for key, value in parts.corpus.report.items():
        print(f"data: {key}: {value}")
    leaked = parts.corpus.report.get(build.LEAKED, 0)
    if leaked:
        keys = "data.split_column or data.stratify_column" if parts.corpus.catalogue is None else "data.split"
        print(f"warning: the checkpoint was trained on {leaked} rows of this valid and test split, so their metrics flatter it: "
              f"give both runs the same {keys}")
    for key, names in parts.report.items():
        if names and len(names) < len(parts.parameters):
            print(f"checkpoint: {key}: {', '.join(names)}")
    feed = parts.feeds["train"]
    plan, shape = feed.plan(0, 0), feed.shape
    size = [sum(map(len, plan[i : i + shape.rows])) for i in range(0, len(plan), shape.rows)]
    full = float(feed.tokens.sum()) / (len(plan) * shape.length)
    print(f"batch: {shape.rows} rows × {shape.length} tokens, {shape.slots} slots a row; {np.mean(size[:-1] or size):.2f} ± "
          f"{np.std(size[:-1] or size):.2f} examples a step, rows {full:.1%} full; {parts.facts.steps} steps", flush=True)
    return {**({"leaked": leaked} if leaked else {}),
            "parameters": build.count(parts.parameters), "parameters_trained": build.count(trained),
            "batch/rows": shape.rows, "batch/length": shape.length, "batch/slots": shape.slots, "batch/fill": full,
            "batch/examples_mean": float(np.mean(size[:-1] or size)), "batch/examples_std": float(np.std(size[:-1] or size))}


def computing(config: Mapping[str, Any], parts: build.Parts) -> dict[str, Any]:
    """Say how attention is computed, where there is any, and what that costs where layers are looped over; for the summary."""
    if "attention" not in config["model"]:
        return {}
    form = wiring.attention(config, parts)
    print(f"attention: {form}, on devices of kind {parts.strategy.platform}")
    if form == "dense" and config["model"].get("scan") and not config["model"]["remat"]:
        print("warning: model.scan=true alone needs more memory than layers one after the other: set model.remat=true too")
    return {"attention": form}


def note(folder: Path) -> None:
    """Say that a run is finished, and whether the code has changed since."""
    import json

    old = json.loads((folder / "environment.json").read_text(encoding="utf-8"))["code"]
    print(f"{folder} is finished" + ("" if old == record.code_hash() else "; the code has changed since it was made"))


def plot(folder: Path) -> None:
    """What was logged over the steps, and what the reports say."""
    from experiments.plot import curves, reports

    curves(folder)
    reports(folder)


def show(summary: Mapping[str, Any], metric: str, folder: Path) -> None:
    """The numbers that matter, and where the rest is."""
    wanted = {*brief(summary), *(f"{split}/{metric}" for split in ("valid", "test"))}
    for key, value in summary.items():
        if key in wanted and (key.startswith(("valid", "test")) or key.endswith("per_second")):
            print(f"{key:32} {value:.4f}")
    print(f"everything is in {folder}", flush=True)


def main(config: dict[str, Any]) -> None:
    """The command."""
    if config.get("replicas") is None:
        train(config)
    else:
        from experiments import replicas

        replicas.train(config)


if __name__ == "__main__":
    from experiments.launch import main as launch

    launch(main, "train")
