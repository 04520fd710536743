"""Every bad input: one sentence on stderr that names the key, or the file and line; exit code 2; nothing is damaged."""

import contextlib
import importlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from absl import logging as absl_logging
from hydra.core.global_hydra import GlobalHydra

from experiments import launch
from tests.conftest import GOLDEN

SIZES = ["model=bert_tiny", "model.depth=1", "model.width=32", "model.heads=2", "model.feed_forward=64", "model.positions=64"]
SHORT = ["data.max_length=32", "tracker=[jsonl]", "steps=2"]
CLASSIFIER = f"model.checkpoint={GOLDEN}/bert/sequence_classification"   # 800 tokens, 32 wide, LABEL_0 to LABEL_2
HUGE = ["optimizer.learning_rate=1e30", "optimizer.clip=null", "optimizer.warmup=0", "optimizer.schedule=constant"]


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """What a command changes in its process, as it was."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
    absl_logging.get_absl_handler().python_handler.setStream(sys.__stderr__)   # Hydra makes it close pytest's otherwise
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    GlobalHydra.instance().clear()


def rows(count=60):
    """Lines of a table with two classes, under their header."""
    return ["text,label", *(f"item {i} is {'good' if i % 2 else 'bad'},{'yes' if i % 2 else 'no'}" for i in range(count))]


def written(path, lines):
    """A file of lines."""
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def table(tmp_path):
    """A CSV of 60 rows."""
    return written(tmp_path / "mine.csv", rows())


def call(*words, command="train"):
    """The exit code of a command, run in this process."""
    GlobalHydra.instance().clear()
    before, sys.argv = sys.argv, [command, *map(str, words)]
    try:
        launch.main(importlib.import_module(f"experiments.{command}").main, command)
    except SystemExit as error:
        return error.code
    finally:
        sys.argv = before
    return 0


def refused(capsys, *words, command="train"):
    """The sentence with which a command is refused."""
    capsys.readouterr()
    code = call(*words, command=command)
    out, err = capsys.readouterr()
    return judged(code, err)


def judged(code, err):
    """The one sentence of a refusal, after what every refusal has."""
    assert code == 2, f"exit code {code}: {err}"
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and err.splitlines()[-1] == lines[0], err
    assert len(lines[0]) < 400, "long"
    for inside in ("omegaconf", "hydra.cc", "LexerNo", "object_type", "pkg://", "full_key", "<class", "[Errno"):
        assert inside not in lines[0]
    return lines[0].removeprefix("error: ")


def bytes_of(folder):
    """Everything a folder holds."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run on 60 rows, one of them longer than the model's 16 positions: (folder, words, stdout)."""
    folder = tmp_path_factory.mktemp("finished")
    path = written(folder / "mine.csv", [*rows(59), f"{'long ' * 50},yes"])
    words = ["experiment=classify", f"data.path={path}", *SIZES, *SHORT, "model.positions=16", f"run_dir={folder / 'run'}"]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert call(*words) == 0
    return folder / "run", words, said.getvalue()


