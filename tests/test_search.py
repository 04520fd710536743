"""A search without a service: what is drawn, what is given up, what a killed one leaves to the next."""

import csv
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import yaml

from ecrec_jax.types import InputError
from experiments import search, space, trial
from tests.test_commands import call
from tests.test_resume import command, environment
from tests.test_sweep import SWEEPS

RUN = '''
import json, math, pathlib, signal, sys, time
given = dict(word.split("=", 1) for word in sys.argv[1:])
folder, rate = pathlib.Path(given["run_dir"].strip('"')), float(given["optimizer.learning_rate"])
signal.signal(signal.SIGTERM, lambda *_: ((folder / "saved").touch(), sys.exit(1)))
if rate > 0.5:
    sys.exit("error: not finite")
epochs = int(given.get("epochs", 2))
(folder / "config.yaml").write_text(json.dumps({"epochs": epochs, "steps": None}))
for epoch in range(epochs):
    time.sleep(0.1)
    with open(folder / "metrics.jsonl", "a") as file:
        value = -abs(math.log10(rate) + 4) + 0.01 * epoch
        print(json.dumps({"step": epoch, "train/loss": 1.0}), file=file)
        print(json.dumps({"step": epoch, "valid/loss": value, "epoch": epoch + 1}), file=file)
time.sleep(float(given.get("log_every", 0)))   # of the test
(folder / "summary.json").write_text(json.dumps({"valid/loss": value}))
'''
SWEEP = {"method": "random", "metric": {"name": "valid/loss", "goal": "maximize"}, "parameters": {
    "experiment": {"value": "sentiment"}, "tracker": {"value": ["jsonl"]},
    "optimizer.learning_rate": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-2},
    "data.text_column": {"values": [["title", "text"], "text"]}, "optimizer.clip": {"values": [None, 1.0]}}}


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """An empty folder where a run takes a moment: what it gives follows from its learning rate."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.py").write_text(RUN)
    real = trial.Trial.command
    monkeypatch.setattr(trial.Trial, "command", lambda self: [sys.executable, "-S", "run.py", *real(self)[3:]])
    monkeypatch.setattr(trial, "EVERY", 0.02)
    return tmp_path


def file_of(folder, **changes):
    """A sweep file; a parameter that is None is left out."""
    sweep = SWEEP | changes
    (folder / "mine.yaml").write_text(yaml.safe_dump(sweep))
    return f"sweep={folder / 'mine.yaml'}"


def parameters(**changes):
    """The parameters with others."""
    return SWEEP["parameters"] | {key.replace("__", "."): x for key, x in changes.items()}


def rows(folder):
    """What a search wrote down."""
    with open(folder / "runs" / "search-mine" / "trials.csv", newline="") as file:
        return list(csv.DictReader(file))


def study_of(folder, name="mine"):
    """What is in its storage."""
    return optuna.load_study(study_name=name, storage=f"sqlite:///{folder}/runs/search-mine/study.db")


def test_search(quick, capsys):
    """So many trials, each in its folder, the best first; more of them later, none twice."""
    assert call("search", file_of(quick), "trials=3") == 0
    out, found = quick / "runs" / "search-mine", rows(quick)
    assert [row["state"] for row in found] == ["done"] * 3 and len({row["trial"] for row in found}) == 3
    values = [float(row["valid/loss"]) for row in found]
    assert values == sorted(values, reverse=True)
    for row in found:
        summary = json.loads((out / row["trial"] / "summary.json").read_text())
        assert float(row["valid/loss"]) == summary["valid/loss"] and row["validations"] == "2"
    text = (out / "search.md").read_text()
    assert text.index(found[0]["trial"]) < text.index(found[2]["trial"]) and "3 trials: 3 done" in text
    assert (out / "history.png").stat().st_size > 5000 and text in capsys.readouterr().out
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("*/summary.json")}
    assert call("search", file_of(quick), "trials=3") == 0
    assert stamps == {path: path.stat().st_mtime_ns for path in out.glob("*/summary.json")}
    assert call("search", file_of(quick), "trials=5") == 0
    again = rows(quick)
    assert len(again) == 5 and len({row["optimizer.learning_rate"] for row in again}) == 5


@pytest.mark.slow
def test_grid(quick):
    """Every combination once, then it ends."""
    given = parameters(optimizer__learning_rate={"values": [1e-4, 1e-3]}, data__text_column={"values": [["title", "text"], "text"]})
    assert call("search", file_of(quick, method="grid", parameters=given)) == 0
    assert call("search", file_of(quick, method="grid", parameters=given)) == 0
    found = {(row["optimizer.learning_rate"], row["data.text_column"], row["optimizer.clip"]) for row in rows(quick)}
    assert len(rows(quick)) == len(found) == 8 and ("0.0001", '["title", "text"]', "1.0") in found


def test_what_does_not_pay_is_given_up(quick, monkeypatch):
    """It is told to save; its last validation is its value."""
    monkeypatch.setattr(search, "pruner", lambda sweep, name: optuna.pruners.ThresholdPruner(lower=5.0, n_warmup_steps=2))
    assert call("search", file_of(quick, parameters=parameters(epochs={"value": 200})), "trials=1") == 0
    row, = rows(quick)
    assert row["state"] == "given up" and 2 <= int(row["validations"]) < 200
    folder = quick / "runs" / "search-mine" / row["trial"]
    assert (folder / "saved").exists() and not (folder / "summary.json").exists()
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["valid/loss"]
    assert float(row["valid/loss"]) <= last and "(given up)" in (folder.parent / "search.md").read_text()


def test_a_run_at_its_end_is_not_given_up(quick, monkeypatch):
    """After its last validation the best checkpoint is evaluated, and that is the trial's value."""
    monkeypatch.setattr(search, "pruner", lambda sweep, name: optuna.pruners.ThresholdPruner(lower=5.0, n_warmup_steps=1))
    assert call("search", file_of(quick, parameters=parameters(epochs={"value": 1}, log_every={"value": 1})), "trials=1") == 0
    row, = rows(quick)
    assert row["state"] == "done" and not (quick / "runs" / "search-mine" / row["trial"] / "saved").exists()


