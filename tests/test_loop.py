"""The loop keeps the best, stops early, and reports what it says it reports."""

import contextlib
import json
import resource
import time

import numpy as np
import pandas as pd
import pytest

from ecrec_jax import checkpoint, evaluate
from ecrec_jax.source import best, load_config
from ecrec_jax.tracker.jsonl import Jsonl
from ecrec_jax.types import State
from tests.test_commands import call

SIZES = ["model.depth=1", "model.width=32", "model.heads=2", "model.feed_forward=64", "data.max_length=16", "tracker=[jsonl]",
         "strategy.devices=1"]


@pytest.fixture()
def words(tmp_path):
    """A command on a small file: 120 texts, about 6 steps an epoch."""
    rng, nouns = np.random.default_rng(0), np.array(["dress", "shirt", "skirt", "sock", "hat", "soft", "poor"])
    rows = [{"text": " ".join(rng.choice(nouns, 6)), "pair": " ".join(rng.choice(nouns, 3)), "label": f"c{i % 3}",
             "several": "|".join(sorted(set(rng.choice(["red", "blue", "green"], 2))))} for i in range(120)]
    pd.DataFrame(rows).to_csv(tmp_path / "my.csv", index=False)
    return ["experiment=classify", f"data.path={tmp_path / 'my.csv'}", "data.batch_size=16", f"run_dir={tmp_path / 'run'}", *SIZES]


def summary_of(tmp_path):
    """What the run reported."""
    return json.loads((tmp_path / "run" / "summary.json").read_text())


@pytest.mark.parametrize("mode,values,chosen,epochs", [
    ("max", [0.5, 0.9, 0.1, 0.2, 0.95], 2, 4),    # two without gain: stops before the fifth
    pytest.param("min", [0.5, 0.9, 0.1, 0.1, 0.3], 3, 5, marks=pytest.mark.slow),   # among equals the earlier one
])
def test_best_checkpoint_and_patience(tmp_path, words, monkeypatch, mode, values, chosen, epochs):
    told, measured = iter(values), evaluate.Evaluator.measure
    kept = []

    def measure(self, trained, feed, stop=lambda: False, title=""):
        metrics, columns = measured(self, trained, feed, stop, title)
        value = next(told, None) if title == "valid" and len(kept) < epochs else None
        if value is not None:
            kept.append({k: np.array(x) for k, x in trained.items()})
            metrics["macro_f1"] = value
        elif title == "test":
            kept.append({k: np.array(x) for k, x in trained.items()})
        return metrics, columns

    monkeypatch.setattr(evaluate.Evaluator, "measure", measure)
    best_words = [f"best={{metric: macro_f1, mode: {mode}}}", "epochs=5", "patience=2", "optimizer.learning_rate=1e-3"]
    assert call("train", *words, *best_words) == 0
    summary = summary_of(tmp_path)
    a_epoch = summary["steps"] // summary["epochs"]
    assert (summary["epochs"], summary["best_step"]) == (epochs, chosen * a_epoch)
    wanted = kept[chosen - 1]
    assert all((kept[-1][k] == x).all() for k, x in wanted.items())               # the test was of the best weights
    assert any((kept[-1][k] != x).any() for k, x in kept[epochs - 1].items())     # not of the last
    weights = best(tmp_path / "run", load_config(tmp_path / "run"))
    assert all((weights[k] == x).all() for k, x in wanted.items())
    numbers = sorted(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdigit())
    assert numbers == [2 * chosen * a_epoch + 1, 2 * epochs * a_epoch + 1]


def test_last_is_reported_beside_the_best(tmp_path, words):
    assert call("train", *words, "last=true", "epochs=2", "optimizer.learning_rate=0") == 0
    summary = summary_of(tmp_path)
    assert summary["best_step"] * 2 == summary["steps"] and summary["test_last/accuracy"] == summary["test/accuracy"]
    logs = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in logs if "valid/loss" in row] == [1, 2] and "test/macro_f1" in logs[-1]


@pytest.mark.parametrize("ending", ["steps=3", "epochs=1"])
def test_a_stop_in_the_last_validation_is_made_up_for(tmp_path, words, ending, monkeypatch):
    """Whatever ends a run, its last weights are judged."""
    def stop(self, *given):
        raise evaluate.Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(evaluate.Evaluator, "measure", stop)
        assert call("train", *words, ending, "patience=1") == 1
    assert not (tmp_path / "run" / "summary.json").exists()
    assert call("train", *words, ending, "patience=1") == 0
    summary, logs = summary_of(tmp_path), [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in logs if "valid/loss" in row] == [summary["steps"]]
    assert summary["best_step"] == summary["steps"] == {"steps=3": 3}.get(ending, summary["steps"])


