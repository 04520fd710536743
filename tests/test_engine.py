"""DuckDB and Spark write the same rows. Skipped without PySpark and Java: docs/prepare.md says how to run it."""

import csv
import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecrec_jax.data import digest
from tests.test_commands import call

pytest.importorskip("pyspark")
if shutil.which("java") is None:
    pytest.skip("no Java", allow_module_level=True)

TIMES = ["2020-01-01T02:00:00+02:00", "2020-01-01 00:00:00Z", "2019-12-31T19:00:00.5-0500", "2020-01-01", "nan", "inf", "-Infinity",
         "0.7", "-0.5", "9007199254740993", "9007199254740992", "1e3", "1577836800.9", "soon", "", " 77 ", "2020-02-30", "1e400",
         "99999999999999999999", "1970-01-01T00:00:00+14:00", "+5", "7.", "1_000", "0x10", "1d", "1f", "5L",
         "1577836800000000001", "9223372036854775808"]
NAMES = ['a "quoted" name', "two\nlines", "crème brûlée", "日本語のタイトル", "👟 shoes, red", "", "  space ", "tab\there", "it's",
         "back\\slash", "İstanbul", "NULL", "null", "\u00a0wide\u00a0", '"', "\u3000\x1f", "\u2028two\u2028lines\x85"]
USERS = ["u1", "u2", "é", " u1", "", "10.0", "7", "Ü x", "\u3000u2\u00a0", "\u2003", "u\u2028v"]
KINDS = ["view", "buy", "", "C1", "C\nx"]
PRICES = ["1.25", "1.65", "nan", "inf", "", "-3", "0.1", "0.2", "1e-7", "abc", "1e400"]