def test_a_metric_that_no_run_logs(quick, capsys):
    """The first validation says so; nothing else is tried."""
    assert call("search", file_of(quick, metric={"name": "valid/joy", "goal": "maximize"}), "trials=3") == 2
    assert "runs of this sweep log no valid/joy; they log valid/loss" in capsys.readouterr().err
    assert len(list((quick / "runs" / "search-mine").glob("*/metrics.jsonl"))) == 1


def test_broken_trials(quick, capsys):
    """One is noted; where all of the first break, the search ends."""
    given = parameters(optimizer__learning_rate={"values": [1e-4, 1.0]})
    assert call("search", file_of(quick, method="grid", parameters=given), "trials=20") == 0
    assert sorted(row["state"] for row in rows(quick)) == ["broken"] * 4 + ["done"] * 4
    assert {row["error"] for row in rows(quick)} == {"", "not finite"}
    capsys.readouterr()
    given = parameters(optimizer__learning_rate={"value": 1.0})
    assert call("search", file_of(quick, parameters=given), "name=other") == 1
    assert "the first 3 trials broke" in capsys.readouterr().err


def test_a_killed_search(quick):
    """What it left running is tried again with the same values in the same folder."""
    sweep = space.read(file_of(quick).removeprefix("sweep="))
    out = quick / "runs" / "search-mine"
    out.mkdir(parents=True)
    config = {"storage": None, "seed": 0, "pruner": None}
    study = search.opened(sweep, config, "mine", out)
    left = study.ask()
    drawn = sweep.draw(left)
    assert call("search", file_of(quick), "trials=2") == 0
    found = {row["trial"]: row for row in rows(quick)}
    assert set(found) == {"trial-0000", "trial-0002"} and all(row["state"] == "done" for row in found.values())
    assert float(found["trial-0000"]["optimizer.learning_rate"]) == drawn["optimizer.learning_rate"]
    assert [x.state.name for x in study_of(quick).trials] == ["FAIL", "COMPLETE", "COMPLETE"]


