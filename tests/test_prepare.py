"""A log becomes histories: every step against counts by hand, k-core against plain Python, bad input against one sentence."""

import gzip
import json
import shutil
from collections import Counter

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecrec_jax.data import digest
from tests.test_commands import call
from tests.test_recommend import written

LOG = """who,what,when,kind,count,cost,name,invoice
a,x,2020-01-01 00:00:03,view,1,2.0,Ex,1
a,y,2020-01-01 00:00:01,buy,2,4.0,Why,2
a,z,2020-01-01 00:00:01,buy,1,1.0,Zed,2
a,z,2020-01-01 00:00:01,buy,1,1.0,Zed,2
b,x,2020-01-01 00:00:05,buy,-1,2.0,Ex,3
b,x,2020-01-02,buy,1,3.0,Ex!,4
b,y,soon,buy,1,4.0,Why,5
,y,2020-01-02,buy,1,4.0,Why,6
b,,2020-01-02,buy,1,4.0,Why,7
b,y,2020-01-03,buy,1,,Why?,C8
b,y,2020-01-03,buy,1,,,9
c,x,5,buy,1,7.0,Ex!,10
"""
WORDS = ["user=who", "item=what", "time=when", "type=kind", "quantity=count", "price=cost", "text=name"]


def prepared(folder, text, *words, ending="csv"):
    """(interactions, items, report) that the command leaves."""
    return prepared_with(folder, text, set(), *words, ending=ending)


def prepared_with(folder, text, more, *words, ending="csv"):
    """The same, and more files."""
    path = written(folder / f"log.{ending}", text) if text is not None else folder / f"log.{ending}"
    assert call("prepare", f"path={path}", f"out={folder / 'out'}", *words) == 0
    out = folder / "out"
    assert {x.name for x in out.iterdir()} == {"DATA.md", "interactions.parquet", "items.parquet", "report.json"} | more
    return (*(pq.read_table(out / f"{name}.parquet").to_pylist() for name in ("interactions", "items")),
            json.loads((out / "report.json").read_text()))


def test_numbers_that_can_only_be_slips(tmp_path, capsys):
    """Above a bound they are dropped; what is no number is left empty, counted, and dropped where a bound asks for one."""
    rows = ["a,x,1,1,2.0", "a,y,2,1000000000,2.0", "a,z,3,two,abc", "b,x,4,3,-5", "b,y,5,,1e9"]
    text = "user,item,time,count,cost\n" + "\n".join(rows) + "\n"
    given = ["quantity=count", "price=cost", "core=null"]
    events, _, report = prepared(tmp_path, text, *given, "most={cost: 1000}", "least={cost: 0}")
    assert [(x["user"], x["quantity"], x["price"]) for x in events] == [("a", 1.0, 2.0), ("a", 1e9, 2.0)]
    assert report["dropped rows"] == {"cost is no number": 1, "cost below 0": 1, "cost above 1000": 1}
    assert "cells that are no number" not in report   # of those that are kept
    shutil.rmtree(tmp_path / "out")
    assert [x["quantity"] for x in prepared(tmp_path, text, *given, "most={count: 100}")[0]] == [1.0, 3.0]
    shutil.rmtree(tmp_path / "out")
    report = prepared(tmp_path, text, *given)[2]
    assert report["cells that are no number"] == {"quantity": 1, "price": 1} and "quantity is no number" in capsys.readouterr().out


