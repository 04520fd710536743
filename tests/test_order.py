"""Candidates in a new order: ranks by hand, what an order is worth by its definition, the whole way from one model to the next."""



import numpy as np
import pandas as pd
import pytest

from ecrec_jax.types import InputError
from experiments import order
from tests.test_commands import call
from tests.test_recommend import WORDS, circle, log  # noqa: F401 (fixtures)


def plain(group, score, relevant):
    """{metric: mean over groups} from sorted lists, what is relevant last among equals."""
    found = []
    for name in dict.fromkeys(group):
        rows = sorted((-s, r) for g, s, r in zip(group, score, relevant, strict=True) if g == name)
        hits = [k for k, (_, r) in enumerate(rows, 1) if r]
        if hits:
            gain = sum(1 / np.log2(k + 1) for k in hits if k <= 10)
            best = sum(1 / np.log2(k + 1) for k in range(1, min(10, len(hits)) + 1))
            found.append((gain / best, np.mean([k <= 10 for k in hits]), 1 / hits[0]))
    return dict(zip(order.TOLD, np.mean(found, 0), strict=True)), len(found)


@pytest.mark.parametrize("ties", [False, True])
def test_an_order(ties):
    """Groups as they come, the best first, equals as they come; worth of both orders as defined."""
    rng = np.random.default_rng(0)
    group = [f"u{k}" for k in rng.integers(0, 9, 200)]
    score = rng.integers(0, 3, 200) / 2 if ties else rng.random(200)
    wanted = rng.random(200) < 0.1
    rows = pd.DataFrame({"row": np.arange(200), "score/no": 1 - score, "score/yes": score})
    made, said = order.ordered(rows, group, None, wanted.tolist())
    assert [group[i] for i in dict.fromkeys(made.row.map(lambda i: group.index(group[i])))] == list(dict.fromkeys(group))
    for name in set(group):
        mine = made[[group[i] == name for i in made.row]]
        assert mine["rank"].tolist() == list(range(1, len(mine) + 1))
        assert mine.row.tolist() == sorted(mine.row, key=lambda i: (-score[i], i))
    (old, count), (new, _) = (plain(group, x, wanted) for x in (-np.arange(200), score))
    told = "; ".join(f"{name} {old[name]:.4f} -> {new[name]:.4f}" for name in order.TOLD)
    assert said == f"{told} over the {count} of 9 groups with something relevant"


@pytest.mark.parametrize("rows,by,said", [({"score/a": [0.1], "score/b": [0.2], "score/c": [0.7]}, None, "one of score/a, score/b"),
                                          ({"prediction": ["x"]}, None, "prediction is no number"),
                                          ({"prediction": [0.5]}, "score/a", "is no number that the run says; it says prediction")])
def test_nothing_to_rank_by(rows, by, said):
    with pytest.raises(InputError, match=said):
        order.ordered(pd.DataFrame(rows), ["u"], by, None)
    assert order.ordered(pd.DataFrame({"prediction": [0.5]}), [None], None, None)[0]["rank"].tolist() == [1]


@pytest.mark.parametrize("words,said", [
    (["relevant={click: 1}"], "group is not set"), (["group=user", "relevant=click"], "relevant is 'click'"),
    (["group=user", "relevant={click: yes}"], "relevant is {'click': 'yes'}"), (["group=who"], "has no column 'who'"),
    (["group=user", "relevant={item: 1}"], "line 2: item 'i0' is not a number"),
    (["group=user", "relevant={click: 2}"], "relevant: no row is")])
def test_refused(words, said, ranker, capsys):
    assert call("predict", *ranker, *words) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


@pytest.fixture(scope="module")
def ranker(tmp_path_factory):
    """Words of experiments.predict: a ranking model of clicks, which loves even items, and candidates."""
    folder, rng = tmp_path_factory.mktemp("ranker"), np.random.default_rng(0)
    shown = rng.integers(0, 30, 2000)
    clicks = (rng.random(2000) < np.where(shown % 2, 0.1, 0.9)).astype(int)
    pd.DataFrame({"user": [f"u{k % 120}" for k in range(2000)], "item": [f"i{x}" for x in shown], "time": np.arange(2000),
                  "click": clicks}).to_csv(folder / "shown.csv", index=False)
    assert call("train", "experiment=click", "data=clicks", f"data.path={folder}/shown.csv", "data.label_column=click",
                "data.fields={item: category}", "data.item_fields=[item]", "data.history=false", "model=logistic", "epochs=20",
                "optimizer.learning_rate=0.1", "tracker=[jsonl]", f"run_dir={folder}/run") == 0
    (folder / "some.csv").write_text("user,item,click\nu1,i0,1\nu1,i1,0\nu2,i3,0\n")
    return [f"run_dir={folder}/run", f"input={folder}/some.csv", f"output={folder}/out.csv"]


def test_from_recommendations_to_their_new_order(circle, ranker, tmp_path, capsys):  # noqa: F811
    """What one model recommends is ranked again by another, user by user."""
    (tmp_path / "users.txt").write_text("u5\nu6\nu7\n")
    assert call("recommend", f"run_dir={circle}", f"users={tmp_path}/users.txt", f"output={tmp_path}/first.csv", "k=8") == 0
    first = pd.read_csv(tmp_path / "first.csv")
    first["good"] = (first.item.str[1:].astype(int) % 2 == 0).astype(int)
    first.to_csv(tmp_path / "first.csv", index=False)
    words = [ranker[0], f"input={tmp_path}/first.csv", f"output={tmp_path}/second.csv", "keep=[user,item,why]", "group=user",
             "relevant={good: 1}"]
    capsys.readouterr()
    assert call("predict", *words) == 0
    second, said = pd.read_csv(tmp_path / "second.csv"), capsys.readouterr().out
    assert second.user.tolist() == ["u5"] * 8 + ["u6"] * 8 + ["u7"] * 8 and second["rank"].tolist() == [*range(1, 9)] * 3
    assert {*zip(first.user, first.item, strict=True)} == {*zip(second.user, second.item, strict=True)}
    first.loc[len(first)] = {"user": "u9", "why": "nothing left"}
    first.to_csv(tmp_path / "first.csv", index=False)
    assert call("predict", *words) == 0   # a row without item keeps its place, and has no score
    last = pd.read_csv(tmp_path / "second.csv")
    assert last.iloc[-1][["user", "why"]].tolist() == ["u9", "nothing left"] and last.iloc[-1][["score", "prediction"]].isna().all()
    pd.testing.assert_frame_equal(last.iloc[:-1], second, check_dtype=False)
    assert (second.groupby("user")["score/click"].diff().dropna() <= 0).all() and "ndcg@10 " in said and "-> 1.0000" in said
