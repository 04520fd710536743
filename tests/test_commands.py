"""Every command does what its help says, on shrunken models."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra

from ecrec_jax import build, evaluate, pretrained, source
from ecrec_jax.data import file
from ecrec_jax.types import InputError
from experiments import launch, saved, train, wiring
from tests import world

MODULES = {name: importlib.import_module(f"experiments.{name}") for name in (
    "train", "baseline", "evaluate", "predict", "export", "table", "plan", "vocabulary", "report", "search", "recommend",
    "prepare", "encode", "pairs")}
TINY = ["model=bert_tiny", "model.depth=1", "model.width=32", "model.heads=2", "model.feed_forward=64", "data.max_length=32",
        "strategy.devices=2"]


def call(command, *words):
    """A command in this process."""
    GlobalHydra.instance().clear()
    sys.argv = [f"experiments/{command}.py", *words]
    try:
        launch.main(MODULES[command].main, command)
    except SystemExit as end:
        return end.code
    return 0


def here_or_skip(experiment):
    """Skip a test whose data set neither ships nor is at hand."""
    data = world.composed(f"experiment={experiment}")["data"]
    if data["path"] is not None:
        try:
            file.located(data["path"], data["root"], data.get("source"))
        except InputError as error:
            pytest.skip(str(error))


ALIKE = ("sst2", "sst5", "trec", "financial_sentiment", "rating", "department", "intent", "article",   # as sentiment
         "chinese_sentiment", "contrastive", "pretrain_contrastive", "pretrain_causal",   # as pretrain; laws train their tasks
         "regress", "classify", "rating_regression",   # the first two are commands of the README
         "click", "next_item", "pretrain_behaviour", "pretrain_s3rec")   # whose files of tests train them


@pytest.mark.parametrize("experiment", [pytest.param(name, marks=pytest.mark.slow) if name in ALIKE else name
                                        for name in world.names("experiment")])
def test_every_experiment_trains_two_steps(experiment, tmp_path, monkeypatch):
    here_or_skip(experiment)
    monkeypatch.chdir(tmp_path)
    rows = [{"text": f"text number {i} of a small file", "label": str(i % 3)} for i in range(200)]
    pd.DataFrame(rows).to_csv("my.csv", index=False)
    data = world.composed(f"experiment={experiment}")["data"]
    words, fields = "tokenizer" in data, "fields" in data
    own = [*(TINY if words else TINY[-1:] if fields else TINY[1:])]
    own += ["data.path=my.csv"] * (experiment in ("classify", "regress"))
    own += ["tracker=[jsonl,console]"] * (experiment != "sentiment")   # W&B takes seconds to start
    run_dir = tmp_path / "run"
    assert call("train", f"experiment={experiment}", "debug=fast", f"run_dir={run_dir}", *own) == 0
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["steps"] == 2 and np.isfinite(summary["test/loss"]) and np.isfinite(summary["valid/loss"])
    assert summary["parameters"] == summary["parameters_trained"] > (30_000 if fields else 300_000)
    logs = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in logs if "train/loss" in row] == [1, 2]
    names = "tokenizer/vocab.txt" if words else "items.txt"
    written = ["config.yaml", "facts.json", "environment.json", *([] if fields else [names])]
    for name in written + ["wandb"] * (experiment == "sentiment"):
        assert (run_dir / name).exists(), name
    assert call("train", f"experiment={experiment}", "debug=fast", f"run_dir={run_dir}", *own) == 0


def words_of(folder):
    """The command of the run `trained`."""
    return ["experiment=department", "steps=12", "data.limit=300", "optimizer.learning_rate=1e-2", "tracker=[jsonl]",
            f"run_dir={folder}", *TINY]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, undrawn):
    """A run on the clothing reviews whose loss has fallen, with plots."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "plot", undrawn)
        assert call("train", *words_of(folder)) == 0
    return folder


