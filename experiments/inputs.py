"""The files that a run reads, as its configuration names them: their digests, or the sentence that one isn't here."""

import functools
import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ecrec_jax import source
from ecrec_jax.data import digest, file
from ecrec_jax.section import flatten

FILES = re.compile(r"data\.(path(\.\w+)?|attributes|vectors|items|texts|tables\.[^.]+\.path|augment\.[^.]+\.(lexicon|common))")
CHECKPOINTS = re.compile(r"model\.(checkpoint|text_encoder)|data\.tokenizer|data\.augment\.[^.]+\.checkpoint")


def digests(config: Mapping[str, Any], fetch: bool = False) -> dict[str, str]:
    """{key: sha256} of every file and checkpoint that the configuration names; `fetch`: get a hub's if it isn't here.

    Raises:
        InputError: one isn't here; says where to get it, as far as `data.source` does.
    """
    data, found = config["data"], {}
    flat = flatten({"data": data, "model": config["model"]})
    for key, name in flat.items():
        if name is None:
            continue
        if FILES.fullmatch(key):
            told = flat.get(key.replace("path", "sha256") if "path" in key else f"{key}_sha256")
            found[key] = sha256(file.here(name, data["root"], key, data.get("source"), told))
        elif CHECKPOINTS.fullmatch(key) and not ("baseline" in config and key.startswith("model.")):   # it has no model
            found[key] = folder_digest(source.locate(name, key, fetch))
    return found


sha256 = functools.cache(digest.of)


@functools.cache
def folder_digest(folder: Path) -> str:
    """The sha256 of what a checkpoint is made of: a run's own checkpoints, or all files of another folder."""
    return hashlib.sha256("".join(f"{path.relative_to(folder)} {sha256(path)}\n" for path in weights(folder)).encode()).hexdigest()


def weights(folder: Path) -> Iterator[Path]:
    """The files of a checkpoint, in order."""
    run = (folder / "facts.json").is_file()
    return (path for path in sorted((folder / "checkpoints").rglob("*") if run else folder.iterdir()) if path.is_file())
