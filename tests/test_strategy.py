"""Laws of strategies beyond the loss curve: what fsdp's program holds, and that several processes are one run."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from jax.sharding import PartitionSpec

from ecrec_jax import build, checkpoint, evaluate, factored, mesh
from ecrec_jax.step import make_columns, make_step
from ecrec_jax.types import InputError, State
from experiments import launch, wiring
from tests import world

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def divided():
    """(net, state on eight devices, the compiled step, the batch) of fsdp; no size of the batch is one of a weight."""
    made = world.parts("masked_lm", "strategy=fsdp", "strategy.devices=8", "strategy.smallest=100")
    state, constant = world.start(made)
    state, constant = made.strategy.place(jax.tree.map(jnp.array, state)), made.strategy.place(constant)
    feed = world.feed(made.task, "masked_lm", count=400, rows=88)
    feed.shape = feed.shape._replace(slots=9)
    batch = made.strategy.put(next(feed.batches(1, 0)), 1)
    step = made.strategy.compile(make_step(made.graph, made.task, made.peft, made.gradient, made.optimizer, made.strategy), True)
    return made, state, step.lower(state, constant, batch).compile(), constant, batch


def share(tree):
    """Numbers that the fullest device holds, over all."""
    held = {}
    for x in jax.tree.leaves(tree):
        for part in x.addressable_shards:
            held[part.device] = held.get(part.device, 0) + part.data.size
    assert len(held) == 8
    return max(held.values()) / sum(x.size for x in jax.tree.leaves(tree))


def test_fsdp_gathers_each_weight_and_sums_its_gradient_once_and_no_activation(divided):
    _, state, compiled, _, batch = divided
    text = compiled.as_text()
    spread = [name for name, x in state.trained.items() if not x.sharding.is_fully_replicated]
    gathers = re.findall(r"= (\S+)\[([\d,]*)\]\S* all-gather(?:-start)?\(", text)
    shapes = sorted(shape for _, shape in gathers)
    print(f"{len(spread)} divided weights, {len(gathers)} gathers")
    assert len(spread) > 10 and shapes == sorted(",".join(map(str, state.trained[name].shape)) for name in spread)
    parts = re.findall(r"= \S+\[([\d,]*)\]\S* reduce-scatter(?:-start)?\(", text)   # of the tied table too
    assert sorted(parts) == sorted(",".join(map(str, state.trained[name].sharding.shard_shape(state.trained[name].shape)))
                                   for name in spread)
    assert not re.search(r" (all-to-all|collective-permute)(-start)?\(", text)
    rows, length, slots = (*batch["tokens"].shape, batch["slot"].shape[1])
    leading = {int(n) for n in re.findall(r"\w\[(\d+)[,\]]", text)}
    assert rows == 88 and not leading & {rows, rows * length, rows * slots} and leading >= {rows // 8, rows // 8 * length}


def test_fsdp_divides_parameters_and_optimizer_state_before_and_after_a_step(divided):
    made, state, compiled, constant, batch = divided
    sizes = [(x.size, any(n % 8 == 0 for n in x.shape)) for x in state.trained.values()]
    big = sum(size for size, even in sizes if size >= 100 and even)   # biases and layer norms are whole
    total = sum(size for size, _ in sizes)
    assert share(state.trained) == (big / 8 + total - big) / total < 0.15
    assert share(state.opt) < 0.15
    before = jax.tree.map(lambda x: x.sharding, state)
    after, _ = compiled(jax.tree.map(jnp.copy, state), constant, batch)
    assert jax.tree.all(jax.tree.map(lambda x, sharding: x.sharding.is_equivalent_to(sharding, x.ndim), after, before))
    assert share(after.trained) == share(state.trained) and made.strategy.fetch(after).trained.keys() == state.trained.keys()


def test_a_step_overwrites_parameters_and_optimizer_state_without_a_copy():
    """A gradient that is made transposed is turned once, which is a copy of neither."""
    made = world.parts("masked_lm", "strategy.devices=1")
    state, constant = world.start(made)
    state, constant = made.strategy.place(jax.tree.map(jnp.array, state)), made.strategy.place(constant)
    batch = made.strategy.put(world.batches(made.task, "masked_lm", 1)[0], 1)
    step = make_step(made.graph, made.task, made.peft, made.gradient, made.optimizer, made.strategy)
    text = made.strategy.compile(step, True).lower(state, constant, batch).compile().as_text()
    shapes = {",".join(map(str, x.shape)) for x in state.trained.values() if x.ndim == 2}
    copied = re.findall(r"= f32\[([\d,]+)\]\S* copy\(%(?!\w*transpose)", text)
    assert len(shapes) > 3 and not [shape for shape in copied if shape in shapes]


@pytest.mark.slow
@pytest.mark.parametrize("words", [["experiment=sentiment", "model=shop"], ["experiment=pretrain", "model=shop"],
                                   ["experiment=next_item", "data=sequences"],
                                   ["experiment=next_item", "data=sequences", "task.objective=sampled_ce", "task.negatives=256"]])
def test_a_library_of_products_changes_no_number(words, tmp_path):
    """Steps of real sizes with `mesh.options` and without YNNPACK, whose sums jax 0.10.2 gets wrong in some programs
    (jax-ml/jax#39103)."""
    rng, path = np.random.default_rng(0), tmp_path / "histories.csv"
    events = [f"{user},{item},{i}" for user in range(2000) for i, item in enumerate(rng.integers(1, 12000, 9))]
    path.write_text("\n".join(["user,item,time", *events]), encoding="utf-8")
    given = [*words, "strategy.devices=1", *([f"data.path={path}"] if "data=sequences" in words else [])]
    with initialize_config_dir(launch.CONF, version_base="1.3"):
        made = build.build(wiring.plain(compose("train", given)))
    state, constant = world.start(made)
    batch = made.strategy.put(next(made.feeds["train"].batches(0, 0)), made.gradient.count)
    step = make_step(made.graph, made.task, made.peft, made.gradient, made.optimizer, made.strategy)
    plain = jax.jit(step, compiler_options={"xla_cpu_experimental_ynn_fusion_type": ""})
    found = [one(*made.strategy.place((state, constant)), batch)[1] for one in (plain, made.strategy.compile(step, False))]
    for name in ("loss", "gradient_norm"):
        assert float(found[0][name]) == pytest.approx(float(found[1][name]), rel=1e-5) and float(found[0][name]) > 0


def test_fsdp_divides_the_largest_axis_that_it_can():
    strategy = world.parts("classification", "strategy=fsdp", "strategy.devices=4", "strategy.smallest=64").strategy
    spec = lambda *shape: tuple(strategy.layout(np.zeros(shape)).spec)  # noqa: E731
    assert spec(8, 32) == (None, "data") and spec(32, 8) == ("data",) and spec(12, 33) == ("data",)
    assert spec(16, 16) == ("data",) and spec(7, 33) == () and spec(9, 7) == () and spec(4, 8) == () and spec() == ()


LARGE = ["strategy=fsdp", "strategy.table_rows=500"]   # the items' table is one of them


def test_a_large_table_in_tiles(monkeypatch):
    """A loss over all items puts it together, in tiles where there are many logits."""
    made = [world.parts("next_item", "model=sasrec", *words) for words in (["strategy.devices=1"], [*LARGE, "strategy.devices=2"])]
    given = world.batches(made[0].task, "next_item", 2)
    wanted = world.curve(made[0], given)[0]
    for name, value in (("MOST_POWERS", {"cpu": 1}), ("MOST_LOGITS", 1), ("TILE", 64)):
        monkeypatch.setattr(factored, name, value)
    assert np.abs(world.curve(made[1], given)[0] - wanted).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["sampled_ce", "ce", "sampled_ce task.sampling=batch", "bce task.shared=true",
                                  "sampled_ce peft=bitfit peft.frozen=['^model.items'] peft.trained=['^(?!model.items)']"])
