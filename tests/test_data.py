"""Tables to examples: read, clean, split, label, tokenise; what is wrong is named with its file and line."""

import csv
import json
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ecrec_jax.build import ASSETS
from ecrec_jax.data import clean, read, tokenise
from ecrec_jax.section import make
from ecrec_jax.types import Facts, InputError
from ecrec_jax.writing import fresh, writing
from experiments import vocabulary
from tests import world
from tests.conftest import GOLDEN

TOKENIZER = str(GOLDEN / "bert" / "masked_lm")
FILE = Path(__file__).parent.parent / "conf" / "data" / "file.yaml"
ROWS = [{"text": "soft, warm", "label": "good"}, {"text": 'a "quote"', "label": "bad"}, {"text": "连衣裙 é", "label": "good"}]


def test_several_labels_are_drawn_like_one(tmp_path):
    """Most cells are unique, and a fifth of the rows tests all the same; every label that tests is one that trains."""
    rng, names = np.random.default_rng(0), [f"l{k}" for k in range(20)]
    cells = ["|".join(rng.permutation(names)[: 1 + rng.binomial(19, 0.12)]) for _ in range(900)] + ["odd|l1", "l1|odd"]
    write(tmp_path / "a.csv", [{"text": "", "label": "odd"}, *({"text": f"text {i}", "label": x} for i, x in enumerate(cells))])
    corpus = load(tmp_path / "a.csv", target="multi", valid_fraction=0.1, test_fraction=0.2)
    sizes = {name: len(some) for name, some in corpus.examples.items()}
    assert abs(sizes["test"] - 180) <= 6 and abs(sizes["valid"] - 90) <= 6 and len({*cells}) > 700
    label = {name: np.array([e.label for e in some]) for name, some in corpus.examples.items()}
    assert (label["train"].sum(0) > 0).all()
    common = np.abs(label["test"].mean(0) - label["train"].mean(0))[[corpus.facts["labels"].index(name) for name in names]]
    assert common.max() < 0.08


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_arrays_are_several_labels(ending, tmp_path):
    """In any order, none among them; texts part theirs by the separator."""
    rows = [{"text": f"t{i}", "label": some} for i, some in enumerate([["a"], ["a", "b"], ["b"], ["b", "a"], []] * 20)]
    found = load(write(tmp_path / f"a.{ending}", rows), target="multi")
    assert found.facts["labels"] == ("a", "b") and {tuple(e.label) for e in found.examples["train"]} == {
        (1, 0), (1, 1), (0, 1), (0, 0)}


def test_bytes_and_odd_json(tmp_path):
    """Texts that a writer of Parquet left as bytes; numbers and nests that Python doesn't read."""
    pq.write_table(pa.table({"text": pa.array(["grön".encode(), None, b"dress"], pa.binary())}), tmp_path / "a.parquet")
    assert read.read(tmp_path / "a.parquet").columns["text"] == ["grön", None, "dress"]
    pq.write_table(pa.table({"text": pa.array([b"\xff\xfe"], pa.binary())}), tmp_path / "b.parquet")
    with pytest.raises(InputError, match="b.parquet: not a Parquet file of texts and numbers"):
        read.read(tmp_path / "b.parquet")
    for line in ('{"a": ' + "1" * 5000 + "}", "[" * 100_000):
        (tmp_path / "c.jsonl").write_text('{"a": 1}\n' + line + "\n")
        with pytest.raises(InputError, match="c.jsonl, line 2: not JSON"):
            read.read(tmp_path / "c.jsonl")


def test_no_column_and_one_label(tmp_path):
    write(tmp_path / "a.csv", [{"text": f"text {i}", "label": "a"} for i in range(30)])
    with pytest.raises(InputError, match="data.text_column is empty"):
        load(tmp_path / "a.csv", text_column=[])
    with pytest.raises(InputError, match="has only one value in the training split, 'a'"):
        load(tmp_path / "a.csv", target="multi", valid_fraction=0.1, test_fraction=0.2)