# key=value words, and what the sentence must name
MISTAKES = [
    ("optimizer.learning_rat=1", "optimizer.learning_rat ", "optimizer.learning_rate?"),
    ("optimizr.learning_rate=1", "optimizr.learning_rate ", "optimizer.learning_rate?"),
    ("sed=1", "sed ", "seed?"),
    ("optimizer.zigzag=1", "optimizer.zigzag ", "learning_rate, weight_decay"),
    ("+epoch=3", "epoch ", "epochs"),
    ("+model.layers=3", "model.layers ", "depth"),
    ("optimizer.learning_rate=abc", "optimizer.learning_rate ", "'abc'", "a number"),
    ("optimizer.learning_rate=nan", "optimizer.learning_rate ", "finite"),
    ("optimizer.learning_rate=-1", "optimizer.learning_rate ", "negative"),
    ("optimizer.learning_rate=${nothing}", "optimizer.learning_rate", "nothing"),
    ("optimizer.schedule=zigzag", "optimizer.schedule ", "'zigzag'", "linear, cosine, constant"),
    ("optimizer.warmup=2", "optimizer.warmup ", "below 1"),
    ("optimizer.decay=[]", "optimizer.decay", "classifier.kernel"),
    ("data.batch_size=1.5", "data.batch_size ", "1.5", "a whole number"),
    ("data.batch_size=true", "data.batch_size ", "true", "a whole number"),
    ("data.batch_size=0", "data.batch_size ", "0"),
    ("data.text_column=2023", "data.text_column ", """data.text_column='"2023"'"""),
    ("data.text_column=body", "data.text_column", "'body'", "mine.csv", "'text', 'label'"),
    ("data.label_column=stars", "data.label_column", "'stars'", "mine.csv", "'text', 'label'"),
    ("data.label_column=null", "data.label_column "),
    ("data.path=null", "data.path ", "data.path="),
    ("data.path=nowhere.csv", "data.path", "nowhere.csv"),
    ("data.tokenizer=/nowhere", "data.tokenizer", "/nowhere"),
    ("data.target=number", "data.target ", "number", "data.target=class"),
    ("data.valid_fraction=1", "data.valid_fraction "),
    ("data.row_length=4", "data.row_length ", "4"),
    ("data.split_column=label", "mine.csv, line 2", "'no'"),
    ("head=tokens", "head", "class", "tokens"),
    ("head=regress", "head", "class", "number"),
    ("model.dtype=float99", "model.dtype ", "'float99'", "float32, bfloat16"),
    ("model.heads=3", "model.width 32", "model.heads 3"),
    ("model.activation=snake", "'snake'", "gelu"),
    ("model.new_head=maybe", "model.new_head ", "true or false"),
    ("model.checkpoint=/nowhere", "model.checkpoint", "/nowhere"),
    ("task.class_weights=[1]", "task.class_weights ", "2 classes"),
    ("task.class_weights=heavy", "task.class_weights ", "balanced"),
    ("gradient=accumulate gradient.count=0", "gradient.count "),
    ("seed=abc", "seed ", "'abc'", "a whole number"),
    ("seed=None", "seed ", "'None'", "written null"),
    ("seed=-1", "seed ", "-1"),
    ("steps=soon", "steps ", "a whole number or null"),
    ("epochs=0", "epochs ", "at least 1"),
    ("log_every=null", "log_every ", "null"),
    ("best.mode=up", "best ", "max or min"),
    ("debug=slow", "debug ", "overfit, fast, nan, profile"),
    ("run_dir=5", "run_dir ", "5"),
    ("strategy.devices=99", "strategy.devices ", "99", "8"),
    ("strategy=fsdp strategy.smallest=-1", "strategy.smallest ", "-1"),
    ("strategy.processes=2", "strategy.processes ", "strategy.coordinator"),
    ("strategy.coordinator=auto strategy.process_id=1", "strategy.process_id ", "strategy.coordinator"),
    ("strategy.coordinator=localhost:1 strategy.processes=2", "strategy.coordinator ", "strategy.process_id"),
    ("strategy.coordinator=localhost:1 strategy.processes=2 strategy.process_id=2", "strategy.process_id ", "below", "2"),
    ("strategy.coordinator=auto", "strategy.coordinator", "auto"),
    ("experiment=nothing", "experiment=nothing", "sentiment"),
    ("model=nothing", "model=nothing", "bert_tiny"),
    ("tracker=[nothing]", "tracker=nothing", "jsonl"),
    ("tracker=[console]", "tracker", "tracker=[jsonl,console]"),
    ("tracker=[jsonl,wandb] tracker.wandb.mode=loud", "tracker.wandb.mode ", "'loud'"),
    ("~head", "head ", "head=NAME"),
    ("model=bert model.positions=null", "model.checkpoint ", "model=bert_tiny"),
    ("run_dir=目录", "run_dir=目录", """run_dir='"目录"'"""),
    ("model.checkpoint=a=b", "model.checkpoint=a=b", """model.checkpoint='"a=b"'"""),
    ("quickly", "quickly", "key=value"),
    ("--seed=1", "--seed=1", "hyphens", ": seed=1"),
]


