"""Values as overrides that Hydra reads back unharmed, and the JSON file that a sweep's agent writes as the words it stands for."""

import json
import re
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from ecrec_jax.types import InputError
from experiments.launch import CONF

BARE = re.compile(r"(?!(null|true|false|nan|inf)$)[a-z_][\w./-]*", re.ASCII | re.IGNORECASE)   # needs no quotes


def words_of(path: str) -> list[str]:
    """The overrides of a JSON object of dotted keys and values (a sweep's `${args_json_file}`).

    Raises:
        InputError: no such file, no object, or what Hydra can't be told.
    """
    try:
        given = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from None
    if not isinstance(given, dict):
        raise InputError(f"{path}: expected an object of keys and values")
    given.pop("_wandb", None)   # W&B's own notes, there when a run is resumed
    return [word for key, value in given.items() for word in overrides(key, value)]


def overrides(key: str, value: Any) -> list[str]:
    """`key=value`; of a group (a noun's section, or the root's) one for each key in it.

    Raises:
        InputError: Hydra would read another value.
    """
    if isinstance(value, dict) and value and (Path(CONF) / key).is_dir():
        return [word for name, leaf in value.items() for word in overrides(f"{key}.{name}", leaf)]
    word = f"{key}={written(value)}"
    try:
        found = OverridesParser.create().parse_override(word)
        same = found.key_or_group == key and repr(found.value()) == repr(value)
    except HydraException:
        same = False
    if not same:
        raise InputError(f"{key}: Hydra has no way to write {value!r} there")
    return [word]


def written(value: Any) -> str:
    """A value in Hydra's grammar."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return value if BARE.fullmatch(value) else QuotedString(value, Quote.double).with_quotes()
    if isinstance(value, list):
        return f"[{','.join(map(written, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{written(x)}' for key, x in value.items())}}}"
    return repr(value)
