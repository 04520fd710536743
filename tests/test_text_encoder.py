"""A text encoder that is trained inside a recommender: what it reads of a batch is what it would read of the whole catalogue."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from ecrec_jax import build, evaluate, section, text_encoder
from ecrec_jax.block import normalise
from ecrec_jax.loop import Loop
from ecrec_jax.model.sasrec import TEXTS
from ecrec_jax.source import load_config, load_facts, read
from ecrec_jax.text_encoder import PREFIX, VECTORS, TextEncoder
from ecrec_jax.types import Facts, InputError, Noise
from ecrec_jax.use import flops, steps
from tests import world
from tests.conftest import GOLDEN
from tests.test_commands import call

ENCODER = str(GOLDEN / "bert" / "sequence_classification")
IN_BATCH, NEGATIVES = ["task.sampling=batch"], ["task.sampling=uniform", "task.negatives=3"]
WORDS = ["experiment=next_item", "data=sequences", "model.width=16", "model.feed_forward=16", "model.depth=1", "data.max_length=10",
         "data.text_columns=[title]", "model.text=only", "task.cutoffs=[5]", "task.most=5", "task.objective=sampled_ce",
         "task.sampling=batch", "tracker=[jsonl]", "best.metric=ndcg@5", "data.batch_size=32", "optimizer.learning_rate=1e-2",
         "optimizer.rate_of={text_encoder: 0.1}", f"model.text_encoder={ENCODER}"]


def parts(*words, dropout=0.0):
    """A recommender over 502 items with texts of 2 to 9 tokens, and an encoder of 2 layers."""
    rng = np.random.default_rng(0)
    texts = np.where(np.arange(9) < rng.integers(2, 10, world.VOCABULARY)[:, None], rng.integers(4, 90, (world.VOCABULARY, 9)), 0)
    bert = Facts(vocabulary=90, positions=16, types=2, width=24, depth=2, heads=2, feed_forward=48, activation="gelu",
                 norm_epsilon=1e-12, dropout=dropout, attention_dropout=dropout, initializer_range=0.3, pooler=False)
    config = world.composed("task=next_item", "head=items", "model=sasrec", "model.text=add", "task.objective=sampled_ce",
                            "optimizer.learning_rate=1e-2", "optimizer.epsilon=1e-4", f"model.dropout={dropout}",
                            *world.small("model=sasrec"), *(words or IN_BATCH))
    known = dataclasses.replace(world.facts("next_item"), dropout=None, attention_dropout=None, norm_epsilon=1e-8)
    made = build.network(config, known, "", None, None, TextEncoder(bert, texts.astype("i4"), None))
    return dataclasses.replace(made, optimizer=section.make(config["optimizer"], "optimizer", known))


def test_an_estimate_reads_all_texts(monkeypatch):
    """As each evaluation while training does, by the same program."""
    made, read_ = [], evaluate.Evaluator.vectors
    monkeypatch.setattr(evaluate.Evaluator, "vectors", lambda self, trained: made.append(read_(self, trained)) or made[-1])
    steps.reader(parts())(3)
    assert [x[VECTORS].shape for x in made] == [(world.VOCABULARY, 24)] * 3


def on_device(batch):
    """Arrays of jax, weights that sum to one."""
    batch = jax.tree.map(jnp.asarray, dict(batch))
    return batch | {"weight": normalise(batch["weight"], lambda x: x)}


@pytest.mark.parametrize("words", [pytest.param(IN_BATCH, marks=pytest.mark.slow), NEGATIVES], ids=["batch", "negatives"])
def test_loss_and_gradient_are_those_of_the_whole_catalogue(words):
    """Against a table of all items' texts, read with one product after the other and no tiles."""
    made = parts(*words)
    batch = on_device(world.batches(made.task, "next_item", 1)[0])
    texts = jnp.asarray(made.texts.texts)
    rows = {"tokens": texts, "segment": (texts > 0).astype("i4"), "type": texts * 0,
            "position": jnp.broadcast_to(jnp.arange(9), texts.shape), "slot": jnp.zeros((len(texts), 1), "i4")}

    def loss(given, whole):
        given = dict(given) | made.constants
        net = made.graph.net(given)
        if whole:
            vectors = net.model.text_encoder(rows)[:, 0]
            outputs = made.graph.net(given | {VECTORS: vectors})(batch, None)
        else:
            outputs = net(batch, Noise(jnp.uint32(3), batch["row"]))
        return (made.task.loss(outputs, batch, lambda x: x) * batch["weight"]).sum()

    either = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    (found, mine), (wanted, theirs) = (either(made.parameters, whole) for whole in (False, True))
    assert abs(found - wanted) < 1e-5
    for name in mine:
        scale = max(float(jnp.abs(theirs[name]).max()), 1e-3)
        assert jnp.abs(mine[name] - theirs[name]).max() < 1e-4 * scale, name
    assert all(jnp.abs(mine[name]).max() > 0 for name in mine if name.startswith(PREFIX) and "word_embeddings" in name)
    assert len(np.unique(np.concatenate([np.ravel(batch[k]) for k in ("tokens", "label", "negative") if k in batch]))) > TEXTS


