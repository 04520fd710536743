"""The words of a log: what users took before beside what they are shown, and a cross-encoder's score of it as a feature."""

import numpy as np
import pandas as pd
import pytest

from ecrec_jax.data import history
from tests.test_commands import TINY, call

TITLES = ["a red dress", "black shoes", "a warm coat", "a green hat"]


@pytest.fixture
def folder(tmp_path):
    """300 rows of nine users and four items, at 150 moments, and the items' titles."""
    rng = np.random.default_rng(0)
    rows = [f"u{rng.integers(9)},{rng.integers(4)},{i // 2},{int(rng.random() < 0.5)}" for i in range(300)]
    (tmp_path / "log.csv").write_text("user,item,time,click\n" + "\n".join(rows) + "\n")
    (tmp_path / "items.csv").write_text("item,title\n" + "".join(f"{i},{title}\n" for i, title in enumerate(TITLES)))
    return tmp_path


def words(folder, *more):
    """What the command is told."""
    return ["pairs", f"data.path={folder}/log.csv", "data.fields={user: category}", f"texts={folder}/items.csv",
            "text_columns=[title]", "most=3", f"output={folder}/pairs.csv", *more]


def test_what_was_taken_before(folder):
    """The last three strictly before, the latest first, of rows of one moment those further down; by the definition."""
    assert call(*words(folder)) == 0
    table, given = pd.read_csv(folder / "pairs.csv"), pd.read_csv(folder / "log.csv")
    assert list(table) == ["user", "item", "time", "click", "history", "candidate", "taken", "split"]
    assert (table[["user", "item", "time", "click"]] == given[["user", "item", "time", "click"]]).all(axis=None)
    assert (table["taken"] == table["click"]).all()
    for i, row in table.iterrows():
        mine = given[(given["user"] == row["user"]) & (given["time"] < row["time"]) & (given["click"] == 1)]
        past = [TITLES[item] for item in mine["item"][::-1][:3]]
        assert row["history"] == (". ".join(past) or "nothing yet") and row["candidate"] == TITLES[row["item"]], i
    assert "nothing yet" in set(table["history"]) and table["history"].str.count(r"\. ").max() == 2
    order = table["time"].rank(method="dense").to_numpy()   # 80 % train, of which the first half trains the cross-encoder
    assert (table["split"] == np.where(order >= 121, "test", np.where(order >= 61, "valid", "train"))).all()


def test_rows_to_come_see_the_whole_log(folder):
    given = pd.read_csv(folder / "log.csv")
    new = pd.DataFrame({"user": ["u1", "u1", "u77"], "item": [0, 3, 2], "price": [1, 2, 3]})
    new.to_csv(folder / "new.csv", index=False)
    assert call(*words(folder, f"input={folder}/new.csv")) == 0
    found = pd.read_csv(folder / "pairs.csv")
    assert list(found) == ["user", "item", "price", "history", "candidate"]
    mine = given[(given["user"] == "u1") & (given["click"] == 1)]["item"][::-1][:3]
    assert found["history"].tolist() == [". ".join(TITLES[item] for item in mine)] * 2 + ["nothing yet"]
    assert found["candidate"].tolist() == [TITLES[0], TITLES[3], TITLES[2]]
    new.loc[3], new["why"] = ["u5", None, 4], ["history"] * 3 + ["nothing left"]
    new.astype({"item": "Int64"}).to_csv(folder / "new.csv", index=False)
    assert call(*words(folder, f"input={folder}/new.csv")) == 0
    again = pd.read_csv(folder / "pairs.csv")
    assert again["candidate"].tolist()[:3] == found["candidate"].tolist() and again["candidate"].isna().tolist()[3]


