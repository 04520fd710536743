"""A clean dataset of histories from a log of events: `python -m experiments.prepare log=online_retail out=DIR`."""

if __name__ == "__main__":
    from experiments.launch import settle

    settle()


import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from ecrec_jax import evaluate, section
from ecrec_jax.data import digest, file, near, personal, prepare, rows
from ecrec_jax.data.engine import Duckdb, Spark, between, started
from ecrec_jax.types import Facts, InputError
from ecrec_jax.writing import fresh

FAR = 10**11   # seconds: the year 5138
OWN = ("out", "engine", "memory", "threads", "path", "root", "source", "sha256", "licence", "names", "delimiter",
       "near_duplicates", "near_duplicate_events", "personal", "countries")   # not a log's


def main(config: dict[str, Any]) -> None:
    """Read, clean, count, write the folder, whole or not at all."""
    out = Path(section.checked(config["out"], str, "out"))
    log = section.make({"_target_": "ecrec_jax.data.prepare.Log"} | {k: x for k, x in config.items() if k not in OWN}, "", Facts())
    if config["path"] is None:
        raise InputError("path is not set: give the log, path=my.csv, or log=NAME, one of conf/log/")
    name = section.checked(config["path"], str, "path")
    path = file.located(name, config["root"], config["source"], config["sha256"], "path")[""]
    sha256 = digest.same(path, digest.of(path), config["sha256"], "sha256")
    with fresh(out) as part:
        report = {"file": path.name, "sha256 of the file": sha256, "source": config["source"], "licence": config["licence"]}
        report |= made(config, log, path, part)
        evaluate.write_json(report, part / "report.json")
        (part / "DATA.md").write_text(page(report), encoding="utf-8")
    for line in told(report):
        print(line)
    print(f"train on it with data=sequences data.path={out / 'interactions.parquet'}")


def made(config: Mapping[str, Any], log: prepare.Log, path: Path, part: Path) -> dict[str, Any]:
    """Write interactions.parquet and items.parquet; what happened on the way.

    Raises:
        InputError: a file that the engine can't read; nothing left.
    """
    engine = started(config["engine"], config["memory"], section.checked(config["threads"], int | None, "threads"), part)
    same = {}
    try:
        events = engine.keep(log.events(engine.read(path, config["names"], config["delimiter"])))
        count = int(events.count().execute())
        if config["near_duplicate_events"] is not None:
            events = engine.keep(uncopied(config["near_duplicate_events"], log, events, part / "copies.parquet", engine))
            same["near-duplicate events"] = {"threshold": config["near_duplicate_events"]}
        lost = {key: events[f"lost_{key}"].cast("int64").sum() for key in prepare.NUMBERS}
        why = events.group_by("why").agg(n=events.count(), **lost).to_pyarrow().to_pylist()
        if config["near_duplicates"] is not None:
            same |= joined(config["near_duplicates"], log, events, part / "merged.parquet")
            events = engine.keep(prepare.renamed(events, engine.found(part / "merged.parquet")))
        steps, before = [], None
        for name, left in log.steps(events, engine.keep):
            now = prepare.counts(left)
            if before and steps and steps[-1]["step"] == name:   # another round
                steps[-1] |= {"dropped": {k: steps[-1]["dropped"][k] + before[k] - now[k] for k in now}, "left": now,
                              "rounds": steps[-1].get("rounds", 1) + 1}
            elif before:
                steps.append({"step": name, "dropped": {k: before[k] - now[k] for k in now}, "left": now})
            before = now
            if not now["events"]:
                raise InputError(f"{path}: no event is left after: {name}")
        engine.write(prepare.ordered(left), part / "interactions.parquet")
        engine.write(log.described(left), part / "items.parquet")
        ties, latest = prepare.tied(left), int(left.time.max().execute())
        hidden = impersonal(config, log.attributes or [], part / "items.parquet")
    except engine.errors as error:
        if path.suffix != ".parquet" and re.search("CSV|JSON|MALFORMED|FAILED_READ", str(error)):   # as engines call what they read
            rows.refuse(path, config["names"], between(path, config["names"], config["delimiter"]))
        raise InputError(f"{path}: {str(error).splitlines()[0]}") from None
    finally:
        engine.close()
        shutil.rmtree(part / "spill", ignore_errors=True)
    dropped = sorted(((x["why"], x["n"]) for x in why if x["why"]), key=lambda x: -x[1])
    lost = {key: int(n) for key in prepare.NUMBERS if (n := sum(x[key] for x in why if x["why"] is None))}
    more = ({"cells that are no number": lost} if lost else {}) | ({"latest time": latest} if latest > FAR else {}) | same
    return {"rows": count, "dropped rows": dict(dropped), **more, "steps": steps, **before, **hidden,
            "events at the same time of the same user": ties, "order of these": "as in the file",
            "sha256 of the interactions": digest.of_rows(part / "interactions.parquet")}


def uncopied(threshold: Any, log: prepare.Log, events: Any, path: Path, engine: Duckdb | Spark) -> Any:
    """The events, of which those whose text is nearly that of an earlier one are to be dropped; write to `path` which these are."""
    threshold = section.checked(threshold, float, "near_duplicate_events")
    texts = undropped(log, events, "near_duplicate_events").order_by("time", "within", "row").select("row", "text").to_pyarrow()
    found = near.merged(texts["row"].to_pylist(), texts["text"].to_pylist(), threshold, "near_duplicate_events")
    keep(found, pa.schema({"row": pa.int64(), "of": pa.int64(), "alike": pa.float64()}), path)
    return prepare.copied(events, engine.found(path), f"text at least {threshold:g} like that of an earlier event")


