"""Between Hydra and the library: plain config, whether it is a run's and its nouns fit together, how a process stops."""

import dataclasses
import os
import signal
from collections.abc import Mapping
from typing import Any, Literal

import jax
from omegaconf import DictConfig, OmegaConf

from ecrec_jax import build, processes, profile, section
from ecrec_jax.attention import choose
from ecrec_jax.data.tokenise import cache_folder
from ecrec_jax.loop import Plan
from ecrec_jax.types import Facts, InputError

NOUNS = ("data", "model", "head", "task", "peft", "gradient", "optimizer", "strategy")
ROOTS = [field.name for field in dataclasses.fields(Plan)]
KEYS = (*NOUNS, "tracker", *ROOTS, "run_dir", "replicas")


def plain(config: DictConfig) -> dict[str, Any]:
    """The composed config as a dictionary, interpolations resolved. Hydra takes the word of debug=nan for a number."""
    found = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    return found | {"debug": "nan"} if str(found.get("debug")) == "nan" else found


def plan_of(config: Mapping[str, Any]) -> Plan:
    """The root keys, types checked."""
    best = config["best"]
    if not isinstance(best, dict) or set(best) != {"metric", "mode"} or best["mode"] not in ("max", "min"):
        raise InputError("best must be {metric: NAME, mode: max or min}")
    plan = section.make({"_target_": "ecrec_jax.loop.Plan"} | {name: config.get(name) for name in ROOTS}, "", Facts())
    for name in ("epochs", "steps", "log_every", "save_every", "patience"):
        value = getattr(plan, name)
        if value is not None and value < 1:
            raise InputError(f"{name} is {value}, must be at least 1")
    if not 0 <= plan.seed < 1 << 32:
        raise InputError(f"seed is {plan.seed}, must be at least 0 and below 2**32")
    return plan


def debugged(config: dict[str, Any]) -> dict[str, Any]:
    """The config that `debug` asks for."""
    if config["debug"] == "fast":
        small = dict(config["data"], limit=4 * config["data"]["batch_size"])
        return config | {"data": small, "steps": 2, "log_every": 1}
    if config["debug"] == "profile":
        steps = profile.WARM + profile.STEPS
        small = dict(config["data"], limit=(steps + 1) * config["data"]["batch_size"])
        return config | {"data": small, "steps": steps, "patience": None, "log_every": 1}
    if config["debug"] == "overfit":
        rates = {name: 0.0 for name in config["model"] if name.endswith("dropout")}
        still = dict(config["optimizer"], schedule="constant", warmup=0.0, weight_decay=0.0, learning_rate=1e-3)
        small = dict(config["data"], limit=4 * config["data"]["batch_size"])
        return config | {"data": small, "model": config["model"] | rates, "optimizer": still, "steps": config["steps"] or 100}
    return config


def known(config: Mapping[str, Any]) -> None:
    """Whether every section is there, and every key known and of its type.

    Raises:
        InputError: the first that isn't.
    """
    for name in config:
        if name not in KEYS:
            raise InputError(f"{name} is not a key of a run; it has {', '.join(KEYS)}")
    for name in (*NOUNS, "tracker"):
        if not isinstance(config.get(name), dict):
            raise InputError(f"{name} is missing: choose one, {name}=NAME")
    if "WANDB_SWEEP_ID" in os.environ and "wandb" not in config["tracker"]:
        raise InputError(f"tracker: the sweep would never hear of this trial: tracker=[{','.join((*config['tracker'], 'wandb'))}]")
    if "jsonl" not in config["tracker"]:
        names = ",".join(("jsonl", *config["tracker"]))
        raise InputError(f"tracker: jsonl is always on, it writes metrics.jsonl: tracker=[{names}]")
    for name in NOUNS:
        section.validate(build.constructors(config, name), name)
    for name, node in config["data"].get("augment", {}).items():
        section.validate(node, f"data.augment.{name}")
    for name, node in config["tracker"].items():
        section.validate(node, f"tracker.{name}")
    for noun, name, hint in (("model", "checkpoint", str | None), ("model", "new_head", bool),
                             ("model", "dtype", Literal["float32", "bfloat16"]), ("strategy", "coordinator", str | None),
                             ("strategy", "processes", int | None), ("strategy", "process_id", int | None)):
        section.checked(config[noun].get(name), hint, f"{noun}.{name}")