def test_every_step(tmp_path, capsys):
    """a's times: x 3, y and z 1, one z twice; b has a return, a cancellation, a time, an item; c's time is a number."""
    events, items, report = prepared(tmp_path, LOG, *WORDS, "drop={invoice: C.*}", "least={count: 1}")
    start = 1577836800   # 2020-01-01
    assert [(x["user"], x["item"], x["time"] - (x["time"] > 5) * start) for x in events] == [
        ("a", "y", 1), ("a", "z", 1), ("a", "x", 3), ("b", "x", 86400), ("b", "y", 2 * 86400), ("c", "x", 5)]
    assert events[0] == {"user": "a", "item": "y", "time": start + 1, "type": "buy", "quantity": 2.0, "price": 4.0}
    assert [tuple(x.values()) for x in items] == [("x", "Ex!", 3.0, 3), ("y", "Why", 4.0, 2), ("z", "Zed", 1.0, 1)]
    assert report["rows"] == 12 and report["dropped rows"] == {
        "without user": 1, "without item": 1, "time that can't be read": 1, "invoice is C.*": 1, "count below 1": 1}
    assert [step["dropped"]["events"] for step in report["steps"]] == [1]
    assert (report["events"], report["users"], report["items"]) == (6, 3, 3)
    assert report["events at the same time of the same user"] == 2
    said = capsys.readouterr().out
    assert "2 events share their time" in said and "dropped 1: invoice is C.*" in said and "DATA" not in said
    assert "- dropped 1: without user" in (tmp_path / "out" / "DATA.md").read_text()


@pytest.mark.parametrize("cell,second", [
    ("2020-01-01", 1577836800), ("2020-01-01T00:00", 1577836800), ("2020-01-01 00:00:00Z", 1577836800),
    ("2020-01-01T02:00:00+02:00", 1577836800), ("2020-01-01T00:00:00-0530", 1577856600), ("2020-01-01 03:00:00+03", 1577836800),
    ("2019-12-31T23:59:59.999", 1577836799), ("1969-12-31T23:59:59.5Z", -1), ("1970-01-01T00:00:00.7+00:00", 0),
    ("0.7", 0), ("-0.5", -1), ("2.5", 2), ("1e3", 1000), ("1577836800.0", 1577836800), ("9007199254740993", 2**53 + 1),
    ("-9007199254740993", -2**53 - 1), ("1577836800000000001", 1577836800000000001), ("9223372036854775807", 2**63 - 1),
    ("9223372036854775808", None), ("nan", None), ("NaN", None), ("inf", None), ("-Infinity", None), ("1e400", None),
    ("1e19", None), ("99999999999999999999", None), ("soon", None), ("2020-02-30", None), ("2020-01-01T25:00:00", None)])
def test_time(cell, second, tmp_path):
    """Rounded down, with their offset; what is neither a date nor a number is counted, and the rest of the log is read."""
    events, _, report = prepared(tmp_path, f"user,item,time\na,x,{cell}\nb,x,77\n")
    assert [x["time"] for x in events] == [*([] if second is None else [second]), 77]
    assert report["dropped rows"] == ({"time that can't be read": 1} if second is None else {})


def test_time_of_typed_columns(tmp_path):
    """As of texts: floats with gaps, integers that no float holds, timestamps of a zone, dates."""
    noon = pd.Timestamp("2020-01-01T12:00:00.75", tz="Asia/Tokyo")
    for name, times, found in (("float", [0.7, np.nan, np.inf, 5.0], [0, 5]), ("integer", [2**53 + 1, 7], [2**53 + 1, 7]),
                               ("zone", [noon, pd.NaT], [1577847600]), ("plain", [noon.tz_localize(None)], [1577880000]),
                               ("date", [noon.date()], [1577836800])):
        (tmp_path / name).mkdir()
        pd.DataFrame({"user": np.arange(len(times)) + 0.0, "item": 1.05, "time": times}).to_parquet(tmp_path / name / "log.parquet")
        events, _, report = prepared(tmp_path / name, None, ending="parquet")
        assert [x["time"] for x in events] == found and report["events"] == len(found), name
        assert {x["item"] for x in events} == {"1.05"} and events[0]["user"] == "0"


def test_attributes(tmp_path):
    """Of each the most frequent one, of equals the first; what is missing counts for nothing, and what was dropped neither."""
    text = ("user,item,time,brand,size name\na,x,1,Acme,4\na,x,2,,4\nb,x,3,,5\nb,x,4,acme,5\nb,y,5,,\n,y,6,Lost,1\n"
            "c,z,7,\"Ünï, Ltd\",1.0\n")
    _, items, _ = prepared(tmp_path, text, "attributes=[brand,'size name']")
    assert items == [{"item": "x", "text": None, "price": None, "events": 4, "brand": "Acme", "size name": "4"},
                     {"item": "y", "text": None, "price": None, "events": 1, "brand": None, "size name": None},
                     {"item": "z", "text": None, "price": None, "events": 1, "brand": "Ünï, Ltd", "size name": "1.0"}]