def test_an_item_has_one_dropout_a_step():
    """Whoever names it, so that devices and micro-batches agree; another one in the next step."""
    made = parts(dropout=0.3)
    batches = [on_device(batch) for batch in world.batches(made.task, "next_item", 2)]
    model = made.graph.net(made.parameters | made.constants).model
    both = np.intersect1d(*(np.unique(batch["tokens"]) for batch in batches))
    both = both[both > 0]
    first, second, later = (np.asarray(model.reading(batch, Noise(jnp.uint32(seed), batch["row"])).vectors[...])[both]
                            for batch, seed in ((batches[0], 1), (batches[1], 1), (batches[0], 2)))
    assert len(both) > 10 and np.abs(first - second).max() < 1e-6 and np.abs(first - later).max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp strategy.table_rows=80", *world.names("strategy")])
def test_strategies_agree(strategy):
    """With tables that are never put together too, where devices meet in every tile of texts."""
    found = []
    for words in (["strategy.devices=1"], [*f"strategy={strategy}".split(), "strategy.devices=4"]):
        made = parts(*IN_BATCH, *words, dropout=0.1)
        curve, trained = world.curve(made, world.batches(made.task, "next_item", 4))
        strategy_of, (_, frozen) = made.strategy, made.peft.split(made.parameters)
        evaluator = evaluate.Evaluator(made, strategy_of.place(frozen | made.constants), training=True)
        read = evaluator.vectors(strategy_of.place(jax.tree.map(np.asarray, trained)))[VECTORS]
        found.append((curve, np.asarray(strategy_of.fetch(read))))
    (ours, mine), (theirs, other) = found
    assert np.abs(ours - theirs).max() < 1e-5 and ours[0] - ours[-1] > 1e-3
    assert np.abs(mine - other).max() < 1e-4 and np.allclose(np.linalg.norm(mine, axis=1), 1, atol=1e-5)


@pytest.mark.slow
def test_micro_batches_agree():
    curves = [world.curve(made := parts(*NEGATIVES, *words, dropout=0.1), world.batches(made.task, "next_item", 4))[0]
              for words in (["strategy.devices=1"], ["strategy.devices=1", "gradient=accumulate", "gradient.count=2"])]
    assert np.abs(curves[0] - curves[1]).max() < 1e-5


@pytest.mark.parametrize("rate,wanted", [(0.3, 0.1), (0.0, 0.0)])
def test_a_model_without_dropout_has_none_in_its_texts(rate, wanted):
    """So that debug=overfit overfits; otherwise its rates are those of its checkpoint."""
    config = world.composed("experiment=next_item", f"model.dropout={rate}", f"model.text_encoder={ENCODER}")
    found = text_encoder.of(config, SimpleNamespace(item_texts=(["a dress", "shoes"], 8), report={}))
    assert (found.facts.dropout, found.facts.attention_dropout) == (wanted, wanted)


