"""BERT on one GPU, masked-LM in bfloat16, beside torch: `python -m bench.gpu [rounds=5] [tokens=32768] [lengths=128,512]
[model=bert_base] [torch=.venv-torch/bin/python] [out=runs/bench-gpu]`. No hydra, no W&B.

Texts of the shipped reviews: up to 128 tokens as they are, 512 tokens of reviews end to end. Both sides read the same ids, with
the same dropout rates, about `tokens` positions a step. Ours packs them; *stock* torch pads random batches and has the vocabulary
head on every position; *tuned* groups texts by length and has the head on the masked positions. Both torch forms are compiled.
"""

import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench import gpu_ours
from bench.worker import ROOT, Worker, turns

KEYS = {"rounds": "5", "tokens": "32768", "lengths": "128,512", "model": "bert_base", "out": "runs/bench-gpu",
        "torch": str(ROOT / ".venv-torch/bin/python"), "steps": "20"}


def texts(folder: Path, length: int) -> Path:
    """The ids of the training texts, each up to `length` tokens; above 128, as many reviews end to end as fill it."""
    corpus = gpu_ours.reviews(128)
    found = [example.tokens for example in corpus.examples["train"]]
    if length > 128:
        first, last = found[0][0], found[0][-1]
        stream = np.concatenate([ids[1:] for ids in found])     # each ends with its [SEP]
        body = stream[: len(stream) // (length - 2) * (length - 2)].reshape(-1, length - 2)
        found = [np.concatenate([[first], part, [last]]) for part in body]
    path = folder / f"texts-{length}.npz"
    np.savez(path, tokens=np.concatenate(found), label=np.zeros(len(found), "i4"), offset=np.cumsum([0, *map(len, found)]))
    return path


def started(length: int, options: dict[str, str], out: Path) -> dict[str, Worker]:
    """Every side's process. Torch compiles beside ours, but no two of ours at once: XLA tries kernels on the card."""
    path, given = str(texts(out, length)), [str(length), options["tokens"], options["model"]]
    sides = {"ours": Worker([sys.executable, "-m", "bench.gpu_ours", path, *given])}
    sizes = json.dumps(sides["ours"].about["sizes"])
    sides |= {f"torch {form}": Worker([options["torch"], str(ROOT / "bench/gpu_torch.py"), form, path, *given[:2], sizes])
              for form in ("stock", "tuned")}
    sides["ours"].ready()
    return sides


def lines_of(length: int, found: dict[str, Any]) -> list[str]:
    """Rows of the table. The share of the ceiling counts model FLOPs, the same a token for every side."""
    mine, flops = np.array(found["ours"]["tokens_per_second"]), found["ours"]["flops_per_token"]
    made = []
    for name, side in found.items():
        speed, ratio = np.array(side["tokens_per_second"]), mine / np.array(side["tokens_per_second"])
        share = np.median(speed) * flops / (1e9 * side["ceiling"])
        made.append(f"| {length} | {name} | {np.median(speed):.0f} | {share:.1%} | {side['peak_mb']:.0f} | "
                    f"{np.median(ratio):.2f} [{ratio.min():.2f}, {ratio.max():.2f}] |")
    return made


def main(words: list[str]) -> None:
    """Measure, print the table, keep the raw figures."""
    options = KEYS | dict(word.partition("=")[::2] for word in words)
    if set(options) - set(KEYS) or not Path(options["torch"]).is_file():
        raise SystemExit(f"keys are {', '.join(KEYS)}; torch={options['torch']} must be a Python with torch, as make bench-gpu has")
    out = Path(options["out"]).absolute()
    out.mkdir(parents=True, exist_ok=True)
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"   # the processes share the card
    sides = {length: started(int(length), options, out) for length in options["lengths"].split(",")}
    for side in (side for group in sides.values() for side in group.values()):
        side.ready()
    found = {length: turns(group, int(options["rounds"]), int(options["steps"]), f"{length} tokens")
             for length, group in sides.items()}
    about = {"machine": platform.platform(), "date": time.strftime("%Y-%m-%d"), "options": options, "found": found}
    (out / "bench.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    print("| length | side | tokens/s | model FLOP/s over matmul ceiling | peak MB | ours over it, median [least, most] |")
    print("|---|---|---|---|---|---|\n" + "\n".join(line for length in found for line in lines_of(int(length), found[length])))
    print(f"\n{next(iter(found.values()))['ours']['device']}; raw figures: {out / 'bench.json'}")


if __name__ == "__main__":
    main(sys.argv[1:])
