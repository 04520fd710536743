"""Nothing is lost: whatever stops a run, the same command ends bit-identical to the run that nobody stopped."""

import csv
import fcntl
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pyarrow.parquet as pq
import pytest

from tests.test_commands import call

ROOT = Path(__file__).parent.parent
TIMING = re.compile(r"per_second|wall_seconds")


def command(tmp_path, folder, *more):
    """A small run on 220 made-up reviews: 3 epochs of about 10 steps, a checkpoint every 3."""
    path = tmp_path / "reviews.csv"
    if not path.exists():
        rng = random.Random(0)
        words = ["fits", "soft", "lovely", "poor", "cheap", "returned", "dress", "shirt", "blue", "small", "large", "again"]
        with open(path, "w", newline="") as file:
            out = csv.writer(file)
            out.writerow(["text", "label"])
            for i in range(220):
                out.writerow([" ".join(rng.choices(words, k=rng.randint(3, 20))) + f" {i}", rng.choice(["good", "bad"])])
    return ["experiment=classify", f"data.path={path}", "model.depth=2", "model.width=32", "model.heads=2", "model.feed_forward=64",
            "data.max_length=32", "data.batch_size=16", "epochs=3", "save_every=3", "log_every=1", "tracker=[console,jsonl]",
            "optimizer.learning_rate=1e-3", "last=true", f"run_dir={folder}", *more]


