"""Every shipped table: its rows compose, fit together, name a baseline, and say where published numbers come from."""

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from experiments import cell, estimate, lines, rows, wiring
from experiments.launch import CONF
from experiments.table import cells_of
from tests import world
from tests.test_commands import TINY, call
from tests.test_resume import ROOT, command, environment


@pytest.mark.parametrize("name", world.names("table"))
def test_rows(name):
    table = world.composed(f"table={name}", name="table")["table"]
    made = rows.rows_of(table)
    assert len(table["seeds"]) >= 2 and table["title"]
    assert any(row["command"] == "baseline" for row in made), "no honest baseline"
    for row in made:
        config = world.composed(*row["overrides"], name=row["command"])
        wiring.plan_of(config)
        if row["command"] == "train":
            wiring.check(config)
        for about in (row.get("published") or {}).values():
            assert about["source"].split()[-1] and 0 < about["value"] < 1


@pytest.mark.parametrize("other,places", [("a", [2, 1]), ("b", [0, 0])])
def test_rows_of_other_protocols_have_no_place_among_each_other(other, places, tmp_path):
    cells = {}
    for name, value, protocol in (("one", 0.1, "a"), ("two", 0.2, other)):
        folder = tmp_path / name
        folder.mkdir()
        for file, content in (("summary", {"x": value}), ("protocol", {"fingerprint": protocol}), ("environment", {"code": "c"})):
            (folder / f"{file}.json").write_text(json.dumps(content))
        cells[name, 0] = cell.Cell(name, 0, "train", [], {"data": {"path": "log.csv"}}, folder, None)
    found = lines.lines_of({"columns": {"x": {"title": "x"}}}, [{"name": "one"}, {"name": "two"}], cells)
    assert [line.numbers["x"].place for line in found] == places


def test_the_text_tables_are_there():
    """One of each data set with published numbers, and those of this project's own questions."""
    assert set(world.names("table")) >= {"quickstart", "heads", "adaptation", "augmentation", "sst2", "sst5", "trec", "clothing",
                                         "financial_sentiment", "chinese_sentiment", "banking77"}


@pytest.mark.parametrize("name", ["als", "bpr"])
def test_seeds_of_random_baselines(name, tmp_path):
    """Each has the seed of its cell; a folder with other factors under that seed is another one."""
    (tmp_path / "log.csv").write_text("user,item,time\n")
    words = ["experiment=next_item", "data=sequences", f"data.path={tmp_path / 'log.csv'}", f"baseline={name}"]
    row = {"name": name, "command": "baseline", "overrides": words}
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base="1.3"):
        cells = cells_of(rows.rows_of({"title": "T", "rows": [row], "columns": {}}), "x", tmp_path, [0, 3], False)
        pinned = dict(row, overrides=[*words, "baseline.seed=0"])
        same = cells_of(rows.rows_of({"title": "T", "rows": [pinned], "columns": {}}), "x", tmp_path, [0, 3], False)
    assert [(cell.config["seed"], cell.config["baseline"]["seed"]) for cell in cells.values()] == [(0, 0), (3, 3)]
    assert cells[name, 0].folder == same[name, 0].folder and cells[name, 3].folder != same[name, 3].folder


def rows_word(rows):
    """An override of a table's rows: Hydra wants keys without quotes."""
    return "table.rows=" + re.sub(r'"([\w./]+)": ', r"\1: ", json.dumps(rows))


