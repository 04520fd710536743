"""Users who are asked for several items at once: their splits, ranks and metrics, and that one item is the special case."""

import itertools
import json

import ir_measures
import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest
from ir_measures import AP, RR, P, R, Success, nDCG

from ecrec_jax import ranking
from ecrec_jax.data import catalogue, holdout, pack
from ecrec_jax.data.feed import Feed
from ecrec_jax.factored import BLOCK, LEAST, Factored, largest
from ecrec_jax.types import Example, InputError
from ecrec_jax.use import neighbours
from ecrec_jax.use.diversify import similarity
from experiments import compare, plot
from experiments.cell import Cell
from tests import world
from tests.test_commands import call
from tests.test_recommend import WORDS, contents, data, log, written  # noqa: F401 (a fixture)


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
    parts = holdout.by_time(times, [0.5, 0.8], [np.ones(len(time), bool) for time in times], last)
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
    parts = holdout.by_users([np.ones(n, bool) for n in length], [0.5, 0.7], 0, last)
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


# ---- ranks and metrics
def several(rng, users, items, most):
    """Distinct relevant items 1 … of each user, 1 to `most` of them, filled up with 0."""
    return ranking.padded([1 + rng.permutation(items)[: rng.integers(1, most + 1)] for _ in range(users)])


@pytest.mark.parametrize("size", [None, 7])
@pytest.mark.parametrize("kind", ["random", "ties", "constant"])
def test_ranks_of_several(size, kind):
    """On the device, on the host, and by a loop: behind all others of no lower score, and behind the better of its own."""
    rng, items = np.random.default_rng(0), 48
    query, table = rng.normal(size=(3, 4, 6)), rng.normal(size=(50, 6))
    if kind != "random":
        query, table = (np.round(x) * (kind == "ties") for x in (query, table))
    target, seen = several(rng, 12, items, 5), rng.integers(1, 49, (12, 9))
    seen[0, 0], target[1, 1:] = target[0, 0], 0
    outputs = Factored(*(jnp.asarray(x, jnp.float32) for x in (query, table)), jnp.zeros(50).at[jnp.array([0, 49])].set(10 * LEAST))
    ask = jax.jit(lambda o, t, s: o.ranked(t, s, 5, size))
    rank, top, _ = (np.asarray(x) for x in ask(outputs, target.reshape(3, 4, 5), seen.reshape(3, 4, 9)))
    scores = np.asarray(outputs.logits()).reshape(12, 50)[:, 1:49]
    host = neighbours.ranked(scores, target, list(seen), 5)
    for user in range(12):
        own = [x for x in target[user] if x]
        others = [x for x in range(1, 49) if x not in own and x not in seen[user]]
        order = sorted(own, key=lambda x: (-scores[user, x - 1], own.index(x)))
        wanted = [1 + order.index(x) + sum(scores[user, y - 1] >= scores[user, x - 1] for y in others) for x in own]
        assert rank.reshape(12, 5)[user, : len(own)].tolist() == host[0][user, : len(own)].tolist() == wanted
        best = sorted([*others, *own], key=lambda x: (-scores[user, x - 1], x))[:5]
        assert top.reshape(12, 5)[user].tolist() == best
        assert np.array_equal(host[2][user], scores[user, np.array(best) - 1]) and host[1][user].tolist() == best
    alone = ask(outputs, target.reshape(3, 4, 5)[..., :1], seen.reshape(3, 4, 9))[0][..., 0]
    np.testing.assert_array_equal(alone, ask(outputs, target.reshape(3, 4, 5)[..., 0], seen.reshape(3, 4, 9))[0])


def test_of_equals_the_first_ones():
    """However many there are, a list has the first of them in order."""
    scores = np.zeros((2, 400), "f4")
    scores[0, [300, 301, 302]] = 3, 1, 2
    assert neighbours.best(scores, 6).tolist() == [[300, 302, 301, 0, 1, 2], [0, 1, 2, 3, 4, 5]]
    rng = np.random.default_rng(0)
    for values in (2, 5, 1000):
        some = rng.integers(0, values, (20, 300)).astype("f4")
        assert (neighbours.best(some, 20) == np.argsort(-some, 1, kind="stable")[:, :20]).all()