def test_one_storage_for_two_folders(quick):
    """A trial that runs is the other's, who may be alive."""
    sweep = space.read(file_of(quick).removeprefix("sweep="))
    config = {"storage": f"sqlite:///{quick}/all.db", "seed": 0, "pruner": None}
    study = search.opened(sweep, config, "mine", quick / "a")
    study.ask()
    with pytest.raises(InputError, match="is searched in .*/a; give this search another name, or out="):
        search.opened(sweep, config, "mine", quick / "b")
    assert [x.state.name for x in study.trials] == ["RUNNING"]
    assert [x.state.name for x in search.opened(sweep, config, "mine", quick / "a").trials][0] == "FAIL"


@pytest.mark.slow
def test_stopped(quick):
    """SIGTERM stops the trial too; nothing is lost."""
    file, script = file_of(quick, parameters=parameters(epochs={"value": 30})), quick / "go.py"
    script.write_text("import sys\nfrom experiments import launch, search, trial\nreal = trial.Trial.command\n"
                      "trial.Trial.command = lambda self: [sys.executable, '-S', 'run.py', *real(self)[3:]]\n"
                      "launch.main(search.main, 'search')\n")
    root = str(Path(search.__file__).parent.parent)
    child = subprocess.Popen([sys.executable, script, file, "trials=1"], env=environment() | {"PYTHONPATH": root},
                             stderr=subprocess.PIPE, text=True)
    path = quick / "runs" / "search-mine" / "trial-0000" / "metrics.jsonl"
    while not path.exists():
        assert child.poll() is None
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait() == 1 and "the same command goes on" in child.stderr.read()
    assert (path.parent / "saved").exists() and not (path.parent / "summary.json").exists()
    assert rows(quick)[0]["state"] == "not finished"
    assert call("search", file, "trials=1") == 0
    assert [row["state"] for row in rows(quick)] == ["done"] and rows(quick)[0]["trial"] == "trial-0000"


WRONG = [({"method": "best"}, "method is 'best'"), ({"metric": {"name": "x"}}, "metric must be"), ({"parameters": {}}, "missing"),
         ({"method": "grid"}, "parameters.optimizer.learning_rate: a grid needs values"),
         ({"parameters": parameters(seed={"min": 1})}, "parameters.seed must have"),
         ({"parameters": parameters(seed={"min": "1e-5", "max": 1})}, "seed.min is '1e-5'"),
         ({"parameters": parameters(seed={"min": 2, "max": 1})}, "parameters.seed: min"),
         ({"parameters": parameters(seed={"min": 0, "max": 1, "distribution": "normal"})}, "distribution is 'normal'"),
         ({"parameters": parameters(seed={"values": []})}, "seed.values must be"),
         ({"parameters": parameters(optimizer__rate={"value": 1})}, "optimizer.rate is not a key"),
         ({"parameters": parameters(model={"values": ["bert_tiny", "bert_huge"]})}, "no conf/model/bert_huge.yaml"),
         ({"parameters": parameters(run_dir={"value": "here"})}, "run_dir: each trial"),
         ({"early_terminate": {"type": "median"}}, "early_terminate.type"),
         ({"early_terminate": {"type": "hyperband", "eta": 1}}, "eta at least 2")]


@pytest.mark.parametrize("changes, said", WRONG, ids=[said for _, said in WRONG])
def test_a_wrong_file(quick, changes, said, capsys):
    """One sentence before anything starts."""
    assert call("search", file_of(quick, **changes)) == 2
    found = capsys.readouterr().err
    assert found.startswith("error: ") and found.count("\n") == 1 and said in found and not (quick / "runs").exists()


