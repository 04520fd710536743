"""Histories, their splits, ranking and its metrics: derived goldens, and parity with another implementation."""

import dataclasses
import json
import shutil

import ir_measures
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from ir_measures import RR, P, R, nDCG

from ecrec_jax import build, losses, products, ranking
from ecrec_jax.data import catalogue, holdout, read
from ecrec_jax.data.feed import Feed
from ecrec_jax.factored import LEAST, Factored
from ecrec_jax.meter import brief
from ecrec_jax.section import make
from ecrec_jax.task import next_item
from ecrec_jax.types import Facts, InputError, Noise
from ecrec_jax.use import neighbours
from ecrec_jax.use.diversify import mmr, similarity
from experiments import recommend, saved, wiring
from experiments.output import WRITERS
from experiments.protocol import protocol
from tests import world
from tests.test_commands import call
from tests.test_tables import rows_word

CUTOFFS = [1, 3, 10]


# ---- data
def data(path, **keys):
    """A data section on a file."""
    return make(world.composed("data=sequences")["data"] | {"path": str(path)} | keys, "data", Facts())


def written(path, text):
    """A file with this text."""
    path.write_text(text)
    return path


def contents(corpus, name):
    """What a split's examples say, in the words of the file."""
    items, users = ["pad", *corpus.catalogue.items], corpus.catalogue.users
    names = lambda ids: " ".join(items[i] for i in np.atleast_1d(ids))  # noqa: E731
    return [(users[e.index], names(e.tokens), names(e.label), {items[i] for i in e.seen}, e.first) for e in corpus.examples[name]]


FILES = {"pairs": "u a\nv x\nu b\nu c\nv y\nu a\nu d\nw a\nw b\n", "lists": "u a b c a d\nv x y\nw a b\n",
         "table": "user,item,time\nu,d,9\nw,b,4\nu,a,1\nv,y,3\nu,b,2\nv,x,3\nu,c,2\nw,a,2\nu,a,7\n"}


@pytest.mark.parametrize("format", FILES)
def test_leave_one_out(format, tmp_path):
    """u has a b c a d: trained on b after a and c after a b, validated with the second a, tested with d. v and w have two items."""
    ending = "csv" if format == "table" else "txt"
    corpus = data(written(tmp_path / f"x.{ending}", FILES[format]), format=format, max_length=4).load("", 4)
    train, pair = sorted(contents(corpus, "train"), key=str), ("y x" if format == "table" else "x y").split()
    assert train == [("u", "a b", "b c", set("abc"), 0), ("v", *pair, {"x", "y"}, 0), ("w", "a", "b", {"a", "b"}, 0)]
    assert contents(corpus, "valid") == [("u", "a b c", "a", {"a", "b", "c"}, 0)]
    assert contents(corpus, "test") == [("u", "a b c a", "d", {"a", "b", "c"}, 0)]
    counts = dict(zip(corpus.catalogue.items, corpus.facts["item_counts"][1:-1], strict=True))
    assert counts == {"a": 2, "b": 2, "c": 1, "d": 0, "x": 1, "y": 1} and corpus.report["items never trained on"] == 1


def test_the_last_items_are_kept(tmp_path):
    """Of 9 items 2 fit; seen are all, and positions end at the last one."""
    path = written(tmp_path / "x.txt", "u a b c d e f g h i\n")
    corpus = data(path, format="lists", max_length=3, align="right").load("", 3)
    assert contents(corpus, "train") == [("u", "d e f", "e f g", set("abcdefg"), 0)]
    assert contents(corpus, "test") == [("u", "f g h", "i", set("abcdefgh"), 0)]
    corpus = data(path, format="lists", max_length=20, align="right").load("", 20)
    assert [e.first for name in ("train", "valid", "test") for e in corpus.examples[name]] == [14, 13, 12]
    task = world.parts("next_item").task
    feed = Feed(corpus.examples["test"], task, None)
    feed.shape = feed.shaped(1, None)._replace(seen=9)
    batch = next(feed.batches(None, 0))
    assert batch["position"][0, :8].tolist() == list(range(12, 20)) and batch["slot"][0, 0] == 7
    assert sorted(batch["seen"][0, 0].tolist()) == [0, *range(1, 9)]


BIG = 2**31, 2**53 + 1, 2**63 - 1   # beyond i4, beyond what floats tell apart, the last i8


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_large_numbers_are_names(ending, tmp_path):
    """Users and items are called what the file says, to the last digit."""
    names = [2**31 + 1, 2**53, *BIG]
    table = pd.DataFrame({"user": [2**62 + 1] * 5 + [2**62 + 2] * 3, "item": [*names, *names[:3]], "time": range(8)})
    path = tmp_path / f"x.{ending}"
    WRITERS[f".{ending}"](table, path)
    corpus = data(path, max_length=4).load("", 4)
    assert set(corpus.catalogue.items) == set(map(str, names)) and corpus.catalogue.users == [str(2**62 + 1), str(2**62 + 2)]
    first = " ".join(map(str, names[:4]))
    assert contents(corpus, "test")[0] == (str(2**62 + 1), first, str(names[4]), set(first.split()), 0)


@pytest.mark.parametrize("format,text,words", [
    ("pairs", "u a\nu b c\n", "line 2: 3 fields instead of a user and an item"),
    ("lists", "u a b\nv\n", "line 2: user v has no item"), ("lists", "u a b\nv c\nu d\n", "line 3: user u is on line 1 already"),
    ("pairs", "\n\n", "no rows"), ("pairs", "u a\n", "no user has 4 events"),
    ("table", "user,item,time\nu,a,1\n,b,2\n", "line 3: an event without user"),
    ("table", "user,item,time\nu,a,1\nu,,2\n", "line 3: an event without item"),
    ("table", "user,item,time\nu,a,1\nu,b,soon\n", "time 'soon' is not a number"),
    ("table", "user,thing,time\nu,a,1\n", "data.item_column"),
    *(("table", f'user,item,time\nu,a,1\nu,"b{end}c",2\n', "line 3: a line break in the item") for end in ("\n", "\r", "\u2028")),
    ("table", 'user,item,time\nu,a,1\n"u\nv",b,2\n', "line 3: a line break in the user"),
])
def test_bad_histories(format, text, words, tmp_path, capsys):
    path = written(tmp_path / ("x.csv" if format == "table" else "x.txt"), text)
    given = ["experiment=next_item", f"data.format={format}", f"data.path={path}", "data.sha256=null"]
    assert call("train", *given, f"run_dir={tmp_path / 'run'}", "task.cutoffs=[1]", "task.most=1") == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and "x." in said


@pytest.mark.parametrize("name,users,items,events", [("beauty", 22363, 12101, 198502), ("sports", 35598, 18357, 296337),
                                                     ("beauty_bert4rec", 40226, 54542, 353962), ("ml_1m", 6040, 3416, 999611)])
def test_published_counts(name, users, items, events):
    node = world.composed(f"data={name}")["data"]
    try:
        report = make(node, "data", Facts()).load("", 50).report
    except InputError as error:
        assert str(error).startswith("data.path: no file") and f"{node['source']}; its sha256 is " in str(error)
        pytest.skip(str(error))
    assert (report["users"], report["items"], report["events"]) == (users, items, events)


# ---- ranking
def brute(scores, target, seen, hidden):
    """Ranks and lists, user by user, in Python."""
    ranks, tops = [], []
    for row, own, had in zip(scores, target, seen, strict=True):
        others = [i for i in range(len(row)) if i != own and i not in had and i not in hidden]
        ranks.append(1 + sum(not row[i] < row[own] for i in others))
        tops.append(sorted([*others, own], key=lambda i: (-row[i], i)))
    return np.array(ranks), tops


@pytest.mark.parametrize("size", [None, 7, 64])
@pytest.mark.parametrize("kind", ["random", "ties", "constant"])
def test_ranks_are_those_of_a_loop(size, kind):
    """Seen items, padding and [MASK] are nobody's; ties count against the label; repeated items and labels that were seen."""
    rng = np.random.default_rng(0)
    query, table = rng.normal(size=(3, 4, 6)), rng.normal(size=(50, 6))
    if kind != "random":
        query, table = (np.round(x) * (kind == "ties") for x in (query, table))
    target, seen = rng.integers(1, 49, (3, 4)), rng.integers(1, 49, (3, 4, 9))
    seen[0, 0, :3], seen[1, 1] = target[0, 0], 0
    outputs = Factored(*(jnp.asarray(x, jnp.float32) for x in (query, table, np.zeros(50))))
    outputs = outputs._replace(bias=outputs.bias.at[jnp.array([0, 49])].set(10 * LEAST))
    rank, top, value = map(np.asarray, jax.jit(lambda o, t, s: o.ranked(t, s, 5, size))(outputs, target, seen))
    logits = np.asarray(outputs.logits()).reshape(12, 50)
    ranks, tops = brute(logits, target.reshape(-1), [set(x) for x in seen.reshape(12, -1)], {0, 49})
    assert rank.reshape(-1).tolist() == ranks.tolist() and rank.max() > 5
    assert top.reshape(12, -1).tolist() == [order[:5] for order in tops]
    np.testing.assert_allclose(value.reshape(12, -1), np.take_along_axis(logits, np.array([o[:5] for o in tops]), 1), rtol=1e-6)
    host = neighbours.ranked(logits[:, 1:49], target.reshape(-1), [np.unique(x[x > 0]) for x in seen.reshape(12, -1)], 5)
    assert host[0].tolist() == ranks.tolist() and np.allclose(host[2], value.reshape(12, -1), atol=1e-5)


