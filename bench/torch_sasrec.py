"""The opponent: SASRec in torch on the same histories; `python bench/torch_sasrec.py FORM DTYPE HISTORIES.npz`.

FORM `stock`: random batches of 128, padded to the longest of the batch, logits of all items at every position, padding ignored by
the loss. `real`: the same batches, logits at real positions only. `tuned`: that, and batches of histories of similar length. All:
padding on the right, so that SDPA's causal form needs no mask, fused Adam, dropout .1, 64 numbers an item, 2 layers, 1 head. DTYPE
`bfloat16`: automatic mixed precision. Runs in an environment of its own; needs torch, nothing of ours.
"""

import sys
from collections.abc import Callable

import numpy as np
import serve
import torch
from torch import nn
from torch_texts import Texts, mixed

SIZE, WIDTH, LAYERS, LONGEST, DROPOUT = 128, 64, 2, 50, 0.1


class Layer(nn.Module):
    """Attention, then feed-forward, as SASRec's code has them."""

    def __init__(self):
        super().__init__()
        self.norm, self.middle = nn.LayerNorm(WIDTH, 1e-8), nn.LayerNorm(WIDTH, 1e-8)
        self.query, self.key_value, self.output = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.feed_forward = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(WIDTH, WIDTH),
                                          nn.Dropout(DROPOUT))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One head over the positions before."""
        asking = self.norm(x)
        key, value = self.key_value(x).chunk(2, -1)
        heads = (x[:, None] for x in (self.query(asking), key, value))
        found = nn.functional.scaled_dot_product_attention(*heads, is_causal=True, dropout_p=DROPOUT if self.training else 0.0)
        x = self.middle(asking + self.output(found[:, 0]))
        return x + self.feed_forward(x)


class Sasrec(nn.Module):
    """Item and position vectors, layers, layer norm."""

    def __init__(self, items: int):
        super().__init__()
        self.items, self.positions = nn.Embedding(items + 1, WIDTH, padding_idx=0), nn.Embedding(LONGEST, WIDTH)
        self.layers = nn.Sequential(*(Layer() for _ in range(LAYERS)))
        self.norm, self.dropout = nn.LayerNorm(WIDTH, 1e-8), nn.Dropout(DROPOUT)
        nn.init.normal_(self.items.weight, std=0.02)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """The states."""
        x = self.items(ids) * WIDTH**0.5 + self.positions.weight[: ids.shape[1]]
        return self.norm(self.layers(self.dropout(x)))


def trainer(form: str, dtype: str, texts: Texts) -> Callable[[int], int]:
    """A function that makes steps of training and returns the real positions they read."""
    model = Sasrec(int(texts.tokens.max())).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    batches = texts.order(np.random.default_rng(0), SIZE, form == "tuned")

    def run(steps: int) -> int:
        tokens = 0
        for _ in range(steps):
            ids, mask = texts.padded(next(batches))
            with mixed(dtype):
                hidden, labels, real = model(ids[:, :-1]), ids[:, 1:], mask[:, 1:] > 0
                if form != "stock":
                    hidden, labels = hidden[real], labels[real]
                logits = hidden @ model.items.weight.T
                loss = nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), ignore_index=0)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            tokens += int(real.sum())
        return tokens

    return run


def main(form: str, dtype: str, path: str) -> None:
    """Serve steps until standard input ends."""
    torch.manual_seed(0)
    x = torch.ones(2048, 2048)
    about = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    serve.serve(trainer(form, dtype, Texts(path)), about, lambda: x @ x, 2048)


if __name__ == "__main__":
    main(*sys.argv[1:])
