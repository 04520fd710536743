"""What is known of items besides who bought them: a table with a row an item, as `experiments.prepare` writes it."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from ecrec_jax.data import read
from ecrec_jax.data.clean import clean
from ecrec_jax.data.digest import checked
from ecrec_jax.types import InputError


def known(path: Path, items: Sequence[str]) -> tuple[dict[str, Any], dict[str, int]]:
    """(facts of the items: prices and categories, as far as the table has such columns; of how many it doesn't say them).

    Raises:
        InputError: as `prices`; neither column is there.
    """
    table, facts, lacking = read.read(path), {}, {}
    if any(table.columns.get("price", ())) or "category" not in table.columns:   # prepare's price may be empty
        facts["prices"], lacking["items without price"] = prices(table, items)
    if "category" in table.columns:
        kind = dict(zip(read.stripped(table, "item", "data.items"), read.column(table, "category", "data.items"), strict=True))
        number = {name: i for i, name in enumerate(sorted({x for x in kind.values() if x}), 1)}
        found = [number.get(kind.get(item), 0) for item in items]
        facts["categories"], lacking["items without category"] = (0, *found, 0), found.count(0)
    return facts, lacking


def prices(table: read.Table, items: Sequence[str]) -> tuple[tuple[float, ...], int]:
    """(the price of every item and 0 before and after them, how many of them have none, which counts as 0).

    Raises:
        InputError: a column `item` or `price` isn't there, a price is no number or below 0, or no item has one.
    """
    names, cells = (read.stripped(table, name, "data.items") for name in ("item", "price"))
    known: dict[str, float] = {}
    for i, (name, cell) in enumerate(zip(names, cells, strict=True)):
        if not cell:
            continue
        try:
            price = float(cell)
        except ValueError:
            price = math.nan
        if not 0 <= price < math.inf:
            raise InputError(f"{table.where(i)}: price {cell!r} of item {name} is no number of at least 0")
        known[name] = price
    if not any(item in known for item in items):
        raise InputError(f"data.items: {table.path} has no price of any item of data.path")
    return (0.0, *(known.get(item, 0.0) for item in items), 0.0), sum(item not in known for item in items)


def texts(table: read.Table, item: tuple[str, str], columns: tuple[str, Sequence[str]]) -> dict[str, str]:
    """The text of every item of a table, cleaned, its columns one after the other; both as (key that names them, they).

    Raises:
        InputError: a column isn't there, an item has no text or two, a text no item.
    """
    key, names = columns
    if not names:
        raise InputError(f"{key} is empty: name the columns that a text is made of")
    items, counts = read.stripped(table, item[1], item[0]), Counter()
    parts = [[clean(cell, counts) for cell in read.column(table, name, key)] for name in names]
    known: dict[str, tuple[int, str]] = {}
    for i, (item, row) in enumerate(zip(items, zip(*parts, strict=True), strict=True)):
        text = ". ".join(filter(None, row))
        if not item or not text:
            raise InputError(f"{table.where(i)}: " + (f"item {item} has no text: give it one, or leave its events out" if item else
                                                      "a text without item"))
        if known.setdefault(item, (i, text))[0] != i:
            raise InputError(f"{table.where(i)}: item {item} has a text on {table.place[known[item][0]]} already")
    return {item: text for item, (_, text) in known.items()}


def texts_of(path: Path, columns: Sequence[str], items: Sequence[str]) -> list[str]:
    """The texts of these items from a table with a column `item`.

    Raises:
        InputError: as `texts`; an item has none.
    """
    known = texts(read.read(path), ("data.texts", "item"), ("data.text_columns", columns))
    lacking = [item for item in items if item not in known]
    if lacking:
        raise InputError(f"data.texts: {path} has no text of item {lacking[0]!r}" +
                         (f" and {len(lacking) - 1} others" if len(lacking) > 1 else ""))
    return [known[item] for item in items]


def digest(known: str, *paths: Path) -> str:
    """Of data with this digest and these files more."""
    for path in paths:
        known = hashlib.sha256(f"{known} {hashlib.sha256(path.read_bytes()).hexdigest()}".encode()).hexdigest()
    return known


def attributes(path: Path, sha256: str | None, items: Sequence[str], trained: Int[np.ndarray, "n"]) -> dict[str, Any]:
    """The facts `attributes`, the numbers of every item's attributes and none before and after them, and `attribute_names`, what
    they are called, from a JSON file {item: [attribute, …]}; an item that isn't there has none. And `history_items`, all that is
    `trained` on.

    Raises:
        InputError: it is another file than `sha256` says, not such a file, or no item has one.
    """
    content = path.read_bytes()
    checked(path, content, sha256, "data.attributes_sha256")
    try:
        known = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"data.attributes: {path} is not JSON ({error})") from None
    if not isinstance(known, dict):
        raise InputError(f"data.attributes: {path} is not a JSON object of items")
    for item, found in known.items():
        if not isinstance(found, list) or not all(isinstance(x, str | int) and not isinstance(x, bool) for x in found):
            raise InputError(f"data.attributes: {path}, item {item!r}: not a list of texts or whole numbers")
    mine = [list(dict.fromkeys(str(x) for x in known.get(item, ()))) for item in items]   # some files say one twice
    names = list(dict.fromkeys(x for found in mine for x in found))
    if not names:
        raise InputError(f"data.attributes: {path} has no attribute of any item of data.path")
    number = {name: i for i, name in enumerate(names)}
    return {"attributes": ((), *(tuple(number[x] for x in found) for found in mine), ()), "attribute_names": tuple(names),
            "history_items": tuple(trained.tolist())}