@pytest.mark.parametrize("words, named", [(w, n) for w, *n in MISTAKES], ids=[w for w, *_ in MISTAKES])
def test_mistake(words, named, table, tmp_path, capsys):
    """A sentence that names the key and what was wrong with it; no checkpoint, no summary."""
    run = tmp_path / "run"
    said = refused(capsys, "experiment=classify", f"data.path={table}", *SIZES, *SHORT, f"run_dir={run}", *words.split(" "))
    for text in named:
        assert text in said + " "
    assert not (run / "checkpoints").exists() and not (run / "summary.json").exists()


FILES = {
    "empty file": (b"", "empty"),
    "header only": (b"text,label\n", "no rows"),
    "not UTF-8": ("\n".join([*rows(8), "caf\xe9,no"]).encode("latin-1"), "line 10", "UTF-8", "0xe9"),
    "too many fields": ("\n".join([*rows(8), "a,b,no"]).encode(), "line 10", "3 fields", "2"),
    "too few fields": ("\n".join([*rows(3), "lonely", *rows(3)[1:]]).encode(), "line 5", "1 fields", "2"),
    "open quote": ("\n".join([*rows(3), '"open,no']).encode(), "line 5"),
    "one class": ("\n".join(line.replace(",no", ",yes") for line in rows()).encode(), "'label'", "only one", "'yes'"),
    "no texts": (b"text,label\n,yes\n,no\n", "no usable row"),
    "label outside the training split": (
        "\n".join(["text,label,split", *(f"{line},train" for line in rows(9)[1:]), "odd,maybe,valid"]).encode(),
        "line 11", "'maybe'", "no, yes"),
}


@pytest.mark.parametrize("name", FILES)
def test_file(name, tmp_path, capsys):
    """A table that can't be used: the file and the line."""
    content, *named = FILES[name]
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    split = ["data.split_column=split"] if b"split" in content else []
    said = refused(capsys, "experiment=classify", f"data.path={path}", *SIZES, *SHORT, f"run_dir={tmp_path / 'run'}", *split)
    for text in named:
        assert text in said
    assert "bad.csv" in said or "data.label_column" in said


def test_not_a_number(table, tmp_path, capsys):
    """Regression on names: the file, the line, the cell."""
    said = refused(capsys, "experiment=regress", f"data.path={table}", *SIZES, *SHORT, f"run_dir={tmp_path / 'run'}")
    assert "mine.csv, line " in said and "is not a number" in said


def test_contrastive_accumulates(tmp_path, capsys):
    """A task that compares rows can't be split."""
    said = refused(capsys, "experiment=contrastive", "gradient=accumulate", *SIZES, *SHORT, f"run_dir={tmp_path / 'run'}")
    assert "Contrastive" in said and "gradient=plain" in said


def test_checkpoint_contradicted(table, tmp_path, capsys):
    """Sizes, tokenizer and classes beside a checkpoint that has others: both are named."""
    words = ["experiment=classify", f"data.path={table}", "model=bert", CLASSIFIER, *SHORT, f"run_dir={tmp_path / 'run'}"]
    said = refused(capsys, *words, "model.width=64")
    assert "model.width is 64" in said and "32" in said
    said = refused(capsys, *words, "data.tokenizer=package:ecrec_jax/assets/bert_uncased")
    assert "data.tokenizer" in said and "30522" in said and "800" in said
    said = refused(capsys, *words)
    assert "3 (LABEL_0, LABEL_1, LABEL_2)" in said and "2 (no, yes)" in said and "model.new_head=true" in said


def test_new_head(table, tmp_path, capsys):
    """What the sentence above suggests works, in the same folder."""
    words = ["experiment=classify", f"data.path={table}", "model=bert", CLASSIFIER, *SHORT, f"run_dir={tmp_path / 'run'}"]
    refused(capsys, *words)
    assert call(*words, "model.new_head=true") == 0
    assert "test/macro_f1" in json.loads((tmp_path / "run" / "summary.json").read_text())


