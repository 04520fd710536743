"""S3-Rec's pretraining: what is hidden, the four losses against their formulas, attributes of items, fine-tuning from it."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecrec_jax import section
from ecrec_jax.data import catalogue
from ecrec_jax.types import Example, Facts, InputError
from tests import world
from tests.test_commands import call

WORDS = ["model=sasrec_s3rec", "model.causal=false", "model.depth=1"]


def test_what_is_hidden_and_drawn():
    """Four copies of a history; a stretch is hidden in one and alone in another; negatives are none of the history's items."""
    task = world.parts("s3rec", *WORDS).task
    lengths = set()
    for example in world.examples("s3rec", 40):
        items, n = np.append(example.tokens, example.label[-1]), len(example.tokens) + 1
        found = task.prepare(example, np.random.default_rng(example.index))
        hidden, without, alone, other = found["tokens"].reshape(4, n)
        mask = task.mask_id
        assert (found["label"][:n] == items).all() and hidden[-1] == mask and ((hidden == items) | (hidden == mask)).all()
        assert ((without == mask) ^ (alone == mask)).all() and (np.where(without == mask, alone, without) == items).all()
        place = np.flatnonzero(alone != mask)
        assert (np.diff(place) == 1).all() and 1 <= len(place) <= n // 2 and (np.flatnonzero(other != mask) == place).all()
        assert (np.diff(other[place]) == 1).all()   # of the stream 1, 2, …
        assert not np.isin(found["negative"][:n], items).any() and found["slot"].tolist()[n:] == [2 * n - 1, 3 * n - 1, 4 * n - 1]
        assert (len(found["tokens"]), len(found["slot"])) == task.size(example) and found["label"][n:].tolist() == [0, -1, -1]
        lengths.add(len(place))
    assert len(lengths) > 3


def test_items_that_nothing_is_trained_on_are_no_negatives():
    task = world.parts("s3rec", *WORDS).task
    task = dataclasses.replace(task, new_ids=tuple(range(2, task.items + 1, 2)))
    given = [(example, task.prepare(example, np.random.default_rng(example.index))) for example in world.examples("s3rec", 40)]
    drawn = np.concatenate([found["negative"][: len(example.tokens) + 1].ravel() for example, found in given])
    assert (drawn % 2 == 1).all() and len({*drawn.tolist()}) > 20


def test_the_four_losses_are_their_formulas():
    """In float64, slot by slot, from the states and the weights of the net; packed rows, dropout off."""
    made = world.parts("s3rec", *WORDS)
    batch = next(world.feed(made.task, "s3rec", rows=5).batches(0, 0))
    given = jax.tree.map(jnp.asarray, batch)
    net = made.graph.net(made.parameters)
    states = np.take_along_axis(np.asarray(net.model(given), float), batch["slot"][..., None], 1)
    found = {key: np.asarray(x) for key, x in made.task.parts(net(given), given).items()}
    total = np.asarray(made.task.loss(net(given), given, lambda x: x))
    dense = lambda name: lambda h: (h @ np.asarray(made.parameters[f"head.{name}.kernel"], float)  # noqa: E731
                                    + np.asarray(made.parameters[f"head.{name}.bias"], float))
    attribute, items = (np.asarray(x, float) for x in (made.parameters["head.attribute.embedding"], net.model.table()))
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    count = dict.fromkeys(found, 0)
    for row, slot in np.argwhere(batch["weight"] > 0):
        h, item = states[row, slot], batch["label"][row, slot]
        wanted = dict.fromkeys(found, 0.0)
        if item > 0:
            masked = batch["tokens"][row, batch["slot"][row, slot]] == made.task.mask_id
            label = np.isin(np.arange(8), made.task.attributes[item])
            p = sigmoid(attribute @ dense("masked" if masked else "associated")(h))
            wanted["masked" if masked else "associated"] = -np.log(np.where(label, p, 1 - p)).sum()
            if masked:
                right, wrong = (sigmoid(items[i] @ dense("item")(h)) for i in (item, batch["negative"][row, slot, 0]))
                wanted["item"] = -np.log(sigmoid(right - wrong))
        elif item == 0:
            right, wrong = (sigmoid(dense("segment")(h) @ states[row, slot + by]) for by in (1, 2))
            wanted["segment"] = -np.log(sigmoid(right - wrong))
        for key, x in wanted.items():
            assert found[key][row, slot] == pytest.approx(x, rel=1e-4, abs=1e-6)
            count[key] += x > 0
        weights = {"associated": 0.2, "item": 1.0, "masked": 1.0, "segment": 0.5}
        assert total[row, slot] == pytest.approx(sum(weights[key] * x for key, x in wanted.items()), rel=1e-4, abs=1e-6)
    assert min(count.values()) > 2


