"""Types of events beside items: what models are told, what is a label, and that it helps where the type matters."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from ecrec_jax import build
from ecrec_jax.types import InputError
from experiments import saved, wiring
from tests import world
from tests.test_commands import call
from tests.test_recommend import contents, data, written

LOG = "user,item,time,type\n" + "".join(f"u,{item},{time},{kind}\n" for time, (item, kind) in enumerate(
    [("a", "view"), ("b", "buy"), ("c", "view"), ("c", "buy"), ("d", "view"), ("a", "buy"), ("e", "view"), ("d", "buy"),
     ("f", "view")])) + "v,a,1,view\nv,b,2,buy\nw,b,1,buy\nw,a,2,view\n"


def test_only_such_events_are_labels(tmp_path):
    """u bought b c a d: d tests, a validates, b and c are trained on after what was viewed before; w bought nothing after
    anything else; what u had is what was bought."""
    corpus = data(written(tmp_path / "x.csv", LOG), type_column="type", target_types=["buy"]).load("", 50)
    assert contents(corpus, "train") == [("u", "a b c c", "b c c d", {"b", "c"}, 0), ("v", "a", "b", {"b"}, 0)]
    assert contents(corpus, "valid") == [("u", "a b c c d", "a", {"b", "c"}, 0)]
    assert contents(corpus, "test") == [("u", "a b c c d a e", "d", {"a", "b", "c"}, 0)]
    counts = [dict(zip(corpus.catalogue.items, corpus.facts[name][1:-1], strict=True)) for name in ("item_counts", "label_counts")]
    assert counts == [dict(zip("abcdef", x, strict=True)) for x in ((0, 2, 1, 0, 0, 0), (0, 2, 1, 0, 0, 0))]
    assert corpus.facts["types"] == 2 and corpus.facts["events"] == ("view", "buy") and "buy" in corpus.report["split"]
    example, task = corpus.examples["train"][0], world.parts("next_item", "model=sasrec").task
    assert example.type.tolist() == [0, 1, 0, 1] and example.read.tolist() == [True, False, True, False]
    found = task.prepare(example, np.random.default_rng(0))
    assert [corpus.catalogue.items[i - 1] for i in found["label"]] == ["b", "c"] and found["slot"].tolist() == [0, 2]
    assert task.size(example) == (4, 2)


def test_several_such_events_are_asked_for_at_once(tmp_path):
    """Of what u bought, b c a d g h, the last two test and the two before validate; one at a time it is leave one out."""
    more = {"type_column": "type", "target_types": ["buy"]}
    log = LOG + "".join(f"u,{item},{20 + t},{kind}\n" for t, (item, kind) in enumerate([("g", "buy"), ("e", "view"), ("h", "buy")]))
    corpus = data(written(tmp_path / "x.csv", log), split="last_n", last=2, **more).load("", 50)
    assert contents(corpus, "test") == [("u", "a b c c d a e d f", "g", {"a", "b", "c", "d"}, 0)]
    assert contents(corpus, "valid") == [("u", "a b c c d", "a", {"b", "c"}, 0)]
    asked = [[corpus.catalogue.items[i - 1] for i in corpus.examples[name][0].relevant] for name in ("valid", "test")]
    assert asked == [["a", "d"], ["g", "h"]] and "of the events buy" in corpus.report["split"]
    one, two = (data(written(tmp_path / "x.csv", LOG), split=split, **more).load("", 50) for split in ("leave_one_out", "last_n"))
    assert all(contents(one, name) == contents(two, name) for name in one.examples)


@pytest.mark.parametrize("split", ["time", "users"])
def test_a_moment_and_whole_users_ask_for_such_events(tmp_path, split):
    """Of random logs: what is asked for are the next of them after the moment, or a user's last ones, after all that was before."""
    rng = np.random.default_rng(0)
    rows = [(f"u{user}", f"i{rng.integers(30)}", t, rng.choice(["view", "buy"])) for user in range(60)
            for t in np.sort(rng.integers(0, 90, rng.integers(1, 15)))]
    log = "user,item,time,type\n" + "".join(f"{','.join(map(str, row))}\n" for row in rows)
    corpus = data(written(tmp_path / "x.csv", log), split=split, last=2, type_column="type", target_types=["buy"]).load("", 50)
    names, found = corpus.catalogue, 0
    moments = np.quantile([row[2] for row in rows], [0.8, 0.9], method="lower")
    for example in corpus.examples["test"]:
        mine = [row for row in rows if row[0] == names.users[example.index]]
        buys = [i for i, row in enumerate(mine) if row[3] == "buy"]
        at = [i for i in buys if mine[i][2] > moments[1]][:2] if split == "time" else buys[-2:]
        assert [names.items[i - 1] for i in example.relevant] == list(dict.fromkeys(mine[i][1] for i in at))
        assert [names.items[i - 1] for i in example.tokens] == [row[1] for row in mine[: at[0]]]
        found += 1
    assert found > 3


