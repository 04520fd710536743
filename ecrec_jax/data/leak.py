"""Which rows and texts weights were trained on, so that a test set of another split of the same file is noticed."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt64

from ecrec_jax.data.corpus import Corpus
from ecrec_jax.types import InputError
from ecrec_jax.writing import writing

FILE = "trained_on.npy"   # in a run, and in what is exported from it
ODD = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio, as an odd number


def marks(corpus: Corpus, *splits: str) -> UInt64[np.ndarray, "N K"]:
    """Two marks a row of some splits: of its place in the file with this digest, and of its text wherever it stands. Of histories,
    which are split between their items, one for each item of a user that training reads, or that the split asks for."""
    if corpus.catalogue is not None:
        return had(corpus, splits)[:, None]
    rows = [pair for split in splits for pair in zip(corpus.examples[split], corpus.texts[split], strict=True)]
    return hashed([name for example, text in rows for name in (f"{corpus.digest} {example.index}", text)]).reshape(-1, 2)


def had(corpus: Corpus, splits: Sequence[str]) -> UInt64[np.ndarray, "N"]:
    """A mark of each user and item, by their names: a checkpoint fits a catalogue of its own size alone."""
    asked = lambda example: example.label if example.relevant is None else example.relevant  # noqa: E731
    read = [(example.index, x) for split in splits for example in corpus.examples[split]
            for x in ((example.tokens, example.label) if split == "train" else (asked(example),))]
    user = np.repeat([index for index, _ in read], [np.size(x) for _, x in read]).astype(int)
    item = np.concatenate([np.empty(0, int), *(np.ravel(x) for _, x in read)]).astype(int)
    return hashed(corpus.catalogue.users)[user] * np.uint64(ODD) + hashed(["", *corpus.catalogue.items])[item]


def save(trained_on: UInt64[np.ndarray, "K"], folder: Path) -> None:
    """Keep marks in a run."""
    with writing(folder / FILE) as part, open(part, "wb") as file:
        np.save(file, trained_on)


def known(folder: Path) -> UInt64[np.ndarray, "K"]:
    """The marks that a checkpoint brings along; none where it isn't one of ours.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return np.empty(0, np.uint64)
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: not an array of numbers ({error})") from error
    if found.dtype != np.uint64 or found.ndim != 1:
        raise InputError(f"{path}: not one row of 64-bit marks")
    return found


def seen(texts: Sequence[str], trained_on: UInt64[np.ndarray, "K"]) -> Bool[np.ndarray, "N"]:
    """Which of these texts were trained on, wherever they stood."""
    return np.isin(hashed(texts), trained_on)


def hashed(names: Sequence[str]) -> UInt64[np.ndarray, "N"]:
    """A mark each."""
    raw = b"".join(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest() for name in names)
    return np.frombuffer(raw, np.uint64)


def count(held_out: UInt64[np.ndarray, "N K"], trained_on: UInt64[np.ndarray, "T"], train: UInt64[np.ndarray, "M K"]) -> int:
    """Held-out rows that were trained on before; what stands in this run's own training split too is no news."""
    return int((np.isin(held_out, trained_on) & ~np.isin(held_out, train)).any(1).sum())
