"""Laws of every inhabitant of every noun, found by listing conf/; dropout on."""

import dataclasses
import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecrec_jax import evaluate, section
from ecrec_jax.block import read
from ecrec_jax.model.bert import Layer
from ecrec_jax.step import make_columns, make_step
from ecrec_jax.types import Facts, InputError, Noise, State
from tests import world

TASKS = world.names("task")


def distinct(models):
    """Of models that are the same once they are shrunken, such as the sizes of BERT, the first."""
    keys = {word.partition("=")[0].removeprefix("model.") for word in world.SMALL}
    told = [tuple(sorted((k, str(x)) for k, x in world.section_of("model", name).items() if k not in keys)) for name in models]
    return [name for i, name in enumerate(models) if told[i] not in told[:i]]


SCRATCH = distinct([name for name in world.names("model") if name != "bert"
                    and not world.section_of("model", name).get("checkpoint")
                    and "clicks" not in world.section_of("model", name)["_target_"]])   # models of fields: test_clicks.py


def outputs(made, batch, noise=None):
    """The net's outputs, logits made whole."""
    found = made.graph.net(made.parameters)(jax.tree.map(jnp.asarray, batch), noise)
    return np.asarray(found.logits() if hasattr(found, "logits") else found)


def shallow(task, *overrides, **options):
    """Parts with one layer: where what is shown lies outside the encoder, two take half as long again."""
    return world.parts(task, "model.depth=1", *overrides, **options)


@pytest.mark.parametrize("words", [("model=esasrec", "model.width=24", "task=simcse", "seed=3"),
                                   ("head.pooling=mean", "strategy=fsdp", "strategy.table_rows=8", "model.causal=True"),
                                   ("optimizer.learning_rate=1e-2", "optimizer.schedule=constant", "model=bilstm", "epochs=2")])
def test_the_small_world_is_hydra_s(words):
    wanted, found = world.composed(*words), world.drawn_up(*words)
    assert found == wanted and [*found] == [*wanted]


# ---- model
@pytest.mark.parametrize("name", SCRATCH)
def test_model_segments_and_padding_never_mix(name):
    causal = hasattr(world.classes("model")[name], "only_causal")
    made = world.parts("classification", f"model={name}", f"model.causal={causal}", "head.pooling=mean")
    batch = next(world.feed(made.task, "classification").batches(0, 0))
    model = made.graph.net(made.parameters).model
    before = np.asarray(model({k: jnp.asarray(x) for k, x in batch.items()}))
    changed = {k: x.copy() for k, x in batch.items()}
    other = changed["segment"] != 1
    changed["tokens"][other] = 7
    changed["position"][other] = 3
    after = np.asarray(jax.jit(model)({k: jnp.asarray(x) for k, x in changed.items()}))
    first = batch["segment"] == 1
    assert (batch["segment"] == 0).any() and (batch["segment"] == 2).any()
    assert np.abs(after - before)[first].max() < 1e-6                     # also: jit = eager
    assert np.abs(after - before)[other & (batch["segment"] > 0)].max() > 0.05 * before.std()


@pytest.mark.parametrize("name,causal", [(name, causal) for name in SCRATCH for causal in (False, True)
                                         if causal or not hasattr(world.classes("model")[name], "only_causal")])
def test_model_at_slots_is_the_model_read_at_them(name, causal):
    made = world.parts("masked_lm", f"model={name}", f"model.causal={causal}")
    batch = jax.tree.map(jnp.asarray, world.batches(made.task, "masked_lm", 1)[0])
    net = made.graph.net(made.parameters)
    whole = read(net.model(batch), batch["slot"])
    assert 2 * batch["slot"].shape[1] <= batch["tokens"].shape[1] and np.asarray(batch["slot"]).max() > 3
    np.testing.assert_allclose(net.model(batch, slot=batch["slot"]), whole, atol=1e-6)


