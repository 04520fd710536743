"""Token ids of texts, and which tokens are pieces of one word, made once and kept on disk."""

import contextlib
import hashlib
import importlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from ecrec_jax.types import Example, InputError

FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json", "added_tokens.json")


class Ragged(NamedTuple):
    """Token ids, types and words (as in `Example`) of many texts, end to end; text i is [offset[i], offset[i + 1])."""

    tokens: np.ndarray
    type: np.ndarray
    word: np.ndarray
    offset: np.ndarray
    truncated: np.ndarray

    def __getitem__(self, i: Any) -> tuple[np.ndarray, np.ndarray]:
        part = slice(self.offset[i], self.offset[i + 1])
        return self.tokens[part], self.type[part]

    def example(self, i: int, label: Any) -> Example:
        """Text i with its target."""
        return Example(*self[i], label, i, self.word[self.offset[i] : self.offset[i + 1]])


def cache_folder() -> Path:
    """Where derived files are kept: `ECREC_CACHE`, or the user's cache folder."""
    return Path(os.environ.get("ECREC_CACHE") or Path.home() / ".cache" / "ecrec_jax")


def load(folder: str) -> Any:
    """The tokenizer of a folder (Hugging Face files), nothing fetched, no code of the folder run.

    Raises:
        InputError: the folder holds no tokenizer, or one without special tokens.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")   # it would miss torch aloud
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import AutoTokenizer

    if not any((Path(folder) / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        raise InputError(f"{folder} holds no tokenizer.json or vocab.txt; name a folder that does with data.tokenizer")
    if not any((Path(folder) / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "config.json")):
        raise InputError(f"{folder}: vocab.txt alone doesn't say how texts are cut and whether they are lower-cased; put a "
                         'tokenizer_config.json beside it, for BERT: {"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    try:
        found = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001 (whatever the library raises, the user needs one sentence)
        raise InputError(f"{folder}: the tokenizer can't be loaded ({str(error).splitlines()[0]})") from error
    if len(found) <= 5:   # a vocabulary that was silently not found
        raise InputError(f"{folder}: the tokenizer has only {len(found)} tokens; its vocabulary was not found")
    return found


def facts(folder: str) -> dict[str, Any]:
    """Ids and size of a tokenizer, kept on disk: to load one takes longer than a small run's start may.

    Raises:
        InputError: as `load`; or it lacks a special token of BERT's.
    """
    path = cache_folder() / "tokenizers" / f"{files(folder, (*FILES, 'config.json')).hexdigest()[:32]}.json"
    try:
        kept = json.loads(path.read_text())
        return kept | {"special_ids": tuple(kept["special_ids"])}
    except Exception:  # noqa: BLE001, S110 (absent or damaged in whatever way: made again)
        pass
    found = load(folder)
    special = {f"{name}_id": getattr(found, f"{name}_token_id") for name in ("pad", "cls", "sep", "mask")}
    missing = [name for name, value in special.items() if value is None]
    if missing or special["pad_id"] != 0:
        raise InputError(f"{folder}: the tokenizer must have pad (id 0), cls, sep and mask tokens, as BERT's; found {special}")
    made = special | {"vocabulary": len(found), "special_ids": tuple(sorted(found.all_special_ids))}
    keep(path, lambda file: file.write(json.dumps(made).encode()))
    return made


def files(folder: str, names: Sequence[str] = FILES) -> Any:
    """A hash, to go on with, of a tokenizer's files."""
    mark = hashlib.sha256()
    for name in names:
        path = Path(folder) / name
        mark.update(path.read_bytes() if path.is_file() else b"-")
    return mark


def digest(folder: str, first: list[str], second: list[str] | None, max_length: int, segmenter: str | None) -> str:
    """A name for the result: depends on texts, tokenizer files, length and segmenter."""
    mark = files(folder)
    mark.update(f"3 {max_length} {second is not None} {segmenter}".encode())
    for texts in (first, second or []):
        for text in texts:
            mark.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return mark.hexdigest()[:32]


def cutter(segmenter: str | None) -> Callable[[str], list[str]] | None:
    """What cuts a text into words, for languages that write none.

    Raises:
        InputError: it is not installed.
    """
    if segmenter is None:
        return None
    try:
        module = importlib.import_module(segmenter)
    except ImportError:
        raise InputError(f"data.segmenter: {segmenter} is not installed; pip install -e '.[chinese]'") from None
    logging.getLogger(segmenter).setLevel(logging.WARNING)   # it would tell of its dictionary
    return module.lcut


def words(encoded: Any, texts: Sequence[str], cut: Callable[[str], list[str]] | None) -> list[int]:
    """The word of every token of an encoded text or pair: the tokenizer's (what white space, punctuation and CJK characters
    part), or else those that `cut` finds, which never part the tokenizer's."""
    where = [np.repeat(np.arange(len(parts)), np.array([*map(len, parts)], int)) for parts in map(cut, texts)] if cut else None
    found, number, last = [], -1, None
    for text, word, span in zip(encoded.sequence_ids, encoded.word_ids, encoded.offsets, strict=True):
        if word is None:   # [CLS], [SEP]
            found.append(-1)
            continue
        places = (text, word), (text, where[text][span[0]]) if where else None
        if last is None or (places[0] != last[0] and (places[1] is None or places[1] != last[1])):
            number += 1
        found.append(number)
        last = places
    return found


def tokenise(folder: str, first: list[str], second: list[str] | None, max_length: int, segmenter: str | None = None) -> Ragged:
    """Ids with special tokens, truncated to `max_length` (the longer of a pair first), cached on disk."""
    path = cache_folder() / "tokens" / f"{digest(folder, first, second, max_length, segmenter)}.npz"
    try:
        with np.load(path, allow_pickle=False) as kept:
            return Ragged(*(kept[name] for name in Ragged._fields))
    except Exception:  # noqa: BLE001, S110 (absent or damaged in whatever way: made again)
        pass
    tokenizer = load(folder)
    encoded = tokenizer(first, second, add_special_tokens=True, truncation="longest_first", max_length=max_length,
                        return_token_type_ids=True, return_attention_mask=False, return_overflowing_tokens=False)
    ids = encoded["input_ids"]
    if not encoded.encodings:
        raise InputError(f"{folder}: the tokenizer is a slow one, which doesn't say what a word is; save it as tokenizer.json")
    over = [bool(e.overflowing) for e in encoded.encodings]
    cut, pairs = cutter(segmenter), zip(*filter(None, (first, second)), strict=True)
    word = [words(e, texts, cut) for e, texts in zip(encoded.encodings, pairs, strict=True)]
    offset = np.concatenate([[0], np.cumsum([len(x) for x in ids])]).astype("i8")
    join = lambda parts: np.fromiter((t for part in parts for t in part), "i4", int(offset[-1]))  # noqa: E731
    found = Ragged(join(ids), join(encoded["token_type_ids"]), join(word), offset, np.array(over))
    keep(path, lambda file: np.savez(file, **found._asdict()))
    return found


def keep(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Put a file into the cache, whole or not at all: a full or read-only disk costs time, not the run."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file, contextlib.ExitStack() as undo:
            undo.callback(Path(file.name).unlink, missing_ok=True)
            write(file)
            file.flush()
            os.replace(file.name, path)
    except OSError:
        pass
