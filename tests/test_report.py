"""The page about runs: what it says is what the runs' files say, texts stay texts, and a browser shows it on a phone's width."""

import html.parser
import json
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from ecrec_jax import evaluate
from experiments import examples, figure, launch, override, page, report, table
from experiments.cell import Cell
from experiments.rows import rows_of
from tests.test_commands import TINY, call

SCRIPT = "<script>document.title='broken'</script>"                        # a label
ATTACK = "<img src=x onerror=document.title='broken' // &lt;i&gt; a <b"   # a text that cleaning leaves as it is


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three runs on a file whose texts, labels and folder are HTML: a small BERT's two steps, and two baselines."""
    folder, rng = tmp_path_factory.mktemp("report"), np.random.default_rng(0)
    word = {SCRIPT: "lovely", "bad & sad": "awful"}
    moods = rng.choice(list(word), 300, p=[0.7, 0.3])
    heard = [word[mood if rng.random() < 0.8 else rng.choice(list(word))] for mood in moods]
    texts = [f"{ATTACK.replace('&', '&amp;')} a dress that is {w}, number {i}" for i, w in enumerate(heard)]
    pd.DataFrame({"review": texts, "mood": moods}).to_csv(folder / "my.csv", index=False)
    own = ["experiment=classify", f"data.path={folder / 'my.csv'}", "data.text_column=review", "data.label_column=mood",
           "tracker=[jsonl]"]
    assert call("train", *own, "debug=fast", f"run_dir={folder / 'bert'}", *TINY) == 0
    for name, given in (("majority", "majority"), ("tfidf", "tf<i>df")):
        assert call("baseline", *own, f"baseline={name}", f"run_dir='{folder / given}'") == 0
    return [folder / name for name in ("bert", "majority", "tf<i>df")]


class Page(html.parser.HTMLParser):
    """Elements and texts; an element that isn't closed is a mistake."""

    def __init__(self, path):
        super().__init__()
        self.source, self.open, self.elements, self.texts = path.read_text(encoding="utf-8"), [], [], []
        self.feed(self.source)
        self.close()
        assert not self.open
        self.text = " ".join(self.texts)

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        self.open += [name] if name != "meta" else []

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, text):
        self.texts += [text] if self.open and self.open[-1] != "style" and text.strip() else []


@pytest.fixture(scope="module")
def path(runs, tmp_path_factory):
    """The page about the three runs."""
    out = tmp_path_factory.mktemp("page")
    named = ",".join(f"'{run}'" for run in runs)
    assert call("report", f"run_dir=[{named}]", f"out={out}") == 0
    assert [x.name for x in out.iterdir()] == ["report.html"]   # nothing beside it
    return out / "report.html"


def test_the_page_is_closed_in_itself(path):
    """No scripts, no links, one policy that forbids them; what users wrote is text."""
    found = Page(path)
    names = {name for name, _ in found.elements}
    assert not names & {"script", "link", "img", "iframe", "a", "i"} - {"i"} and "url(" not in found.source
    assert not {key for _, at in found.elements for key in at} & {"src", "href", "onload", "onerror", "onclick"}
    metas = [at for name, at in found.elements if name == "meta"]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in metas
    assert next(at for at in metas if "http-equiv" in at)["content"] == page.POLICY
    assert ATTACK in found.text and SCRIPT in found.text and "tf<i>df" in found.text and "<i>df" not in found.source
    assert "prefers-color-scheme:dark" in found.source


def test_sections(path, runs):
    """In the order of a reader's questions; differing keys above, equal ones folded."""
    found = Page(path)
    heads = "Metrics Differences Configuration Curves Calibration Confusion Examples_won_and_lost Runs".replace("_", " ")
    assert " ".join(re.findall("<h2>(.*?)</h2>", found.source)) == heads
    shown, folded = re.split(r"\d+ keys that are equal", found.source[found.source.index("Configuration") :])
    keys = set(re.findall(r"<tr><th>([\w.]+)</th>", shown))
    assert {"model.width", "baseline._target_", "debug"} <= keys and not {"seed", "run_dir", "data.path"} & keys
    assert "data.path" in folded.split("<h2>")[0]
    for run in runs:
        value = json.loads((run / "summary.json").read_text())["test/macro_f1"]
        assert f">{value:.3f}</td>" in found.source
    assert found.source.count("too few seeds") == 2   # of the trained run; a baseline has no chance in it
    made = pq.read_table(runs[2] / "predictions" / "test.parquet").to_pandas()
    counts = pd.crosstab(made.label, made.prediction).to_numpy()
    for n, share in zip(counts.ravel(), (counts / counts.sum(1, keepdims=True)).ravel(), strict=True):
        assert f">{n}<small>{share:.0%}</small></td>" in found.source


