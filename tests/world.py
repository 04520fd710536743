"""A small world for laws: the real config shrunken, random examples, one net a task."""

import copy
import dataclasses
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

from ecrec_jax import build, section
from ecrec_jax.data import pack
from ecrec_jax.data.feed import Feed
from ecrec_jax.step import make_step
from ecrec_jax.types import Example, Facts, State
from experiments.launch import CONF
from experiments.wiring import plain
from tests.conftest import GOLDEN

ITEMS = ("next_item", "masked_item", "s3rec")
OLDEST = ("items", "classify", "regress", "tokens", "embed")
VOCABULARY, LENGTH = 504, 32
SMALL = ["model.width=32", "model.depth=2", "model.heads=4", "model.feed_forward=64", "model.positions=64"]


def names(noun):
    """The yamls of a folder of conf/."""
    return sorted(path.stem for path in (Path(CONF) / noun).glob("*.yaml"))


def composed(*overrides, name="train"):
    """The composed config as a dictionary."""
    return copy.deepcopy(composed_once(overrides, name))


@cache
def composed_once(overrides, name):
    """Composing takes a tenth of a second."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base="1.3"):
        return plain(compose(name, list(overrides)))


def drawn_up(*overrides):
    """What `composed` gives, the data section aside, for choices of nouns and values of keys that are there: Hydra takes a quarter
    of a second."""
    made, words = composed(), [parsed(word) for word in overrides]
    for key, value in sorted(words, key=lambda word: "." in word[0]):   # choices first, as Hydra has it
        *noun, name = key.split(".")
        held = made[noun[0]] if noun else made
        assert name in held, key
        held[name] = copy.deepcopy(value if noun or not isinstance(held[name], dict) else section_of(name, value))
    return made


@cache
def parsed(word):
    """(key, value) of an override, as Hydra reads it."""
    found = OverridesParser.create().parse_override(word)
    return found.key_or_group, found.value()


@cache
def classes(noun):
    """name -> class, of every yaml of a noun (yamls that only refine another share its class)."""
    return {name: section.target(section_of(noun, name), noun) for name in names(noun)}


@cache
def section_of(noun, name):
    """A yaml of conf/ with its defaults merged."""
    raw = yaml.safe_load((Path(CONF) / noun / f"{name}.yaml").read_text())
    merged = {}
    for base in raw.pop("defaults", []):
        merged |= {} if base == "_self_" else section_of(noun, base)
    return merged | raw


def target_of(task):
    """What a task's labels are."""
    given = classes("task")[task].target
    return given if isinstance(given, str) else "class"


def head_of(task):
    """A head that a task can use; the oldest first, so that a new one does not take its place."""
    return next(name for name in sorted(classes("head"), key=lambda n: (n not in OLDEST, n)) if reads(name, task))


def reads(head, task):
    """Whether a head gives what a task needs."""
    return target_of(task) in classes("head")[head].reads


def facts(task, checkpoint=False):
    """What a corpus and a tokenizer would have said."""
    if target_of(task) in ITEMS:
        return Facts(vocabulary=VOCABULARY, items=VOCABULARY - 2, item_counts=tuple(range(VOCABULARY)), mask_id=VOCABULARY - 1,
                     pad_id=0, special_ids=(0, VOCABULARY - 1), pooler=False, tied=True, steps=10, width=32, activation="gelu",
                     norm_epsilon=1e-12, initializer_range=0.02, dropout=0.1, attention_dropout=0.1, positions=64,
                     attributes=((), *((i % 5, 5 + i % 3)[: 1 + i % 2] for i in range(1, VOCABULARY - 1)), ()),
                     attribute_names=tuple("abcdefgh"), history_items=tuple(range(1, 200)),
                     causal=target_of(task) == "next_item")
    labels = {"labels": ("a", "b", "c"), "class_counts": (5, 3, 2)} if target_of(task) in ("class", "multi") else {}
    return Facts(vocabulary=VOCABULARY, cls_id=1, sep_id=2, mask_id=3, pad_id=0, special_ids=(0, 1, 2, 3), pooler=False,
                 tied=True, center=2.0, scale=1.5, steps=10, width=32, activation="gelu", norm_epsilon=1e-12,
                 initializer_range=0.02, dropout=0.1, attention_dropout=0.1, causal=target_of(task) == "next_token", **labels)


