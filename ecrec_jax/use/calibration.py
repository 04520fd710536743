"""Whether scores mean what they say: how often those of one size are right."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class Bins:
    """Scores by their size: `edges` of K bins, how many scores lie in each, their mean, and the share of them that is right (both
    0 in an empty bin)."""

    edges: Float[np.ndarray, "K1"]
    count: Int[np.ndarray, "K"]
    confidence: Float[np.ndarray, "K"]
    accuracy: Float[np.ndarray, "K"]

    def error(self) -> float:
        """Expected calibration error: Σ_k n_k / n · |accuracy_k − confidence_k|. **Source**: Naeini et al. 2015; Guo et al. 2017,
        section 2."""
        return float((self.count * np.abs(self.accuracy - self.confidence)).sum() / max(self.count.sum(), 1))


def reliability(confidence: Float[np.ndarray, "E"], right: Bool[np.ndarray, "E"], bins: int = 10) -> Bins:
    """Scores of [0, 1] in bins of one width, each with its upper edge (Guo et al. 2017: ((k − 1) / K, k / K])."""
    where = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(where, minlength=bins)
    sums = (np.bincount(where, weights=x, minlength=bins) for x in (confidence, right.astype("f8")))
    mean, share = (x / np.maximum(count, 1) for x in sums)
    return Bins(np.linspace(0, 1, bins + 1), count, mean, share)
