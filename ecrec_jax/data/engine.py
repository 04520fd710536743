"""What computes the expressions of data/prepare.py: DuckDB in this process, or Spark in its local mode."""

import glob
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ecrec_jax.data import rows
from ecrec_jax.types import InputError

ROW = "number of the row"   # a column of what is read, growing with the rows
TEXTS = (".csv", ".tsv", ".txt")


def started(name: str, memory: str, threads: int | None, folder: Path) -> "Duckdb | Spark":
    """An engine with at most `memory` that writes what doesn't fit, and nothing else, below `folder`.

    Raises:
        InputError: no engine of that name; it isn't installed or can't be started.
    """
    if name not in ("duckdb", "pyspark"):
        raise InputError(f"engine is {name!r}, must be duckdb or pyspark")
    if threads is not None and threads < 1:
        raise InputError(f"threads is {threads}, must be at least 1")
    return (Duckdb if name == "duckdb" else Spark)(memory, threads, folder)


class Duckdb:
    """DuckDB, embedded."""

    def __init__(self, memory: str, threads: int | None, folder: Path):
        try:
            import duckdb
            import ibis
        except ImportError:
            raise InputError("preparing data needs Ibis and DuckDB: pip install -e '.[prepare]'") from None
        self.errors, self.made = (duckdb.Error,), 0
        more = {"threads": threads} if threads else {}
        try:
            self.ibis = ibis.duckdb.connect(memory_limit=memory, temp_directory=str(folder / "spill"), **more)
        except duckdb.Error as error:
            raise InputError(f"memory is {memory!r}: {str(error).splitlines()[0]}") from None
        self.ibis.raw_sql("SET TimeZone = 'UTC'")

    def read(self, path: Path, names: list[str] | None, delimiter: str | None) -> Any:
        """The log and `ROW`; `names` are its columns where the file has no header."""
        import ibis

        name, more = glob.escape(str(path)), {"hive_partitioning": False}   # this file, and its own columns
        if path.suffix == ".parquet":
            table = self.ibis.read_parquet(name, binary_as_string=True, **more)
        elif between(path, names, delimiter) is None:   # cells as they are written: dates and numbers are ours to find
            more |= {"format": "newline_delimited"}
            columns = self.ibis.read_json(name, sample_size=-1, **more).columns
            if columns == ("json",):   # what it calls rows that aren't all objects
                rows.refuse(path, None, None)
            table = self.ibis.read_json(name, columns=dict.fromkeys(columns, "VARCHAR"), **more)
        else:   # nothing is left to be guessed, such as that lines beginning with # are comments
            mark, sign = between(path, names, delimiter), quote(path)
            columns = dict.fromkeys(names or rows.header(path, mark), "VARCHAR")
            table = self.ibis.read_csv(name, auto_detect=False, columns=columns, header=not names, delim=mark, quote=sign,
                                       escape=sign, **more)
        return table.mutate(**{ROW: ibis.row_number()})

    def found(self, path: Path) -> Any:
        """A Parquet file of ours."""
        return self.ibis.read_parquet(glob.escape(str(path)), hive_partitioning=False)

    def keep(self, table: Any) -> Any:
        """The same table, computed."""
        self.made += 1
        return self.ibis.create_table(f"step_{self.made}", table, temp=True)

    def write(self, table: Any, path: Path) -> None:
        """One Parquet file with the rows in order."""
        table.to_parquet(path, compression="zstd")

    def close(self) -> None:
        """End it."""
        self.ibis.disconnect()