@pytest.mark.slow
def test_a_score_is_a_feature_of_rows_not_trained_on(folder, capsys):
    """Pairs, a cross-encoder, its scores beside the log's columns, a ranking model that reads them."""
    assert call(*words(folder)) == 0
    assert call("train", "experiment=classify", *TINY, f"data.path={folder}/pairs.csv", "data.text_column=history", "steps=2",
                "data.text_pair_column=candidate", "data.label_column=taken", "data.split_column=split", "tracker=[jsonl]",
                f"run_dir={folder}/cross") == 0, capsys.readouterr().err
    assert call("predict", f"run_dir={folder}/cross", f"input={folder}/pairs.csv", "keep=[user,item,time,click,split]",
                "unseen=true", f"output={folder}/scored.csv") == 0, capsys.readouterr().err
    table, before = pd.read_csv(folder / "scored.csv"), pd.read_csv(folder / "pairs.csv")
    trained = set(zip(before["history"], before["candidate"], strict=True)) & set(zip(
        *(before[before["split"] == "train"][side] for side in ("history", "candidate")), strict=True))
    known = [pair in trained for pair in zip(before["history"], before["candidate"], strict=True)]
    assert (table["score/1"].isna() == known).all() and 0 < sum(known) < 300 and (table["user"] == before["user"]).all()
    assert call("train", "experiment=click", "data=clicks", f"data.path={folder}/scored.csv", "steps=2", "tracker=[jsonl]",
                "data.fields={user: category, item: category, score/1: number}", f"run_dir={folder}/rank") == 0
    capsys.readouterr()
    assert call("predict", f"run_dir={folder}/cross", f"input={folder}/pairs.csv", "keep=[colour]", f"output={folder}/x.csv") == 2
    assert "keep: " in capsys.readouterr().err
    assert call("predict", f"run_dir={folder}/cross", f"input={folder}/scored.csv", "keep=[user]", f"output={folder}/x.csv") == 2
    again = pd.concat([before, table[["score"]]], axis=1)
    again.to_csv(folder / "again.csv", index=False)
    capsys.readouterr()
    words_of = ["predict", f"run_dir={folder}/cross", f"input={folder}/again.csv", f"output={folder}/x.csv"]
    assert call(*words_of, "keep=[score]") == 2 and "keep: the output has a column 'score' of its own" in capsys.readouterr().err
    assert call(*words_of, "group=user", "keep=[user,rank]") == 2 and "column 'rank' of its own" in capsys.readouterr().err
    (folder / "cross" / "trained_on.npy").unlink()
    assert call(*words_of, "unseen=true") == 2 and "doesn't say what it was trained on" in capsys.readouterr().err


def test_an_item_of_a_history_without_text(folder, capsys):
    """And a log that has a column of the pairs already."""
    (folder / "items.csv").write_text("item,title\n" + "".join(f"{i},{title}\n" for i, title in enumerate(TITLES[:3])))
    pd.DataFrame({"user": [f"u{u}" for u in range(9)], "item": 0}).to_csv(folder / "new.csv", index=False)
    assert call(*words(folder, f"input={folder}/new.csv")) == 2
    assert "texts has no text of item '3' of its history" in capsys.readouterr().err
    (folder / "items.csv").write_text("item,title\n" + "".join(f"{i},{title}\n" for i, title in enumerate(TITLES)))
    assert call(*words(folder, "data.split=random", "data.history=false")) == 2
    assert "data.split=random holds out clicks that the histories" in capsys.readouterr().err
    pd.read_csv(folder / "log.csv").assign(history="x").to_csv(folder / "log.csv", index=False)
    assert call(*words(folder)) == 2 and "has a column 'history', as the pairs have" in capsys.readouterr().err


@pytest.mark.parametrize("more,said", [
    (["output=x.txt"], "unknown ending '.txt'"), (["most=0"], "most is 0"), (["share=1.0"], "share is 1.0"),
    (["text_columns=[name]"], "text_columns: "),
    (["text_columns=[]"], "text_columns is empty"), (["data=reviews_sentiment"], "data: pairs are made of a log"),
    (["data.item_column=time"], "texts has no text of item '"), (["share=0.000001"], "no training row lies before")])
def test_refused(folder, capsys, more, said):
    given = words(folder)
    if "data=reviews_sentiment" in more:
        given = [word for word in given if not word.startswith("data.")]
    assert call(*given, *more) == 2 and said in capsys.readouterr().err


def test_none_taken_none_known():
    assert history.recent(["a", "a"], np.zeros(2), np.ones(2, bool), ["x", "y"], 5) == [[], []]
