"""Our side on a GPU: `python -m bench.gpu_ours TEXTS.npz LENGTH TOKENS MODEL`; then as `bench.serve` says."""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import yaml

from bench import serve
from ecrec_jax import build
from ecrec_jax.data.corpus import Corpus
from ecrec_jax.data.feed import Feed
from ecrec_jax.section import make
from ecrec_jax.types import Example, Facts
from ecrec_jax.use import steps
from ecrec_jax.use.flops import model_flops

CONF = Path(__file__).parent.parent / "conf"
SIZES = {"width": "hidden_size", "depth": "num_hidden_layers", "heads": "num_attention_heads", "feed_forward": "intermediate_size",
         "vocabulary": "vocab_size", "positions": "max_position_embeddings", "dropout": "hidden_dropout_prob",
         "attention_dropout": "attention_probs_dropout_prob"}   # our names: those of a Hugging Face config


def section(noun: str, name: str, **keys: Any) -> dict[str, Any]:
    """A named option of a noun with the options it is a diff of, read without hydra."""
    own = yaml.safe_load((CONF / noun / f"{name}.yaml").read_text(encoding="utf-8"))
    for other in own.pop("defaults", []):
        own = own if other == "_self_" else section(noun, other) | own
    return own | keys


def reviews(length: int) -> Corpus:
    """The shipped review texts."""
    data = make(section("data", "reviews_text", max_length=length), "data", Facts())
    return data.load(str(build.ASSETS / "bert_uncased"), length)


def parts_of(model: str, length: int, tokens: int, examples: list[Example]) -> tuple[build.Parts, Feed]:
    """Masked-LM from scratch in bfloat16, rows of `length` tokens, about `tokens` of them a step."""
    config = {noun: section(noun, name) for noun, name in (("head", "tokens"), ("task", "masked_lm"), ("peft", "full"),
              ("gradient", "plain"), ("optimizer", "adamw"))}
    config |= {"data": section("data", "reviews_text", max_length=128), "strategy": section("strategy", "jit", devices=1),
               "model": section("model", model, dtype="bfloat16"), "seed": 0, "steps": 1000, "epochs": 1}
    parts = build.build(config)
    feed = Feed(examples, parts.task, None)
    feed.shaped(round(tokens * len(examples) / feed.tokens.sum()), length)
    return parts, feed


def main(path: str, length: str, tokens: str, model: str) -> None:
    """Serve steps until standard input ends."""
    with np.load(path, allow_pickle=False) as kept:
        ids, offset = kept["tokens"].astype("i4"), kept["offset"]
    examples = [Example(ids[a:b], np.zeros(b - a, "i4"), 0, i) for i, (a, b) in enumerate(zip(offset, offset[1:], strict=False))]
    parts, feed = parts_of(model, int(length), int(tokens), examples)
    batch, gpu = next(feed.batches(0, 0)), jax.default_backend() == "gpu"
    real = batch["segment"] > 0
    size = 8192 if gpu else 1024
    x, product = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16), jax.jit(jnp.matmul)
    about = {"shape": list(feed.shape), "device": jax.devices()[0].device_kind,
             "sizes": {name: getattr(parts.facts, fact) for fact, name in SIZES.items()},
             "flops_per_token": model_flops(parts, batch) * int(real.any(1).sum()) / int(real.sum())}
    memory = (lambda: jax.devices()[0].memory_stats()["peak_bytes_in_use"] / 1e6) if gpu else None
    serve.serve(steps.trainer(parts, feed), about, lambda: product(x, x).block_until_ready(), size, memory)


if __name__ == "__main__":
    main(*sys.argv[1:])
