"""Items known by their texts: vectors of these, and a recommender that says something of items it has never seen."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecrec_jax import pretrained
from ecrec_jax.data import vectors
from ecrec_jax.types import InputError
from experiments.encode import encoded
from tests.conftest import GOLDEN
from tests.test_commands import call

ENCODER = str(GOLDEN / "bert" / "sequence_classification")
WORDS = ["experiment=next_item", "data=sequences", "model.width=16", "model.feed_forward=16", "model.depth=1", "data.max_length=10",
         "task.cutoffs=[5]", "task.most=5", "tracker=[jsonl]", "best.metric=ndcg@5", "epochs=4", "data.batch_size=8",
         "optimizer.learning_rate=1e-2"]
ITEMS = 40


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """(a log of 300 users who walk round a circle of 40 items, vectors that say where an item lies on it)."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("shop")
    walks = np.arange(9) + rng.integers(0, ITEMS, (300, 1))
    rows = [{"user": f"u{u}", "item": f"i{x % ITEMS}", "time": t} for u, walk in enumerate(walks) for t, x in enumerate(walk)]
    pd.DataFrame(rows).to_csv(folder / "log.csv", index=False)
    angle = np.arange(ITEMS)[:, None] * 2 * np.pi / ITEMS * np.arange(1, 5)
    vectors.write(folder / "vectors.parquet", [f"i{x}" for x in range(ITEMS)], np.concatenate([np.cos(angle), np.sin(angle)], 1))
    return folder / "log.csv", folder / "vectors.parquet"


@pytest.mark.slow
def test_new_items_can_be_recommended(shop, tmp_path, capsys):
    """A fifth of the items is in nobody's training; by their vectors they are found, by their numbers they can't be."""
    log, known = shop
    found = {}
    for text in ("only", "none"):
        run = tmp_path / text
        assert call("train", *WORDS, f"data.path={log}", f"data.vectors={known}", "data.new_items=0.2", f"model.text={text}",
                    "model.item_dropout=0.1", f"run_dir={run}") == 0, capsys.readouterr().err
        summary = json.loads((run / "summary.json").read_text())
        found[text] = summary["test/recall@5"]
        assert summary["test/loss"] == 0 < summary["valid/loss"] < 10   # no share of softmax is a new item's
        facts = json.loads((run / "facts.json").read_text())
        asked = pq.read_table(run / "predictions" / "test.parquet")["target"].to_pylist()
        names = (run / "items.txt").read_text().split()
        assert len(facts["new_ids"]) == 8 and not any(facts["item_counts"][i] for i in facts["new_ids"])
        assert set(asked) <= {names[i - 1] for i in facts["new_ids"]}
    print(found)
    assert found["only"] > 0.8 > 0.4 > found["none"]
    assert (tmp_path / "only" / "vectors.npy").is_file() and 0 < summary["test/diversity@5"] < 2
    (tmp_path / "users.csv").write_text("user,item,time\na,i3,0\na,i4,1\na,i5,2\na,i6,3\n")
    assert call("recommend", f"run_dir={tmp_path / 'only'}", f"users={tmp_path / 'users.csv'}", "k=5",
                f"output={tmp_path / 'out.csv'}") == 0, capsys.readouterr().err
    assert "i7" in set(pd.read_csv(tmp_path / "out.csv")["item"])


def test_a_run_goes_on_with_its_own_vectors(tmp_path):
    for _ in range(2):
        vectors.keep(np.eye(3, dtype="f4"), tmp_path / "vectors.npy")
    with pytest.raises(InputError, match="began with other vectors"):
        vectors.keep(np.ones((3, 3), "f4"), tmp_path / "vectors.npy")
    assert [path.name for path in tmp_path.iterdir()] == ["vectors.npy"]


def test_items_known_by_text_alone_have_no_numbers(shop, tmp_path):
    """A log in another order goes on where items are their texts."""
    log, known = shop
    head, *rows = log.read_text().splitlines()
    (tmp_path / "other.csv").write_text("\n".join([head, *rows[::-1]]) + "\n")
    words = [*WORDS, f"data.vectors={known}", "model.text=only", "epochs=1"]
    assert call("train", *words, f"data.path={log}", f"run_dir={tmp_path / 'a'}") == 0
    more = [f"data.path={tmp_path / 'other.csv'}", f"model.checkpoint={tmp_path / 'a'}"]
    assert call("train", *words, *more, f"run_dir={tmp_path / 'b'}") == 0
    assert call("train", *words, *more, "head.tied=false", f"run_dir={tmp_path / 'c'}") == 2


