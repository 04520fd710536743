"""Hugging Face BERT files to and from our names: config.json to facts, tensor names and layouts, safe reading."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 (teaches numpy bfloat16)
import numpy as np
from flax import serialization
from safetensors import SafetensorError, safe_open

from ecrec_jax import torch_file
from ecrec_jax.types import Facts, InputError, Parameters

CONFIG = {
    "vocabulary": "vocab_size", "positions": "max_position_embeddings", "types": "type_vocab_size", "width": "hidden_size",
    "depth": "num_hidden_layers", "heads": "num_attention_heads", "feed_forward": "intermediate_size",
    "activation": "hidden_act", "norm_epsilon": "layer_norm_eps", "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob", "initializer_range": "initializer_range", "tied": "tie_word_embeddings",
}
ABSENT = {"type_vocab_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "hidden_dropout_prob": 0.1,
          "attention_probs_dropout_prob": 0.1, "initializer_range": 0.02, "tie_word_embeddings": True,
          "max_position_embeddings": 512}   # what a BERT config.json means where it is silent
UNREAD = ("bert.embeddings.position_ids", "embeddings.position_ids")
ENCODER = ("embeddings", "encoder", "pooler")
HEADS = {"classifier.": "head.classifier.", "cls.predictions.": "head.", "cls.seq_relationship.": "head.next_sentence."}


def facts_of(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Facts from a config.json.

    Raises:
        InputError: the model is not a BERT encoder as implemented here.
    """
    for key, wanted in (("model_type", "bert"), ("position_embedding_type", "absolute")):
        if config.get(key, wanted) != wanted:
            raise InputError(f"{where}: {key} is {config[key]!r}, only {wanted!r} is implemented")
    for key in ("is_decoder", "add_cross_attention"):
        if config.get(key):
            raise InputError(f"{where}: {key} is true; files of decoders are not read, though a run of ours may be causal")
    merged = ABSENT | dict(config)
    missing = [key for key in CONFIG.values() if key not in merged]
    if missing:
        raise InputError(f"{where}: {', '.join(missing)} missing")
    width, heads = merged["hidden_size"], merged["num_attention_heads"]
    if isinstance(width, int) and isinstance(heads, int) and (heads < 1 or width % heads):
        raise InputError(f"{where}: hidden_size {width} is no multiple of num_attention_heads {heads}")
    return {fact: merged[key] for fact, key in CONFIG.items()}


def config_of(facts: Facts, architecture: str, problem: str | None = None) -> dict[str, Any]:
    """The config.json of an exported model; `problem`: what transformers calls its task, if it is known."""
    labels = facts.labels or ()
    config = {key: getattr(facts, fact) for fact, key in CONFIG.items()} | {
        "model_type": "bert", "architectures": [architecture], "pad_token_id": facts.pad_id or 0,
        "is_decoder": facts.causal, "position_embedding_type": "absolute", "tie_word_embeddings": facts.tied is not False}
    if architecture == "BertForSequenceClassification":
        labels = labels or ("value",)
        config |= {} if problem is None else {"problem_type": problem}
        config |= {"id2label": {str(i): name for i, name in enumerate(labels)},
                   "label2id": {name: i for i, name in enumerate(labels)}}
    return config


def ours(name: str, tensor: np.ndarray) -> tuple[str, np.ndarray]:
    """Our name and layout of a torch tensor: kernels transposed, leaves renamed, old gamma and beta understood."""
    stem, _, leaf = name.rpartition(".")
    if leaf in ("gamma", "beta"):
        leaf = {"gamma": "weight", "beta": "bias"}[leaf]
    if leaf == "weight":
        if stem.endswith("LayerNorm"):
            leaf = "scale"
        elif stem.endswith("_embeddings"):
            leaf = "embedding"
        else:
            leaf, tensor = "kernel", tensor.T
    return canonical(f"{stem}.{leaf}"), tensor


def canonical(name: str) -> str:
    """Our path of a Flax-style name: the prefixes `bert.` and `cls.` exist only in files."""
    bare = name.removeprefix("bert.")
    if bare.split(".")[0] in ENCODER:
        return f"model.{bare}"
    return next((new + name.removeprefix(old) for old, new in HEADS.items() if name.startswith(old)), name)


