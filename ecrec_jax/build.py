"""From a plain dictionary to the objects of a run."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float

from ecrec_jax import mesh, text_encoder
from ecrec_jax.data import copies, leak, numbered, tokenise
from ecrec_jax.data.corpus import Corpus
from ecrec_jax.data.feed import Feed, check
from ecrec_jax.data.read import inside_package
from ecrec_jax.net import Graph, Net, split
from ecrec_jax.section import FACTS, RATES, arguments, make, shown, target
from ecrec_jax.source import VECTORS, Source, agree, best, fit, load_facts, read, whole
from ecrec_jax.text_encoder import TextEncoder
from ecrec_jax.types import Facts, Gradient, InputError, Optimizer, Parameters, Peft, Strategy, Task
from ecrec_jax.weights import Later, after

OURS = {"model": {"checkpoint", "new_head", "dtype"},                    # keys of every option of a noun that are not its
        "strategy": {"coordinator", "processes", "process_id"}}          # constructor's
READ = 512     # histories of which the last item is ranked, in a batch
LEAKED = "rows of valid or test that the checkpoint was trained on"
ASSETS = Path(__file__).parent / "assets"


@dataclasses.dataclass(frozen=True)
class Parts:
    """Everything a run is made of."""

    facts: Facts
    corpus: Corpus | None
    feeds: dict[str, Feed]
    graph: Graph
    parameters: Parameters
    constants: Parameters
    task: Task
    peft: Peft
    gradient: Gradient
    optimizer: Optimizer | None
    strategy: Strategy
    tokenizer: str
    report: dict[str, Any]
    texts: TextEncoder | None = None       # of items
    trained_on: np.ndarray | None = None   # marks of all rows that these weights have seen, see `data.leak`


def model_facts(config: Mapping[str, Any]) -> tuple[Facts, Source | None]:
    """(facts of the checkpoint or else of the model's section, the checkpoint)."""
    section = config["model"]
    source = read(section["checkpoint"]) if section["checkpoint"] else None
    for name in ("form", "scaled"):   # of which no parameter's shape tells
        mine, theirs = section.get(name), source and source.run.get(name)
        if None not in (mine, theirs) and mine != theirs:
            raise InputError(f"model.{name} is {shown(mine)}, but {source.folder} was trained with {shown(theirs)}: set it so")
    facts = Facts(**(source.facts if source else {"tied": config["head"].get("tied") is not False}))
    facts = dataclasses.replace(facts, pooler=config["head"].get("pooling") == "cls")
    chosen = {name: value for name, value in section.items() if name in FACTS and value is not None
              and (getattr(facts, name) is None or name in RATES)}
    return dataclasses.replace(facts, **chosen), source


def tokenizer_folder(config: Mapping[str, Any], source: Source | None) -> str:
    """`data.tokenizer`, else the checkpoint's folder, else the shipped English vocabulary; "" where tokens are items."""
    if "tokenizer" not in config["data"]:
        return ""
    named = config["data"]["tokenizer"]
    if named:
        return str(inside_package(named.removeprefix("package:"), "data.tokenizer")) if named.startswith("package:") else named
    if source is None:
        return str(ASSETS / "bert_uncased")
    return str(source.words())


def constructors(config: Mapping[str, Any], noun: str) -> dict[str, Any]:
    """What of a section is its constructor's."""
    return {name: value for name, value in config[noun].items() if name not in OURS.get(noun, ())}


def build(config: Mapping[str, Any], like: Parts | None = None) -> Parts:
    """All parts of a new run: checkpoint, tokenizer, data, facts, model, head, task, optimizer, in this order. Data that is the
    same as that of a run `like` it is not read again.

    Raises:
        InputError: whatever of the config, the checkpoint or the data can't be used.
    """
    facts, source = model_facts(config)
    if "tokenizer" not in config["data"] and facts.positions is None:
        facts = dataclasses.replace(facts, positions=config["data"]["max_length"])
    known = {"vocabulary"} if "tokenizer" in config["data"] else {"vocabulary", "types", "item_fields"}   # by the data
    lacking = [name for name in config["model"] if name in FACTS - known and getattr(facts, name) is None]
    if lacking and source is not None:
        raise InputError(f"model.checkpoint: {source.folder} doesn't say its {', '.join(lacking[:3])}…, which this model takes "
                         "from it: it is a run of another kind of model")
    if lacking:
        raise InputError(f"model.checkpoint is not set, but this model takes {', '.join(lacking[:3])}… from it: give a folder, a "
                         "hub id or a run, or choose a model that has its own, such as model=bert_tiny")
    rates = [getattr(facts, name) if config["model"].get(name) is None else config["model"][name] for name in RATES - {"causal"}]
    if config["task"].get("views") == "dropout" and not any(rates) and config.get("debug") != "overfit":
        raise InputError("task.views=dropout reads each text under two masks of dropout, of which the model has none: set "
                         "model.dropout=0.1")
    folder = tokenizer_folder(config, source)
    words = tokenise.facts(folder) if folder else {}
    if facts.vocabulary is not None and words.get("vocabulary", 0) > facts.vocabulary:
        raise InputError(f"data.tokenizer: {folder} has {words['vocabulary']} tokens, the model's table only {facts.vocabulary}")
    facts = dataclasses.replace(facts, **(words | {"vocabulary": facts.vocabulary or words.get("vocabulary")}))
    data = make(config["data"], "data", Facts())
    longest = facts.longest(data.max_length)
    if like is not None and like.tokenizer == folder and not config["data"].get("augment"):   # which depends on the seed
        corpus = dataclasses.replace(like.corpus, report=dict(like.corpus.report))
    else:
        corpus = data.load(folder, longest)
    if config["data"].get("augment"):
        corpus = copies.add(corpus, data, folder, longest, config["seed"])
    if source is not None:
        by_text = config["model"].get("text") == "only" and config["head"].get("tied") is not False
        numbered.agree(source.folder, facts.vocabulary, source.run.get("events"), corpus, by_text)
    facts = dataclasses.replace(facts, **corpus.facts)
    earlier, train = leak.known(source.folder) if source else np.empty(0, np.uint64), leak.marks(corpus, "train")
    if len(earlier):
        corpus.report[LEAKED] = leak.count(leak.marks(corpus, "valid", "test"), earlier, train)
    texts = text_encoder.of(config, corpus)
    parts = network(config, facts, folder, source, corpus.vectors, texts)
    alone = parts.gradient.one_example_per_row
    feeds = {name: Feed(examples, parts.task, None, alone) for name, examples in corpus.examples.items() if examples}
    check(feeds, data.path, corpus.catalogue is None)
    most = [max(int(getattr(feed, side).max()) for feed in feeds.values()) for side in ("tokens", "slots")]
    shape = feeds["train"].shaped(data.batch_size, data.row_length, most)
    few = feeds["valid"].few(shape, READ) if corpus.catalogue is not None else shape
    if corpus.catalogue is not None:   # a test example may have more slots than those of validation
        few = few._replace(slots=max(few.slots, *(int(feed.slots.max()) for name, feed in feeds.items() if name != "train")))
    for name, feed in feeds.items():
        feed.shape = shape if name == "train" else few._replace(
            **{key: max(getattr(other, key) for other in feeds.values()) for key in ("seen", "relevant")})
    steps = config["steps"] or config["epochs"] * feeds["train"].count(config["seed"], 0)
    facts = dataclasses.replace(parts.facts, steps=steps)
    optimizer = make(config["optimizer"], "optimizer", facts)
    return dataclasses.replace(parts, facts=facts, corpus=corpus, feeds=feeds, optimizer=optimizer,
                               trained_on=np.union1d(earlier, train))


def network(config: Mapping[str, Any], facts: Facts, folder: str, source: Source | None,
            vectors: Float[np.ndarray, "V F"] | None = None, texts: TextEncoder | None = None, later: bool = False) -> Parts:
    """Model, head, task and the holes of the step; arrays from the seed and the checkpoint, or `later` from the caller. Models that
    read items' texts, and tasks that measure lists of them, are given their `vectors`, or the `texts` with an encoder."""
    if facts.causal and config["head"].get("pooling") in ("cls", "first"):
        raise InputError(f"head.pooling is {config['head']['pooling']}, but the first token of a causal model sees no other: set "
                         "head.pooling=mean, or model.causal=false to let all tokens see each other")
    if config["head"].get("pooling") == "cls" and not hasattr(target(config["model"], "model"), "pool"):
        name = target(config["model"], "model").__name__
        raise InputError(f"head.pooling is cls, but a {name} has no pooler: set head.pooling=mean")
    seed = config["seed"]
    rngs = Later(seed) if later or (source and whole(source, facts)) else nnx.Rngs(seed)
    told = {noun: {"vectors": vectors} if "vectors" in arguments(target(config[noun], noun)) else {} for noun in ("model", "task")}
    reading = {"text_encoder": texts.module(seed, later), "texts": texts.texts} if texts else {}
    model = make(constructors(config, "model"), "model", facts, rngs=rngs, **told["model"], **reading)
    seeded = {"rngs": after(rngs, seed)} if "rngs" in arguments(target(config["head"], "head")) else {}
    head = make(config["head"], "head", facts, **seeded)
    graph, parameters, constants = split(Net(model, head), config["model"]["dtype"])
    parameters = texts.fill(parameters) if texts else parameters
    report: dict[str, Any] = {"new": list(parameters) if source else [], "unread": []}
    if source is not None:
        if source.labels and facts.labels and not config["model"]["new_head"]:
            agree(source, facts)
        parameters, report = fit(parameters, source, config["model"]["new_head"], constants)
        if hasattr(head, "standardised") and not any(name.startswith("head.") for name in report["new"]):
            parameters = head.standardised(parameters)
    made = {name: make(constructors(config, name), name, facts, **told.get(name, {}))
            for name in ("task", "peft", "gradient", "strategy")}
    return Parts(facts, None, {}, graph, parameters, constants, optimizer=None, tokenizer=folder, report=report, texts=texts,
                 **made)


def rebuild(folder: Path, config: Mapping[str, Any]) -> Parts:
    """The parts of a run from its folder and its configuration, with the best checkpoint's weights; no dataset is needed."""
    if not (folder / "facts.json").is_file():
        raise InputError(f"run_dir: {folder} has not begun to train (no facts.json)")
    facts = load_facts(folder)
    here = {"attention": "auto"} if "attention" in config["model"] else {}   # the devices may be others than in training
    strategy = config["strategy"] | {"devices": mesh.at_most(config["strategy"]["devices"])}
    bare = dict(config, model={**config["model"], "checkpoint": None, **here}, strategy=strategy)
    kept = folder / VECTORS
    vectors = np.load(kept, allow_pickle=False) if kept.is_file() else None
    parts = network(bare, facts, str(folder / "tokenizer"), None, vectors, text_encoder.kept(folder, config), later=True)
    weights = best(folder, config)
    parameters = {name: jax.numpy.asarray(weights[name]) for name in parts.parameters}
    read = parts.texts.read(parts.graph, parameters | parts.constants) if parts.texts else {}
    return dataclasses.replace(parts, parameters=parameters, constants=parts.constants | read)


def count(parameters: Parameters) -> int:
    """Numbers in a tree."""
    return sum(int(np.prod(x.shape)) for x in parameters.values())
