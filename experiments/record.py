"""The folder of a run: its name, its lock, its configuration and surroundings; the same command goes on in it."""

import fcntl
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import yaml
from hydra.core.hydra_config import HydraConfig

from ecrec_jax import evaluate, source
from ecrec_jax.data import tokenise
from ecrec_jax.data.copies import COPIES
from ecrec_jax.section import flatten
from ecrec_jax.types import InputError
from ecrec_jax.writing import writing
from experiments import saved

# keys that may change when a run goes on
FREE = re.compile(r"run_dir|(replicas|strategy|tracker)(\..*)?|data\.(root|source|(tables\..*\.)?sha256(\..*)?|attributes_sha256)")
UNNAMED = ("run_dir=", "experiment=", "seed=", "tracker.", "strategy.coordinator=", "strategy.process")   # not in a folder name
ROOT = Path(__file__).parent.parent


def folder_of(config: Mapping[str, Any], prefix: str = "") -> Path:
    """`run_dir`, or a name made of experiment, overrides and seed (and the W&B run of a sweep)."""
    if config["run_dir"] is not None:
        if not isinstance(config["run_dir"], str) or not config["run_dir"]:
            raise InputError(f"run_dir is {config['run_dir']!r}, expected the name of a folder, or null")
        if os.environ.get("WANDB_SWEEP_ID") and os.environ.get("WANDB_RUN_ID", "") not in config["run_dir"]:
            raise InputError("run_dir: each trial of a sweep has its own: leave it null, or write ${oc.env:WANDB_RUN_ID} into it")
        return Path(config["run_dir"])
    overrides = [o for o in HydraConfig.get().overrides.task if not o.startswith(UNNAMED)]
    experiment = HydraConfig.get().runtime.choices.get("experiment") or "train"
    text = re.sub(r"[^\w.=,+-]+", "_", ",".join(sorted(overrides)))
    if len(text.encode()) > 100:   # a name has 255 bytes
        text = text.encode()[:80].decode(errors="ignore") + "-" + hashlib.sha256(text.encode()).hexdigest()[:8]
    parts = [prefix, experiment, text, f"seed={config['seed']}", os.environ.get("WANDB_RUN_ID", "")]
    return Path("runs") / "-".join(part for part in parts if part)