@pytest.mark.parametrize("text,says", [("{", "is not JSON"), ("[]", "not a JSON object"), ('{"a": 1}', "item 'a': not a list"),
                                       ('{"x": [1]}', "no attribute of any item")])
def test_bad_attributes(text, says, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=f"data.attributes: .*a.json.*{says}"):
        catalogue.attributes(tmp_path / "a.json", None, ["a", "b"], np.empty(0, int))


def test_other_attributes_are_other_data(tmp_path):
    """A run that began with a file of attributes isn't gone on with when that file is another one."""
    (tmp_path / "log.txt").write_text("\n".join(f"u{k} a b c a d" for k in range(9)) + "\n")
    found = []
    for text in ('{"a": ["red"]}', '{"a": ["red"]}', '{"a": ["blue"]}'):
        (tmp_path / "a.json").write_text(text)
        node = world.section_of("data", "sequences") | {"path": str(tmp_path / "log.txt"), "root": ".", "format": "lists"}
        found.append([section.make(node | {"attributes": name}, "data", Facts()).load("", 9).digest
                      for name in (None, str(tmp_path / "a.json"))])
    assert found[0] == found[1] and found[0][0] == found[2][0] != found[0][1] != found[2][1]


def test_large_tables_of_attributes_are_divided_too():
    """With the step of one device."""
    made = [world.parts("s3rec", *WORDS, "strategy=fsdp", *more) for more in (["strategy.devices=1"], ["strategy.table_rows=8"])]
    given = world.batches(made[0].task, "s3rec", 2)
    alone, divided = (world.curve(parts, given)[0] for parts in made)
    assert np.abs(alone - divided).max() < 1e-5


def test_long_histories_draw_for_each_beginning():
    task = world.parts("s3rec", *WORDS).task
    items = np.arange(1, 4 * task.positions + 1) % task.items + 1
    cut = lambda end: Example(items[:end][-task.positions :], None, items[1:][:end][-task.positions :], 0, None,  # noqa: E731
                              np.unique(items[: end + 1]))
    drawn = [task.prepare(cut(end), np.random.default_rng(3))["tokens"] == task.mask_id for end in (40, 41, 42)]
    assert not np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[1], drawn[2])


def test_a_file_of_attributes_that_is_not_there(tmp_path, capsys):
    (tmp_path / "log.txt").write_text("u a b c d\nv a b c d\n")
    words = [f"data.path={tmp_path / 'log.txt'}", "data.format=lists", "data.attributes=none.json", 'data.source="get it there"']
    assert call("train", "experiment=pretrain_s3rec", "data=sequences", *words, f"run_dir={tmp_path / 'run'}") == 2
    assert "data.attributes: no file at none.json" in (said := capsys.readouterr().err) and "get it there" in said


@pytest.mark.slow
def test_pretraining_and_fine_tuning(tmp_path):
    """A run on items and attributes learns; next_item starts from its weights, and each beginning of a history is an example."""
    rng, items = np.random.default_rng(0), 20
    lines = [f"u{user} " + " ".join(f"i{(start + step) % items}" for step in range(9)) for user, start in
             enumerate(rng.integers(0, items, 60))]
    (tmp_path / "log.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "attributes.json").write_text(json.dumps({f"i{i}": [i % 4, 10 + i % 3] for i in range(items - 1)}))
    words = ["data=sequences", f"data.path={tmp_path / 'log.txt'}", "data.format=lists", "data.max_length=10", "data.align=right",
             "data.batch_size=64", "model.width=32", "model.depth=1", "model.dropout=0.0", "model.attention_dropout=0.0",
             "model.feed_forward=32", "tracker=[jsonl]"]
    run = tmp_path / "pretrained"
    assert call("train", "experiment=pretrain_s3rec", *words, f"data.attributes={tmp_path / 'attributes.json'}",
                "data.prefixes=true", "epochs=8", "optimizer.learning_rate=1e-2", f"run_dir={run}") == 0
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    valid = [x for x in log if "valid/loss" in x]
    assert all(valid[-1][f"valid/{key}_loss"] < valid[0][f"valid/{key}_loss"] for key in ("masked", "associated"))
    names = json.loads((run / "facts.json").read_text())["attribute_names"]
    assert sorted(names, key=int) == ["0", "1", "2", "3", "10", "11", "12"]
    assert call("evaluate", f"run_dir={run}", "split=test") == 0
    assert call("train", "experiment=next_item", *words, "model=sasrec_s3rec", f"model.checkpoint={run}", "task.cutoffs=[1,10]",
                "task.most=5", "epochs=1", f"run_dir={tmp_path / 'tuned'}") == 0