@pytest.mark.parametrize("kind", ["random", "few items", "ties", "all relevant"])
def test_metrics_agree_with_ir_measures(kind):
    """Ties are broken against what is relevant, there as here; lists may be shorter than the cut-off."""
    rng, (users, items) = np.random.default_rng(1), (80, 4 if kind in ("few items", "all relevant") else 40)
    scores = rng.normal(size=(users, items)) if kind != "ties" else rng.integers(0, 3, (users, items)) / 2
    target = several(rng, users, items, 4 if items == 4 else 15)
    if kind == "all relevant":
        target[0] = [3, 1, 2, 4]
    rank, _, _ = neighbours.ranked(scores, target, [], 2)
    broken = scores.copy()
    for user, row in enumerate(target):
        broken[user, row[row > 0] - 1] -= 1e-4 * (1 + np.arange((row > 0).sum()))
    asked = [measure @ k for measure in (R, P, nDCG, RR, AP, Success) for k in (1, 3, 10)] + [RR, AP]
    found = ir_measures.iter_calc(asked, {str(u): {str(x): 1 for x in row if x} for u, row in enumerate(target)}, {
        str(u): {str(i + 1): float(x) for i, x in enumerate(row)} for u, row in enumerate(broken)})
    theirs = {(measure, int(user)): value for user, measure, value in found}
    names = {R: "recall", P: "precision", nDCG: "ndcg", RR: "mrr", AP: "map", Success: "hit"}
    ours = ranking.accuracy(rank, [1, 3, 10])
    for measure in asked:
        name = next(x for y, x in names.items() if y.NAME == measure.NAME)
        name += f"@{measure['cutoff']}" if "cutoff" in measure.params else ""
        value = ranking.gain(name, rank)
        np.testing.assert_allclose(value, [theirs[measure, user] for user in range(users)], atol=1e-9, err_msg=name)
        assert ours[name] == pytest.approx(value.mean())


def test_one_relevant_item_is_the_special_case():
    """To the last bit."""
    rank = np.random.default_rng(2).integers(1, 60, 200)
    one, several = ranking.accuracy(rank, [1, 5, 20]), ranking.accuracy(np.pad(rank[:, None], ((0, 0), (0, 3))), [1, 5, 20])
    assert all(several[name] == value for name, value in one.items())
    assert all(several[f"hit@{k}"] == one[f"recall@{k}"] and several[f"map@{k}"] == one[f"mrr@{k}"] for k in (1, 5, 20))
    price = np.random.default_rng(3).random(200)
    wide = np.pad(price[:, None], ((0, 0), (0, 3))), np.pad(rank[:, None], ((0, 0), (0, 3)))
    assert ranking.valued(wide[1], wide[0], [5]) == pytest.approx(ranking.valued(rank, price, [5]))


def test_what_several_are_worth():
    """Ranks 1 and 4 of what costs 10 and 2, and 3 of what costs 6: at 3 10 and 6 are earned."""
    found = ranking.valued(np.array([[1, 4], [3, 0]]), np.array([[10.0, 2.0], [6.0, 0.0]]), [3])
    ideal = 1 + 1 / np.log2(3)
    assert found == pytest.approx({"revenue@3": 8, "price_ndcg@3": (12 / ideal + 6 / 2) / 18})


