"""Inside a sweep: what an agent hands over arrives unharmed; stopped, taken away or broken, a trial ends as W&B expects."""

import importlib.util
import itertools
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np
import pytest
import wandb
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from wandb.proto.wandb_internal_pb2 import Record

from ecrec_jax.tracker.wandb import Wandb
from ecrec_jax.types import InputError
from experiments import cell, override, record
from tests import world
from tests.test_commands import call
from tests.test_resume import command, environment

ROOT, BLOCK, METRIC = Path(__file__).parent.parent, 1 << 15, "valid/macro_f1"

TEXTS = ["", "null", "None", "True", "1e-05", "-1", "nan", "Inf", "a b", "  s ", "a,b", "x=y", "a:b", "#no", "~", "+", "[a]",
         "{a:1}", "(", ")", "choice(1,2)", "$HOME", "line\nbreak", "tab\t", "服装 评论，好", "é", "😀", "bert_tiny",
         "runs/a-b.c", "package:ecrec_jax/assets/x",
         *map("".join, itertools.product("\\'\"", repeat=3)), "a\\\\'b", "it's \"q\"", "c\\"]
NUMBERS = [0, -3, 10**30, 1e-5, 1.5e300, -0.0, 0.1, float("inf"), float("nan")]
VALUES = [None, True, False, *NUMBERS, *TEXTS, [], {}, TEXTS, [None, 1e-5, [[]], ["中", {"a": None, "b_c": [1, {}]}]],
          {"train": "a,b.csv", "test": "评论.csv"}, {"items": {"path": "a.csv", "key": "item"}}]


def file_of(folder, given):
    """As an agent writes it."""
    (folder / "config-abc.json").write_text(json.dumps(given))
    return str(folder / "config-abc.json")


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_any_value_arrives(value, tmp_path):
    """Hydra reads what the agent was given, of the same type."""
    word, = override.words_of(file_of(tmp_path, {"data.path": value}))
    read = OverridesParser.create().parse_override(word)
    assert read.key_or_group == "data.path" and not read.is_sweep_override()
    assert repr(read.value()) == repr(value)


def test_a_file_stands_for_its_keys(tmp_path):
    """Groups, lists of a group, nested sections and W&B's own notes."""
    given = {"experiment": "classify", "tracker": ["console", "jsonl"], "model": {"width": 64}, "data.path": "服装,评论.csv",
             "data.text_column": ["a,b", "标题"], "data.stratify_column": None, "optimizer.learning_rate": 1e-05,
             "best": {"metric": "loss", "mode": "min"}, "optimizer.clip": None, "_wandb": {"t": [1]},
             "data.sha256": {"train": "0a", "test": "1b"}}   # null where it is not set
    config = world.composed(*override.words_of(file_of(tmp_path, given)))
    assert set(config["tracker"]) == {"console", "jsonl"} and config["model"]["width"] == 64
    assert config["data"]["path"] == "服装,评论.csv" and config["data"]["text_column"] == ["a,b", "标题"]
    assert config["data"]["stratify_column"] is None and config["optimizer"]["clip"] is None
    assert config["data"]["sha256"] == {"train": "0a", "test": "1b"}
    assert config["optimizer"]["learning_rate"] == 1e-5 and config["best"] == {"metric": "loss", "mode": "min"}


@pytest.mark.parametrize("given, said", [({"data.path": [{"1": 2}]}, "data.path"), ({"数据": 1}, "数据"), ([1], "object"),
                                         ({"a=b": 1}, "a=b"), ({"a b": 1}, "a b")])
def test_what_cannot_be_handed_over(given, said, tmp_path):
    """One sentence, no other value."""
    with pytest.raises(InputError, match=said):
        override.words_of(file_of(tmp_path, given))


