"""The planner: it compiles the program that training runs, and what it says of it can be derived by hand."""

import dataclasses
import importlib.metadata
import importlib.util
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from ecrec_jax import build, section
from ecrec_jax.data.feed import Feed
from ecrec_jax.step import make_step
from ecrec_jax.types import InputError
from ecrec_jax.use import compiler, flops, topology
from tests import world
from tests.test_commands import TINY, call

PLANNED = [name for name in world.names("strategy") if "transfer" in section.arguments(world.classes("strategy")[name])]


def planned(task, strategy="jit", devices=4, **kinds):
    """(parts with a feed, the same with the planner's strategy)."""
    made = world.parts(task, f"strategy={strategy}", f"strategy.devices={devices}", *(f"{k}={v}" for k, v in kinds.items()))
    made = dataclasses.replace(made, feeds={"train": world.feed(made.task, task)})
    node = build.constructors({"strategy": world.section_of("strategy", strategy)}, "strategy") | {"devices": devices}
    return made, dataclasses.replace(made, strategy=compiler.strategy(node, None))


@pytest.mark.parametrize("strategy", PLANNED)
@pytest.mark.parametrize("task,kinds", [
    ("masked_lm", {}), pytest.param("classification", {"peft": "bitfit", "gradient": "accumulate"}, marks=pytest.mark.slow)])
def test_the_planned_program_is_the_trained_one(strategy, task, kinds):
    """Lowered from shapes, or from arrays on the devices: one text, uneven last rows included."""
    made, plan = planned(task, strategy, **kinds)
    batch = next(made.feeds["train"].batches(0, 0))
    state, constant = (made.strategy.place(side) for side in world.start(made))
    step = make_step(made.graph, made.task, made.peft, made.gradient, made.optimizer, made.strategy)
    trained = made.strategy.compile(step, True).lower(state, constant, made.strategy.put(batch, made.gradient.count))
    assert compiler.lower(plan, 0, len(batch["row"])).as_text() == trained.as_text()


def test_memory_and_exchanges_are_those_that_can_be_derived():
    """Replicated: a device holds parameters and both moments of Adam whole, gives them back in place, and every gradient is
    summed over the devices, once: that of the word table too, which is looked up, and tied to the logits."""
    _, plan = planned("masked_lm")
    program = compiler.compiled(compiler.lower(plan, 0, 16))
    size = sum(x.nbytes for x in plan.parameters.values())
    rows = sum(x.nbytes for x in next(plan.feeds["train"].batches(0, 0)).values()) / 13 * 16 / 4
    assert program.memory["arguments"] == pytest.approx(3 * size + rows, rel=0.01)
    assert program.memory["aliased"] == pytest.approx(3 * size, rel=0.01)
    assert program.peak >= program.memory["arguments"] + program.memory["temporaries"]
    assert set(program.exchanged) == {"all-reduce"}
    assert size <= sum(program.exchanged["all-reduce"]) <= size + 100
    for kinds in ({"gradient": "accumulate", "gradient.count": 2}, {"model.dtype": "bfloat16"}):   # and once a step
        again = compiler.compiled(compiler.lower(planned("masked_lm", **kinds)[1], 0, 16))
        assert size <= sum(again.exchanged["all-reduce"]) <= size + 100, kinds   # the CPU's compiler widens bfloat16
    alone = compiler.compiled(compiler.lower(planned("masked_lm", devices=1)[1], 0, 16))
    assert not alone.exchanged and alone.flops > 3 * program.flops


@pytest.mark.parametrize("task,peft", [("masked_lm", "full"), ("masked_lm", "bitfit"), ("classification", "full"),
                                       ("next_item", "full")])
