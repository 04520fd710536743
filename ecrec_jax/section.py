"""From a section of the config to its object: no hydra, only targets of ours, every key and type checked."""

import dataclasses
import functools
import importlib
import inspect
import math
import typing
from collections.abc import Mapping
from typing import Any

from beartype.door import is_bearable
from beartype.roar import BeartypeException

from ecrec_jax.types import Facts, InputError

RATES = {"dropout", "attention_dropout", "causal"}   # facts that a config may overrule: they are choices, not shapes
FACTS = {field.name for field in dataclasses.fields(Facts)}
NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}


def target(node: Mapping[str, Any], key: str) -> Any:
    """The class a section names."""
    name = node.get("_target_") or ""
    if not name.startswith(("ecrec_jax.", "optax.")):
        raise InputError(f"{key}._target_: {name!r} is not in ecrec_jax or optax")
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        raise InputError(f"{key}._target_: there is no {name}") from None


@functools.cache
def arguments(cls: Any) -> dict[str, tuple[Any, bool]]:
    """(type, whether it has a default) of every constructor argument."""
    hints = typing.get_type_hints(cls.__init__)
    _, *parameters = inspect.signature(cls.__init__).parameters.items()   # the first is self
    return {name: (hints.get(name, Any), p.default is not inspect.Parameter.empty) for name, p in parameters
            if p.kind is not inspect.Parameter.VAR_POSITIONAL and p.kind is not inspect.Parameter.VAR_KEYWORD}


def validate(node: Mapping[str, Any], key: str) -> None:
    """Whether a section's keys are the class's and its values of the right types; `make` finds out too, but late.

    Raises:
        InputError: a key the class doesn't have, a value of the wrong type.
    """
    cls = target(node, key)
    known = arguments(cls)
    for name, value in node.items():
        if name == "_target_":
            continue
        if name not in known:
            raise InputError(f"{dotted(key, name)} is not a key of {cls.__name__}; it has "
                             f"{', '.join(n for n in known if n != 'rngs')}")
        if value is not None or name not in FACTS:
            checked(value, known[name][0], dotted(key, name))


def make(node: Mapping[str, Any], key: str, facts: Facts, **given: Any) -> Any:
    """An object from its section. Null arguments that are named like a fact are filled from it.

    Raises:
        InputError: a key the class doesn't have, a value of the wrong type, one that contradicts a fact, one that the
            class refuses, or none at all.
    """
    validate(node, key)
    cls = target(node, key)
    values = {name: value for name, value in node.items() if name != "_target_"} | given
    for name, (hint, default) in arguments(cls).items():
        fact = getattr(facts, name) if name in FACTS else None
        value = values.get(name)
        if value is None and fact is not None:
            values[name] = fact
        elif value is not None and fact is not None and name not in RATES and value != fact:
            raise InputError(f"{dotted(key, name)} is {shown(value)}, but the checkpoint or data says {shown(fact)}: leave it null")
        elif name not in values and not default:
            raise InputError(f"{dotted(key, name)} is missing" + ("; neither model nor data says it" * (name in FACTS)))
        if name in values:
            values[name] = checked(values[name], hint, dotted(key, name))
    try:
        return cls(**values)
    except ValueError as error:   # a constructor's word on its arguments
        raise InputError(str(error) if f"{key}." in str(error) else f"{key}: {error}") from error


def checked(value: Any, hint: Any, key: str) -> Any:
    """The value, if it has the annotated type; whole numbers pass for floats.

    Raises:
        InputError: it hasn't, or is a number that isn't finite.
    """
    try:
        for form in (value, floats(value)):
            if is_bearable(form, hint) and (not isinstance(form, bool) or allows_bool(hint)):
                if isinstance(form, float) and not math.isfinite(form):
                    raise InputError(f"{key} is {form}, expected a finite number")
                return form
    except BeartypeException:   # an annotation that can't be checked
        return value
    raise InputError(f"{key} is {shown(value)}, expected {describe(hint)}{advice(value, hint, key)}")


def typed(config: Mapping[str, Any], hints: Mapping[str, Any]) -> dict[str, Any]:
    """A command's configuration, those of its keys that have `hints` being of these types.

    Raises:
        InputError: one isn't.
    """
    return {**config, **{key: checked(config[key], hint, key) for key, hint in hints.items()}}


def floats(value: Any) -> Any:
    """Whole numbers as floats, in lists too."""
    if isinstance(value, list):
        return [floats(x) for x in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def allows_bool(hint: Any) -> bool:
    """Whether bool itself is among the types (Python counts True as an int)."""
    return hint is bool or bool in typing.get_args(hint) or hint is Any


def advice(value: Any, hint: Any, key: str) -> str:
    """What the writer may have meant."""
    if isinstance(value, str) and value.lower() in ("none", "nan", "nil", ""):
        return "; an empty value is written null"
    if isinstance(value, int | float) and str in (hint, *typing.get_args(hint)):
        return f"; as text it is written {key}='\"{shown(value)}\"'"
    return ""


def shown(value: Any) -> str:
    """A value as yaml writes it; text in quotes."""
    return {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else repr(value)


def dotted(key: str, name: str) -> str:
    """The path of a key; the root of the config has none."""
    return f"{key}.{name}" if key else name


def describe(hint: Any) -> str:
    """A type as a reader of yaml would say it."""
    if hint in NAMES:
        return NAMES[hint]
    parts = typing.get_args(hint)
    if typing.get_origin(hint) is dict:
        return "pairs of texts" if parts[1] is str else "sections of the config"
    if typing.get_origin(hint) is typing.Literal:
        return ("one of " if len(parts) > 1 else "") + ", ".join(map(str, parts))
    if typing.get_origin(hint) in (list, tuple):
        return f"a list of {'texts' if parts[0] is str else 'numbers'}"
    return " or ".join(describe(part) for part in parts) if parts else str(hint)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves under dotted keys."""
    return {key: leaf for name, value in tree.items() for key, leaf in
            (flatten(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {f"{prefix}{name}": value}).items()}