def test_examples_won_and_lost(path, runs):
    """One was right and the other wrong, every one counted."""
    mine, theirs = (pq.read_table(run / "predictions" / "test.parquet").to_pandas() for run in (runs[2], runs[1]))
    won = (mine.prediction == mine.label) & (theirs.prediction != theirs.label)
    lost = (mine.prediction != mine.label) & (theirs.prediction == theirs.label)
    assert won.sum() > 5
    part = next(x for x in Page(path).source.split("<details>") if "tf&lt;i&gt;df against majority" in x[:99])
    assert f"tf&lt;i&gt;df against majority: won {won.sum()} · lost {lost.sum()} of {len(mine)}" in part
    first, second = part.split("lost by")
    number = r"([\d.]+)"
    said = rf"tf&lt;i&gt;df: (.+?) {number} · majority: (.+?) {number}"
    cards = re.findall(rf"row (\d+) · label <b>([^<]+)</b> · {said}</p><p>(.+?)</p>", first)
    assert len(cards) == min(20, won.sum()) and {int(card[0]) for card in cards} <= set(mine.example[won])
    assert all(label == said != other and f"number {row}" in text for row, label, said, _, other, _, text in cards)
    scores = dict(zip(mine.example, mine.scores, strict=True))
    gaps = [scores[int(card[0])][0 if card[1].startswith("&lt;script") else 1] for card in cards]
    assert gaps == sorted(gaps, reverse=True)   # the majority's scores are the same for all
    assert {int(row) for row in re.findall(r"row (\d+) ", second)} <= set(mine.example[lost])


def test_won_and_lost_add_up_for_many_classes(tmp_path, monkeypatch):
    """The surer of two may be the wrong one."""
    cells = []
    for name, rows in (("one", [(0, [0.36, 0.32, 0.32]), (0, [0.5, 0.3, 0.2])]),
                       ("two", [(1, [0.4, 0.45, 0.15]), (0, [0.6, 0.2, 0.2])])):
        (tmp_path / name / "predictions").mkdir(parents=True)
        table = [{"example": i, "label": "a", "prediction": "abc"[said], "label_id": 0, "prediction_id": said, "scores": scores}
                 for i, (said, scores) in enumerate(rows)]
        pq.write_table(pa.Table.from_pylist(table), tmp_path / name / "predictions" / "test.parquet")
        cells.append(Cell(name, 0, "train", [], {}, tmp_path / name, None))
    monkeypatch.setattr(examples, "texts", lambda cell, root: ["first", "second"])
    assert "one against two: won 1 · lost 0 of 2" in str(examples.between(*cells, "test", "."))


def test_runs_that_differ_in_the_seed_alone_are_one_row(runs, tmp_path):
    copies = []
    for seed in (0, 1, 2):
        shutil.copytree(runs[0], tmp_path / f"s{seed}")
        config = yaml.safe_load((tmp_path / f"s{seed}" / "config.yaml").read_text())
        (tmp_path / f"s{seed}" / "config.yaml").write_text(yaml.safe_dump(config | {"seed": seed}))
        copies.append(str(tmp_path / f"s{seed}"))
    rows, cells = report.of_runs(copies + [str(runs[1])])
    assert [row["name"] for row in rows] == ["s0", "majority"]
    assert sorted(cells) == [("majority", 0), *(("s0", k) for k in range(3))]
    named = ",".join(f"'{x}'" for x in [*copies, runs[1]])
    assert call("report", f"run_dir=[{named}]") == 0
    text = Page(tmp_path / "s0" / "report.html").source
    assert "too few seeds" not in text and "± 0.000" in text and "s0, 3 runs, 180 answers" in text
    shutil.copytree(tmp_path / "s2", tmp_path / "other" / "s2")   # the same run, twice
    rows, cells = report.of_runs([copies[2], str(tmp_path / "other" / "s2")])
    assert [row["name"] for row in rows] == [f"{tmp_path.name}/s2", "other/s2"]


