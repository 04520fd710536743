"""Tables from files: CSV, TSV, JSON lines, Parquet, lines of a pattern. Every complaint names the file and the line."""

import csv
import importlib.util
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ecrec_jax.data.digest import checked
from ecrec_jax.types import InputError


class Table(NamedTuple):
    """Columns of text (None = absent), and where each row stands in its file."""

    columns: dict[str, list[str | None]]
    place: list[str]     # "line 7" or "row 7"
    path: Path
    digest: str          # sha256 of the file
    files: list[Path] | None = None   # of each row, where there are several
    split: list[str] | None = None    # of each row, where its file says it

    def where(self, i: int) -> str:
        """File and line of a row."""
        return f"{self.files[i] if self.files else self.path}, {self.place[i]}"

    def cell(self, column: str) -> Callable[[int], str]:
        """Where a row's cell of a column stands."""
        return lambda i: f"{self.where(i)}: {column}"


def locate(path: str, root: str, key: str) -> Path:
    """A file named absolutely, under `root`, under the working folder, or as `package:PACKAGE/sub/file`.

    Raises:
        InputError: there is no such file, or it would lie outside its package.
    """
    if path.startswith("package:"):
        found = inside_package(path.removeprefix("package:"), key)
        if found.is_file():
            return found
        raise InputError(f"{key}: {found} is no file")
    tried = [Path(path), Path(root) / path]
    for candidate in tried:
        if candidate.is_file():
            return candidate
    raise InputError(f"{key}: no file at {' or '.join(str(t) for t in dict.fromkeys(tried))}")


def inside_package(reference: str, key: str) -> Path:
    """The path of `PACKAGE/sub/file` of an installed Python package, found without importing it."""
    package, _, rest = reference.partition("/")
    if ".." in Path(rest).parts or Path(rest).is_absolute():
        raise InputError(f"{key}: package:{reference} leaves its package")
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise InputError(f"{key}: the Python package {package!r} of package:{reference} is not installed")
    path = Path(next(iter(found.submodule_search_locations))) / rest
    if not path.exists():
        raise InputError(f"{key}: {path} does not exist")
    return path


def text_of(value: Any) -> str | None:
    """A cell as text; whole floats lose their '.0', so that 1 and 1.0 are one label."""
    if value is None or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, int | float | list | dict) else str(value)


def read(path: Path, pattern: str | None = None, encoding: str = "utf-8", sha256: str | None = None) -> Table:
    """Read a table; the ending of its name says how, or the `pattern` of a line.

    Raises:
        InputError: another digest than `sha256`, an unknown ending, text of another encoding, a row with too many or too few
            fields, a line that the pattern doesn't fit, no rows.
    """
    content = path.read_bytes()
    digest = checked(path, content, sha256)
    readers = {".csv": read_csv, ".tsv": read_csv, ".jsonl": read_json, ".json": read_json}
    if pattern is not None:
        columns, place = read_lines(path, decode(path, content, encoding), pattern)
    elif path.suffix == ".parquet":
        columns, place = read_parquet(path, content)
    elif path.suffix in readers:
        columns, place = readers[path.suffix](path, decode(path, content, encoding))
    else:
        raise InputError(f"{path}: unknown ending {path.suffix!r}; known are {', '.join(readers)}, .parquet, and any with "
                         "data.pattern")
    if not place:
        raise InputError(f"{path}: no rows")
    return Table(columns, place, path, digest)


def decode(path: Path, content: bytes, encoding: str = "utf-8") -> str:
    """A file's text; UTF-8 with or without a byte-order mark."""
    try:
        return content.decode("utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding)
    except UnicodeDecodeError as error:
        before, byte = error.object[: error.start], error.object[error.start]   # its bytes: without the mark
        raise InputError(f"{path}, line {before.count(10) + 1}: not {encoding.upper()} (byte {byte:#04x}); convert the file first, "
                         "or name its data.encoding") from None


def read_lines(path: Path, text: str, pattern: str) -> tuple[dict[str, list[str | None]], list[str]]:
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


def read_csv(path: Path, text: str) -> tuple[dict[str, list[str | None]], list[str]]:
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


def read_json(path: Path, content: str) -> tuple[dict[str, list[str | None]], list[str]]:
    """One JSON object a line."""
    records, place = [], []
    for line, text in enumerate(content.split("\n"), 1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {line}: not JSON ({error.msg})") from None
        if not isinstance(record, dict):
            raise InputError(f"{path}, line {line}: not a JSON object")
        records.append(record)
        place.append(f"line {line}")
    names = list(dict.fromkeys(name for record in records for name in record))
    return {name: [text_of(record.get(name)) for record in records] for name in names}, place


def read_parquet(path: Path, content: bytes) -> tuple[dict[str, list[str | None]], list[str]]:
    """Parquet."""
    try:
        table = pq.read_table(io.BytesIO(content))
    except pa.ArrowException as error:
        raise InputError(f"{path}: not a Parquet file ({str(error).splitlines()[0]})") from None
    return ({name: cells(table[name]) for name in table.column_names}, [f"row {i + 1}" for i in range(table.num_rows)])


def cells(column: pa.ChunkedArray) -> list[str | None]:
    """The cells of a column as text, each distinct one converted once where the type allows."""
    if pa.types.is_nested(column.type) or pa.types.is_null(column.type) or pa.types.is_dictionary(column.type):
        return [text_of(x) for x in column.to_pylist()]
    found = column.combine_chunks().dictionary_encode()
    known = [*map(text_of, found.dictionary.to_pylist()), None]
    return [known[i] for i in found.indices.fill_null(len(known) - 1).to_pylist()]


def column(table: Table, name: str, key: str) -> list[str | None]:
    """One column.

    Raises:
        InputError: the table has none of that name.
    """
    if name not in table.columns:
        raise InputError(f"{key}: {table.path} has no column {name!r}; it has {', '.join(map(repr, table.columns))}")
    return table.columns[name]