def test_a_wrong_metric_costs_nothing(tmp_path, words, capsys):
    """What was trained until its name was found wrong is kept, and goes on with a right one; not with another configuration."""
    assert call("train", *words, "epochs=2", "best.metric=f7") == 2
    assert "best.metric: 'f7' is none of loss, accuracy" in capsys.readouterr().err
    assert call("train", *words, "epochs=2", "best.metric=accuracy", "seed=5") == 2
    assert "holds a run with another best.metric, seed" in capsys.readouterr().err
    assert call("train", *words, "epochs=2", "best.metric=loss", "best.mode=min") == 0
    steps = [row["step"] for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines() if "loss" in (row := json.loads(x))]
    assert steps == sorted(set(steps)) and load_config(tmp_path / "run")["best"] == {"metric": "loss", "mode": "min"}
    weights = best(tmp_path / "run", load_config(tmp_path / "run"))
    assert call("train", *words, "epochs=2", "best.metric=accuracy") == 2 and weights
    assert "holds a run with another best.metric, best.mode" in capsys.readouterr().err


def test_a_start_that_saved_nothing_leaves_nothing(tmp_path, words, monkeypatch):
    """Of files that only another data set or tokenizer has, none is taken for the next start's."""
    left = ("tokenizer/tokenizer.json", "fields.json", "vectors.npy", "items.txt", "trained_on.npy", "protocol.json")
    with monkeypatch.context() as patch:
        patch.setattr("ecrec_jax.loop.Loop.run", lambda self: (_ for _ in ()).throw(evaluate.Interrupted))
        assert call("train", *words, "steps=1") == 1
    for name in left:
        (tmp_path / "run" / name).write_text("{}")
    assert call("train", *words, "steps=1", "seed=1") == 0
    there = {name for name in left if (tmp_path / "run" / name).exists()}
    assert there == {"trained_on.npy"} and (tmp_path / "run" / "trained_on.npy").read_bytes() != b"{}"


def test_reading_leaves_alone_what_is_being_written(tmp_path, words):
    """A checkpoint that another process is writing is not cleared away by who reads the run."""
    assert call("train", *words, "steps=2") == 0
    writing = tmp_path / "run" / "checkpoints" / "8.orbax-checkpoint-tmp"
    writing.mkdir()
    assert best(tmp_path / "run", load_config(tmp_path / "run")) and writing.is_dir()
    with checkpoint.Checkpoints(tmp_path / "run" / "checkpoints", "max"):
        end = time.monotonic() + 30   # a thread does it
        while writing.exists() and time.monotonic() < end:
            time.sleep(0.1)
    assert not writing.exists()


@pytest.mark.slow
def test_several_labels_of_text_pairs_in_bfloat16(tmp_path, words):
    more = ["data.label_column=several", "data.target=multi", "task.multi_label=true", "data.text_pair_column=pair",
            "model.dtype=bfloat16", "peft=bitfit", "gradient=accumulate", "steps=4"]
    assert call("train", *words, *more) == 0
    summary = summary_of(tmp_path)
    assert 0 <= summary["test/macro_f1"] <= 1 and summary["parameters_trained"] < summary["parameters"] / 10
    rows = pd.read_parquet(tmp_path / "run" / "predictions" / "test.parquet")
    source = pd.read_csv(tmp_path / "my.csv")
    assert all("|".join(label) == source.several[i] for i, label in zip(rows.example, rows.label, strict=True))
    assert call("predict", f"run_dir={tmp_path / 'run'}", f"input={tmp_path / 'my.csv'}", f"output={tmp_path / 'out.jsonl'}") == 0
    found = pd.read_json(tmp_path / "out.jsonl", lines=True)
    scores = found.loc[rows.example, ["score/blue", "score/green", "score/red"]].to_numpy()
    assert np.abs(scores - np.stack(rows.scores)).max() < 2e-2 and len(found) == 120