def joined(threshold: Any, log: prepare.Log, events: Any, path: Path) -> dict[str, Any]:
    """Write to `path` which items are merged into which, because their texts are near-duplicates; how many."""
    threshold = section.checked(threshold, float, "near_duplicates")
    items = log.described(undropped(log, events, "near_duplicates")).select("item", "text").to_pyarrow()
    found = near.merged(items["item"].to_pylist(), items["text"].to_pylist(), threshold)
    keep(found, pa.schema({"item": pa.string(), "into": pa.string(), "alike": pa.float64()}), path)
    return {"near-duplicates": {"threshold": threshold, "items merged": len(found), "into others": len({x for _, x, _ in found})}}


def undropped(log: prepare.Log, events: Any, key: str) -> Any:
    """The events that are not dropped yet.

    Raises:
        InputError: the log has no texts, which a key asks for.
    """
    if log.text is None:
        raise InputError(f"{key} compares texts: name their column, text=…")
    return events.filter(events.why.isnull())


def keep(found: Sequence[Sequence[Any]], schema: pa.Schema, path: Path) -> None:
    """Write pairs as a Parquet file."""
    rows = [dict(zip(schema.names, pair, strict=True)) for pair in found]
    pq.write_table(pa.Table.from_pylist(rows, schema), path, compression="zstd")


def impersonal(config: Mapping[str, Any], attributes: Sequence[str], items: Path) -> dict[str, Any]:
    """Mask or drop what is personal in the texts of items.parquet; what was found."""
    how = section.checked(config["personal"], Literal["keep", "mask", "drop"], "personal")
    if how == "keep":
        return {}
    countries = section.checked(config["countries"], list[str] | None, "countries") or []
    table, count = pq.read_table(items), Counter({"texts": 0})
    for name in ("text", *attributes):
        texts, more = personal.cleaned(table[name].to_pylist(), how, countries)
        count.update(more)
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(texts, pa.string()))
    pq.write_table(table, items, compression="zstd")
    return {"personal data": {"what was done": how, "found": dict(count)}}


def told(report: Mapping[str, Any]) -> list[str]:
    """What happened, a line each."""
    lines = [f"{report['rows']:,} rows"]
    lines += [f"dropped {n:,}: {why}" for why, n in report["dropped rows"].items()]
    lines += [f"left empty {n:,}: {key} is no number" for key, n in report.get("cells that are no number", {}).items()]
    if "near-duplicates" in report:
        said = report["near-duplicates"]
        lines.append(f"merged {said['items merged']:,} items into {said['into others']:,} others whose texts are at least "
                     f"{said['threshold']:g} alike")
    for step in report["steps"]:
        lost, rounds = step["dropped"], f", {step['rounds']} rounds" if "rounds" in step else ""
        lines.append(f"dropped {lost['events']:,} events, {lost['users']:,} users, {lost['items']:,} items: {step['step']}{rounds}")
    if "personal data" in report:
        done, kinds = report["personal data"]["what was done"], dict(report["personal data"]["found"])
        lines.append(f"personal data in {kinds.pop('texts'):,} of the items' texts, {done}{'p' * (done == 'drop')}ed: "
                     + (", ".join(f"{n:,} {kind}" for kind, n in kinds.items()) or "none"))
    lines.append(f"left {report['events']:,} events of {report['users']:,} users and {report['items']:,} items")
    if "latest time" in report:
        year = 1970 + report["latest time"] // 31_556_952
        lines.append(f"times go up to {report['latest time']}, in seconds the year {year}: if they are finer, say time_unit=ms")
    if report["events at the same time of the same user"]:
        lines.append(f"{report['events at the same time of the same user']:,} events share their time with another one of the same "
                     "user: they stay in the order of the file; sorting them by item inflates NDCG")
    return [*lines, f"sha256 of the interactions: {report['sha256 of the interactions']}"]


def page(report: Mapping[str, Any]) -> str:
    """DATA.md: the dataset's description."""
    about = [f"- {key}: {report[key]}" for key in ("file", "sha256 of the file", "source", "licence") if report[key]]
    lines = [f"- {line}" for line in told(report)]
    columns = ("`interactions.parquet`: user, item, time (seconds since 1970, or the number of the log), type, quantity, price; "
               "users in the order of their first event, each user's events by time, then as in the log. `items.parquet`: item, "
               "its most frequent text, median price, events, and its attributes, of which the most frequent one is kept too.")
    if "near-duplicates" in report:
        columns += " `merged.parquet`: item, the item whose id its events have now, how alike their texts are (0 to 1)."
    if "near-duplicate events" in report:
        columns += " `copies.parquet`: row (of the log, from 0; Spark leaves gaps), the row it copies, how alike their texts are."
    return "\n".join(["# A log, cleaned", "", *about, "", "## Steps", "", *lines, "", "## Files", "", columns, ""])


if __name__ == "__main__":
    from experiments.launch import main as launch

    launch(main, "prepare")