def test_model_flops(task, peft):
    """Derived for one row of segments of 5 and 3 tokens with a used slot each: width D = 32, feed-forward 64, two layers. A token
    meets 4·D² + 2·64·D = 8,192 numbers in the first and 2·D² = 2,048 in the last (key and value), a slot the other 6,144 there; a
    slot of masked-LM D² and the table of 504 · D, of SASRec the table, of a classifier of 3 classes D² (the pooler) and 3·D."""
    made, _ = planned(task, peft=peft, **({"model": "sasrec"} if task == "next_item" else {}))
    segment = np.array([[1] * 5 + [2] * 3 + [0] * 4, [0] * 12])   # the second row is empty
    batch = {"segment": segment, "weight": np.array([[1.0, 0.5, 0.0], [0, 0, 0]]), "slot": np.array([[0, 5, 0], [0, 0, 0]])}
    factor = 4 if peft == "bitfit" else 6                         # of the encoder; the head of masked-LM is trained
    head = {"masked_lm": 6 * 32 * 32 + factor * 504 * 32, "next_item": 6 * 504 * 32, "classification": 6 * (32 * 32 + 3 * 32)}[task]
    attention = 12 * 32 * (5**2 + 3**2 + 5 + 3)
    whole = factor * (8_192 * 8 + 2_048 * 8 + 6_144 * 2) + head * 2 + attention
    assert flops.model_flops(made, batch) == whole
    if task == "next_item":   # of the 504 rows, the label's and those of seven negatives
        batch["negative"] = np.ones((2, 3, 7), "i4")
        assert flops.model_flops(made, batch) == whole - 2 * 6 * (504 - 8) * 32


def test_the_compiler_counts_the_flops_of_a_full_batch_as_the_model_does():
    """One segment fills each row and every slot is used, no dropout: no padding, so what is left over is elementwise work,
    much of it at this width."""
    made, plan = planned("classification", devices=1, **{"model.dropout": 0, "model.attention_dropout": 0})
    feed = Feed([e for e in world.examples("classification", 400, longest=30) if len(e.tokens) == 30], made.task, None)
    feed.shape = feed.shaped(4, 30)._replace(rows=4)
    plan = dataclasses.replace(plan, feeds={"train": feed})
    batch = next(feed.batches(0, 0))
    assert (batch["segment"] > 0).all() and (batch["weight"] > 0).all()
    program = compiler.compiled(compiler.lower(plan, 0, 4))
    assert 1 < program.flops / (4 * flops.model_flops(plan, batch)) < 1.8


HLO = """
  %all-reduce.1 = (f32[10,3]{1,0:T(8,128)S(1)}, /*index=1*/bf16[7]{0}) all-reduce(%a, %b), channel_id=1, to_apply=%add
  %gt = pred[] compare(%all-reduce.1, %c), direction=GT
  %again = f32[10,3]{1,0} all-reduce(%a), channel_id=1, to_apply=%add
  %ag = (f32[2,4], f32[8,4]) all-gather-start(f32[2,4] %a), channel_id=2, dimensions={0}
  ROOT %done = f32[8,4] all-gather-done(%ag)
  %ar = f32[5] all-reduce-start(f32[5] %a), channel_id=3
  %cp = (s8[6], s8[6], u32[], u32[]) collective-permute-start(%a), channel_id=4
  %rs = pred[3] reduce-scatter(%a), dimensions={0}
  %p.1 = f32[] all-reduce(%a), channel_id=5, to_apply=%add, metadata={op_name="jit(step)/shard_map/psum" id=1}
  %p.3 = (bf16[30], bf16[2]) all-reduce(%a, %b), channel_id=5, to_apply=%add
  %g.1 = bf16[8,4]{1,0:S(1)} all-gather(%a), channel_id=5, frontend_attributes={chain_id="7"}, metadata={op_name="shard_map/g"}
  %g.2 = bf16[8,4]{1,0} all-gather(%b), channel_id=5, frontend_attributes={chain_id="7"}, metadata={op_name="jit(s)/shard_map/g"}
  %g.3 = bf16[8,4]{1,0} all-gather(%b), channel_id=5, frontend_attributes={chain_id="9"}, metadata={op_name="jit(s)/shard_map/g"}
  %p.2 = (bf16[30], bf16[2]) all-reduce(%a, %b), channel_id=5, to_apply=%add, metadata={op_name="jit(step)/shard_map/psum"}
"""


def test_collectives():
    """4·30 + 2·7 once for channel 1; of asynchronous ones the result: 4·32, 4·5, 6; without a channel or in a shard_map by name;
    two parts of one chain once: 2·32."""
    assert compiler.collectives(HLO) == {"all-reduce": [134, 20, 4, 64, 64], "all-gather": [128, 64, 64], "collective-permute": [6],
                                         "reduce-scatter": [3]}


