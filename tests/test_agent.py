"""Inside a sweep: what an agent hands over arrives unharmed."""

import itertools
import json

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from ecrec_jax.types import InputError
from experiments import override
from tests import world
from tests.test_commands import call

TEXTS = ["", "null", "None", "True", "1e-05", "-1", "nan", "Inf", "a b", "  s ", "a,b", "x=y", "a:b", "#no", "~", "+", "[a]",
         "{a:1}", "(", ")", "choice(1,2)", "$HOME", "line\nbreak", "tab\t", "服装 评论，好", "é", "😀", "bert_tiny",
         "runs/a-b.c", "package:ecrec_jax/assets/x",
         *map("".join, itertools.product("\\'\"", repeat=3)), "a\\\\'b", "it's \"q\"", "c\\"]
NUMBERS = [0, -3, 10**30, 1e-5, 1.5e300, -0.0, 0.1, float("inf"), float("nan")]
VALUES = [None, True, False, *NUMBERS, *TEXTS, [], {}, TEXTS, [None, 1e-5, [[]], ["中", {"a": None, "b_c": [1, {}]}]]]


def file_of(folder, given):
    """As an agent writes it."""
    (folder / "config-abc.json").write_text(json.dumps(given))
    return str(folder / "config-abc.json")


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_any_value_arrives(value, tmp_path):
    """Hydra reads what the agent was given, of the same type."""
    word, = override.words_of(file_of(tmp_path, {"data.path": value}))
    read = OverridesParser.create().parse_override(word)
    assert read.key_or_group == "data.path" and not read.is_sweep_override()
    assert repr(read.value()) == repr(value)


def test_a_file_stands_for_its_keys(tmp_path):
    """Groups, lists of a group, nested sections and W&B's own notes."""
    given = {"experiment": "classify", "tracker": ["console", "jsonl"], "model": {"width": 64}, "data.path": "服装,评论.csv",
             "data.text_column": ["a,b", "标题"], "data.stratify_column": None, "optimizer.learning_rate": 1e-05,
             "best": {"metric": "loss", "mode": "min"}, "optimizer.clip": None, "_wandb": {"t": [1]}}
    config = world.composed(*override.words_of(file_of(tmp_path, given)))
    assert set(config["tracker"]) == {"console", "jsonl"} and config["model"]["width"] == 64
    assert config["data"]["path"] == "服装,评论.csv" and config["data"]["text_column"] == ["a,b", "标题"]
    assert config["data"]["stratify_column"] is None and config["optimizer"]["clip"] is None
    assert config["optimizer"]["learning_rate"] == 1e-5 and config["best"] == {"metric": "loss", "mode": "min"}


@pytest.mark.parametrize("given, said", [({"data.path": [{"1": 2}]}, "data.path"), ({"数据": 1}, "数据"), ([1], "object"),
                                         ({"a=b": 1}, "a=b"), ({"a b": 1}, "a b")])
def test_what_cannot_be_handed_over(given, said, tmp_path):
    """One sentence, no other value."""
    with pytest.raises(InputError, match=said):
        override.words_of(file_of(tmp_path, given))


def test_a_mistake_in_the_file(tmp_path, capsys):
    """Through the launcher: a key that isn't there, no file, no JSON."""
    assert call("train", file_of(tmp_path, {"optimizer.rate": 1})) == 2
    assert "optimizer.rate is not a key; optimizer has " in capsys.readouterr().err
    assert call("train", "nowhere.json") == 2
    assert "nowhere.json: no such file" in capsys.readouterr().err
    (tmp_path / "half.json").write_text('{"seed": ')
    assert call("train", str(tmp_path / "half.json")) == 2
    assert "half.json: not JSON" in capsys.readouterr().err