def test_a_mistake_in_the_file(tmp_path, capsys):
    """Through the launcher: a key that isn't there, no file, no JSON."""
    assert call("train", file_of(tmp_path, {"optimizer.speed": 1})) == 2
    assert "optimizer.speed is not a key; optimizer has " in capsys.readouterr().err
    assert call("train", "nowhere.json") == 2
    assert "nowhere.json: no such file" in capsys.readouterr().err
    (tmp_path / "half.json").write_text('{"seed": ')
    assert call("train", str(tmp_path / "half.json")) == 2
    assert "half.json: not JSON" in capsys.readouterr().err


@pytest.mark.parametrize("name,said", [("cloud", "there is no such launcher"), ("submitit_slurm", r"pip install -e '.[slurm]'")])
def test_a_launcher_that_is_not_there(name, said, capsys):
    if importlib.util.find_spec("submitit") is not None and name != "cloud":
        pytest.skip("it is")
    assert call("table", "table=quickstart", "plan=true", f"hydra/launcher={name}") == 2
    assert said in capsys.readouterr().err


def test_a_folder_for_all_trials(monkeypatch):
    """Is refused; one with the trial's name in it is not."""
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "abc")
    with pytest.raises(InputError, match="run_dir: each trial"):
        record.folder_of({"run_dir": "runs/mine"})
    assert record.folder_of({"run_dir": "runs/mine-abc"}) == Path("runs/mine-abc")


@pytest.mark.parametrize("said,key,settings,wanted", [
    ({}, None, "", "offline"), ({}, "api.wandb.ai", "", "online"), ({}, "api.wandb.ai", "mode = offline", "offline"),
    ({"WANDB_BASE_URL": "http://localhost:8080"}, "localhost:8080", "", "online"),
    ({"WANDB_API_KEY": "k" * 40}, None, "", "online"), ({"WANDB_API_KEY": "abc"}, None, "", "error: tracker.wandb: "),
    ({"WANDB_MODE": "disabled"}, "api.wandb.ai", "", "disabled")])
def test_online_where_wandb_would_be(said, key, settings, wanted, tmp_path):
    """By its own settings and keys, wherever these lie; in a process of its own, for W&B reads them once."""
    (tmp_path / ".config" / "wandb").mkdir(parents=True)
    if settings:
        (tmp_path / ".config" / "wandb" / "settings").write_text(f"[default]\n{settings}\n")
    if key:
        (tmp_path / ".netrc").write_text(f"machine {key}\n  login user\n  password {'k' * 40}\n")
        (tmp_path / ".netrc").chmod(0o600)
    code = ("from ecrec_jax.tracker.wandb import Wandb\nfrom ecrec_jax.types import InputError\n"
            "try:\n    print(Wandb('.', {'seed': 0}, 'p', None, [], False, None).mode)\n"
            "except InputError as error:\n    print('error:', error)\n")
    bare = {name: x for name, x in os.environ.items() if not name.startswith("WANDB")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path,
                          env=bare | {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)} | said)
    assert done.stdout.strip().startswith(wanted), done.stderr


def test_what_wandb_is_told(tmp_path, monkeypatch):
    """A validation stands in the summary at once; a stop asked for there is a SIGTERM; with the agent gone, another is wanted."""
    run, got = mock.MagicMock(id="abc"), []
    monkeypatch.setattr(wandb, "init", mock.Mock(return_value=run))
    monkeypatch.setattr(os, "kill", lambda *given: got.append(given))
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    tracker = Wandb(str(tmp_path), {"seed": 7}, "shop", "g" * 200, ["a table", "r" * 70], False, "online")
    tracker.start(0, 10, {})
    assert wandb.init.call_args.kwargs["tags"] == ["a table", "r" * 64, "seed 7"]   # W&B takes no longer ones
    assert wandb.init.call_args.kwargs["group"] == "g" * 128
    wandb.init.call_args.kwargs["settings"].stop_fn()
    assert got == [(os.getpid(), signal.SIGTERM)]
    tracker.log(1, {"train/loss": 0.5})
    assert not run.summary.update.called
    tracker.log(1, {"valid/loss": 0.25, "epoch": 1})
    run.summary.update.assert_called_once_with({"valid/loss": 0.25})
    assert tracker.state() == {"id": "abc"} and not run.mark_preempting.called
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert tracker.state() == {"id": "abc"} and run.mark_preempting.called


