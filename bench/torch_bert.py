"""The opponent: Hugging Face's BERT in torch on the same texts; `python bench/torch_bert.py JOB FORM DTYPE TEXTS.npz CHECKPOINT`.

FORM `stock`: random batches of 32, padded to the longest of the batch, vocabulary head on every position. `tuned`: batches of
texts of similar length, vocabulary head on the masked positions only, three threads in encoding. Both: SDPA, fused AdamW, the
checkpoint's dropout rates.
DTYPE `bfloat16`: automatic mixed precision in training, everything of that type in encoding. Runs in an environment of its own;
needs torch and transformers, nothing of ours.
"""

import itertools
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import serve
import torch
from torch_texts import Texts, mixed
from transformers import BertForMaskedLM, BertForSequenceClassification, BertModel

MASK, FIRST_WORD = 103, 999   # of the uncased vocabulary
SIZE = 32                               # texts of a batch
THREADS = 3                             # that encode at once


def masked(ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """15 % of the ordinary tokens: 80 % [MASK], 10 % random, 10 % kept; labels are -100 elsewhere."""
    chosen = (torch.rand(ids.shape) < 0.15) & (mask > 0) & (ids >= FIRST_WORD)
    labels, draw = torch.where(chosen, ids, -100), torch.rand(ids.shape)
    other = torch.randint(FIRST_WORD, 30522, ids.shape)
    return torch.where(chosen & (draw < 0.8), MASK, torch.where(chosen & (draw < 0.9), other, ids)), labels


def loss_of(job: str, form: str, model: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor,
            label: torch.Tensor) -> torch.Tensor:
    """The loss of a batch."""
    if job == "fine-tune":
        return model(input_ids=ids, attention_mask=mask, labels=label).loss
    ids, labels = masked(ids, mask)
    if form == "stock":
        return model(input_ids=ids, attention_mask=mask, labels=labels).loss
    hidden = model.bert(input_ids=ids, attention_mask=mask).last_hidden_state
    at = labels != -100
    return torch.nn.functional.cross_entropy(model.cls(hidden[at]), labels[at])


def trainer(job: str, form: str, dtype: str, texts: Texts, checkpoint: str) -> Callable[[int], int]:
    """A function that makes steps of training and returns the real tokens they read."""
    kind = {"fine-tune": BertForSequenceClassification, "masked-LM": BertForMaskedLM}[job]
    model = kind.from_pretrained(checkpoint, attn_implementation="sdpa").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.01, fused=True)
    batches = texts.order(np.random.default_rng(0), SIZE, form == "tuned")

    def run(steps: int) -> int:
        tokens = 0
        for _ in range(steps):
            rows = next(batches)
            ids, mask = texts.padded(rows)
            with mixed(dtype):
                loss = loss_of(job, form, model, ids, mask, torch.from_numpy(texts.label[rows]))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            tokens += int(mask.sum())
        return tokens

    return run


def encoder(job: str, form: str, dtype: str, texts: Texts, checkpoint: str) -> Callable[[int], int]:
    """A function that encodes batches to unit vectors by mean pooling; tuned, a third of a batch in each of three threads."""
    model = BertModel.from_pretrained(checkpoint, attn_implementation="sdpa", add_pooling_layer=False, dtype=dtype).eval()
    batches, pool = texts.order(np.random.default_rng(0), SIZE, form == "tuned"), ThreadPoolExecutor(THREADS)

    def one(rows: np.ndarray) -> int:
        ids, mask = texts.padded(rows)
        with torch.inference_mode():
            hidden, real = model(input_ids=ids, attention_mask=mask).last_hidden_state, mask[..., None]
            torch.nn.functional.normalize((hidden.float() * real).sum(1) / real.sum(1)).numpy()
        return int(mask.sum())

    def run(steps: int) -> int:
        given = itertools.islice(batches, steps)
        if form == "stock":
            return sum(one(rows) for rows in given)
        return sum(pool.map(one, [part for rows in given for part in np.array_split(rows, THREADS)]))

    return run


def main(job: str, form: str, dtype: str, path: str, checkpoint: str) -> None:
    """Serve steps until standard input ends."""
    torch.manual_seed(0)
    x = torch.ones(2048, 2048)
    about = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    serve.serve((encoder if job == "encode" else trainer)(job, form, dtype, Texts(path), checkpoint), about, lambda: x @ x, 2048)


if __name__ == "__main__":
    main(*sys.argv[1:])
