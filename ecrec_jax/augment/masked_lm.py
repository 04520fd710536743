"""Words replaced by what a masked language model would write there."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ecrec_jax import pretrained
from ecrec_jax.data import tokenise, words
from ecrec_jax.net import split
from ecrec_jax.types import InputError, Parameters

ROWS = 32


class Hidden(NamedTuple):
    """A text with some words hidden: i32[n] its tokens, i32[k] where the masks are, which part of the text each hides, and
    f64[k] numbers of [0, 1) that will pick the new words."""

    tokens: np.ndarray
    slot: np.ndarray
    spans: list[tuple[int, int]]
    draws: np.ndarray


@dataclasses.dataclass(frozen=True)
class MaskedLM:
    """max(1, ⌊alpha · words⌋) words of a text, each hidden whole behind one [MASK], are replaced all at once by a whole word
    drawn from softmax(logits / temperature), or by the likeliest one at temperature 0. It may be the old word.

    What lies beyond the model's positions is left as it is.

    Source: Wu et al. 2019 (Conditional BERT contextual augmentation), §3, without the condition on the label.

    Raises:
        InputError: the checkpoint can't be read, or has no masked-LM head.
    """

    checkpoint: str | None
    alpha: float
    temperature: float

    def __post_init__(self):
        words.share(self.alpha)
        if self.temperature < 0:
            raise ValueError(f"temperature {self.temperature} must be at least 0")
        if self.checkpoint is None:
            raise ValueError("checkpoint is not set, and model.checkpoint isn't either: name one with a masked-LM head")

    @functools.cached_property
    def parts(self) -> tuple[Callable[..., Array], Parameters, Any]:
        """(compiled sampler, parameters, (tokenizer, the longest text in tokens, digest of the tokenizer's files))."""
        try:
            loaded = pretrained.load(str(self.checkpoint), "masked_lm")
        except InputError as error:
            raise InputError(str(error).replace("model.checkpoint", "checkpoint")) from error
        if any(name.startswith("head.") for name in loaded.report["new"]):
            raise InputError(f"checkpoint: {self.checkpoint} has no masked-LM head")
        graph, parameters, _ = split(loaded.net)
        tokenizer = tokenise.load(str(loaded.folder))
        whole = [not t.startswith(("##", "[")) and any(map(str.isalnum, t))
                 for t in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))]
        allowed = jnp.asarray(np.pad(whole, (0, loaded.facts.vocabulary - len(whole))))

        def sample(parameters: Parameters, batch: dict[str, Array], draws: Float[Array, "B S"]) -> Int[Array, "B S"]:
            logits = jnp.where(allowed, graph.net(parameters)(batch).logits(), -jnp.inf)
            if self.temperature == 0:
                return logits.argmax(-1)
            total = jnp.cumsum(jax.nn.softmax(logits / self.temperature), -1)
            return (total <= jnp.minimum(draws, 1 - 1e-6)[..., None] * total[..., -1:]).sum(-1)

        return jax.jit(sample), parameters, (tokenizer, loaded.facts.positions, tokenise.files(str(loaded.folder)).hexdigest())

    @functools.cached_property
    def mark(self) -> str:
        """The settings, the checkpoint's weights and its tokenizer."""
        found = hashlib.sha256(self.parts[2][2].encode())
        for name, x in sorted(self.parts[1].items()):
            found.update(name.encode() + np.asarray(x).tobytes())
        return f"{self.alpha} {self.temperature} {found.hexdigest()}"

    def __call__(self, texts: Sequence[str], rngs: Sequence[np.random.Generator]) -> list[str]:
        """Every text with some words replaced."""
        sample, parameters, (tokenizer, positions, _) = self.parts
        encoded = tokenizer(list(texts), truncation=True, max_length=positions)
        hidden = [self.hide(e, text, tokenizer.mask_token_id, rng)
                  for e, text, rng in zip(encoded.encodings, texts, rngs, strict=True)]
        found = []
        for start in range(0, len(texts), ROWS):
            part = hidden[start : start + ROWS]
            batch, draws = lay(part, positions)
            ids = np.asarray(sample(parameters, batch, draws))
            found += [fill(text, h.spans, tokenizer.convert_ids_to_tokens(ids[i, : len(h.slot)].tolist()))
                      for i, (h, text) in enumerate(zip(part, texts[start : start + ROWS], strict=True))]
        return found

    def hide(self, encoded: Any, text: str, mask_id: int, rng: np.random.Generator) -> Hidden:
        """Choose the words of one text."""
        pieces: dict[int, list[int]] = {}
        for token, word in enumerate(encoded.word_ids):
            if word is not None:
                pieces.setdefault(word, []).append(token)
        spans = {word: (encoded.offsets[at[0]][0], encoded.offsets[at[-1]][1]) for word, at in pieces.items()}
        cut = {word for more in encoded.overflowing[:1] for word in more.word_ids}   # a word whose end lies beyond the positions
        known = [word for word, span in spans.items() if word not in cut and any(map(str.isalnum, text[slice(*span)]))]
        chosen = sorted(rng.permutation(known)[: words.changes(self.alpha, len(known))].tolist())
        gone = {token for word in chosen for token in pieces[word][1:]}
        masked = {pieces[word][0] for word in chosen}
        kept = [token for token in range(len(encoded.ids)) if token not in gone]
        tokens = [mask_id if token in masked else encoded.ids[token] for token in kept]
        slot = [i for i, token in enumerate(kept) if token in masked]
        return Hidden(np.array(tokens, "i4"), np.array(slot, "i4"), [spans[word] for word in chosen], rng.random(len(chosen)))


def lay(hidden: Sequence[Hidden], positions: int) -> tuple[dict[str, np.ndarray], Float[np.ndarray, "B S"]]:
    """A batch with a text a row, and the draws of its slots; lengths are rounded up, so that few programs are compiled."""
    length = min(positions, -(-max(len(h.tokens) for h in hidden) // 32) * 32)
    slots = -(-max(1, *(len(h.slot) for h in hidden)) // 8) * 8
    batch = {key: np.zeros((ROWS, length), "i4") for key in ("tokens", "segment", "position", "type")}
    batch["slot"], draws = np.zeros((ROWS, slots), "i4"), np.zeros((ROWS, slots), "f4")
    for i, h in enumerate(hidden):
        n, k = len(h.tokens), len(h.slot)
        batch["tokens"][i, :n], batch["segment"][i, :n], batch["position"][i, :n] = h.tokens, 1, np.arange(n)
        batch["slot"][i, :k], draws[i, :k] = h.slot, h.draws
    return batch, draws


def fill(text: str, spans: Sequence[tuple[int, int]], new: Sequence[str]) -> str:
    """A text with parts of it replaced, capitals as they were; a word that only lost its capitals stays."""
    for (start, end), word in reversed([*zip(spans, new, strict=True)]):
        if text[start:end].lower() != word:
            text = text[:start] + words.cased(word, text[start:end]) + text[end:]
    return text