def test_a_cache_on_a_full_disk_leaves_nothing(tmp_path):
    """It costs time, not the run, and not more of the disk each time."""
    def write(file):
        file.write(b"1" * 10_000)
        raise OSError("No space left on device")

    tokenise.keep(tmp_path / "tokens" / "a.npz", write)
    assert list((tmp_path / "tokens").iterdir()) == []
    tokenise.keep(tmp_path / "tokens" / "a.npz", lambda file: file.write(b"whole"))
    assert [(x.name, x.read_bytes()) for x in (tmp_path / "tokens").iterdir()] == [("a.npz", b"whole")]


def test_a_file_is_whole_or_not_there(tmp_path):
    """What was there stays until the new one is whole; a folder is nobody's in between."""
    with writing(tmp_path / "new" / "a.txt") as part:
        part.write_text("1")
        assert not (tmp_path / "new" / "a.txt").exists()
    for name in ("a.txt", "b.txt"):
        with pytest.raises(KeyError), writing(tmp_path / "new" / name) as part:
            part.write_text("2")
            raise KeyError
    assert [(x.name, x.read_text()) for x in (tmp_path / "new").iterdir()] == [("a.txt", "1")]
    with pytest.raises(KeyError), fresh(tmp_path / "folder") as part:
        (part / "a").touch()
        raise KeyError
    assert [x.name for x in tmp_path.iterdir()] == ["new"]


def text(path, **changes):
    """conf/data/file.yaml as an object, with some keys changed."""
    node = yaml.safe_load(FILE.read_text()) | {"path": str(path) if isinstance(path, Path) else path, "root": "data"} | changes
    return make(node, "data", Facts())


def load(path, max_length=32, **changes):
    return text(path, **changes).load(TOKENIZER, max_length)


