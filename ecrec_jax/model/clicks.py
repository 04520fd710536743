"""Pointwise models of fields: logistic regression, factorisation machines, DeepFM, DCN-V2 and two towers."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from ecrec_jax.block import dropout, linear
from ecrec_jax.block import embedding as embed
from ecrec_jax.lookup import lookup
from ecrec_jax.types import Batch, InputError, Noise, Strategy


class Told(NamedTuple):
    """Of every slot's example: the sum of its tokens' weights, the sum of the squares of their vectors, and each field's vector,
    a sum over its tokens; everything times the tokens' values."""

    weight: Float[Array, "B S"]
    square: Float[Array, "B S D"]
    field: Float[Array, "B S F D"]


class Layers(nnx.Module):
    """Dense layers with relu and dropout; the last one, of `outputs` numbers, without."""

    def __init__(self, inputs: int, units: Sequence[int], outputs: int, rate: float, rngs: nnx.Rngs):
        if not 0 <= rate < 1:
            raise InputError(f"model.layer_dropout is {rate}, must be 0 or more, below 1")
        if min([outputs, *units]) < 1:
            raise InputError(f"model.units are {[*units, outputs]}, must be at least 1 each")
        sizes = [inputs, *units]
        self.layer = nnx.List([linear(a, b, "glorot", rngs) for a, b in zip(sizes, units, strict=False)])
        self.last, self.rate = linear(sizes[-1], outputs, "glorot", rngs), rate

    def __call__(self, x: Float[Array, "B S I"], noise: Noise | None, site: int) -> Float[Array, "B S O"]:
        for number, layer in enumerate(self.layer):
            x = dropout(jax.nn.relu(layer(x)), noise, site + number, self.rate)
        return self.last(x)


class Logistic(nnx.Module):
    """Σ w_i x_i over an example's tokens: with a head's bias, logistic regression.

    A model says one number (`width`) of every example, whose first token is its slot; the head scales and moves it.
    """

    reads_values = True

    def __init__(self, vocabulary: int, types: int, width: int, dropout: float, causal: bool, initializer_range: float,
                 rngs: nnx.Rngs, embedding: int = 0):
        for name, given, wanted in (("width", width, 1), ("dropout", dropout, 0.0), ("causal", causal, False)):
            if given != wanted:
                raise InputError(f"model.{name} is {given}, but this model says one number of an example, whose fields have no "
                                 f"order: set it to {str(wanted).lower()}")
        self.weights = embed(vocabulary, 1, initializer_range, rngs)
        self.vectors = embed(vocabulary, embedding, initializer_range, rngs) if embedding else None
        self.types = types

    def told(self, batch: Batch, slot: Int[Array, "B S"] | None) -> Told:
        """What the tables say."""
        segment, value = batch["segment"], batch.get("value")
        own = segment if slot is None else jnp.take_along_axis(segment, slot, 1)
        weight = lookup(self.weights.embedding[...], batch["tokens"])[..., 0]
        value = jnp.ones(segment.shape, weight.dtype) if value is None else value.astype(weight.dtype)
        mine = (own[:, :, None] == segment[:, None]).astype(weight.dtype) * value[:, None]
        summed = (mine @ weight[..., None])[..., 0]
        if self.vectors is None:
            return Told(summed, summed[..., None], summed[..., None, None])
        vector = lookup(self.vectors.embedding[...], batch["tokens"])
        kind = jax.nn.one_hot(batch["type"], self.types, dtype=vector.dtype)
        by_field = jnp.einsum("bsl,blf->bsfl", mine, kind)
        fields = by_field.reshape(len(mine), -1, mine.shape[-1]) @ vector
        return Told(summed, (mine * value[:, None]) @ jnp.square(vector), fields.reshape(*by_field.shape[:3], -1))

    def __call__(self, batch: Batch, noise: Noise | None = None, strategy: Strategy | None = None,
                 slot: Int[Array, "B S"] | None = None) -> Float[Array, "B S 1"]:
        """The number of the examples at the slots, or of every token's example."""
        return self.said(self.told(batch, slot), noise)[..., None]

    def said(self, told: Told, noise: Noise | None) -> Float[Array, "B S"]:
        """The number."""
        return told.weight

    def pool(self, hidden: Float[Array, "B S 1"]) -> Float[Array, "B S 1"]:
        """As it is."""
        return hidden

    def table(self) -> Float[Array, "V D"]:
        """There is none that a head could be tied to.

        Raises:
            InputError: always.
        """
        raise InputError("head: a model of fields has no table that a head could be tied to: choose head=classify or head=regress")