@pytest.mark.parametrize("pretrained", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_table(pretrained, tmp_path, capsys):
    """Two seeds in one program, from another row's; a baseline beside published numbers; what fails, is missing, done, or old."""
    out, small = tmp_path / "table", [*TINY, "data.limit=100", "steps=2", "tracker=[jsonl]"]
    pre = {"name": "pre", "hidden": True, "replicas": True, "overrides": ["experiment=pretrain", *small]}
    made = [{"name": "majority", "command": "baseline", "seeds": [0],
             "overrides": ["experiment=sentiment", "baseline=majority", "data.limit=100"],
             "published": {f"test/{key}": {"value": x, "source": "A"} for key, x in (("accuracy", 0.83), ("macro_f1", 0.6))}},
            {"name": "{head.pooling} | of it", "against": "majority", "grid": {"head.pooling": ["cls"]}, "replicas": True,
             "overrides": ["experiment=sentiment", *small]}]
    lost = [{"name": "broken", "seeds": [0], "overrides": ["experiment=classify", f"data.path={tmp_path / 'bad.csv'}"]},
            {"name": "no data", "overrides": ["experiment=classify", "data.path=nowhere.csv"]},
            {"name": "no weights", "seeds": [0], "overrides": ["experiment=sentiment", "model=bert", "model.checkpoint=/no/where"]}]
    (tmp_path / "bad.csv").write_text("text,label\nonly one row,a\n")
    if pretrained:
        made = [pre, made[0], {**made[1], "from": "pre"}]
    words = ["table=quickstart", rows_word(made + lost), "seeds=2", f"out={out}"]
    planned = [pre] * pretrained + lost
    assert call("table", "table=quickstart", rows_word(planned), "seeds=2", f"out={out}", "plan=true") == 0
    said = capsys.readouterr().out
    assert ("| pre | 2 | 0 | 2 | 0" in said) is pretrained
    assert "not here: no data: data.path" in said and "about" in said and not out.exists()
    assert call("table", *words) == 1
    said, text = capsys.readouterr().out, (out / "table.md").read_text()
    assert "| cls \\| of it | 2 | [" in text and "only one value" in text and "[1/" in said
    assert "| majority | 1 | [**0.820**](majority/) | 0.830, -0.010: within 5% |" in text and "-0.149: outside 5%" in text
    assert "| no data | 0 | data not here |" in text and "no weights: model.checkpoint: /no/where" in text
    assert "| cls \\| of it | majority | accuracy |" in text and "too few seeds" in text
    tex = (out / "table.tex").read_text()
    assert r"\textbf{0.820" in tex and r"\underline{" in tex and tex.count(r"\\") == 6
    assert (out / "table.png").stat().st_size > 5000
    csv = pd.read_csv(out / "table.csv")
    assert csv.n.tolist() == [1, 1, 2, 2, 0, 0, 0, 0, 0, 0] and "only one value" in csv.trouble[csv.row == "broken"].iloc[0]
    runs = [Path(folder) for cell in csv.runs.dropna() for folder in cell.split()]
    assert ("export" in (runs[-1] / "config.yaml").read_text()) is pretrained
    assert "parameter" in (runs[-2] / "log.txt").read_text()
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("summary.json")}
    about = json.loads((runs[0] / "environment.json").read_text())
    (runs[0] / "environment.json").write_text(json.dumps(about | {"code": "other"}))
    words[1] = rows_word(made)
    assert len(stamps) == 3 + 2 * pretrained and call("table", *words) == 0                   # what is done is skipped
    assert stamps == {path: path.stat().st_mtime_ns for path in out.rglob("summary.json")}
    assert "| majority† | 1" in (out / "table.md").read_text()
    kept = runs[0] / "summary.json"
    assert call("table", *words, "stale=rerun") == 0 and "†" not in (out / "table.md").read_text()
    assert kept.stat().st_mtime_ns != stamps[kept] and runs[0].with_name(f"{runs[0].name}.other").is_dir()


@pytest.mark.parametrize("change,said", [
    ({"name": "{fraction}"}, "no axis"), ({"name": "a", "from": "b"}, "no row above"),
    ({"name": "a", "against": "b"}, "no other row"),
    ({"name": "a", "command": "sing"}, "train or baseline"), ({"name": "a", "colour": 1}, "needs a name"), ({}, "needs a name"),
    ({"name": "a", "published": {"test/f2": {"value": 1, "source": "b"}}}, "none of the columns"),
    ({"name": "a", "published": {"test/accuracy": {"value": 1}}}, "needs value and source")])
