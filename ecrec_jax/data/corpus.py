"""What every kind of data gives."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ecrec_jax.types import Example


class Catalogue(NamedTuple):
    """What items 1, 2, … and users 0, 1, … are called."""

    items: Sequence[str]
    users: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Corpus:
    """What `load` found: examples and texts of each split, what the labels are, what happened on the way, and what is known of each
    token, what its text is and how many tokens of it count, if these are items, or of the columns, if these are fields; the items
    that each user of the training split is trained on, whatever a network reads of them, and the `log`'s own digest."""

    examples: dict[str, list[Example]]
    texts: dict[str, list[str]]
    facts: dict[str, Any]
    digest: str
    report: dict[str, Any]
    catalogue: Catalogue | None = None
    vectors: Float[np.ndarray, "V F"] | None = None
    item_texts: tuple[list[str], int] | None = None
    fields: dict[str, Any] | None = None
    trained: dict[int, Int[np.ndarray, "n"]] | None = None
    log: str | None = None