def test_personal_data(tmp_path, capsys):
    """Masked or dropped in the items' texts and attributes, counted in the report, left alone unless asked for."""
    text = ("user,item,time,text,seller\na,x,1,\"Cup, ask jo@example.com or +44 20 7946 0018\",www.example.com\n"
            "a,y,2,Plate 12 x 34 cm order 4155552671,Acme\na,z,3,,020 7946 0018\n")
    kept = [("Cup, ask jo@example.com or +44 20 7946 0018", "www.example.com"), ("Plate 12 x 34 cm order 4155552671", "Acme"),
            (None, "020 7946 0018")]
    masked = [("Cup, ask [email] or [phone]", "[web]"), kept[1], (None, "[phone]")]
    count = {"email": 1, "phone": 2, "web": 1, "texts": 3}
    for how, found, words in (("keep", kept, []), ("mask", masked, ["personal=mask", "countries=[GB]"]),
                              ("drop", [(None, None), kept[1], (None, None)], ["personal=drop", "countries=[GB]"])):
        (tmp_path / how).mkdir()
        _, items, report = prepared(tmp_path / how, text, "text=text", "attributes=[seller]", *words)
        assert [(x["text"], x["seller"]) for x in items] == found
        assert report.get("personal data") == ({"what was done": how, "found": count} if words else None)
    said = capsys.readouterr().out
    assert "personal data in 3 of the items' texts, masked: 1 email, 2 phone, 1 web" in said and "texts, dropped: 1" in said


def test_near_duplicates(tmp_path, capsys):
    """y's events become x's, so that one of them is a repetition and x passes the 2-core; a dropped row's text doesn't count."""
    text = ("user,item,time,text\na,y0,,Red spotty cup\na,x,1,Red spotty cup\na,y,1,RED spotty  cup\nb,y,2,RED spotty  cup\n"
            "b,z,3,Blue plate\na,z,4,Blue plate\nb,n,5,\na,n,6,\n")
    events, items, report = prepared_with(tmp_path, text, {"merged.parquet"}, "text=text", "near_duplicates=0.9", "core=2")
    assert [(x["user"], x["item"], x["time"]) for x in events] == [
        ("a", "x", 1), ("a", "z", 4), ("a", "n", 6), ("b", "x", 2), ("b", "z", 3), ("b", "n", 5)]
    assert [(x["item"], x["text"], x["events"]) for x in items] == [
        ("x", "Red spotty cup", 2), ("z", "Blue plate", 2), ("n", None, 2)]
    assert report["near-duplicates"] == {"threshold": 0.9, "items merged": 1, "into others": 1}
    assert report["steps"][0]["dropped"] == {"events": 1, "users": 0, "items": 0}
    assert pq.read_table(tmp_path / "out" / "merged.parquet").to_pylist() == [{"item": "y", "into": "x", "alike": 1.0}]
    assert "merged 1 items into 1 others whose texts are at least 0.9 alike" in capsys.readouterr().out


def test_near_duplicate_events(tmp_path, capsys):
    """Of reviews that are copied the earliest one stays, whoever wrote the others and of what; no text, no copy."""
    text = ("user,item,time,text\na,x,9,\"Great cup, lasts for ever\"\nb,y,3,\"GREAT cup,  lasts for ever\"\nb,x,4,Broke at once\n"
            "c,z,5,\"Great cup, lasts for ever\"\nc,y,,Broke at once\nc,x,6,\na,y,7,\n")
    events, items, report = prepared_with(tmp_path, text, {"copies.parquet"}, "text=text", "near_duplicate_events=0.9")
    assert [(x["user"], x["item"], x["time"]) for x in events] == [("b", "y", 3), ("b", "x", 4), ("c", "x", 6), ("a", "y", 7)]
    assert {x["item"]: x["text"] for x in items} == {"y": "GREAT cup,  lasts for ever", "x": "Broke at once"}
    said = "text at least 0.9 like that of an earlier event"
    assert report["dropped rows"] == {said: 2, "time that can't be read": 1} and f"dropped 2: {said}" in capsys.readouterr().out
    assert pq.read_table(tmp_path / "out" / "copies.parquet").to_pylist() == [
        {"row": 3, "of": 1, "alike": 1.0}, {"row": 0, "of": 1, "alike": 1.0}]
    assert "copies.parquet" in (tmp_path / "out" / "DATA.md").read_text()


