"""Examples to batches: packing loses nothing and leaks nothing, order is a pure function, masking draws what it says."""

import itertools
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from ecrec_jax import build
from ecrec_jax.data import feed, pack
from ecrec_jax.data.feed import Feed
from ecrec_jax.section import make
from ecrec_jax.types import Example, Facts, InputError
from tests.world import section_of

CONF = Path(__file__).parent.parent / "conf"
SPECIAL = (0, 1, 2, 3, 7)   # pad, unknown, cls, sep, mask
FACTS = Facts(vocabulary=60, mask_id=7, cls_id=2, special_ids=SPECIAL, labels=("a", "b"), class_counts=(5, 5), scale=1.0)
TASKS = ["classification", "regression", "masked_lm", "causal_lm", "contrastive", "simcse"]


def node(noun, *names):
    """The yamls of a noun merged, the last one wins."""
    merged = {}
    for name in names:
        merged |= yaml.safe_load((CONF / noun / f"{name}.yaml").read_text())
    return {key: value for key, value in merged.items() if key != "defaults"}


def task_of(name, facts=FACTS):
    return make(section_of("task", name), "task", facts)


def examples_of(task, count, seed, longest=40):
    """Random texts; a type of its own and a second half where the task reads pairs."""
    rng, found = np.random.default_rng(seed), []
    for i in range(count):
        n = int(rng.integers(3, longest))
        tokens = np.concatenate([[2], rng.choice(np.setdiff1d(np.arange(60), SPECIAL), n - 2), [3]]).astype("i4")
        second = (np.arange(n) >= (n + 1) // 2).astype("i4") * (i % 2 or task == "contrastive")
        found.append(Example(tokens, second, float(i) if task == "regression" else i % 2, 3 * i + 1))
    return found


def feed_of(task, count=200, seed=0, alone=False):
    made = Feed(examples_of(task, count, seed), task_of(task), None, alone)
    shape = made.shaped(16, 64 if task not in ("contrastive", "simcse") else 96)
    assert shape.rows >= 3
    return made


def contents(batches):
    """What stands in batches, one entry an example: its tokens, types, positions and its slots' places, labels, weights."""
    found = []
    for batch in batches:
        for row in range(len(batch["tokens"])):
            live = np.flatnonzero(batch["weight"][row])
            for number in dict.fromkeys(batch["example"][row][live].tolist()):
                slots = live[batch["example"][row][live] == number]
                members = np.unique(batch["segment"][row][batch["slot"][row][slots]])
                at = np.flatnonzero(np.isin(batch["segment"][row], members))
                found.append((number, *(tuple(batch[key][row][at].tolist()) for key in ("tokens", "type", "position")),
                              tuple((batch["slot"][row][slots] - at[0]).tolist()),
                              *(tuple(batch[key][row][slots].tolist()) for key in ("label", "weight"))))
    return sorted(found)


@pytest.mark.parametrize("seed", range(30))
def test_plans_hold_every_example_once_and_fit(seed):
    rng = np.random.default_rng(seed)
    count, length, slots = int(rng.integers(1, 3000)), int(rng.integers(8, 200)), int(rng.integers(1, 30))
    tokens = rng.integers(1, length + 1, count)
    reads = rng.integers(0, slots + 1, count) * (rng.random(count) < 0.7)
    shape = pack.Shape(4, length, slots)
    for key in (None, (seed, 0)):
        rows = pack.plan(tokens, reads, shape, key)
        assert sorted(i for row in rows for i in row) == list(range(count)) and all(rows)
        assert max(tokens[row].sum() for row in rows) <= length
        assert max(reads[row].sum() for row in rows) <= slots
    alone = pack.plan(tokens, reads, shape, (seed, 0), alone=True)
    assert all(len(row) == 1 for row in alone) and sorted(sum(alone, [])) == list(range(count))


def test_best_fit_fills_the_fullest_row():
    tokens = [6, 5, 4, 3, 2]
    assert pack.best_fit(range(5), tokens, [1] * 5, 10, 9) == [[0, 2], [1, 3, 4]]
    assert pack.best_fit(range(5), tokens, [1] * 5, 10, 2) == [[0, 2], [1, 3], [4]]   # slots are full
    assert pack.best_fit(range(5), tokens, [0, 2, 0, 0, 0], 10, 2) == [[0, 2], [1], [3, 4]]


def test_a_plan_depends_on_seed_and_epoch_alone():
    sizes, shape = np.random.default_rng(0).integers(3, 60, 2500), pack.Shape(8, 96, 20)
    plans = {key: pack.plan(sizes, np.ones_like(sizes), shape, key) for key in ((0, 0), (0, 1), (1, 0), (1, 1))}
    np.random.default_rng(9).random(5)
    assert all(pack.plan(sizes, np.ones_like(sizes), shape, key) == plan for key, plan in plans.items())
    assert len({str(plan) for plan in plans.values()}) == 4
    first = [max(row) for row in pack.plan(sizes, np.ones_like(sizes), shape, None)]
    assert first.index(max(first)) > len(first) // 2   # evaluation keeps the windows' order
    made = feed_of("classification")
    assert len({str(made.plan(*key)) for key in ((0, 0), (0, 1), (1, 0), (None, 0))}) == 4
    assert made.plan(None, 0) == made.plan(None, 5)


@pytest.mark.parametrize("task", TASKS)
def test_every_epoch_has_the_same_shapes(task):
    one = feed_of(task)
    assert feed_of(task, alone=True).shape.rows == 16
    for key in ((0, 0), (3, 7)):
        shapes = {tuple(batch[name].shape for name in ("tokens", "slot", "label")) for batch in one.batches(*key)}
        b, length, slots, *_ = one.shape
        assert shapes == {((b, length), (b, slots), (b, slots))}


def test_an_example_with_more_slots_than_the_trial_saw_has_room():
    """The trial packing samples; the longest example may stand outside the sample."""
    counts = np.ones(9 * 8 * pack.WINDOW, "i8")
    outside = np.setdiff1d(np.arange(len(counts)), np.random.default_rng(0).permutation(len(counts))[: 8 * pack.WINDOW])[0]
    made = Feed([], task_of("masked_lm"), None)
    made.tokens, made.slots = counts * 8, np.where(np.arange(len(counts)) == outside, 50, counts)
    assert made.shaped(8, None).slots >= 50
    with pytest.raises(InputError, match="data.row_length 7 is shorter than the longest example, 8"):
        made.shaped(8, 7)


def test_rows_have_few_empty_slots_where_slots_cost_something():
    """An example in four has 4 slots and 8 tokens, the others 5 and 80: rows of 80 tokens hold ten of the first, with 40 slots, of
    which the others leave 35 empty. At 2 tokens a slot 130 rows of 5 slots would cost 130 · 90, but 108 of 12, three of the short
    ones in a row, 108 · 104."""
    tokens, slots = np.tile([8, 80, 80, 80], 2 * pack.WINDOW), np.tile([4, 5, 5, 5], 2 * pack.WINDOW)
    assert pack.choose_shape(tokens, slots, 130, 80, 80) == pack.Shape(101, 80, 40)
    assert pack.choose_shape(tokens, slots, 130, 80, 80, slot=2) == pack.Shape(108, 80, 12)
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 90, 5_000)
    slots = np.minimum(tokens, rng.integers(1, 9, 5_000))
    free, tight = (pack.choose_shape(tokens, slots, 200, 90, 96, slot=slot) for slot in (0, 3))
    spent = [len(pack.plan(tokens, slots, shape, (5, 1))) * (96 + 3 * shape.slots) for shape in (free, tight)]
    assert spent[1] < spent[0] and sorted(sum(pack.plan(tokens, slots, tight, (5, 1)), [])) == list(range(5_000))