# ---- head
@pytest.mark.parametrize("head,task", [(h, t) for h in world.names("head") for t in TASKS if world.reads(h, t)])
def test_head_reads_its_own_segment_only(head, task):
    made = shallow(task, head=head)
    batch = world.batches(made.task, task, 1)[0]
    changed = {k: x.copy() for k, x in batch.items()}
    changed["tokens"][batch["segment"] != 1] = 7
    owner = np.take_along_axis(batch["segment"], batch["slot"], 1)
    mine, other = (owner == 1) & (batch["weight"] > 0), (owner == 2) & (batch["weight"] > 0)
    before, after = outputs(made, batch), outputs(made, changed)
    assert before.dtype == np.float32 and before.shape[:2] == batch["slot"].shape and mine.any() and other.any()
    assert np.abs(after - before)[mine].max() < 1e-5 < 1e-4 < np.abs(after - before)[other].max()


# ---- task
@pytest.mark.parametrize("task", TASKS)
def test_task_loss(task):
    made = shallow(task)
    batch = {k: jnp.asarray(x) for k, x in next(world.feed(made.task, task).batches(0, 0)).items()}
    net = made.graph.net(made.parameters)
    loss = lambda b: np.asarray(made.task.loss(net(b, Noise(jnp.uint32(3), b["row"])), b, lambda x: x))  # noqa: E731
    first, weight = loss(batch), np.asarray(batch["weight"])
    assert first.shape == weight.shape and first.dtype == np.float32 and np.isfinite(first).all()
    assert (weight == 0).any() and (weight > 0).any()
    noise = {k: x for k, x in batch.items()}
    noise["label"] = jnp.where((weight > 0).reshape(weight.shape + (1,) * (batch["label"].ndim - 2)), batch["label"], 1)
    noise["slot"] = jnp.where(weight > 0, batch["slot"], 3)
    assert np.abs(loss(noise) - first)[weight > 0].max() < 1e-6           # empty slots weigh nothing
    order = np.random.default_rng(0).permutation(len(weight))
    assert np.abs(loss({k: x[order] for k, x in batch.items()}) - first[order])[weight[order] > 0].max() < 1e-5


@pytest.mark.parametrize("task", TASKS)
def test_columns_and_metrics(task):
    made = shallow(task)
    strategy = made.strategy
    feed = world.feed(made.task, task)
    trained, frozen = made.peft.split(made.parameters)
    evaluator = evaluate.Evaluator(made, strategy.place(frozen | made.constants))
    metrics, columns = evaluator.measure(strategy.place(trained), feed)
    assert len(columns["loss"]) == int(feed.slots.sum()) and (np.diff(columns["example"]) >= 0).all()
    assert all(np.isfinite(x) for x in evaluate.scalars(metrics, "x").values()) and "loss" in metrics
    json.dumps(metrics)


# ---- peft
@pytest.mark.parametrize("peft,task", [   # every third task, one with peft=full; the others: make test-all
    (peft, task) if number == 0 or peft != "full" and number % 3 == 1 else pytest.param(peft, task, marks=pytest.mark.slow)
    for peft in world.names("peft") for number, task in enumerate(TASKS)])
def test_peft(peft, task):
    made = shallow(task, f"peft={peft}")
    trained, frozen = made.peft.split(made.parameters)
    merged = made.peft.merge(trained, frozen)
    assert merged.keys() == made.parameters.keys() and all((merged[k] == x).all() for k, x in made.parameters.items())
    before = {k: np.array(x) for k, x in made.parameters.items()}
    _, after = world.curve(made, world.batches(made.task, task, 2))
    assert all((np.asarray(made.parameters[k]) == before[k]).all() for k in frozen)
    still = [k for k in after if (after[k] == before[k]).all()]
    assert after.keys() == trained.keys() and not still, still


# ---- gradient
NEUTRAL = {"accumulate": ["gradient.count=1"]}


