"""What files of each format hold: columns of texts, and where each row stands."""

import contextlib
import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecrec_jax.types import InputError


def text_of(value: Any) -> str | None:
    """A cell as text; whole floats lose their '.0', so that 1 and 1.0 are one label."""
    if value is None or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, int | float | list | dict) else str(value)


def parts_of(cell: str | None, separator: str) -> list[str]:
    """What a cell lists: the values of an array, as JSON lines and Parquet have them, or what the separator parts; stripped."""
    cell = (cell or "").strip()
    if cell.startswith("["):
        with contextlib.suppress(ValueError):
            found = json.loads(cell)
            return [(text_of(x) or "").strip() for x in found]
    return [part.strip() for part in cell.split(separator)]


def lines(path: Path, text: str, pattern: str) -> tuple[dict[str, list[str | None]], list[str]]:
    """One row a line that isn't empty; the named groups of a regular expression, which must fit the whole line, are columns."""
    fits, rows, place = re.compile(pattern), [], []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if not line.strip():
            continue
        found = fits.fullmatch(line)
        if found is None:
            raise InputError(f"{path}, line {number}: data.pattern doesn't fit {line[:40]!r}{'…' if len(line) > 40 else ''}")
        rows.append(found.groupdict())
        place.append(f"line {number}")
    return {name: [row[name] for row in rows] for name in fits.groupindex}, place


def separated(path: Path, text: str) -> tuple[dict[str, list[str | None]], list[str]]:
    """CSV or TSV with a header line and quoted fields."""
    tabs = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if path.suffix == ".tsv" else {}
    rows = csv.reader(io.StringIO(text, newline=""), strict=True, **tabs)
    csv.field_size_limit(1 << 30)
    names, cells, place, line = None, [], [], 1
    try:
        for row in rows:
            if names is None:
                names = row
                if len(set(names)) < len(names):
                    twice = next(name for name in names if names.count(name) > 1)
                    raise InputError(f"{path}, line {line}: two columns are called {twice!r}")
            elif row:
                if len(row) != len(names):
                    raise InputError(f"{path}, line {line}: {len(row)} fields, the header has {len(names)}")
                cells.append(row)
                place.append(f"line {line}")
            line = rows.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}, line {line}: {error}") from None
    if names is None:
        raise InputError(f"{path}: empty file")
    return {name: [row[i] for row in cells] for i, name in enumerate(names)}, place


def json_lines(path: Path, content: str) -> tuple[dict[str, list[str | None]], list[str]]:
    """One JSON object a line."""
    records, place = [], []
    for line, text in enumerate(content.split("\n"), 1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, line {line}: not JSON ({getattr(error, 'msg', error)})") from None
        if not isinstance(record, dict):
            raise InputError(f"{path}, line {line}: not a JSON object")
        records.append(record)
        place.append(f"line {line}")
    names = list(dict.fromkeys(name for record in records for name in record))
    return {name: [text_of(record.get(name)) for record in records] for name in names}, place


def parquet(path: Path, content: bytes) -> tuple[dict[str, list[str | None]], list[str]]:
    """Parquet."""
    try:
        table = pq.read_table(io.BytesIO(content))
        return {name: cells(table[name]) for name in table.column_names}, [f"row {i + 1}" for i in range(table.num_rows)]
    except pa.ArrowException as error:
        raise InputError(f"{path}: not a Parquet file of texts and numbers ({str(error).splitlines()[0]})") from None


def cells(column: pa.ChunkedArray) -> list[str | None]:
    """The cells of a column as text, each distinct one converted once where the type allows."""
    if pa.types.is_nested(column.type) or pa.types.is_null(column.type) or pa.types.is_dictionary(column.type):
        return [text_of(x) for x in column.to_pylist()]
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):   # as some writers leave texts
        column = column.cast(pa.string())
    found = column.combine_chunks().dictionary_encode()
    try:
        distinct = found.dictionary.to_pylist()
    except (OverflowError, ValueError):   # a moment that Python has no words for
        distinct = found.dictionary.cast(pa.string()).to_pylist()
    known = [*map(text_of, distinct), None]
    return [known[i] for i in found.indices.fill_null(len(known) - 1).to_pylist()]