def check(config: Mapping[str, Any]) -> None:
    """Whether the nouns fit together, from what their classes declare.

    Raises:
        InputError: they don't; says what to change.
    """
    known(config)
    task, head, gradient = (section.target(config[name], name) for name in ("task", "head", "gradient"))
    names = {name: config[name]["_target_"].rpartition(".")[2] for name in ("task", "head", "gradient", "model")}
    wanted = wanted_by(config)
    if wanted not in head.reads:
        raise InputError(f"task {names['task']} needs a head that gives {wanted}, {names['head']} gives "
                         f"{' or '.join(head.reads)}: choose another head")
    for targets, causal, says in ((("next_token", "next_item"), True, "doesn't see what comes next"),
                                  (("masked_item", "s3rec"), False, "sees both sides of what is hidden")):
        if wanted in targets and bool(config["model"].get("causal")) is not causal:
            raise InputError(f"task {names['task']} needs a model that {says}: set model.causal={str(causal).lower()}")
    if wanted in ("masked_item", "s3rec") and config["data"].get("type_column") is not None:
        raise InputError(f"task {names['task']} hides items, and one that is hidden has no type that could be told: set "
                         "data.type_column=null, or choose task=next_item")
    labelled(config)
    data = config["data"]
    told = "fields" in data and (data["history"] or data["recency"] or data["vectors"]
                                 or {"number", "count"} & set((data["fields"] or {}).values()))
    if told and not getattr(section.target(config["model"], "model"), "reads_values", False):
        raise InputError(f"model {names['model']} reads names, not numbers, and the data's fields have some: choose "
                         "model=logistic, fm, deepfm, dcnv2 or two_tower")
    if getattr(section.target(config["model"], "model"), "parts_items", False) and (data["vectors"] or not data["item_fields"]):
        raise InputError(f"model {names['model']} reads an item's fields apart from a user's: name them, data.item_fields=[item], "
                         "and set data.vectors=null, whose match is of both")
    if config["model"].get("text_encoder") and getattr(task, "over_all", {}).items() <= config["task"].items():
        raise InputError("model.text_encoder is trained on the items that a batch names, and this task's loss is over all: choose "
                         "task=next_item task.objective=sampled_ce, with task.sampling=batch or negatives")
    couples = task.couples_rows if isinstance(task.couples_rows, bool) else task.couples_rows.items() <= config["task"].items()
    if couples and config["data"].get("augment"):
        raise InputError(f"task {names['task']} tells the texts of a batch apart, and data.augment puts copies of one there: "
                         "set augment=[]")
    if couples and gradient.splits_rows:
        raise InputError(f"task {names['task']} compares rows of the whole batch, gradient {names['gradient']} splits it: "
                         "choose gradient=plain")
    if couples and gradient.one_example_per_row:
        raise InputError(f"gradient {names['gradient']} treats examples one by one, task {names['task']} compares them")


def wanted_by(config: Mapping[str, Any]) -> str:
    """What the task is trained on."""
    target = section.target(config["task"], "task").target
    return target if isinstance(target, str) else "multi" if config["task"].get("multi_label") else "class"


def labelled(config: Mapping[str, Any]) -> None:
    """Whether data has the labels that the task needs, if it needs any.

    Raises:
        InputError: it hasn't.
    """
    wanted, given = wanted_by(config), config["data"].get("target", "none")
    if wanted in ("class", "multi", "number") and given != wanted:
        name = config["task"]["_target_"].rpartition(".")[2]
        raise InputError(f"task {name} needs labels of kind {wanted}, data.target is {given}: set data.target={wanted}")


def connect(config: Mapping[str, Any]) -> None:
    """Join the other processes of the run, if it has several, and see whether they were told the same.

    Raises:
        InputError: they weren't, or can't be found.
    """
    processes.connect(**{name: config["strategy"].get(name) for name in sorted(build.OURS["strategy"])})
    free = {"data": {"root": None}, "strategy": dict.fromkeys(build.OURS["strategy"]), "run_dir": None}   # may differ
    processes.same({key: {**x, **free.get(key, {})} if isinstance(x, dict) else free.get(key, x) for key, x in config.items()},
              "the configuration")


def attention(config: Mapping[str, Any], parts: build.Parts) -> str:
    """Which form of attention the steps of a run use, for its reader.

    Raises:
        InputError: the one that is asked for can't be had.
    """
    length, platform = parts.feeds["train"].shape.length, parts.strategy.platform
    facts = parts.facts   # SASRec has one rate for all
    rate = facts.dropout if facts.attention_dropout is None else facts.attention_dropout
    return choose(config["model"]["attention"], platform, length, rate)


class Stop:
    """SIGTERM or the first Ctrl-C: save and leave at the next step; the second Ctrl-C leaves at once. With several processes
    SIGTERM to any of them makes all of them save and leave, at a step that JAX agrees on: its own handler stays."""

    def __init__(self) -> None:
        self.asked, self.calls, self.alone = False, 0, processes.alone()
        for number in (signal.SIGTERM, signal.SIGINT) if self.alone else ():
            signal.signal(number, self.ask)

    def ask(self, number: int, frame: Any) -> None:
        """The handler."""
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __call__(self) -> bool:
        self.calls += 1   # every process makes the same calls
        self.asked = self.asked or (not self.alone and processes.stopping(self.calls))
        return self.asked


def compilation_cache() -> None:
    """Keep compiled programs on disk, so that the second start of a configuration is quick."""
    jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
