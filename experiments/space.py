"""A sweep file of W&B as a search space of Optuna: what to try, what to judge by, when to give a trial up."""

import dataclasses
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from ecrec_jax.types import InputError

METHODS = ("grid", "random", "bayes")
RANGES = ("uniform", "int_uniform", "log_uniform_values")
KINDS = ({"value"}, {"values"}, {"min", "max"}, {"min", "max", "distribution"})
SCALARS = (str, int, float, bool, type(None))


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What a sweep file says; `bands`: its early termination, as (first validation that is judged, last, share kept is 1 / eta)."""

    method: Literal["grid", "random", "bayes"]
    metric: str
    goal: Literal["maximize", "minimize"]
    parameters: dict[str, dict[str, Any]]
    bands: tuple[int, int | None, int] | None

    def mark(self) -> str:
        """What makes two searches the same: trials can be compared, and stand in one space."""
        return json.dumps([self.metric, self.goal, self.parameters], sort_keys=True)

    def grid(self) -> list[dict[str, Any]]:
        """Every combination of what is given as `values`, the last parameter changing first."""
        free = {key: x["values"] for key, x in self.parameters.items() if "values" in x}
        return [dict(zip(free, map(option, chosen), strict=True)) for chosen in itertools.product(*free.values())]

    def draw(self, trial: Any) -> dict[str, Any]:
        """The values of an Optuna trial under their dotted keys."""
        return {key: drawn(trial, key, parameter) for key, parameter in self.parameters.items()}

    def ends(self) -> list[dict[str, Any]]:
        """Values to look at before anything starts: each parameter's every choice and both ends, the others at their first."""
        given = {key: x["values"] if "values" in x else [x["value"]] if "value" in x else [x["min"], x["max"]]
                 for key, x in self.parameters.items()}
        first = {key: values[0] for key, values in given.items()}
        return [first, *(first | {key: x} for key, values in given.items() for x in values[1:])]


def option(value: Any) -> Any:
    """A choice as Optuna keeps it: lists and sections as JSON."""
    return value if isinstance(value, SCALARS) else json.dumps(value, ensure_ascii=False)


def drawn(trial: Any, key: str, parameter: Mapping[str, Any]) -> Any:
    """One value."""
    if "value" in parameter:
        return parameter["value"]
    if "values" in parameter:
        kept = [option(value) for value in parameter["values"]]
        return parameter["values"][kept.index(trial.suggest_categorical(key, kept))]
    low, high = parameter["min"], parameter["max"]
    if shape(parameter) == "int_uniform":
        return trial.suggest_int(key, low, high)
    return trial.suggest_float(key, low, high, log=shape(parameter) == "log_uniform_values")


def shape(parameter: Mapping[str, Any]) -> str:
    """The distribution of a range; by its ends, as W&B, where none is named."""
    whole = isinstance(parameter["min"], int) and isinstance(parameter["max"], int)
    return parameter.get("distribution", "int_uniform" if whole else "uniform")


def read(path: Any) -> Sweep:
    """A sweep file.

    Raises:
        InputError: no such file, or what it says can't be searched here.
    """
    try:
        given = yaml.safe_load(Path(str(path)).read_text(encoding="utf-8"))
    except OSError:
        raise InputError(f"sweep: there is no file {path}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not yaml: {' '.join(str(error).split())}") from None
    try:
        return checked(given)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def checked(given: Any) -> Sweep:
    """What stands in a sweep file."""
    if not isinstance(given, dict) or not isinstance(given.get("parameters"), dict) or not given["parameters"]:
        raise InputError("parameters are missing")
    if given.get("method") not in METHODS:
        raise InputError(f"method is {given.get('method')!r}, must be one of {', '.join(METHODS)}")
    metric = given.get("metric")
    metric = metric if isinstance(metric, dict) else {}
    if not isinstance(metric.get("name"), str) or metric.get("goal") not in ("maximize", "minimize"):
        raise InputError("metric must be {name: NAME, goal: maximize or minimize}")
    for key, parameter in given["parameters"].items():
        known(key, parameter, given["method"])
    return Sweep(given["method"], metric["name"], metric["goal"], given["parameters"], bands(given.get("early_terminate")))


def known(key: str, parameter: Any, method: str) -> None:
    """Whether a parameter is one of the kinds that are searched here."""
    if not isinstance(parameter, dict) or set(parameter) not in KINDS:
        raise InputError(f"parameters.{key} must have value, or values, or min and max (and a distribution)")
    if "values" in parameter and (not isinstance(parameter["values"], list) or not parameter["values"]):
        raise InputError(f"parameters.{key}.values must be a list")
    if "min" not in parameter:
        return
    if method == "grid":
        raise InputError(f"parameters.{key}: a grid needs values")
    for name in ("min", "max"):
        if isinstance(parameter[name], bool) or not isinstance(parameter[name], int | float):
            raise InputError(f"parameters.{key}.{name} is {parameter[name]!r}, expected a number (1e-5 is text in yaml: 1.0e-5)")
    if shape(parameter) not in RANGES:
        raise InputError(f"parameters.{key}.distribution is {shape(parameter)!r}, must be one of {', '.join(RANGES)}")
    if not parameter["min"] < parameter["max"] or (shape(parameter) == "log_uniform_values" and parameter["min"] <= 0):
        raise InputError(f"parameters.{key}: min must be below max, and above 0 for log_uniform_values")
    if shape(parameter) == "int_uniform" and not (isinstance(parameter["min"], int) and isinstance(parameter["max"], int)):
        raise InputError(f"parameters.{key}: int_uniform needs whole numbers")


def bands(given: Any) -> tuple[int, int | None, int] | None:
    """Early termination."""
    if given is None:
        return None
    if not isinstance(given, dict) or given.get("type") != "hyperband":
        raise InputError("early_terminate.type must be hyperband")
    found = given.get("min_iter", 1), given.get("max_iter"), given.get("eta", 3)
    if not all(isinstance(x, int) and x >= least for x, least in zip(found, (1, 1, 2), strict=True) if x is not None):
        raise InputError("early_terminate: min_iter and max_iter must be at least 1, eta at least 2")
    return found