def test_a_row_that_is_none(change, said, capsys):
    assert call("table", "table=quickstart", rows_word([change])) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("data,start", [("reviews_text", "a/export"), ("beauty_attributes", "a")])
def test_what_a_row_begins_from(data, start, finished, tmp_path, monkeypatch):
    """Texts: from what was exported; items: from the run. What isn't made yet is measured with the other row's model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / start).mkdir(parents=True)
    (tmp_path / "a/summary.json").write_text("{}") if finished else None
    first = cell.Cell("a", 0, "train", [], world.composed(f"data={data}", "model=bert_tiny", "model.width=32"), Path("a"), None)
    then = cell.Cell("b", 0, "train", [], world.composed(f"data={data}", "data.max_length=7"), Path("b"), first)
    made = estimate.measurable(then)
    assert then.own()["model.checkpoint"] == start and made["data"]["max_length"] == 7
    assert (made["model"]["width"] == 32) is not finished


@pytest.mark.slow
def test_processes_side_by_side(tmp_path, capfd):
    """Hydra's joblib launcher makes the rows in two workers; an error stays with its row."""
    made = [{"name": name, "command": "baseline", "seeds": [0], "overrides": ["experiment=sentiment", f"baseline={name}", more]}
            for name, more in (("majority", "data.limit=200"), ("tfidf", "data.test_fraction=2"))]
    words = ["table=quickstart", rows_word(made), f"out={tmp_path / 'table'}", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    assert call("table", *words) == 1
    text = (tmp_path / "table" / "table.md").read_text()
    assert "| majority | 1 | [0.8" in text and "| tfidf | 0 | data.valid_fraction and data.test_fraction must" in text
    assert "[2/2] tfidf, seed 0: data.valid_fraction and data.test_fraction" in capfd.readouterr().out


@pytest.mark.slow
def test_mistakes_of_workers_are_said(tmp_path):
    """Of runs that a launcher starts in other processes too: a sentence, and no success."""
    words = ["experiment=sentiment", "data.path=none.csv", "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    done = subprocess.run([sys.executable, "-m", "experiments.train", "-m", *words, f"hydra.sweep.dir={tmp_path}"], cwd=ROOT,
                          env=environment(), capture_output=True, text=True)
    assert done.returncode == 2 and "error: data.path: no file at none.csv" in done.stderr, done.stderr


def numbers(folder):
    """A table's numbers, without the folders of its runs."""
    return pd.read_csv(folder / "table.csv").drop(columns="runs").to_csv().splitlines()


@pytest.mark.slow
def test_killed_and_started_again(tmp_path):
    """Two rows of three seeds, one from the other, killed at random moments until done: the numbers of one go."""
    small = [word for word in command(tmp_path, "")[:-1] if not word.startswith("last")]
    made = [{"name": "first", "overrides": [*small, "seed=0"]}, {"name": "from it", "from": "first", "overrides": [*small]}]
    words = lambda out: [sys.executable, "-m", "experiments.table", "table=quickstart", "seeds=3", rows_word(made),  # noqa: E731
                         f"out={tmp_path / out}"]
    subprocess.run(words("whole"), cwd=ROOT, env=environment(), check=True, capture_output=True)
    rng, kills = random.Random(3), 0
    while True:
        child = subprocess.Popen(words("killed"), cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            assert child.wait(rng.uniform(8, 40)) == 0
            break
        except subprocess.TimeoutExpired:
            (child.kill if rng.random() < 0.5 else child.terminate)()
            child.wait()
            kills += 1
    print(f"killed {kills} times")
    assert kills >= 2 and numbers(tmp_path / "killed") == numbers(tmp_path / "whole")
    assert sum('from it' in line for line in numbers(tmp_path / "whole")) == 2
