"""Between Hydra and the library: plain config, whether nouns fit together, the folder of a run."""

import dataclasses
import fcntl
import hashlib
import importlib.metadata
import json
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ecrec_jax import build, evaluate
from ecrec_jax.data.tokenise import cache_folder
from ecrec_jax.loop import Plan
from ecrec_jax.types import InputError

FREE = ("run_dir", "data.root", "strategy", "tracker", "debug")   # keys that may change when a run goes on
ROOT = Path(__file__).parent.parent


def plain(config: DictConfig) -> dict[str, Any]:
    """The composed config as a dictionary, interpolations resolved."""
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def plan_of(config: Mapping[str, Any]) -> Plan:
    """The root keys, types checked."""
    names = [field.name for field in dataclasses.fields(Plan)]
    best = config["best"]
    if not isinstance(best, dict) or set(best) != {"metric", "mode"} or best["mode"] not in ("max", "min"):
        raise InputError("best must be {metric: NAME, mode: max or min}")
    plan = build.make({"_target_": "ecrec_jax.loop.Plan"} | {name: config[name] for name in names}, "config", build.Facts())
    for name in ("epochs", "steps", "log_every", "save_every", "patience"):
        value = getattr(plan, name)
        if value is not None and value < 1:
            raise InputError(f"{name} is {value}, must be at least 1")
    return plan


def debugged(config: dict[str, Any]) -> dict[str, Any]:
    """The config that `debug` asks for."""
    if config["debug"] == "fast":
        small = dict(config["data"], limit=4 * config["data"]["batch_size"])
        return config | {"data": small, "steps": 2, "log_every": 1}
    if config["debug"] == "overfit":
        rates = {name: 0.0 for name in ("dropout", "attention_dropout") if name in config["model"]}
        still = dict(config["optimizer"], schedule="constant", warmup=0.0, weight_decay=0.0, learning_rate=1e-3)
        small = dict(config["data"], limit=4 * config["data"]["batch_size"])
        return config | {"data": small, "model": config["model"] | rates, "optimizer": still, "steps": config["steps"] or 100}
    return config


def check(config: Mapping[str, Any]) -> None:
    """Whether the nouns fit together, from what their classes declare.

    Raises:
        InputError: they don't; says what to change.
    """
    task, head, gradient = (build.target(config[name], name) for name in ("task", "head", "gradient"))
    names = {name: config[name]["_target_"].rpartition(".")[2] for name in ("task", "head", "gradient", "model")}
    wanted = task.target if isinstance(task.target, str) else ("multi" if config["task"].get("multi_label") else "class")
    if wanted not in head.reads:
        raise InputError(f"task {names['task']} needs a head that gives {wanted}, {names['head']} gives "
                         f"{' or '.join(head.reads)}: choose another head")
    given = config["data"].get("target", "none")
    if wanted in ("class", "multi", "number") and given != wanted:
        raise InputError(f"task {names['task']} needs labels of kind {wanted}, data.target is {given}: set data.target={wanted}")
    if task.couples_rows and gradient.splits_rows:
        raise InputError(f"task {names['task']} compares rows of the whole batch, gradient {names['gradient']} splits it: "
                         "choose gradient=plain")
    if task.couples_rows and gradient.one_example_per_row:
        raise InputError(f"gradient {names['gradient']} treats examples one by one, task {names['task']} compares them")
    if config["model"]["dtype"] not in ("float32", "bfloat16"):
        raise InputError(f"model.dtype is {config['model']['dtype']!r}, expected float32 or bfloat16")


def folder_of(config: Mapping[str, Any], prefix: str = "") -> Path:
    """`run_dir`, or a name made of experiment, overrides and seed (and the W&B run of a sweep)."""
    if config["run_dir"]:
        return Path(config["run_dir"])
    import os

    overrides = [o for o in HydraConfig.get().overrides.task if not o.startswith(("run_dir=", "experiment=", "seed=", "tracker."))]
    experiment = HydraConfig.get().runtime.choices.get("experiment") or "train"
    text = re.sub(r"[^\w.=,+-]+", "_", ",".join(sorted(overrides)))
    if len(text) > 100:
        text = text[:80] + "-" + hashlib.sha256(text.encode()).hexdigest()[:8]
    parts = [prefix, experiment, text, f"seed={config['seed']}", os.environ.get("WANDB_RUN_ID", "")]
    return Path("runs") / "-".join(part for part in parts if part)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves under dotted keys."""
    return {key: leaf for name, value in tree.items() for key, leaf in
            (flatten(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {f"{prefix}{name}": value}).items()}


def compared(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that make a run what it is."""
    return {key: x for key, x in flatten(config).items() if not any(key == f or key.startswith(f + ".") for f in FREE)}


def code_hash() -> str:
    """Fingerprint of the package's code."""
    mark = hashlib.sha256()
    for path in sorted((ROOT / "ecrec_jax").rglob("*.py")):
        mark.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return mark.hexdigest()[:16]


def open_run(config: Mapping[str, Any], folder: Path) -> tuple[Any, dict[str, Any] | None]:
    """Take the folder: (lock to hold, summary if the run is finished).

    Raises:
        InputError: another process works in it, or it holds another configuration.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = open(folder / ".lock", "w")  # noqa: SIM115 (held for the life of the run)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise InputError(f"run_dir: another process is working in {folder}") from None
    path = folder / "config.yaml"
    if path.is_file():
        old, new = compared(yaml.safe_load(path.read_text(encoding="utf-8"))), compared(config)
        differ = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
        if differ:
            raise InputError(f"run_dir: {folder} holds a run with another {', '.join(differ)}; name another folder")
    elif (folder / "checkpoints").exists():
        raise InputError(f"run_dir: {folder} holds checkpoints without a config.yaml; name another folder")
    else:
        write_text(yaml.safe_dump(dict(config), allow_unicode=True, sort_keys=False), path)
        evaluate.write_json(environment(), folder / "environment.json")
    if (folder / "summary.json").is_file():
        return lock, json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return lock, None


def environment() -> dict[str, Any]:
    """Versions, devices, git state, command line, time."""
    git = lambda *words: subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True).stdout.strip()  # noqa: E731
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "hydra-core", "wandb", "numpy")
    return {"versions": {name: importlib.metadata.version(name) for name in packages}, "python": platform.python_version(),
            "machine": platform.platform(), "devices": [str(d) for d in jax.devices()], "commit": git("rev-parse", "HEAD"),
            "changed_files": git("status", "--porcelain").splitlines(), "code": code_hash(), "command": sys.argv,
            "started": time.strftime("%Y-%m-%d %H:%M:%S %z")}


def same_data(folder: Path, digest: str) -> None:
    """Refuse to go on with a run on other data.

    Raises:
        InputError: the folder was begun with another data file.
    """
    path = folder / "data.json"
    if path.is_file():
        old = json.loads(path.read_text(encoding="utf-8"))["sha256"]
        if old != digest:
            raise InputError(f"run_dir: {folder} was begun on data with sha256 {old[:12]}…, this file has {digest[:12]}…")


def write_text(text: str, path: Path) -> None:
    """Text, whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


class Stop:
    """SIGTERM or the first Ctrl-C: save and leave at the next step; the second Ctrl-C leaves at once."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.ask)

    def ask(self, number: int, frame: Any) -> None:
        """The handler."""
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __call__(self) -> bool:
        return self.asked


def compilation_cache() -> None:
    """Keep compiled programs on disk, so that the second start of a configuration is quick."""
    jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