def test_a_large_table_is_never_whole(loss):
    """Eight devices that have four columns of it each agree with one that has all; only a loss over all items puts it together."""
    words = ["model=sasrec", "task.negatives=7", *f"task.objective={loss}".split()]
    alone, made = world.parts("next_item", "strategy.devices=1", *words), world.parts("next_item", *words, *LARGE)
    given, ends, texts = world.batches(alone.task, "next_item"), [], []
    wanted, found = (world.curve(parts, given)[0] for parts in (alone, made))
    assert np.abs(found - wanted).max() < 1e-5 and wanted[0] != wanted[1]
    for parts in (alone, made):
        trained, frozen = map(parts.strategy.place, parts.peft.split(parts.parameters))
        columns = parts.strategy.compile(make_columns(parts.graph, parts.task, parts.peft, parts.strategy), donate=False)
        batch = parts.strategy.put(given[0] | {"seen": given[0]["label"][..., None] % 500 + 1}, 1)
        ends.append(evaluate.real(parts.strategy.fetch(columns(trained, frozen, batch))))
        ranking = columns.lower(trained, frozen, batch).compile().as_text()
        state = jax.eval_shape(parts.optimizer.init, trained)
        state = State(trained, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state), jnp.int32(0), jnp.uint32(0))
        step = make_step(parts.graph, parts.task, parts.peft, parts.gradient, parts.optimizer, parts.strategy)
        state, constant = parts.strategy.place(state), parts.strategy.place(frozen)
        texts.append(parts.strategy.compile(step, True).lower(state, constant, batch).compile().as_text())
    for key, x in ends[0].items():
        assert (x == ends[1][key]).all() if x.dtype.kind == "i" else np.abs(x - ends[1][key]).max() < 1e-5, key
    whole = [bool(re.search(r"f32\[(504,32|32,504)\]", text)) for text in texts]
    assert whole == [True, loss == "ce"] and "f32[504,4]" in texts[1] and ("f32[504,32]" in ranking) == (loss == "ce")