def test_a_score_that_is_no_number_helps_nobody():
    table = jnp.asarray([[0.0], [1.0], [jnp.nan], [3.0]])
    outputs = Factored(jnp.ones((1, 2, 1)), table, jnp.zeros(4).at[0].set(10 * LEAST))
    rank, _, _ = outputs.ranked(jnp.array([[3, 2]]), jnp.zeros((1, 2, 1), jnp.int32), 2)
    assert rank.tolist() == [[2, 3]]
    with pytest.raises(InputError, match="not numbers"):
        ranking.measured({"loss": np.zeros(1), "top_scores": np.array([[np.nan]])}, [1], (0, 1, 1, 0))


@pytest.mark.parametrize("strange", [np.nan, np.inf])
def test_a_baseline_gives_numbers(strange):
    """What ranks nothing is refused, be it the label's score or another item's; -inf may hide items."""
    scores = np.array([[-np.inf, 1.0, 2.0, 3.0]])
    assert neighbours.ranked(scores, np.array([3]), [], 2)[0].tolist() == [2]
    for place in (2, 3):
        given = scores.copy()
        given[0, place] = strange
        with pytest.raises(InputError, match="baseline: it gives scores that are not numbers"):
            neighbours.ranked(given, np.array([3]), [], 2)


@pytest.mark.parametrize("kind", ["random", "few items", "ties"])
def test_metrics_agree_with_ir_measures(kind):
    """Every user has one relevant item; a tie is broken against it, there as here."""
    rng, (users, items) = np.random.default_rng(1), (60, 4 if kind == "few items" else 40)
    scores = rng.normal(size=(users, items)) if kind != "ties" else rng.integers(0, 5, (users, items)) / 2
    target = rng.integers(1, items + 1, users)
    rank, top, _ = neighbours.ranked(scores, target, [], items)
    broken = scores.copy()
    broken[np.arange(users), target - 1] -= 1e-4
    asked = [measure @ k for measure in (R, P, nDCG, RR) for k in CUTOFFS] + [RR]
    theirs = ir_measures.calc_aggregate(asked, {str(u): {str(t): 1} for u, t in enumerate(target)}, {
        str(u): {str(i + 1): float(x) for i, x in enumerate(row)} for u, row in enumerate(broken)})
    ours, names = ranking.accuracy(rank, CUTOFFS), {R: "recall", P: "precision", nDCG: "ndcg", RR: "mrr"}
    for measure in asked[:-1]:
        kind, k = next(x for x in names if x.NAME == measure.NAME), measure["cutoff"]
        assert ours[f"{names[kind]}@{k}"] == pytest.approx(theirs[measure], abs=1e-9), measure
    assert ours["mrr"] == pytest.approx(theirs[RR])
    assert {len(set(row)) for row in top.tolist()} == {items}


def test_what_lists_say_of_the_catalogue():
    """Three users, four items with 8, 4, 2 and 2 of 16 training events. At 1: items 0, 0, 1. Gini of (0, 0, 1, 2):
    Σ (2 i − 5) x_i = 1 · 1 + 3 · 2 = 7, over 4 · 3.
    Novelty: log2 of 2, 2, 4: (1 + 1 + 2) / 3; popularity (8 + 8 + 4) / 3 over 4."""
    found = ranking.beyond(np.array([[0, 1], [0, 2], [1, 3]]), np.array([8, 4, 2, 2]), [1, 2, 9])
    assert found.keys() == {f"{name}@{k}" for name in ("coverage", "gini", "novelty", "popularity") for k in (1, 2)}
    assert found["coverage@1"] == 0.5 and found["coverage@2"] == 1 and found["gini@1"] == pytest.approx(7 / 12)
    assert found["novelty@1"] == pytest.approx(4 / 3) and found["popularity@1"] == pytest.approx(20 / 3 / 4)


def test_what_lists_are_worth():
    """Prices 10, 4 and 6 at ranks 1, 3 and 7: at 3 10 + 4 are earned of 20, and NDCG is 10 · 1 + 4 · 1/2 over 20."""
    found = ranking.valued(np.array([1, 3, 7]), np.array([10.0, 4.0, 6.0]), [1, 3])
    assert found == pytest.approx({"revenue@1": 10 / 3, "revenue@3": 14 / 3, "price_ndcg@1": 0.5, "price_ndcg@3": 12 / 20})
    assert ranking.valued(np.array([1]), np.zeros(1), [1]) == {"revenue@1": 0, "price_ndcg@1": 0}


def test_prices_of_a_table(tmp_path):
    path = written(tmp_path / "items.csv", "item,price\na,2.5\nb,\nc,1e1\n")
    assert catalogue.prices(read.read(path), ["c", "b", "a"]) == ((0.0, 10.0, 0.0, 2.5, 0.0), 1)
    for text, said in (("item,price\na,cheap\n", "line 2: price 'cheap' of item a is no number"), ("item,price\na,-1\n", "'-1'"),
                       ("item,price\nx,1\n", "no price of any item"), ("item,cost\na,1\n", "price")):
        with pytest.raises(InputError, match=said):
            catalogue.prices(read.read(written(tmp_path / "bad.csv", text)), ["a"])
    facts, lacking = catalogue.known(written(tmp_path / "kinds.csv", "item,price,category\na,,shoes\nb,,\n"), ["b", "a"])
    assert facts == {"categories": (0, 0, 1, 0)} and lacking == {"items without category": 1}   # of a log without prices


def test_a_reader_sees_one_cut_off():
    names = ["loss", *(f"recall@{k}" for k in (1, 10, 20)), "recall@10_of_100_uniform", "recall@1_of_100_uniform"]
    assert brief(names) == ["loss", "recall@10", "recall@10_of_100_uniform"]
    assert brief(["mrr", "ndcg@1", "ndcg@5"]) == ["mrr", "ndcg@5"] and brief(["accuracy"]) == ["accuracy"]


def test_who_had_nearly_all_gets_a_short_list(tmp_path):
    """Seven of nine items are seen: lists of five end in nothing, not in [MASK], and what is shown is counted."""
    table = jnp.arange(11.0)[:, None]
    given = Factored(jnp.ones((1, 1, 1)), table, jnp.zeros(11))
    batch = {"label": jnp.array([[9]]), "seen": jnp.arange(1, 8)[None, None]}
    found = {name: np.asarray(x)[0] for name, x in ranking.ranks(given, batch, (0, 10), 5).items()}
    assert found["rank"].tolist() == [1] and found["top_items"].tolist() == [[9, 8, 0, 0, 0]]
    host = neighbours.ranked(np.arange(1.0, 10)[None], np.array([9]), [np.arange(1, 8)], 5)
    assert host[0].tolist() == [1] and host[1].tolist() == [[9, 8, 0, 0, 0]]
    told = ranking.beyond(found["top_items"] - 1, np.arange(1, 10), [1, 5])
    assert told["coverage@5"] == pytest.approx(2 / 9) and told["popularity@5"] == pytest.approx(8.5 / 5)


# ---- splits
def test_a_split_in_time():
    """Ten events; half of them until 4, eight until 7. The first user has its last event at 3, the second one begins after 7."""
    times = [np.array([0.0, 1, 3]), np.array([8.0, 9]), np.array([2.0, 4, 5, 6, 7])]
    parts = holdout.by_time(times, [0.5, 0.8], [np.ones(len(time), bool) for time in times])
    assert {name: part.end.tolist() for name, part in parts.items()} == {"train": [3, 0, 2], "valid": [0, 0, 3], "test": [0, 1, 0]}
    holdout.check(parts, times)


def test_a_split_of_users():
    ends = {name: part.end for name, part in holdout.by_users([np.ones(5, bool)] * 200, [0.8, 0.9], 0).items()}
    assert [int((end > 0).sum()) for end in ends.values()] == [160, 20, 20]
    assert (sum((end > 0).astype(int) for end in ends.values()) == 1).all()


@pytest.mark.parametrize("ends,times,said", [
    ({"train": [3], "valid": [3], "test": [0]}, None, "user number 0 is asked for in valid is trained on too"),
    ({"train": [2, 0], "valid": [0, 0], "test": [0, 2]}, [[0, 5.0], [1.0, 4.0]], "isn't before the first one asked for in test")])