def write(path, rows, mark=""):
    """Rows as a file; its ending says how."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text(mark + "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    else:
        with open(path, "w", newline="", encoding="utf-8") as file:
            file.write(mark)
            plain = {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None} if path.suffix == ".tsv" else {}
            lines = csv.writer(file, **plain)
            lines.writerows([list(rows[0]), *([str(x) for x in row.values()] for row in rows)])
    return path


def many(labels, **columns):
    """Rows with a text of their own."""
    return [{"text": f"a nice dress number {i}", "label": str(label)} | {k: v[i] for k, v in columns.items()}
            for i, label in enumerate(labels)]


def indices(corpus, name):
    return [example.index for example in corpus.examples[name]]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_one_table_in_every_format(ending, mark, tmp_path):
    table = read.read(write(tmp_path / f"a.{ending}", ROWS, mark))
    assert table.columns == {name: [row[name] for row in ROWS] for name in ("text", "label")}
    assert table.place == [f"{'row' if ending == 'parquet' else 'line'} {i + (ending in ('csv', 'tsv')) + 1}" for i in range(3)]


def test_cells_that_are_no_text(tmp_path):
    rows = [{"text": "a\u2028b", "label": 1.0, "other": [1, "é"]}, {"text": None, "label": 2.5, "other": True}]
    found = read.read(write(tmp_path / "a.jsonl", rows)).columns
    assert found == {"text": ["a\u2028b", None], "label": ["1", "2.5"], "other": ['[1, "é"]', "true"]}
    pq.write_table(pa.table({"text": ["a", None], "when": pa.array([0, None], pa.date32()), "n": [1.0, float("nan")]}),
                   tmp_path / "a.parquet")
    assert read.read(tmp_path / "a.parquet").columns == {"text": ["a", None], "when": ["1970-01-01", None], "n": ["1", None]}
    far = pa.table({"day": pa.array([0, 4_000_000], pa.date32()), "moment": pa.array([0, 2**62], pa.timestamp("us"))})
    pq.write_table(far, tmp_path / "far.parquet")   # later than Python's last year
    found = read.read(tmp_path / "far.parquet").columns
    assert found["day"] == ["1970-01-01", "12921-08-18"] and found["moment"][0].startswith("1970-01-01") and found["moment"][1]


def test_quoted_newlines_keep_their_lines(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'text,label\r\n"one\r\ntwo",a\r\n\r\nthree,b\n')
    table = read.read(tmp_path / "a.csv")
    assert table.columns == {"text": ["one\r\ntwo", "three"], "label": ["a", "b"]} and table.place == ["line 2", "line 5"]


BROKEN = {
    "not UTF-8": ("a.csv", b"text,label\nok,a\ncaf\xe9,b\n", "a.csv, line 3: not UTF-8 (byte 0xe9)"),
    "not UTF-8 after a mark": ("a.csv", b"\xef\xbb\xbftext,label\nok,a\n\xe9,b\n", "a.csv, line 3: not UTF-8 (byte 0xe9)"),
    "UTF-16": ("a.csv", "text,label\n".encode("utf-16"), "a.csv, line 1: not UTF-8"),
    "too many fields": ("a.csv", b"text,label\nok,a\none,two,three\n", "a.csv, line 3: 3 fields, the header has 2"),
    "too few after a quoted one": ("a.csv", b'text,label\n"a\nb\nc",x\nalone\n', "a.csv, line 5: 1 fields, the header has 2"),
    "too few in a tsv": ("a.tsv", b'text\tlabel\n"5 inch\ta\nalone\n', "a.tsv, line 3: 1 fields"),
    "open quote": ("a.csv", b'text,label\nok,a\n"open,b\n', "a.csv, line 3: "),
    "one name twice": ("a.csv", b"text,text\na,b\n", "a.csv, line 1: two columns are called 'text'"),
    "bad JSON": ("a.jsonl", b'{"text": "a"}\n\n{"text": \n', "a.jsonl, line 3: not JSON"),
    "no JSON object": ("a.jsonl", b'{"text": "a"}\n[1]\n', "a.jsonl, line 2: not a JSON object"),
    "empty CSV": ("a.csv", b"", "a.csv: empty file"),
    "empty JSON": ("a.jsonl", b"\n", "a.jsonl: no rows"),
    "header only": ("a.csv", b"text,label\n", "a.csv: no rows"),
    "no Parquet": ("a.parquet", b"PAR1", "a.parquet: not a Parquet file"),
    "unknown ending": ("a.xlsx", b"", "a.xlsx: unknown ending '.xlsx'; known are .csv"),
    "missing column": ("a.csv", b"review,stars\na,1\n", "data.text_column: {} has no column 'text'; it has 'review', 'stars'"),
    "only empty texts": ("a.csv", b"text,label\n <br> ,1\n", "a.csv: no usable row to train on (1 rows, 1 without"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_named_with_their_line(case, tmp_path):
    name, content, words = BROKEN[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        load(tmp_path / name)
    assert words.format(tmp_path / name) in str(error.value) and "\n" not in str(error.value)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match=f"data.path: no file at no.csv or {tmp_path}/no.csv"):
        load("no.csv", root=str(tmp_path))
    with pytest.raises(InputError, match="leaves its package"):
        load("package:ecrec_jax/../pyproject.toml")
    with pytest.raises(InputError, match="assets is no file"):
        load("package:ecrec_jax/assets")
    write(tmp_path / "here.csv", many("ab" * 10))
    assert load("here.csv", root=str(tmp_path)).report["rows"] == 20


@pytest.mark.parametrize(("raw", "cleaned", "rules"), [
    ("<p>I <b>love</b><br/>it &amp; more</p>", "I love it & more", {"html", "white space"}),
    ("i <3 this, size a < b and 5 > 4", "i <3 this, size a < b and 5 > 4", set()),
    ("wide &lt;3 <!-- no --> fit", "wide <3 fit", {"html", "white space"}),
    ("x <y and z> w <a href='q>r' id=b>here</a>", "x <y and z> w here", {"html", "white space"}),
    ("zero\u200bwidth\x07 \ufeffbell", "zerowidth bell", {"control characters"}),
    ("half \ud83d pair", "half pair", {"control characters", "white space"}),
    ("cafe\u0301", "café", {"unicode form"}),
    ("  a\tb\n\nc\u00a0d ", "a b c d", {"white space"}),
    (None, "", set()),
])
def test_cleaning_and_its_counts(raw, cleaned, rules):
    counts = Counter()
    assert clean.clean(raw, counts) == cleaned
    assert {rule for rule, n in counts.items() if n} == rules and set(counts.values()) <= {0, 1}


def test_text_that_prints_has_no_control_characters():
    """Of all characters, those that are taken out are none that `str.isprintable` lets pass."""
    gone = clean.CONTROL.findall("".join(map(chr, range(sys.maxunicode + 1))))
    assert len(gone) == 65 - 3 + 3 + 2048 and not any(x.isprintable() for x in gone)   # all controls but tab, line feed, return


def test_cleaning_is_reported(tmp_path):
    rows = many("ab" * 10)
    rows[0]["text"], rows[1]["text"], rows[2]["label"] = "<b>nice</b>", " nice  dress", ""
    report = load(write(tmp_path / "a.csv", rows)).report
    assert report["cleaned"] == {"html": 1, "white space": 2} and report["dropped without text or label"] == 1


def test_drawn_splits_are_stratified(tmp_path):
    labels = ["a"] * 103 + ["b"] * 38 + ["c"] * 9
    corpus = load(write(tmp_path / "a.csv", many(labels)))
    parts = {name: indices(corpus, name) for name in corpus.examples}
    assert sorted(i for part in parts.values() for i in part) == list(range(150))   # disjoint, nothing lost
    for name, share in (("train", 0.7), ("valid", 0.1), ("test", 0.2)):
        assert all(part == sorted(part) for part in parts.values())
        for label in "abc":
            assert abs(sum(labels[i] == label for i in parts[name]) - share * labels.count(label)) <= 1.5, (name, label)
        assert abs(len(parts[name]) - share * 150) <= 1
    other = load(tmp_path / "a.csv", split_seed=1)
    assert indices(other, "test") != parts["test"] and indices(load(tmp_path / "a.csv"), "test") == parts["test"]


def test_tasks_of_one_file_share_their_test_set(tmp_path):
    rng = np.random.default_rng(0)
    rows = many(rng.integers(0, 2, 80), stars=[str(x) for x in rng.integers(1, 6, 80)], part=["x", "y"] * 40)
    rows[7]["part"], rows[8]["stars"] = "", ""
    write(tmp_path / "a.csv", rows)
    wanted = load(tmp_path / "a.csv", stratify_column="label")
    for changes in ({"label_column": "stars", "target": "number"}, {"label_column": "part"}, {"target": "none"}):
        found = load(tmp_path / "a.csv", stratify_column="label", **changes)
        for name in ("train", "valid", "test"):
            assert set(indices(found, name)) == set(indices(wanted, name)) - \
                {{"stars": 8, "part": 7}.get(changes.get("label_column"))}


def test_given_splits(tmp_path):
    names = ["train", "Training", "dev", "validation", "test", "TEST "] * 4
    write(tmp_path / "a.csv", many("ab" * 12, split=names))
    corpus = load(tmp_path / "a.csv", split_column="split")
    for name, spelled in (("train", names[:2]), ("valid", names[2:4]), ("test", names[4:6])):
        assert indices(corpus, name) == [i for i in range(24) if names[i] in spelled]
    write(tmp_path / "a.csv", many("ab" * 12, split=["train"] * 5 + ["tset"] + ["train"] * 18))
    with pytest.raises(InputError, match="a.csv, line 7: split 'tset' is none of train"):
        load(tmp_path / "a.csv", split_column="split")
    write(tmp_path / "a.csv", many("ab" * 12, split=["train"] * 20 + ["test"] * 4))
    corpus = load(tmp_path / "a.csv", split_column="split")   # valid is drawn from train
    assert indices(corpus, "test") == [20, 21, 22, 23] and 0 < len(indices(corpus, "valid")) < 5


def parted(folder, **texts):
    """{split: file} of lines."""
    for name, lines in texts.items():
        (folder / f"{name}.txt").write_bytes(lines.encode("latin-1"))
    return {name: str(folder / f"{name}.txt") for name in texts}


LINES = {"pattern": r"(?P<label>[A-Z]+)(:(?P<fine>\w+))? (?P<text>.*)", "encoding": "latin-1", "valid_fraction": 0.5}


def test_a_file_a_split(tmp_path):
    """Rows are numbered through train, valid, test, in whatever order the files are named; what has no file is drawn."""
    path = parted(tmp_path, test="A ten\n", valid="B eight\n", train="A:x one\nB:y caf\xe9 \x85 two\r\n\n B\nA three\nB four")
    path.pop("valid")
    with pytest.raises(InputError, match="train.txt, line 4: data.pattern doesn't fit ' B'"):
        load(path, **LINES)
    path |= parted(tmp_path, train="A:x one\nB:y caf\xe9 \x85 two\r\n\nA three\nB four")
    corpus = load(path, **LINES)
    assert (indices(corpus, "test"), corpus.texts["test"], len(corpus.examples["valid"])) == ([4], ["ten"], 2)
    path |= parted(tmp_path, valid="B eight\n")
    corpus = load(path, **LINES)
    assert corpus.texts == {"train": ["one", "café two", "three", "four"], "valid": ["eight"], "test": ["ten"]}
    assert [indices(corpus, name) for name in path if name != "train"] == [[5], [4]] and corpus.facts["labels"] == ("A", "B")
    before = corpus.digest
    parted(tmp_path, test="A eleven\n")
    assert load(path, **LINES).digest != before
    parted(tmp_path, test="A eleven\nC twelve\n")
    with pytest.raises(InputError, match="test.txt, line 2: label 'C' does not occur in the training split"):
        load(path, **LINES)
    write(tmp_path / "other.csv", many("ab"))
    write(tmp_path / "more.csv", many("ab", stars="12"))
    with pytest.raises(InputError, match="more.csv: column 'stars' is in this file or in .*other.csv, but not in both"):
        load({"train": str(tmp_path / "other.csv"), "test": str(tmp_path / "more.csv")})


def test_names_of_labels(tmp_path):
    """Labels come in the order of their names, cells that have none are refused, and two may share one."""
    write(tmp_path / "a.csv", many("102" * 4 + "2"))
    shown = {"2": "good", "1": "fair", "0": "good"}
    drawn = {"valid_fraction": 0, "test_fraction": 0}
    corpus = load(tmp_path / "a.csv", label_names=shown, **drawn)
    assert corpus.facts == {"labels": ("good", "fair"), "class_counts": (9, 4)}
    with pytest.raises(InputError, match=r"a.csv, line 3: label '0' is none of 2, 1 \(data.label_names\)"):
        load(tmp_path / "a.csv", label_names={"2": "good", "1": "fair"}, **drawn)
    write(tmp_path / "a.csv", many(["1|2", "2", "", "1"]))
    corpus = load(tmp_path / "a.csv", label_names=shown, target="multi", **drawn)
    assert corpus.facts == {"labels": ("good", "fair"), "class_counts": (2, 2)} and corpus.report["rows"] == 4


def test_a_vocabulary_is_of_the_texts_that_a_run_trains_on(tmp_path, capsys):
    """The drawn split is balanced by the labels, where there are some."""
    rows = many("aaaabbc" * 30)
    node = yaml.safe_load(FILE.read_text()) | {"path": str(write(tmp_path / "a.csv", rows)), "root": "data"}
    blind = load(tmp_path / "a.csv", target="none", label_column=None).texts["train"]
    assert vocabulary.training(node) == load(tmp_path / "a.csv").texts["train"] != blind
    assert not capsys.readouterr().out
    plain = node | {"path": str(write(tmp_path / "b.csv", [{"text": row["text"]} for row in rows]))}
    assert len(vocabulary.training(plain)) == 147 and "split without labels" in capsys.readouterr().out
    vocabulary.training(plain | {"target": "none", "label_column": None})
    assert not capsys.readouterr().out


def test_digests_and_where_to_get_a_file(tmp_path):
    path = write(tmp_path / "a.csv", many("ab" * 10))
    right = load(path).digest
    assert load(path, sha256=right).digest == right
    wrong = "0" * 64
    with pytest.raises(InputError, match=f"a.csv: its sha256 is {right}, data.sha256 says {wrong}"):
        load(path, sha256=wrong)
    assert load({"train": str(path)}, sha256={"train": right}).digest != right
    with pytest.raises(InputError, match=f"says {wrong}"):
        load({"train": str(path)}, sha256={"train": wrong})
    with pytest.raises(InputError, match=r"no file at .*b.csv; ask the shop for b.csv$"):
        load({"train": str(path), "test": str(tmp_path / "b.csv")}, source="ask the shop for b.csv")
    with pytest.raises(InputError, match=rf"ask the shop for b.csv; its sha256 is {wrong}$"):
        load({"train": str(path), "test": str(tmp_path / "b.csv")}, source="ask the shop for b.csv", sha256={"test": wrong})


@pytest.mark.parametrize(("changes", "words"), [
    ({"path": {"train": "a", "dev": "b"}}, "data.path: dev: b is not a split and a text; splits are train, valid, test"),
    ({"path": {"test": "a"}}, "data.path has no file for the split train"),
    ({"path": {"train": "a"}, "split_column": "s"}, "data.split_column is 's', but data.path has a file for each split"),
    ({"path": {"train": "a"}, "sha256": "0"}, "data.sha256 must name the splits that data.path names"),
    ({"path": {"train": "a"}, "sha256": {"test": "0"}}, "data.sha256 must name the splits"),
    ({"sha256": {"train": "0"}}, "data.sha256 must name the splits"),
    ({"path": 3}, "data.path is 3, expected text or pairs of texts or null"),
    ({"encoding": "klingon"}, "data.encoding: 'klingon' is no encoding"), ({"encoding": "hex"}, "data.encoding: 'hex' is no"),
    ({"pattern": "("}, r"data.pattern: '\(' is not a regular expression"),
    ({"pattern": "(.*)"}, "has no named group"),
    ({"label_names": {"1": 2}}, "data.label_names"),
    ({"target": "multi", "label_separator": ""}, "data.label_separator is empty"),
    ({"target": "multi", "label_names": {"a": "B|C"}}, "or stands in a name of data.label_names"),
])
def test_keys_about_files_that_are_refused(changes, words):
    with pytest.raises(InputError, match=words):
        text(**{"path": "a.csv"} | changes)


@pytest.mark.parametrize(("labels", "changes", "words"), [
    ("ab" * 10 + "c", {"split_column": "split"}, "a.csv, line 22: label 'c' does not occur in the training split .known: a, b"),
    ("a" * 21, {}, "'label' has only one value in the training split, 'a'"),
    (["1"] * 20 + ["2 stars"], {"target": "number", "split_column": "split"}, "a.csv, line 22: label '2 stars' is not a number"),
    (["1"] * 20 + ["nan"], {"target": "number", "split_column": "split"}, "a.csv, line 22: label 'nan' is not a number"),
    (["|"] * 21, {"target": "multi"}, "'label' has only one value in the training split, ''"),
    (["a|b"] * 20 + ["a|z"], {"target": "multi", "split_column": "split"}, "a.csv, line 22: label 'z' does not occur"),
])
def test_labels_that_are_refused(labels, changes, words, tmp_path):
    write(tmp_path / "a.csv", many(labels, split=["train"] * 18 + ["dev"] + ["test"] * 2))
    with pytest.raises(InputError, match=words):
        load(tmp_path / "a.csv", **changes)


def test_kinds_of_targets(tmp_path):
    drawn = {"valid_fraction": 0, "test_fraction": 0}
    write(tmp_path / "a.csv", many(["10", "2", "2", "9"]))
    corpus = load(tmp_path / "a.csv", **drawn)
    assert corpus.facts == {"labels": ("2", "9", "10"), "class_counts": (2, 1, 1)}   # in order of size
    assert [example.label for example in corpus.examples["train"]] == [2, 0, 0, 1]
    corpus = load(tmp_path / "a.csv", target="number", **drawn)
    assert corpus.facts == {"center": 5.75, "scale": pytest.approx(np.std([10, 2, 2, 9]))}
    write(tmp_path / "a.csv", many(["red| blue", "blue|", "green|red|red", "red"]))
    corpus = load(tmp_path / "a.csv", target="multi", **drawn)
    assert corpus.facts == {"labels": ("blue", "green", "red"), "class_counts": (2, 1, 3)}
    assert np.array([e.label for e in corpus.examples["train"]]).tolist() == [[1, 0, 1], [1, 0, 0], [0, 1, 1], [0, 0, 1]]
    assert corpus.examples["train"][0].label.dtype == np.float32
    corpus = load(tmp_path / "a.csv", target="none", valid_fraction=0.25, test_fraction=0.25)
    known = np.concatenate([e.tokens for e in corpus.examples["train"]])
    assert len(corpus.examples["train"]) == 2 and corpus.facts == {"token_counts": tuple(np.bincount(known))}   # of train alone


def test_pairs_joins_and_truncation(tmp_path):
    write(tmp_path / "a.csv", many("aabb" * 5, title=["", "nice"] * 10, body=["soft dress " * 20] * 20))
    pair = load(tmp_path / "a.csv", 16, text_column="title", text_pair_column="body").examples["train"][0]
    tokens = tokenise.load(TOKENIZER)
    assert pair.tokens.tolist() == tokens("nice", "soft dress " * 20, truncation=True, max_length=16)["input_ids"]
    assert pair.type.tolist() == [0] * (len(tokens("nice")["input_ids"])) + [1] * (16 - len(tokens("nice")["input_ids"]))
    joined = load(tmp_path / "a.csv", 16, text_column=["title", "text"])
    assert joined.texts["train"][:2] == [f"{'nice ' * (i % 2)}a nice dress number {i}" for i in indices(joined, "train")[:2]]
    lengths = [len(tokens(f"a nice dress number {i}")["input_ids"]) for i in range(20)]
    assert load(tmp_path / "a.csv", 7).report["truncated"] == sum(n > 7 for n in lengths) > 0
    assert load(tmp_path / "a.csv", max(lengths)).report["truncated"] == 0


def test_texts_shared_by_splits_are_counted(tmp_path):
    rows = many("ab" * 6, split=["train"] * 6 + ["dev"] * 3 + ["test"] * 3)
    rows[6]["text"] = rows[9]["text"] = rows[0]["text"]      # of train, in valid and test
    rows[10]["text"] = rows[7]["text"]                       # of valid, in test
    rows[1]["text"] = rows[2]["text"]                        # inside train: not counted
    report = load(write(tmp_path / "a.csv", rows), split_column="split").report
    assert report["texts of valid or test that also stand in an earlier split"] == 3


@pytest.mark.parametrize(("changes", "sizes"), [
    ({"train_fraction": 0.25}, (20, 20, 20)), ({"limit": 8}, (8, 8, 8)), ({"train_fraction": 0.25, "limit": 12}, (12, 12, 12))])
def test_part_of_a_sorted_file_keeps_its_classes(changes, sizes, tmp_path):
    """BANKING77's training split is sorted by intent: the first rows of it are no sample."""
    labels = ["a"] * 60 + ["b"] * 20 + ["a"] * 15 + ["b"] * 5 + ["a"] * 15 + ["b"] * 5
    write(tmp_path / "a.csv", many(labels, split=["train"] * 80 + ["dev"] * 20 + ["test"] * 20))
    corpus, whole = (load(tmp_path / "a.csv", split_column="split", **c) for c in (changes, {}))
    for name, size in zip(("train", "valid", "test"), sizes, strict=True):
        found = indices(corpus, name)
        assert len(found) == size and set(found) <= set(indices(whole, name)) and found == sorted(found)
        assert sum(labels[i] == "b" for i in found) == size / 4
    assert corpus.facts == {"labels": ("a", "b"), "class_counts": (sizes[0] * 3 // 4, sizes[0] // 4)}


SETS = {"sst2": ((6920, 872, 1821), 2), "sst5": ((8544, 1101, 2210), 5), "trec": ((4907, 545, 500), 6),
        "financial_phrasebank": ((3489, 388, 969), 3), "chnsenticorp": ((9600, 1200, 1200), 2),
        "reviews_stars": ((15843, 2271, 4528), 5)}


@pytest.mark.parametrize("name", SETS)
def test_data_sets_have_their_rows(name):
    """Official splits whole; a tenth of TREC's 5,452 drawn for validation, a fifth of 4,846 sentences for testing; the stars
    on the split of every task on the reviews."""
    node = world.composed(f"data={name}")["data"]
    try:
        corpus = make(node, "data", Facts()).load(TOKENIZER, 16)
    except InputError as error:
        assert node["source"] and str(error).startswith("data.path: no file") and f"{node['source']}; its sha256 is " in str(error)
        pytest.skip(str(error))
    sizes, classes = SETS[name]
    assert tuple(len(corpus.examples[split]) for split in corpus.examples) == sizes and len(corpus.facts["labels"]) == classes
    assert not node["label_names"] or list(corpus.facts["labels"]) == list(node["label_names"].values())


def test_the_chinese_vocabulary_parts_characters():
    found = tokenise.load(str(ASSETS / "bert_chinese"))
    assert len(found) == 21128 and found.tokenize("这件T恤很好看, ok！") == [*"这件t恤很好看,", "ok", "！"]


@pytest.mark.parametrize("spoil", [b"", b"PK\x03\x04", b"\x80\x04junk", None])
def test_token_cache(spoil, tmp_path, monkeypatch):
    monkeypatch.setenv("ECREC_CACHE", str(tmp_path))
    texts = [f"a soft dress {i}" for i in range(20)]
    first = tokenise.tokenise(TOKENIZER, texts, None, 8)
    file, = (tmp_path / "tokens").iterdir()
    before = file.read_bytes()
    file.write_bytes(before[: len(before) // 2] if spoil is None else spoil)
    again = tokenise.tokenise(TOKENIZER, texts, None, 8)
    monkeypatch.setattr(tokenise, "load", None)   # from here on only the cache can answer
    kept = tokenise.tokenise(TOKENIZER, texts, None, 8)
    for found in (again, kept):
        assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(found, first, strict=True))
    assert first.tokens.dtype == first.type.dtype == np.int32 and list((tmp_path / "tokens").iterdir()) == [file]
    for other in ((TOKENIZER, texts, None, 9), (TOKENIZER, texts[1:], None, 8), (TOKENIZER, texts, texts, 8)):
        with pytest.raises(TypeError):
            tokenise.tokenise(*other)


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:9]),
                                   lambda path: path.write_text("[]")])
