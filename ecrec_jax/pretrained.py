"""Checkpoints both ways: find, read strictly, fit to a net; export what transformers opens."""

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx, serialization
from safetensors.numpy import save_file

from ecrec_jax import build, checkpoint, convert
from ecrec_jax.block import Factored
from ecrec_jax.data.read import inside_package
from ecrec_jax.data.tokenise import FILES
from ecrec_jax.net import Net, split
from ecrec_jax.types import Batch, Facts, InputError, Noise, Parameters

OPTIONAL = "model.pooler."   # what a BERT checkpoint may lack or have in excess


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint that was read: facts from its config, arrays under our names, its folder and label names."""

    folder: Path
    facts: dict[str, Any]
    tensors: Parameters
    labels: tuple[str, ...] | None
    pooling: str = "cls"   # how its classifier reads a text


def locate(reference: str) -> Path:
    """The folder of a checkpoint: a local one, `package:PACKAGE/sub/folder`, or a hub id (downloaded).

    Raises:
        InputError: nothing there; says what was tried.
    """
    if reference.startswith("package:"):
        return inside_package(reference.removeprefix("package:"), "model.checkpoint")
    if Path(reference).is_dir():
        return Path(reference)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", reference) or ".." in reference:
        raise InputError(f"model.checkpoint: {reference} is no folder, and can't be a hub id")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(reference, allow_patterns=["*.json", "*.safetensors", "flax_model.msgpack", "vocab.txt"]))
    except Exception as error:  # noqa: BLE001 (offline, unknown, forbidden: one sentence for all)
        raise InputError(f"model.checkpoint: {reference} is no local folder, and the hub could not give it "
                         f"({type(error).__name__}); download it elsewhere and set model.checkpoint=/path/to/folder") from None


def read(reference: str) -> Source:
    """Read a checkpoint: a folder of Hugging Face files, a run of ours (its best weights), a package's, or a hub id.

    Raises:
        InputError: it can't be found or read, or is not a BERT encoder as implemented here.
    """
    folder = locate(reference)
    if (folder / "facts.json").is_file():
        facts = build.load_facts(folder)
        if facts.width is None:
            raise InputError(f"{folder}: the run has no model")
        tensors, head = best(folder), build.load_config(folder)["head"]
        pooling = head.get("pooling", "cls") if "head.classifier.kernel" in tensors else "cls"
        return Source(folder, {key: getattr(facts, key) for key in convert.CONFIG}, tensors, facts.labels, pooling)
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


def best(folder: Path) -> Parameters:
    """All parameters of a run's best checkpoint, frozen ones included."""
    config = build.load_config(folder)
    peft = build.make(config["peft"], "peft", Facts())
    with checkpoint.Checkpoints(folder / "checkpoints", config["best"]["mode"]) as kept:
        trained, constant = kept.best()
    return {name: np.asarray(x) for name, x in peft.merge(trained, constant).items()}


def fit(target: Parameters, source: Source, new_head: bool = False) -> tuple[Parameters, dict[str, list[str]]]:
    """The target's arrays, replaced by the source's: (parameters, {"new": …, "unread": …}).

    Every name of both sides is accounted for. A head that isn't asked for is left unread; a head or pooler that the
    checkpoint lacks keeps its initial values; both are listed.

    Raises:
        InputError: anything else that doesn't match, all of it in one sentence.
    """
    tensors = {k: v for k, v in source.tensors.items() if not (new_head and k.startswith("head."))}
    headed = any(name in tensors for name in target if name.startswith("head."))
    may_be_new = lambda name: name.startswith(OPTIONAL) or (name.startswith("head.") and not headed)  # noqa: E731
    may_be_unread = lambda name: name.startswith((OPTIONAL, "head."))  # noqa: E731
    new, unread = [k for k in target if k not in tensors], [k for k in source.tensors if k not in target or k not in tensors]
    wrong = [f"{k} is missing" for k in new if not may_be_new(k)]
    wrong += [f"{k} is not known" for k in unread if not may_be_unread(k)]
    wrong += [f"{k} has shape {tensors[k].shape}, {target[k].shape} is needed" for k in target
              if k in tensors and tensors[k].shape != target[k].shape]
    if wrong:
        hint = "; model.new_head=true starts a new head" if any(w.startswith("head.") for w in wrong) else ""
        raise InputError(f"{source.folder} does not fit: {'; '.join(wrong)}{hint}")
    return {k: tensors.get(k, target[k]) for k in target}, {"new": new, "unread": unread}