def test_what_leaks_is_refused(ends, times, said):
    given = {name: holdout.Part(np.array(end), np.minimum(end, 1)) for name, end in ends.items()}
    with pytest.raises(InputError, match=said):
        holdout.check(given, times and [np.array(x) for x in times])


@pytest.mark.slow
@pytest.mark.parametrize("split", ["time", "users"])
def test_runs_of_other_splits(split, log, tmp_path):
    """The circle is learnt from users who aren't tested, or from the beginning of all."""
    assert call("train", *WORDS, f"data.path={log}", f"data.split={split}", "data.split_at=[0.6,0.8]", "epochs=8",
                "data.batch_size=8", "optimizer.learning_rate=1e-2", f"run_dir={tmp_path / 'run'}") == 0
    found = json.loads((tmp_path / "run" / "summary.json").read_text())
    about = json.loads((tmp_path / "run" / "protocol.json").read_text())
    assert found["test/recall@5"] > 0.7 and about["split"] == f"by {split} at 0.6 and 0.8, the next item"
    asked = {name: set(pq.read_table(tmp_path / "run" / "predictions" / f"{name}.parquet")["user"].to_pylist())
             for name in ("valid", "test")}
    assert asked["test"] and (split == "time" or not asked["valid"] & asked["test"])


def judged(path, **keys):
    """The protocol of a run on a file."""
    config = world.composed("experiment=next_item", "data=sequences")
    config["data"] |= {"path": str(path), "format": "lists", "max_length": 9, **keys}
    return protocol(config, make(config["data"], "data", Facts()).load("", 9))


def test_a_fingerprint_says_whom_and_what_is_tested(tmp_path):
    """That of older runs where nothing was drawn: the seed counts where it draws users or items, prices where there are some."""
    path = written(tmp_path / "x.txt", "".join(f"u{u} {' '.join(f'i{(u + k) % 40}' for k in range(6))}\n" for u in range(40)))
    plain = judged(path)
    assert plain["fingerprint"] == "b769e274d049"
    same = [judged(path, **keys) for keys in ({"split_seed": 1}, {"limit": 99}, {"valid_users": 5}, {"train_fraction": 0.5})]
    assert {found["fingerprint"] for found in same} == {plain["fingerprint"]} and "drawn by" not in plain
    for keys in ({"split": "users"}, {"split": "users", "limit": 2}, {"limit": 9}, {"new_items": 0.2}):
        first, second = (judged(path, **keys, split_seed=seed) for seed in (0, 1))
        assert first["fingerprint"] != second["fingerprint"] and second["drawn by"] == "data.split_seed 1", keys
    tables = [written(tmp_path / f"{n}.csv", f"item,{name}\n" + "".join(f"i{i},{n}\n" for i in range(40)))
              for n, name in ((1, "price"), (2, "price"), (3, "category"), (1, "price"))]
    marks = [judged(path, items=str(table))["fingerprint"] for table in tables]
    assert marks[0] == marks[3] and marks[2] == plain["fingerprint"] and len(set(marks)) == 3


def test_a_protocol_says_what_is_read_to_test(tmp_path):
    """The words are those of what a user was asked after."""
    rows = "".join(f"u{u},i{(u + k) % 40},{u + 40 * k}\n" for u in range(40) for k in range(8))
    path, found = written(tmp_path / "x.csv", "user,item,time\n" + rows), {}
    for split, last in (("leave_one_out", 1), ("last_n", 2), ("users", 1), ("time", 1)):
        found[split] = judged(path, format="table", split=split, last=last)["test input"]
    assert found == {"leave_one_out": "the history with the validation item, its last 9",
                     "last_n": "the history with the validation items, its last 9",
                     **dict.fromkeys(("users", "time"), "all that came before, its last 9")}


# ---- losses
def test_losses_of_sampled_items():
    """Against their formulas in float64."""
    rng = np.random.default_rng(2)
    good, bad = rng.normal(size=(2, 3)) * 4, rng.normal(size=(2, 3, 5)) * 4
    given = jnp.asarray(good, jnp.float32), jnp.asarray(bad, jnp.float32)
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    close = lambda found, wanted: np.testing.assert_allclose(found, wanted, rtol=2e-5)  # noqa: E731
    close(losses.sampled_cross_entropy(*given), -np.log(np.exp(good) / (np.exp(good) + np.exp(bad).sum(-1))))
    close(losses.pointwise(*given), -(np.log(sigmoid(good)) + np.log(1 - sigmoid(bad)).sum(-1)) / 6)
    close(losses.pairwise(*given), -np.log(sigmoid(good[..., None] - bad)).mean(-1))
    beta = next_item.calibrated(0.75, 5, 51)
    assert beta == pytest.approx(0.1 * (-9 * 0.75 + 10)) and next_item.calibrated(0, 5, 51) == 1
    assert next_item.calibrated(1, 5, 51) == pytest.approx(0.1)
    close(losses.pointwise(*given, beta), -(np.log(sigmoid(good) ** beta) + np.log(1 - sigmoid(bad)).sum(-1)) / 6)
    assert np.isfinite(losses.pointwise(jnp.full((1, 1), -300.0), jnp.full((1, 1, 2), 300.0), beta)).all()


def test_negatives_are_all_items_but_those_seen():
    rng = np.random.default_rng(3)
    seen = np.array([2, 5, 6], "i4")
    found = next_item.drawn((4000, 3), 7, seen, rng)
    assert found.dtype == np.int32 and set(np.unique(found)) == {1, 3, 4, 7}
    np.testing.assert_allclose(np.bincount(found.reshape(-1))[[1, 3, 4, 7]] / found.size, 0.25, atol=0.02)
    assert set(np.unique(next_item.drawn((9,), 3, np.array([1, 2, 3]), rng))) <= {1, 2, 3}


def test_negatives_by_popularity():
    """Three items with 1/2, 1/8 and 3/8 of the events; the second one's user had it."""
    share, rng = np.array([0.5, 0.625, 1.0]), np.random.default_rng(3)
    found = next_item.popular((4000, 2), share, np.array([], "i4"), rng)
    np.testing.assert_allclose(np.bincount(found.reshape(-1), minlength=4) / found.size, [0, 0.5, 0.125, 0.375], atol=0.02)
    found = next_item.popular((4000,), share, np.array([2]), rng)
    np.testing.assert_allclose(np.bincount(found, minlength=4) / found.size, [0, 4 / 7, 0, 3 / 7], atol=0.03)


@pytest.mark.parametrize("sampling", ["popularity", "batch"])
def test_softmax_over_what_popularity_draws(sampling):
    """Against the formula in float64, log shares taken off; in the batch a slot's own label and empty slots are left out."""
    words = ["model=sasrec", "task.objective=sampled_ce", "task.negatives=3", f"task.sampling={sampling}"]
    counts = tuple(range(1, world.VOCABULARY - 1))
    task = dataclasses.replace(world.parts("next_item", *words).task, item_counts=(0, *counts, 0))
    rng = np.random.default_rng(0)
    query, table, bias = (rng.normal(size=shape) for shape in ((2, 3, 4), (world.VOCABULARY, 4), world.VOCABULARY))
    label, weight = np.array([[5, 9, 5], [7, 0, 0]]), np.array([[1.0, 1, 1], [1, 0, 0]])
    batch = {"label": jnp.asarray(label), "weight": jnp.asarray(weight), "negative": jnp.asarray(rng.integers(1, 9, (2, 3, 3)))}
    given = Factored(*(jnp.asarray(x, jnp.float32) for x in (query, table, bias)))
    labels = counts[::-1] if sampling == "batch" else counts   # of which shares are taken off where labels are negatives
    task = dataclasses.replace(task, label_counts=(0, *counts[::-1], 0))
    found = np.asarray(task.loss(given, batch, lambda x: x))
    logits = query @ table.T + bias - np.log(np.maximum((0, *labels, 0), 1) / sum(counts))
    for at in np.argwhere(weight > 0):
        own, others = label[tuple(at)], np.asarray(batch["negative"])[tuple(at)]
        if sampling == "batch":
            others = [x for x in (5, 9, 5, 7) if x != own]
        z = logits[tuple(at)][[own, *others]]
        assert found[tuple(at)] == pytest.approx(np.log(np.exp(z).sum()) - z[0], rel=1e-4)


def test_labels_of_all_devices_are_negatives():
    """Two devices make the steps that one makes; and the rows of a batch can't be taken apart."""
    words = ["model=sasrec", "task.objective=sampled_ce", "task.sampling=batch"]
    found = []
    for devices in (1, 2):
        made = world.parts("next_item", *words, f"strategy.devices={devices}")
        found.append(world.curve(made, world.batches(made.task, "next_item", 3))[0])
    np.testing.assert_allclose(*found, rtol=1e-5)
    with pytest.raises(InputError, match="compares rows of the whole batch"):
        wiring.check(world.composed("experiment=next_item", *words, "gradient=accumulate"))