@pytest.mark.parametrize("task", TASKS)
def test_packed_equals_unpacked(task):
    packed, alone = feed_of(task), feed_of(task, alone=True)
    one, other = contents(packed.batches(5, 2)), contents(alone.batches(5, 2))
    assert one == other
    assert [entry[0] for entry in one] == [e.index for e in packed.examples if packed.task.size(e)[1]]   # none is lost
    assert len(packed.plan(5, 2)) < 0.7 * len(alone.plan(5, 2))
    by_index = {example.index: example for example in packed.examples}
    if task in ("classification", "regression"):
        assert len(one) == 200
        for number, tokens, kinds, position, slot, label, weight in one:
            example = by_index[number]
            assert (tokens, kinds) == (tuple(example.tokens), tuple(example.type)) and position == tuple(range(len(tokens)))
            assert (slot, label, weight) == ((0,), (example.label,), (1.0,))


@pytest.mark.parametrize("task", TASKS)
def test_layout(task):
    made = feed_of(task)
    for batch in made.batches(0, 0):
        assert batch["row"].tolist() == list(range(made.shape.rows))
        assert {key: x.dtype.str[1:] for key, x in batch.items()} == dict.fromkeys(
            ("tokens", "segment", "position", "type", "slot", "example", "row"), "i4") | {
            "weight": "f4", "label": "f4" if task == "regression" else "i4"}
        for row, segment in enumerate(batch["segment"]):
            n = int((segment > 0).sum())
            steps = np.diff(segment[:n], prepend=0)
            assert (segment[n:] == 0).all() and (batch["tokens"][row, n:] == 0).all() and (batch["tokens"][row, :n] > 0).all()
            assert np.isin(steps, (0, 1)).all() and (n == 0 or steps[0] == 1)   # 1, 2, … without a gap
            starts = np.maximum.accumulate(np.where(steps == 1, np.arange(n), 0)) if n else np.array([], int)
            assert (batch["position"][row, :n] == np.arange(n) - starts).all() and (batch["position"][row, n:] == 0).all()
            live = batch["weight"][row] > 0
            assert (batch["slot"][row][live] < n).all() and (np.diff(np.flatnonzero(~live)) == 1).all()
            assert not any(batch[key][row][~live].any() for key in ("slot", "label", "example"))


