"""The files that a data section names, as one table: a single file, or one a split."""

import hashlib
import io
import re
from collections.abc import Mapping
from pathlib import Path

from ecrec_jax.data.read import Table, locate, read, stripped
from ecrec_jax.data.split import SPLITS
from ecrec_jax.types import InputError

Files = str | dict[str, str]   # one, or {split: one}


def check(path: Files | None, sha256: Files | None, split_column: str | None, pattern: str | None, encoding: str,
          section: str = "data") -> None:
    """Whether the keys of a `section` about files make sense.

    Raises:
        InputError: the first that doesn't.
    """
    for key, given in (("path", path), ("sha256", sha256)):
        for name, value in given.items() if isinstance(given, dict) else ():
            if name not in SPLITS or not isinstance(value, str):
                raise InputError(f"data.{key}: {name}: {value} is not a split and a text; splits are {', '.join(SPLITS)}")
    parted = isinstance(path, dict)
    if parted and "train" not in path:
        raise InputError("data.path has no file for the split train")
    if parted and split_column is not None:
        raise InputError(f"data.split_column is {split_column!r}, but data.path has a file for each split: set one of them to null")
    if sha256 is not None and (isinstance(sha256, dict) != parted or (parted and not set(sha256) <= set(path))):
        raise InputError("data.sha256 must name the splits that data.path names, if it names any; null: don't compare")
    try:
        io.TextIOWrapper(io.BytesIO(), encoding)
    except LookupError:
        raise InputError(f"{section}.encoding: {encoding!r} is no encoding of texts that Python knows") from None
    try:
        named = pattern is None or re.compile(pattern).groupindex
    except re.error as error:
        raise InputError(f"{section}.pattern: {pattern!r} is not a regular expression ({error})") from None
    if not named:
        raise InputError(f"{section}.pattern: {pattern!r} has no named group such as (?P<text>.*), so there would be no column")


def located(path: Files, root: str, source: str | None, sha256: Files | None = None, key: str = "data.path") -> dict[str, Path]:
    """{split: its file}; a single file, whose rows are of all splits, is under the empty name.

    Raises:
        InputError: one isn't there; ends with what `source` says of where to get it, and its `sha256`.
    """
    named = path if isinstance(path, Mapping) else {"": path}
    digest = lambda split: sha256.get(split) if isinstance(sha256, Mapping) else sha256  # noqa: E731
    return {split: here(named[split], root, key, source, digest(split)) for split in ("", *SPLITS) if split in named}


def here(name: str, root: str, key: str, source: str | None, sha256: str | None) -> Path:
    """A file.

    Raises:
        InputError: it isn't there; ends with what `source` says of where to get it, and its `sha256`.
    """
    try:
        return locate(name, root, key)
    except InputError as error:
        raise InputError("; ".join(filter(None, (str(error), source, sha256 and f"its sha256 is {sha256}")))) from None


def table(files: Mapping[str, Path], sha256: Files | None, pattern: str | None, encoding: str) -> Table:
    """One table of all files, the rows in the order train, valid, test.

    Raises:
        InputError: a file that can't be read, is another one than `sha256` says, or has other columns than the first.
    """
    digests = sha256 if isinstance(sha256, dict) else dict.fromkeys(files, sha256)
    parts = {split: read(file, pattern, encoding, digests.get(split)) for split, file in files.items()}
    first = next(iter(parts.values()))
    if "" in parts:
        return first
    for part in parts.values():
        differ = sorted(set(part.columns) ^ set(first.columns))
        if differ:
            raise InputError(f"{part.path}: column {differ[0]!r} is in this file or in {first.path}, but not in both")
    columns = {name: [cell for part in parts.values() for cell in part.columns[name]] for name in first.columns}
    digest = hashlib.sha256("".join(f"{split} {part.digest}\n" for split, part in parts.items()).encode()).hexdigest()
    return Table(columns, [place for part in parts.values() for place in part.place], first.path, digest,
                 [part.path for part in parts.values() for _ in part.place],
                 [split for split, part in parts.items() for _ in part.place])


def join(table: Table, others: Mapping[str, Mapping[str, str]], root: str, encoding: str, source: str | None
         ) -> tuple[dict[str, list[str | None]], str]:
    """(all columns: of `others` {name: {path, key, pattern, sha256}} those of the row with the same `key`, or nothing; the digest
    of all files).

    Raises:
        InputError: a file that can't be read, a column that is in two, a key that stands twice.
    """
    columns, digests = dict(table.columns), [table.digest]
    for name, given in others.items():
        what = f"data.tables.{name}"
        path = here(given["path"], root, f"{what}.path", source, given.get("sha256"))
        other = read(path, given.get("pattern"), encoding, given.get("sha256"))
        digests.append(other.digest)
        place: dict[str | None, int] = {}
        for i, cell in enumerate(stripped(other, given["key"], f"{what}.key")):
            if place.setdefault(cell, i) != i:
                raise InputError(f"{other.where(i)}: {given['key']} {cell!r} stands at {other.where(place[cell])} already")
        at = [place.get(cell) for cell in stripped(table, given["key"], f"{what}.key")]
        for title, cells in other.columns.items():
            if title != given["key"] and title in columns:
                raise InputError(f"{other.path}: its column {title!r} is in another file too")
            if title != given["key"]:
                columns[title] = [None if i is None else cells[i] for i in at]
    return columns, hashlib.sha256("\n".join(digests).encode()).hexdigest() if len(digests) > 1 else digests[0]
