"""Fields of items that were shown: how they are read, what the models compute of them, and runs of them from end to end."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from ecrec_jax import build, section, source
from ecrec_jax.data import history, pack, read, split, vectors
from ecrec_jax.data.feed import Feed
from ecrec_jax.data.fields import learn, learn_numbers
from ecrec_jax.types import Example, Facts, InputError, Noise
from ecrec_jax.use.baseline import Linear
from ecrec_jax.use.flops import model_flops
from experiments import record, saved
from tests import world
from tests.conftest import GOLDEN
from tests.test_commands import call
from tests.test_recommend import written

FIELDS, VOCABULARY, ITEM_FIELDS = 4, 40, (2, 3)
MODELS = ("logistic", "fm", "deepfm", "dcnv2", "two_tower")
SIZES = {"fm": [], "logistic": [], "deepfm": ["model.units=[6,5]"], "two_tower": ["model.units=[6,5]"],
         "dcnv2": ["model.units=[6,5]", "model.depth=2"]}


def examples(count=30, seed=0):
    """Random rows: one token of fields 0, 1 and 2, none to three of field 3."""
    rng, made = np.random.default_rng(seed), []
    for index in range(count):
        kind = np.array([0, 1, 2, *[3] * rng.integers(0, 4)], "i4")
        made.append(Example(rng.integers(1, VOCABULARY, len(kind)).astype("i4"), kind, int(rng.integers(2)), index,
                            value=rng.normal(size=len(kind)).astype("f4")))
    return made


def parts(name, *overrides):
    """A run's parts without data, with tables of large numbers."""
    small = [] if name == "logistic" else ["model.embedding=3"]
    config = world.composed("data=clicks", f"model={name}", "head=classify", "task=classification", "model.initializer_range=0.5",
                            "optimizer.learning_rate=1e-2", *small, *SIZES[name], *overrides)
    facts = Facts(vocabulary=VOCABULARY, types=FIELDS, item_fields=ITEM_FIELDS, labels=("no", "yes"), class_counts=(1, 1), steps=10,
                  width=1, dropout=0.0, initializer_range=0.5)
    made = build.network(config, facts, str(GOLDEN), None)
    return dataclasses.replace(made, optimizer=section.make(config["optimizer"], "optimizer", facts))


def batch_of(made, some, length):
    """One batch of all examples, rows of so many tokens."""
    feed = Feed(some, made.task, None)
    feed.shape = pack.Shape(len(some), length, 6)
    return next(feed.batches(None, 0))


def formula(name, p, e):
    """The number that a model says of an example, in float64, from its paper."""
    w, x = p["weights.embedding"][e.tokens, 0], e.value.astype("f8")
    made = float(w @ x)
    if name == "logistic":
        return made
    v = p["vectors.embedding"][e.tokens] * x[:, None]
    field = np.stack([v[e.type == k].sum(0) for k in range(FIELDS)])
    dense = lambda at, y: y @ p[f"{at}.kernel"] + p[f"{at}.bias"]  # noqa: E731

    def layers(at, y, count):
        for number in range(count):
            y = np.maximum(dense(f"{at}.layer.{number}", y), 0)
        return dense(f"{at}.last", y)

    if name in ("fm", "deepfm"):
        made += sum(float(v[i] @ v[j]) for i in range(len(v)) for j in range(i))
    if name == "deepfm":
        made += float(layers("slots", field.reshape(-1), 2)[0])
    if name == "dcnv2":
        first = y = field.reshape(-1)
        for number in range(2):
            y = first * dense(f"slots.cross.{number}", y) + y
        deep = np.maximum(layers("slots.deep", first, 1), 0)
        made += float(dense("slots.last", np.concatenate([y, deep]))[0])
    if name == "two_tower":
        user, item = (layers(f"slots.{k}", field[list(side)].reshape(-1), 1) for k, side in enumerate(((0, 1), ITEM_FIELDS)))
        made += float(user @ item)
    return made


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_its_formula_in_packed_rows_too(name):
    made, some = parts(name), examples()
    given = {key.removeprefix("model."): np.asarray(x, "f8") for key, x in made.parameters.items()}
    net = made.graph.net(made.parameters)
    for length in (8, 32):   # one or two examples a row, several
        batch = batch_of(made, some, length)
        found = np.asarray(net.model(jax.tree.map(jnp.asarray, batch), slot=jnp.asarray(batch["slot"])))[..., 0]
        used = batch["weight"] > 0
        wanted = {e.index: formula(name, given, e) for e in some}
        gap = max(abs(found[at] - wanted[batch["example"][at]]) for at in zip(*np.nonzero(used), strict=True))
        assert used.sum() == len(some) and used.any(1).sum() < len(some) and gap < 1e-5 < np.std(list(wanted.values()))
        every = np.asarray(net.model(jax.tree.map(jnp.asarray, batch)))[..., 0]   # of every token's example
        assert np.abs(np.take_along_axis(every, batch["slot"], 1) - found)[used].max() < 1e-6


