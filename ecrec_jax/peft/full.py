"""Train every parameter."""

import dataclasses

from ecrec_jax.types import Parameters


@dataclasses.dataclass(frozen=True)
class Full:
    """Nothing is frozen."""

    def split(self, parameters: Parameters) -> tuple[Parameters, Parameters]:
        """(all, none)."""
        return dict(parameters), {}

    def merge(self, trained: Parameters, constant: Parameters) -> Parameters:
        """Both sides in one tree."""
        return constant | trained