def test_flops_count_every_item_once():
    made = parts()
    batch = world.batches(made.task, "next_item", 1)[0]
    without = dataclasses.replace(made, texts=None)
    named = np.unique(np.concatenate([batch["tokens"].ravel(), batch["label"].ravel()]))[1:]
    sizes = (made.texts.texts[named] > 0).sum(1)
    rows = (batch["segment"] > 0).any(1).sum()
    dense = 2 * (4 * 24 * 24 + 2 * 24 * 48)
    wanted = (6 * dense * sizes.sum() + 12 * 2 * 24 * (sizes**2).sum() + 2 * 24 * 32 * len(named)) / rows   # the last: the gradient
    assert flops.model_flops(made, batch) - flops.model_flops(without, batch) == pytest.approx(wanted)


@pytest.mark.parametrize("text", ["only", "add"])
@pytest.mark.parametrize("words", [IN_BATCH, NEGATIVES, ["task.objective=ce"]], ids=["batch", "negatives", "all"])
def test_flops_of_vectors_of_texts(words, text):
    """Made of each item that is named, or of all where all are scored; items without other vectors are scored by them. An encoder's
    have a gradient, given ones none."""
    whole = words == ["task.objective=ce"]
    made = parts(f"model.text={text}", *words)
    made, batch = dataclasses.replace(made, texts=None if whole else made.texts), world.batches(made.task, "next_item", 1)[0]
    slots = int((batch["weight"] > 0).sum())
    named = {x for key in ("tokens", "label", "negative") if key in batch for x in batch[key].ravel()} - {0}
    scored = world.VOCABULARY if whole else 4 if words == NEGATIVES else slots
    dense = 2 * (2 if whole else 3) * 24 * 32 * (world.VOCABULARY if whole else len(named))
    assert flops.of_vectors(made, batch, slots) == dense + (text == "only") * 6 * 32 * scored * slots
    assert len(named) < world.VOCABULARY and 4 < slots < world.VOCABULARY


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """(a log of 300 users who walk round a circle of 40 items, a table of the items' titles)."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("shop")
    walks = np.arange(9) + rng.integers(0, 40, (300, 1))
    rows = [{"user": f"u{u}", "item": f"i{x % 40}", "time": t} for u, walk in enumerate(walks) for t, x in enumerate(walk)]
    pd.DataFrame(rows).to_csv(folder / "log.csv", index=False)
    words = ["red", "blue", "green", "black", "white", "dress", "coat", "shoes", "shirt", "skirt"]
    titles = [f"{words[x % 10]} {words[(x // 10 * 3 + x) % 10]} number {x}" for x in range(40)]
    pd.DataFrame({"item": [f"i{x}" for x in range(40)], "title": titles}).to_csv(folder / "items.csv", index=False)
    return folder


@pytest.mark.slow
def test_it_learns(shop, tmp_path, capsys):
    """Trained text vectors beat those of the same encoder left as it was."""
    words, found = [*WORDS, f"data.path={shop / 'log.csv'}", f"data.texts={shop / 'items.csv'}", "epochs=7"], {}
    for rate in (0.1, 0.0):
        given = [*words, f"optimizer.rate_of={{text_encoder: {rate}}}", f"run_dir={tmp_path / str(rate)}"]
        assert call("train", *given) == 0, capsys.readouterr().err
        found[rate] = json.loads((tmp_path / str(rate) / "summary.json").read_text())["test/ndcg@5"]
    print(found)
    assert found[0.1] > found[0.0] + 0.1


def test_a_run_is_used(shop, tmp_path, capsys):
    """Its text encoder has moved, and it says the same from command to command."""
    words = [*WORDS, f"data.path={shop / 'log.csv'}", f"data.texts={shop / 'items.csv'}", "epochs=1"]
    assert call("train", *words, f"run_dir={tmp_path / 'tuned'}") == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "tuned" / "summary.json").read_text())["test/ndcg@5"]
    capsys.readouterr()
    assert call("evaluate", f"run_dir={tmp_path / 'tuned'}", "split=test") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["test/ndcg@5"] == pytest.approx(found, abs=1e-6)
    log = pd.read_csv(shop / "log.csv")
    (shop / "users.txt").write_text("u3\nu5\n")
    assert call("recommend", f"run_dir={tmp_path / 'tuned'}", f"users={shop / 'users.txt'}", "k=3",
                f"output={tmp_path / 'known.csv'}") == 0, capsys.readouterr().err
    assert set(pd.read_csv(tmp_path / "known.csv")["user"]) == {"u3", "u5"} < set(log["user"])
    (shop / "users.csv").write_text("user,item,time\na,i3,0\na,i4,1\na,i5,2\na,i6,3\n")
    assert call("recommend", f"run_dir={tmp_path / 'tuned'}", f"users={shop / 'users.csv'}", "k=5", "diversify=0.3",
                f"output={tmp_path / 'out.csv'}") == 0, capsys.readouterr().err
    assert len(pd.read_csv(tmp_path / "out.csv")) == 5
    before, after = read(ENCODER).tensors, build.rebuild(tmp_path / "tuned", load_config(tmp_path / "tuned"))
    moved = {name: float(np.abs(after.parameters[PREFIX + name] - x).max()) for name, x in before.items()
             if name.endswith("query.kernel")}
    assert min(moved.values()) > 1e-3 and load_facts(tmp_path / "tuned" / "text_encoder").width == after.texts.facts.width


@pytest.mark.slow
def test_what_an_earlier_start_left_is_not_the_run_s(shop, tmp_path, capsys, monkeypatch):
    """A start that never saved anything had a text encoder; the corrected one has none."""
    run, words = tmp_path / "run", [*WORDS, f"data.path={shop / 'log.csv'}", f"data.texts={shop / 'items.csv'}", "epochs=1"]
    monkeypatch.setattr(Loop, "run", lambda self: (_ for _ in ()).throw(InputError("stopped")))
    assert call("train", *words, f"run_dir={run}") == 2 and (run / "text_encoder").is_dir()
    monkeypatch.undo()
    plain = [word for word in words if "text_encoder" not in word] + ["model.text=none"]
    assert call("train", *plain, f"run_dir={run}") == 0, capsys.readouterr().err
    assert not (run / "text_encoder").exists() and call("evaluate", f"run_dir={run}") == 0


def test_refused(shop, tmp_path, capsys):
    words = [*WORDS, f"data.path={shop / 'log.csv'}"]
    (tmp_path / "few.csv").write_text("item,title\ni1,a dress\n")
    for more, said in (([], "model.text_encoder reads the items' texts: set data.texts"),
                       ([f"data.texts={tmp_path / 'few.csv'}"], "has no text of item 'i"),
                       ([f"data.texts={shop / 'items.csv'}", "data.text_columns=[name]"], "data.text_columns"),
                       ([f"data.texts={shop / 'items.csv'}", "model.text=none"], "model.text is none, and model.text_enc"),
                       ([f"data.texts={shop / 'items.csv'}", "task.objective=ce", "task.sampling=uniform"], "loss is over all"),
                       ([f"data.texts={shop / 'items.csv'}", "optimizer.rate_of={text_encoder: -1.0}"], "the share -1.0 of '"),
                       ([f"data.texts={shop / 'items.csv'}", "++optimizer.rate_of={txt: 0.1}"], "path like 'txt'"),
                       ([f"data.texts={shop / 'items.csv'}", "model.text_encoder=./no/such/x"], "model.text_encoder: ./no/such/x"),
                       ([f"data.texts={shop / 'items.csv'}", "data.text_columns=[]"], "data.text_columns is empty"),
                       ([f"data.texts={shop / 'items.csv'}", "data.text_columns=title"], "data.text_columns is 'title'"),
                       ([f"data.texts={shop / 'log.csv'}"], "data.text_columns: "),
                       ([f"data.texts={shop / 'items.csv'}", "replicas=2"], "reads the items of one run at a time")):
        assert call("train", *words, *more, f"run_dir={tmp_path / 'run'}") == 2
        assert said in capsys.readouterr().err
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
