"""The BERT that reads items' texts inside a recommender and is trained along."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Int

from ecrec_jax.data import tokenise
from ecrec_jax.data.corpus import Corpus
from ecrec_jax.head.embed import Embed
from ecrec_jax.net import Graph, Net
from ecrec_jax.section import make
from ecrec_jax.source import ENCODER, Source, fit, load_facts, read, save_facts
from ecrec_jax.types import Facts, InputError, Parameters
from ecrec_jax.weights import Later
from ecrec_jax.writing import writing

PREFIX, VECTORS = "model.text_encoder.", "model.vectors"


@dataclasses.dataclass(frozen=True)
class TextEncoder:
    """Its sizes, the token ids of every item's text (0 beyond its end; padding and mask have [CLS] [SEP]), and the checkpoint that
    it begins with."""

    facts: Facts
    texts: Int[np.ndarray, "V T"]
    source: Source | None

    def module(self, seed: int, later: bool) -> Net:
        """The encoder, a mean over each text; drawn are weights that come neither from its checkpoint nor `later`."""
        rngs = Later(seed) if later or self.source else nnx.Rngs(seed)
        bert = make({"_target_": "ecrec_jax.model.bert.Bert"}, "model.text_encoder", self.facts, rngs=rngs)
        return Net(bert, Embed("mean"))

    def fill(self, parameters: Parameters) -> Parameters:
        """A recommender's parameters, the encoder's from the checkpoint."""
        if self.source is None:
            return parameters
        own = {name.removeprefix(PREFIX): x for name, x in parameters.items() if name.startswith(PREFIX)}
        found, _ = fit(own, self.source)
        return parameters | {PREFIX + name: x for name, x in found.items()}

    def read(self, graph: Graph, given: Parameters) -> Parameters:
        """The constant that a recommender of these parameters and constants makes of all texts."""
        items = jnp.arange(len(self.texts))
        return {VECTORS: jax.jit(lambda given: graph.net(given).model.encode(items, None))(given)}

    def save(self, folder: Path) -> None:
        """Beside a run."""
        place = folder / ENCODER
        save_facts(self.facts, place)
        with writing(place / "texts.npy") as part, open(part, "wb") as file:
            np.save(file, self.texts, allow_pickle=False)


def of(config: Mapping[str, Any], corpus: Corpus) -> TextEncoder | None:
    """What `model.text_encoder` names, if anything, with the texts of all items. It has its checkpoint's rates of dropout, or none
    if the model has none.

    Raises:
        InputError: no texts, or the checkpoint is no BERT that sees both sides.
    """
    reference = config["model"].get("text_encoder")
    if reference is None:
        return None
    if corpus.item_texts is None:
        raise InputError("model.text_encoder reads the items' texts: set data.texts, a table with item and data.text_columns")
    source, (texts, length) = read(reference, "model.text_encoder"), corpus.item_texts
    if source.facts.get("activation") is None or source.facts.get("causal"):
        raise InputError(f"model.text_encoder: {source.folder} holds no BERT that sees both sides")
    folder = str(source.words())
    facts, special = Facts(**source.facts, pooler=False), tokenise.facts(folder)
    if config["model"]["dropout"] == 0:
        facts = dataclasses.replace(facts, dropout=0.0, attention_dropout=0.0)
    ragged = tokenise.tokenise(folder, texts, None, facts.longest(length))
    none = np.array([special["cls_id"], special["sep_id"]], "i4")
    rows = [none, *(ragged[i][0] for i in range(len(texts))), none]
    found = np.zeros((len(rows), max(map(len, rows))), "i4")
    for row, tokens in zip(found, rows, strict=True):
        row[: len(tokens)] = tokens
    corpus.report["texts cut"] = int(ragged.truncated.sum())
    return TextEncoder(facts, found, source)


def kept(folder: Path, config: Mapping[str, Any]) -> TextEncoder | None:
    """What a run of this configuration has, if it has one."""
    if config["model"].get("text_encoder") is None:
        return None
    place = folder / ENCODER
    return TextEncoder(load_facts(place), np.load(place / "texts.npy", allow_pickle=False), None)