@pytest.mark.parametrize("task", ["classification", "masked_lm"])
def test_starting_at_k_skips_k(task):
    made = feed_of(task)
    whole = list(made.batches(1, 4))
    assert len(whole) == made.count(1, 4) > 5
    for k in (0, 1, len(whole) - 1, len(whole)):
        rest = list(made.batches(1, 4, start=k))
        assert len(rest) == len(whole) - k
        assert all(np.array_equal(a[key], b[key]) for a, b in zip(rest, whole[k:], strict=True) for key in a)


@pytest.fixture(scope="session")
def reviews():
    """The training split of the women's clothing reviews, as reviews_sentiment has it."""
    data = make(node("data", "file", "reviews", "reviews_sentiment") | {"root": "data"}, "data", Facts())
    corpus = data.load(str(build.ASSETS / "bert_uncased"), data.max_length)
    facts = Facts(**corpus.facts)
    return data, corpus, Feed(corpus.examples["train"], task_of("classification", facts), None)


def test_real_reviews_fill_their_rows(reviews):
    data, corpus, made = reviews
    assert corpus.report["rows"] == 23486 and corpus.facts["labels"] == ("no", "yes") and data.max_length == 128
    shape = made.shaped(data.batch_size, data.row_length)
    for key in ((0, 0), (11, 3)):
        start = time.perf_counter()
        rows = made.plan(*key)
        seconds = time.perf_counter() - start
        full, a_step = made.tokens.sum() / (len(rows) * shape.length), len(made.tokens) / (len(rows) / shape.rows)
        print(f"{len(made.tokens)} reviews, {shape}: plan {seconds:.3f} s, fill {full:.4f}, {a_step:.2f} examples a step")
        assert full >= 0.97 and abs(a_step / data.batch_size - 1) <= 0.05
    batch = next(made.batches(0, 0))
    assert feed.fill(batch) >= 0.95 and batch["tokens"].shape == (shape.rows, shape.length)


def running():
    return sum(thread.is_alive() for thread in threading.enumerate())


def test_a_late_generator_draws_as_numpy_does():
    """The same stream from the same seed, whatever is asked first, and nothing is made where nothing is drawn."""
    late, drawn = feed.Late(3, 1, 4), np.random.default_rng((3, 1, 4))
    assert "generator" not in vars(late)
    for one in (late, drawn):
        one.permutation(9)
    np.testing.assert_array_equal(late.random(5), drawn.random(5))
    assert late.integers(1 << 40) == drawn.integers(1 << 40)


@pytest.mark.parametrize("segment", [[4], [1, 1, 1], [1, 2, 3], [1, 1, 2, 2, 2, 3], [2, 2, 1, 1, 1, 2]])
def test_positions_begin_again_with_every_segment(segment):
    """Whatever numbers segments have, and however long they are."""
    expected = [i for _, group in itertools.groupby(segment) for i, _ in enumerate(group)]
    assert pack.within(np.array(segment)).tolist() == expected


