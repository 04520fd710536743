"""Texts through another language and back, by whatever function does it."""

import dataclasses
import functools
import hashlib
import importlib
import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ecrec_jax.data.clean import clean
from ecrec_jax.types import InputError


@dataclasses.dataclass(frozen=True)
class BackTranslation:
    """`function`, named `package.module:name`, is called with every text; where it gives an empty one the text stays.

    Source: Sennrich et al. 2016 (Improving NMT models with monolingual data); for classifiers Xie et al. 2020 (UDA), §3.

    Raises:
        InputError: no such function, or it doesn't give text.
    """

    function: str

    @functools.cached_property
    def translate(self) -> Callable[[str], str]:
        """The function, imported: code of the user's own."""
        module, _, name = self.function.partition(":")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError, TypeError) as error:
            raise InputError(f"function: {self.function!r} can't be imported as package.module:name ({error})") from None
        if not callable(found):
            raise InputError(f"function: {self.function} is no function")
        return found

    @property
    def mark(self) -> str:
        """Its name and its file's content, where it has one."""
        try:
            code = Path(inspect.getfile(inspect.unwrap(self.translate))).read_bytes()
        except (TypeError, OSError):
            code = b""
        return f"{self} {hashlib.sha256(code).hexdigest()}"

    def __call__(self, texts: Sequence[str], rngs: Sequence[np.random.Generator]) -> list[str]:
        """Every text as it comes back; draws nothing, so copies of a text are alike."""
        found = []
        for text in texts:
            back = self.translate(text)
            if not isinstance(back, str):
                raise InputError(f"function: {self.function} gave {type(back).__name__} for {text[:40]!r}, expected text")
            found.append(clean(back, Counter()) or text)
        return found
