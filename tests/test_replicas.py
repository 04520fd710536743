"""Runs that share a program are the runs that they would be alone."""

import dataclasses
import json
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

from ecrec_jax import products, source
from ecrec_jax.replicas import Group, Replica
from ecrec_jax.types import InputError
from ecrec_jax.use import compiler
from tests import world
from tests.test_commands import TINY, call
from tests.test_plan import planned

SMALL = ["experiment=sentiment", *TINY, "data.limit=70", "data.batch_size=16", "epochs=2", "log_every=1", "tracker=[jsonl]"]


def side_by_side(made, given, seeds, devices=1):
    """The curves of runs in one program, each in its thread."""
    group, found, errors = Group(len(made), devices), {}, []

    def one(i):
        try:
            found[i] = world.curve(dataclasses.replace(made[i], strategy=Replica(group, i)), given[i], seeds[i])
        except Exception as error:  # noqa: BLE001 (shown below)
            errors.append(error)
        finally:
            group.leave(i)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(made))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    return [found[i] for i in range(len(made))]


@pytest.mark.parametrize("task,more", [
    ("classification", "peft=bitfit"), pytest.param("masked_lm", "gradient=accumulate", marks=pytest.mark.slow),
    pytest.param("simcse", "peft=full", marks=pytest.mark.slow),
    pytest.param("next_item", "task.objective=sampled_ce", marks=pytest.mark.slow)])
def test_each_is_the_run_that_it_would_be_alone(task, more, monkeypatch):
    """Own initialisation, dropout, order, rates and number of steps; ten steps to 1e-5."""
    monkeypatch.setitem(products.GATHERED, "cpu", 500)   # vectors of negatives, in parts
    numbers = ["optimizer.learning_rate=2e-2", "optimizer.warmup=0.5", "optimizer.weight_decay=0.1"]
    made = [world.parts(task, more, seed=0), world.parts(task, more, *numbers, seed=7)]
    steps = world.batches(made[0].task, task)
    given, seeds = [steps, steps[::-1][:7]], [0, 7]
    alone = [world.curve(one, batches, seed) for one, batches, seed in zip(made, given, seeds, strict=True)]
    for (losses, end), (reference, last) in zip(side_by_side(made, given, seeds), alone, strict=True):
        assert losses == pytest.approx(reference, rel=1e-5, abs=1e-5) and len(losses) == len(reference)
        for name, x in last.items():
            np.testing.assert_allclose(end[name], x, rtol=1e-4, atol=1e-5, err_msg=name)
    assert abs(alone[0][0][:7] - alone[1][0]).min() > 1e-4   # they do differ


@pytest.mark.slow
def test_on_devices_they_exchange_nothing():
    """Six runs on eight devices: three on each of two; the same curves as on one. A run a device: no collective."""
    made = [world.parts("classification", seed=i) for i in range(6)]
    given = [world.batches(one.task, "classification")[:3] for one in made]
    here, spread = (side_by_side(made, given, range(6), devices) for devices in (1, None))
    for one, other in zip(here, spread, strict=True):
        assert one[0] == pytest.approx(other[0], rel=1e-6)
    _, plan = planned("classification", devices=1)
    group = Group(8, None)
    program = compiler.compiled(compiler.lower(dataclasses.replace(plan, strategy=Replica(group, 0)), 0, 13, group))
    size = sum(x.nbytes for x in plan.parameters.values())
    assert group.mesh.size == 8 and not program.exchanged and 3 * size < program.memory["arguments"] < 4 * size


@pytest.mark.slow
def test_command(tmp_path):
    """Two runs that differ in seed, rate and smoothing; alone they log the same; a second start finds them finished."""
    runs = "{seed: [3, 4], optimizer.learning_rate: [1e-3, 2e-3], task.label_smoothing: [0.0, 0.2]}"
    assert call("train", *SMALL, "tracker=[jsonl,wandb]", f"replicas={runs}", f"run_dir={tmp_path / 'both'}") == 0
    assert len({*(tmp_path / "both").glob("*/wandb/offline-run-*/*.wandb")}) == 2   # one run of W&B each
    folder = tmp_path / "both" / "seed_4-learning_rate_0.002-label_smoothing_0.2"
    assert call("train", *SMALL, "seed=4", "optimizer.learning_rate=2e-3", "task.label_smoothing=0.2",
                f"run_dir={tmp_path / 'alone'}") == 0
    read = lambda where: [json.loads(line) for line in (where / "metrics.jsonl").read_text().splitlines()]  # noqa: E731
    ours, alone = read(folder), read(tmp_path / "alone")
    assert len(ours) == len(alone) > 8 and [row["step"] for row in ours] == [row["step"] for row in alone]
    for mine, other in zip(ours, alone, strict=True):
        for key in (key for key in other if key.endswith(("loss", "learning_rate", "accuracy"))):
            assert mine[key] == pytest.approx(other[key], rel=2e-5, abs=1e-5), (mine["step"], key)
    one, two = (json.loads((where / "summary.json").read_text()) for where in (folder, tmp_path / "alone"))
    assert one["replicas"] == 2 and one["test/accuracy"] == pytest.approx(two["test/accuracy"]) and one["steps"] == two["steps"]
    stamp = (folder / "summary.json").stat().st_mtime_ns
    assert call("train", *SMALL, f"replicas={runs}", f"run_dir={tmp_path / 'both'}") == 0
    assert (folder / "summary.json").stat().st_mtime_ns == stamp
    assert call("evaluate", f"run_dir={folder}", "split=test") == 0