# ---- commands
@pytest.mark.slow
def test_runs_with_several_relevant_items(log, tmp_path, undrawn, monkeypatch):  # noqa: F811
    """A network, read again, and baselines: lists of targets and ranks, the same numbers from them, and pairs of rows compared."""
    kinds = written(tmp_path / "items.csv", "item,category\n" + "".join(f"i{i},{i // 6}\n" for i in range(30)))
    words = [*WORDS, f"data.path={log}", "data.split=last_n", "data.last=2", "best.metric=map@5", f"data.items={kinds}"]
    run, rows = tmp_path / "run", {}
    monkeypatch.setattr("experiments.train.plot", undrawn)
    assert call("train", *words, "epochs=2", "data.batch_size=32", f"run_dir={run}") == 0
    for name in ("item_knn", "popularity"):
        assert call("baseline", *words, f"baseline={name}", f"run_dir={tmp_path / name}") == 0
    before = json.loads((run / "summary.json").read_text())
    assert call("evaluate", f"run_dir={run}", "split=test") == 0
    for folder in (run, tmp_path / "item_knn", tmp_path / "popularity"):
        summary, protocol = (json.loads((folder / name).read_text()) for name in ("summary.json", "protocol.json"))
        assert protocol["split"] == "the last 2 items of each user" and 0 < summary["test/diversity@5"] < 1
        assert all((folder / "plots" / f"{name}_test.png").stat().st_size > 5000 for name in ("length", "exposure"))
        table = pq.read_table(folder / "predictions" / "test.parquet")
        target, rank = compare.ranks(table)
        assert len(table) == 120 and max(map(len, table["target"].to_pylist())) == rank.shape[1] == 2
        assert all(summary[f"test/{name}"] == pytest.approx(ranking.gain(name, rank).mean()) for name in ("map@5", "hit@1", "mrr"))
        for names, ranks, top in zip(*(table[x].to_pylist() for x in ("target", "rank", "top_items")), strict=True):
            assert all(place > 5 or name in top[:place] for name, place in zip(names, ranks, strict=True))
        cell = Cell(folder.name, 0, "baseline", [], {}, folder, None)
        rows[folder.name] = compare.counts([cell], "test/map@5")
    assert all(before[key] == pytest.approx(summary) for key, summary in json.loads((run / "summary.json").read_text()).items()
               if key.startswith("test/"))
    assert compare.same(rows["run"][0], rows["popularity"][0]) and compare.same(rows["item_knn"][0], rows["popularity"][0])
    assert call("report", f"run_dir=[{run},{tmp_path / 'item_knn'}]", f"out={tmp_path}") == 0
    page = (tmp_path / "report.html").read_text()
    mine, theirs = ([min(x) <= 5 for x in pq.read_table(folder / "predictions" / "test.parquet")["rank"].to_pylist()]
                    for folder in (run, tmp_path / "item_knn"))
    won, lost = (sum(a > b for a, b in zip(*sides, strict=True)) for sides in ((theirs, mine), (mine, theirs)))
    assert f"item_knn against run: won {won} · lost {lost} of 120" in page and "· label <b>i" in page and won + lost > 3
    assert all(word in page for word in ("map@5 over items in the history", "share of the lists @5", "training events"))
    assert rows["item_knn"][1][0].mean() > 1.5 * rows["popularity"][1][0].mean()


# ---- speed
@pytest.mark.parametrize("kind", ["random", "ties", "constant", "no number"])
def test_the_largest_by_blocks(kind):
    """What top_k says, values and places: of equals the first ones, and what isn't a number at the top."""
    rng = np.random.default_rng(4)
    given = rng.normal(size=(2, 3, 40 * BLOCK)).astype("f4")
    given = {"ties": np.round(given), "constant": 0 * abs(given)}.get(kind, given)
    given[0, :, 5:900] = -np.inf
    if kind == "no number":
        given[0, 1, 77] = given[1, 2, 1000] = np.nan
    for most in (1, 3, 10):
        for ours, wanted in zip(jax.jit(largest, static_argnums=1)(given, most), jax.lax.top_k(given, most), strict=True):
            np.testing.assert_array_equal(ours, wanted)


def test_rows_of_short_histories_hold_few_empty_slots():
    """Nine histories of 12 items and many of 2: rows for these alone would have 16 slots, most of them empty in other rows."""
    made = world.parts("next_item", "model=sasrec").task
    asked = [Example(np.arange(1, n + 1, dtype="i4"), np.zeros(n, "i4"), 9, k, None, np.arange(1, n + 1, dtype="i4"))
             for k, n in enumerate([12] * 400 + [2] * 100)]
    feed = Feed(asked, made, None)
    feed.shape = feed.few(pack.Shape(4, 32, 99), 40)
    batches = list(feed.batches(None, 0))
    assert sorted(x for batch in batches for x in batch["example"][batch["weight"] > 0]) == list(range(500))
    assert np.mean([batch["weight"].mean() for batch in batches]) > 0.5 and feed.shape.slots < 16