@pytest.mark.parametrize("kind", ["number", "multi"])
def test_other_answers(runs, tmp_path, kind):
    """Numbers and several labels: closer or further; right if all are."""
    for name, shift in (("a", 0.0), ("b", 1.0)):
        shutil.copytree(runs[1], tmp_path / name)
        if kind == "number":
            given = {"example": [4, 5, 9], "label": [1.0, 2.0, 3.0], "prediction": [1.0 + shift, 2.5, 4.5 - shift]}
            given["scores"] = given["prediction"]
        else:
            said = [[0], [0, 1], [1 - int(shift)]]
            named = [["xy"[i] for i in ids] for ids in said]
            given = {"example": [4, 5, 9], "label": [["x"], ["x"], ["x"]], "prediction": named, "label_id": [[0]] * 3,
                     "prediction_id": said, "scores": [[0.9, 0.4], [0.8, 0.6], [0.2 + 0.4 * shift, 0.7 - 0.4 * shift]]}
        evaluate.write_table(given, tmp_path / name / "predictions" / "test.parquet")
        config = yaml.safe_load((tmp_path / name / "config.yaml").read_text())
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump(config | {"epochs": 7 + int(shift)}))
        (tmp_path / name / "summary.json").write_text('{"test/mae": 0.5}' if kind == "number" else '{"test/macro_f1": 0.5}')
    assert call("report", f"run_dir=[{tmp_path / 'a'},{tmp_path / 'b'}]") == 0
    text = Page(tmp_path / "a" / "report.html").text
    assert ("b against a: closer 1 · further 1 of 3" if kind == "number" else "b against a: won 1 · lost 0 of 3") in text
    assert "Confusion" not in text and ("Calibration" in text) == (kind == "multi")


def test_an_unfinished_run_and_lost_data(runs, tmp_path):
    """Curves so far, no texts: a sentence says why."""
    for name in ("a", "b"):
        shutil.copytree(runs[0], tmp_path / name)
        config = yaml.safe_load((tmp_path / name / "config.yaml").read_text())
        config["data"]["path"] = str(tmp_path / "gone.csv")
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump(config | {"epochs": 7 + (name == "b")}))
    (tmp_path / "a" / "summary.json").unlink()
    assert call("report", f"run_dir=[{tmp_path / 'a'},{tmp_path / 'b'}]", f"out={tmp_path}") == 0
    text = Page(tmp_path / "report.html").text
    assert "not finished" in text and "n counts the runs that are finished" in text and "train/loss" in text
    assert f"The texts are not shown. data.path: no file at {tmp_path / 'gone.csv'}" in text


def test_table(runs, tmp_path, capsys):
    """All rows of a table, each with its runs."""
    given = yaml.safe_load((runs[1] / "config.yaml").read_text())["data"]
    words = ["experiment=classify", f"data.path={given['path']}", "data.text_column=review", "data.label_column=mood"]
    rows = [{"name": name, "command": "baseline", "seeds": [0], "overrides": [*words, f"baseline={name}"]}
            for name in ("majority", "tfidf", "later")]
    rows[2]["overrides"][-2:] = ["data.path=nowhere.csv", "baseline=tfidf"]
    said = ", ".join(f"{{{', '.join(f'{key}: {value}' for key, value in row.items())}}}" for row in rows)
    words = ["table=quickstart", f"table.rows=[{said}]", f"out={tmp_path / 'table'}"]
    assert call("report", *words) == 2 and "holds no runs of quickstart" in capsys.readouterr().err
    GlobalHydra.instance().clear()
    with initialize_config_dir(launch.CONF, version_base="1.3"):
        cells = table.cells_of(rows_of({"title": "T", "rows": rows, "columns": {}}), "quickstart", tmp_path / "table", [0], False)
    for (name, _), cell in [*cells.items()][:2]:   # as experiments.table would have made them
        shutil.copytree(runs[1 + (name == "tfidf")], cell.folder)
    assert call("report", *words) == 0
    found = Page(tmp_path / "table" / "report.html")
    assert "tfidf less majority" in found.text and "macro F1" in found.text and "baseline._target_" in found.text
    assert "Curves" not in found.texts and "later: data.path: no file at nowhere.csv" in found.text   # it isn't left out


@pytest.mark.parametrize("words, said", [
    ([], "give run_dir=RUN"), (["run_dir=a", "table=quickstart"], "give run_dir=RUN"), (["run_dir=nowhere"], "holds no run"),
    (["run_dir=nowhere", "split=exam"], "split is 'exam'")])
