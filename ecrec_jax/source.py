"""What a folder holds: a run of ours or Hugging Face files, read strictly and fitted to a net."""

import dataclasses
import functools
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ecrec_jax import convert
from ecrec_jax.checkpoint import Checkpoints
from ecrec_jax.data import leak, numbered
from ecrec_jax.data.read import inside_package
from ecrec_jax.section import FACTS, make
from ecrec_jax.types import Facts, InputError, Parameters
from ecrec_jax.writing import writing

OPTIONAL = "model.pooler."   # what a BERT checkpoint may lack or have in excess
FIELDS, VECTORS, ENCODER = numbered.FIELDS, "vectors.npy", "text_encoder"   # of a run: what it knows of columns, its items'
FOLDERS = ("tokenizer", ENCODER)   # which rebuild a run beside its checkpoints and configuration
FILES = ("facts.json", "items.txt", FIELDS, VECTORS, leak.FILE)


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint that was read: facts from its config, arrays under our names, its folder and label names."""

    folder: Path
    facts: dict[str, Any]
    tensors: Parameters
    labels: tuple[str, ...] | None
    pooling: str = "cls"   # how its classifier reads a text
    head: str | None = None   # the class of a run's head
    run: Mapping[str, Any] = dataclasses.field(default_factory=dict)   # `events` and the section of a run

    def words(self) -> Path:
        """The folder of its tokenizer: a run has one inside."""
        inner = self.folder / "tokenizer"
        return inner if inner.is_dir() else self.folder


def locate(reference: str, key: str = "model.checkpoint", fetch: bool = True) -> Path:
    """The folder of a checkpoint: a local one, `package:PACKAGE/sub/folder`, or a hub id (downloaded, or if not `fetch` one that
    was before).

    Raises:
        InputError: nothing there; says what was tried.
    """
    if reference.startswith("package:"):
        return inside_package(reference.removeprefix("package:"), key)
    if Path(reference).is_dir():
        return Path(reference)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", reference) or ".." in reference:
        raise InputError(f"{key}: {reference} is no folder, and can't be a hub id")
    from huggingface_hub import snapshot_download

    try:
        get = functools.partial(snapshot_download, reference, local_files_only=not fetch)
        folder = Path(get(allow_patterns=["*.json", "*.safetensors", "flax_model.msgpack", "vocab.txt"]))
        if not any(path.suffix in (".safetensors", ".msgpack") for path in folder.iterdir()):
            get(allow_patterns=["pytorch_model*.bin"])
        return folder
    except Exception as error:  # noqa: BLE001 (offline, unknown, forbidden: one sentence for all)
        if not fetch:
            raise InputError(f"{key}: {reference} is not here yet; the hub is asked for it when it is needed") from None
        raise InputError(f"{key}: {reference} is no local folder, and the hub could not give it "
                         f"({type(error).__name__}); download it elsewhere and set {key}=/path/to/folder") from None


def read(reference: str, key: str = "model.checkpoint") -> Source:
    """Read a checkpoint: a folder of Hugging Face files, a run of ours (its best weights), a package's, or a hub id.

    Raises:
        InputError: it can't be found or read, or is not a BERT encoder as implemented here.
    """
    folder = locate(reference, key)
    if (folder / "facts.json").is_file():
        facts = load_facts(folder)
        if facts.width is None:
            raise InputError(f"{folder}: the run has no model")
        config = load_config(folder)
        tensors, head, run = best(folder, config), config["head"], config.get("model", {}) | {"events": facts.events}
        if head.get("_target_", "").endswith(".Regress"):
            tensors = in_units(tensors, facts.center, facts.scale)
        pooling = head.get("pooling", "cls") if "head.classifier.kernel" in tensors else "cls"
        known = {key: getattr(facts, key) for key in (*convert.CONFIG, "causal")}
        return Source(folder, known, tensors, facts.labels, pooling, head.get("_target_"), run)
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise InputError(f"{folder}: no config.json") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from None
    if not isinstance(config, dict):
        raise InputError(f"{path}: not a JSON object")
    facts = convert.facts_of(config, str(path))
    tensors = convert.read_tensors(folder)
    names = config.get("id2label") if "head.classifier.kernel" in tensors else None
    if names and set(names) != {str(i) for i in range(len(names))}:
        raise InputError(f"{path}: id2label does not number the classes from 0")
    labels = tuple(names[str(i)] for i in range(len(names))) if names else None
    return Source(folder, facts | {"tied": "head.decoder.kernel" not in tensors}, tensors, labels)


def best(folder: Path, config: Mapping[str, Any]) -> Parameters:
    """All parameters of the best checkpoint of a run with this configuration, frozen ones included."""
    peft = make(config["peft"], "peft", Facts())
    with Checkpoints(folder / "checkpoints", config["best"]["mode"], writing=False) as kept:
        trained, constant = kept.best()
    return {name: np.asarray(x) for name, x in peft.merge(trained, constant).items()}


def in_units(tensors: Parameters, center: float, scale: float) -> Parameters:
    """A regression's parameters with the labels' mean and spread folded into its last layer."""
    kernel, bias = (tensors[f"head.classifier.{leaf}"] for leaf in ("kernel", "bias"))
    return tensors | {"head.classifier.kernel": (kernel * scale).astype("f4"),
                      "head.classifier.bias": (bias * scale + center).astype("f4")}


def whole(source: Source, facts: Facts) -> bool:
    """Whether a checkpoint that fits a model has all of its weights."""
    return not facts.pooler or f"{OPTIONAL}dense.kernel" in source.tensors


def fit(target: Parameters, source: Source, new_head: bool = False, inputs: Collection[str] = ()
        ) -> tuple[Parameters, dict[str, list[str]]]:
    """The target's arrays, replaced by the source's: (parameters, {"new": …, "unread": …}).

    Every name of both sides is accounted for; `inputs` of the net, and numbers of a task, are made anew. A head that isn't asked
    for is left unread; a head or pooler that the checkpoint lacks keeps its initial values; both are listed.

    Raises:
        InputError: anything else that doesn't match, all of it in one sentence.
    """
    given = {k: v for k, v in source.tensors.items() if k not in inputs and not k.startswith("task.")}
    tensors = {k: v for k, v in given.items() if not (new_head and k.startswith("head."))}
    headed = any(name in tensors for name in target if name.startswith("head."))
    may_be_new = lambda name: name.startswith(OPTIONAL) or (name.startswith("head.") and not headed)  # noqa: E731
    may_be_unread = lambda name: name.startswith((OPTIONAL, "head."))  # noqa: E731
    new, unread = [k for k in target if k not in tensors], [k for k in given if k not in target or k not in tensors]
    wrong = [f"{k} is missing" for k in new if not may_be_new(k)]
    wrong += [f"{k} is not known" for k in unread if not may_be_unread(k)]
    wrong += [f"{k} has shape {tensors[k].shape}, {target[k].shape} is needed" for k in target
              if k in tensors and tensors[k].shape != target[k].shape]
    if wrong:
        hint = "; model.new_head=true starts a new head" if any(w.startswith("head.") for w in wrong) else ""
        raise InputError(f"{source.folder} does not fit: {'; '.join(wrong)}{hint}")
    return {k: tensors.get(k, target[k]) for k in target}, {"new": new, "unread": unread}


def agree(source: Source, facts: Facts) -> None:
    """A checkpoint's classifier can be trained on only with the classes it knows, in their order."""
    generic = all(name == f"LABEL_{i}" for i, name in enumerate(source.labels))
    if len(source.labels) != len(facts.labels) or not (generic or source.labels == facts.labels):
        theirs, ours = (f"{len(names)} ({', '.join(names[:6])}{'…' if len(names) > 6 else ''})"
                        for names in (source.labels, facts.labels))
        raise InputError(f"model.checkpoint: the classes of {source.folder} are {theirs}, of the data {ours}: "
                         "set model.new_head=true to start a new head")


def save_facts(facts: Facts, folder: Path) -> None:
    """facts.json."""
    known = {**dataclasses.asdict(facts), "token_counts": None}
    with writing(folder / "facts.json") as part:
        part.write_text(json.dumps(known, ensure_ascii=False, indent=1), encoding="utf-8")


def load_facts(folder: Path) -> Facts:
    """What `save_facts` wrote; facts that are newer than it keep their defaults.

    Raises:
        InputError: there is a fact that this code doesn't have.
    """
    raw = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    strange = [name for name in raw if name not in FACTS]
    if strange:
        raise InputError(f"{folder / 'facts.json'}: {', '.join(strange)} not known: the run was made by other code")
    fixed = lambda x: tuple(map(fixed, x)) if isinstance(x, list) else x  # noqa: E731
    return Facts(**{name: fixed(x) for name, x in raw.items()})


def load_config(folder: Path) -> dict[str, Any]:
    """The config of a run.

    Raises:
        InputError: the folder is no run.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise InputError(f"run_dir: {folder} holds no run (no config.yaml)")
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise InputError(f"run_dir: {path} is not a run's")
    return config