def rows_of(pairs):
    """A log with these (user, item), one a second."""
    return "user,item,time\n" + "".join(f"u{u},i{i},{t}\n" for t, (u, i) in enumerate(pairs))


@pytest.mark.parametrize("seed", [0, 1])
def test_k_core_is_the_fixed_point(seed, tmp_path):
    rng = np.random.default_rng(seed)
    pairs = sorted({(int(u), int(i)) for u, i in rng.integers(0, 25, (160, 2))}, key=lambda x: rng.random())
    _, _, report = prepared(tmp_path, rows_of(pairs), "core=4")
    left, rounds = list(pairs), 0
    while True:
        before, rounds = len(left), rounds + 1
        for side in (0, 1):
            size = Counter(pair[side] for pair in left)
            left = [pair for pair in left if size[pair[side]] >= 4]
        if len(left) == before:
            break
    assert 0 < len(left) < len(pairs) - 10 and rounds > 2 and report["steps"][-1]["rounds"] == rounds
    written_ = pq.read_table(tmp_path / "out" / "interactions.parquet").to_pylist()
    assert {(x["user"], x["item"]) for x in written_} == {(f"u{u}", f"i{i}") for u, i in left}


def test_bots(tmp_path):
    """u0 has nine events, three of them in one minute; u1 two in one; u2 two, of different minutes."""
    times = [*(("u0", 100 * t) for t in range(6)), *(("u0", 1000 + t) for t in range(3))]
    times += [("u1", 60), ("u1", 119), ("u2", 59), ("u2", 60)]
    text = "user,item,time\n" + "".join(f"{user},i{n},{t}\n" for n, (user, t) in enumerate(times))
    for name, words, left in (("many", "most_events=8", {"u1", "u2"}), ("fast", "most_a_minute=2", {"u1", "u2"}),
                              ("faster", "most_a_minute=1", {"u2"})):
        (tmp_path / name).mkdir()
        events, _, _ = prepared(tmp_path / name, text, words)
        assert {x["user"] for x in events} == left, name


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "tsv", "data"])
def test_the_same_from_every_format_and_number_of_threads(ending, tmp_path):
    """Users in the order of their first event, whatever the engine does side by side."""
    rng = np.random.default_rng(3)
    table = pd.DataFrame({name: rng.integers(0, most, 4000) for name, most in (("user", 300), ("item", 50), ("time", 900))})
    found = []
    for name, threads in (("csv", 1), (ending, 2)):
        (tmp_path / name).mkdir()
        path = tmp_path / name / f"log.{name}"
        {"csv": lambda p: table.to_csv(p, index=False), "tsv": lambda p: table.to_csv(p, index=False, sep="\t"),
         "data": lambda p: table.to_csv(p, index=False, header=False, sep="|"), "parquet": lambda p: table.to_parquet(p),
         "jsonl": lambda p: table.to_json(p, orient="records", lines=True)}[name](path)
        more = ["names=[user,item,time]", "delimiter='|'"] if name == "data" else []
        assert call("prepare", f"path={path}", f"out={tmp_path / name / 'out'}", f"threads={threads}", "core=3", *more) == 0
        found.append(json.loads((tmp_path / name / "out" / "report.json").read_text())["sha256 of the interactions"])
    assert found[0] == found[1] == digest.of_rows(tmp_path / "csv" / "out" / "interactions.parquet")


