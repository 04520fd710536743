"""Lists that don't say the same thing ten times."""

import numpy as np
from jaxtyping import Float, Int


def mmr(scores: Float[np.ndarray, "P"], vectors: Float[np.ndarray, "P D"], k: int, weight: float) -> Int[np.ndarray, "k"]:
    """The places of k of P candidates: one after the other the one with the largest (1 − w) · score − w · its largest cosine with
    those chosen. Scores are moved to [0, 1] first; w = 0 keeps their order.

    Source: Carbonell & Goldstein 1998 (maximal marginal relevance), with λ = 1 − w.
    """
    spread = np.ptp(scores)
    relevance = (scores - scores.min()) / spread if spread > 0 else np.zeros(len(scores))
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    near, left, chosen = np.zeros(len(scores)), np.ones(len(scores), bool), []
    for _ in range(min(k, len(scores))):
        value = np.where(left, (1 - weight) * relevance - weight * near, -np.inf)
        best = int(value.argmax())
        chosen.append(best)
        left[best] = False
        cosine = unit @ unit[best]
        near = cosine if len(chosen) == 1 else np.maximum(near, cosine)
    return np.array(chosen)


def similarity(vectors: Float[np.ndarray, "U K D"]) -> float:
    """Mean cosine of the pairs in each list; 1 less it is the intra-list diversity (Ziegler et al. 2005, eq. 5)."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    size = unit.shape[1]
    both = np.square(unit.sum(1)).sum(-1) - np.square(unit).sum((1, 2))
    return float(both.mean() / (size * (size - 1)))
