"""`debug=profile`: a trace of a few steps, and a table of which part of the program their time went to."""

import bisect
import dataclasses
import os
import re
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.profiler import ProfileData

from ecrec_jax import processes
from ecrec_jax.types import Batch, Parameters, State
from ecrec_jax.writing import writing

WARM, STEPS = 3, 10   # steps before the trace, steps in it
SCOPES = ("model", "embeddings", "attention", "feed_forward", "head", "loss", "optimizer")   # of block.named and step.py
REST = "rest"
STEP = "traced step"
NOTE = """
Of every instruction of the compiled step on the first device, the time from its beginning to its end, where several ran at once an
equal share of it; an instruction that the compiler fused of several counts where its last one comes from. Forward: of the loss;
backward: of its gradient. "{rest}" is what no part claims: casts, sums over devices, the norm of the gradient. "between" is the
part of a step in which no instruction ran, "outside" the time before a step for feed, log and loop, which a run without a trace
hides behind the step. Steps waited for their results here, so throughput is not that of a run."""


@dataclasses.dataclass(frozen=True)
class Span:
    """An event of a trace: nanoseconds from begin to end."""

    name: str
    begin: float
    end: float


class Profile:
    """A compiled step that the first process traces into `folder`/profile after some steps to warm up; then `folder`/profile.md is
    written. Its results are waited for while it is looked at."""

    def __init__(self, step: Callable[..., Any], folder: Path, about: str):
        self.step, self.folder, self.about = step, folder, about
        self.program: Any = None
        self.count, self.ended, self.outside = 0, 0.0, []

    def __call__(self, state: State, constant: Parameters, batch: Batch) -> Any:
        if self.program is None:
            self.program = self.step.lower(state, constant, batch).compile()
        if self.count >= WARM + STEPS or not processes.first():
            return self.program(state, constant, batch)
        if self.count == WARM:
            shutil.rmtree(self.folder / "profile", ignore_errors=True)
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0
            jax.profiler.start_trace(os.path.abspath(self.folder / "profile"), profiler_options=options)
        if self.count >= WARM:
            self.outside.append(time.perf_counter() - self.ended)
        with jax.profiler.StepTraceAnnotation(STEP, step_num=self.count):
            found = jax.block_until_ready(self.program(state, constant, batch))
        self.ended, self.count = time.perf_counter(), self.count + 1
        if self.count == WARM + STEPS:
            jax.profiler.stop_trace()
            self.write()
        return found

    def write(self) -> None:
        """profile.md, printed too."""
        traced = next((self.folder / "profile").rglob("*.xplane.pb"))
        steps, spans = read(ProfileData.from_file(str(traced)))
        parts = {name: part(path) for name, path in scopes(self.program.as_text()).items()}
        rows: dict[tuple[str, bool], list[float]] = defaultdict(lambda: [0.0] * len(steps))
        for i, step in enumerate(steps):
            inside = [x for x in spans if step.begin <= x.begin < step.end]
            for name, share in shares(inside).items():
                rows[parts.get(name, (REST, False))][i] += share / 1e6
        whole = [(step.end - step.begin) / 1e6 for step in steps]
        text = table(rows, whole, [1e3 * x for x in self.outside], f"{len(steps)} steps after {WARM} to warm up, {self.about}")
        with writing(self.folder / "profile.md") as path:
            path.write_text(text, encoding="utf-8")
        print(text + f"\ntrace: {self.folder / 'profile'} (Perfetto opens its trace.json.gz)", flush=True)


def read(trace: ProfileData) -> tuple[list[Span], list[Span]]:
    """(the steps, the instructions of the first device) of a trace; on CPU an instruction that other threads work on ends with an
    event of its own."""
    steps, made, ends = [], [], defaultdict(list)
    for line in (line for plane in trace.planes for line in plane.lines):
        for event in line.events:
            if event.name == STEP:
                steps.append(Span(STEP, event.start_ns, event.start_ns + event.duration_ns))
            elif event.name.startswith("end: "):
                ends[event.name[5:], dict(event.stats).get("_c")].append(event.start_ns)
            elif "hlo_op" in (stats := dict(event.stats)) and stats.get("device_ordinal", 0) == 0:
                made.append((stats["hlo_op"], event.start_ns, event.duration_ns, stats.get("_p")))
    for times in ends.values():
        times.sort()
    spans = []
    for name, begin, duration, number in made:
        later = ends.get((name, number), [])
        place = bisect.bisect_left(later, begin)
        spans.append(Span(name, begin, max(begin + duration, later[place] if place < len(later) else 0)))
    return sorted(steps, key=lambda x: x.begin), spans


def shares(spans: Sequence[Span]) -> dict[str, float]:
    """Nanoseconds of every name; a moment at which k spans are open counts 1/k for each."""
    changes = sorted([(x.begin, 1, i) for i, x in enumerate(spans)] + [(x.end, 0, i) for i, x in enumerate(spans)])
    found, running, since = defaultdict(float), set(), 0.0
    for moment, begins, i in changes:
        for k in running:
            found[spans[k].name] += (moment - since) / len(running)
        since = moment
        (running.add if begins else running.discard)(i)
    return dict(found)


def scopes(text: str) -> dict[str, str]:
    """Instruction of a compiled program -> the path of names that it comes from."""
    return dict(re.findall(r'^\s*(?:ROOT )?%?([\w.-]+) = .*?op_name="([^"]*)"', text, re.M))


def part(path: str) -> tuple[str, bool]:
    """(part of the network, whether in the backward pass) of such a path."""
    words = [word for word in re.findall(r"\w+", path) if word in SCOPES]
    return "/".join(dict.fromkeys(words)) or REST, "transpose(" in path


def table(rows: Mapping[tuple[str, bool], list[float]], whole: Sequence[float], outside: Sequence[float], about: str) -> str:
    """Medians over the steps, milliseconds; parts in the order of a step."""
    order = sorted({name for name, _ in rows}, key=lambda name: [(*SCOPES, REST).index(word) for word in name.split("/")])
    lines = ["# Where a step's time goes", "", f"{about}. Medians, ms.", "", "| part | forward | backward | both | share |",
             "|---|---|---|---|---|"]
    total = float(np.median(whole))
    for name in order:
        ways = [rows.get((name, back), [0.0] * len(whole)) for back in (False, True)]
        both = float(np.median(np.sum(ways, 0)))
        forward, backward = ("", "") if name in ("optimizer", REST) else (f"{np.median(way):.2f}" for way in ways)
        lines.append(f"| {name} | {forward} | {backward} | {both:.2f} | {both / total:.1%} |")
    idle = float(np.median(np.array(whole) - np.sum(list(rows.values()), 0)))
    lines += [f"| between | | | {idle:.2f} | {idle / total:.1%} |", f"| **step** | | | {total:.2f} | 100% |",
              f"| outside | | | {np.median(outside):.2f} | |"]
    return "\n".join(lines) + f"\n\nThe steps took {min(whole):.2f} to {max(whole):.2f} ms.\n" + NOTE.format(rest=REST) + "\n"
