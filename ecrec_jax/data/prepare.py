"""From a log of events to clean histories: what is dropped and why, as expressions that run on any engine Ibis knows."""

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal

from ecrec_jax.data import cell
from ecrec_jax.data.engine import ROW
from ecrec_jax.types import InputError

COLUMNS = ("user", "item", "time", "type", "quantity", "price", "text")   # of a log, besides the order of its rows
NUMBERS = ("quantity", "price")
LOST = ("lost_quantity", "lost_price")                                    # whether a cell holds something that is no number
FOUND = ("user", "item", "time", "type", "quantity", "price")             # of what is written
TOLD = ("item", "text", "price", "events")                                # of the items


@dataclasses.dataclass(frozen=True)
class Log:
    """Where a log's columns are and what is kept of it. Rules drop events in the order of the fields.

    `drop`: {column: regular expression of a whole cell}; `least` and `most`: {column: number}, between which a kept event must lie,
    itself included; `time_unit` is of times that are numbers. A cell of `quantity` or `price` that is no number counts as empty
    and is counted. `most_events` and `most_a_minute` are of a user: who has more is taken for a bot. `core`: users and items with
    fewer events are dropped until none is left that has (k-core). Equal times stay in the order of the file.
    """

    user: str
    item: str
    time: str
    time_unit: Literal["s", "ms", "us", "ns"]
    type: str | None
    quantity: str | None
    price: str | None
    text: str | None
    attributes: list[str] | None
    drop: dict[str, str] | None
    least: dict[str, float | int] | None
    most: dict[str, float | int] | None
    duplicates: bool
    most_events: int | None
    most_a_minute: int | None
    core: int | None

    def __post_init__(self):
        for name, pattern in (self.drop or {}).items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise InputError(f"drop.{name}: {pattern!r} is not a regular expression ({error})") from None
        for key in ("most_events", "most_a_minute", "core"):
            if getattr(self, key) is not None and getattr(self, key) < 1:
                raise InputError(f"{key} is {getattr(self, key)}, must be at least 1")
        for i, name in enumerate(names := [*TOLD, *(self.attributes or ())]):   # DuckDB's names don't tell cases apart
            if name.lower() in map(str.lower, names[:i]):
                raise InputError(f"attributes: {name!r} is a column of items.parquet already; rename the log's")

    def events(self, raw: Any) -> Any:
        """The log under our names with the number of every row and the first reason to drop it (null: none).

        Raises:
            InputError: a column that isn't there.
        """
        import ibis

        wanted = dict(zip(COLUMNS, (self.user, self.item, self.time, self.type, self.quantity, self.price, self.text), strict=True))
        given = {"drop": self.drop or {}, "least": self.least or {}, "most": self.most or {}}
        rules = [*((f"{key}.{x}", x) for key, columns in given.items() for x in columns),
                 *(("attributes", x) for x in self.attributes or ())]
        for key, name in [*wanted.items(), *rules]:
            if name is not None and name not in raw.columns:
                raise InputError(f"{key}: the log has no column {name!r}; it has {', '.join(map(repr, raw.columns[:-1]))}")
        unit = cell.UNITS[self.time_unit]
        named = {key: cell.text(raw[name]) if name is not None else ibis.null("string") for key, name in wanted.items()}
        told = raw.select(
            row=raw[ROW], user=named["user"], item=named["item"],
            time=cell.time(raw[self.time], unit), within=cell.within(raw[self.time], unit),
            type=ibis.coalesce(named["type"], ibis.literal("event")), quantity=cell.number(named["quantity"]),
            price=cell.number(named["price"]), text=named["text"],
            **{f"attribute_{i}": cell.text(raw[name]) for i, name in enumerate(self.attributes or [])},
            **{f"lost_{key}": named[key].notnull() & cell.number(named[key]).isnull() for key in NUMBERS},
            **{f"drop_{i}": cell.text(raw[name]) for i, name in enumerate(given["drop"])},
            **{f"{key}_{i}": cell.number(cell.text(raw[name])) for key in ("least", "most") for i, name in enumerate(given[key])})
        rules = [(told.user.isnull(), "without user"), (told.item.isnull(), "without item"),
                 (told.time.isnull(), "time that can't be read"),
                 *((told[key].re_search(cell.BREAK).fill_null(False), f"line break in {key}") for key in ("user", "item", "type"))]
        rules += [(told[f"drop_{i}"].fill_null("").re_search(f"^(?:{pattern})$"), f"{name} is {pattern}")
                  for i, (name, pattern) in enumerate(given["drop"].items())]
        for key, away in (("least", "below"), ("most", "above")):
            for i, (name, end) in enumerate(given[key].items()):
                cells = told[f"{key}_{i}"]
                rules += [(cells.isnull(), f"{name} is no number"),
                          (cells < end if key == "least" else cells > end, f"{name} {away} {end:g}")]
        return told.mutate(why=ibis.cases(*rules, else_=ibis.null("string"))).select(
            "row", "within", *COLUMNS, *(f"attribute_{i}" for i in range(len(self.attributes or []))), *LOST, "why")

    def steps(self, events: Any, keep: Callable[[Any], Any]) -> Iterator[tuple[str, Any]]:
        """(what was done, the events that are left), one step after the other; `keep` makes the engine hold a result."""
        import ibis

        left = keep(events.filter(events.why.isnull()).drop("why", *LOST))
        yield "read", left
        if self.duplicates:
            same = ibis.window(group_by=["user", "item", "time", "within", "type"], order_by="row")
            left = keep(left.mutate(n=ibis.row_number().over(same)).filter(lambda t: t.n == 0).drop("n"))
            yield "the same event again", left
        if self.most_events is not None:
            left = keep(left.mutate(n=left.count().over(group_by="user")).filter(lambda t: t.n <= self.most_events).drop("n"))
            yield f"users with more than {self.most_events} events", left
        if self.most_a_minute is not None:
            minute = left.mutate(minute=(left.time / 60).floor())
            fast = minute.group_by("user", "minute").agg(n=minute.count()).filter(lambda t: t.n > self.most_a_minute)
            left = keep(left.anti_join(fast.select("user").distinct(), "user"))
            yield f"users with more than {self.most_a_minute} events in a minute", left
        before = None
        while self.core is not None and before != (before := left.count().execute()):
            for key in ("user", "item"):
                left = left.mutate(n=left.count().over(group_by=key)).filter(lambda t: t.n >= self.core).drop("n")
            left = keep(left)
            yield f"users and items with fewer than {self.core} events", left

    def described(self, events: Any) -> Any:
        """Of every item its most frequent text, median price, events and most frequent attributes, the first items first."""
        names = {f"attribute_{i}": name for i, name in enumerate(self.attributes or [])}
        found = events.group_by("item").agg(price=events.price.median().round(6), events=events.count(), first=events.row.min())
        for column in ("text", *names):
            found = found.join(commonest(events, column), "item")
        return found.order_by("first").select(*TOLD, **{new: found[old] for old, new in names.items()})


