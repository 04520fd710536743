"""Whether a file is the one that was asked for."""

import hashlib
from pathlib import Path

from ecrec_jax.types import InputError


def checked(path: Path, content: bytes, sha256: str | None, key: str = "data.sha256") -> str:
    """The sha256 of a file's `content`.

    Raises:
        InputError: it isn't the `sha256` that `key` asks for.
    """
    return same(path, hashlib.sha256(content).hexdigest(), sha256, key)


def same(path: Path, digest: str, sha256: str | None, key: str) -> str:
    """`digest`, the sha256 of a file.

    Raises:
        InputError: it isn't the `sha256` that `key` asks for.
    """
    if sha256 not in (None, digest):
        raise InputError(f"{path}: its sha256 is {digest}, {key} says {sha256}: this is another file (null: don't compare)")
    return digest


def of(path: Path) -> str:
    """The sha256 of a file of any size."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