@pytest.mark.slow
def test_a_number_that_is_off_by_default(tmp_path):
    """The power of the focal loss, of each run its own: zero is cross-entropy."""
    runs = "{seed: [0, 0, 0], task.focal_gamma: [0.0, 1.0, 4.0]}"
    assert call("train", *SMALL, "steps=2", f"replicas={runs}", f"run_dir={tmp_path / 'focal'}") == 0
    assert call("train", *SMALL, "steps=2", f"run_dir={tmp_path / 'plain'}") == 0
    first = lambda path: json.loads((path / "metrics.jsonl").read_text().splitlines()[0])["train/loss"]  # noqa: E731
    zero, one, four = (first(tmp_path / "focal" / f"seed_0-focal_gamma_{gamma}") for gamma in (0.0, 1.0, 4.0))
    assert zero == pytest.approx(first(tmp_path / "plain"), rel=1e-5) and zero > 1.5 * one > 1.5 * four


@pytest.mark.parametrize("given,said", [
    ("replicas=0", "must be a number of seeds"), ("'replicas={seed:[0,1],task.label_smoothing:[0.1]}'", "same length"),
    ("replicas={data.batch_size:[1,2]}", "data.batch_size can't differ"), ("replicas={seed:[1,1]}", "two of the runs"),
    ("replicas={task.multi_label:[true,false]}", "task.multi_label can't differ"),
    ("replicas={optimizer.layer_decay:[0.9,1.0]}", "optimizer.layer_decay can't differ"),
    ("replicas={task.label_smoothing:[0.1,2.0]}", "must be 0 or more, below 1")])
def test_what_can_not_run_together(given, said, tmp_path, capsys):
    assert call("train", *SMALL, given.strip("'"), f"run_dir={tmp_path}") == 2
    assert said in capsys.readouterr().err


def test_batches_of_other_shapes_are_refused(tmp_path, capsys):
    """Half of the tokens are more slots than a seventh; nothing has begun when it is said."""
    words = [word for word in SMALL if not word.startswith(("experiment", "head", "task"))]
    assert call("train", "experiment=pretrain", *words, "replicas={task.rate:[0.15,0.5]}", f"run_dir={tmp_path}") == 2
    assert "copies of texts, or shares of what is read, differ; run them one after the other" in capsys.readouterr().err
    assert not list(tmp_path.rglob("metrics.jsonl"))


@pytest.mark.parametrize("more,said", [("strategy=fsdp", "choose strategy=jit"), ("debug=nan", "leave replicas null"),
                                       ("debug=profile", "leave replicas null")])
def test_what_looks_at_one_run_is_refused(more, said, tmp_path, capsys):
    assert call("train", *SMALL, "replicas=2", more, f"run_dir={tmp_path}") == 2
    assert said in capsys.readouterr().err and jax.device_count() == 8


def test_a_checkpoint_has_more_than_weights():
    """Numbers of a task that replicas differed in, and inputs of the net, are made anew; what else is left over is refused."""
    target = {"model.kernel": np.zeros(2, "f4")}
    made = lambda *more: source.Source(Path("run"), {}, {"model.kernel": np.ones(2, "f4"), **dict.fromkeys(more, np.ones(1))}, None)  # noqa: E731
    found, report = source.fit(target, made("task.temperature", "model.texts"), inputs=["model.texts"])
    assert list(found) == ["model.kernel"] and found["model.kernel"].all() and report == {"new": [], "unread": []}
    with pytest.raises(InputError, match="model.texts is not known"):
        source.fit(target, made("model.texts"))