def test_ahead_keeps_order_and_passes_on_errors():
    before = running()
    assert list(feed.ahead(iter(range(20)), lambda x: x * x)) == [x * x for x in range(20)]

    def fails(x):
        if x == 3:
            raise StopIteration("not the end")   # the one error that a generator could mistake
        return x

    for work, kind in ((fails, RuntimeError), (lambda x: x // (x != 3), ZeroDivisionError)):
        items = feed.ahead(iter(range(9)), work)
        assert [next(items) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(kind):
            next(items)
    with pytest.raises(InputError, match="from the items"):
        list(feed.ahead((x if x < 2 else (_ for _ in ()).throw(InputError("from the items")) for x in range(9)), str))
    assert running() == before


def test_ahead_stops_when_the_consumer_leaves():
    before, made = running(), []
    items = feed.ahead(iter(range(10**6)), lambda x: made.append(x) or x, depth=2)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    items.close()
    done = len(made)
    time.sleep(0.3)
    assert running() == before and len(made) == done <= 7


def test_several_works_at_once_in_order_and_the_first_alone():
    before, met, began = running(), threading.Barrier(3, timeout=10), []

    def work(x):
        began.append(x)
        if x == 0:
            time.sleep(0.2)
            assert began == [0]   # nothing begins before what it compiles is there
        else:
            met.wait()            # breaks unless three are at work
        return x * x

    assert list(feed.several(iter(range(10)), work, 3)) == [x * x for x in range(10)]
    assert list(feed.several(iter(()), work, 3)) == [] and running() == before


def test_several_passes_on_errors_and_stops_when_the_consumer_leaves():
    before, made = running(), []
    with pytest.raises(ZeroDivisionError):
        list(feed.several(iter(range(9)), lambda x: x // (x != 3), 3))
    items = feed.several(iter(range(10**6)), lambda x: made.append(x) or x, 3)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    items.close()
    assert running() == before and len(made) <= 7


def test_masking_counts_and_shares():
    task, examples = task_of("masked_lm"), examples_of("masked_lm", 1500, 0, 120)
    masked = kept = total = 0
    for example in examples:
        found = task.prepare(example, np.random.default_rng((0, 0, example.index)))
        slot, ordinary = found["slot"], ~np.isin(example.tokens, SPECIAL)
        assert len(slot) == round(task.rate * ordinary.sum()) == task.size(example)[1] and len(set(slot.tolist())) == len(slot)
        assert ordinary[slot].all() and (found["label"] == example.tokens[slot]).all() and (found["weight"] == 1).all()
        untouched = np.delete(np.arange(len(example.tokens)), slot)
        assert (found["tokens"][untouched] == example.tokens[untouched]).all()
        new = found["tokens"][slot]
        assert np.isin(new[new != 7], SPECIAL, invert=True).all() and (new < 60).all()
        masked, kept, total = masked + (new == 7).sum(), kept + (new == found["label"]).sum(), total + len(slot)
    ordinary = 60 - len(SPECIAL)
    for count, share in ((masked, 0.8), (kept, 0.1 + 0.1 / ordinary)):
        assert abs(count / total - share) <= 4 * np.sqrt(share * (1 - share) / total), (count, total)


def test_random_tokens_are_all_ordinary_ones():
    task = make(node("task", "masked_lm") | {"rate": 0.9, "masked": 0.0, "random": 1.0}, "task", FACTS)
    example = Example(np.full(60000, 10, "i4"), np.zeros(60000, "i4"), 0, 0)
    found = task.prepare(example, np.random.default_rng(0))
    counts = np.bincount(found["tokens"][found["slot"]], minlength=60)
    assert set(np.flatnonzero(counts)) == set(range(60)) - set(SPECIAL)
    assert counts[counts > 0].min() > 0.8 * counts[counts > 0].max()


def test_masks_depend_on_seed_epoch_and_example_alone():
    made = feed_of("masked_lm")
    fewer = Feed(made.examples[::-1][:50], made.task, made.shape)
    whole = {entry[0]: entry for entry in contents(made.batches(2, 3))}
    assert all(whole[entry[0]] == entry for entry in contents(fewer.batches(2, 3)))
    for key in ((2, 4), (3, 3)):
        assert sum(whole[entry[0]] == entry for entry in contents(made.batches(*key))) < 20
    same = [made.examples[0]._replace(tokens=np.arange(8, 58, dtype="i4"), type=np.zeros(50, "i4"), index=i) for i in range(9)]
    assert len({entry[4] for entry in contents(Feed(same, made.task, pack.Shape(3, 64, 10)).batches(0, 0))}) == 9