def test_exactly_this_file(tmp_path):
    """No pattern, and no columns from the names of folders."""
    (tmp_path / "user=7").mkdir()
    write = {"csv": lambda table, path: table.to_csv(path, index=False), "parquet": lambda table, path: table.to_parquet(path),
             "jsonl": lambda table, path: table.to_json(path, orient="records", lines=True)}
    for ending in write:
        for name, who in (("log[1]", "mine"), ("log1", "other")):
            write[ending](pd.DataFrame({"user": [who], "item": ["x"], "time": [1]}), tmp_path / "user=7" / f"{name}.{ending}")
        out = tmp_path / f"out[1]{ending}"
        assert call("prepare", f'path="{tmp_path / "user=7" / f"log[1].{ending}"}"', f'out="{out}"') == 0
        assert pq.read_table(out / "interactions.parquet")["user"].to_pylist() == ["mine"]


def test_tabs_part_cells_as_they_are(tmp_path):
    """Quotes are letters in TSV, as wherever else one is read."""
    text = 'user\titem\ttime\ttext\nu1\ti1\t1\t"best\nu2\ti2\t2\tfoo"\nu3\ti3\t3\t"LOVE" mug\n'
    events, items, _ = prepared(tmp_path, text, "text=text", ending="tsv")
    assert [x["user"] for x in events] == ["u1", "u2", "u3"] and [x["text"] for x in items] == ['"best', 'foo"', '"LOVE" mug']


def test_white_space_and_line_breaks(tmp_path, capsys):
    """What is left is read alike in training: no white space of any script around names, no line break in one."""
    text = ('user,item,time\n\u3000,a,1\nv\u00a0,a,2\nv,a,3\n"i\nj",a,4\nv,"b\u2028c",5\n\u2003w\x1f,a,6\n')
    events, _, report = prepared(tmp_path, text)
    assert [(x["user"], x["time"]) for x in events] == [("v", 2), ("v", 3), ("w", 6)]
    assert report["dropped rows"] == {"without user": 1, "line break in user": 1, "line break in item": 1}
    words = [f"data.path={tmp_path / 'out' / 'interactions.parquet'}", f"run_dir={tmp_path / 'run'}"]
    assert call("baseline", "experiment=next_item", "data=sequences", "baseline=popularity", *words) == 2
    assert "to at most the 1 items" in capsys.readouterr().err   # too few to rank, but all are read


def test_nothing_of_a_file_is_guessed(tmp_path):
    """No line is a comment, nor is the rest of a cell; a compressed file is what its name says before .gz."""
    lines = ["user,item,time", *(f"{'#' * (k % 10 == 0)}u{k % 40},i{k % 7} #5,{k}" for k in range(1000))]
    events, _, report = prepared(tmp_path, "\n".join(lines) + "\n", "duplicates=false")
    assert report["rows"] == len(events) == 1000 and sum(x["user"][0] == "#" for x in events) == 100
    assert {x["item"] for x in events} == {f"i{k} #5" for k in range(7)}
    windows = 'user,item,time,note\r\nu,a,1,"two\nlines"\r\nv,b,2,\r\n'
    (tmp_path / "windows").mkdir()
    events, items, _ = prepared(tmp_path / "windows", windows, "text=note")
    assert [x["user"] for x in events] == ["u", "v"] and [x["text"] for x in items] == ["two\nlines", None]
    for name, text in (("log.csv.gz", ",user,item,time,,\n0,u,a,1,,\n"), ("log.gz", "user,item,time\nu,a,1\n"),
                       ("log.jsonl.gz", '{"user": "u", "item": "a", "time": 1}\n')):
        (tmp_path / name).write_bytes(gzip.compress(text.encode()))
        assert call("prepare", f"path={tmp_path / name}", f"out={tmp_path / name}_") == 0
        assert pq.read_table(tmp_path / f"{name}_" / "interactions.parquet")["item"].to_pylist() == ["a"]