def test_kept_facts_of_a_tokenizer(spoil, tmp_path, monkeypatch):
    monkeypatch.setenv("ECREC_CACHE", str(tmp_path))
    first = tokenise.facts(TOKENIZER)
    [path] = (tmp_path / "tokenizers").iterdir()
    with monkeypatch.context() as only:
        only.setattr(tokenise, "load", None)
        assert tokenise.facts(TOKENIZER) == first and first["special_ids"] == tuple(sorted(first["special_ids"]))
    spoil(path)
    assert tokenise.facts(TOKENIZER) == first and path.exists()


def test_a_vocabulary_alone_is_no_tokenizer(tmp_path):
    """The refusal says what to put beside it, and with that it is one."""
    shutil.copy(GOLDEN / "bert" / "vocab.txt", tmp_path)
    with pytest.raises(InputError, match="vocab.txt alone") as refusal:
        tokenise.load(str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text(re.search(r"\{.*\}", str(refusal.value))[0])
    one, other = (tokenise.load(folder)("A Nice dress, unaffable 连衣裙")["input_ids"] for folder in (str(tmp_path), TOKENIZER))
    assert one == other


def test_every_data_set_is_documented():
    """Its yaml and its files, where they have to be got, with the digest of each."""
    text = (FILE.parents[2] / "docs" / "datasets.md").read_text(encoding="utf-8")
    for name in set(world.names("data")) - {"file", "file_number", "behaviour", "reviews"}:
        node = world.composed(f"data={name}")["data"]
        assert f"`{name}`" in text, name
        if node.get("source"):
            digests = node["sha256"].values() if isinstance(node["sha256"], dict) else [node["sha256"]]
            digests = [*digests, *([node["attributes_sha256"]] if node.get("attributes") else []),
                       *(other["sha256"] for other in (node.get("tables") or {}).values())]
            assert len(digests) >= (len(node["path"]) if isinstance(node["path"], dict) else 1)
            assert all(re.fullmatch("[0-9a-f]{64}", x or "") for x in digests), name
            first, *rest = node["path"].values() if isinstance(node["path"], dict) else [node["path"]]
            assert f"`{first}`" in text and all(Path(path).name in text or f"`{Path(path).suffix}`" in text for path in rest)