def test_evaluate_gives_the_summary_again(trained, capsys):
    before = json.loads((trained / "summary.json").read_text())
    plots = sorted((trained / "plots").iterdir())
    assert [path.name for path in plots] == ["confusion_test.png", "confusion_valid.png", "curves.png", "reliability_test.png",
                                             "reliability_valid.png"]
    plots[0].unlink()
    assert call("evaluate", f"run_dir={trained}", "split=test") == 0
    assert plots[0].stat().st_size > 5000
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found and all(before[key] == pytest.approx(value, abs=1e-6) for key, value in found.items())
    report = json.loads((trained / "report" / "test.json").read_text())
    assert sum(map(sum, report["confusion_matrix"])) == 300 and "Dresses" in report["per_class"]
    assert sum(bin["count"] for bin in report["calibration"]) == 300


def test_predict_agrees_with_the_predictions_of_the_run(trained, tmp_path):
    table = pd.read_parquet(Path(train.__file__).parent.parent / "ecrec_jax/assets/womens_clothing_reviews.parquet")
    kept = pq.read_table(trained / "predictions" / "test.parquet").to_pandas()
    assert list(kept.columns) == ["example", "label", "prediction", "label_id", "prediction_id", "scores"]
    assert (table.department[kept.example].to_numpy() == kept.label.to_numpy()).all()
    rows = table.loc[kept.example, ["title", "text"]]
    for ending in ("csv", "jsonl", "parquet"):
        source, out = tmp_path / f"in.{ending}", tmp_path / f"out.{ending}"
        write = {"csv": rows.to_csv, "parquet": rows.to_parquet, "jsonl": rows.to_json}[ending]
        write(source, **{"csv": {"index": False}, "parquet": {}, "jsonl": {"orient": "records", "lines": True}}[ending])
        assert call("predict", f"run_dir={trained}", f"input={source}", f"output={out}") == 0
        read = {"csv": pd.read_csv, "jsonl": lambda p: pd.read_json(p, lines=True), "parquet": pd.read_parquet}[ending]
        found = read(out)
        assert (found.prediction.to_numpy() == kept.prediction.to_numpy()).all()
        scores = found[[c for c in found.columns if c.startswith("score/")]].to_numpy()
        assert np.abs(scores - np.stack(kept.scores)).max() < 1e-5


NEWER = {"task": ["class_weights", "label_smoothing", "focal_gamma"], "head": ["dropout"],
         "data": ["segmenter", "row_length", "source", "sha256", "pattern", "encoding", "label_names"],
         "model": ["causal", "new_head", "dtype"], "strategy": ["coordinator", "processes", "process_id"]}


