"""A log's cells as texts, numbers and times: Ibis expressions that mean the same on every engine."""

from typing import Any

NUMBER = r"^[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]+)?$"
WHOLE = r"^[+-]?[0-9]{1,19}$"
WHITE = "".join(filter(str.isspace, map(chr, range(0x3001))))   # what Python's strip() takes off; engines' own differ
BREAK = "[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]"                 # of str.splitlines()
DATE = (r"^([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[T ]([0-9]{2}:[0-9]{2})(:[0-9]{2})?(?:[.,]([0-9]+))?)?"
        r"(?: ?(?:Z|([+-])([0-9]{2})(?::?([0-9]{2}))?))?$")


def text(column: Any) -> Any:
    """A column's cells without white space around them, null where there is nothing; whole floats lose their '.0'."""
    if column.type().is_floating():   # a column of integers with a gap
        whole = column.try_cast("int64")
        told = (column == whole).ifelse(whole.cast("string"), column.cast("string"))
        return finite(column).ifelse(told, None)
    return column.cast("string").re_replace(f"^[{WHITE}]+|[{WHITE}]+$", "").nullif("")


def number(cells: Any) -> Any:
    """Texts as numbers; null where one is none, or isn't finite."""
    found = cells.re_search(NUMBER).ifelse(cells.try_cast("float64"), None)
    return finite(found).ifelse(found, None)


def finite(numbers: Any) -> Any:
    """Whether numbers are neither infinite nor nan, which all engines order last (Ibis finds no infinite ones in Spark)."""
    return numbers.abs() < 1e300


UNITS = {"s": 1, "ms": 1000, "us": 10**6, "ns": 10**9}   # of numbers, in a second


def time(column: Any, unit: int) -> Any:
    """Whole seconds, rounded down: since 1970 of dates (ISO 8601 ones where they are texts; without an offset UTC), or the numbers
    of the log, so many a second; null where a cell is neither."""
    if column.type().is_temporal():
        return seconds(column.cast("timestamp"))
    cells = text(column)
    part = lambda i: cells.re_extract(DATE, i)  # noqa: E731
    local = part(1) + " " + part(2).nullif("").fill_null("00:00") + part(3).nullif("").fill_null(":00")
    offset = part(6).try_cast("int64").fill_null(0) * 3600 + part(7).try_cast("int64").fill_null(0) * 60
    local = cells.re_search(DATE).ifelse(local, None).try_cast("timestamp")   # engines differ in casting offsets and mere times
    date = seconds(local) - (part(5) == "-").ifelse(-1, 1) * offset
    found = number(cells)
    whole = cells.re_search(WHOLE).ifelse(cells.try_cast("int64"), None)   # a float has 53 bits
    whole = whole.fill_null((found.abs() < 9e18).ifelse(found, None).floor().cast("int64"))
    if unit > 1:
        whole = ((whole - (whole % unit + unit) % unit) / unit).round().cast("int64")
    return whole.fill_null(date)


def within(column: Any, unit: int) -> Any:
    """What `time` leaves of a second, 0 or more and below 1."""
    cells = text(column)
    whole = cells.re_search(WHOLE).ifelse(cells.try_cast("int64"), None)
    found = number(cells) / unit
    found = (found.abs() < 9e18).ifelse(found, None)
    found = ((whole % unit + unit) % unit / unit).fill_null(found - found.floor())
    told = "0." + cells.re_search(DATE).ifelse(cells.re_extract(DATE, 4), "").nullif("")
    return told.try_cast("float64").fill_null(found).fill_null(0.0)


def seconds(moment: Any) -> Any:
    """Timestamps as whole seconds since 1970, rounded down."""
    return moment.truncate("s").epoch_seconds().cast("float64").cast("int64")   # DuckDB's are floats, whatever Ibis calls them