def test_every_table_may_be_large():
    """BERT's, too: only what rows are looked up in is left as it lies. Columns that the devices don't divide are a mistake."""
    alone = world.parts("classification", "strategy.devices=1")
    made = world.parts("classification", "strategy=fsdp", "strategy.table_rows=1")
    given = world.batches(alone.task, "classification", 3)
    wanted, found = (world.curve(parts, given)[0] for parts in (alone, made))
    assert np.abs(found - wanted).max() < 1e-5 and wanted[0] != wanted[1]
    tables = made.strategy.tables(made.parameters)
    assert {name for name, large in tables.items() if large} == {name for name in tables if name.endswith(".embedding")}
    with pytest.raises(InputError, match="table_rows: 8 devices don't divide the 12 columns of a.embedding"):
        made.strategy.tables({"a.embedding": np.zeros((5, 12))})
    with pytest.raises(InputError, match="table_rows is 0"):
        world.parts("classification", "strategy=fsdp", "strategy.table_rows=0")


STRATEGIES = world.names("strategy")


@pytest.mark.parametrize("strategy,first,then", [
    (strategy, *devices) if strategy == "fsdp" else pytest.param(strategy, *devices, marks=pytest.mark.slow)
    for strategy in STRATEGIES for devices in ((8, 1), (1, 8))])
def test_a_checkpoint_goes_to_any_strategy_on_other_devices(tmp_path, strategy, first, then):
    """Bit for bit, after two steps."""
    made = world.parts("classification", f"strategy={strategy}", f"strategy.devices={first}")
    host, constant = world.start(made)
    state = made.strategy.place(jax.tree.map(jnp.array, host))
    step = made.strategy.compile(make_step(made.graph, made.task, made.peft, made.gradient, made.optimizer, made.strategy), True)
    for batch in world.batches(made.task, "classification", 2):
        state, _ = step(state, made.strategy.place(constant), made.strategy.put(batch, 1))
    wanted = made.strategy.fetch(state)
    with checkpoint.Checkpoints(tmp_path / "checkpoints", "max") as kept:
        kept.save(wanted, {})
        found, _ = kept.latest(host)
    assert int(wanted.step) == 2 and any((x != host.trained[name]).any() for name, x in wanted.trained.items())
    for other in STRATEGIES:
        moved = world.parts("classification", f"strategy={other}", f"strategy.devices={then}").strategy
        again = moved.fetch(moved.place(found))
        assert jax.tree.structure(again) == jax.tree.structure(wanted)
        for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(wanted), strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def port():
    """A free one."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["jit", "fsdp"])
def test_two_processes_agree_with_one(tmp_path, strategy):
    out, at = tmp_path / "out.npz", port()
    running = [subprocess.Popen([sys.executable, "-m", "tests.peer", str(at), str(i), strategy, str(out)], cwd=ROOT, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for i in range(2)]
    made = world.parts("masked_lm", f"strategy={strategy}", "strategy.devices=4")
    losses, trained = world.curve(made, world.batches(made.task, "masked_lm"))
    said = [one.communicate(timeout=300)[0] for one in running]
    assert all(one.returncode == 0 for one in running), "\n".join(said)
    with np.load(out) as two:
        gap = np.abs(two["losses"] - losses).max()
        print(f"{strategy}: loss {gap:.1e}")
        assert len(losses) == 10 and losses[0] != losses[1] and gap < 1e-5
        assert {name: x.shape for name, x in trained.items()} == {name: two[name].shape for name in two if name != "losses"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_ids_cross_between_devices_as_they_are(dtype):
    """Token numbers of texts have more bits than bfloat16."""
    strategy = world.parts("classification", "strategy=fsdp", "strategy.devices=4").strategy
    ids = strategy.place({"ids": np.arange(8000, dtype="i4").reshape(4, 2000)})["ids"]
    whole = jax.shard_map(lambda x: mesh.join(x, ids.sharding.spec, dtype), mesh=strategy.mesh, in_specs=ids.sharding.spec,
                          out_specs=PartitionSpec(), check_vma=False)(ids)
    assert "data" in ids.sharding.spec and (np.asarray(whole).reshape(-1) == np.arange(8000)).all()