@pytest.mark.parametrize("name,strategy", [
    (name, strategy) if i == j else pytest.param(name, strategy, marks=pytest.mark.slow)
    for i, name in enumerate(["deepfm", "dcnv2", "two_tower"]) for j, strategy in enumerate(world.names("strategy"))])
def test_strategies_agree(name, strategy):
    some = examples(29)
    curves = []
    for words in (["strategy.devices=1"], [f"strategy={strategy}", "strategy.devices=2"]):
        made = parts(name, *words)
        curves.append(world.curve(made, [batch_of(made, some, 16)] * 4)[0])
    assert np.abs(curves[0] - curves[1]).max() < 1e-5 and curves[0][0] > curves[0][-1]


def test_flops_of_dense_layers_are_those_of_an_example():
    made, some = parts("deepfm"), examples()
    batch = batch_of(made, some, 8)
    kernels = sum(x.size for name, x in made.parameters.items() if name.endswith(".kernel"))
    rows = int((batch["segment"] > 0).any(1).sum())
    assert model_flops(made, batch) == pytest.approx(6 * kernels * len(some) / rows)


def test_dropout_is_between_the_layers():
    made = parts("deepfm", "model.layer_dropout=0.5")
    batch = jax.tree.map(jnp.asarray, batch_of(made, examples(), 16))
    net = made.graph.net(made.parameters)
    noise = [None, *(Noise(jnp.uint32(seed), batch["row"]) for seed in (1, 2))]
    said = [np.asarray(net(batch, some)) for some in noise]
    assert np.abs(said[0] - said[1]).max() > 1e-3 < np.abs(said[1] - said[2]).max()


@pytest.mark.parametrize("name,words,says", [
    ("fm", ["model.width=2"], "model.width is 2"), ("fm", ["model.dropout=0.1"], "model.dropout is 0.1"),
    ("fm", ["model.embedding=0"], "model.embedding is 0"), ("deepfm", ["model.embedding=0"], "model.embedding is 0"),
    ("deepfm", ["model.layer_dropout=1.0"], "model.layer_dropout is 1.0"), ("deepfm", ["model.units=[0]"], "at least 1"),
    ("dcnv2", ["model.embedding=0"], "model.embedding is 0"), ("dcnv2", ["model.units=[3,-1]"], "at least 1"),
    ("two_tower", ["model.embedding=0"], "model.embedding is 0"), ("dcnv2", ["model.units=[]"], "model.units is empty"),
    ("two_tower", ["model.units=[]"], "model.units of some size")])
def test_what_a_model_refuses(name, words, says):
    with pytest.raises(InputError, match=says):
        parts(name, *words)


def test_no_head_is_tied_to_fields():
    made = parts("fm")
    with pytest.raises(InputError, match="has no table"):
        made.graph.net(made.parameters).model.table()


def test_history_is_of_strictly_earlier_rows():
    rng = np.random.default_rng(0)
    user, item = ([f"{side}{k}" for k in rng.integers(0, 5, 60)] for side in "ui")
    time, clicked = rng.integers(0, 20, 60).astype(float), rng.random(60) < 0.4
    found = history.before({"user": user, "item": item}, time, clicked)
    for name, cells in (("user", user), ("item", item)):
        for i in range(60):
            earlier = [j for j in range(60) if cells[j] == cells[i] and time[j] < time[i]]
            assert np.isclose(found[f"{name}_shown"][i], np.log1p(len(earlier)))
            assert np.isclose(found[f"{name}_rate"][i], (clicked[earlier].sum() + 1) / (len(earlier) + 2))
    assert set(history.ITEM) < set(found | history.since({"user": user, "item": item}, time))
    later = history.now(history.totals({"user": user}, clicked), {"user": [user[0], "nobody"]})
    mine = [j for j in range(60) if user[j] == user[0]]
    assert np.allclose(later["user_shown"], np.log1p([len(mine), 0]))
    assert np.allclose(later["user_rate"], [(clicked[mine].sum() + 1) / (len(mine) + 2), 0.5])