@pytest.mark.parametrize("ending,content,more,said", [
    ("csv", "user,item,time\nu,a,1\nu,a,1,2\n", [], "line 3: 4 fields, the header has 3"),
    ("csv", "user,item,time\nu,a\n", [], "line 2: 2 fields, the header has 3"),
    ("csv", "user;item;time\nu;a;1\n", [], "user: the log has no column 'user'; it has 'user;item;time'"),
    ("csv", "user,item,time\nu,\xe9,1\n".encode("latin-1"), [], "line 2: not UTF-8"),
    ("csv", 'user,item,time\nu,"a,1\nu,b,2\n', [], "line 2: unexpected end of data"),
    ("csv", "user,item,time\nu,a,1\r\nu,b,2\n", [], "line 2: lines end in different ways"),
    ("csv", "user,item,time,user\nu,a,1,v\n", [], "line 1: two columns are called 'user'"),
    ("csv", "User,item,time,user\nu,a,1,v\n", [], "two columns are called 'user', but for upper and lower case"),
    ("csv", "", [], "empty file"),
    ("dat", "u::a::1::9\n", ["names=[user,item,time]", "delimiter='::'"], "line 1: 4 fields, names has 3"),
    ("jsonl", '{"user": "u", "item": "a", "time": 1}\n\n{"user": "u", "item"\n', [], "line 3: not JSON"),
    ("jsonl", '{"user": "u", "item": "a", "time": 1}\n[1]\n', [], "line 2: not a JSON object"),
    ("json", '[{"user": "u", "item": "a", "time": 1}]\n', [], "line 1: not a JSON object"),
    ("csv.gz", "user,item,time\nu,a,1\n", [], "not a whole gzip file")])
def test_where_a_file_is_wrong(ending, content, more, said, tmp_path, capsys):
    """As wherever else one is read: the line, and what is wrong with it."""
    path = tmp_path / f"log.{ending}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert call("prepare", f"path={path}", f"out={tmp_path / 'out'}", *more) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_units_of_time(tmp_path, capsys):
    """Who has three events in a minute is a bot, in whatever unit the log counts; before 1970 too; what looks wrong is said."""
    minute = 60 * 10**7
    times = [("a", minute), ("a", minute + 20), ("a", minute + 59), ("b", minute + 60), ("c", -3)]
    for unit, count in (("s", 1), ("ms", 1000), ("us", 10**6), ("ns", 10**9)):
        (tmp_path / unit).mkdir()
        text = "user,item,time\n" + "".join(f"{user},i{n},{t * count + (count > 1)}\n" for n, (user, t) in enumerate(times))
        events, *_ = prepared(tmp_path / unit, text, f"time_unit={unit}", "most_a_minute=2")
        assert [x["time"] for x in events] == [minute + 60, -3] and "times go up" not in capsys.readouterr().out
    (tmp_path / "wrong").mkdir()
    report = prepared(tmp_path / "wrong", "user,item,time\nu,a,1600000000000\n")[2]
    assert report["latest time"] == 1600 * 10**9 and "in seconds the year 52671" in capsys.readouterr().out


@pytest.mark.parametrize("times", [
    ["2024-01-01T12:00:00.900Z", "2024-01-01T12:00:00.5Z", "2024-01-01 12:00:00,100"], [0.9, 0.5, 0.1],
    pd.to_datetime([900, 500, 100], unit="ms"), [1900, 1500, 1100],
    [1600000000999999900, 1600000000000000200, 1600000000000000100]])
def test_order_within_a_second(times, tmp_path):
    """The latest first in the file; two views of an item in one second are two, and no ties."""
    unit = {1900: "ms", 1600000000999999900: "ns"}.get(times[0], "s")
    path, more = tmp_path / "log.parquet", [f"time_unit={unit}"]
    pd.DataFrame({"user": "u", "item": ["b", "a", "a"], "time": times}).to_parquet(path)
    events, _, report = prepared(tmp_path, None, *more, ending="parquet")
    assert [x["item"] for x in events] == ["a", "a", "b"] and len({x["time"] for x in events}) == 1
    assert report["events at the same time of the same user"] == 0


