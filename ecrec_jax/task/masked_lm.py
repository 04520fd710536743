"""Predict the tokens that were hidden."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ecrec_jax import losses, metrics
from ecrec_jax.factored import Factored
from ecrec_jax.types import Batch, Columns, Example, InputError

LONGEST, STOP = 10, 0.2   # words of a span, and the chance that it ends after each


@dataclasses.dataclass(frozen=True)
class MaskedLM:
    """Masked language modelling (Devlin et al. 2019, §3.1).

    Of an example's n ordinary tokens exactly round(rate · n) are read; of those a share `masked` becomes [MASK],
    `random` a random ordinary token, the rest stays. The slots are these tokens, so the vocabulary product runs on them alone.

    `unit`: tokens are hidden one by one, by whole words, or by spans of l words, P(l) ∝ .8^(l − 1) for l ≤ 10, that share
    one fate (Joshi et al. 2020, SpanBERT, §3.1). Words that no longer fit are passed over; if none fits, one is cut.
    """

    rate: float
    unit: Literal["token", "word", "span"]
    masked: float
    random: float
    vocabulary: int
    mask_id: int
    special_ids: tuple[int, ...]
    couples_rows = False
    target = "tokens"

    def __post_init__(self):
        if not 0 < self.rate < 1:
            raise InputError(f"task.rate {self.rate} must lie between 0 and 1")
        if self.masked < 0 or self.random < 0 or self.masked + self.random > 1:
            raise InputError(f"task.masked {self.masked} and task.random {self.random} must be shares that sum to at most 1")

    @functools.cached_property
    def may_hide(self) -> np.ndarray:
        """Of every token, whether it may be hidden."""
        return np.isin(np.arange(self.vocabulary), self.special_ids, invert=True)

    @functools.cached_property
    def ordinary_ids(self) -> np.ndarray:
        """The tokens that may be hidden, rising."""
        return self.may_hide.nonzero()[0].astype("i4")

    def ordinary(self, example: Example) -> np.ndarray:
        """Positions of the tokens that may be hidden."""
        return self.may_hide[example.tokens].nonzero()[0]

    def size(self, example: Example) -> tuple[int, int]:
        """All tokens, a slot for every hidden one."""
        return len(example.tokens), round(self.rate * len(self.ordinary(example)))

    def hidden(self, example: Example, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(slots in order, i32[k] a number of the token, word or span that each is hidden with)."""
        places = self.ordinary(example)
        left = round(self.rate * len(places))
        if self.unit == "token":
            slot = np.sort(rng.permutation(places)[:left]).astype("i4")
            return slot, slot
        if example.word is None:
            raise InputError(f"task.unit is {self.unit}, but this data does not know words: set task.unit=token")
        word = np.unique(example.word[places], return_inverse=True)[1]
        size = np.bincount(word)
        starts = rng.permutation(len(size))
        chance = STOP * (1 - STOP) ** np.arange(LONGEST)
        lengths = rng.choice(LONGEST, len(size), p=chance / chance.sum()) + 1 if self.unit == "span" else np.ones_like(starts)
        span = np.full(len(size), -1)
        for start, length in zip(starts, lengths, strict=True):
            if not left:
                break
            if span[start] < 0:
                for k in range(start, min(start + length, len(size))):
                    if span[k] < 0 and size[k] <= left:
                        span[k], left = start, left - size[k]
        chosen = span[word] >= 0
        if left:   # the first word that was too long
            cut = starts[span[starts] < 0][0]
            chosen[np.flatnonzero(word == cut)[:left]], span[cut] = True, cut
        return places[chosen].astype("i4"), span[word[chosen]]

    def prepare(self, example: Example, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Draw the hidden tokens and what stands in their place."""
        slot, start = self.hidden(example, rng)
        label, tokens, draw = example.tokens[slot], example.tokens.copy(), rng.random(len(slot))
        if self.unit == "span":
            _, first, spans = np.unique(start, return_index=True, return_inverse=True)
            draw = draw[first][spans]
        other = self.ordinary_ids[rng.integers(0, len(self.ordinary_ids), len(slot))]
        tokens[slot] = np.where(draw < self.masked, self.mask_id, np.where(draw < self.masked + self.random, other, label))
        return {"tokens": tokens, "type": example.type, "slot": slot, "label": label, "weight": np.ones(len(slot), "f4")}

    def loss(self, outputs: Factored, batch: Batch, gather: Callable[[Any], Any]) -> Float[Array, "B S"]:
        """Cross-entropy over the vocabulary."""
        return losses.factored_cross_entropy(outputs, batch["label"])

    def columns(self, outputs: Factored, batch: Batch) -> dict[str, Array]:
        """Whether the likeliest token is the hidden one."""
        return {"hit": (outputs.best() == batch["label"]).astype(jnp.float32)}

    def metrics(self, columns: Columns) -> dict[str, Any]:
        """Perplexity and accuracy on the hidden tokens."""
        return metrics.language_model(columns["loss"], columns["hit"])