class Spark:
    """Spark in its local mode; its tables are kept as Parquet files below the folder."""

    def __init__(self, memory: str, threads: int | None, folder: Path):
        try:
            import ibis
            from py4j.protocol import Py4JJavaError
            from pyspark.errors import PySparkException
            from pyspark.sql import SparkSession
        except ImportError:
            raise InputError("engine=pyspark needs Ibis, PySpark and Java: pip install -e '.[spark]'") from None
        size = re.fullmatch(r"(\d+) ?([kmgt])i?b", memory.lower())
        if size is None:
            raise InputError(f"memory is {memory!r}, must be a size like 4GB")
        self.plain = tempfile.TemporaryDirectory()   # readers of texts take brackets in a path for a pattern, however escaped
        self.errors, self.folder, self.made = (PySparkException, Py4JJavaError), folder / "spill", 0
        said = {"spark.driver.memory": size[1] + size[2], "spark.local.dir": str(self.folder), "spark.ui.enabled": "false",
                "spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1",   # nobody else's business
                "spark.sql.shuffle.partitions": "16", "spark.ui.showConsoleProgress": "false",
                "spark.sql.parquet.binaryAsString": "true",   # as some writers leave texts
                "spark.sql.warehouse.dir": str(self.folder / "warehouse")}
        try:
            self.session = SparkSession.builder.master(f"local[{threads or '*'}]").config(map=said).getOrCreate()
        except self.errors as error:
            raise InputError(f"engine=pyspark: Spark can't be started, is Java there? ({str(error).splitlines()[0]})") from None
        self.session.sparkContext.setLogLevel("OFF")
        self.ibis = ibis.pyspark.connect(self.session)

    def read(self, path: Path, names: list[str] | None, delimiter: str | None) -> Any:
        """The log and `ROW`; `names` are its columns where the file has no header."""
        from pyspark.sql import functions

        reader, link = self.session.read.option("mode", "FAILFAST"), Path(self.plain.name) / f"log{path.suffix}"
        link.symlink_to(path.resolve())
        name = str(link)
        if path.suffix == ".parquet":
            table = reader.parquet(name)
        elif (mark := between(path, names, delimiter)) is None:
            table = reader.json(name, primitivesAsString=True)
        else:   # a quoted cell may hold a line's end, so the file is read in one piece
            schema = ", ".join("`{}` STRING".format(name.replace("`", "``")) for name in names or rows.header(path, mark))
            table = reader.csv(name, sep=mark, header=not names, multiLine=True, quote=quote(path),
                               escape=quote(path) or None, schema=schema)
        table.select("*", functions.monotonically_increasing_id().alias(ROW)).createOrReplaceTempView("log")
        return self.ibis.table("log")

    def keep(self, table: Any) -> Any:
        """The same table, computed."""
        self.made += 1
        path = self.folder / f"step_{self.made}"
        self.session.sql(self.ibis.compile(table)).write.parquet(str(path))
        return self.found(path)

    def found(self, path: Path) -> Any:
        """A Parquet file of ours."""
        return self.ibis.read_parquet(escaped(path))

    def write(self, table: Any, path: Path) -> None:
        """One Parquet file with the rows in order."""
        import pyarrow.parquet as pq

        parts = self.folder / "parts"
        self.session.sql(self.ibis.compile(table)).write.parquet(str(parts))
        files = sorted(parts.glob("part-*.parquet"))   # ranges of the order, numbered
        with pq.ParquetWriter(path, pq.read_schema(files[0]).remove_metadata(), compression="zstd") as writer:
            for file in files:
                for batch in pq.ParquetFile(file).iter_batches(1 << 16):
                    writer.write_batch(batch.replace_schema_metadata(None))
        shutil.rmtree(parts)

    def close(self) -> None:
        """End it."""
        self.session.stop()
        self.plain.cleanup()


def escaped(path: Path) -> str:
    """A path that Spark takes for no pattern."""
    return re.sub(r"([\[\]{}*?\\])", r"\\\1", str(path))


def quote(path: Path) -> str:
    """What cells of a text may stand in; none in TSV, as everywhere here."""
    return "" if rows.ending(path) == ".tsv" else '"'


def between(path: Path, names: list[str] | None, delimiter: str | None) -> str | None:
    """What stands between the cells of a text; None for JSON lines.

    Raises:
        InputError: an ending that isn't known.
    """
    kind = rows.ending(path)
    if kind in (".jsonl", ".json"):
        return None
    if kind not in TEXTS and not names:
        raise InputError(f"path: {path} has the unknown ending {path.suffix!r}; known are {', '.join(TEXTS)}, .jsonl, .json, "
                         "these followed by .gz, .parquet, and any with names")
    return delimiter or ("\t" if kind == ".tsv" else ",")
