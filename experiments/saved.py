"""The configuration in a run's folder, as today's code reads it."""

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ecrec_jax import source
from ecrec_jax.types import InputError
from experiments import wiring
from experiments.launch import CONF


def opened(name: Any) -> tuple[Path, dict[str, Any]]:
    """(folder, configuration) of a run that a command names.

    Raises:
        InputError: no run is there, or a baseline's, or its configuration has a key that there is no more.
    """
    if not isinstance(name, str) or not (Path(name) / "config.yaml").is_file():
        raise InputError(f"run_dir: {name} holds no run (no config.yaml)")
    folder = Path(name)
    config = complete(source.load_config(folder))
    if "baseline" in config:
        raise InputError(f"run_dir: {folder} holds a baseline, which leaves numbers and predictions alone: recommend, evaluate, "
                         "predict and export need a model that was trained")
    try:
        wiring.known(config)
    except InputError as error:
        raise InputError(f"{folder / 'config.yaml'}: {error}") from None
    return folder, config


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the keys that were added to conf/ since it was written, at their defaults: whoever adds a key gives
    it the default that leaves runs as they were."""
    root = {name: value for name, value in option(Path(CONF) / "train.yaml").items() if name in wiring.ROOTS}
    nouns = {name: defaults(name, node.get("_target_")) | node for name, node in config.items()
             if name in (*wiring.NOUNS, "baseline") and isinstance(node, dict)}
    return root | dict(config) | nouns


def defaults(noun: str, target: Any) -> dict[str, Any]:
    """The keys of the option that names a class itself; others are built on it."""
    found = (option(path) for path in sorted((Path(CONF) / noun).glob("*.yaml")))
    return next((node for node in found if node.get("_target_") == target), {})


@functools.cache
def option(path: Path) -> dict[str, Any]:
    """A yaml of conf/ alone, without what has to be given or is another key's, such as ${seed}."""
    node = OmegaConf.load(path)
    own = [name for name, value in OmegaConf.to_container(node).items()
           if name not in ("defaults", "hydra") and not re.fullmatch(r"\?{3}|\$\{[\w.]+\}", str(value))]
    return OmegaConf.to_container(OmegaConf.masked_copy(node, own), resolve=True)
