"""Batches of a split for a task: a plan an epoch, filled batch by batch, ahead of the step."""

import functools
import queue
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int

from ecrec_jax.data import pack
from ecrec_jax.types import Batch, Example, InputError, Task

T = TypeVar("T")
SLOT = 32   # tokens that a slot costs as much as, where all items are ranked for it (SASRec, 12,101 items)


class Late:
    """numpy's generator of a seed, made once something is drawn: to make it takes as long as all else for a short example."""

    def __init__(self, *seed: int):
        self.seed = seed

    @functools.cached_property
    def generator(self) -> np.random.Generator:
        """The one that draws."""
        return np.random.default_rng(self.seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.generator, name)


class Feed:
    """The examples of one split, ready to be planned and laid out."""

    def __init__(self, examples: list[Example], task: Task, shape: pack.Shape | None, alone: bool = False):
        self.examples, self.task, self.alone = examples, task, alone
        sizes = np.array([task.size(example) for example in examples], "i8").reshape(-1, 2)
        self.tokens, self.slots = sizes[:, 0], sizes[:, 1]
        met: Counter[int] = Counter()
        self.seeds: list[tuple[int, ...]] = []
        for example in examples:
            self.seeds.append((example.index, met[example.index], 1) if met[example.index] else (example.index,))   # no copy's
            met[example.index] += 1
        asked = [e for e in examples if np.ndim(e.label) == 0]
        self.seen = max((len(e.seen) for e in asked if e.seen is not None), default=0)
        self.relevant = max((len(e.relevant) for e in asked if e.relevant is not None), default=0)
        self.shape = shape

    def shaped(self, batch_size: int, row_length: int | None, most: Sequence[int] = (0, 0)) -> pack.Shape:
        """Choose B, L and S for this split, so that an example of `most` (tokens, slots) has room too. A task with wide
        outputs says in `slot_tokens` how many tokens a slot costs as much as.

        Raises:
            InputError: `row_length` can't hold the longest example.
        """
        longest = max(int(self.tokens.max()), most[0])
        if row_length is not None and row_length < longest:
            raise InputError(f"data.row_length {row_length} is shorter than the longest example, {longest} tokens")
        self.shape = pack.choose_shape(self.tokens, self.reads(0, 0), batch_size, longest, row_length, self.alone,
                                       getattr(self.task, "slot_tokens", 0))
        self.shape = self.shape._replace(slots=max(self.shape.slots, int(self.slots.max()), most[1]))
        return self.shape

    def few(self, shape: pack.Shape, examples: int) -> pack.Shape:
        """A shape of rows as long for reading this split at its few slots, about so many examples a batch; ranking for a slot costs
        more than reading a row's `SLOT` tokens."""
        count, most = pack.bound(self.tokens, self.slots, shape, SLOT, None, self.alone)
        return shape._replace(rows=max(1, round(examples * count / len(self.examples))), slots=most)

    def reads(self, seed: int, epoch: int) -> Int[np.ndarray, "E"]:
        """The slots that the examples fill in an epoch: a task that draws how many says so by `drawn`."""
        if getattr(self.task, "drawn", None) is None:
            return self.slots
        pairs = zip(self.examples, self.seeds, strict=True)
        return np.array([self.task.drawn(example, Late(seed, epoch, *own)) for example, own in pairs], "i8")

    def plan(self, seed: int | None, epoch: int) -> pack.Rows:
        """The rows of an epoch; without a seed the order of evaluation."""
        if seed is None:
            return pack.plan(self.tokens, self.slots, self.shape, None, self.alone)
        return pack.plan(self.tokens, self.reads(seed, epoch), self.shape, (seed, epoch), self.alone)

    def count(self, seed: int | None, epoch: int) -> int:
        """Batches of an epoch."""
        return -(-len(self.plan(seed, epoch)) // self.shape.rows)

    def batches(self, seed: int | None, epoch: int, start: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """The batches of an epoch from batch `start` on; the last one is filled up with empty rows.

        What a task draws for an example depends on (seed, epoch, the example's row in its file, which of its) alone.
        """
        rows = self.plan(seed, epoch)
        for first in range(start * self.shape.rows, len(rows), self.shape.rows):
            chosen = rows[first : first + self.shape.rows]
            members = [self.examples[i] for row in chosen for i in row]
            rngs = [Late(seed or 0, epoch, *self.seeds[i]) for row in chosen for i in row]
            prepared = [self.task.prepare(e, rng) for e, rng in zip(members, rngs, strict=True)]
            yield pack.lay(prepared, [e.index for e in members], [r for r, row in enumerate(chosen) for _ in row],
                           [i == 0 for row in chosen for i in range(len(row))], self.shape)


def fill(batch: Batch) -> float:
    """Share of the tokens that are real."""
    return float((batch["segment"] > 0).mean())


def ahead(items: Iterator[T], work: Callable[[T], Any], depth: int = 2) -> Iterator[Any]:
    """`work(item)` for every item, done in a thread that stays `depth` items ahead; its errors are raised here."""
    ready: queue.Queue[Any] = queue.Queue(depth)
    stop = threading.Event()

    def offer(entry: Any) -> None:
        while not stop.is_set():
            try:
                return ready.put(entry, timeout=0.1)
            except queue.Full:
                continue

    def produce() -> None:
        try:
            for item in items:
                if stop.is_set():
                    return
                offer((work(item), None, False))
            offer((None, None, True))
        except Exception as error:  # noqa: BLE001 (handed to the consumer)
            offer((None, error, False))

    thread = threading.Thread(target=produce, daemon=True)
    thread.start()
    try:
        while True:
            result, error, done = ready.get()
            if done:
                return
            if error is not None:
                raise error
            yield result
    finally:
        stop.set()
        thread.join()


def several(items: Iterator[T], work: Callable[[T], Any], threads: int) -> Iterator[Any]:
    """`work(item)` for every item, in order, in `threads` at once; the first alone, for it may compile what the others use.

    Programs that a thread starts run one after the other, so that two cores wait for each other in each of them; those of
    several threads fill each other's gaps.
    """
    running: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for i, item in enumerate(items):
            running.append(pool.submit(work, item))
            if i == 0 or len(running) > threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def check(feeds: Mapping[str, Feed], path: Any, texts: bool) -> None:
    """Whether there is something to train on, to validate, and to test if there are rows for it.

    Raises:
        InputError: there isn't.
    """
    remedy = "raise data.valid_fraction, or name rows valid in data.split_column" if texts else "choose another data.split"
    for name, use in (("train", "training"), ("valid", "validation, which picks the checkpoint to report"), ("test", "testing")):
        if name not in feeds and name != "test":
            raise InputError(f"data.path: {path} leaves no row for {use}: {remedy}")
        if name in feeds and not feeds[name].slots.any():
            raise InputError(f"data.path: no text of {path} for {use} is long enough for the task to read a token of it")
