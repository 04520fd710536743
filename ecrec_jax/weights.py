"""What weights begin as: drawn from the seed, or nothing where a checkpoint gives them."""

from collections.abc import Callable
from typing import Any

import numpy as np
from flax import nnx


class Later(nnx.Rngs):
    """Keys for a module whose weights come later: `initial` leaves them zero, for to draw those of a BERT takes seconds."""


def after(rngs: nnx.Rngs, seed: int) -> nnx.Rngs:
    """Keys that go on where those of the same seed ended, for weights that are drawn in any case."""
    made = nnx.Rngs(seed)
    made.default.count[...] = rngs.default.count[...]
    return made


def initial(spread: float | str, rngs: nnx.Rngs) -> Callable[..., Any]:
    """Normal(0, spread); of `glorot`, normal(0, √(2 / (inputs + outputs))) (Glorot & Bengio 2010); zeros for who draws later."""
    if isinstance(rngs, Later):
        return lambda key, shape, dtype=np.float32: np.zeros(shape, dtype)
    return nnx.initializers.variance_scaling(1.0, "fan_avg", "normal") if spread == "glorot" else nnx.initializers.normal(spread)
