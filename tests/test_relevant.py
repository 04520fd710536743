"""Users who are asked for several items at once: their splits, ranks and metrics, and that one item is the special case."""

import numpy as np
import pytest

from ecrec_jax.data import holdout
from ecrec_jax.data.feed import Feed
from ecrec_jax.types import InputError
from tests import world
from tests.test_recommend import contents, data, written


# ---- splits
def test_the_last_items_of_each_user(tmp_path):
    """Of b c f a d e d e the last three test, two items, one of them twice; f a d validate, b c train. The second user has six
    items, one too few."""
    path = written(tmp_path / "x.txt", "u b c f a d e d e\nv a b c d e f\n")
    corpus = data(path, format="lists", split="last_n", last=3, max_length=9).load("", 9)
    assert contents(corpus, "train") == [("u", "b", "c", {"b", "c"}, 0), ("v", "a b c d e", "b c d e f", set("abcdef"), 0)]
    assert contents(corpus, "valid") == [("u", "b c", "f", {"b", "c"}, 0)]
    assert contents(corpus, "test") == [("u", "b c f a d", "e", set("bcfad"), 0)]
    items = ["", *corpus.catalogue.items]
    assert [[items[i] for i in corpus.examples[name][0].relevant] for name in ("valid", "test")] == [["f", "a", "d"], ["e", "d"]]
    assert corpus.report["split"] == "the last 3 items of each user"


def test_leave_one_out_is_the_last_one(tmp_path):
    path = written(tmp_path / "x.txt", "u a b c a d\nv x y\nw a b d\n")
    one, two = (data(path, format="lists", split=split, max_length=4).load("", 4) for split in ("leave_one_out", "last_n"))
    assert all(contents(one, name) == contents(two, name) for name in one.examples)
    assert all(e.relevant is None for part in two.examples.values() for e in part)


@pytest.mark.parametrize("last", [1, 2, None])
def test_what_is_asked_after_a_moment(last):
    """Of random histories: all before the first moment is trained on; asked is what comes next, up to `last` of it."""
    rng = np.random.default_rng(0)
    times = [np.sort(rng.integers(0, 50, n).astype(float)) for n in rng.integers(1, 15, 40)]
    parts = holdout.by_time(times, [0.5, 0.8], last)
    first, second = np.quantile(np.concatenate(times), [0.5, 0.8], method="lower")
    for user, time in enumerate(times):
        assert (time[: parts["train"].end[user]] <= first).all() and (time[parts["train"].end[user] :] > first).all()
        for name, low, high in (("valid", first, second), ("test", second, np.inf)):
            end, asked = parts[name].end[user], parts[name].asked[user]
            later = time[(time > low) & (time <= high)]
            assert asked == min(len(later), last or 99) and (time[end - asked : end] == later[:asked]).all()
    holdout.check(parts, times)


@pytest.mark.parametrize("last", [1, 3])
def test_what_is_asked_of_whole_users(last):
    length = np.random.default_rng(1).integers(1, 9, 300)
    parts = holdout.by_users(length, [0.5, 0.7], 0, last)
    assert not parts["valid"].end[parts["train"].end > 0].any()
    for name in ("valid", "test"):
        end, asked = parts[name]
        assert set(asked[end > 0]) == {last} and (length[end > 0] > last).all() and (end[end > 0] == length[end > 0]).all()


def test_an_item_of_those_asked_is_trained_on():
    leaky = {"train": holdout.Part(np.array([4]), np.array([3])), "valid": holdout.Part(np.array([6]), np.array([3])),
             "test": holdout.Part(np.array([0]), np.array([0]))}
    with pytest.raises(InputError, match="user number 0 is asked for in valid is trained on too"):
        holdout.check(leaky, None)
    holdout.check(leaky | {"train": holdout.Part(np.array([3]), np.array([2]))}, None)


@pytest.mark.parametrize("keys,said", [
    ({"last": 2}, "choose data.split=last_n"), ({"split": "users", "last": None}, "needs data.split=time"),
    ({"split": "last_n", "last": 0}, "data.last 0 is too small")])
def test_refused(keys, said):
    with pytest.raises(InputError, match=said):
        data("x.csv", **keys)


@pytest.mark.parametrize("task", ["next_item", "masked_item"])
def test_a_slot_holds_all_that_is_relevant(task):
    """Filled up with 0, whichever task reads it; training rows have none."""
    made, rng = world.parts(task).task, np.random.default_rng(0)
    asked = [e._replace(label=int(e.label[-1]), relevant=np.append(e.label[-1], rng.integers(1, 99, k)).astype("i4"))
             for k, e in enumerate(world.examples(task, 4))]
    feed = Feed(asked, made, None)
    feed.shape = feed.shaped(2, None)._replace(seen=feed.seen, relevant=feed.relevant)
    for batch in feed.batches(None, 0):
        for place in np.argwhere(batch["weight"] > 0):
            found = batch["relevant"][tuple(place)]
            wanted = asked[batch["example"][tuple(place)]].relevant
            assert found[: len(wanted)].tolist() == wanted.tolist() and not found[len(wanted) :].any()
            assert batch["label"][tuple(place)] == wanted[0]
    assert "relevant" not in next(world.feed(made, task).batches(0, 0))
