"""What the opponents read: token ids end to end, in padded batches. Needs torch, nothing of ours."""

from collections.abc import Iterator

import numpy as np
import torch


def mixed(dtype: str) -> torch.autocast:
    """Where products are made in `dtype`, float32 or bfloat16; weights stay float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")


class Texts:
    """Token ids end to end, with labels; batches of them for ever."""

    def __init__(self, path: str):
        with np.load(path, allow_pickle=False) as kept:
            self.tokens, self.offset, self.label = kept["tokens"], kept["offset"], kept["label"]
        self.length = np.diff(self.offset)

    def order(self, rng: np.random.Generator, size: int, grouped: bool) -> Iterator[np.ndarray]:
        """Rows of each batch; `grouped` sorts windows of 50 batches by length, then shuffles the batches."""
        while True:
            order = rng.permutation(len(self.length))
            if grouped:
                window = 50 * size
                order = np.concatenate([part[np.argsort(self.length[part], kind="stable")]
                                        for part in np.split(order, range(window, len(order), window))])
            batches = [order[i : i + size] for i in range(0, len(order) - size + 1, size)]
            for i in rng.permutation(len(batches)) if grouped else range(len(batches)):
                yield batches[i]

    def padded(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """(ids, attention mask), padded to the longest."""
        ids = np.zeros((len(rows), int(self.length[rows].max())), np.int64)
        for i, row in enumerate(rows):
            ids[i, : self.length[row]] = self.tokens[self.offset[row] : self.offset[row + 1]]
        return torch.from_numpy(ids), torch.from_numpy((np.arange(ids.shape[1]) < self.length[rows][:, None]).astype(np.int64))