@pytest.fixture
def older(trained, tmp_path):
    """The run, as if made before many of its keys existed."""
    folder = tmp_path / "older"
    shutil.copytree(trained, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    for noun, keys in NEWER.items():
        config[noun] = {key: x for key, x in config[noun].items() if key not in keys}
    config = {key: x for key, x in config.items() if key not in ("last", "debug")}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def test_a_run_is_older_than_keys(trained, older, tmp_path, capsys):
    """They have their defaults: evaluated, exported and finished by the same command it is what it was."""
    before = json.loads((trained / "summary.json").read_text())
    assert call("evaluate", f"run_dir={older}", "split=test") == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found and all(before[key] == pytest.approx(value, abs=1e-6) for key, value in found.items())
    for run in (trained, older):
        assert call("export", f"run_dir={run}", f"out={tmp_path / 'out' / run.name}") == 0
    assert len({(tmp_path / "out" / run.name / "model.safetensors").read_bytes() for run in (trained, older)}) == 1
    pd.DataFrame({"title": ["A dress"], "text": ["lovely"]}).to_csv(tmp_path / "new.csv")
    assert call("predict", f"run_dir={older}", f"input={tmp_path / 'new.csv'}", f"output={tmp_path / 'labelled.csv'}") == 0
    (older / "summary.json").unlink()
    assert call("train", *words_of(older)) == 0
    after = json.loads((older / "summary.json").read_text())
    assert after["steps"] == before["steps"] == 12
    assert all(after[key] == pytest.approx(x, abs=1e-6) for key, x in before.items() if key.startswith(("valid/", "test/")))


def test_a_run_has_other_keys(older, capsys):
    """A key that is not at its default, and one that there is no more: one sentence."""
    capsys.readouterr()
    assert call("train", *words_of(older), "task.label_smoothing=0.1") == 2
    assert f"{older} holds a run with another task.label_smoothing; name" in capsys.readouterr().err
    config = yaml.safe_load((older / "config.yaml").read_text())
    (older / "config.yaml").write_text(yaml.safe_dump(config | {"task": config["task"] | {"colour": "red"}}))
    for command in ("evaluate split=test", "predict input=a.csv output=b.csv", "export out=c"):
        name, *words = command.split()
        assert call(name, f"run_dir={older}", *words) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: {older / 'config.yaml'}: task.colour is not a key of Classification")
        assert said.count("\n") == 1


@pytest.mark.parametrize("noun", wiring.NOUNS)
def test_every_key_has_a_default_for_runs_without_it(noun):
    """But for what has to be given and the class, of every option of a noun; defaults are those of the option it is built on."""
    for name in world.names(noun):
        whole = {key: x for key, x in world.composed(f"{noun}={name}")[noun].items()}
        bare = saved.complete({noun: {"_target_": whole["_target_"]}})[noun]
        assert bare.keys() == whole.keys() and saved.complete({noun: whole})[noun] == whole


def test_baselines_of_words_and_of_characters(tmp_path):
    """Classes that differ in a character are one to words, which are whole sentences here; a run made before there were
    analyzers is still its own."""
    rows = [{"text": f"{a}{'很喜欢' if i % 2 else '不喜欢'}{b}", "label": i % 2}
            for i, (a, b) in enumerate((a, b) for a in "这那它他你" for b in "衣鞋帽书店啊了呢")]
    pd.DataFrame(rows).to_csv(tmp_path / "my.csv", index=False)
    found = {}
    for name in ("majority", "tfidf", "tfidf_char"):
        words = ["experiment=classify", f"data.path={tmp_path / 'my.csv'}", f"baseline={name}", f"run_dir={tmp_path / name}"]
        words += {"majority": [], "tfidf": ["baseline.min_count=1", "tracker=[jsonl]"], "tfidf_char": ["tracker=[jsonl]"]}[name]
        assert call("baseline", *words) == 0
        found[name] = json.loads((tmp_path / name / "summary.json").read_text())["test/accuracy"]
        assert (tmp_path / name / "plots" / "reliability_test.png").stat().st_size > 5000
        row = json.loads((tmp_path / name / "metrics.jsonl").read_text())
        assert row["step"] == 0 and row["test/accuracy"] == found[name]
    assert len(list((tmp_path / "majority").glob("wandb/offline-run-*/*.wandb"))) == 1   # W&B hears of baselines too
    assert found["majority"] == found["tfidf"] == 0.5 and found["tfidf_char"] == 1
    path = tmp_path / "tfidf" / "config.yaml"
    path.write_text(path.read_text().replace("  analyzer: word\n", ""))
    words = ["experiment=classify", f"data.path={tmp_path / 'my.csv'}", "baseline=tfidf", "baseline.min_count=1"]
    assert call("baseline", *words, f"run_dir={tmp_path / 'tfidf'}") == 0


def test_a_run_of_more_devices_is_used_on_fewer(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    path = tmp_path / "run" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(config | {"strategy": config["strategy"] | {"devices": 1024}}))
    assert call("export", f"run_dir={tmp_path / 'run'}", f"out={tmp_path / 'out'}") == 0


@pytest.mark.parametrize("command,words,said", [
    ("export", ["out=20240901"], "out is 20240901, expected text"), ("predict", ["batch_size=0"], "batch_size is 0, must be"),
    ("predict", ["keep=user"], "keep is 'user', expected"), ("table", ["table=quickstart", "out=3"], "out is 3, expected text"),
    ("search", ["sweep=sweeps/heads.yaml", "seed=abc"], "seed is 'abc', expected a whole number"),
    ("report", ["out=3"], "out is 3, expected text")])
def test_keys_of_commands_have_types(trained, tmp_path, command, words, said, capsys):
    given = {"export": {"run_dir": trained, "out": "x"}, "predict": {"run_dir": trained, "input": "x.csv", "output": "y.csv"},
             "report": {"run_dir": trained}}.get(command, {})
    mine = {word.partition("=")[0] for word in words}
    assert call(command, *(f"{key}={x}" for key, x in given.items() if key not in mine), *words) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("format", ["hf", "hf_flax"])
def test_export_is_what_was_trained(trained, tmp_path, format):
    assert call("export", f"run_dir={trained}", f"format={format}", f"out={tmp_path / 'out'}") == 0
    ours, theirs = (pretrained.load(str(path), "sequence_classification") for path in (trained, tmp_path / "out"))
    assert not ours.report["new"] and not theirs.report["new"] and not theirs.report["unread"]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["id2label"]["1"] == "Dresses" and config["architectures"] == ["BertForSequenceClassification"]
    ids = np.array([[101, 2023, 4377, 102]], "i4")
    batch = {"tokens": ids, "segment": np.ones_like(ids), "position": np.arange(4)[None], "type": 0 * ids,
             "slot": np.zeros((1, 1), "i4")}
    assert (np.asarray(ours(batch)) == np.asarray(theirs(batch))).all()


@pytest.mark.slow
def test_regression_export_is_in_the_units_of_the_labels(tmp_path):
    run = tmp_path / "run"
    assert call("train", "experiment=rating_regression", "steps=8", "data.limit=200", "optimizer.learning_rate=1e-2",
                "tracker=[jsonl]", f"run_dir={run}", *TINY) == 0
    assert call("export", f"run_dir={run}", f"out={tmp_path / 'out'}") == 0
    rows = pq.read_table(run / "predictions" / "test.parquet").to_pandas()
    from ecrec_jax.data import tokenise
    table = pd.read_parquet(Path(train.__file__).parent.parent / "ecrec_jax/assets/womens_clothing_reviews.parquet")
    line = table.loc[rows.example[0]]
    ids = tokenise.tokenise(str(tmp_path / "out"), [" ".join(f"{line.title} {line.text}".split())], None, 32)[0][0][None]
    batch = {"tokens": ids, "segment": np.ones_like(ids), "position": np.arange(ids.shape[1])[None], "type": 0 * ids,
             "slot": np.zeros((1, 1), "i4")}
    net = pretrained.load(str(tmp_path / "out"), "sequence_classification")
    assert np.asarray(net(batch)).shape == (1, 1, 1)
    assert float(np.asarray(net(batch)).item()) == pytest.approx(rows.scores[0], abs=1e-4)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["problem_type"] == "regression"
    assert call("train", "experiment=rating_regression", "steps=1", "data.limit=200", "optimizer.learning_rate=0.0",
                "tracker=[jsonl]", f"model.checkpoint={tmp_path / 'out'}", f"run_dir={tmp_path / 'next'}", *TINY) == 0
    again = pq.read_table(tmp_path / "next" / "predictions" / "test.parquet").to_pandas()
    assert np.abs(again.scores - rows.scores).max() < 1e-4   # it goes on from what was exported, in the labels' units
    found = []
    for name, start in (("a", run), ("b", tmp_path / "out")):   # the run too, on labels of another mean
        assert call("train", "experiment=rating_regression", "steps=1", "data.limit=90", "optimizer.learning_rate=0.0",
                    "tracker=[jsonl]", f"model.checkpoint={start}", f"run_dir={tmp_path / name}", *TINY) == 0
        found.append(pq.read_table(tmp_path / name / "predictions" / "test.parquet").to_pandas().scores)
    assert np.abs(found[0] - found[1]).max() < 1e-4


def test_overfit(tmp_path):
    assert call("train", "experiment=sentiment", "debug=overfit", "tracker=[jsonl]", f"run_dir={tmp_path / 'run'}", *TINY) == 0
    logs = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["train/loss"] for row in logs if "train/loss" in row]
    assert losses[0] > 0.3 and losses[-1] < 0.05, losses