def test_keys_are_dotted_and_refusals_sentences(tmp_path, monkeypatch):
    """A sweep's `model` stands beside `model.width`, not in its place."""
    tracker = Wandb(str(tmp_path), {"seed": 7, "model": {"width": 8}}, "shop", None, [], False, "online")
    monkeypatch.setattr(wandb, "init", mock.Mock())
    tracker.start(0, 10, {})
    assert wandb.init.call_args.kwargs["config"] == {"seed": 7, "model.width": 8}
    monkeypatch.setattr(wandb, "init", mock.Mock(side_effect=wandb.errors.CommError("no route\nto it")))
    with pytest.raises(InputError, match="tracker.wandb: no route to it; tracker.wandb.mode=offline goes on"):
        tracker.start(0, 10, {})


def test_what_a_finished_run_leaves_in_wandb(tmp_path):
    """Its plots, its summary, and, asked for, what rebuilds it as an artifact."""
    for name in ("plots/confusion_test.png", "checkpoints/4/weights", "tokenizer/vocab.txt", "config.yaml", "facts.json",
                 "environment.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("here")
    plt.imsave(tmp_path / "plots/confusion_test.png", np.eye(2))
    for wanted in (False, True):
        folder = tmp_path / str(wanted)
        shutil.copytree(tmp_path, folder, ignore=shutil.ignore_patterns("True", "False"))
        tracker = Wandb(str(folder), {"seed": 3}, "shop", "table/row", ["row"], wanted, "offline")
        tracker.start(0, 4, {})
        tracker.finish({"steps": 4, "test/accuracy": 0.75, "fingerprint/data": "abc"})
        found, end = [], time.monotonic() + 30
        while "exit" not in dict(found) and time.monotonic() < end:   # W&B's own process writes
            time.sleep(0.1)
            found = list(records(folder))
        artifacts = [message for kind, message in found if kind == "request" and "run-" in str(message)] + \
            [message for kind, message in found if "artifact" in kind]
        assert bool(artifacts) == wanted
        assert [message.run_group for kind, message in found if kind == "run"] == ["table/row"]
        told = {x.key: x.value_json for kind, message in found if kind == "summary" for x in message.update}
        assert told["test/accuracy"] == "0.75" and told["fingerprint/data"] == '"abc"'
        assert list(folder.glob("wandb/offline-run-*/files/media/images/plots/confusion_test_*.png"))


def records(folder):
    """What W&B was told of the runs in a folder: (kind, message), from its own files (blocks of 32 KiB, as LevelDB's logs)."""
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        raw, at, record = path.read_bytes(), 7, b""
        while at + 7 <= len(raw):
            if BLOCK - at % BLOCK < 7:
                at += BLOCK - at % BLOCK
                continue
            length, part = struct.unpack("<HB", raw[at + 4 : at + 7])
            record, at = record + raw[at + 7 : at + 7 + length], at + 7 + length
            if part in (1, 4):   # whole, or the last part
                message = Record.FromString(record)
                kind, record = message.WhichOneof("record_type"), b""
                yield kind, getattr(message, kind)


def history(folder, name):
    """The values of a metric, as W&B was told them."""
    return [json.loads(item.value_json) for kind, row in records(folder) if kind == "history"
            for item in row.item if item.nested_key == [name]]


def exits(folder):
    """The exit codes that W&B was told, and whether it was told to give the run to another agent."""
    told = list(records(folder))
    return [x.exit_code for kind, x in told if kind == "exit"], any(kind == "preempting" for kind, _ in told)


def agent(folder, *trials):
    """W&B's agent over trials; its exit status, what it and they said."""
    command = yaml.safe_load((ROOT / "sweeps" / "learning_rate.yaml").read_text())["command"]
    plan = {"command": ["tests.trial" if word == "experiments.train" else word for word in command], "trials": trials}
    (folder / "plan.json").write_text(json.dumps(plan))
    kept = {key: x for key, x in environment().items() if key != "WANDB_MODE"}
    ours = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "WANDB_API_KEY": "0" * 40,
            "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    done = subprocess.run([sys.executable, "-m", "tests.agent", "plan.json"], cwd=folder, text=True, capture_output=True,
                          env=kept | ours)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Of equal values one trial that is stopped early and one that is taken away with its agent, between them one that breaks;
    then another agent goes on with the one that was taken away."""
    folder = tmp_path_factory.mktemp("sweep")
    given = {key: yaml.safe_load(x) for key, x in (word.split("=", 1) for word in command(folder, None, "epochs=12"))}
    given |= {"tracker": ["jsonl", "wandb"], "run_dir": None, "optimizer.learning_rate": 1e-05, "data.text_column": ["text"],
              "last": False}
    broken = given | {"optimizer.learning_rate": 1e30, "optimizer.clip": None, "optimizer.schedule": "constant"}
    first = agent(folder, {"id": "stopped", "args": given, "end": "stop"}, {"id": "broken", "args": broken, "end": None},
                  {"id": "taken", "args": given, "end": "die"}, {"id": "never", "args": given, "end": None})
    runs = {path.name.rpartition("-")[2]: path for path in folder.glob("runs/*")}
    cell.wait_for(runs["taken"] / ".lock")
    before = steps(runs["taken"])
    second = agent(folder, {"id": "taken", "args": given | {"_wandb": {"t": [1]}}, "end": None})
    assert len(list(folder.glob("runs/*"))) == len(runs)
    return runs, first, second, before


def steps(run):
    """The logged steps of a run."""
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_folder_for_every_trial(swept):
    """Although two have equal values; each belongs to one run of W&B."""
    runs, (status, said), _, _ = swept
    assert set(runs) == {"stopped", "broken", "taken"} and status == -signal.SIGTERM
    names = {path.name.removesuffix(f"-{name}") for name, path in runs.items()}
    assert len(names) == 2 and "Traceback" not in said
    for name, path in runs.items():
        assert {row.run_id for kind, row in records(path) if kind == "run"} == {name}


@pytest.mark.slow
def test_early_termination(swept):
    """The trial saves before the agent would kill it, counts as done, and what it had reached is its metric."""
    runs, (_, said), _, _ = swept
    assert "Stop: stopped" in said and "Kill: " not in said and "Cleaning up finished run: stopped" in said
    assert any(path.name.isdigit() for path in (runs["stopped"] / "checkpoints").iterdir())
    assert not (runs["stopped"] / "summary.json").exists() and exits(runs["stopped"]) == ([0], False)
    told = [row.value_json for kind, x in records(runs["stopped"]) if kind == "summary" for row in x.update
            if row.nested_key == [METRIC] or row.key == METRIC]
    assert [float(x) for x in told][-1:] == history(runs["stopped"], METRIC)[-1:] != []


@pytest.mark.slow
def test_a_broken_trial(swept):
    """It has failed, its agent goes on."""
    runs, (_, said), _, _ = swept
    assert "not finite at step" in said and exits(runs["broken"]) == ([2], False)
    assert "Cleaning up finished run: broken" in said and said.index("config-taken") > said.index("config-broken")


@pytest.mark.slow
def test_a_trial_is_taken_away(swept):
    """It saves when its agent is gone and asks W&B for another one; there it goes on where it was, as the same run."""
    runs, _, (status, said), before = swept
    assert status == 0 and "Agent received command: resume" in said
    after = steps(runs["taken"])
    assert 10 <= before[-1] < after[-1] == 120 and after[: len(before)] == before and after == sorted(after)
    assert exits(runs["taken"]) == ([1, 0], True) and (runs["taken"] / "summary.json").is_file()
    assert len(history(runs["taken"], METRIC)) == 12