def test_nothing_is_known_of_who_has_no_name():
    """Guests are no user of many rows, before or after the end of the log."""
    users, items, time, clicked = ["", None, " ", "a", "a"], ["i", "j", "i", "i", "i"], np.arange(5.0), np.ones(5, bool)
    found = history.before({"user": users}, time, clicked) | history.since({"user": users}, time)
    assert found["user_shown"].tolist() == [0, 0, 0, 0, np.log(2)] and found["user_rate"].tolist() == [0.5, 0.5, 0.5, 0.5, 2 / 3]
    assert np.isnan(found["user_since"]).tolist() == [True, True, True, True, False]
    alike = history.match(users, time, clicked, np.zeros(5, int), np.ones((1, 2)))
    assert np.isnan(alike).tolist() == [True, True, True, True, False]
    assert history.recent(users, time, clicked, items, 9) == [[], [], [], [], ["i"]]
    known = history.totals({"user": users}, clicked)
    assert history.now(known, {"user": ["", "a"]})["user_shown"].tolist() == [0, np.log(3)]
    later = history.since_last(history.last({"user": users}, time), {"user": ["", "a"]}, np.array([9.0, 9.0]))["user_since"]
    assert np.isnan(later[0]) and later[1] == np.log(6)
    assert history.taken(users, clicked, items) == {"a": ["i", "i"]}


def test_a_match_is_with_what_was_taken_strictly_before():
    rng = np.random.default_rng(1)
    users, item = [f"u{k}" for k in rng.integers(0, 4, 50)], rng.integers(0, 6, 50)
    time, clicked, of = rng.integers(0, 15, 50).astype(float), rng.random(50) < 0.5, rng.normal(size=(6, 3)).astype("f4")
    found = history.match(users, time, clicked, item, of)
    for i in range(50):
        taken = [item[j] for j in range(50) if users[j] == users[i] and time[j] < time[i] and clicked[j]]
        total = of[taken].sum(0)
        wanted = total @ of[item[i]] / np.linalg.norm(total) / np.linalg.norm(of[item[i]]) if taken else np.nan
        assert np.isclose(found[i], wanted, atol=1e-6, equal_nan=True)
    assert np.isnan(found).any() and not np.isnan(found).all()


SHOWN = """user,item,time,price,click
a,1,1,2.0,1
a,2,2,,0
b,1,3,4.0,0
b,3,4,6.0,1
a,3,5,4.0,1
c,1,6,8.0,0
c,2,6,2.0,1
b,9,7,3.0,0
"""
ITEMS = """item,tags,flags,views
1,x|y,0|1|1,0
2,y,1|0|0,9
3,,0|0|0,
"""
KINDS = {"user": "category", "tags": "list", "flags": "flags", "price": "number", "views": "count"}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "shown.csv").write_text(SHOWN)
    (tmp_path / "items.csv").write_text(ITEMS)
    return tmp_path


def section_of(folder, **keys):
    """The section of the small log."""
    return world.section_of("data", "clicks") | {
        "root": ".", "path": f"{folder}/shown.csv", "tables": {"items": {"path": f"{folder}/items.csv", "key": "item"}},
        "fields": KINDS, "item_fields": ["tags", "flags", "price", "views"], "valid_fraction": 0.25, "test_fraction": 0.125} | keys


def loaded(folder, **keys):
    """Its corpus."""
    return section.make(section_of(folder, **keys), "data", Facts()).load("", 64)