def test_overfit_drops_nothing():
    """Whatever a model calls its rates."""
    for name in ("bert_tiny", "esasrec", "deepfm", "sasrec"):
        model = world.composed(f"model={name}", "debug=overfit")["model"]
        found = wiring.debugged(world.composed(f"model={name}", "debug=overfit"))["model"]
        assert {key for key in model if "dropout" in key} and not any(x for key, x in found.items() if "dropout" in key), name


@pytest.mark.parametrize("words,said", [
    (["data.target=multi"], "task Classification needs labels of kind class, data.target is multi"),
    (["task.multi_label=true"], "task Classification needs labels of kind multi, data.target is class")])
def test_a_baseline_needs_the_labels_of_its_task(words, said, tmp_path, capsys):
    assert call("baseline", "experiment=sentiment", "baseline=majority", *words, f"run_dir={tmp_path}") == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow   # the shorter one of the behaviour of users is test_commands_on_a_log
@pytest.mark.parametrize("strata", [[], ["data.stratify_column=mood"]])
def test_a_checkpoint_that_saw_the_test_rows_is_told_on(tmp_path, capsys, strata):
    """Two runs on one file: the second counts its held-out rows that the first trained on, through an export too."""
    labels = np.random.default_rng(0).choice(["good", "bad", "none"], 200, p=[0.7, 0.2, 0.1])
    pd.DataFrame([{"review": f"this is the review with number {i}", "title": f"title {i}", "mood": m}
                  for i, m in enumerate(labels)]).to_csv(tmp_path / "my.csv", index=False)
    file, quick = f"data.path={tmp_path / 'my.csv'}", ["steps=1", "tracker=[jsonl]", *TINY[-2:]]
    assert call("train", "experiment=pretrain", "data=file", file, "data.text_column=review", "data.target=none", *strata,
                f"run_dir={tmp_path / 'run'}", *quick, *TINY[:-2]) == 0
    assert call("export", f"run_dir={tmp_path / 'run'}", "format=hf", f"out={tmp_path / 'out'}") == 0
    seen = {example.index for example in build.build(source.load_config(tmp_path / "run")).corpus.examples["train"]}
    for where in ("run", "out"):
        run_dir = tmp_path / f"from-{where}"
        capsys.readouterr()
        assert call("train", "experiment=classify", file, "data.text_column=[title,review]", "data.label_column=mood",
                    "model=bert", f"model.checkpoint={tmp_path / where}", f"run_dir={run_dir}", *quick) == 0
        said, summary = capsys.readouterr().out, json.loads((run_dir / "summary.json").read_text())
        found = build.build(source.load_config(run_dir)).corpus.examples
        expected = len(seen & {example.index for split in ("valid", "test") for example in found[split]})
        assert summary.get("leaked", 0) == expected and (f"trained on {expected} rows of this" in said) == (expected > 0)
        assert (expected == 0) == bool(strata)


def test_a_head_of_another_class_is_not_taken_for_a_classifier(trained, tmp_path):
    """Although its arrays have the same names."""
    shutil.copytree(trained, tmp_path / "run")
    path = tmp_path / "run" / "config.yaml"
    path.write_text(path.read_text().replace("ecrec_jax.head.classify.Classify", "mine.Gated"))
    assert pretrained.load(str(tmp_path / "run")).net is not None
    with pytest.raises(InputError, match="its head is mine.Gated"):
        pretrained.load(str(tmp_path / "run"), "sequence_classification")


def test_a_stop_ends_all_jobs_of_a_multirun(monkeypatch, capsys):
    """A mistake ends its own job alone."""
    begun = []

    def command(config):
        begun.append(config["seed"])
        raise evaluate.Interrupted if config["seed"] == 1 else InputError("a mistake")

    monkeypatch.setattr(MODULES["train"], "main", command)
    assert call("train", "-m", "experiment=sentiment", "seed=0,1,2") == 1
    assert begun == [0, 1] and "stopped; everything is saved" in capsys.readouterr().err
