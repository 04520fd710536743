"""Changed copies of the training texts, made once, before they become tokens."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from ecrec_jax.data import tokenise
from ecrec_jax.data.corpus import Corpus
from ecrec_jax.data.text import Text
from ecrec_jax.section import arguments, make, target
from ecrec_jax.types import Augment, Facts, InputError

COPIES = "copies"   # what of a data report is about them
CHUNK = 64          # texts that a slow transform keeps on disk together

Seed = tuple[int, ...]


def transforms(data: Text) -> dict[str, Augment]:
    """What `data.augment` names, in order; what of it the data knows itself is filled in."""
    made = {}
    for name, node in data.augment.items():
        key = f"data.augment.{name}"
        given = {"root": data.root, "segmenter": data.segmenter}
        made[name] = make(node, key, Facts(), **{k: x for k, x in given.items() if k in arguments(target(node, key))})
    return made


def add(corpus: Corpus, data: Text, tokenizer: str, max_length: int, seed: int) -> Corpus:
    """The corpus with `data.copies` copies of each training text after its training rows, with the original's target and
    row number, each changed by all transforms in turn. Other splits stay as they are.

    What transform t draws for copy c of row r depends on (seed, r, c, t) alone.

    Raises:
        InputError: a transform can't be made, or can't do its work.
    """
    rows = [(c, example, text) for c in range(data.copies)
            for example, text in zip(corpus.examples["train"], corpus.texts["train"], strict=True)]
    texts, changed = [text for _, _, text in rows], {}
    for number, (name, transform) in enumerate(transforms(data).items(), 1):   # from 1: 0 would be the masks' stream
        before = texts
        try:
            texts = apply(transform, name, before, [(seed, example.index, c, number) for c, example, _ in rows])
        except InputError as error:
            raise InputError(f"data.augment.{name}: {error}") from error
        changed[name] = sum(a != b for a, b in zip(before, texts, strict=True))
    ragged = tokenise.tokenise(tokenizer, texts, None, max_length, data.segmenter)
    examples = [ragged.example(i, e.label)._replace(index=e.index) for i, (_, e, _) in enumerate(rows)]
    digest = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()
    report = {"rows": len(rows), "changed by": changed, "truncated": int(ragged.truncated.sum()), "sha256": digest}
    grown = lambda splits, more: splits | {"train": splits["train"] + more}  # noqa: E731
    return dataclasses.replace(corpus, examples=grown(corpus.examples, examples), texts=grown(corpus.texts, texts),
                               report=corpus.report | {COPIES: report})


def apply(transform: Augment, name: str, texts: list[str], seeds: list[Seed]) -> list[str]:
    """The changed texts; those of a slow transform are kept on disk in parts, so that a stop loses little."""
    if not transform.mark:
        return transform(texts, [np.random.default_rng(seed) for seed in seeds])
    found: list[str] = []
    for start in tqdm(range(0, len(texts), CHUNK), name, unit=f"×{CHUNK} texts", leave=False, disable=None):
        found += kept(transform, name, texts[start : start + CHUNK], seeds[start : start + CHUNK])
    return found


def kept(transform: Augment, name: str, texts: Sequence[str], seeds: Sequence[Seed]) -> list[str]:
    """A part of the texts, from disk or to disk."""
    about: Any = [type(transform).__name__, transform.mark, texts, seeds]
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]
    path = tokenise.cache_folder() / "augment" / f"{name}-{key}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):   # absent or damaged: made again
        pass
    found = transform(texts, [np.random.default_rng(seed) for seed in seeds])
    tokenise.keep(path, lambda file: file.write(json.dumps(found).encode()))
    return found