def environment(devices=1):
    """As from a user's shell: no test flags; simulated devices where there are to be several."""
    kept = {k: x for k, x in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    several = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"} if devices > 1 else {}
    return kept | several | {"ECREC_LAUNCHED": "1", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def run(module, *words, check=True, devices=1):
    """A Python module as a process."""
    done = subprocess.run([sys.executable, "-m", module, *words], cwd=ROOT, env=environment(devices), capture_output=True,
                          text=True)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def everything(folder):
    """All that must not differ: arrays of the latest checkpoint, summary, logs, predictions."""
    number = max(int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdigit())
    with ocp.StandardCheckpointer() as reader:
        arrays = [reader.restore((folder / "checkpoints" / str(number) / item).absolute()) for item in ("trained", "state")]
    flat = {str(k): np.asarray(x) for k, x in ocp.tree.to_flat_dict(arrays[0]).items()} | {
        str(k): np.asarray(x) for k, x in ocp.tree.to_flat_dict(arrays[1]).items()}
    summary = {k: x for k, x in json.loads((folder / "summary.json").read_text()).items() if not TIMING.search(k)}
    logs = [{k: x for k, x in json.loads(line).items() if not TIMING.search(k)}
            for line in (folder / "metrics.jsonl").read_text().splitlines()]
    tables = {s: pq.read_table(folder / "predictions" / f"{s}.parquet").to_pydict() for s in ("valid", "test")}
    return number, flat, summary, logs, tables


def same(one, other):
    """Bit by bit."""
    assert one[0] == other[0] and one[1].keys() == other[1].keys() and len(one[1]) > 100
    assert all(np.array_equal(x, other[1][k]) for k, x in one[1].items())
    assert one[2] == other[2]
    assert one[3] == other[3]
    assert one[4] == other[4]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    run("experiments.train", *command(folder, folder / "run"))
    steps = [row["step"] for row in everything(folder / "run")[3]]
    assert steps == sorted(steps) and steps[-1] >= 25
    return folder, everything(folder / "run")


def stopped(whole, name, points, *more):
    """What each attempt came to, and what the last one left."""
    folder, _ = whole
    out = run("tests.killer", json.dumps([*points, None]), *command(folder, folder / name, *more))
    attempts = re.findall(r"^attempt (.+): (\w+) (\d+)$", out.stdout, re.M)
    assert len(attempts) == len(points) + 1 and attempts[-1] == ("None", "exit", "0"), out.stdout + out.stderr
    return attempts[:-1], everything(folder / name), out


@pytest.mark.parametrize("points", [["save 1", "disk 1", "term-evaluate 1"],
                                    pytest.param(["step 5", "disk 2", "summary 1"], marks=pytest.mark.slow)])
def test_killed_terminated_and_out_of_disk(whole, points):
    attempts, found, out = stopped(whole, points[0], points)
    kinds = {"disk": ("exit", "1"), "term": ("exit", "1"), "term-evaluate": ("exit", "1")}
    for (point, *how) in attempts:
        assert tuple(how) == kinds.get(point.split()[0], ("signal", "9")), (point, how)
    assert "could not be written" in out.stderr and "the same command" in out.stderr and "Traceback" not in out.stderr
    same(whole[1], found)


@pytest.mark.slow
def test_twenty_random_points(whole):
    rng = random.Random(7)
    kinds = ["step", "save", "evaluate", "term", "term-evaluate", "epoch"]
    points = [f"{kind} {rng.randint(1, 4 if kind in ('step', 'term') else 2)}" for kind in kinds * 4]
    rng.shuffle(points)
    run("experiments.train", *command(whole[0], whole[0] / "long", "epochs=9"))
    attempts, found, _ = stopped(whole, "random", [*points, "summary 1"], "epochs=9")
    hit = [point for point, how, code in attempts if (how, code) != ("exit", "0")]
    print(f"{len(hit)} stops: {', '.join(hit)}")
    assert len(hit) >= 20 and any("save" in p for p in hit) and any("evaluate" in p for p in hit)
    same(everything(whole[0] / "long"), found)


def test_finished_foreign_and_busy_folders(whole, capfd):
    folder, before = whole
    assert call("train", *command(folder, folder / "run")) == 0
    found = capfd.readouterr().out
    assert "is finished" in found and "test/accuracy" in found
    assert call("train", *command(folder, folder / "run", "seed=1", "optimizer.weight_decay=0.5")) == 2
    assert "optimizer.weight_decay, seed" in capfd.readouterr().err
    with open(folder / "run" / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert call("train", *command(folder, folder / "run")) == 2
    assert "another process" in capfd.readouterr().err
    same(before, everything(folder / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("first,then", [(("pmap", 1), ("fsdp", 8)), (("fsdp", 8), ("jit", 1))])
def test_checkpoint_moves_between_strategies_and_device_counts(whole, tmp_path, monkeypatch, first, then):
    folder, before = whole
    words = lambda at: command(folder, tmp_path / "moved", f"strategy={at[0]}", f"strategy.devices={at[1]}")  # noqa: E731
    killed = run("tests.killer", json.dumps(["step 7"]), *words(first), devices=first[1])
    assert "signal 9" in killed.stdout and not (tmp_path / "moved" / "summary.json").exists()
    run("experiments.train", *words(then), devices=then[1])
    found = everything(tmp_path / "moved")
    gap = max(np.abs(found[1][k].astype("f8") - x).max() for k, x in before[1].items() if x.dtype.kind == "f")
    assert found[0] == before[0] and [row["step"] for row in found[3]] == [row["step"] for row in before[3]]
    assert 0 < gap < 1e-4


def stopped_together(folder, words):
    """Two processes of one run, SIGTERM to the second after some steps: (return code, output) of both."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        at = f"strategy.coordinator=localhost:{free.getsockname()[1]}"
    both = [subprocess.Popen([sys.executable, "-m", "experiments.train", *words, at, "strategy.processes=2",
                              f"strategy.process_id={i}"], cwd=ROOT, env=environment(2), text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            for i in range(2)]
    logs, end = folder / "metrics.jsonl", time.monotonic() + 240
    while not (logs.exists() and len(logs.read_text().splitlines()) > 4) and time.monotonic() < end and both[0].poll() is None:
        time.sleep(0.05)
    both[1].send_signal(signal.SIGTERM)
    said = [one.communicate(timeout=240)[0] for one in both]
    return [(one.returncode, text) for one, text in zip(both, said, strict=True)]


@pytest.mark.slow
def test_two_processes_stop_at_one_step_and_one_goes_on(whole, tmp_path):
    folder, before = whole
    words = command(folder, tmp_path / "two", "strategy=fsdp")
    ends = stopped_together(tmp_path / "two", words)
    assert all(code == 1 and "the same command goes on" in text for code, text in ends), ends
    assert not (tmp_path / "two" / "summary.json").exists()
    run("experiments.train", *[word for word in words if not word.startswith("strategy")])
    found = everything(tmp_path / "two")
    gap = max(np.abs(found[1][k].astype("f8") - x).max() for k, x in before[1].items() if x.dtype.kind == "f")
    assert found[0] == before[0] and 0 < gap < 1e-4
    assert [row["step"] for row in found[3]] == [row["step"] for row in before[3]]
