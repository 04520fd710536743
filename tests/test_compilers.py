"""Steps through the real TPU compiler, without a TPU: `make test-compilers` runs these in an environment that has it."""

import importlib.util
import re

import jax
import jax.numpy as jnp
import pytest

from ecrec_jax.use import topology
from tests.test_commands import call
from tests.test_plan import PLANNED

pytestmark = pytest.mark.compilers
CUDA = importlib.util.find_spec("jax_plugins") is not None and any(map(importlib.util.find_spec, topology.PLUGINS))
COMMON = ["model=bert_tiny", "data.limit=400", "model.dtype=bfloat16"]


@pytest.mark.parametrize("strategy", PLANNED)
@pytest.mark.parametrize("experiment", ["pretrain", "sentiment"])
def test_a_step_compiles_for_four_chips(experiment, strategy, capsys):
    """It fits, computes at least what the model needs, and the chips exchange gradients."""
    assert call("plan", f"experiment={experiment}", f"strategy={strategy}", "topology=v5e:2x2", *COMMON) == 0
    said = capsys.readouterr().out
    print(said)
    assert "v5e:2x2: 4 devices" in said and "libtpu " in said and "fits: peak and code are 0." in said
    assert float(re.search(r"([\d.]+) × the model's", said)[1]) > 1
    assert float(re.search(r"memory: peak +([\d.]+)", said)[1]) >= float(re.search(r"memory: arguments +([\d.]+)", said)[1])
    assert re.search(r"exchanged: (all-reduce|reduce-scatter) × \d+: [\d.]+ MB", said)


@pytest.mark.parametrize("strategy", PLANNED)
def test_a_causal_step_with_splash_attention_compiles_for_four_chips(strategy, capsys):
    """Without attention dropout the topology's devices decide, not those of this machine; the compiler takes the kernel."""
    assert call("plan", "experiment=pretrain_causal", f"strategy={strategy}", "topology=v5e:2x2", "model.attention_dropout=0",
                "data.max_length=256", "data.row_length=256", "rows=64", *COMMON) == 0
    said = capsys.readouterr().out
    print(said)
    assert "attention: splash" in said and "fits: peak and code are 0." in said


def test_splash_attention_needs_less_memory(capsys):
    """Dense attention keeps its probabilities for the gradient: 64 rows × 2 heads × 512² in bfloat16, 0.0625 GiB."""
    peaks = {}
    for form in ("splash", "dense"):
        assert call("plan", "experiment=sentiment", "topology=v5e:1x1", f"model.attention={form}", "model.attention_dropout=0",
                    "data.max_length=512", "data.row_length=512", "rows=64", *COMMON) == 0
        peaks[form] = float(re.search(r"memory: peak +([\d.]+)", capsys.readouterr().out)[1])
    print(peaks)
    assert peaks["dense"] - peaks["splash"] > 64 * 2 * 512**2 * 2 / 2**30


def test_sixty_four_runs_fit_and_exchange_nothing(capsys):
    """Each device has sixteen of them to itself."""
    assert call("plan", "experiment=sentiment", "topology=v5e:2x2", "replicas=64", *COMMON) == 0
    said = capsys.readouterr().out
    print(said)
    assert "of each of 64 runs, 16 on a device" in said and "fits: peak and code are" in said and "exchanged: nothing" in said


def test_too_much_is_refused(capsys):
    """What a step on 32,768 rows keeps for its gradient cannot be in 15.75 GiB: an answer, no failure."""
    assert call("plan", "experiment=pretrain", "topology=v5e:1x1", "rows=32768", "model.depth=1", *COMMON) == 0
    assert "does not fit: 32768 rows need more than a device's 15.75 GiB" in capsys.readouterr().out


def test_an_unknown_layout_is_a_mistake(capsys):
    """The compiler's own refusal of a layout becomes one sentence."""
    assert call("plan", "experiment=pretrain", "topology=v5e:9x9", *COMMON) == 2
    assert "topology: the compiler knows no v5e:9x9" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["v4:2x2x1", "v5e:1x1", "v5p:2x2x1", "v6e:1x1"])
def test_the_memory_of_a_chip_is_what_its_compiler_names(name):
    """In its refusal of 300 GiB."""
    found, limit = topology.devices(name)
    large = jax.ShapeDtypeStruct((300 * 2**28,), jnp.float32, sharding=jax.sharding.SingleDeviceSharding(found[0]))
    with pytest.raises(jax.errors.JaxRuntimeError) as refusal:
        jax.jit(jnp.sin).lower(large).compile()
    assert re.search(r"exceeds available HBM \(([\d.]+)G\)", str(refusal.value))[1] == f"{limit / topology.GIB:.2f}"


@pytest.mark.skipif(not CUDA, reason="no CUDA compiler")
@pytest.mark.parametrize("strategy", PLANNED)
@pytest.mark.parametrize("experiment", ["pretrain", "sentiment"])
def test_a_step_compiles_for_eight_gpus(experiment, strategy, capsys):
    """With our kernel for attention; what it exchanges are gradients in bfloat16."""
    assert call("plan", f"experiment={experiment}", f"strategy={strategy}", "topology=h100:8", *COMMON) == 0
    said = capsys.readouterr().out
    print(said)
    assert "h100:8: 8 devices" in said and "attention: flash" in said and "of 79.11 GiB" in said and "note: on a card" in said
    assert re.search(r"exchanged: (all-reduce|reduce-scatter) × \d+: [\d.]+ MB", said)


@pytest.mark.skipif(not CUDA, reason="no CUDA compiler")
def test_what_a_gpu_has_no_room_for_is_said(capsys):
    """CUDA's compiler refuses nothing."""
    assert call("plan", "experiment=pretrain", "topology=h100:1", "rows=131072", "model.depth=1", *COMMON) == 0
    said = capsys.readouterr().out
    print(said)
    assert re.search(r"does not fit: peak and code are \d{3,}\.\d+ of 79\.\d+ GiB", said)
