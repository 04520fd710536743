"""The opponent on a GPU: `python bench/gpu_torch.py FORM TEXTS.npz LENGTH TOKENS SIZES`, FORM stock or tuned as in torch_bert.py.

SIZES is JSON of a BertConfig. bfloat16 by autocast, SDPA, fused AdamW, torch.compile; batches are padded to a multiple of 64, so
that few shapes are compiled, all of them before anything is timed. Tuned: the encoder is compiled, the head reads the masked
positions, whose number varies, without.
"""

import json
import sys
from collections.abc import Callable

import numpy as np
import serve
import torch
from torch_bert import Texts, masked
from transformers import BertConfig, BertForMaskedLM

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def padded(ids: torch.Tensor, mask: torch.Tensor, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Both filled up to a multiple of 64, at most `most`."""
    more = max(0, min(-ids.shape[1] % 64, most - ids.shape[1]))
    return torch.nn.functional.pad(ids, (0, more)), torch.nn.functional.pad(mask, (0, more))


def trainer(form: str, texts: Texts, length: int, tokens: int, sizes: dict) -> Callable[[int], int]:
    """A function that makes steps of training and returns the real tokens they read."""
    model = BertForMaskedLM(BertConfig(**sizes, attn_implementation="sdpa")).to(DEVICE).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.01, fused=True)
    whole, encode = (torch.compile(x, dynamic=False) for x in (model, model.bert))
    size = round(tokens * len(texts.length) / texts.length.sum())
    batches = texts.order(np.random.default_rng(0), size, form == "tuned")

    def loss_of(ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if form == "stock":
            return whole(input_ids=ids, attention_mask=mask, labels=labels).loss
        hidden, at = encode(input_ids=ids, attention_mask=mask).last_hidden_state, labels != -100
        return torch.nn.functional.cross_entropy(model.cls(hidden[at]), labels[at])

    def step(rows: np.ndarray) -> int:
        ids, mask = padded(*texts.padded(rows), length)
        hidden, labels = masked(ids, mask)
        given = [x.pin_memory().to(DEVICE, non_blocking=True) if DEVICE == "cuda" else x for x in (hidden, mask, labels)]
        with torch.autocast(DEVICE, torch.bfloat16):
            loss = loss_of(*given)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return int(mask.sum())

    blocks = -(-texts.length // 64)
    for block in np.unique(blocks):   # every shape that can come
        step(np.resize(np.flatnonzero(blocks == block), size))

    def run(steps: int) -> int:
        count = sum(step(next(batches)) for _ in range(steps))
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return count

    return run


def main(form: str, path: str, length: str, tokens: str, sizes: str) -> None:
    """Serve steps until standard input ends."""
    torch.manual_seed(0)
    size = 8192 if DEVICE == "cuda" else 1024
    x = torch.randn(size, size, dtype=torch.bfloat16, device=DEVICE)

    def product() -> None:
        x @ x
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    about = {"torch": torch.__version__}
    memory = (lambda: torch.cuda.max_memory_allocated() / 1e6) if DEVICE == "cuda" else None
    serve.serve(trainer(form, Texts(path), int(length), int(tokens), json.loads(sizes)), about, product, size, memory)


if __name__ == "__main__":
    main(*sys.argv[1:])
