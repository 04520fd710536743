"""Cells of tables on made-up runs: which folder is whose, what makes one stale, and what lines say of those that are done."""

import csv
import dataclasses
import fcntl
import json
import re
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ecrec_jax import source
from ecrec_jax.types import InputError
from experiments import compare, inputs, latex, lines, record, rows, sheet, table
from experiments.cell import Cell
from tests import world
from tests.test_architecture import SOURCES
from tests.test_commands import call
from tests.test_tables import rows_word

COLUMNS = {"test/accuracy": {"title": "accuracy", "digits": 3}, "test/roc_auc": {"title": "ROC-AUC", "digits": 3}}


def made(folder, row, seed, values, right=(), code=None, source=None, **about):
    """A cell whose run is done, if it has values; `right`: which of its examples it got right."""
    config = world.composed("experiment=sentiment") | {"seed": seed} | about
    cell = Cell(row, seed, "train", [], config, folder / row / f"seed{seed}", source)
    if values is not None:
        (cell.folder / "predictions").mkdir(parents=True)
        (cell.folder / "summary.json").write_text(json.dumps({f"test/{key}": x for key, x in values.items()}))
        (cell.folder / "environment.json").write_text(json.dumps({"code": code or record.code_hash()}))
        answers = {"example": list(range(len(right))), "label_id": [0] * len(right), "prediction_id": [int(not x) for x in right],
                   "scores": [[x, 1.0 - x] for x in map(float, right)]}
        pq.write_table(pa.table(answers), cell.folder / "predictions" / "test.parquet")
    return cell


def line_of(cells, published=None):
    """The one line of a table of one row."""
    row = {"name": cells[0].row, "against": [], "published": published}
    return lines.lines_of({"columns": COLUMNS}, [row], {(c.row, c.seed): c for c in cells})[0]


@pytest.mark.parametrize("about,said", [
    ({"value": 0.92}, "0.920, -0.020: within 5%"), ({"value": 0.8}, "0.800, +0.100: outside 5%"),
    ({"value": 0.8, "std": 0.05}, "0.800 ± 0.050, +0.100: within 2 σ"), ({"value": 0.8, "std": 0.04}, "outside 5%"),
    ({"value": 0.8, "tolerance": 0.2}, "within 20%"), ({"value": 0.91, "tolerance": 0}, "outside 0%"),
    ({"value": 0.9, "beside": "another split"}, "0.900, +0.000: beside")])
def test_verdict(about, said, tmp_path):
    cells = [made(tmp_path, "a", seed, {"accuracy": 0.9}) for seed in range(3)]
    assert lines.verdict(line_of(cells, {"test/accuracy": about | {"source": "B"}}), "test/accuracy", 3).endswith(said)


@pytest.mark.parametrize("baseline,said", [(None, "too few seeds"), ({"_target_": "Tfidf"}, "within 5%"),
                                           ({"_target_": "Als", "seed": 0}, "too few seeds")])
def test_only_what_chance_has_a_part_in_needs_seeds(baseline, said, tmp_path):
    """A baseline that starts from random numbers is no surer than a model."""
    about = {} if baseline is None else {"baseline": baseline}
    cells = [made(tmp_path, "a", seed, {"accuracy": 0.9}, **about) for seed in (0, 1)]
    assert said in lines.verdict(line_of(cells, {"test/accuracy": {"value": 0.9, "source": "B"}}), "test/accuracy", 3)


