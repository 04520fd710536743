"""Train biases and the head only (Ben Zaken et al. 2022, BitFit)."""

import dataclasses

from ecrec_jax.block import select
from ecrec_jax.types import Parameters


@dataclasses.dataclass(frozen=True)
class Bitfit:
    """`trained` and `frozen` are regular expressions on parameter paths; every parameter matches exactly one list."""

    trained: list[str]
    frozen: list[str]

    def split(self, parameters: Parameters) -> tuple[Parameters, Parameters]:
        """(trained, frozen)."""
        chosen = select(parameters, self.trained, self.frozen, ("peft.trained", "peft.frozen"))
        return ({k: v for k, v in parameters.items() if chosen[k]}, {k: v for k, v in parameters.items() if not chosen[k]})

    def merge(self, trained: Parameters, constant: Parameters) -> Parameters:
        """Both sides in one tree."""
        return constant | trained