@pytest.mark.parametrize("keys,says", [
    ({"target_types": ["buy"]}, "needs data.type_column"), ({"type_column": "type", "target_types": ["rent"]}, "is a 'rent'"),
    ({"type_column": "kind"}, "data.type_column"), ({"type_column": "type", "new_items": 0.5}, "new_items=0")])
def test_bad_types(keys, says, tmp_path):
    with pytest.raises(InputError, match=says):
        data(written(tmp_path / "x.csv", LOG), **keys).load("", 50)
    with pytest.raises(InputError, match=r"x\.csv.*an event without type"):
        data(written(tmp_path / "x.csv", LOG + "w,c,3,\n"), type_column="type").load("", 50)


@pytest.mark.parametrize("words", [
    "experiment=pretrain_s3rec", "experiment=next_item model=bert4rec head=tokens task=masked_item"])
def test_what_is_hidden_has_no_type(words):
    config = world.composed(*words.split())
    wiring.check(config)
    config["data"]["type_column"] = "type"
    with pytest.raises(InputError, match=r"hides items.*data\.type_column=null"):
        wiring.check(config)


@pytest.mark.parametrize("model", ["sasrec", "gru4rec"])
def test_without_types_nothing_is_added(model):
    """No parameter; and the first ones of those with types are the same."""
    plain = world.parts("next_item", f"model={model}")
    facts = dataclasses.replace(plain.facts, types=3)
    config = world.composed("task=next_item", "head=items", f"model={model}", *world.small(f"model={model}"),
                            "optimizer.learning_rate=1e-2")
    typed = build.network(config, facts, "", None)
    assert set(typed.parameters) - set(plain.parameters) == {"model.type.embedding"}
    assert all((typed.parameters[k] == x).all() for k, x in plain.parameters.items() if k.startswith("model.items"))


@pytest.mark.slow
def test_types_help_where_they_matter(tmp_path):
    """On a circle of 12 items the next one is one further after a view and three after a purchase: without the type half of the
    answers can be right. A changed type changes what comes at it and after it, and nothing before."""
    rng, rows = np.random.default_rng(0), []
    for user in range(160):
        item = int(rng.integers(12))
        for time in range(12):
            kind = int(rng.integers(2))
            rows.append((f"u{user}", f"i{item}", time, ("view", "buy")[kind]))
            item = (item + (1, 3)[kind]) % 12
    pd.DataFrame(rows, columns=["user", "item", "time", "type"]).to_csv(tmp_path / "log.csv", index=False)
    words = ["experiment=next_item", "data=sequences", f"data.path={tmp_path / 'log.csv'}", "data.type_column=type",
             "model.width=32", "model.depth=1", "model.feed_forward=32", "optimizer.learning_rate=1e-2", "data.batch_size=32",
             "task.cutoffs=[1,10]", "task.most=5", "task.filter_seen=false", "epochs=25", "tracker=[jsonl]"]
    assert call("train", *words, f"run_dir={tmp_path / 'run'}") == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["test/recall@1"] > 0.8
    parts = build.rebuild(*saved.opened(str(tmp_path / "run")))
    assert sorted(parts.facts.events) == ["buy", "view"]
    net, line = parts.graph.net(parts.parameters), np.arange(6)[None]
    batch = {"tokens": line + 1, "segment": 0 * line + 1, "position": line, "type": 0 * line, "slot": line}
    read = lambda batch: np.asarray(net(jax.tree.map(jnp.asarray, batch)).logits())[0]  # noqa: E731
    gap = np.abs(read(batch | {"type": np.array([[0, 0, 0, 1, 0, 0]])}) - read(batch)).max(-1)
    assert gap[:3].max() < 1e-5 and gap[3:].min() > 1e-3
    new = [("x", "i4", 1, "view"), ("x", "i5", 2, "buy"), ("y", "i5", 1, "view")]
    pd.DataFrame(new, columns=["user", "item", "time", "type"]).to_csv(tmp_path / "new.csv", index=False)
    assert call("recommend", f"run_dir={tmp_path / 'run'}", f"users={tmp_path / 'new.csv'}", "k=1", "had=true",
                f"output={tmp_path / 'out.csv'}") == 0
    assert pd.read_csv(tmp_path / "out.csv")["item"].tolist() == ["i8", "i6"]