def test_mistakes(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("report", *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_texts_of_files_a_split(tmp_path):
    """Lines of a pattern, a file a split: the texts of wrong answers are found in them."""
    for split, count in (("train", 60), ("valid", 20), ("test", 20)):
        lines = [f"{'bad@too tight' if i % 4 else 'good@fits well'}, text {i} of {split}" for i in range(count)]
        (tmp_path / f"{split}.txt").write_text("\n".join(lines))
    given = {"path": {split: str(tmp_path / f"{split}.txt") for split in ("train", "valid", "test")},
             "pattern": r"(?P<label>\w+)@(?P<text>.*)"}
    words = [*(f"data.{key}={override.written(value)}" for key, value in given.items()), "tracker=[jsonl]"]
    for name in ("majority", "tfidf"):
        assert call("baseline", "experiment=classify", *words, f"baseline={name}", f"run_dir={tmp_path / name}") == 0
    assert call("report", f"run_dir=[{tmp_path / 'majority'},{tmp_path / 'tfidf'}]", f"out={tmp_path}") == 0
    said = (tmp_path / "report.html").read_text()
    assert "fits well, text 4 of test" in said and "not shown" not in said


def test_figures():
    """Ticks are round and inside; long curves are thinned to their means."""
    for low, high in ((0, 1), (0.443, 0.445), (-3, 40_000), (1e-9, 3e-9)):
        found = figure.ticks(low, high)
        assert 2 <= len(found) <= 6 and low - 1e-12 <= found[0] and found[-1] <= high + (high - low) * 1e-6
    points = [(float(i), float(i % 2)) for i in range(3000)]
    assert len(figure.thinned(points)) == figure.MOST and figure.thinned(points)[0] == (4.5, 0.5)
    assert figure.thinned(points[:5]) == points[:5]
    assert page.tag("p.soft", "<", page.Markup("<br>"), None, at={"id": '"'}) == '<p class="soft" id="&quot;">&lt;<br></p>'


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--allow-file-access-from-files", "--enable-logging=stderr"]
PROBE = """<!DOCTYPE html><meta charset="utf-8"><iframe src="{page}" style="width:{width}px;height:900px;border:0"></iframe><script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement
  for (const x of page.querySelectorAll("details")) x.open = true
  const wide = [...page.querySelectorAll(".wide")].filter(x => x.scrollWidth > x.clientWidth).length
  document.body.dataset.found = JSON.stringify({{scroll: root.scrollWidth, client: root.clientWidth, wide, title: page.title,
    paper: getComputedStyle(page.body).backgroundColor, text: page.body.innerText,
    drawn: [...page.querySelectorAll("circle, rect")].map(x => x.getBoundingClientRect().width)}})
}}</script>"""


def browse(folder, target, width):
    """(what a page is like in a frame of a width, what the console said, what it asked the network for)."""
    (folder / "probe.html").write_text(PROBE.format(page=target.as_uri(), width=width))
    log = folder / "net.json"
    words = [*FLAGS, f"--user-data-dir={folder / f'browser{width}'}", f"--log-net-log={log}",
             "--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom", (folder / "probe.html").as_uri()]
    done = subprocess.run([CHROMIUM, *words], capture_output=True, text=True, timeout=120)
    found = json.loads(html.unescape(re.search(r'data-found="([^"]*)"', done.stdout)[1]))
    logged = json.loads(log.read_text())
    start = logged["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]   # the browser's own have no origin
    asked = [x["params"]["url"] for x in logged["events"] if x["type"] == start
             and x.get("params", {}).get("initiator", "not an origin") != "not an origin"]
    return found, [line for line in done.stderr.splitlines() if "CONSOLE" in line], asked


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (apt-get install chromium)")
def test_in_a_browser(path, tmp_path):
    """At 360 px nothing but tables scrolls sideways; no word on the console, no request; and another page's would be seen."""
    for width in (360, 1200):
        found, console, asked = browse(tmp_path, path, width)
        assert found["scroll"] <= found["client"] and found["client"] > width - 30 and min(found["drawn"]) > 2
        assert found["title"] == "bert, majority, tf<i>df" and ATTACK in found["text"] and found["paper"] == "rgb(255, 255, 255)"
        assert not console and not asked
        assert width > 360 or found["wide"] > 0   # the tables do
    (tmp_path / "bad.html").write_text('<body style="width:2000px"><img src="http://example.invalid/x.png">'
                                       "<script>throw 1</script>")
    found, console, asked = browse(tmp_path, tmp_path / "bad.html", 360)
    assert found["scroll"] > found["client"] and console and asked == ["http://example.invalid/x.png"]