# ---- diversity
def test_lists_that_say_many_things():
    """By vectors as `use.diversify` has it, and by a loop over pairs where lists end early; categories are vectors with a 1."""
    rng = np.random.default_rng(5)
    vectors = np.pad(rng.normal(size=(20, 6)), ((1, 1), (0, 0))).astype("f4")
    top = np.array([1 + rng.permutation(20)[:5] for _ in range(9)])
    assert ranking.diversity(top, vectors, [1, 5, 10]) == pytest.approx({"diversity@5": 1 - similarity(vectors[top])}, abs=1e-6)
    top[0, 2:], top[1, 1:] = 0, 0
    category = np.pad(rng.integers(0, 4, 20), 1)
    for kinds in (vectors, category, np.eye(4)[category] * (category > 0)[:, None]):
        alike = lambda a, b: float(a == b > 0) if kinds.ndim == 1 else a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12)  # noqa: B023,E731
        each = [[1 - alike(kinds[a], kinds[b]) for a, b in itertools.combinations(row[row > 0], 2)] for row in top]
        wanted = np.mean([np.mean(row) for row in each if row])
        assert ranking.diversity(top, kinds, [5])["diversity@5"] == pytest.approx(wanted, abs=1e-6)
    one = ranking.diversity(top, category, [5])
    assert one == pytest.approx(ranking.diversity(top, np.eye(4)[category] * (category > 0)[:, None], [5]))


def test_categories_of_a_table(tmp_path):
    table = written(tmp_path / "items.csv", "item,category\na,shoes\nb,\nc,hats\nx,bags\n")
    assert catalogue.known(table, ["c", "b", "a", "d"]) == ({"categories": (0, 2, 0, 3, 0, 0)}, {"items without category": 2})
    both = written(tmp_path / "both.csv", "item,category,price\na,shoes,1\n")
    assert set(catalogue.known(both, ["a"])[0]) == {"prices", "categories"}
    with pytest.raises(InputError, match="no column 'price'"):
        catalogue.known(written(tmp_path / "none.csv", "item\na\n"), ["a"])


# ---- who is served, and what is shown
def test_metrics_by_the_length_of_histories():
    """Every user is in one group, groups don't overlap, and their means weighed by users are the mean of all."""
    rng = np.random.default_rng(6)
    length, rank = rng.integers(1, 30, 500) ** 2 // 30 + 1, rng.integers(1, 20, 500)
    found = ranking.by_length(length, rank, [1, 5])
    assert sum(group["users"] for group in found) == 500 and 1 < len(found) <= 6
    assert all(a["most"] < b["least"] for a, b in itertools.pairwise(found))
    for name, value in ranking.accuracy(rank, [1, 5]).items():
        assert sum(group[name] * group["users"] for group in found) / 500 == pytest.approx(value)
    mine = (length >= found[1]["least"]) & (length <= found[1]["most"])
    assert found[1]["users"] == mine.sum() and found[1]["recall@5"] == pytest.approx((rank[mine] <= 5).mean())
    assert [group["users"] for group in ranking.by_length(np.full(9, 4), rank[:9], [1])] == [9]


def test_whose_the_lists_are():
    """Twenty items with 20 … 1 events: a tenth is two items. At 1 items 0 and 19 are shown, at 2 item 3 too, and nothing once."""
    counts = np.arange(20, 0, -1)
    found = ranking.exposure(np.array([[0, 3], [19, -1]]), counts, [1, 2, 5])
    assert found["training"] == pytest.approx(counts.reshape(10, 2).sum(1) / 210) and "@5" not in found
    assert found["@1"] == [0.5, *[0] * 8, 0.5] and found["@2"] == pytest.approx([1 / 3, 1 / 3, *[0] * 7, 1 / 3])


@pytest.mark.parametrize("task", ["next_item", "masked_item"])
def test_lengths_are_of_what_was_read(task):
    made = world.parts(task)
    asked = [e._replace(label=int(e.label[-1])) for e in world.examples(task, 9)]
    feed = Feed(asked, made.task, None)
    feed.shape = feed.shaped(4, None)._replace(seen=feed.seen)
    for batch in feed.batches(None, 0):
        found = np.asarray(made.task.columns(made.graph.net(made.parameters)(jax.tree.map(jnp.asarray, batch)), batch)["length"])
        for place in map(tuple, np.argwhere(batch["weight"] > 0)):
            assert found[place] == len(asked[batch["example"][place]].tokens)


def test_the_metric_that_is_drawn():
    report = {"by_length": [{"users": 3, "mrr": 0.1, "recall@5": 0.2, "ndcg@1": 0.1, "ndcg@5": 0.2}],
              "exposure": {"training": [], "@5": []}}
    assert plot.measured_by(report, "recall@5") == ("recall@5", "@5") and plot.measured_by(report, "loss") == ("ndcg@5", "@5")
    assert plot.measured_by(report, "mrr") == ("mrr", "@5") and plot.measured_by(report, "ndcg@1") == ("ndcg@1", "@5")