@pytest.mark.parametrize("unit,start", [(1, 1), (4, 32), (8, 1000)])
@pytest.mark.parametrize("limit", [0, 1, 7, 8, 57, 360, 2472])
def test_largest(limit, unit, start):
    """Never above 90 % of the limit (one unit is kept as it is), never below 85 % but for whole units; only multiples tried."""
    tried = []
    found = compiler.largest(lambda rows: tried.append(rows) or rows <= limit, unit, start)
    assert all(rows % unit == 0 and rows for rows in tried) and len(tried) < 20
    assert found % unit == 0 and (found > 0) == (limit >= unit)
    assert found <= max(0.9 * limit, unit) and found > 0.85 * limit - 2 * unit


def test_topologies():
    """Chips and layouts; a host has no layout."""
    assert [topology.named(x) for x in ("h100:8", "h200:2x8")] == [("h100", 8), ("h200", 16)]
    assert [topology.named(x) for x in ("cpu", "v5e:1x1", "v5p:2x2x1", "v6e:16x16")] == [
        ("cpu", 0), ("v5e", 1), ("v5p", 4), ("v6e", 256)]


def test_command(capsys):
    """What is printed, on the simulated devices of this machine."""
    assert call("plan", "experiment=pretrain", "topology=cpu", "rows=5", "data.limit=100", *TINY) == 0
    said = capsys.readouterr().out
    assert "cpu: 2 devices, Jit" in said and "5 rows × " in said and "3 rows a device" in said and "nothing was run" in said
    for kind in ("arguments", "outputs", "aliased", "temporaries", "code", "peak"):
        assert float(re.search(rf"memory: {kind} +([\d.]+) GiB", said)[1]) >= 0
    assert float(re.search(r"([\d.]+) × the model's", said)[1]) > 1 and "exchanged: all-reduce × " in said


@pytest.mark.parametrize("words,named", [
    ("strategy=pmap topology=cpu", "strategy: Pmap"), ("topology=v9:2x2", "topology is 'v9:2x2'"), ("topology=v5e", "v5e:2x2"),
    ("topology=v5e:2xx", "topology is"), ("topology=cpu largest=true", "largest=true"), ("topology=cpu rows=0", "rows is 0"),
    ("topology=cpu rows=many", "rows is 'many'"), ("topology=cpu strategy.devices=99", "strategy.devices 99"),
    ("topology=v5e:2x2", "make test-compilers"), ("topology=h100:8", "needs CUDA's compiler"),
    ("topology=h100:2x2x2", "topology is"), ("topology=h100:", "topology is")])
def test_mistake(words, named, capsys, monkeypatch):
    """One sentence; without the compiler, how to get it."""
    find, none = importlib.util.find_spec, ("libtpu", "jax_plugins")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name in none else find(name, *more))
    assert call("plan", "experiment=pretrain", "data.limit=100", *TINY, *words.split()) == 2
    assert named in capsys.readouterr().err


def test_a_compiler_that_is_taken(monkeypatch):
    """By a process that doesn't wait for its turn: no word on the topology."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: name == "libtpu" or find(name, *more))
    monkeypatch.setattr(topology, "take_turns", lambda: None)

    def taken(**chosen):
        raise jax.errors.JaxRuntimeError("ABORTED: Internal error when accessing libtpu multi-process lockfile.")

    monkeypatch.setattr(topology.topologies, "get_topology_desc", taken)
    with pytest.raises(InputError, match="another process has the TPU compiler"):
        topology.devices("v5e:2x2")


def test_the_compiler_is_the_one_that_the_locked_jax_asks_for():
    """`make test-compilers` installs the libtpu that the extra of the locked jax names."""
    root = Path(__file__).parent.parent
    locked = re.search(r"^jax==(\S+)$", (root / "requirements.lock").read_text(), re.M)[1]
    if locked != jax.__version__:
        pytest.skip(f"jax {jax.__version__} is not the locked one")
    wanted = next(x for x in importlib.metadata.requires("jax") if x.startswith("libtpu"))
    pinned = re.search(r"libtpu==(\S+)$", (root / "Makefile").read_text(), re.M)[1]
    assert pinned.startswith(re.match(r"libtpu==([\d.]+)\.\*", wanted)[1])