class Factorisation(Logistic):
    """Σ w_i x_i + Σ_{i<j} <v_i, v_j> x_i x_j, in linear time (Rendle 2010, "Factorization machines", eq. 1 and lemma 3.1)."""

    def __init__(self, vocabulary: int, types: int, width: int, dropout: float, causal: bool, initializer_range: float,
                 rngs: nnx.Rngs, embedding: int):
        super().__init__(vocabulary, types, width, dropout, causal, initializer_range, rngs, some(embedding))

    def said(self, told: Told, noise: Noise | None) -> Float[Array, "B S"]:
        """Half of the square of the sum less the sum of the squares."""
        return told.weight + 0.5 * (jnp.square(told.field.sum(2)) - told.square).sum(-1)


class DeepFM(Factorisation):
    """A factorisation machine plus dense layers over the fields' vectors (Guo et al. 2017, "DeepFM", eq. 1 to 4)."""

    def __init__(self, vocabulary: int, types: int, width: int, dropout: float, causal: bool, initializer_range: float,
                 embedding: int, units: list[int], layer_dropout: float, rngs: nnx.Rngs):
        super().__init__(vocabulary, types, width, dropout, causal, initializer_range, rngs, embedding)
        self.slots = Layers(types * embedding, units, 1, layer_dropout, rngs)

    def said(self, told: Told, noise: Noise | None) -> Float[Array, "B S"]:
        """The sum of both."""
        return super().said(told, noise) + self.slots(flat(told.field), noise, 0)[..., 0]


class Crossed(nnx.Module):
    """Layers x ← x₀ ⊙ (W x + b) + x beside dense layers, and a dense layer over both."""

    def __init__(self, inputs: int, depth: int, units: list[int], rate: float, rngs: nnx.Rngs):
        self.cross = nnx.List([linear(inputs, inputs, "glorot", rngs) for _ in range(depth)])
        self.deep = Layers(inputs, units[:-1], units[-1], rate, rngs)
        self.last = linear(inputs + units[-1], 1, "glorot", rngs)

    def __call__(self, first: Float[Array, "B S I"], noise: Noise | None) -> Float[Array, "B S 1"]:
        x = first
        for layer in self.cross:
            x = first * layer(x) + x
        return self.last(jnp.concatenate([x, jax.nn.relu(self.deep(first, noise, 0))], -1))


class DCNv2(Logistic):
    """Crosses of the fields' vectors beside dense layers (Wang et al. 2021, "DCN V2", eq. 1 and 3, the parallel structure)."""

    def __init__(self, vocabulary: int, types: int, width: int, dropout: float, causal: bool, initializer_range: float,
                 embedding: int, depth: int, units: list[int], layer_dropout: float, rngs: nnx.Rngs):
        if not units:
            raise InputError("model.units is empty, and DCN-V2 has dense layers beside its crosses: give at least one size")
        super().__init__(vocabulary, types, width, dropout, causal, initializer_range, rngs, some(embedding))
        self.slots = Crossed(types * embedding, depth, units, layer_dropout, rngs)

    def said(self, told: Told, noise: Noise | None) -> Float[Array, "B S"]:
        """Weights of single values are in the vectors' crosses already; they are added all the same, as in a wide part."""
        return told.weight + self.slots(flat(told.field), noise)[..., 0]


class TwoTower(Logistic):
    """<u, i>: dense layers of the item's fields' vectors, others of all other fields' (Covington et al. 2016; Yi et al. 2019), so
    that items can be found by their vectors alone."""

    parts_items = True

    def __init__(self, vocabulary: int, types: int, width: int, dropout: float, causal: bool, initializer_range: float,
                 embedding: int, units: list[int], layer_dropout: float, item_fields: tuple[int, ...], rngs: nnx.Rngs):
        if not units or not 0 < len(item_fields) < types:
            raise InputError("model=two_tower needs data.item_fields that are some of the fields, and model.units of some size")
        super().__init__(vocabulary, types, width, dropout, causal, initializer_range, rngs, some(embedding))
        self.sides = tuple(k for k in range(types) if k not in item_fields), tuple(item_fields)
        self.slots = nnx.List([Layers(len(side) * embedding, units[:-1], units[-1], layer_dropout, rngs) for side in self.sides])

    def said(self, told: Told, noise: Noise | None) -> Float[Array, "B S"]:
        """The product, and the weights of single values."""
        user, item = (tower(flat(told.field[:, :, jnp.array(side)]), noise, 8 * number)
                      for number, (tower, side) in enumerate(zip(self.slots, self.sides, strict=True)))
        return told.weight + (user * item).sum(-1)


def some(embedding: int) -> int:
    """The numbers of a vector.

    Raises:
        InputError: there are none.
    """
    if embedding < 1:
        raise InputError(f"model.embedding is {embedding}, must be at least 1; without vectors it is model=logistic")
    return embedding


def flat(x: Float[Array, "B S F D"]) -> Float[Array, "B S I"]:
    """Fields' vectors side by side."""
    return x.reshape(*x.shape[:2], -1)
