"""A log row by row: what an engine, which reads it whole, doesn't say of it, its header and where it can't be read."""

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from ecrec_jax.types import InputError


def ending(path: Path) -> str:
    """What a file is by its name, whether it is compressed or not: CSV where a compressed one doesn't say."""
    if path.suffix != ".gz":
        return path.suffix
    return path.with_suffix("").suffix if path.with_suffix("").suffix in (".tsv", ".txt", ".jsonl", ".json") else ".csv"


def lines(path: Path) -> Iterator[str]:
    """The lines with their ends.

    Raises:
        InputError: one isn't UTF-8, or the file isn't what its name says.
    """
    number = 0
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            for raw in file:
                for line in re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", raw.decode("utf-8-sig" if not number else "utf-8")):
                    number += 1
                    yield line
    except UnicodeDecodeError:
        raise InputError(f"{path}, line {number + 1}: not UTF-8") from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise InputError(f"{path}: not a whole gzip file") from None


def cells(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(the line it begins on, the cells) of every row of a separated text that isn't empty.

    Raises:
        InputError: as `lines`; quotes that don't match.
    """
    if len(delimiter) > 1:   # which Python's reader doesn't know
        yield from ((number, line.rstrip("\r\n").split(delimiter)) for number, line in enumerate(lines(path), 1) if line.strip())
        return
    csv.field_size_limit(1 << 30)
    quoted = {"quoting": csv.QUOTE_NONE} if ending(path) == ".tsv" else {}
    rows, line = csv.reader(lines(path), delimiter=delimiter, strict=True, **quoted), 1
    try:
        for row in rows:
            if row:
                yield line, row
            line = rows.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}, line {line}: {error}") from None


def header(path: Path, delimiter: str) -> list[str]:
    """The names in the first row; a column without one, as some programs number rows in, is `column` with its number from 0.

    Raises:
        InputError: as `cells`; there is none, or two are one name, whose case engines don't tell apart.
    """
    line, names = next(cells(path, delimiter), (1, None))
    if names is None:
        raise InputError(f"{path}: empty file")
    names = [name or f"column{i}" for i, name in enumerate(names)]
    for i, name in enumerate(names):
        if name.lower() in map(str.lower, names[:i]):
            raise InputError(f"{path}, line {line}: two columns are called {name!r}" +
                             (", but for upper and lower case" if name not in names[:i] else ""))
    return names


def refuse(path: Path, names: Sequence[str] | None, delimiter: str | None) -> None:
    """Say where a log that an engine can't read is wrong: JSON lines, or a separated text whose columns have these `names`, or
    with a header.

    Raises:
        InputError: the first line that can't be used.
    """
    if delimiter is None:
        for number, line in enumerate(lines(path), 1):
            try:
                record = json.loads(line) if line.strip() else {}
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path}, line {number}: not JSON ({getattr(error, 'msg', error)})") from None
            if not isinstance(record, dict):
                raise InputError(f"{path}, line {number}: not a JSON object")
        return
    ends, inside, wanted = set(), False, len(names or header(path, delimiter))
    for number, row in cells(path, delimiter):
        if len(row) != wanted and not (len(delimiter) > 1 and any('"' in x for x in row)):   # whose quotes weren't read
            raise InputError(f"{path}, line {number}: {len(row)} fields, " +
                             (f"names has {wanted}" if names else f"the header has {wanted}"))
    for number, line in enumerate(lines(path), 1):
        inside ^= line.count('"') % 2 > 0 and ending(path) != ".tsv"   # a cell that goes on
        ends |= set() if inside else {line[len(line.rstrip("\r\n")):]}
        if len(ends - {""}) > 1:
            raise InputError(f"{path}, line {number}: lines end in different ways, some with a carriage return: make them one")