def adversarial():
    """Every strange cell beside every other one sooner or later, with repeated rows and equal times."""
    rows = [{"user": USERS[i % len(USERS)], "item": ["i1", "i2", "i3", "", "商品"][i * 7 % 5],
             "time": TIMES[i * 5 % len(TIMES)], "type": KINDS[i % 3 * (i % 2) + i // 50 % 3], "quantity": str(i % 4 - 1),
             "price": PRICES[i % len(PRICES)], "text": NAMES[i * 11 % len(NAMES)],
             "brand": NAMES[i * 13 % 7]} for i in range(1200)]
    return pd.DataFrame([*rows, *rows[:300]])


def both(folder, *words):
    """[(interactions, items, report)] of the two engines."""
    found = []
    for engine in ("duckdb", "pyspark"):
        out = folder / engine
        assert call("prepare", f'out="{out}"', f"engine={engine}", *words) == 0
        tables = [pq.read_table(out / f"{name}.parquet") for name in ("interactions", "items")]
        assert digest.of_rows(out / "interactions.parquet") == json.loads((out / "report.json").read_text())[
            "sha256 of the interactions"]
        assert not list(out.glob("spill*"))
        found.append((*tables, json.loads((out / "report.json").read_text())))
    return found


def equal(folder, *words):
    """The interactions, after both engines wrote the same."""
    ours, theirs = both(folder, *words)
    for mine, other in zip(ours[:2], theirs[:2], strict=True):
        assert [(x.name, x.type) for x in mine.schema] == [(x.name, x.type) for x in other.schema]
        assert mine.to_pylist() == other.to_pylist()
    assert ours[2] == theirs[2]
    for name in ("merged.parquet", "copies.parquet", "DATA.md"):
        found = [folder / engine / name for engine in ("duckdb", "pyspark")]
        assert found[0].exists() == found[1].exists() and (not found[0].exists() or found[0].read_bytes() == found[1].read_bytes())
    return ours[0].to_pylist(), ours[2]


def test_online_retail(tmp_path):
    assert len(equal(tmp_path, "log=online_retail")[0]) == 366555


def test_near_duplicates_and_personal_data(tmp_path):
    """Python's part is the same after either engine."""
    rows = [(f"u{i % 9}", f"i{i % 40}", i, f"{['Red', 'red', 'Green'][i % 40 % 3]} cup {i % 40 // 4}, ask jo@example.com")
            for i in range(400)]
    pd.DataFrame(rows, columns=["user", "item", "time", "text"]).to_csv(tmp_path / "log.csv", index=False)
    for name, words in (("items", ["near_duplicates=0.8", "personal=mask", "core=3"]), ("events", ["near_duplicate_events=0.95"])):
        (tmp_path / name).mkdir()
        events, report = equal(tmp_path / name, f"path={tmp_path / 'log.csv'}", "text=text", *words)
        if name == "items":
            assert events and report["near-duplicates"]["items merged"] > 5 and report["personal data"]["found"]["email"] > 5
        else:
            assert 5 < len(events) < 40 and report["dropped rows"]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet", "data"])
def test_adversarial(ending, tmp_path):
    table, path = adversarial(), tmp_path / f"log.{ending}"
    plain = table.replace(r"[\t\n]", " ", regex=True)   # TSV has no quotes
    {"csv": lambda: table.to_csv(path, index=False),
     "tsv": lambda: plain.to_csv(path, index=False, sep="\t", quoting=csv.QUOTE_NONE),
     "jsonl": lambda: table.to_json(path, orient="records", lines=True), "parquet": lambda: table.to_parquet(path),
     "data": lambda: table.to_csv(path, index=False, header=False, sep="|")}[ending]()
    more = [f"names=[{','.join(table.columns)}]", "delimiter='|'"] if ending == "data" else []
    events, _ = equal(tmp_path, f"path={path}", "type=type", "quantity=quantity", "price=price", "text=text", "attributes=[brand]",
                   "drop={type: C.*}", "least={quantity: 0}", "core=2", "most_a_minute=300", *more)
    assert len(events) > 100 and {x["user"] for x in events} >= {"u1", "é"}


@pytest.mark.parametrize("unit", ["s", "ms", "ns"])
def test_units_and_what_is_within_a_second(unit, tmp_path):
    """Of a compressed log with a column without name, and one with a strange one."""
    rng = np.random.default_rng(0)
    count = {"s": 1, "ms": 1000, "ns": 10**9}[unit]
    rows = pd.DataFrame({"": range(400), "user": rng.integers(0, 9, 400), "item": rng.integers(0, 30, 400), "a`b": "x",
                         "time": rng.integers(-3 * count, 90 * count, 400)})
    if unit == "s":
        rows["time"] = [f"2020-01-01T00:00:{t % 60:02d}.{t % 7}{t % 10}Z" for t in rng.integers(0, 900, 400)]
    rows.to_csv(tmp_path / "log.csv.gz", index=False)
    assert len(equal(tmp_path, f"path={tmp_path / 'log.csv.gz'}", f"time_unit={unit}", "most_a_minute=60")[0]) > 50


@pytest.mark.parametrize("content,said", [("user,item,time\nu,a,1\nu,a,1,2\n", "line 3: 4 fields, the header has 3"),
                                          ("user,item,time,item\nu,a,1,2\n", "two columns are called 'item'")])
def test_where_a_file_is_wrong(content, said, tmp_path, capsys):
    (tmp_path / "log.csv").write_text(content)
    assert call("prepare", f"path={tmp_path / 'log.csv'}", f"out={tmp_path / 'out'}", "engine=pyspark") == 2
    assert said in capsys.readouterr().err


def test_exactly_this_file(tmp_path):
    """No pattern, no columns from the names of folders, texts stored as bytes."""
    (tmp_path / "user=7").mkdir()
    for name, user in (("log[1]{2}", "é"), ("log1", "b")):
        table = pa.table({"user": pa.array([user.encode()]), "item": ["x"], "time": [1]})
        pq.write_table(table, tmp_path / "user=7" / f"{name}.parquet")
        table.to_pandas().assign(user=user).to_csv(tmp_path / "user=7" / f"{name}.csv", index=False)
    for ending in ("parquet", "csv"):
        (tmp_path / f"out[1]{ending}").mkdir()
        path = f'path="{tmp_path / "user=7" / "log[1]{2}"}.{ending}"'
        assert [x["user"] for x in equal(tmp_path / f"out[1]{ending}", path)[0]] == ["é"]


def test_typed_columns(tmp_path):
    """Floats with gaps, big integers, timestamps of a zone and without one."""
    for name, times in (("zone", pa.array([0, 1_500_000, None, -1], pa.timestamp("us", "Asia/Tokyo"))),
                        ("plain", pa.array([0, 1_500_000, None, -1], pa.timestamp("us"))),
                        ("float", pa.array([0.7, float("nan"), float("inf"), 5.0])),
                        ("big", pa.array([2**53 + 1, 2**53, None, 7]))):
        (tmp_path / name).mkdir()
        table = pa.table({"user": pa.array([1.0, None, 2.5, 3.0]), "item": pa.array([7, 8, 9, 10]), "time": times})
        pq.write_table(table, tmp_path / name / "log.parquet")
        assert equal(tmp_path / name, f"path={tmp_path / name / 'log.parquet'}"), name


def test_refused(tmp_path, capsys):
    """In one sentence of ours on either engine."""
    path = tmp_path / "log.csv"
    path.write_text("user,item,time\na,b,1\na,b,c,d,2\n")
    for words, said in (([], "log.csv"), (["memory=lots"], "lots"), (["item=thing"], "no column 'thing'")):
        assert call("prepare", f"path={path}", f"out={tmp_path / 'out'}", "engine=pyspark", *words) == 2
        assert said in capsys.readouterr().err.strip().splitlines()[-1] and not (tmp_path / "out").exists()