@pytest.mark.parametrize("gradient", [g for g in world.names("gradient") if g != "plain"])
@pytest.mark.parametrize("count", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_gradient_equals_plain(gradient, count):
    plain = shallow("classification")
    given = world.batches(plain.task, "classification")
    wanted, _ = world.curve(plain, given)
    found, _ = world.curve(shallow("classification", f"gradient={gradient}", f"gradient.count={count}"), given)
    print(f"{gradient} {count}: {np.abs(found - wanted).max():.1e}")
    assert np.abs(found - wanted).max() < 1e-5


# ---- optimizer
@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("optimizer", world.names("optimizer"))
def test_optimizer_decays_by_exactly_rate_times_decay(optimizer, schedule):
    known = dataclasses.replace(Facts(), steps=10)
    made = section.make(world.section_of("optimizer", optimizer) | {"learning_rate": 0.1, "weight_decay": 0.5, "schedule": schedule,
                      "warmup": 0.2}, "optimizer", known)
    names = ["model.a.kernel", "model.a.bias", "model.LayerNorm.scale", "model.e.embedding", "head.bias"]
    trained = {name: jnp.full((3, 2), 2.0) for name in names}
    state, rates = made.init(trained), []
    for _ in range(12):
        old = trained
        updates, state = made.update(jax.tree.map(jnp.zeros_like, trained), state, trained)
        trained = {k: x + updates[k] for k, x in trained.items()}
        rate = float(made.learning_rate_at(state))
        rates.append(rate)
        for name in names:
            factor = 1 - rate * 0.5 if name.endswith(("kernel", "embedding")) else 1.0
            np.testing.assert_allclose(trained[name], old[name] * factor, rtol=1e-6)
    assert rates[0] == pytest.approx(0.05) and rates[1] == pytest.approx(0.1)            # half-way up, then at the peak
    end = {"linear": 0.1 * (1 - 4 / 8), "cosine": 0.05, "constant": 0.1}[schedule]
    assert rates[6] == pytest.approx(end) and rates[11] == pytest.approx(0.1 if schedule == "constant" else 0.0, abs=1e-8)


def test_a_batch_without_weight_changes_nothing():
    made = shallow("classification")
    batch = dict(world.batches(made.task, "classification", 1)[0])
    batch["weight"] = np.zeros_like(batch["weight"])
    _, after = world.curve(made, [batch])
    assert all((after[k] == np.asarray(x)).all() for k, x in made.parameters.items())


# ---- strategy
@pytest.fixture(scope="module")
def reference():
    """Loss curves on one device, made once a task."""
    kept = {}

    def of(task):
        if task not in kept:
            made = shallow(task, "strategy=jit", "strategy.devices=1")
            given = world.batches(made.task, task)
            kept[task] = (given, *world.curve(made, given))
        return kept[task]

    return of


CASES = [(task, strategy, devices, "plain") for strategy in world.names("strategy") for devices in (1, 2, 4, 8)
         for task in (TASKS if devices == 8 else ["classification"]) if (strategy, devices) != ("jit", 1)]
CASES += [("masked_lm", strategy, 4, "accumulate") for strategy in world.names("strategy")]
QUICK = [case for case in CASES if case[0] == "classification" and case[2] == 8]   # the others: make test-all
QUICK += [("next_item", "pmap", 8, "plain"), ("masked_lm", "fsdp", 4, "accumulate")]


@pytest.mark.parametrize("task,strategy,devices,gradient",
                         [case if case in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in CASES])
def test_strategy_agrees_with_one_device(reference, task, strategy, devices, gradient):
    given, wanted, end = reference(task)
    made = shallow(task, f"strategy={strategy}", f"strategy.devices={devices}", f"gradient={gradient}")
    found, after = world.curve(made, given)
    gap = np.abs(found - wanted).max()
    print(f"{task}, {strategy} on {devices}, {gradient}: loss {gap:.1e}")
    assert given[0]["row"].shape[0] % 2 == 1 and wanted[0] != wanted[1] and gap < 1e-5
    assert all(x.shape == end[k].shape for k, x in after.items())


# ---- layers kept or computed again, one after the other or in a loop
WAYS = {"remat": ["model.remat=true"], "scan": ["model.scan=true"], "both": ["model.remat=true", "model.scan=true"]}
WHERE = [("masked_lm", way, "jit", 1, "full") for way in WAYS] + [("masked_lm", "both", "jit", 1, "bitfit")]
WHERE += [("causal_lm", "both", strategy, 4, "full") for strategy in world.names("strategy")]


@functools.cache
def deep(task, peft):
    """(batches, losses, last parameters) of three layers one after the other: a loop runs over all but the last."""
    made = shallow(task, f"peft={peft}", "strategy.devices=1", "model.depth=3")
    given = world.batches(made.task, task)
    return given, *world.curve(made, given)


@pytest.mark.slow
@pytest.mark.parametrize("task,way,strategy,devices,peft", WHERE)
def test_how_layers_are_computed_changes_nothing(task, way, strategy, devices, peft):
    given, wanted, end = deep(task, peft)
    made = shallow(task, f"strategy={strategy}", f"strategy.devices={devices}", f"peft={peft}", "model.depth=3", *WAYS[way])
    found, after = world.curve(made, given)
    gap = np.abs(found - wanted).max()
    print(f"{task}, {way}, {strategy} on {devices}, {peft}: loss {gap:.1e}")
    assert gap < 1e-5 and wanted[0] != wanted[1] and {k: x.shape for k, x in after.items()} == {k: x.shape for k, x in end.items()}


def primitives(jaxpr):
    """The operations of a program, those of functions as often as they are called."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in equation.params.values():
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from primitives(getattr(inner, "jaxpr", inner))


@pytest.mark.parametrize("way,loops,again", [("remat", 0, 3), ("scan", 1, 0), ("both", 1, 2)])
def test_layers_are_computed_as_asked(way, loops, again):
    """Three layers: a loop over all but the last where asked; each layer, or the loop's body, marked to be computed again."""
    made = shallow("classification", "model.depth=3", *WAYS[way])
    batch = jax.tree.map(jnp.asarray, world.batches(made.task, "classification", 1)[0])
    found = list(primitives(jax.make_jaxpr(lambda p: made.graph.net(p).model(batch))(made.parameters).jaxpr))
    assert (found.count("scan"), found.count("checkpoint") + found.count("remat2")) == (loops, again)


def test_layers_are_traced_once(monkeypatch):
    """Three layers cost the time to trace one; a last layer that reads at slots alone is another."""
    made, traced, right = shallow("masked_lm", "model.depth=3"), [], Layer.__call__
    monkeypatch.setattr(Layer, "__call__", lambda self, *given: traced.append(self) or right(self, *given))
    batch = jax.tree.map(jnp.asarray, world.batches(made.task, "masked_lm", 1)[0])
    for slot, times in ((None, 1), (batch["slot"], 2)):
        traced.clear()
        jax.make_jaxpr(lambda p, slot=slot: made.graph.net(p).model(batch, slot=slot))(made.parameters)
        assert len(traced) == times


# ---- precision
def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters(reference):
    given, wanted, _ = reference("classification")
    made = shallow("classification", "model.dtype=bfloat16")
    losses, after = world.curve(made, given)
    assert all(x.dtype == np.float32 for x in after.values()) and np.isfinite(losses).all()
    assert 1e-6 < np.abs(losses - wanted).max() < 0.1
    made = shallow("classification", "model.dtype=bfloat16", "strategy.devices=1")
    step = make_step(made.graph, made.task, made.peft, made.gradient, made.optimizer, made.strategy)
    text = jax.jit(step).lower(*world.start(made), given[0]).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert products and sum("xbf16>" in line for line in products) > 0.9 * len(products)


@pytest.mark.parametrize("strategy", world.names("strategy"))
def test_every_strategy_lowers_for_cpu_cuda_and_tpu(strategy):
    made = shallow("masked_lm", f"strategy={strategy}", "strategy.devices=4")
    strategy, (state, constant) = made.strategy, world.start(made)
    state, constant = strategy.place(jax.tree.map(jnp.array, state)), strategy.place(constant)
    batch = strategy.put(world.batches(made.task, "masked_lm", 1)[0], 1)
    step = strategy.compile(make_step(made.graph, made.task, made.peft, made.gradient, made.optimizer, strategy), True)
    traced = step if hasattr(step, "trace") else jax.jit(step)   # pmap's functions can't say it themselves
    for platform in ("cpu", "cuda", "tpu"):
        assert traced.trace(state, constant, batch).lower(lowering_platforms=(platform,)).as_text()


# ---- tracker
OPTIONAL = ("tensorboard",)   # what an extra of pyproject.toml brings


def points(folder):
    """{tag: [(step, value)]} as TensorBoard's own reader finds them, and the tags of texts."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    tags = found.Tags()
    return {tag: [(x.step, x.value) for x in found.Scalars(tag)] for tag in tags["scalars"]}, tags["tensors"]


@pytest.mark.parametrize("name", world.names("tracker"))
def test_tracker(name, tmp_path, capsys):
    if name in OPTIONAL:
        pytest.importorskip(name)
    cls = world.classes("tracker")[name]
    known = section.arguments(cls)
    given = {k: x for k, x in (("folder", str(tmp_path)), ("config", {"seed": 1})) if k in known}
    make = lambda: section.make(world.section_of("tracker", name), "tracker", Facts(), **given)  # noqa: E731
    tracker = make()
    tracker.start(0, 10, {})
    tracker.log(1, {"train/loss": 1.0})
    saved = json.loads(json.dumps(tracker.state()))
    tracker.log(2, {"train/loss": 0.5})
    tracker.log(2, {"valid/accuracy": 0.5})
    tracker.finish({"test/accuracy": 0.25})
    tracker = make()                                     # goes on from the saved place
    tracker.start(1, 10, saved)
    tracker.log(2, {"train/loss": 0.75})
    tracker.finish({})
    if name == "jsonl":
        rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        assert rows == [{"step": 1, "train/loss": 1.0}, {"step": 2, "train/loss": 0.75}]
    if name == "wandb":
        assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 2 and saved["id"]
        name = re.compile(rf"offline-run-\d+_\d+-{saved['id']}(-1)?")   # -1: started within the same second
        assert all(name.fullmatch(p.name) for p in tmp_path.glob("wandb/offline-run-*"))
    if name == "tensorboard":
        scalars, texts = points(tmp_path / "tensorboard")
        assert scalars == {"train/loss": [(1, 1.0), (2, 0.75)]} and sorted(texts) == ["config", "summary"]
        tracker = make()
        tracker.start(0, 10, {})   # nothing was saved: nothing stays
        tracker.finish({})
        assert points(tmp_path / "tensorboard")[0] == {}
    if name == "console":
        assert "valid/accuracy 0.5" in capsys.readouterr().out


def test_tensorboard_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"tracker.tensorboard: .* pip install"):
        world.classes("tracker")["tensorboard"](str(tmp_path), {})


# ---- pairs of nouns
@pytest.mark.parametrize("task,peft,gradient,strategy,model", [
    ("classification", "bitfit", "accumulate", "pmap", "bert_tiny"), ("regression", "bitfit", "plain", "jit", "bert_mini"),
    ("regression", "full", "accumulate", "pmap", "bert_small"), ("masked_lm", "bitfit", "accumulate", "jit", "bert_medium"),
    ("contrastive", "bitfit", "plain", "pmap", "bert_base")])
def test_nouns_work_together(task, peft, gradient, strategy, model):
    alone = shallow(task, f"peft={peft}", f"model={model}", "strategy.devices=1")
    given = world.batches(alone.task, task, 3)
    wanted, _ = world.curve(alone, given)
    mixed = shallow(task, f"peft={peft}", f"gradient={gradient}", f"strategy={strategy}", f"model={model}")
    found, _ = world.curve(mixed, given)
    assert np.abs(found - wanted).max() < 1e-5 and wanted[0] != wanted[-1]


def test_columns_agree_between_strategies():
    found = []
    for strategy in world.names("strategy"):
        made = shallow("classification", f"strategy={strategy}")
        program = made.strategy.compile(make_columns(made.graph, made.task, made.peft, made.strategy), donate=False)
        batch = world.batches(made.task, "classification", 1)[0]
        trained, frozen = (made.strategy.place(side) for side in made.peft.split(made.parameters))
        found.append(evaluate.real(made.strategy.fetch(program(trained, frozen, made.strategy.put(batch, 1)))))
    for key, x in found[0].items():
        assert all(np.abs(x - other[key]).max() < 1e-5 for other in found[1:])


def test_state_is_plain():
    made = shallow("classification")
    state, _ = world.start(made)
    assert isinstance(state, State) and all(isinstance(k, str) for k in state.trained)
