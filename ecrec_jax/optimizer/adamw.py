"""AdamW with warm-up, decay of the rate, and clipping."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ecrec_jax.block import select
from ecrec_jax.types import InputError, Parameters

LOWEST = re.compile(r"\bmodel\.(embeddings|items|position|type|text|weights|vectors)\.")   # below all layers


def clipped(gradient: Parameters, most: Any) -> Parameters:
    """The gradient, scaled by one number to a global norm of at most `most`; optax's divides each of its numbers, which XLA does
    in a pass of its own. Source: Pascanu et al. 2013, "On the difficulty of training recurrent neural networks", alg. 1."""
    share = jnp.minimum(1, most / optax.tree.norm(gradient))
    return jax.tree.map(lambda x: x * share.astype(x.dtype), gradient)


@dataclasses.dataclass(frozen=True)
class Adamw:
    """AdamW (Loshchilov & Hutter 2019, alg. 2). `warmup` is a share of all steps; `clip` the largest global norm of a
    gradient (null: none); `decay` and `no_decay` are regular expressions on parameter paths that cover every one. Each layer
    learns at `layer_decay` times the rate of the one above it (Howard & Ruder 2018, §3.2), the embeddings below them all.
    `rate_of`: the share of the rate that parameters learn at besides, by regular expressions on their paths."""

    learning_rate: float
    weight_decay: float
    schedule: Literal["linear", "cosine", "constant"]
    warmup: float
    clip: float | None
    layer_decay: float
    beta1: float
    beta2: float
    epsilon: float
    decay: list[str]
    no_decay: list[str]
    steps: int
    rate_of: dict[str, float] | None = None
    leaves = ("learning_rate", "weight_decay", "warmup", "beta1", "beta2", "epsilon", "clip")   # in the state: replicas may differ

    def __post_init__(self):
        for name in ("warmup", "beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"optimizer.{name} is {getattr(self, name)}, must be 0 or more, below 1")
        if not 0 < self.layer_decay <= 1:
            raise InputError(f"optimizer.layer_decay is {self.layer_decay}, must be above 0 and at most 1")
        for pattern, share in (self.rate_of or {}).items():
            if not 0 <= share < math.inf:
                raise InputError(f"optimizer.rate_of: the share {share} of {pattern!r} must be 0 or more")
            try:
                re.compile(pattern)
            except re.error as error:
                raise InputError(f"optimizer.rate_of: {pattern!r} is not a regular expression ({error})") from None
        for name in ("learning_rate", "weight_decay", "epsilon", "clip"):
            if (getattr(self, name) or 0) < 0 or (name == "clip" and self.clip == 0):
                raise InputError(f"optimizer.{name} is {getattr(self, name)}, must not be negative")

    def factor(self, step: Any, warm: Any, steps: Any) -> Float[Array, ""]:
        """What the rate is multiplied by at a step: up linearly over `warm` steps, then as the schedule says; clamped."""
        rise = jnp.minimum((step + 1) / jnp.maximum(warm, 1), 1.0)
        share = jnp.clip((step - warm) / jnp.maximum(steps - warm, 1), 0.0, 1.0)
        fall = {"linear": 1 - share, "cosine": 0.5 * (1 + jnp.cos(jnp.pi * share)), "constant": 1.0}[self.schedule]
        return jnp.asarray(rise * fall, jnp.float32)

    def decayed(self, paths: Sequence[str]) -> dict[str, bool]:
        """Which parameters shrink."""
        return select(paths, self.decay, self.no_decay, ("optimizer.decay", "optimizer.no_decay"))

    def shares(self, paths: Sequence[str]) -> dict[str, float]:
        """The share of the rate that each parameter learns at: 1 for the head and what else stands above the layers."""
        below, above = {}, 0
        for inner in (False, True):   # a text encoder stands below the layers that read what it makes
            some = [path for path in paths if path.startswith("model.text_encoder.") is inner]
            found = {path: re.search(r"\.layer\.(\d+)\.", path) for path in some}
            depth = 1 + max((int(hit[1]) for hit in found.values() if hit), default=-1)
            below |= {path: above + (depth - int(hit[1]) if hit else (depth + 1) * bool(LOWEST.search(path)))
                      for path, hit in found.items()}
            above = depth + 1
        for pattern in self.rate_of or {}:
            if not any(re.search(pattern, path) for path in paths):
                raise InputError(f"optimizer.rate_of: no parameter that is trained has a path like {pattern!r}")
        own = lambda path: math.prod(x for pattern, x in (self.rate_of or {}).items() if re.search(pattern, path))  # noqa: E731
        return {path: own(path) * self.layer_decay ** below[path] for path in paths}

    def transformation(self, paths: Sequence[str]) -> optax.GradientTransformation:
        """The chain for these parameters; its numbers are leaves of the state, so that replicas may differ in them."""
        mask, shares = self.decayed(paths), self.shares(paths)

        def chain(learning_rate: Any, weight_decay: Any, beta1: Any, beta2: Any, epsilon: Any, warm: Any, steps: Any,
                  clip: Any = None) -> optax.GradientTransformation:
            parts = [optax.scale_by_adam(beta1, beta2, epsilon), optax.add_decayed_weights(weight_decay, mask),
                     optax.stateless(lambda updates, _: {path: x * shares[path] for path, x in updates.items()}),
                     optax.scale_by_schedule(lambda step: self.factor(step, warm, steps)),
                     optax.scale_by_learning_rate(learning_rate)]
            return optax.chain(*([] if clip is None else [optax.stateless(lambda updates, _: clipped(updates, clip))]), *parts)

        numbers = {} if self.clip is None else {"clip": self.clip}
        return optax.inject_hyperparams(chain)(self.learning_rate, self.weight_decay, self.beta1, self.beta2, self.epsilon,
                                               round(self.warmup * self.steps), self.steps, **numbers)

    def init(self, trained: Parameters) -> Any:
        """The state at step 0."""
        return self.transformation(list(trained)).init(trained)

    def update(self, gradient: Parameters, opt: Any, trained: Parameters) -> tuple[Parameters, Any]:
        """(what to add to the parameters, the next state)."""
        return self.transformation(list(trained)).update(gradient, opt, trained)

    def learning_rate_at(self, opt: Any) -> Float[Array, ""]:
        """The rate that the last update used."""
        numbers = opt.hyperparams
        return numbers["learning_rate"] * self.factor(opt.count - 1, numbers["warm"], numbers["steps"])
