"""Tables from files: CSV, TSV, JSON lines, Parquet, lines of a pattern. Every complaint names the file and the line."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ecrec_jax.data import parse
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

    def some(self, rows: Sequence[int]) -> "Table":
        """These rows of it."""
        of = lambda cells: cells and [cells[i] for i in rows]  # noqa: E731
        return self._replace(columns={name: of(cells) for name, cells in self.columns.items()}, place=of(self.place),
                             files=of(self.files), split=of(self.split))

    def cell(self, column: str) -> Callable[[int], str]:
        """Where a row's cell of a column stands."""
        return lambda i: f"{self.where(i)}: {column}"


def locate(path: str, root: str, key: str) -> Path:
    """A file named absolutely, under the working folder, under `root`, or as `package:PACKAGE/sub/file`.

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


def read(path: Path, pattern: str | None = None, encoding: str = "utf-8", sha256: str | None = None) -> Table:
    """Read a table; the ending of its name says how, or the `pattern` of a line.

    Raises:
        InputError: another digest than `sha256`, an unknown ending, text of another encoding, a row with too many or too few
            fields, a line that the pattern doesn't fit, no rows.
    """
    content = path.read_bytes()
    digest = checked(path, content, sha256)
    readers = {".csv": parse.separated, ".tsv": parse.separated, ".jsonl": parse.json_lines, ".json": parse.json_lines}
    if pattern is not None:
        columns, place = parse.lines(path, decode(path, content, encoding), pattern)
    elif path.suffix == ".parquet":
        columns, place = parse.parquet(path, content)
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


def stripped(table: Table, name: str, key: str) -> list[str]:
    """One column of names, without white space around them."""
    return [(cell or "").strip() for cell in column(table, name, key)]


def column(table: Table, name: str, key: str) -> list[str | None]:
    """One column.

    Raises:
        InputError: the table has none of that name.
    """
    if name not in table.columns:
        raise InputError(f"{key}: {table.path} has no column {name!r}; it has {', '.join(map(repr, table.columns))}")
    return table.columns[name]
