"""Checkpoints both ways, for users: a net from one, and one from a net that transformers opens."""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx, serialization
from safetensors.numpy import save_file

from ecrec_jax import convert
from ecrec_jax.data.tokenise import FILES
from ecrec_jax.factored import Factored
from ecrec_jax.net import Net, split
from ecrec_jax.section import make
from ecrec_jax.source import OPTIONAL, fit, read, whole
from ecrec_jax.types import Batch, Facts, InputError, Noise, Parameters
from ecrec_jax.weights import Later, after
from ecrec_jax.writing import fresh


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


def load(checkpoint: str, head: Literal["sequence_classification", "masked_lm", "causal_lm"] | None = None,
         seed: int = 0) -> Pretrained:
    """A net with a checkpoint's weights, to be called on a batch.

    It returns hidden states f32[B,L,D] without a head, class logits f32[B,S,C] at the slots for
    `sequence_classification`, vocabulary logits f32[B,S,V] at the slots for `masked_lm` and `causal_lm`. Leaves that the checkpoint
    lacks (a new head, a pooler) are initialised from `seed`.

    Raises:
        InputError: the checkpoint can't be found or read, or does not fit.
    """
    heads = {None: None, "sequence_classification": "ecrec_jax.head.classify.Classify",
             "masked_lm": "ecrec_jax.head.tokens.Tokens", "causal_lm": "ecrec_jax.head.tokens.Tokens"}
    if head not in heads:
        raise InputError(f"head {head!r} is none of None, 'sequence_classification', 'masked_lm', 'causal_lm'")
    source = read(checkpoint)
    if source.facts.get("activation") is None:
        raise InputError(f"{source.folder}: its model is no BERT")
    classify = head == "sequence_classification"
    causal = source.facts.get("causal", False)
    unfit = head == "masked_lm" or (classify and source.pooling == "cls") if causal else head == "causal_lm"
    if unfit:
        raise InputError(f"{source.folder}: its attention is {'' if causal else 'not '}causal, so it can't have the head {head!r}")
    pooler = (classify and source.pooling == "cls") or (head is None and f"{OPTIONAL}dense.kernel" in source.tensors)
    facts = Facts(**source.facts, pooler=pooler, pad_id=0, labels=(source.labels or ("0", "1")) if classify else None)
    rngs = Later(seed) if whole(source, facts) else nnx.Rngs(seed)
    model = make({"_target_": "ecrec_jax.model.bert.Bert"}, "model", facts, rngs=rngs)
    pooling = {"pooling": source.pooling} if classify else {}
    top = make({"_target_": heads[head], **pooling}, "head", facts, rngs=after(rngs, seed)) if head else Hidden()
    graph, parameters, _ = split(Net(model, top))
    if head and source.head not in (None, heads[head]) and any(k in source.tensors for k in parameters if k.startswith("head.")):
        raise InputError(f"{source.folder}: its head is {source.head}, which head={head!r} is not, though names agree")
    filled, report = fit(parameters, source)
    return Pretrained(graph.net({k: jnp.asarray(x) for k, x in filled.items()}), facts, source.words(), report)


def save(net: Pretrained, folder: str | Path, format: Literal["hf", "hf_flax"] = "hf") -> list[str]:
    """Write what transformers opens: `hf` = config.json and model.safetensors, `hf_flax` = flax_model.msgpack; with the
    tokenizer and label names. Returns the names of parameters that no transformers class has a place for.

    Raises:
        InputError: an unknown format, or the folder is there and not empty.
    """
    return write(split(net.net)[1], net.facts, net.folder, Path(folder), format)


def write(parameters: Parameters, facts: Facts, tokenizer: Path, folder: Path, format: str,
          beside: Sequence[Path] = (), problem: str | None = None) -> list[str]:
    """`save`, from arrays under our names, with copies of more files; `problem`: what transformers calls the task. The folder
    appears whole or not at all."""
    if format not in ("hf", "hf_flax"):
        raise InputError(f"format {format!r} is none of hf, hf_flax")
    if facts.activation is None:
        raise InputError(f"{folder} can't be written: the model is no BERT, so no transformers class has a place for it")
    with fresh(folder) as part:
        return fill(parameters, facts, part, format, [*(tokenizer / name for name in FILES), *beside], problem)


def fill(parameters: Parameters, facts: Facts, part: Path, format: str, files: Sequence[Path],
         problem: str | None) -> list[str]:
    """Config, weights and copies of those files that are there; returns the names that were left out."""
    architecture = architecture_of(parameters, facts.causal)
    bare = architecture == "BertModel"
    left = [name for name in parameters if bare and name.startswith("head.")]
    tensors = {convert.theirs(name, bare): np.asarray(x) for name, x in parameters.items() if name not in left}
    if format == "hf" and "cls.predictions.decoder.kernel" in tensors:   # torch's untied decoder adds a bias of its own
        tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"]
    config = convert.config_of(facts, architecture, problem) | {"dtype": next(iter(tensors.values())).dtype.name}
    (part / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")
    for path in files:
        if path.is_file():
            shutil.copyfile(path, part / path.name)
    if format == "hf":
        save_file(dict(convert.torch_of(name, x) for name, x in tensors.items()), part / "model.safetensors", {"format": "pt"})
    else:
        (part / "flax_model.msgpack").write_bytes(serialization.msgpack_serialize(convert.nest(tensors)))
    return left


def architecture_of(parameters: Parameters, causal: bool) -> str:
    """The transformers class that has a place for these parameters."""
    if "head.classifier.kernel" in parameters and f"{OPTIONAL}dense.kernel" in parameters:
        return "BertForSequenceClassification"
    if "head.transform.dense.kernel" in parameters:
        return "BertLMHeadModel" if causal else "BertForMaskedLM"
    return "BertModel"