def test_refused(shop, tmp_path, capsys):
    log, known = shop
    assert call("train", *WORDS, f"data.path={log}", "model.text=only", f"run_dir={tmp_path / 'a'}") == 2
    assert "model.text reads vectors of items: set data.vectors" in capsys.readouterr().err
    assert call("train", *WORDS, f"data.path={log}", "data.new_items=1.0", f"run_dir={tmp_path / 'b'}") == 2
    assert "data.new_items 1.0 must be 0 or more, below 1" in capsys.readouterr().err
    words = [f"data.path={log}", f"data.vectors={known}", "data.new_items=0.2", "model.text=only", "head.tied=false"]
    assert call("train", *WORDS, *words, f"run_dir={tmp_path / 'c'}") == 2
    assert "nothing would train the scores of new items" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"no vector of item 'i40' and 1 others: encode their texts too"):
        vectors.load(known, ["i1", "i40", "i41"])
    path = tmp_path / "x.parquet"
    for table, said in ((pa.table({"item": ["a"]}), "isn't a Parquet file with columns item and vector"),
                        (pa.table({"item": ["a", "b"], "vector": [[1.0], [1.0, 2.0, 3.0]]}), "vectors of different lengths"),
                        (pa.table({"item": ["a", " a"], "vector": [[1.0], [2.0]]}), "two vectors of item 'a'"),
                        (pa.table({"item": ["a"], "vector": [[float("nan")]]}), "a number that is not finite")):
        pq.write_table(table, path)
        with pytest.raises(InputError, match=said):
            vectors.load(path, ["a"])


def test_texts_are_encoded_as_each_alone(tmp_path, capsys, monkeypatch):
    """Rows are shared, vectors aren't; the file names what it can't read."""
    texts = ["a red dress", "shoes", "a very warm coat for the winter", "the"]
    whole, cut = encoded(texts, ENCODER, 32, 4, "mean", "float32")
    each = [encoded([text], ENCODER, 32, 4, "mean", "float32")[0] for text in texts]
    np.testing.assert_allclose(whole, np.concatenate(each), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-6)
    half, _ = encoded(texts, ENCODER, 32, 4, "mean", "bfloat16")
    assert half.dtype == np.float32 and 0 < 1 - (half * whole).sum(-1).min() < 1e-3
    for kind, said in (({"pooler": False}, "pooling is cls, but .* has no pooler"), ({"causal": True}, "first token of a causal")):
        with monkeypatch.context() as patch, pytest.raises(InputError, match=said):
            patch.setattr(pretrained, "load", lambda name, kind=kind, load=pretrained.load: dataclasses.replace(
                found := load(name), facts=dataclasses.replace(found.facts, **kind)))
            encoded(texts, ENCODER, 32, 4, "cls", "float32")
    assert cut == 0 and encoded(texts, ENCODER, 4, 4, "first", "float32")[1] > 0 and np.abs(whole[0] - whole[1]).max() > 1e-3
    pd.DataFrame({"item": ["a", "b"], "text": ["dress", "shoes"], "brand": ["", "x"]}).to_csv(tmp_path / "items.csv", index=False)
    words = [f"checkpoint={ENCODER}", f"input={tmp_path / 'items.csv'}", "columns=[brand,text]", "batch_size=2"]
    assert call("encode", *words, f"output={tmp_path / 'out.parquet'}") == 0
    kept = pq.read_table(tmp_path / "out.parquet")
    assert kept["item"].to_pylist() == ["a", "b"]
    wanted, _ = encoded(["dress", "x. shoes"], ENCODER, 64, 2, "mean", "float32")
    np.testing.assert_allclose(kept["vector"].to_pylist(), wanted, atol=1e-6)
    capsys.readouterr()
    pd.DataFrame({"item": ["a", "b", "a"], "text": ["x", "y", "z"]}).to_csv(tmp_path / "items.csv", index=False)
    assert call("encode", *words[:2], f"output={tmp_path / 'out.parquet'}") == 2
    assert "line 4: item a has a text on line 2 already" in capsys.readouterr().err
    pd.DataFrame({"item": ["a", "b"], "text": ["x", ""]}).to_csv(tmp_path / "items.csv", index=False)
    assert call("encode", *words[:2], f"output={tmp_path / 'out.csv'}") == 2 and "must end in .parquet" in capsys.readouterr().err
    assert call("encode", *words[:2], f"output={tmp_path / 'out.parquet'}") == 2
    assert "line 3: item b has no text" in capsys.readouterr().err