SHARED = ["model=sasrec", "model.depth=1", "task.objective=sampled_ce", "task.negatives=5", "task.shared=true"]


def test_a_history_shares_its_negatives():
    """Different ones, none of its items, at all its slots; the loss and its gradients against the formula in float64."""
    made = world.parts("next_item", *SHARED)
    batch, rng = next(world.feed(made.task, "next_item").batches(0, 0)), np.random.default_rng(0)
    (b, slots), (_, groups, _) = batch["slot"].shape, batch["negative"].shape
    owner = np.take_along_axis(batch["segment"], batch["slot"], 1)
    query, table = rng.normal(size=(b, slots, 6)), rng.normal(size=(world.VOCABULARY, 6))
    weight = jnp.asarray(batch["weight"])

    def loss(query, table):
        outputs = Factored(query, table, jnp.zeros(len(table)))
        return (made.task.loss(outputs, jax.tree.map(jnp.asarray, batch), lambda x: x) * weight).sum()

    wanted, of_query, of_table, drawn = 0.0, np.zeros_like(query), np.zeros_like(table), {}
    for row, slot in np.argwhere(batch["weight"] > 0):
        negative, label = batch["negative"][row, slot // (slots // groups)], batch["label"][row, slot]
        drawn.setdefault(int(batch["example"][row, slot]), negative)
        mine = batch["segment"][row] == owner[row, slot]
        assert (drawn[int(batch["example"][row, slot])] == negative).all() and len(set(negative)) == 5
        assert not np.isin(negative, [*batch["tokens"][row, mine], label]).any() and negative.min() > 0
        ids = np.array([label, *negative])
        z = table[ids] @ query[row, slot]
        share = np.exp(z) / np.exp(z).sum()
        wanted -= np.log(share[0])
        share[0] -= 1
        of_query[row, slot] += share @ table[ids]
        of_table[ids] += share[:, None] * query[row, slot]
    value, found = jax.jit(jax.value_and_grad(loss, (0, 1)))(jnp.asarray(query, jnp.float32), jnp.asarray(table, jnp.float32))
    assert len({tuple(x) for x in drawn.values()}) == len(drawn) > 3 and float(value) == pytest.approx(wanted, rel=1e-5)
    np.testing.assert_allclose(found[0], of_query, atol=1e-4)
    np.testing.assert_allclose(found[1], of_table, atol=1e-4)
    for words, says in ((["task.sampling=popularity"], "outside it"), (["task.negatives=600"], "lie outside one")):
        with pytest.raises(InputError, match=says):
            next(world.feed(world.parts("next_item", *SHARED, *words).task, "next_item").batches(0, 0))


def test_shared_negatives_are_none_of_what_was_read_long_ago():
    """Nor of what is asked for; but for items of a part that isn't read any more, where there are too few others."""
    task, rng = world.parts("next_item", *SHARED).task, np.random.default_rng(0)
    example = world.examples("next_item", 3)[2]
    long_ago = np.setdiff1d(np.arange(1, task.items + 1), np.append(example.tokens, example.label))[: task.items // 2]
    seen = np.union1d(example.seen, long_ago).astype("i4")
    for _ in range(30):
        assert not np.isin(task.prepare(example._replace(seen=seen), rng)["negative"], seen).any()
    nearly = np.setdiff1d(np.arange(1, task.items + 1), np.arange(1, task.negatives)).astype("i4")
    drawn = task.prepare(example._replace(seen=nearly), rng)["negative"]
    assert np.isin(drawn, nearly).any() and not np.isin(drawn, np.append(example.tokens, example.label)).any()


def test_shared_negatives_of_what_is_asked_for():
    """None of the relevant ones; where few items lie outside of a long history some are drawn again, which training refuses."""
    task, rng = world.parts("next_item", *SHARED).task, np.random.default_rng(0)
    asked = world.examples("next_item", 3)[2]._replace(label=1, relevant=np.arange(1, 401, dtype="i4"))
    for _ in range(30):
        assert task.prepare(asked, rng)["negative"].min() > 400
    known = np.arange(1, task.items - 2, dtype="i4")
    few = dataclasses.replace(task, positions=len(known))
    negative = few.prepare(asked._replace(tokens=known, type=0 * known, label=int(known[-1]) + 1, relevant=None), rng)["negative"]
    assert negative.shape == (1, 5) and negative.min() > known[-1] + 1
    with pytest.raises(InputError, match="lie outside one"):
        few.prepare(asked._replace(tokens=known, type=0 * known, label=known + 1, relevant=None), rng)


def test_each_beginning_draws_its_own_negatives(tmp_path):
    """None of what its user is trained on later; and one is not the beginning of another."""
    rng = np.random.default_rng(0)
    rows = [f"u{user} i{item}" for user in range(20) for item in rng.permutation(40)[:14]]
    corpus = data(written(tmp_path / "x.txt", "\n".join(rows)), format="pairs", prefixes=True).load("", 50)
    task = dataclasses.replace(world.parts("next_item", "model=sasrec", "task.objective=bce", "task.negatives=2").task,
                               items=len(corpus.catalogue.items))
    feed, drawn = Feed(corpus.examples["train"], task, None), {}
    feed.shaped(16, None)
    for batch in feed.batches(0, 0):
        for row, slot in np.argwhere(batch["weight"] > 0):
            user = int(batch["example"][row, slot])
            assert not np.isin(batch["negative"][row, slot], corpus.trained[user]).any()
            if batch["slot"][row, slot] == 0 or batch["segment"][row, batch["slot"][row, slot] - 1] != batch["segment"][
                    row, batch["slot"][row, slot]]:   # of each beginning the first
                drawn.setdefault(user, set()).add(tuple(batch["negative"][row, slot]))
    assert min(map(len, drawn.values())) > 4
    counts = np.bincount(np.concatenate([e.label for e in corpus.examples["train"]]), minlength=len(corpus.catalogue.items) + 2)
    assert corpus.facts["label_counts"] == tuple(counts) != corpus.facts["item_counts"]


@pytest.mark.parametrize("shared", ["true", "false"])
def test_devices_agree_on_negatives_in_parts(shared, monkeypatch):
    """However many groups' vectors are gathered at a time."""
    curves = []
    for words, most in ((["strategy.devices=1"], 1 << 20), (["strategy.devices=1"], 500), (["strategy.devices=2"], 500),
                        (["strategy=fsdp", "strategy.devices=2"], 500), (["strategy=pmap", "strategy.devices=2"], 500)):
        monkeypatch.setitem(products.GATHERED, "cpu", most)
        made = world.parts("next_item", *SHARED, f"task.shared={shared}", *words)
        curves.append(world.curve(made, world.batches(made.task, "next_item", 2))[0])
    np.testing.assert_allclose(curves, curves[:1] * len(curves), rtol=1e-5)


@pytest.mark.parametrize("objective", ["ce", "sampled_ce", "bce", "gbce", "bpr", "bce task.shared=true"])
def test_packing_changes_no_loss(objective):
    """The losses of all slots, packed and one history a row, negatives included."""
    made = world.parts("next_item", "model=sasrec", *f"task.objective={objective}".split(), "task.negatives=4")
    found = []
    for alone in (False, True):
        slots = {}
        for batch in world.feed(made.task, "next_item", alone=alone).batches(3, 1):
            net = made.graph.net(made.parameters)
            value = np.asarray(made.task.loss(net(jax.tree.map(jnp.asarray, batch)), batch, lambda x: x))
            columns = (*(batch[k].reshape(-1) for k in ("example", "slot", "weight")), value.reshape(-1))
            for example, slot, weight, loss in zip(*columns, strict=True):
                if weight:
                    slots.setdefault(int(example), []).append((int(slot), float(loss)))
        found.append({e: [loss for _, loss in sorted(rows)] for e, rows in slots.items()})
    assert found[0].keys() == found[1].keys() and len(found[0]) == 40
    assert max(abs(a - b) for e in found[0] for a, b in zip(found[0][e], found[1][e], strict=True)) < 1e-5


def test_bert4rec_hides_and_asks_at_the_end():
    task = dataclasses.replace(world.parts("masked_item").task, rate=0.3, positions=8)
    items = np.arange(11, 21, dtype="i4")
    trained = world.Example(items[:-1], np.zeros(9, "i4"), items[1:], 0, None, np.unique(items))
    found = task.prepare(trained, np.random.default_rng(0))
    assert task.size(trained) == (8, 2) and (found["tokens"] == task.mask_id).sum() == 2
    back = found["tokens"].copy()
    back[found["slot"]] = found["label"]
    assert back.tolist() == items[2:].tolist()
    last = dataclasses.replace(task, last=0.999).prepare(trained, np.random.default_rng(0))
    assert last["slot"].tolist() == [7, 7] and last["weight"].tolist() == [1, 0] and last["label"][0] == items[-1]
    asked = task.prepare(trained._replace(label=30), np.random.default_rng(0))
    assert asked["tokens"].tolist() == [*items[2:9].tolist(), task.mask_id] and asked["slot"] == [7] and asked["label"] == [30]


def test_each_item_is_hidden_by_itself():
    """So often as chance has it, maybe none; a plan counts what an epoch draws, and all of it is trained on."""
    task = dataclasses.replace(world.parts("masked_item").task, rate=0.3, hidden="each", positions=8)
    rng = np.random.default_rng(4)
    examples = []
    for i in range(3000):
        items = rng.integers(11, 60, rng.integers(3, 12)).astype("i4")
        examples.append(world.Example(items[:-1], np.zeros(len(items) - 1, "i4"), items[1:], i, None, np.unique(items)))
    feed, hidden, read, places = Feed(examples, task, None), 0, 0, np.zeros(8)
    feed.shaped(64, None)
    drawn = [feed.reads(1, epoch) for epoch in range(2)]
    assert (drawn[0] != drawn[1]).any() and (drawn[0] == 0).any() and (drawn[0] <= feed.slots).all()
    assert feed.reads(1, 0).tolist() == drawn[0].tolist()
    for batch in feed.batches(1, 0):
        kept = batch["weight"] > 0
        hidden, read = hidden + int(kept.sum()), read + int((batch["segment"] > 0).sum())
        assert (batch["tokens"] == task.mask_id).sum() == kept.sum()
        rows = np.nonzero(kept)[0]
        assert (batch["tokens"][rows, batch["slot"][kept]] == task.mask_id).all()
        np.add.at(places, batch["position"][rows, batch["slot"][kept]], 1)
    assert hidden == drawn[0].sum() and abs(hidden / read - 0.3) < 4 * (0.3 * 0.7 / read) ** 0.5
    share = places / np.bincount(np.concatenate([np.arange(n) for n in feed.tokens]))
    assert (abs(share - 0.3) < 0.05).all()
    with pytest.raises(InputError, match="task.hidden=each"):
        dataclasses.replace(task, last=0.1)


# ---- model
def test_gru4rec_is_its_formula():
    """Two histories in a row, each from a state of zeros, in float64 numpy."""
    made = world.parts("next_item", "model=gru4rec", "model.units=24", "model.depth=1")
    rng = np.random.default_rng(5)
    p = {k.removeprefix("model."): np.asarray(x, "f8") + 0.1 * rng.normal(size=x.shape) for k, x in made.parameters.items()}
    sigmoid, tokens, hidden = lambda x: 1 / (1 + np.exp(-x)), np.array([5, 9, 200, 7, 33]), np.zeros(24)  # noqa: E731
    states = []
    for place, token in enumerate(tokens):
        hidden = hidden * (place != 3)
        given = p["items.embedding"][token] @ p["layer.0.input.kernel"] + p["layer.0.input.bias"]
        known = hidden @ p["layer.0.recurrent.kernel"]
        r, z = (sigmoid(given[part] + known[part]) for part in (slice(0, 24), slice(24, 48)))
        hidden = (1 - z) * np.tanh(given[48:] + r * (known[48:] + p["layer.0.bias"])) + z * hidden
        states.append(hidden)
    logits = (np.array(states) @ p["output.kernel"] + p["output.bias"]) @ p["items.embedding"].T
    batch = {"tokens": tokens[None], "segment": np.array([[1, 1, 1, 2, 2]]), "position": np.array([[0, 1, 2, 0, 1]]),
             "slot": np.arange(5)[None]}
    net = made.graph.net({f"model.{k}": jnp.asarray(x, jnp.float32) for k, x in p.items()})
    np.testing.assert_allclose(net(jax.tree.map(jnp.asarray, batch)).logits()[0], logits, atol=1e-5)


# ---- commands
@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """120 users who walk round a circle of 30 items, from anywhere, mostly one step at a time."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("log")
    steps = np.where(rng.random((120, 9)) < 0.9, 1, 2).cumsum(1) + rng.integers(0, 30, (120, 1))
    rows = [{"user": f"u{u}", "item": f"i{x % 30}", "time": t} for u, row in enumerate(steps) for t, x in enumerate(row)]
    pd.DataFrame(rows).sample(frac=1, random_state=0).to_csv(folder / "log.csv", index=False)
    return folder / "log.csv"


WORDS = ["experiment=next_item", "data=sequences", "model.depth=1", "model.width=16", "model.feed_forward=16",
         "data.max_length=10", "task.cutoffs=[1,5]", "task.most=5", "tracker=[jsonl]", "best.metric=ndcg@5"]


@pytest.fixture(scope="module")
def circle(log):
    """A run that learnt the circle."""
    run = log.parent / "run"
    more = ["epochs=10", "data.batch_size=8", "optimizer.learning_rate=1e-2", f"data.path={log}", f"run_dir={run}"]
    assert call("train", *WORDS, *more) == 0
    return run


def test_a_checkpoint_that_saw_what_is_asked_for(log, circle, tmp_path, capsys):
    """Whole histories were trained on: the run that goes on from there says how much of its test that is; its own split: none."""
    words = [*WORDS, f"data.path={log}", "steps=1"]
    assert call("train", *words, "data.split=users", f"run_dir={tmp_path / 'users'}") == 0
    capsys.readouterr()
    found = {}
    for name, start in (("own", circle), ("other", tmp_path / "users")):
        assert call("train", *words, f"model.checkpoint={start}", f"run_dir={tmp_path / name}") == 0
        found[name] = json.loads((tmp_path / name / "summary.json").read_text()).get("leaked", 0)
        assert ("so their metrics flatter it: give both runs the same data.split\n" in capsys.readouterr().out) is (name == "other")
    whole = json.loads((tmp_path / "users" / "data.json").read_text())["users to train"]
    assert found == {"own": 0, "other": found["other"]} and whole <= found["other"] <= 2 * whole   # two a user, some had before


def test_commands(log, circle, tmp_path, capsys):
    """What popularity can't know is learnt; evaluate gives the numbers again; what is predicted is what was ranked."""
    assert call("baseline", *WORDS, f"data.path={log}", "baseline=popularity", f"run_dir={tmp_path / 'pop'}") == 0
    summary, popular = (json.loads((run / "summary.json").read_text()) for run in (circle, tmp_path / "pop"))
    assert summary["test/recall@5"] > 0.8 > 0.5 > popular["test/recall@5"]
    assert "protocol fingerprint" in capsys.readouterr().out
    ours, theirs = (json.loads((run / "protocol.json").read_text()) for run in (circle, tmp_path / "pop"))
    assert ours["fingerprint"] == theirs["fingerprint"] and ours["loss"] == {"objective": "ce"} and ours["users to test"] == 120
    words = [f"data.path={log}", "task.filter_seen=false", "baseline=popularity", f"run_dir={tmp_path / 'p'}"]
    assert call("baseline", *WORDS, *words) == 0
    assert json.loads((tmp_path / "p" / "protocol.json").read_text())["fingerprint"] != ours["fingerprint"]
    capsys.readouterr()
    assert call("evaluate", f"run_dir={circle}", "split=test") == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert all(summary[key] == pytest.approx(x, abs=1e-6) for key, x in again.items()) and again["test/ndcg@5"] > 0
    table = pq.read_table(circle / "predictions" / "test.parquet").to_pandas()
    assert list(table) == ["user", "target", "rank", "top_items", "top_scores"] and len(table) == 120
    assert (table["rank"] <= 5).mean() == pytest.approx(summary["test/recall@5"])
    hit = [list(row.top_items).index(row.target) + 1 == row["rank"] for _, row in table.iterrows() if row["rank"] <= 5]
    assert all(hit) and len(hit) > 90
    items = (circle / "items.txt").read_text().split()
    assert set(items) == {f"i{k}" for k in range(30)} and len(items) == 30


def test_baselines_know_what_networks_no_longer_read(tmp_path):
    """Purchases before the last `max_length` events train them too; texts of items change no protocol."""
    rows = [f"u{u},{item}" for u in range(6) for item in ("v0,-1,view", "hot,0,buy")]
    rows += [f"u{u},v{(u + t) % 7},{t},view" for u in range(6) for t in range(1, 6)]
    rows += [f"u{u},{item},{t},buy" for u in range(6, 14) for t, item in enumerate(("a", "b", "c", "d"))]
    rows += [f"u{u},{item},{t},buy" for u in range(6) for t, item in ((7, "a"), (8, "b"))]
    path = written(tmp_path / "log.csv", "user,item,time,type\n" + "\n".join(rows) + "\n")
    texts = written(tmp_path / "items.csv", "item,title\n" + "".join(f"{x},text of {x}\n" for x in (
        "hot", "a", "b", "c", "d", *(f"v{k}" for k in range(7)))))
    found = []
    for more in (["data.max_length=50"], ["data.max_length=4"],
                 ["data.max_length=50", f"data.texts={texts}", "data.text_columns=[title]"]):
        words = ["experiment=next_item", "data=sequences", f"data.path={path}", "data.type_column=type", "data.target_types=[buy]"]
        config = world.composed(*words, *more)
        corpus = make(config["data"], "data", Facts()).load("", config["data"]["max_length"])
        found.append((sorted(len(x) for x in corpus.trained.values()), protocol(config, corpus)["fingerprint"]))
        assert set(corpus.trained) == set(range(14)) and all(corpus.catalogue.items[x[0] - 1] for x in corpus.trained.values())
    assert found[0][0] == found[1][0] and found[0][1] == found[2][1]


def test_baselines_of_other_tasks_and_of_beginnings(log, tmp_path, capsys):
    """The same lists for every task that ranks, and a sentence for one that doesn't; beginnings make no user count twice."""
    found = []
    for i, words in enumerate(([], ["data.prefixes=true"], ["task=masked_item", "head=tokens", "model=bert4rec"])):
        words = [word for word in WORDS if not word.startswith("model.")] + words
        given = [f"data.path={log}", "baseline=item_knn", f"run_dir={tmp_path / str(i)}"]
        assert call("baseline", *words, *given) == 0
        found.append(json.loads((tmp_path / str(i) / "summary.json").read_text())["test/ndcg@5"])
    assert found[0] == found[1] == found[2]
    capsys.readouterr()
    written(tmp_path / "attributes.json", json.dumps({f"i{k}": ["a"] for k in range(30)}))
    more = [f"data.path={log}", f"data.attributes={tmp_path / 'attributes.json'}", f"run_dir={tmp_path / 'none'}"]
    assert call("baseline", "experiment=pretrain_s3rec", "data=sequences", "baseline=popularity", *more) == 2
    assert "set task=next_item" in capsys.readouterr().err


def recommended(circle, folder, *words):
    """What the command wrote, {user: items in order}."""
    assert call("recommend", f"run_dir={circle}", f"output={folder / 'out.csv'}", *words) == 0
    table = pd.read_csv(folder / "out.csv")
    assert list(table) == ["user", "rank", "item", "score", "why"]
    for _, rows in table.groupby("user"):
        assert rows["rank"].tolist() == list(range(1, len(rows) + 1))
    return table


def test_recommend(log, circle, tmp_path, capsys):
    """A walker from 5 to 9 goes on with 10; who has no history, or an unknown one, gets what is popular; rules hold."""
    rows = ["user,item,time", *(f"anna,i{k},{k}" for k in range(9, 4, -1)), "ben,,1", "carl,i99,1", "anna,i77,3", "dora,,"]
    users = written(tmp_path / "users.csv", "\n".join(rows) + "\n")
    found = recommended(circle, tmp_path, f"users={users}", "k=3")
    said = capsys.readouterr().out
    assert "4 users, 3 without history, who get what is popular; 0 for whom nothing is left" in said
    assert "2 events with items that the run doesn't know" in said
    anna = found[found.user == "anna"]
    assert anna.item.tolist()[0] == "i10" and set(anna.why) == {"history"} and not set(anna.item) & {f"i{k}" for k in range(5, 10)}
    assert anna.score.is_monotonic_decreasing and list(found.user.unique()) == ["anna", "ben", "carl", "dora"]
    counts = np.array(build.load_facts(circle).item_counts[1:-1])
    best = {f"i{k}" for k in range(30)} & set(np.array((circle / "items.txt").read_text().split())[np.argsort(-counts)[:10]])
    assert set(found[found.user == "ben"].why) == {"popular"} and len(set(found[found.user == "ben"].item) & best) == 3
    had = recommended(circle, tmp_path, f"users={users}", "k=30", "had=true")
    assert set(had[had.user == "anna"].item) == {f"i{k}" for k in range(30)}
    kinds = "item,category\n" + "".join(f"i{k},{'odd' if k % 2 else 'even'}\n" for k in range(30))
    kinds = written(tmp_path / "items.csv", kinds)
    rules = [f"users={users}", "k=30", "block=[i10]", f"items={kinds}", "never=[odd]"]
    left = {f"i{k}" for k in range(0, 30, 2)} - {"i10"}
    kept = recommended(circle, tmp_path, *rules)
    assert set(kept[kept.user == "ben"].item) == left and set(kept[kept.user == "anna"].item) == left - {"i6", "i8"}
    assert set(recommended(circle, tmp_path, *rules[:-1], "only=[even]").item) == left
    more = written(kinds, kinds.read_text().replace("i4,even", " i4 , odd ") + "i4,even\ni6,even\n i6,odd\n")   # of both kinds
    assert set(recommended(circle, tmp_path, *rules).item) == left - {"i4", "i6"}
    assert set(recommended(circle, tmp_path, *rules[:-1], "only=[even]").item) == left and more == kinds


def test_names_in_a_file(tmp_path):
    """A mark of byte order is no part of the first; other encodings are named, not taken for a crash."""
    (tmp_path / "names.txt").write_bytes("\ufeffi1\r\n\n i2 \n".encode())
    assert recommend.listed(tmp_path / "names.txt") == ["i1", "i2"]
    (tmp_path / "names.txt").write_bytes("café\n".encode("latin-1"))
    with pytest.raises(InputError, match="names.txt, line 1: not UTF-8"):
        recommend.listed(tmp_path / "names.txt")


def test_recommend_large_numbers(log, tmp_path):
    """By their texts, for users of the data and for new ones."""
    item = {f"i{k}": str(BIG[k % 3] - k) for k in range(30)}
    events = pd.read_csv(log).replace({"item": item})
    events["user"] = [str(2**62 + int(name[1:])) for name in events.user]
    events.to_csv(tmp_path / "log.csv", index=False)
    words = [*WORDS, f"data.path={tmp_path / 'log.csv'}", "steps=2", f"run_dir={tmp_path / 'run'}"]
    assert call("train", *words) == 0
    assert set((tmp_path / "run" / "items.txt").read_text().split()) == set(item.values())
    known, new = str(2**62 + 7), str(2**63)
    asked = {"users.txt": (known, events[events.user == known].item), "users.csv": (new, [item["i0"], item["i1"]])}
    written(tmp_path / "users.txt", f"{known}\n")
    written(tmp_path / "users.csv", f"user,item,time\n{new},{item['i0']},1\n{new},{item['i1']},2\n")
    for name, (user, had) in asked.items():
        output = f"output={tmp_path / 'x.csv'}"
        assert call("recommend", f"run_dir={tmp_path / 'run'}", f"users={tmp_path / name}", "k=30", output) == 0
        found = pd.read_csv(tmp_path / "x.csv", dtype=str)
        assert set(found.user) == {user} and set(found.item) == set(item.values()) - set(had) and set(found.why) == {"history"}


def test_recommend_by_a_run_whose_names_are_broken(circle, tmp_path, capsys):
    """Of a run from before such names were refused: every later name would be another item's."""
    run, users = tmp_path / "run", written(tmp_path / "users.csv", "user,item,time\nanna,i1,1\n")
    shutil.copytree(circle, run)
    written(run / "items.txt", "broken\n" + (run / "items.txt").read_text())
    assert call("recommend", f"run_dir={run}", f"users={users}", f"output={tmp_path / 'x.csv'}") == 2
    error = capsys.readouterr().err
    assert "items.txt: 31 names of 30 items" in error and error.count("\n") == 1


@pytest.mark.parametrize("command,words", [("recommend", ["users=users.csv"]), ("evaluate", ["split=test"])])
def test_a_baseline_is_no_run_to_go_on_with(command, words, log, tmp_path, capsys):
    run = tmp_path / "run"
    assert call("baseline", *WORDS, f"data.path={log}", "baseline=popularity", f"run_dir={run}") == 0
    capsys.readouterr()
    assert call(command, f"run_dir={run}", *words) == 2
    error = capsys.readouterr().err
    assert f"run_dir: {run} holds a baseline" in error and command in error and error.count("\n") == 1


def test_recommend_to_users_of_the_data(log, circle, tmp_path, capsys):
    """The list of a user's whole history; nothing of it is recommended."""
    users = written(tmp_path / "users.txt", "u7\nu3\nu7\n")
    found = recommended(circle, tmp_path, f"users={users}", "k=2")
    events = pd.read_csv(log).sort_values("time")
    assert found.user.tolist() == ["u7", "u7", "u3", "u3"]
    for user, rows in found.groupby("user"):
        mine = events[events.user == user].item.tolist()
        last = int(mine[-1][1:])
        assert not set(rows.item) & set(mine) and f"i{(last + 1) % 30}" in rows.item.tolist() + mine
    capsys.readouterr()
    nobody = f"users={written(tmp_path / 'x.txt', 'nobody')}"
    assert call("recommend", f"run_dir={circle}", nobody, f"output={tmp_path / 'x.csv'}") == 2
    assert "has no user 'nobody'" in capsys.readouterr().err and not (tmp_path / "x.csv").exists()
    written(tmp_path / "x.txt", "\n")
    assert call("recommend", f"run_dir={circle}", nobody, f"output={tmp_path / 'x.csv'}") == 2
    assert "x.txt: no users" in capsys.readouterr().err


def test_who_had_all_that_may_be_shown_is_not_left_out(circle, tmp_path, capsys):
    """A row says so, and nothing that the user had fills it up; ranks stay whole numbers."""
    users = written(tmp_path / "users.csv", "user,item,time\nanna,i7,1\nanna,i8,2\nben,i7,1\ncarl,,1\n")
    rules = [f"users={users}", "k=3", f"block=[{','.join(f'i{k}' for k in range(30) if k not in (7, 8))}]"]
    for weight in (0.0, 0.5):
        assert call("recommend", f"run_dir={circle}", f"output={tmp_path / 'x.csv'}", f"diversify={weight}", *rules) == 0
        lines = (tmp_path / "x.csv").read_text().splitlines()
        assert lines[1] == "anna,,,,nothing left" and lines[2].startswith("ben,1,i8,") and len(lines) == 5
        assert all(line.startswith("carl,") and line.endswith(",popular") for line in lines[3:])
        assert "3 users, 1 without history, who get what is popular; 1 for whom nothing is left" in capsys.readouterr().out
    had = recommended(circle, tmp_path, *rules, "had=true")
    assert set(had[had.user == "anna"].item) == {"i7", "i8"} and set(had[had.user == "anna"].why) == {"history"}


@pytest.mark.parametrize("words,said", [
    (["k=0"], "k is 0"), (["diversify=2.0"], "diversify is 2.0"), (["block=[zzz]"], "block: the run knows no item 'zzz'"),
    (["only=[a]"], "give the items' table"), (["output=x.html"], "output: unknown ending"), (["users=none.csv"], "none.csv"),
    (["k=two"], "k is 'two', expected a whole number"), (["users=5"], "users is 5"), (["output=null"], "output is null"),
    ([f"block=[{','.join(f'i{k}' for k in range(30))}]"], "block, only and never leave no item to recommend")])
def test_recommend_refuses(words, said, circle, tmp_path, capsys):
    users = written(tmp_path / "users.csv", "user,item,time\nanna,i1,1\n")
    given = {word.partition("=")[0]: word for word in (f"users={users}", f"output={tmp_path / 'x.csv'}", *words)}
    assert call("recommend", f"run_dir={circle}", *given.values()) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (tmp_path / "x.csv").exists()


def test_a_catalogue_too_large_for_ease(monkeypatch):
    def full(*given):
        raise MemoryError

    monkeypatch.setattr(np.linalg, "inv", full)
    with pytest.raises(InputError, match="each of 90 × 90 pairs of items, several times 0 GB, more than there is memory"):
        neighbours.Ease(1.0).fit([np.array([1, 2])], 90)


def test_lists_that_differ():
    """Two copies at the top, one at right angles, one opposite: with weight .5 the copy is worth .5 · .98 − .5, the opposite .5."""
    vectors = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    scores = np.array([5.0, 4.9, 2.0, 0.0])
    assert mmr(scores, vectors, 4, 0.0).tolist() == [0, 1, 2, 3] and mmr(scores, vectors, 2, 0.5).tolist() == [0, 3]
    assert mmr(scores, vectors, 3, 0.2).tolist() == [0, 1, 2] and mmr(np.ones(2), vectors[:2], 5, 0.5).tolist() == [0, 1]
    assert similarity(vectors[None, :3]) == pytest.approx(1 / 3)


@pytest.mark.parametrize("name", ["popularity", "item_knn", "ease", "als", "bpr"])
def test_baselines_of_items(name):
    """Items 1 and 2 are bought together, 3 and 4 too, 5 by everybody."""
    histories = [np.array(x) for x in ([1, 2, 5], [1, 2, 5], [3, 4, 5], [3, 4, 5], [1, 2, 5])]
    model = make(world.composed(f"baseline={name}", name="baseline")["baseline"] | ({"ridge": 1.0} if name == "ease" else {}),
                 "baseline", Facts())
    scores = model.scores(model.fit(histories, 6), [np.array([3]), np.array([1])], [2, 0])
    rank, top, _ = neighbours.ranked(scores, np.array([4, 2]), [np.array([3]), np.array([1])], 2)
    assert scores.shape == (2, 6) and (scores[:, 5] <= (0.1 if name == "als" else 0)).all()
    if name == "bpr":   # knows its users: what one had scores above what not
        fitted = model.fit(histories, 6)
        np.testing.assert_allclose(model.scores(fitted, histories[:1], [-1])[0], fitted.item_factors[:, -1])   # not trained on
        assert scores[0, [2, 3, 4]].min() > scores[0, :2].max() and scores[1, [0, 1, 4]].min() > scores[1, 2:4].max()
        return
    assert rank.tolist() == ([4, 2] if name == "popularity" else [1, 1]) and top[0, 0] == (5 if name == "popularity" else 4)


@pytest.mark.parametrize("name", ["als", "bpr"])
def test_seeds_of_factors_are_those_of_runs(name):
    """A table's seeds are other factors; older folders, whose configurations are completed with conf/, go on as they were."""
    words = [f"baseline={name}", "experiment=next_item", "data=sequences"]
    made = [world.composed(*words, f"seed={seed}", name="baseline") for seed in (0, 3)]
    assert [config["baseline"]["seed"] for config in made] == [0, 3]
    assert world.composed(*words, "seed=3", "baseline.seed=1", name="baseline")["baseline"]["seed"] == 1
    histories = [np.array(x) for x in ([1, 2, 5], [1, 2, 5], [3, 4, 5], [3, 4, 5], [1, 2, 5])]
    models = [make(config["baseline"], "baseline", Facts()) for config in made]
    scores = [model.scores(model.fit(histories, 6), histories, range(5)) for model in models]
    assert np.abs(scores[0] - scores[1]).max() > 1e-4
    assert saved.complete(made[1]) == made[1]
    del made[0]["baseline"]["factors"]
    assert saved.complete(made[0])["baseline"] == made[0]["baseline"] | {"factors": 64}


@pytest.mark.parametrize("name,word,said", [
    ("bpr", "learning_rate=20", "baseline: implicit can't fit it (NaN encountered in factors): lower baseline.learning_rate"),
    ("als", "regularization=0.0", "): raise baseline.regularization or lower baseline.alpha"),
    ("als", "factors=0", "baseline.factors 0 is too small"), ("bpr", "iterations=0", "baseline.iterations 0 is too small"),
    ("als", "alpha=-1.0", "baseline.alpha -1.0 is too small"), ("bpr", "learning_rate=0.0", "baseline.learning_rate 0.0 is too"),
    ("als", "seed=-1", "baseline.seed -1 is too small"), ("bpr", "regularization=-1.0", "baseline.regularization -1.0 is too")])
def test_factors_that_cannot_be_fitted(name, word, said, log, tmp_path, capfd):
    given = [f"data.path={log}", f"baseline={name}", f"baseline.{word}", f"run_dir={tmp_path / 'run'}"]
    assert call("baseline", *WORDS, *given) == 2
    error = capfd.readouterr().err
    assert said in error and error.count("\n") == 1


@pytest.mark.slow
def test_bert4rec_trains(log, tmp_path):
    """From both sides; better than chance, 5 of 24 that were not seen."""
    words = [*WORDS, "model=bert4rec", "model.width=16", "model.feed_forward=32", "head=tokens", "task=masked_item", "epochs=30"]
    words = [word for word in words if word not in WORDS or not word.startswith("model.")]
    assert call("train", *words, f"data.path={log}", "optimizer.learning_rate=1e-2", f"run_dir={tmp_path / 'run'}") == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["test/recall@5"] > 0.4
    events = pd.read_csv(log).sort_values("time", kind="stable")
    before = events[events.groupby("user").cumcount(ascending=False) > 0]   # what was read to test
    before.to_csv(tmp_path / "users.csv", index=False)
    found = recommended(tmp_path / "run", tmp_path, f"users={tmp_path / 'users.csv'}", "k=5").groupby("user")["item"].agg(list)
    tested = pq.read_table(tmp_path / "run" / "predictions" / "test.parquet").to_pandas().set_index("user")["top_items"]
    assert len(found) == 120 and all(found[user] == list(items) for user, items in tested.items())
    users = written(tmp_path / "one.csv", "user,item,time\nanna,i5,1\nben,,1\n")
    had = recommended(tmp_path / "run", tmp_path, f"users={users}", "k=30", "had=true")
    assert had.groupby("user")["item"].agg(set).tolist() == [{f"i{k}" for k in range(30)}] * 2   # and no [MASK]


def test_item_vectors_are_dropped_once_a_step():
    """For histories and for what is scored alike; the rest is made as much larger; two batches of a step have one mask."""
    made = world.parts("next_item", "model=sasrec", "model.item_dropout=0.5")
    batch, other = (jax.tree.map(jnp.asarray, given) for given in world.batches(made.task, "next_item", 2))
    net, noise = made.graph.net(made.parameters), Noise(jnp.uint32(3), batch["row"])
    whole, table = np.asarray(net.model.table()), np.asarray(net(batch, noise).table)
    gone = table == 0
    assert gone.mean() == pytest.approx(0.5, abs=0.02) and gone.mean(0).min() > 0.4
    np.testing.assert_allclose(table[~gone], 2 * whole[~gone], rtol=1e-6)
    np.testing.assert_array_equal(net(other, Noise(jnp.uint32(3), other["row"])).table, table)
    assert (np.asarray(net(batch, Noise(jnp.uint32(4), batch["row"])).table) == 0)[gone].mean() < 0.6
    np.testing.assert_array_equal(net(batch).table, whole)
    read, held = np.asarray(net.model.reading(batch, noise)(batch)), np.asarray(net.model(batch))
    net.model.items.embedding[...] = jnp.asarray(table)   # a history reads just what is scored with
    np.testing.assert_allclose(read, net.model(batch), atol=1e-6)
    assert np.abs(read - held).max() > 1e-3


@pytest.mark.parametrize("strategy", [pytest.param("jit", marks=pytest.mark.slow), "fsdp strategy.table_rows=80"])
def test_devices_drop_the_same_of_item_vectors(strategy):
    """With tables that are never put together too."""
    curves = []
    for words in (["strategy.devices=1"], [*f"strategy={strategy}".split(), "strategy.devices=4"]):
        made = world.parts("next_item", "model=esasrec", "task.objective=sampled_ce", "task.negatives=3", *words)
        curves.append(world.curve(made, world.batches(made.task, "next_item", 4))[0])
    assert np.abs(curves[0] - curves[1]).max() < 1e-5 and curves[0][0] - curves[0][-1] > 1e-3


@pytest.mark.parametrize("words,said", [
    (["task=masked_item"], "sees both sides of what is hidden: set model.causal=false"),
    (["model.causal=false"], "doesn't see what comes next: set model.causal=true"),
    (["baseline=item_knn", "baseline.neighbours=0"], "baseline.neighbours is 0"),
    (["baseline=tfidf"], "of items, choose popularity"), (["task.cutoffs=[5,1]"], "must rise"), (["task.most=99"], "between 1 and"),
    (["model.item_dropout=1.0"], "model.item_dropout is 1.0"), (["task.negatives=0"], "task.negatives 0"),
    (["data.path=null"], "data.path is not set"), (["head=classify"], "another head"),
    (["data.split_at=[0.9,0.8]"], "must be two shares that rise"), (["data.split=time", "data.format=pairs"], "has no times"),
    (["data.split=users", "data.new_items=0.1"], "data.new_items needs"),
    (["data.max_length=1"], "data.max_length 1 is too small"), (["data.sha256=abc"], "data.sha256 says abc")])
def test_refused(words, said, log, tmp_path, capsys):
    command = "baseline" if words[0].startswith("baseline") else "train"
    assert call(command, *WORDS, f"data.path={log}", *words, f"run_dir={tmp_path / 'run'}") == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_the_planner_and_the_checkpoint_of_other_items(log, tmp_path, capsys):
    """A run can't go on with another catalogue."""
    assert call("train", *WORDS, f"data.path={log}", "steps=2", f"run_dir={tmp_path / 'run'}") == 0
    written(tmp_path / "other.csv", "user,item,time\n" + "".join(f"u,{i},{i}\n" for i in range(9)))
    words = ["data.path=" + str(tmp_path / "other.csv"), f"model.checkpoint={tmp_path / 'run'}", f"run_dir={tmp_path / 'next'}"]
    capsys.readouterr()
    assert call("train", *WORDS, *words) == 2
    assert "knows 30 items, the data has 9" in capsys.readouterr().err
    assert build.load_facts(tmp_path / "run").items == 30
    head, *rows = log.read_text().splitlines()
    other = written(tmp_path / "order.csv", "\n".join([head, *rows[::-1]]) + "\n")
    assert call("train", *WORDS, f"data.path={other}", *words[1:]) == 2
    assert "items are numbered as they come" in capsys.readouterr().err
    for word in ("model.form=clean", "model.scaled=false"):
        assert call("train", *WORDS, f"data.path={log}", word, *words[1:]) == 2
        assert f"{word.split('=')[0]} is" in capsys.readouterr().err
    assert call("train", *WORDS, f"data.path={log}", "steps=2", *words[1:]) == 0


def test_candidates_are_those_of_every_task():
    """Drawn by the training events, also where the labels of a batch are the negatives."""
    words = ["model=sasrec", "task.objective=sampled_ce", "task.sampled=popularity"]
    one, two = (world.parts("next_item", *words, f"task.sampling={how}").task for how in ("popularity", "batch"))
    two = dataclasses.replace(two, label_counts=one.item_counts[::-1])
    asked = world.examples("next_item", 1)[0]._replace(label=7)
    assert one.candidates(asked).tolist() == two.candidates(asked).tolist()


@pytest.mark.parametrize("how,command", [("uniform", ["train", "epochs=2"]), ("popularity", ["baseline", "baseline=item_knn"])])
def test_ranks_among_a_hundred(how, command, log, tmp_path):
    """Under names that say so; models and baselines rank among the same, none of the user's; no table tests them."""
    words = [*WORDS, f"data.path={log}", f"task.sampled={how}", "task.cutoffs=[1,5,20]"]
    assert call(command[0], *words, *command[1:], f"run_dir={tmp_path / 'run'}") == 0
    found = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert 0 < found[f"test/recall@20_of_100_{how}"] < found["test/recall@20"]   # a hundred draws of about 21 items
    assert ranking.gain(f"recall@1_of_100_{how}", np.ones(1)) is None
    assert how in json.loads((tmp_path / "run" / "protocol.json").read_text())["sampled"]
    task = world.parts("next_item", "model=sasrec", f"task.sampled={how}").task
    example = world.examples("next_item", 3)[2]
    example = dataclasses.replace(example, label=int(example.label[-1])) if dataclasses.is_dataclass(example) else \
        example._replace(label=int(example.label[-1]))
    drawn = task.candidates(example)
    assert drawn.shape == (1, 100) and not np.isin(drawn, np.append(example.seen, example.label)).any()
    np.testing.assert_array_equal(drawn, task.prepare(example, np.random.default_rng(5))["candidate"])


def test_a_run_says_what_its_lists_are_worth(log, tmp_path):
    """All items cost 2: revenue is twice the recall."""
    items = written(tmp_path / "items.csv", "item,price\n" + "".join(f"i{i},2\n" for i in range(30)))
    assert call("baseline", *WORDS, f"data.path={log}", f"data.items={items}", "baseline=item_knn",
                f"run_dir={tmp_path / 'run'}") == 0
    found = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert found["test/revenue@5"] == pytest.approx(2 * found["test/recall@5"]) and found["test/recall@5"] > 0
    assert found["test/price_ndcg@5"] == pytest.approx(found["test/ndcg@5"])


@pytest.mark.slow
def test_a_table_compares_users(log, tmp_path):
    """Rows on the same users and labels are tested in pairs; coverage, which is no mean over users, isn't."""
    small = [*WORDS, f"data.path={log}"]
    rows = [{"name": name, "command": "baseline", "seeds": [0], "overrides": [*small, f"baseline={name}"]}
            for name in ("popularity", "item_knn")]
    rows[1]["against"] = "popularity"
    rows.append(dict(rows[1], name="other", overrides=[*rows[1]["overrides"], "task.filter_seen=false"]))   # another protocol
    columns = "table.columns={test/recall@5: {title: HR@5, digits: 3}, test/coverage@5: {title: coverage@5, digits: 3}}"
    out = tmp_path / "table"
    assert call("table", "table=quickstart", "~table.columns", f"+{columns}", rows_word(rows), f"out={out}") == 0
    text = (out / "table.md").read_text()
    assert "| item_knn | popularity | HR@5 |" in text and "| item_knn | popularity | coverage@5" not in text
    assert "| other | 1 |" in text and "| other | popularity" not in text
    ranks = [pq.read_table(next((out / name).glob("*/predictions/test.parquet")))["rank"].to_numpy() for name in
             ("item_knn", "popularity")]
    gap = np.mean(ranks[0] <= 5) - np.mean(ranks[1] <= 5)
    assert f"| HR@5 | {gap:+.3f} [" in text and gap > 0.1