def examples(task, count, seed=0, longest=14):
    """Random texts of 4 to `longest` tokens with a target; pairs where a task couples rows."""
    rng, made = np.random.default_rng(seed), []
    if target_of(task) in ITEMS:
        longest = 8 if task == "s3rec" else longest   # four copies share a row
        for index in range(count):
            items = rng.integers(1, VOCABULARY - 1, int(rng.integers(4, longest + 1))).astype("i4")
            made.append(Example(items[:-1], np.zeros_like(items[:-1]), items[1:], index, None, np.unique(items)))
        return made
    label = {"class": lambda: int(rng.integers(3)), "number": lambda: float(rng.normal(2, 1.5))}.get(target_of(task), lambda: 0)
    for index in range(count):
        n = int(rng.integers(4, longest + 1))
        tokens = rng.integers(4, VOCABULARY, n).astype("i4")
        tokens[0], tokens[-1] = 1, 2
        type_ = np.zeros(n, "i4")
        if classes("task")[task].couples_rows:
            type_[n // 2 :], tokens[n // 2 - 1] = 1, 2
        made.append(Example(tokens, type_, label(), index))
    return made


def small(*overrides):
    """The sizes that the chosen model has."""
    name = next((x.removeprefix("model=") for x in overrides if x.startswith("model=")), "bert_tiny")
    return [x for x in SMALL if x.removeprefix("model.").split("=")[0] in section_of("model", name)]


def parts(task, *overrides, seed=0, head=None):
    """Everything of a run but its data, shrunken; dropout .1."""
    config = drawn_up(f"task={task}", f"head={head or head_of(task)}", "optimizer.learning_rate=1e-2", "optimizer.epsilon=1e-4",
                      *small(*overrides), f"seed={seed}", *overrides)
    known = dataclasses.replace(facts(task), pooler=config["head"].get("pooling") == "cls",
                                initializer_range=config["model"]["initializer_range"],
                                norm_epsilon=config["model"].get("norm_epsilon", 1e-12))
    made = build.network(config, known, str(GOLDEN), None)
    return dataclasses.replace(made, optimizer=section.make(config["optimizer"], "optimizer", known))


def feed(task_object, task, count=40, rows=13, seed=0, alone=False):
    """A packed feed; 13 rows divide by nothing."""
    found = Feed(examples(task, count, seed), task_object, None, alone)
    found.shape = pack.Shape(rows, LENGTH, max(8, int(found.slots.max()) * 3))
    return found


def batches(task_object, task, steps=10):
    """One batch a step, each of another epoch, so that orders and masks differ."""
    source = feed(task_object, task)
    return [next(source.batches(1, step)) for step in range(steps)]


def start(made, seed=0):
    """(state, constant) on the host."""
    trained, frozen = made.peft.split(made.parameters)
    state = State(trained, made.optimizer.init(trained), jnp.int32(0), jnp.uint32(seed))
    return state, frozen | made.constants


def curve(made, given, seed=0):
    """Losses of the steps, and the trained parameters at the end."""
    strategy = made.strategy
    state, constant = start(made, seed)
    state, constant = strategy.place(jax.tree.map(jnp.array, state)), strategy.place(constant)
    step = strategy.compile(make_step(made.graph, made.task, made.peft, made.gradient, made.optimizer, strategy), True)
    losses = []
    for batch in given:
        state, logs = step(state, constant, strategy.put(batch, made.gradient.count))
        losses.append(float(strategy.fetch(logs)["loss"]))
    return np.array(losses), strategy.fetch(state).trained