def compared(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that make a run what it is; debug=nan only looks at it."""
    return {key: x for key, x in flatten(config).items() if not FREE.fullmatch(key) and (key != "debug" or x not in (None, "nan"))}


@functools.cache
def code_hash() -> str:
    """Fingerprint of the code: the package's and the commands'."""
    mark = hashlib.sha256()
    for path in sorted(path for part in ("ecrec_jax", "experiments") for path in (ROOT / part).rglob("*.py")):
        mark.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return mark.hexdigest()[:16]


def marks(config: Mapping[str, Any], digest: str) -> dict[str, str]:
    """Fingerprints of what made a run: its code, its data, and its protocol (which rows are read as what, and what picks the
    checkpoint). Runs whose last two agree were tested on the same."""
    free = {"train_fraction", "batch_size", "augment", "copies", "tokenizer", "segmenter", "row_length", "max_length", "root",
            "source", "texts", "text_columns", "text_length"}
    if "fields" in config["data"]:   # what is known of a row is not which rows
        free |= {"fields", "tables", "item_fields", "separator", "history", "recency", "vectors", "min_count"}
    protocol = [{key: x for key, x in config["data"].items() if key not in free}, config["best"]]
    mark = hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()
    return {"fingerprint/code": code_hash(), "fingerprint/data": digest[:16], "fingerprint/protocol": mark[:16]}


def open_run(config: Mapping[str, Any], folder: Path) -> tuple[Any, dict[str, Any] | None]:
    """Take the folder: (lock to hold, summary if the run is finished).

    Raises:
        InputError: another process works in it, or it holds another configuration.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"run_dir: {folder} is a file")
    folder.mkdir(parents=True, exist_ok=True)
    lock = open(folder / ".lock", "w")  # noqa: SIM115 (held for the life of the run)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        begin(config, folder)
    except OSError as error:
        lock.close()
        if not isinstance(error, BlockingIOError):
            raise
        raise InputError(f"run_dir: another process is working in {folder}") from None
    except InputError:
        lock.close()
        raise
    path = folder / "summary.json"
    return lock, json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def begin(config: Mapping[str, Any], folder: Path) -> None:
    """Compare with what the folder holds, or write it down. What a start left that never saved anything is replaced, so that a
    mistake can be corrected under the same name; so is `best`, while no checkpoint was judged by it.

    Raises:
        InputError: the folder holds another configuration.
    """
    path, kept = folder / "config.yaml", folder / "checkpoints"
    numbers = [int(x.name) for x in (kept.iterdir() if kept.is_dir() else ()) if x.name.isdigit()]
    advanced = (folder / "summary.json").is_file() or bool(numbers)
    if not path.is_file() and kept.exists():
        raise InputError(f"run_dir: {folder} holds checkpoints without a config.yaml; name another folder")
    if path.is_file():
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not (folder / "environment.json").is_file():
            raise InputError(f"run_dir: {path} is not a run's; name another folder")
        old, new = (compared(saved.complete(side)) for side in (found, config))
        differ = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
        unjudged = numbers and not any(number % 2 for number in numbers)   # by best.metric
        if advanced and differ and not (unjudged and all(key.startswith("best.") for key in differ)):
            raise InputError(f"run_dir: {folder} holds a run with another {', '.join(differ)}; name another folder")
        if advanced and differ:
            write_text(yaml.safe_dump(found | {"best": config["best"]}, allow_unicode=True, sort_keys=False), path)
        if advanced:
            return
        for part in (kept, *(folder / name for name in source.FOLDERS)):
            shutil.rmtree(part, ignore_errors=True)
        for name in ("data.json", "protocol.json", *source.FILES):
            (folder / name).unlink(missing_ok=True)
    evaluate.write_json(environment(), folder / "environment.json")
    write_text(yaml.safe_dump(dict(config), allow_unicode=True, sort_keys=False), path)


def environment() -> dict[str, Any]:
    """Versions, devices, git state, command line, time."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "hydra-core", "wandb", "numpy")
    return {"versions": {name: importlib.metadata.version(name) for name in packages}, "python": platform.python_version(),
            "machine": platform.platform(), "devices": [str(d) for d in jax.devices()], "commit": git("rev-parse", "HEAD"),
            "changed_files": git("status", "--porcelain").splitlines(), "code": code_hash(), "command": sys.argv,
            "started": time.strftime("%Y-%m-%d %H:%M:%S %z")}


def git(*words: str) -> str:
    """What git says of this checkout; nothing where there is no git."""
    try:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def same_data(folder: Path, digest: str, copies: str | None = None, tokenizer: str = "") -> None:
    """Refuse to go on with a run on other data, or on other `copies` of its texts, where their digest is given, or with another
    `tokenizer`, a folder.

    Raises:
        InputError: the folder was begun with another data file or tokenizer, or what makes the copies has changed since.
    """
    path = folder / "data.json"
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        old = kept["sha256"]
        if old != digest:
            raise InputError(f"run_dir: {folder} was begun on data with sha256 {old[:12]}…, this file has {digest[:12]}…")
        if copies is not None and copies != kept[COPIES]["sha256"]:
            raise InputError(f"run_dir: {folder} was begun with other copies of its texts: a lexicon, checkpoint or function of "
                             "data.augment has changed since; name another folder")
        if tokenizer and tokenise.files(tokenizer).digest() != tokenise.files(str(folder / "tokenizer")).digest():
            raise InputError(f"run_dir: {folder} was begun with another tokenizer than {tokenizer} holds now; name another folder")


def write_text(text: str, path: Path) -> None:
    """Text."""
    with writing(path) as part:
        part.write_text(text, encoding="utf-8")