def test_names_of_folders(tmp_path, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = [w for w in words if not w.startswith("run_dir")]
    assert call("train", *plain, "steps=2", "seed=3") == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("classify-") and "seed=3" in folder.name and (folder / "summary.json").is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["my.csv", "runs"]      # Hydra writes nothing of its own


def test_nothing_to_validate_on_or_to_read(tmp_path, words, capsys):
    assert call("train", *words, "data.valid_fraction=0") == 2
    assert "data.valid_fraction" in capsys.readouterr().err
    pd.DataFrame({"text": ["hat"] * 50}).to_csv(tmp_path / "short.csv", index=False)
    short = ["experiment=pretrain", f"data.path={tmp_path / 'short.csv'}", "data.text_column=text", "data.stratify_column=null"]
    assert call("train", *[w for w in words if not w.startswith(("experiment", "data.path"))], *short) == 2
    assert "long enough" in capsys.readouterr().err


def test_a_split_of_texts_too_short_to_read(tmp_path, words, capsys):
    """Not only of training: a loss of nothing is no number."""
    rows = [{"text": f"soft blue dress and a hat {k}", "part": "train"} for k in range(40)] + [{"text": "hat", "part": "valid"}] * 5
    pd.DataFrame(rows).to_csv(tmp_path / "short.csv", index=False)
    short = ["experiment=pretrain", "data=file", f"data.path={tmp_path / 'short.csv'}", "data.text_column=text",
             "data.target=none", "data.split_column=part"]
    assert call("train", *[w for w in words if not w.startswith(("experiment", "data."))], *short) == 2
    assert "for validation, which picks the checkpoint to report is long enough" in capsys.readouterr().err


def test_another_tokenizer_under_the_same_name(tmp_path, words, monkeypatch, capsys):
    """A run that was stopped doesn't go on with other ids."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dress", "shirt", "skirt", "sock", "hat", "soft", "poor"]
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    (tmp_path / "words" / "config.json").write_text(json.dumps({"model_type": "bert", "vocab_size": len(pieces)}))
    more = [f"data.tokenizer={tmp_path / 'words'}", "steps=4", "save_every=1"]
    (tmp_path / "words" / "vocab.txt").write_text("\n".join(pieces) + "\n")
    with monkeypatch.context() as patch:
        patch.setattr("ecrec_jax.loop.Loop.finish", lambda *given: (_ for _ in ()).throw(evaluate.Interrupted))
        assert call("train", *words, *more) == 1
    (tmp_path / "words" / "vocab.txt").write_text("\n".join([*pieces[:5], *pieces[:4:-1]]) + "\n")
    assert call("train", *words, *more) == 2
    assert "was begun with another tokenizer than" in capsys.readouterr().err
    (tmp_path / "words" / "vocab.txt").write_text("\n".join(pieces) + "\n")
    assert call("train", *words, *more) == 0


def test_a_save_that_fails_once_is_tried_again(tmp_path, monkeypatch):
    """And one that fails twice says so, in one sentence; what was saved before is read."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    state = State({"w": np.random.default_rng(0).normal(size=(100, 100))}, {}, np.int32(1), np.uint32(0))
    lift = [1]   # after which try

    @contextlib.contextmanager
    def trap():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]) if lift[0] > 0 else limits)
        lift[0] -= 1
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(checkpoint, "silent", trap)
    with checkpoint.Checkpoints(tmp_path / "checkpoints", "max") as checkpoints:
        checkpoints.save(state, {}, 0.5)
        lift[0] = 1
        checkpoints.keep_constant({"c": state.trained["w"]})
        assert lift[0] == -1
        np.testing.assert_array_equal(checkpoints.constant()["c"], state.trained["w"])
        lift[0] = 2
        with pytest.raises(OSError, match="the checkpoint of step 2 could not be written to .*start the same command again"):
            checkpoints.save(State({"w": 2 * state.trained["w"]}, {}, np.int32(2), np.uint32(0)), {})
        np.testing.assert_array_equal(checkpoints.latest(state)[0].trained["w"], state.trained["w"])


def test_metrics_are_cut_to_a_checkpoint_that_was_made_before_a_line(tmp_path):
    """Killed after lines that no checkpoint knows, stopped before the next line, killed again: every line stands once."""
    def begun(saved):
        log = Jsonl(str(tmp_path))
        log.start(0, 9, saved)
        return log

    first = begun({})
    first.log(1, {"a": 1.0})
    saved = first.state()
    first.log(2, {"a": 2.0})   # and killed
    again = begun(saved).state()
    assert again == saved
    later = begun(again)
    later.log(2, {"a": 2.0})
    later.log(3, {"a": 3.0})   # and killed
    begun(again).log(2, {"a": 2.0})
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2]