@pytest.mark.parametrize("words, said", [("trials=0", "trials is 0"), ("pruner=best", "pruner is 'best'"),
                                         ("storage=nothing://x", "storage: nothing://x can't be used")])
def test_wrong_words(quick, words, said, capsys):
    """One sentence."""
    assert call("search", file_of(quick), words) == 2
    assert said in capsys.readouterr().err
    assert call("search", "sweep=nowhere.yaml") == 2
    assert "there is no file nowhere.yaml" in capsys.readouterr().err


@pytest.mark.slow
def test_another_search(quick, capsys):
    """Of the same name is refused; so is a second one at the same time."""
    assert call("search", file_of(quick), "trials=1") == 0
    assert call("search", file_of(quick, parameters=parameters(seed={"values": [0, 1]})), "trials=2") == 2
    assert "has other parameters" in capsys.readouterr().err
    with open(quick / "runs" / "search-mine" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert call("search", file_of(quick), "trials=2") == 2
    assert "another search is working in" in capsys.readouterr().err


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_file_can_be_searched(path):
    """Its trials are drawn from what it says, and given up as it says."""
    sweep = space.read(path)
    study = optuna.create_study(direction=sweep.goal)
    drawn = sweep.draw(study.ask())
    assert set(drawn) == set(sweep.parameters)
    for key, parameter in sweep.parameters.items():
        inside = drawn[key] in parameter["values"] if "values" in parameter else (
            drawn[key] == parameter["value"] if "value" in parameter else parameter["min"] <= drawn[key] <= parameter["max"])
        assert inside, key
    wanted = optuna.pruners.HyperbandPruner if sweep.bands else optuna.pruners.NopPruner
    assert isinstance(search.pruner(sweep, None), wanted)


@pytest.mark.slow
def test_real_runs(tmp_path, monkeypatch):
    """A search is killed in the midst of a trial: the same command ends it, no step is missing or made twice. Another trial is
    given up: it has saved."""
    monkeypatch.chdir(tmp_path)
    given = {key: {"value": yaml.safe_load(x)} for key, x in (w.split("=", 1) for w in command(tmp_path, None)) if key != "run_dir"}
    given |= {"tracker": {"value": ["jsonl"]}, "epochs": {"value": 20}, "seed": {"values": [0, 1, 2]},
              "optimizer.learning_rate": {"min": 1e-4, "max": 1e-2}}
    file = file_of(tmp_path, metric={"name": "valid/macro_f1", "goal": "maximize"}, parameters=given)
    child = subprocess.Popen([sys.executable, "-m", "experiments.search", file, "trials=1"],
                             env=environment() | {"PYTHONPATH": str(Path(search.__file__).parent.parent)})
    run = tmp_path / "runs" / "search-mine" / "trial-0000"
    while not (run / "metrics.jsonl").exists() or '"valid/' not in (run / "metrics.jsonl").read_text():
        assert child.poll() is None
        time.sleep(0.05)
    child.kill()
    child.wait()
    assert call("search", file, "trials=1") == 0
    row, = rows(tmp_path)
    assert (row["trial"], row["state"], row["validations"]) == (run.name, "done", "20")
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [x["step"] for x in logged if "train/loss" in x]
    assert steps == [*range(1, len(steps) + 1)] and "stopped; everything is saved" in (run / "log.txt").read_text()
    monkeypatch.setattr(search, "pruner", lambda sweep, name: optuna.pruners.ThresholdPruner(lower=2.0))
    assert call("search", file, "trials=2") == 0
    given_up = next(row for row in rows(tmp_path) if row["state"] == "given up")
    folder = run.with_name(given_up["trial"])
    assert not (folder / "summary.json").exists() and any(x.name.isdigit() for x in (folder / "checkpoints").iterdir())