def test_a_row_of_which_some_runs_failed(tmp_path, capsys):
    """Its numbers are those of the others, and it says so wherever it stands."""
    cells = [made(tmp_path, "a", seed, {"accuracy": 0.8 + 0.1 * seed}) for seed in range(2)] + [made(tmp_path, "a", 2, None)]
    cells[2].error = "no | space"
    held = {"title": "T", "columns": COLUMNS}
    sheet.write(held, [{"name": "a", "against": []}], {(c.row, c.seed): c for c in cells}, tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert "| a | 2 of 3 | [0.850 ± 0.071](a/) | no \\| space |" in text and "a: no | space" in text
    assert "% a: no | space" in (tmp_path / "table.tex").read_text()
    with open(tmp_path / "table.csv", newline="") as file:
        first, second = csv.DictReader(file)
    assert first["n"] == "2" and second["n"] == "0" and first["trouble"] == second["trouble"] == "no | space"
    assert latex.number(line_of(cells), "test/roc_auc", 3) == "--"
    assert "test/roc_auc: no run says it; they say test/accuracy" in text   # a column with a slip of the pen


def test_what_is_not_compared_is_named(tmp_path):
    """Columns without a test over examples, rows on other examples; where much is compared p can still be small."""
    right = [[True] * 36 + [False] * 4, [True] * 20 + [False] * 20, [True] * 30]
    cells = [made(tmp_path, name, seed, {"accuracy": sum(x) / len(x), "roc_auc": 0.5}, x)
             for name, x in zip("abc", right, strict=True) for seed in range(3)]
    found, left = compare.pairs([{"name": name, "against": []} for name in "abc"], {(c.row, c.seed): c for c in cells}, COLUMNS)
    assert [(pair.first, pair.second, pair.column) for pair in found] == [("b", "a", "test/accuracy")] and found[0].holm < 0.01
    assert left == ["ROC-AUC: no test of it over examples", *(f"c and {name}: tested on other examples" for name in "ab")]
    many = {f"m{i}" if i < 14 else "b": cells[:3] if i < 14 else cells[3:6] for i in range(15)}
    copies = {(name, c.seed): dataclasses.replace(c, row=name) for name, mine in many.items() for c in mine}
    one = {"test/accuracy": COLUMNS["test/accuracy"]}
    found, _ = compare.pairs([{"name": name, "against": []} for name in many], copies, one)
    assert len(found) == 105 and max(pair.holm for pair in found if pair.first == "b") < 0.05   # 2,000 exchanges would give .052


def test_a_run_from_another_is_as_old_as_that(tmp_path):
    """Other code made the run that it starts from: it is marked, and made again with it."""
    old = made(tmp_path, "a", 0, {"accuracy": 0.5}, code="other")
    new = made(tmp_path, "b", 0, {"accuracy": 0.5}, source=old)
    assert new.stale() and line_of([new]).marks == "†"
    fresh = made(tmp_path, "c", 0, {"accuracy": 0.5}, source=made(tmp_path, "d", 0, {"accuracy": 0.5}))
    assert not fresh.stale() and line_of([fresh]).marks == ""


def test_what_was_begun_by_other_code_is_stale_too(tmp_path):
    """Unless somebody works on it."""
    cell = made(tmp_path, "a", 0, None)
    cell.folder.mkdir(parents=True)
    (cell.folder / "environment.json").write_text('{"code": "other"}')
    assert cell.begun() and cell.stale() and not dataclasses.replace(cell, folder=tmp_path / "none").begun()
    with open(cell.folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not cell.begun()


def test_digests_of_files_are_no_part_of_a_run():
    """Nor is debug=nan, which only looks; the other ways of debugging make other runs."""
    items = {"path": "b", "key": "item"}
    plain = {"seed": 0, "debug": None, "data": {"path": "a", "sha256": None, "tables": {"items": items}}}
    named = {"seed": 0, "debug": "nan", "data": {"path": "a", "sha256": "1", "tables": {"items": items | {"sha256": "2"}}}}
    assert record.compared(plain) == record.compared(named) != record.compared(plain | {"debug": "fast"})


def test_names_that_latex_would_take_for_a_height(tmp_path):
    cells = [made(tmp_path, "[CLS] *pooling*", 0, {"accuracy": 0.9})]
    text = latex.tabular({"title": "two\nlines", "columns": COLUMNS}, [line_of(cells)])
    assert "{[}CLS] {*}pooling{*}" in text and text.startswith("% two lines; needs")


def test_code_is_the_package_and_the_commands(tmp_path, monkeypatch):
    for part in ("ecrec_jax", "experiments", "tests"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "a.py").write_text("1")
    monkeypatch.setattr(record, "ROOT", tmp_path)
    first, found = record.code_hash.__wrapped__(), {}
    for part in ("ecrec_jax", "experiments", "tests"):
        (tmp_path / part / "a.py").write_text("2")
        found[part] = record.code_hash.__wrapped__() != first
        (tmp_path / part / "a.py").write_text("1")
    assert found == {"ecrec_jax": True, "experiments": True, "tests": False}


def test_the_best_of_those_tested_on_the_same(tmp_path):
    """Rows of other splits of one file are no rivals."""
    about = lambda name, **data: made(tmp_path, name, 0, {"accuracy": 0.9 if name == "a" else 0.8},  # noqa: E731
                                      data=world.composed("experiment=sentiment")["data"] | data)
    for other, places in (({}, [1, 2]), ({"batch_size": 7}, [1, 2]), ({"split_seed": 5}, [0, 0]), ({"test_fraction": 0.3}, [0, 0])):
        cells = [about("a"), about("b", **other)]
        found = lines.lines_of({"columns": COLUMNS}, [{"name": "a"}, {"name": "b"}], {(c.row, c.seed): c for c in cells})
        assert [line.numbers["test/accuracy"].place for line in found] == places, other
        for cell in cells:
            shutil.rmtree(cell.folder)


@pytest.mark.parametrize("trouble,said", [
    ("model.checkpoint: a/b is not here yet; the hub is asked for it when it is needed", "checkpoint not here"),
    ("model.checkpoint: runs/x is no folder, and can't be a hub id", "checkpoint not here"),
    ("model.checkpoint: the classes of X are 3 (a, b, c), of the data 2", "model.checkpoint: the classes of X are"),
    ("data.path: no file at x", "data not here"), ("no | room", "no \\| room")])
def test_why_there_is_no_number(trouble, said):
    assert lines.short(trouble).startswith(said)


def test_copies_that_a_seed_draws_are_chance(tmp_path):
    assert not made(tmp_path, "a", 0, None, baseline={"_target_": "Tfidf"}).chance()
    data = world.composed("experiment=sentiment")["data"] | {"augment": {"swap": {}}}
    assert made(tmp_path, "a", 0, None, baseline={"_target_": "Tfidf"}, data=data).chance()


def test_what_a_row_starts_from_lies_where_it_can_be_read(tmp_path):
    """A BERT is exported; what no other library knows is a run."""
    bert = made(tmp_path, "a", 0, None)
    other = made(tmp_path, "b", 0, None, model=world.composed("experiment=sentiment", "model=bilstm")["model"])
    assert bert.start() == bert.folder / "export" and other.start() == other.folder


def test_a_row_is_checked_before_anything_runs():
    """Not when its runs are done."""
    row = {"name": "a", "seeds": 2}
    assert rows.rows_of({"title": "T", "columns": {}, "rows": [row], "seeds": [0]})[0]["seeds"] == [0, 1]
    column = {"test/accuracy": {"title": "accuracy", "digits": 3}}
    for wrong, said in (({"seeds": "3"}, "seeds is '3'"), ({"grid": ["a"]}, "grid must be"), ({"grid": {"a": "b"}}, "grid must be"),
                        ({"published": {"test/accuracy": {"value": "0.9", "source": "B"}}}, "value is '0.9', must be a number"),
                        ({"published": {"test/accuracy": {"value": 1, "std": True, "source": "B"}}}, "std is True, must be"),
                        ({"published": {"test/accuracy": {"value": None, "source": "B"}}}, "value is None, must be a number"),
                        ({"published": 0.9}, "published must be"),
                        ({"overrides": [{"experiment": "sentiment"}]}, "must be texts such"),
                        ({"overrides": 3}, "overrides are 3, must be texts"), ({"grid": {"a": {"b": 3}}}, "must be texts such")):
        with pytest.raises(InputError, match=said):
            rows.rows_of({"title": "T", "columns": column, "rows": [{"name": "a"} | wrong], "seeds": [0]})
    for about, said in (({"columns": {"x": {"title": "x", "digits": "3"}}}, "digits: NUMBER"), ({"title": 1}, "table needs title"),
                        ({"columns": {x: {"title": "same", "digits": 3} for x in "ab"}}, "two of them have the title 'same'"),
                        ({"columns": {"x": None}}, "digits: NUMBER"),
                        ({"columns": ["x"]}, "table needs title"), ({"rows": None}, "table needs title")):
        with pytest.raises(InputError, match=said):
            rows.rows_of({"title": "T", "columns": {}, "rows": [], "seeds": [0]} | about)
    with pytest.raises(InputError, match="seeds is None, must be how many"):
        rows.seeds_of(None, {"title": "T"})
    assert rows.rows_of({"title": "T", "columns": {}, "rows": [{"name": "a", "overrides": "seed=3"}]})[0]["overrides"] == ["seed=3"]
    row = {"name": "{layers}", "grid": {"layers": {2: "model.depth=2", "none": None}}}   # yaml's number, and nothing to change
    found = rows.rows_of({"title": "T", "columns": {}, "rows": [row], "seeds": [0]})
    assert [(x["name"], x["overrides"]) for x in found] == [("2", ["model.depth=2"]), ("none", [])]


def test_seeds():
    """The table's, so many, or a list; anything else is refused."""
    held = {"seeds": [0, 1, 2]}
    assert [*rows.seeds_of(None, held)] == [0, 1, 2] and [*rows.seeds_of(2, held)] == [0, 1]
    assert [*rows.seeds_of([5, 3], held)] == [5, 3]
    for wrong in (0, -1, True, "3", [], [1, 1], [0.5], {"a": 1}):
        with pytest.raises(InputError, match="seeds is"):
            rows.seeds_of(wrong, held)


def test_rows_that_differ_in_one_axis():
    """What a curve is drawn of."""
    held = {"title": "T", "columns": {}, "curve": "share", "rows": [
        {"name": "{share} · {method}", "grid": {"share": {"1 %": "a=1", "10 %": "a=2"}, "method": {"x": "b=1", "y": "b=2"}}},
        {"name": "none"}]}
    found = rows.rows_of(held)
    assert [row["series"].get("share") for row in found] == ["… · x", "… · y", "… · x", "… · y", None]
    assert [row["labels"].get("share") for row in found] == ["1 %", "1 %", "10 %", "10 %", None]
    for change, said in ({"curve": "depth"}, "no axis of a grid; there are method, share"), \
            ({"rows": [{"name": "a", "command": "baseline", "replicas": True}]}, "baseline has none"):
        with pytest.raises(InputError, match=said):
            rows.rows_of(held | {"curve": None} | change)


def test_a_curve(tmp_path):
    """A point a row, in the order of the table; what isn't there leaves a gap."""
    held = {"title": "T", "columns": COLUMNS, "curve": "share", "rows": [
        {"name": "{share} · {method}", "grid": {"share": {"1 %": "a=1", "10 %": "a=2"}, "method": {"x": "b=1", "y": "b=2"}}}]}
    found = rows.rows_of(held)
    cells = {(row["name"], seed): made(tmp_path, row["name"], seed, {"accuracy": 0.5}) for row in found[:3] for seed in (0, 1)}
    cells[found[3]["name"], 0] = made(tmp_path, found[3]["name"], 0, None)
    sheet.curve(found, lines.lines_of(held, found, cells), held, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 5000


def folder(tmp_path, *overrides, start=None):
    """The folder of a cell of this configuration."""
    config = world.composed(*overrides)
    found, absent = table.needs(config, start, False)
    assert absent is None
    return table.folder_of(config, tmp_path / "row", found), config


def test_a_cell_is_found_again(tmp_path):
    """Where the files and the configuration are the same, though keys were added to conf/ since, or the files lie elsewhere."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.csv").write_text("user,item,time\n1,1,1\n")
        (tmp_path / name / "attributes.json").write_text("{}")
    words = lambda at: ["data=sequences", "data.path=log.csv", f"data.root={tmp_path / at}", "data.attributes=attributes.json"]  # noqa: E731
    first, config = folder(tmp_path, *words("a"))
    assert folder(tmp_path, *words("b"))[0] == first and folder(tmp_path, *words("a"), "data.source=elsewhere")[0] == first
    assert len({first, folder(tmp_path, *words("a"), "seed=1")[0], folder(tmp_path, *words("a"), "patience=3")[0]}) == 3
    old = first.with_name(f"{first.name[:-8]}01234567")   # as it would be called had there been no such keys
    old.mkdir(parents=True)
    (old / "config.yaml").write_text(yaml.safe_dump({key: x for key, x in config.items() if key not in ("patience", "debug")}))
    assert folder(tmp_path, *words("a"))[0] == old and folder(tmp_path, *words("a"), "patience=3")[0] != old
    old.rename(old.with_name(f"{old.name}.put_aside"))
    assert folder(tmp_path, *words("a"))[0] == first
    inputs.sha256.cache_clear()
    (tmp_path / "a" / "attributes.json").write_text('{"1": [2]}')
    assert folder(tmp_path, *words("a"))[0] not in (first, old)
    inputs.sha256.cache_clear()
    (tmp_path / "a" / "attributes.json").unlink()
    said = table.needs(config, None, False)[1]
    assert said.startswith("data.attributes: no file at") and lines.short(said) == "data not here"


def test_a_cell_from_another_lies_where_the_table_lies(tmp_path):
    """The folder that it starts from is named, not where that is."""
    starts = [Cell("a", 0, "train", [], world.composed(), tmp_path / at / "a" / "seed0-x-y", None) for at in ("one", "two")]
    assert folder(tmp_path, start=starts[0])[0] == folder(tmp_path, start=starts[1])[0] != folder(tmp_path)[0]


def test_every_file_that_data_and_augmentations_read_is_known():
    """By the keys that their code says when one isn't there."""
    said = {"lexicon": "data.augment.a.lexicon", "common": "data.augment.a.common", "{what}.path": "data.tables.a.path"}
    found = [key for name, text in SOURCES.items() if name.startswith(("ecrec_jax/data/", "ecrec_jax/augment/"))
             for key in re.findall(r'(?:locate|here)\([^()]*(?:\[[^]]*\])?[^()]*, (?:self\.)?root, f?"([^"]+)"', text)]
    assert {*said, "data.path", "data.vectors", "data.{name}"} <= {*found}
    named = {said.get(key, key) for key in found} - {"data.{name}", "data.{key}"}
    assert all(inputs.FILES.fullmatch(key) for key in (*named, "data.path.train", "data.items", "data.texts", "data.attributes"))
    assert not any(inputs.FILES.fullmatch(key) for key in ("data.text_columns", "data.items.x", "data.fields.path", "data.root"))


def test_a_checkpoint_is_its_files(tmp_path, monkeypatch):
    """A run's own checkpoints count, not its plots; a hub is asked for nothing where a table is only planned."""
    (tmp_path / "run/checkpoints/4").mkdir(parents=True)
    for name in ("facts.json", "curves.png", "checkpoints/4/weights"):
        (tmp_path / "run" / name).write_text("1")
    words = ["experiment=sentiment", f"model.checkpoint={tmp_path / 'run'}"]
    digest = lambda: (inputs.sha256.cache_clear(), inputs.folder_digest.cache_clear(),  # noqa: E731
                      inputs.digests(world.composed(*words))["model.checkpoint"])[-1]
    first = digest()
    (tmp_path / "run/curves.png").write_text("2")
    assert digest() == first
    (tmp_path / "run/checkpoints/4/weights").write_text("2")
    assert digest() != first
    (tmp_path / "words").mkdir()
    found = []
    for text in ("a", "b"):
        (tmp_path / "words" / "vocab.txt").write_text(text)
        inputs.sha256.cache_clear(), inputs.folder_digest.cache_clear()
        config = world.composed("experiment=sentiment", f"data.tokenizer={tmp_path / 'words'}")
        found.append(inputs.digests(config)["data.tokenizer"])
    assert found[0] != found[1]
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **given: (asked.append(given), 1 / 0))
    with pytest.raises(InputError, match="some/model is not here yet"):
        inputs.digests(world.composed("model.checkpoint=some/model"))
    with pytest.raises(InputError, match="the hub could not give it"):
        source.locate("some/model")
    assert [given["local_files_only"] for given in asked] == [True, False]


def test_seeds_of_a_command(tmp_path, capsys):
    row = [{"name": "a", "command": "baseline", "overrides": ["experiment=sentiment", "baseline=majority"]}]
    assert call("table", "table=quickstart", rows_word(row), "plan=true", "seeds=[4,7]", f"out={tmp_path}") == 0
    assert "| a | 2 | 0 | 2 |" in capsys.readouterr().out
    assert call("table", "table=quickstart", rows_word(row), "plan=true", "seeds=0", f"out={tmp_path}") == 2
    assert "seeds is 0" in capsys.readouterr().err