def test_corrected(table, tmp_path, capsys):
    """A mistake, then the corrected command in the same folder: it trains, on the corrected configuration, or goes on with it
    where something was saved."""
    words = ["experiment=classify", f"data.path={table}", *SIZES, *SHORT]
    refused(capsys, *words, f"data.path={tmp_path / 'other.csv'}", "peft=bitfit", f"run_dir={tmp_path / 'run'}")
    assert call(*words, "seed=3", f"run_dir={tmp_path / 'run'}") == 0
    assert "seed: 3" in (tmp_path / "run" / "config.yaml").read_text()
    said = refused(capsys, *words, "best.metric=macro_f2", f"run_dir={tmp_path / 'best'}")
    assert "best.metric" in said and "'macro_f2'" in said and "macro_f1" in said
    assert call(*words, f"run_dir={tmp_path / 'best'}") == 0
    assert "metric: macro_f1" in (tmp_path / "best" / "config.yaml").read_text()


def test_not_finite(table, tmp_path, capsys):
    """The step is named, the checkpoint before it is kept, the folder isn't given to another configuration."""
    run = tmp_path / "run"
    words = ["experiment=classify", f"data.path={table}", *SIZES, *SHORT, f"run_dir={run}", "steps=6", "save_every=1",
             "log_every=1"]
    said = refused(capsys, *words, *HUGE)
    assert "not finite at step " in said and "optimizer.learning_rate" in said and str(run / "checkpoints") in said
    step = int(said.split("at step ")[1].split(";")[0])
    assert [x.name for x in (run / "checkpoints").iterdir() if x.name.isdigit()] == [str(2 * (step - 1))]
    assert [json.loads(x)["step"] for x in (run / "metrics.jsonl").read_text().splitlines()] == [*range(1, step)]
    assert not (run / "summary.json").exists()
    before = bytes_of(run)
    assert "optimizer.learning_rate" in refused(capsys, *words)
    assert bytes_of(run) == before


def test_sweep_offline(table, tmp_path, capsys, monkeypatch):
    """Inside a sweep W&B must be online."""
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    said = refused(capsys, "experiment=classify", f"data.path={table}", *SIZES, *SHORT, f"run_dir={tmp_path / 'run'}",
                   "tracker=[jsonl,wandb]")
    assert "tracker.wandb.mode" in said and "wandb login" in said


def test_sweep_without_wandb(table, tmp_path, capsys, monkeypatch):
    """Nor may a trial be one that W&B never hears of."""
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    said = refused(capsys, "experiment=classify", f"data.path={table}", *SIZES, *SHORT, f"run_dir={tmp_path / 'run'}",
                   "tracker=[jsonl]")
    assert "tracker=[jsonl,wandb]" in said


def test_too_long(finished):
    """Texts longer than the model's positions are no mistake: truncated, counted, said."""
    run, _, said = finished
    report = json.loads((run / "data.json").read_text())
    assert report["truncated"] == 1 and report["max_length"] == 16
    assert "data: truncated: 1" in said and "data: max_length: 16" in said


def test_finished(finished, capsys):
    """The same command again trains nothing and shows the summary."""
    run, words, _ = finished
    before = bytes_of(run)
    assert call(*words) == 0
    out = capsys.readouterr().out
    assert "is finished" in out and f"{json.loads((run / 'summary.json').read_text())['test/macro_f1']:.4f}" in out
    assert bytes_of(run) == before


@pytest.mark.parametrize("words, named", [
    ("seed=1 optimizer.learning_rate=0.5 head.pooling=mean", ["run_dir", "head.pooling, optimizer.learning_rate, seed"]),
    ("optimizer.learning_rate=abc", ["optimizer.learning_rate", "'abc'"]),
    ("optimizer.learning_rat=1", ["optimizer.learning_rat"]),
    ("strategy.devices=99 seed=1", ["seed"]),
    ("head=tokens", ["head"]),
], ids=lambda x: x if isinstance(x, str) else "")
def test_foreign_folder(words, named, finished, capsys):
    """Another configuration in the folder of a run: the keys that differ; the run stays as it is."""
    run, given, _ = finished
    before = bytes_of(run)
    said = refused(capsys, *given, *words.split(" "))
    for text in named:
        assert text in said
    assert bytes_of(run) == before


