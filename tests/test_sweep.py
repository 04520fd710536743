"""Sweep files: every parameter is a key or a group of the config, every sampled value composes, the metric is one that runs log."""

import importlib
import re
from pathlib import Path

import numpy as np
import pytest
import wandb
import yaml
from wandb import wandb_agent

from ecrec_jax import section
from ecrec_jax.types import Facts
from experiments import launch, record, wiring
from experiments.override import overrides
from tests.world import composed

SWEEPS = sorted((Path(launch.CONF).parent / "sweeps").glob("*.yaml"))
KEYS = {"project", "method", "metric", "parameters", "early_terminate", "command"}
METHODS, GOALS, EXIT = ("bayes", "random", "grid"), ("maximize", "minimize"), "${args_json_file}"


def read(path):
    """A sweep file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def values(parameter):
    """What an agent may draw, the ends of a range included."""
    assert len({"value", "values", "min"} & set(parameter)) == 1
    assert set(parameter) <= {"value", "values", "min", "max", "distribution"}
    if "value" in parameter:
        return [parameter["value"]]
    if "values" in parameter:
        return parameter["values"]
    assert isinstance(parameter["min"], int | float) and isinstance(parameter["max"], int | float), "1e-5 is text in yaml: 1.0e-5"
    assert 0 < parameter["min"] < parameter["max"] or "log" not in parameter.get("distribution", "")
    return [parameter["min"], parameter["max"]]


def groups():
    """What is chosen by a name of a file."""
    return {path.name for path in Path(launch.CONF).iterdir() if path.is_dir()}


def fixed(sweep):
    """The group choices that never change: `experiment` first of all."""
    chosen = {key: p["value"] for key, p in sweep["parameters"].items() if key in groups() and "value" in p}
    return [word for key, value in chosen.items() for word in overrides(key, value)]


def leaves(config):
    """The dotted names of a config."""
    return set(record.compared(config)) | {"run_dir"}


def metrics_of(config):
    """The names that a run logs at a validation: those of its task on made-up columns, and the loss."""
    names = ("a", "b")
    facts = Facts(labels=names, class_counts=(1, 1), center=0.0, scale=1.0, cls_id=1, mask_id=2, special_ids=(0, 1), vocabulary=9)
    task, random = section.make(config["task"], "task", facts), np.random.default_rng(0)
    columns = {"class": {"label": np.arange(20) % 2, "scores": random.dirichlet([1, 1], 20)},
               "multi": {"label": random.integers(0, 2, (20, 2)), "scores": random.random((20, 2))},
               "number": {"label": random.normal(size=20), "scores": random.normal(size=20)},
               "tokens": {"loss": random.random(20), "hit": random.integers(0, 2, 20)},
               "vector": {"label": np.arange(20) // 2, "vector": random.normal(size=(20, 4))}}[task.target]
    return {f"valid/{key}" for key, x in task.metrics(columns).items() if isinstance(x, int | float)} | {"valid/loss"}


def test_the_files_are_there():
    """The ablations that people ask for."""
    assert {path.stem for path in SWEEPS} >= {"learning_rate", "heads", "pooling", "label_fraction", "masking_rate", "pretraining"}
    assert {read(path)["method"] for path in SWEEPS} == {*METHODS}


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_command(path):
    """An agent starts one of our commands, arguments as Hydra reads them."""
    sweep = read(path)
    assert sweep["method"] in METHODS and sweep["metric"]["goal"] in GOALS
    assert sweep["command"][:3] == ["${env}", "${interpreter}", "-m"] and sweep["command"][-1] == EXIT
    assert "program" not in sweep and callable(importlib.import_module(sweep["command"][3]).main)
    assert set(sweep.get("early_terminate", {})) <= {"type", "min_iter", "max_iter", "eta", "s", "strict"}


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_parameters(path):
    """Each is a key of the composed config, or a group whose every choice is there."""
    sweep = read(path)
    known = leaves(composed(*fixed(sweep)))
    assert "experiment" in sweep["parameters"] and not set(sweep) - KEYS
    for key, parameter in sweep["parameters"].items():
        assert key in known or key in groups(), f"{key} is no key of a run"
        if key in groups():
            assert all((Path(launch.CONF) / key / f"{name}.yaml").is_file() for name in values(parameter)), key


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_values(path):
    """Every value, and both ends of a range, composes to a config that a run accepts, with the value in it."""
    sweep = read(path)
    for key, parameter in sweep["parameters"].items():
        for value in values(parameter):
            config = composed(*[word for word in fixed(sweep) if not word.startswith(f"{key}=")], *overrides(key, value))
            wiring.check(config)
            wiring.plan_of(config)
            if key not in groups():
                found = section.flatten(config)[key]
                assert found == value and type(found) is type(value)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_metric(path):
    """The metric is a name that runs of that experiment log, and its goal is the direction that `best` has for it."""
    sweep = read(path)
    config = composed(*fixed(sweep))
    name, goal = sweep["metric"]["name"], sweep["metric"]["goal"]
    assert name in metrics_of(config)
    assert "valid/macro_f2" not in metrics_of(config)
    if name == f"valid/{config['best']['metric']}":
        assert config["best"]["mode"] == goal.removesuffix("imize")


def test_the_guide():
    """docs/sweeps.md names every file, and limits and variables as the installed agent has them."""
    text = (Path(launch.CONF).parent / "docs" / "sweeps.md").read_text(encoding="utf-8")
    assert {name for name in re.findall(r"^\| `(\w+)` \| (?:grid|random|bayes)", text, re.M)} == {path.stem for path in SWEEPS}
    for path in SWEEPS:
        assert f"| `{path.stem}` | {read(path)['method']}{', early termination' * ('early_terminate' in read(path))} |" in text
    found = set(re.findall(r"WANDB_AGENT_\w+", text))
    assert len(found) == 3 and found <= {x for x in vars(wandb.env).values() if isinstance(x, str)}
    agent = wandb_agent.Agent
    limits = {"has (\\d+) seconds": agent.KILL_DELAY, "first (\\d+) seconds": agent.FLAPPING_MAX_SECONDS,
              "after (\\d+) trials": agent.FLAPPING_MAX_FAILURES, "after (\\d+) failures": agent.MAX_INITIAL_FAILURES}
    for said, limit in limits.items():
        assert re.search(said, " ".join(text.split()))[1] == str(limit)