def test_texts_stored_as_bytes(tmp_path):
    table = pa.table({"user": pa.array([b"u"]), "item": pa.array(["\u5546\u54c1".encode()]), "time": [1]})
    pq.write_table(table, tmp_path / "log.parquet")
    assert [x["item"] for x in prepared(tmp_path, None, ending="parquet")[0]] == ["\u5546\u54c1"]


@pytest.mark.parametrize("words,said", [
    (["item=thing"], "item: the log has no column 'thing'; it has 'user', 'item', 'time'"), (["core=9"], "no event is left after"),
    (["threads=-1"], "threads is -1, must be at least 1"),
    (['drop={item: "(?!a).*"}'], "invalid perl operator"), (["threads=0"], "threads is 0"),
    (["drop={shape: C}"], "drop.shape: the log has no column"), (["drop={item: '('}"], "not a regular expression"),
    (["core=0"], "core is 0"), (["attributes=[brand]"], "attributes: the log has no column 'brand'"),
    (["attributes=[item]"], "'item' is a column of items.parquet already"), (["path=5"], "path is 5"),
    (["attributes=[Item]"], "'Item' is a column of items.parquet already"), (["engine=polars"], "engine is 'polars'"),
    (["personal=hide"], "personal is 'hide'"), (["personal=mask", "countries=[UK]"], "countries: 'UK' is unknown"),
    (["near_duplicates=0.9"], "name their column"), (["near_duplicates=2", "text=item"], "near_duplicates is 2"),
    (["near_duplicate_events=0.9"], "near_duplicate_events compares texts: name their column"),
    (["near_duplicate_events=0", "text=item"], "near_duplicate_events is 0"),
    (["path=none.csv"], "none.csv"), (["sha256=abc"], "sha256 says abc"), (["log=nothing"], "nothing"),
    (["memory=lots"], "lots"), (["core=many"], "core is 'many'"), (["path=null"], "path is not set")])
def test_refused(words, said, tmp_path, capsys):
    """In one sentence, and nothing is written."""
    path = written(tmp_path / "log.csv", rows_of([(1, 1), (1, 2), (2, 1)]))
    given = {word.partition("=")[0]: word for word in (f"path={path}", f"out={tmp_path / 'out'}", *words)}
    assert call("prepare", *given.values()) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and sorted(x.name for x in tmp_path.iterdir()) == ["log.csv"]


def test_broken_rows_and_folders_that_are_there(tmp_path, capsys):
    path = written(tmp_path / "log.csv", "user,item,time\na,b,1\na,b,c,d,2\n")
    assert call("prepare", f"path={path}", f"out={tmp_path / 'out'}") == 2
    assert "log.csv" in capsys.readouterr().err and not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    assert call("prepare", f"path={path}", f"out={tmp_path / 'out'}") == 2
    assert "is there already" in capsys.readouterr().err and [x.name for x in (tmp_path / "out").iterdir()] == ["mine"]
    written(tmp_path / "log.csv", "user,item,time\na,b,1\n")
    (tmp_path / "like").mkdir()   # others may read it where they may read what lies beside it
    assert call("prepare", f"path={path}", f"out={tmp_path / 'new'}") == 0
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "like").stat().st_mode


@pytest.mark.parametrize("name,left", [("online_retail", (366555, 4101, 3151)), ("movielens_100k", (99287, 943, 1349))])
def test_shipped_and_known_logs(name, left, tmp_path, capsys):
    """And a run trains on what is written."""
    code = call("prepare", f"log={name}", f"out={tmp_path / 'out'}")
    said = capsys.readouterr()
    if code == 2 and name != "online_retail":
        assert "no file" in said.err and "grouplens" in said.err
        pytest.skip(said.err)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["events"], report["users"], report["items"]) == left and report["licence"]
    if name == "online_retail":
        return
    words = ["experiment=next_item", "data=sequences", f"data.path={tmp_path / 'out' / 'interactions.parquet'}", "debug=fast"]
    assert call("train", *words, "model.width=16", "tracker=[jsonl]", f"run_dir={tmp_path / 'run'}") == 0