def theirs(name: str, bare: bool) -> str:
    """The Flax-style name of one of our paths; `bare`: of a model without a head, which has no prefix."""
    if name.startswith("model."):
        return ("" if bare else "bert.") + name.removeprefix("model.")
    old = "classifier." if name.startswith("head.classifier.") else "cls.predictions."
    return old + name.removeprefix("head.classifier." if old == "classifier." else "head.")


def torch_of(name: str, tensor: np.ndarray) -> tuple[str, np.ndarray]:
    """Torch's name and layout of a Flax-style one."""
    stem, _, leaf = name.rpartition(".")
    if leaf == "kernel":
        tensor = tensor.T
    return f"{stem}.{'bias' if leaf == 'bias' else 'weight'}", np.ascontiguousarray(tensor)


def read_tensors(folder: Path) -> Parameters:
    """All tensors of a folder in f32 under our names: safetensors, else msgpack, else what `torch_file` reads of a pickle.

    Raises:
        InputError: no file that can be read, a damaged one, or a shard outside the folder.
    """
    flax = folder / "flax_model.msgpack"
    safe, torch = files(folder, "model.safetensors"), files(folder, "pytorch_model.bin")
    if safe or (torch and not flax.is_file()):
        raw = {name: tensor for file in safe or torch for name, tensor in (safetensors if safe else torch_file.read)(file).items()}
        pairs = [ours(name, tensor) for name, tensor in raw.items() if name not in UNREAD]
    elif flax.is_file():
        try:
            leaves = flatten(serialization.msgpack_restore(flax.read_bytes()))
        except Exception as error:  # noqa: BLE001 (msgpack raises many kinds)
            raise InputError(f"{flax}: not a readable msgpack file ({error})") from None
        pairs = [(canonical(name), tensor) for name, tensor in leaves if name not in UNREAD]
    else:
        raise InputError(f"{folder} holds none of model.safetensors, flax_model.msgpack, pytorch_model.bin, nor an index of shards")
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        raise InputError(f"{folder} holds two tensors, under different names, for each of {', '.join(twice)}")
    return one_bias({name: np.asarray(tensor).astype(np.float32) for name, tensor in pairs}, folder)


def one_bias(tensors: Parameters, folder: Path) -> Parameters:
    """Masked-LM heads as we hold them: no second bias, no decoder that only repeats the word table."""
    table = tensors.get("model.embeddings.word_embeddings.embedding")
    if table is not None and "head.decoder.kernel" in tensors and np.array_equal(tensors["head.decoder.kernel"].T, table):
        del tensors["head.decoder.kernel"]
    second = tensors.pop("head.decoder.bias", None)
    if second is not None and "head.decoder.kernel" in tensors:
        tensors["head.bias"] = second   # an untied decoder adds its own; the other one is not used by transformers
    elif second is not None and not np.array_equal(tensors.setdefault("head.bias", second), second):
        raise InputError(f"{folder}: cls.predictions.bias and cls.predictions.decoder.bias differ")
    return tensors


def safetensors(file: Path) -> dict[str, np.ndarray]:
    """The tensors of a file by name."""
    try:
        with safe_open(file, framework="numpy") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, TypeError) as error:
        raise InputError(f"{file}: not a readable safetensors file ({error})") from None


def files(folder: Path, name: str) -> list[Path]:
    """A file of weights, or the shards its index names, all inside the folder; none where neither is there."""
    index = folder / f"{name}.index.json"
    if (folder / name).is_file() or not index.is_file():
        return [folder / name] if (folder / name).is_file() else []
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError):
        raise InputError(f"{index}: not an index of shards") from None
    for name in names:
        if Path(name).name != name:
            raise InputError(f"{index}: shard {name!r} lies outside the folder")
    return [folder / name for name in names]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Leaves of nested dictionaries under dotted names."""
    return [pair for key, value in tree.items() for pair in
            (flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)])]


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The reverse of `flatten`."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *parts, last = name.split(".")
        node = tree
        for part in parts:
            node = node.setdefault(part, {})
        node[last] = value
    return tree