def test_folder_of_others(table, tmp_path, capsys):
    """A folder whose config.yaml is not a run's, and a file: neither is touched."""
    words = ["experiment=classify", f"data.path={table}", *SIZES, *SHORT]
    written(tmp_path / "config.yaml", ["[theirs]"])
    assert "run_dir" in refused(capsys, *words, f"run_dir={tmp_path}")
    assert (tmp_path / "config.yaml").read_text() == "[theirs]\n"
    assert "is a file" in refused(capsys, *words, f"run_dir={table}")


def test_data_changed(finished, tmp_path, capsys):
    """A run that goes on, on another file of the same name."""
    run, words, _ = finished
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    path = Path(words[1].removeprefix("data.path="))
    original = path.read_bytes()
    path.write_bytes(original + b"one more,yes\n")
    try:
        before = bytes_of(tmp_path / "run")
        said = refused(capsys, *words[:-1], f"run_dir={tmp_path / 'run'}")
        assert "run_dir" in said and "sha256" in said
        assert bytes_of(tmp_path / "run") == before
        assert "sha256" in refused(capsys, f"run_dir={run}", "split=test", command="evaluate")
    finally:
        path.write_bytes(original)


@pytest.mark.parametrize("command, words", [("evaluate", []), ("predict", ["input=a.csv", "output=b.csv"]), ("export", ["out=b"])])
def test_no_run(command, words, tmp_path, capsys):
    """A folder that is no run, none at all, and none given."""
    for folder in (tmp_path, tmp_path / "nowhere"):
        said = refused(capsys, f"run_dir={folder}", *words, command=command)
        assert "run_dir" in said and str(folder) in said
    assert "run_dir" in refused(capsys, *words, command=command)
    assert not list(tmp_path.iterdir())


def test_predict(finished, tmp_path, capsys):
    """A file without the text column, none at all, and an ending nobody writes; nothing is written."""
    run, _, _ = finished
    other, output = written(tmp_path / "other.csv", ["body", "hello"]), tmp_path / "out.csv"
    said = refused(capsys, f"run_dir={run}", f"input={other}", f"output={output}", command="predict")
    assert "other.csv" in said and "'text'" in said and "'body'" in said
    said = refused(capsys, f"run_dir={run}", f"input={tmp_path / 'nowhere.csv'}", f"output={output}", command="predict")
    assert "input" in said and "nowhere.csv" in said
    said = refused(capsys, f"run_dir={run}", f"input={other}", f"output={tmp_path / 'out.xls'}", command="predict")
    assert "output" in said and "'.xls'" in said
    assert not output.exists()


def test_evaluate_and_export(finished, tmp_path, capsys):
    """An unknown split or format, and a folder that is taken."""
    run, _, _ = finished
    assert "split" in refused(capsys, f"run_dir={run}", "split=holdout", command="evaluate")
    assert "format" in refused(capsys, f"run_dir={run}", "format=gguf", f"out={tmp_path / 'out'}", command="export")
    written(tmp_path / "theirs.txt", ["theirs"])
    assert str(tmp_path) in refused(capsys, f"run_dir={run}", f"out={tmp_path}", command="export")
    assert (tmp_path / "theirs.txt").read_text() == "theirs\n"


def test_process(table, tmp_path):
    """The same through a real process, as a user meets it."""
    words = ["experiment=classify", f"data.path={table}", *SIZES, *SHORT, f"run_dir={tmp_path / 'run'}"]
    quoted = "data.path='\"无.csv\"'"
    for wrong, named in (("optimizer.learning_rate=abc", "optimizer.learning_rate"), ("data.path=无.csv", quoted)):
        done = subprocess.run([sys.executable, "-m", "experiments.train", *words, wrong], capture_output=True, text=True,
                              env=os.environ, cwd=Path(launch.CONF).parent)
        assert named in judged(done.returncode, done.stderr)
        assert done.stdout == ""
