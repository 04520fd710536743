"""Every command and every block of code in the READMEs is run."""

import re
import shlex
import sys
import types
from pathlib import Path

import pandas as pd
import pytest

from tests import world
from tests.test_commands import TINY, call

ROOT = Path(__file__).parent.parent
ENGLISH, CHINESE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md"))


def blocks(text, language=r"\w*"):
    """Fenced blocks."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


@pytest.fixture()
def here(tmp_path, monkeypatch):
    """A folder with a file of one's own."""
    monkeypatch.chdir(tmp_path)
    rows = [{"review": f"a text of number {i}", "mood": ["good", "bad"][i % 2], "stars": i % 5 + 1} for i in range(200)]
    pd.DataFrame(rows).to_csv("my.csv", index=False)
    return tmp_path


def test_both_languages_say_the_same():
    assert blocks(ENGLISH) == blocks(CHINESE) and len(blocks(ENGLISH)) == 7
    assert ENGLISH.count("\n") < 150 and len(re.findall("^## ", ENGLISH, re.M)) == len(re.findall("^## ", CHINESE, re.M))
    numbers = lambda text: re.findall(r"^\|.*0\.\d.*$", text, re.M)  # noqa: E731
    assert [re.findall(r"0\.\d+", row) for row in numbers(ENGLISH)] == [re.findall(r"0\.\d+", row) for row in numbers(CHINESE)]
    assert len(numbers(ENGLISH)) == 8


def test_commands_and_python(here):
    words = [shlex.split(line) for block in blocks(ENGLISH, "bash") for line in block.splitlines()]
    targets = [line[1] for line in words if line[0] == "make"]
    assert targets == ["quickstart", "test"]
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)
    ran = []
    for program, flag, module, *rest in (line for line in words if line[0] != "make"):
        assert (program, flag) == (".venv/bin/python", "-m")
        command = module.removeprefix("experiments.")
        if command == "train":
            rest += ["debug=fast", *(TINY if "model=bert" not in rest else ["data.max_length=32"])]
        assert call(command, *rest) == 0, rest
        ran.append(command)
    assert ran == ["train", "evaluate", "export", "baseline", "train", "train", "predict", "train"]
    assert len(pd.read_csv("labelled.csv")) == 200
    exec(compile(blocks(ENGLISH, "python")[0], "README.md", "exec"), {})
    assert (here / "runs" / "mine-flax" / "flax_model.msgpack").is_file()


def test_add_a_head(here):
    name = "ecrec_jax.head.attentive"
    module = types.ModuleType(name)
    exec(compile(blocks(ENGLISH, "python")[1], "attentive.py", "exec"), module.__dict__)
    sys.modules[name] = module
    line = re.search(r"`conf/head/attentive.yaml`: `(.+?)`", ENGLISH)[1]
    (here / "conf" / "head").mkdir(parents=True)
    (here / "conf" / "head" / "attentive.yaml").write_text(line + "\n")
    try:
        found = [f"hydra.searchpath=[file://{here / 'conf'}]", "head=attentive"]
        own = ["experiment=classify", "data.path=my.csv", "data.text_column=review", "data.label_column=mood", "tracker=[jsonl]"]
        assert call("train", *own, *found, *TINY, "steps=3", "run_dir=runs/attentive") == 0
        assert "attentive" not in world.names("head")
    finally:
        del sys.modules[name]