def test_long_rows_lose_the_ends_of_lists(folder):
    """Not what is known of the user and the item; how many were cut is said."""
    whole, cut = loaded(folder), section.make(section_of(folder), "data", Facts()).load("", 10)
    for mine, theirs in zip(whole.examples["train"], cut.examples["train"], strict=True):
        assert len(theirs.tokens) <= 10 and set(theirs.type) == set(mine.type)
    assert (cut.report["truncated"], whole.report["truncated"]) == (
        sum(len(e.tokens) > 10 for some in whole.examples.values() for e in some), 0)
    assert whole.examples["train"][0].type.tolist() == [0, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8]
    assert cut.examples["train"][0].type.tolist() == [0, 1, 1, 2, 3, 4, 5, 6, 7, 8]   # the later of two second values


def test_arrays_are_lists(tmp_path):
    """As JSON lines have them."""
    rows = [{"user": "a", "item": k, "time": k, "click": k % 2, "tags": ["x", "y"][: k % 3], "flags": [1, 0, 1]} for k in range(9)]
    (tmp_path / "shown.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = {"path": f"{tmp_path}/shown.jsonl", "tables": None, "fields": {"tags": "list", "flags": "flags"}, "item_fields": []}
    found = loaded(tmp_path, history=False, **more)
    assert [column["values"] for column in found.fields["columns"].values()] == [["x", "y"], ["0", "2"]]
    assert [len(e.tokens) for e in found.examples["train"]] == [2, 3, 4, 2, 3, 4]


def test_fields_of_a_log(folder):
    corpus = loaded(folder, history=False)
    assert {name: [e.index for e in some] for name, some in corpus.examples.items()} == \
        {"train": [0, 1, 2, 3, 4], "valid": [5, 6], "test": [7]}   # equal times stay together
    # tokens: 0 padding; user 1 + (a, b); tags 4 + (x, y); flags 7 + (0, 1, 2); price 11; views 12
    first, second = corpus.examples["train"][:2]
    assert first.tokens.tolist() == [2, 5, 6, 9, 10, 11, 12] and first.type.tolist() == [0, 1, 1, 2, 2, 3, 4]
    price, views = np.array([2, 4, 6, 4.0]), np.log1p([0, 9, 0.0])   # of training rows that have them
    assert np.allclose(first.value, [1, 0.5, 0.5, 0.5, 0.5, (2 - price.mean()) / price.std(), -views.mean() / views.std()])
    assert second.tokens.tolist() == [2, 6, 8, 11, 12] and second.value[3] == 0   # no price: the mean
    assert np.isclose(second.value[4], (np.log1p(9) - views.mean()) / views.std())
    assert corpus.examples["train"][3].tokens.tolist() == [3, 11, 12]             # an item of no tags
    assert corpus.examples["valid"][0].tokens.tolist()[0] == 1                    # a user not seen in training
    assert corpus.examples["test"][0].tokens.tolist() == [3, 11, 12]              # an item of no table
    assert [e.label for e in corpus.examples["train"]] == [1, 0, 0, 1, 1]
    facts = corpus.facts
    assert facts["vocabulary"] == 13 and facts["types"] == 5 and facts["item_fields"] == (1, 2, 3, 4)
    assert facts["class_counts"] == (2, 3) and corpus.texts["train"][0] == "user=a tags=x|y flags=0|1|1 price=2.0 views=0"
    more = loaded(folder)
    assert more.facts["types"] == 9 and more.facts["item_fields"] == (1, 2, 3, 4, 7, 8) and more.digest == corpus.digest
    vectors.write(folder / "v.parquet", ["1", "2", "3", "9"], np.array([[1, 0], [1, 1], [0, 1], [1, -1]], "f4"))
    matched = loaded(folder, history=False, vectors=f"{folder}/v.parquet")
    value = [e.value[-1] for e in matched.examples["train"]]   # a took item 1 first: cosines √½ and 0 with 2 and 3; b took nothing
    assert np.allclose(value, [0, 1, 0, 0, -1], atol=1e-5) and matched.facts["types"] == 6
    assert matched.report["fields"][-1] == "text_match"
    vectors.write(folder / "v.parquet", ["1", "2", "3", "9"], np.array([[1, 0], [1, 1], [0, 2], [1, -1]], "f4"))
    assert loaded(folder, history=False, vectors=f"{folder}/v.parquet").digest != matched.digest   # numbers are made of these
    drawn = loaded(folder, split="random", split_seed=1, history=False)
    for more in ({}, {"history": False, "vectors": f"{folder}/v.parquet"}):   # earlier rows' clicks may be held out
        with pytest.raises(InputError, match="data.split=random holds out clicks"):
            loaded(folder, split="random", **more)
    assert sorted(e.index for some in drawn.examples.values() for e in some) == list(range(8))
    rare = loaded(folder, min_count=2, fields={"item": "category"}, item_fields=[], history=False)
    assert rare.facts["vocabulary"] == 1 + 1 + 2   # padding, others, items 1 and 3


def test_who_is_new_counts_nothing_where_nobody_was(folder):
    """The token of all others would stay as it began, by chance; of rare ones it is trained. Rows left out teach nothing."""
    plain = loaded(folder, fields={"user": "category"}, item_fields=[], history=False)
    known = plain.fields["columns"]["user"]
    assert known["others"] is False and loaded(folder, min_count=3, fields={"user": "category"}, item_fields=[], history=False
                                               ).fields["columns"]["user"]["others"] is True
    data = section.make(world.composed("data=clicks")["data"] | {
        "path": f"{folder}/shown.csv", "label_column": "click", "fields": {"user": "category"}, "history": False}, "data", Facts())
    table = read.read(written(folder / "new.csv", "user,item,time\na,1,99\nnobody,1,99\n"))
    made, *_ = data.new(table, plain.fields, 10)
    assert [e.value.tolist() for e in made] == [[1.0], [0.0]]
    half = loaded(folder, fields={"item": "category"}, item_fields=[], history=False, train_fraction=0.4)
    names = half.fields["columns"]["item"]["values"]
    tokens = {int(t) for e in half.examples["train"] for t in e.tokens}
    assert tokens == set(range(2, 2 + len(names)))


@pytest.mark.parametrize("cells,said", [(["1|0|1", "true|false"], [["0", "2"], ["0"]]), (["1|x"], "line 2: kind has the flag 'x'")])
def test_flags(cells, said, tmp_path):
    table = read.read(written(tmp_path / "x.csv", "kind\n" + "\n".join(cells) + "\n"))
    learnt = lambda: learn("flags", table.columns["kind"], np.ones(len(cells), bool), 1, "|", table.cell("kind"))  # noqa: E731
    if isinstance(said, list):
        column = learnt()
        field = column.read(table.columns["kind"], "|", table.cell("kind"))
        assert [[column.values[t - 1] for t in field.token[field.row == i]] for i in range(len(cells))] == said
    else:
        with pytest.raises(InputError, match=said):
            learnt()


def test_a_checkpoint_of_other_fields(folder, tmp_path, capsys):
    """The same number of columns and values, in another order; and a tower without an item."""
    rng = np.random.default_rng(0)
    pd.DataFrame({"user": rng.integers(0, 6, 300), "item": rng.integers(0, 6, 300), "time": np.arange(300),
                  "click": rng.integers(0, 2, 300)}).to_csv(tmp_path / "log.csv", index=False)
    words = ["experiment=click", "data=clicks", f"data.path={tmp_path}/log.csv", "data.label_column=click", "data.history=false",
             "model=fm", "epochs=1", "tracker=[jsonl]"]
    fields = ["++data.fields={user: category, item: category}", "++data.fields={item: category, user: category}"]
    assert call("train", *words, fields[0], f"run_dir={tmp_path}/a") == 0
    assert call("train", *words, fields[0], "model=logistic", f"run_dir={tmp_path}/e") == 0
    assert call("report", f"run_dir=[{tmp_path}/a,{tmp_path}/e]", f"out={tmp_path}/report") == 0
    assert "The examples are no texts of a file" in next((tmp_path / "report").glob("*.html")).read_text()
    assert call("train", *words, fields[1], f"model.checkpoint={tmp_path}/a", f"run_dir={tmp_path}/b") == 2
    assert "the fields of" in capsys.readouterr().err
    pd.read_csv(tmp_path / "log.csv").assign(user=lambda t: t.user + 1).to_csv(tmp_path / "log.csv", index=False)
    assert call("train", *words, fields[0], f"model.checkpoint={tmp_path}/a", f"run_dir={tmp_path}/c") == 2
    assert "user has other values in" in capsys.readouterr().err
    assert call("train", *words, fields[0], "model=two_tower", f"run_dir={tmp_path}/d") == 2
    assert "name them, data.item_fields=[item]" in capsys.readouterr().err


@pytest.mark.parametrize("keys,says", [
    ({"fields": None, "item_fields": []}, "data.fields is not set"),
    ({"fields": {"user": "word"}, "item_fields": []}, "user is of kind 'word', expected one of category"),
    ({"fields": {"colour": "category"}, "item_fields": []}, "no file has a column 'colour'; there are user, item"),
    ({"item_fields": ["shape"]}, "data.item_fields: 'shape' is none of data.fields"),
    ({"tables": {"items": {"path": "x.csv"}}}, "data.tables.items: .* must have path and key"),
    ({"tables": {"items": {"path": 3, "key": "item"}}}, "data.tables.items: .* must have path and key"),
    ({"tables": {"items": {"path": "x.csv", "key": "item", "pattern": "("}}}, "data.tables.items.pattern: '.' is not a regular"),
    ({"pattern": "("}, "data.pattern: '.' is not a regular expression"), ({"encoding": "latin9x"}, "'latin9x' is no encoding"),
    ({"tables": {"items": {"path": "no.csv", "key": "item"}}}, "data.tables.items.path: no file"),
    ({"tables": {"items": {"path": "no.csv", "key": "item"}}, "source": "get it there"}, "no.csv; get it there"),
    ({"fields": {"item": "count", "user": "number"}, "item_fields": []}, "line 2: user is 'a', which is no number"),
    ({"label_column": "user"}, "line 2: label 'a' is not a number"),
    ({"target": "number", "valid_fraction": 0.5, "test_fraction": 0.49, "time_column": "click"}, "leaves no row to train on"),
    ({"label_at": 7.0}, "data.label_at: 7.0 leaves labels of one kind"),
    ({"sha256": "0"}, "this is another file")])
def test_what_a_log_refuses(folder, keys, says):
    (folder / "shown.csv").write_text(SHOWN.replace("price", "user_since"))
    with pytest.raises(InputError, match="data.fields: user_since is what a number made of the rows before"):
        loaded(folder, recency=True, fields={"user": "category", "user_since": "number"}, item_fields=[])
    (folder / "shown.csv").write_text(SHOWN)
    with pytest.raises(InputError, match=says):
        loaded(folder, **keys)


def test_numbers_that_are_all_the_same(folder):
    """The spread of floats may say 1e-15 of them."""
    assert split.spread(np.full(100, 9.99)) == 1.0 and np.full(100, 9.99).std() > 0
    column = learn_numbers("number", np.array([*[9.99] * 100, 19.99]), np.arange(101) < 100)
    assert column.spread == 1.0 and abs(column.scaled(np.array([19.99])).value[0] - 10) < 1e-9


def test_names_of_joined_tables_are_those_of_the_log(folder):
    """White space around them is nobody's."""
    plain = loaded(folder)
    lines = ITEMS.splitlines()
    (folder / "items.csv").write_text("\n".join([lines[0], *(f" {line.replace(',', ' ,', 1)}" for line in lines[1:])]) + "\n")
    padded = loaded(folder)
    for name, some in plain.examples.items():
        assert all((a.tokens == b.tokens).all() for a, b in zip(some, padded.examples[name], strict=True))


def test_an_item_that_stands_twice_is_refused(folder):
    (folder / "items.csv").write_text(ITEMS + "1,,,\n")
    with pytest.raises(InputError, match=r"items.csv, line 5: item '1' stands at .*line 2 already"):
        loaded(folder)


def test_the_linear_baseline_sees_the_values():
    some, other = examples(60), examples(9, seed=1)
    dense = lambda those: np.stack([np.bincount(e.tokens, e.value, VOCABULARY) for e in those])  # noqa: E731
    label = [e.label for e in some]
    wanted = LogisticRegression(C=1.0, max_iter=1000).fit(dense(some), label).predict_proba(dense(other))
    assert np.abs(Linear(1.0).scores(some, label, "class", 2, other) - wanted).max() < 1e-4


def predicted(folder):
    """Chances of a click."""
    found = pd.read_csv(folder / "out.csv")
    assert found["text"][0] == "user=u0 tags= flags= price=0 views=" and set(found["prediction"]) <= {"click", "no click"}
    return found["score/click"].to_numpy()


def expected(folder, rows, new, **keys):
    """The same from the log with the new rows at its end, as a test split, by the run's weights."""
    end = [f"{user},{item},1000,{price},0" for user, item, price in (x.split(",") for x in new)]   # at one moment
    (folder / "both.csv").write_text("user,item,time,price,click\n" + "\n".join(rows + end) + "\n")
    made = build.rebuild(*saved.opened(str(folder / "run")))
    kept = json.loads((folder / "run" / source.FIELDS).read_text())
    corpus = loaded(folder, path=f"{folder}/both.csv", valid_fraction=0.3, test_fraction=20 / 320, **keys)
    scale = {name: (kept["columns"][name], corpus.fields["columns"][name]) for name in kept["columns"]}
    some = []
    for e in corpus.examples["test"]:   # numbers are normalised by another training split here
        value = e.value.copy()
        for at, k in enumerate(e.type):
            mine, theirs = scale[list(scale)[k]]
            if mine["kind"] in ("number", "count") and value[at] != 0:   # else there was no number
                value[at] = (value[at] * theirs["spread"] + theirs["mean"] - mine["mean"]) / mine["spread"]
        some.append(e._replace(value=value))
    batch = batch_of(made, some, 16)
    chance = jax.nn.softmax(made.graph.net(made.parameters)(jax.tree.map(jnp.asarray, batch)))[..., 1]
    used = batch["weight"] > 0
    return np.asarray(chance)[used][np.argsort(batch["example"][used])]


def log_of(folder):
    """(300 rows, what a command is told of them)."""
    rng = np.random.default_rng(0)
    rows = [f"u{rng.integers(9)},{rng.integers(1, 4)},{i},{rng.integers(1, 9)},{int(rng.random() < 0.5)}" for i in range(300)]
    (folder / "shown.csv").write_text("user,item,time,price,click\n" + "\n".join(rows) + "\n")
    given = section_of(folder)
    told = [f"data.{key}={str(given[key]).replace(chr(39), '')}" for key in ("path", "tables", "fields", "item_fields")]
    return rows, ["experiment=click", "data=clicks", *told, "tracker=[jsonl]"]


@pytest.mark.slow
def test_new_rows_know_the_past_of_the_log(folder, capsys):
    """How long ago, and whether texts match, as if they stood at its end; what comes too early or by other vectors is refused."""
    rows, common = log_of(folder)
    vectors.write(folder / "v.parquet", list("0123"), np.random.default_rng(1).normal(size=(4, 5)))
    words = ["data.recency=true", f"data.vectors={folder}/v.parquet"]
    assert call("train", *common, *words, "steps=3", "model=dcnv2", f"run_dir={folder}/run") == 0
    new = [f"u{k % 11},{k % 4},{k}" for k in range(20)]   # two users and an item are new
    predict = ["predict", f"run_dir={folder}/run", f"input={folder}/new.csv", f"output={folder}/out.csv"]
    lines = [",".join((*x.split(","), "1000")) for x in new]
    (folder / "new.csv").write_text("user,item,price,time\n" + "\n".join(lines) + "\n")
    assert call(*predict) == 0, capsys.readouterr().err
    found = predicted(folder)
    assert found == pytest.approx(expected(folder, rows, new, recency=True, vectors=f"{folder}/v.parquet"), abs=1e-5)
    (folder / "new.csv").write_text("user,item,price,time\nu1,1,3,1000\nsomebody,else,3,-5\n")
    assert call(*predict) == 2 and "line 3: a time before the end of the run's log" in capsys.readouterr().err
    (folder / "new.csv").write_text("user,item,price\nu1,1,3\n")
    assert call(*predict) == 2 and "data.time_column" in capsys.readouterr().err
    vectors.write(folder / "v.parquet", list("0123"), np.eye(4))
    (folder / "new.csv").write_text("user,item,price,time\nu1,1,3,1000\n")
    assert call(*predict) == 2 and "is another file than the one that the run was trained with" in capsys.readouterr().err
    path = folder / "run" / source.FIELDS
    older = {key: x for key, x in json.loads(path.read_text()).items() if key not in ("taken", "vectors", "end")}
    path.write_text(json.dumps(older))
    assert call(*predict) == 2 and "the run doesn't keep what its users took" in capsys.readouterr().err


def test_how_long_ago(folder):
    """Of a user and of an item, by the definition; rows of one moment don't know each other."""
    sides = {"user": ["a", "a", "b", "a", "a", "b"], "item": ["1", "2", "1", "1", "1", "2"]}
    time = np.array([1.0, 3, 3, 7, 7, 8])
    found = history.since(sides, time)
    for name, cells in sides.items():
        for i, (cell, at) in enumerate(zip(cells, time, strict=True)):
            past = [t for c, t in zip(cells, time, strict=True) if c == cell and t < at]
            wanted = np.log1p(at - max(past)) if past else np.nan
            assert np.isclose(found[f"{name}_since"][i], wanted, equal_nan=True)
    assert loaded(folder, recency=True).report["fields"][-2:] == ["user_since", "item_since"]


def made_folder(path):
    """A folder, which is there."""
    path.mkdir(exist_ok=True)
    return path


def test_a_run_from_end_to_end(folder, capsys):
    rows, common = log_of(folder)
    assert call("train", *common, "steps=3", "model=dcnv2", f"run_dir={folder}/run") == 0
    assert call("evaluate", f"run_dir={folder}/run") == 0
    assert call("baseline", *common, "baseline=linear", f"run_dir={folder}/linear") == 0
    assert call("baseline", *common, f"run_dir={folder}/majority") == 0
    made = {name: json.loads((folder / name / "summary.json").read_text()) for name in ("run", "linear", "majority")}
    assert all(0.5 < x["test/log_loss"] < 1.5 for x in made.values()) and made["majority"]["test/roc_auc"] == 0.5
    assert made["linear"]["fingerprint/protocol"] == made["run"]["fingerprint/protocol"]
    marks = [record.marks(world.composed(*common[:-1], *more), "x")["fingerprint/protocol"] for more in ([], ["data.recency=true"])]
    assert marks == [made["run"]["fingerprint/protocol"]] * 2
    capsys.readouterr()
    assert call("baseline", *common, "baseline=tfidf", f"run_dir={folder}/no") == 2
    assert "baseline: of fields, choose majority or linear" in capsys.readouterr().err
    new = [f"u{k % 9},{k % 4},{k}" for k in range(20)]
    (folder / "new.csv").write_text("user,item,price\n" + "\n".join(new) + "\n")
    assert call("predict", f"run_dir={folder}/run", f"input={folder}/new.csv", f"output={folder}/out.csv") == 0
    assert predicted(folder) == pytest.approx(expected(folder, rows, new), abs=1e-5)
    for name in ("config.yaml", "environment.json", "checkpoints", *source.FOLDERS, *source.FILES):   # what W&B's artifact keeps
        path = folder / "run" / name
        if path.exists():
            (shutil.copytree if path.is_dir() else shutil.copyfile)(path, made_folder(folder / "copy") / name)
    assert call("predict", f"run_dir={folder}/copy", f"input={folder}/new.csv", f"output={folder}/out.csv") == 0
    assert predicted(folder) == pytest.approx(expected(folder, rows, new), abs=1e-5)
    assert call("train", *common, "steps=3", "model=fm", "data.target=number", "task=regression", "head=regress",
                "head.pooling=cls", "best.metric=rmse", f"run_dir={folder}/number") == 0


def test_numbers_are_read_by_models_that_know_values(folder, tmp_path, capsys):
    """To others each is the same word whatever it counts."""
    words = ["experiment=click", "data=clicks", f"data.path={folder}/shown.csv", "data.fields={user: category, item: category}"]
    for more, said in ((["model=bert4rec"], "reads names, not numbers"), (["model=gru4rec", "head.pooling=mean"], "reads names"),
                       (["model=sasrec", "model.causal=false", "data.history=false"], "a Sasrec has no pooler")):
        assert call("train", *words, *more, "steps=1", f"run_dir={tmp_path}/run") == 2
        assert said in capsys.readouterr().err
