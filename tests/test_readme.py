"""Both READMEs: every command and block of code in them is run, in order, on shrunken models."""

import ast
import io
import re
import shlex
import sys
import tokenize
import tomllib
import types
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests import world
from tests.test_commands import MODULES, call

ROOT = Path(__file__).parent.parent
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md")}
ENGLISH, CHINESE = TEXTS.values()
SHRUNKEN = ["debug=fast", "model.depth=1", "model.width=32", "model.heads=2", "model.feed_forward=64", "data.max_length=32",
            "strategy.devices=1"]


def blocks(text):
    """(language, content) of every fenced block, in order."""
    return re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S)


def code(language, text):
    """A block without its comments, which each README has in its own language."""
    if language == "bash":
        return [shlex.split(line, comments=True) for line in text.splitlines()]
    if language == "python":
        return [(x.type, x.string) for x in tokenize.generate_tokens(io.StringIO(text).readline)
                if x.type not in (tokenize.COMMENT, tokenize.NL)]
    return yaml.safe_load(text) if language == "yaml" else None


def commands(text):
    """The words of every command."""
    return [words for language, block in blocks(text) if language == "bash" for words in code(language, block) if words]


def head_of(text):
    """(dotted module, its source, the name of its yaml, that yaml) of the example of a head."""
    source = next(block for language, block in blocks(text) if language == "python" and "nnx.Module" in block)
    options = next(block for language, block in blocks(text) if language == "yaml")
    module = yaml.safe_load(options)["_target_"].rpartition(".")[0]
    return module, source, re.search(r"`conf/head/(\w+)\.yaml`", text)[1], options


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder with the reader's own files."""
    monkeypatch.chdir(tmp_path)
    rows = [{"review": f"number {i} fits {['well', 'badly'][i % 2]}", "mood": ["good", "bad"][i % 2], "stars": i % 5 + 1}
            for i in range(200)]
    pd.DataFrame(rows).to_csv("my.csv", index=False)
    pd.DataFrame(rows[:7])[["review"]].to_csv("new.csv", index=False)
    return tmp_path


def run(words):
    """A command of the README, by what it starts with."""
    if words[0] == "make":
        assert all(re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M) for target in words[1:])
    elif words[:2] == ["python", "-m"] and words[2].startswith("experiments."):
        command = words[2].removeprefix("experiments.")
        assert command in MODULES, f"{command} is no command"
        small = {"train": SHRUNKEN, "baseline": ["data.limit=300"]}
        assert call(command, *words[3:], *small.get(command, [])) == 0
    elif words[0] == "wandb":   # tests/test_sweep.py looks inside
        assert words[1] == "sweep" and (ROOT / words[2]).is_file()
    else:
        assert words == ["source", ".venv/bin/activate"]


def test_every_command_and_block_runs(here):
    module, source, _, _ = head_of(ENGLISH)
    for language, block in blocks(ENGLISH):
        if language == "bash":
            for words in code(language, block):
                if words:
                    print("README:", shlex.join(words), flush=True)
                    run(words)
        elif language == "python" and block != source:
            exec(compile(block, "README.md", "exec"), {})
    assert len(pd.read_csv("labelled.csv")) == 7 and (here / "saved" / "flax_model.msgpack").is_file()
    assert len(list((here / "runs").glob("*/summary.json"))) >= 9
    assert module not in sys.modules


def test_pretraining_on_a_file_never_reads_its_test_rows(here):
    """The two commands for it draw one split."""
    chosen = [[w for w in words[3:] if w.startswith(("data", "experiment="))] for words in commands(ENGLISH)
              if any(w.startswith("data.stratify_column=") for w in words)]
    assert [words[0] for words in chosen] == ["experiment=pretrain", "experiment=classify"]
    from ecrec_jax import build, section
    from ecrec_jax.types import Facts
    splits = []
    for words in chosen:
        data = section.make(world.composed(*words)["data"], "data", Facts())
        found = data.load(str(build.ASSETS / "bert_uncased"), 32).examples
        splits.append({name: [e.index for e in examples] for name, examples in found.items()})
    assert splits[0] == splits[1] and all(splits[0].values())


def test_the_head_can_be_added(here, monkeypatch):
    module, source, name, options = head_of(ENGLISH)
    made = types.ModuleType(module)
    exec(compile(source, f"{name}.py", "exec"), made.__dict__)
    monkeypatch.setitem(sys.modules, module, made)
    (here / "conf" / "head").mkdir(parents=True)
    (here / "conf" / "head" / f"{name}.yaml").write_text(options)
    words = [f"hydra.searchpath=[file://{here / 'conf'}]", f"head={name}", "experiment=classify", "data.path=my.csv",
             "data.text_column=review", "data.label_column=mood", "run_dir=runs/head", "tracker=[jsonl]"]
    assert call("train", *words, *SHRUNKEN) == 0
    assert call("predict", "run_dir=runs/head", "input=new.csv", "output=out.csv") == 0
    assert "head.score.kernel" in (here / "runs/head/parameters.tsv").read_text() and len(pd.read_csv("out.csv")) == 7
    assert name not in world.names("head")


def test_the_head_keeps_the_house_rules():
    """As it stands it passes the laws that look at every file: all arguments typed, everything explained."""
    tree = ast.parse(head_of(ENGLISH)[1])
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        assert all(x.annotation is not None for x in function.args.args[1:]), function.name
    assert ast.get_docstring(tree) and all(ast.get_docstring(n) for n in ast.walk(tree) if isinstance(n, ast.ClassDef))


def test_both_languages_have_the_same_blocks():
    ours, theirs = (blocks(text) for text in TEXTS.values())
    assert [language for language, _ in ours] == [language for language, _ in theirs]
    for (language, a), (_, b) in zip(ours, theirs, strict=True):
        assert code(language, a) == code(language, b)
    assert commands(ENGLISH) == commands(CHINESE) and len(commands(ENGLISH)) >= 12
    cells = [re.findall(r"\d\.\d+", "".join(re.findall(r"^\|.*$", text, re.M))) for text in TEXTS.values()]
    assert cells[0] == cells[1]   # the measured table
    assert len({len(re.findall(r"^## ", text, re.M)) for text in TEXTS.values()}) == 1


@pytest.mark.parametrize("name", TEXTS)
def test_what_it_names_is_there(name):
    text = TEXTS[name]
    module, _, option, _ = head_of(text)
    example = {module.replace(".", "/") + ".py", f"conf/head/{option}.yaml"}
    for path in set(re.findall(r"[\w./-]+\.(?:py|yaml|md)\b", text)) - example - {"config.yaml"}:
        assert (ROOT / path).is_file() or (ROOT / "ecrec_jax" / path).is_file(), path
    for path in re.findall(r"(?<![\w/])(\w+/)(?=[\s`])", text):
        places = (ROOT / path, ROOT / "ecrec_jax" / path)
        assert path in ("tokenizer/", "plots/", "wandb/", "report/", "predictions/", "checkpoints/") or any(
            place.is_dir() for place in places), path
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"'\.\[(\w+)\]'", text)) == set(extras) - {"dev"}
    assert "/work" not in text and "../" not in text
    blocked = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    assert "python -m" not in blocked, "a command outside of a block is never run"


def test_length():
    assert ENGLISH.count("\n") < 150