def renamed(events: Any, merged: Any) -> Any:
    """The events with the id `into` for every `item` of a table."""
    import ibis

    pairs = merged.select(old="item", new="into")
    found = events.left_join(pairs, events.item == pairs.old)
    return found.mutate(item=ibis.coalesce(found.new, found.item)).drop("old", "new")


def copied(events: Any, copies: Any, why: str) -> Any:
    """The events with a reason to drop each `row` of a table."""
    import ibis

    found = events.left_join(copies.select(copy="row"), events.row == copies.row)
    return found.mutate(why=ibis.ifelse(found.copy.notnull(), why, found.why)).drop("copy")


def ordered(events: Any) -> Any:
    """The events to be written: users in the order of their first row, each user's by time, then as in the file."""
    first = events.mutate(first=events.row.min().over(group_by="user"))
    return first.order_by("first", "time", "within", "row").select(*FOUND)


def commonest(events: Any, column: str) -> Any:
    """(item, its most frequent value of a column; of equals the one that came first; null where there is none)."""
    import ibis

    found = events.group_by("item", column).agg(n=events.count(), row=events.row.min())
    best = ibis.window(group_by="item", order_by=[found[column].isnull(), ibis.desc("n"), "row"])
    return found.mutate(place=ibis.row_number().over(best)).filter(lambda t: t.place == 0).select("item", column)


def counts(events: Any) -> dict[str, int]:
    """Events, users and items."""
    found = events.aggregate(events=events.count(), users=events.user.nunique(), items=events.item.nunique())
    return {key: int(x) for key, x in found.to_pyarrow().to_pylist()[0].items()}


def tied(events: Any) -> int:
    """Events that share user and time with another one."""
    same = events.group_by("user", "time", "within").agg(n=events.count())
    return int(same.filter(same.n > 1).n.sum().fill_null(0).execute())