class Hidden(nnx.Module):
    """No head: all hidden states."""

    def __call__(self, hidden: Any, batch: Batch, model: Any, noise: Noise | None) -> Any:
        return hidden


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A net with a checkpoint's weights. `report` lists what was newly initialised and what was left unread."""

    net: Net
    facts: Facts
    folder: Path   # of its tokenizer
    report: dict[str, list[str]]

    def __call__(self, batch: Batch) -> Any:
        """Outputs on a batch (numpy or jax arrays), f32, no dropout; vocabulary logits are made whole."""
        outputs = self.net({key: jnp.asarray(x) for key, x in batch.items()})
        return outputs.logits() if isinstance(outputs, Factored) else outputs


def load(checkpoint: str, head: Literal["sequence_classification", "masked_lm"] | None = None, seed: int = 0) -> Pretrained:
    """A net with a checkpoint's weights, to be called on a batch.

    It returns hidden states f32[B,L,D] without a head, class logits f32[B,S,C] at the slots for
    `sequence_classification`, vocabulary logits f32[B,S,V] at the slots for `masked_lm`. Leaves that the checkpoint
    lacks (a new head, a pooler) are initialised from `seed`.

    Raises:
        InputError: the checkpoint can't be found or read, or does not fit.
    """
    heads = {None: None, "sequence_classification": "ecrec_jax.head.classify.Classify",
             "masked_lm": "ecrec_jax.head.tokens.Tokens"}
    if head not in heads:
        raise InputError(f"head {head!r} is none of None, 'sequence_classification', 'masked_lm'")
    source, rngs = read(checkpoint), nnx.Rngs(seed)
    classify = head == "sequence_classification"
    pooler = (classify and source.pooling == "cls") or (head is None and f"{OPTIONAL}dense.kernel" in source.tensors)
    facts = Facts(**source.facts, pooler=pooler, pad_id=0, labels=(source.labels or ("0", "1")) if classify else None)
    model = build.make({"_target_": "ecrec_jax.model.bert.Bert"}, "model", facts, rngs=rngs)
    pooling = {"pooling": source.pooling} if classify else {}
    top = build.make({"_target_": heads[head], **pooling}, "head", facts, rngs=rngs) if head else Hidden()
    graph, parameters, _ = split(Net(model, top))
    filled, report = fit(parameters, source)
    inner = source.folder / "tokenizer"   # of a run
    return Pretrained(graph.net({k: jnp.asarray(x) for k, x in filled.items()}), facts,
                      inner if inner.is_dir() else source.folder, report)


def save(net: Pretrained, folder: str | Path, format: Literal["hf", "hf_flax"] = "hf") -> list[str]:
    """Write what transformers opens: `hf` = config.json and model.safetensors, `hf_flax` = flax_model.msgpack; with the
    tokenizer and label names. Returns the names of parameters that no transformers class has a place for.

    Raises:
        InputError: an unknown format, or the folder is there and not empty.
    """
    return write(split(net.net)[1], net.facts, net.folder, Path(folder), format)


def write(parameters: Parameters, facts: Facts, tokenizer: Path, folder: Path, format: str) -> list[str]:
    """`save`, from arrays under our names. The folder appears whole or not at all."""
    if format not in ("hf", "hf_flax"):
        raise InputError(f"format {format!r} is none of hf, hf_flax")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there already and not empty; name another folder")
    architecture = architecture_of(parameters)
    bare = architecture == "BertModel"
    left = [name for name in parameters if bare and name.startswith("head.")]
    tensors = {convert.theirs(name, bare): np.asarray(x) for name, x in parameters.items() if name not in left}
    if format == "hf" and "cls.predictions.decoder.kernel" in tensors:   # torch's untied decoder adds a bias of its own
        tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"]
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    config = convert.config_of(facts, architecture)
    (part / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")
    for name in FILES:
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, part / name)
    if format == "hf":
        save_file(dict(convert.torch_of(name, x) for name, x in tensors.items()), part / "model.safetensors", {"format": "pt"})
    else:
        (part / "flax_model.msgpack").write_bytes(serialization.msgpack_serialize(convert.nest(tensors)))
    if folder.exists():
        folder.rmdir()
    os.replace(part, folder)
    return left


def architecture_of(parameters: Parameters) -> str:
    """The transformers class that has a place for these parameters."""
    if "head.classifier.kernel" in parameters and f"{OPTIONAL}dense.kernel" in parameters:
        return "BertForSequenceClassification"
    return "BertForMaskedLM" if "head.transform.dense.kernel" in parameters else "BertModel"
