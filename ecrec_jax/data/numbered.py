"""Whether the numbers that a checkpoint knows things by stand for the same in the data that it is to be trained on."""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ecrec_jax.data.corpus import Corpus
from ecrec_jax.types import InputError

FIELDS = "fields.json"   # of a run: what it knows of columns


def agree(folder: Path, vocabulary: int | None, kinds: Sequence[str] | None, corpus: Corpus, by_text: bool) -> None:
    """Items, which a checkpoint knows by number unless `by_text` alone, its `kinds` of events, and values of columns.

    Raises:
        InputError: they stand for something else.
    """
    if corpus.catalogue is not None:
        items(folder, vocabulary, corpus.catalogue.items, by_text)
        events = corpus.facts.get("events") or ()
        if kinds and tuple(kinds) != tuple(events):
            raise InputError(f"model.checkpoint: the types of events of {folder} are {', '.join(kinds)}, of the data "
                             f"{', '.join(events) or 'none'}: give the same events in the same order")
    if corpus.fields is not None and (folder / FIELDS).is_file():
        columns(folder, json.loads((folder / FIELDS).read_text(encoding="utf-8"))["columns"], corpus.fields["columns"])


def items(folder: Path, vocabulary: int | None, mine: Sequence[str], by_text: bool) -> None:
    """As many, and unless `by_text` the same ones.

    Raises:
        InputError: they aren't.
    """
    if vocabulary is not None and vocabulary != len(mine) + 2:
        raise InputError(f"model.checkpoint knows {vocabulary - 2} items, the data has {len(mine)}")
    path = folder / "items.txt"
    theirs = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() and not by_text else mine
    for number, (their, own) in enumerate(itertools.zip_longest(theirs, mine), 1):
        if their != own:
            raise InputError(f"model.checkpoint: item {number} of {folder} is {their!r}, of the data {own!r}: items are numbered "
                             "as they come, so give the same events in the same order")


def columns(folder: Path, theirs: Mapping[str, Mapping[str, Any]], mine: Mapping[str, Mapping[str, Any]]) -> None:
    """The same columns in the same order, of the same kinds and values.

    Raises:
        InputError: they aren't.
    """
    if list(theirs) != list(mine):
        raise InputError(f"model.checkpoint: the fields of {folder} are {', '.join(theirs)}, of the data {', '.join(mine)}: give "
                         "data.fields and what is made of the rows before in the same order")
    for name, column in mine.items():
        for key in ("kind", "values"):
            if list(theirs[name][key]) != list(column[key]):
                raise InputError(f"model.checkpoint: {name} has other {key if key == 'values' else 'cells'} in {folder} than in "
                                 "the data, and weights are of values by their numbers: give the same log")
