"""The words everything else is written in: a batch, a state, the facts of a run, and what each noun must offer."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Array, Float, Int, UInt32

Batch = Mapping[str, Any]          # the keys of DESIGN: tokens, segment, position, type, slot, label, weight, example, row
Parameters = dict[str, Any]        # path ("model.encoder.layer.0.attention.self.query.kernel") -> array
Columns = dict[str, np.ndarray]    # one entry a slot, on the host


class InputError(Exception):
    """What the user gave is wrong. The text is one sentence that names the key, file or line; exit code 2."""


class Noise(NamedTuple):
    """What a dropout mask depends on besides its place: the step's seed and the row's number in the global batch."""

    seed: UInt32[Array, ""]
    row: Int[Array, "B"]


class State(NamedTuple):
    """What a step changes. Plain dictionaries of arrays; checkpointed whole."""

    trained: Parameters
    opt: Any
    step: Int[Array, ""]
    seed: UInt32[Array, ""]


class Example(NamedTuple):
    """One example before a task prepares it: i32[n] tokens and token types, its target, its row in the file, and i32[n] the word
    that each token is a piece of (-1: of none), where known. Of a user's history the tokens are items, the target the next item of
    each or, to be ranked, of the last; `seen` i32[m] the user's distinct items, rising; `first` the position of the first token;
    `relevant` i32[R] the distinct items asked for, the target first, if several; `read` bool [labels] the labels trained on, if not
    all. Of what was shown the tokens are values of fields, the types these fields, `value` f32[n] what each counts."""

    tokens: np.ndarray
    type: np.ndarray
    label: Any
    index: int
    word: np.ndarray | None = None
    seen: np.ndarray | None = None
    first: int = 0
    relevant: np.ndarray | None = None
    read: np.ndarray | None = None
    value: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of a run besides its config: a checkpoint's sizes, the tokenizer's ids, the data's labels. An argument of a
    constructor that is named like a fact and is null in the yaml is filled from here."""

    vocabulary: int | None = None
    positions: int | None = None
    types: int | None = None
    width: int | None = None
    depth: int | None = None
    heads: int | None = None
    feed_forward: int | None = None
    activation: str | None = None
    norm_epsilon: float | None = None
    dropout: float | None = None
    attention_dropout: float | None = None
    initializer_range: float | None = None
    pooler: bool | None = None
    tied: bool | None = None
    causal: bool = False
    pad_id: int | None = None
    cls_id: int | None = None
    sep_id: int | None = None
    mask_id: int | None = None
    special_ids: tuple[int, ...] | None = None
    labels: tuple[str, ...] | None = None
    class_counts: tuple[int, ...] | None = None
    token_counts: tuple[int, ...] | None = None   # of the texts to pretrain on; not kept with a run
    items: int | None = None                      # tokens 1 … items are items, in the order of items.txt
    item_counts: tuple[int, ...] | None = None    # of the histories to train on, where they may be asked for, [V]
    label_counts: tuple[int, ...] | None = None   # of the labels of the training examples, [V]
    new_ids: tuple[int, ...] = ()                 # items that nothing is trained on
    attributes: tuple[tuple[int, ...], ...] | None = None   # of the items, [V], numbers from 0
    attribute_names: tuple[str, ...] | None = None
    history_items: tuple[int, ...] | None = None  # of the histories to train on, one after the other, where items have attributes
    events: tuple[str, ...] | None = None         # what the types of events are called, in the order of their numbers
    prices: tuple[float, ...] | None = None       # of the items, [V]; 0 where it isn't known
    categories: tuple[int, ...] | None = None     # of the items, numbered from 1, [V]; 0 where it isn't known
    item_fields: tuple[int, ...] | None = None    # types of the tokens that say something of an item that was shown
    center: float | None = None
    scale: float | None = None
    steps: int | None = None

    def longest(self, max_length: int) -> int:
        """Tokens that an example may have: so many, or as many as the model has positions, where it counts them."""
        return min(max_length, self.positions or max_length)


class Augment(Protocol):
    """What changes texts: the same generators, the same texts, whatever else is in the list. `mark` says what the results
    depend on besides, where making them is slow and they are to be kept on disk; it is empty where they are made anew."""

    mark: str

    def __call__(self, texts: Sequence[str], rngs: Sequence[np.random.Generator]) -> list[str]: ...


class Model(Protocol):
    """Tokens to hidden states: all, or those at `slot` alone, for which the last layer computes nothing else. `table` and `pool`
    stay where checkpoints have them, so that heads can tie to them; a model without a pooler has no `pool`. A kernel that isn't
    divided by itself runs on each device's rows by `strategy`; without one, nothing but plain operations is used."""

    def __call__(self, batch: Batch, noise: Noise | None = None, strategy: "Strategy | None" = None,
                 slot: Int[Array, "B S"] | None = None) -> Float[Array, "B T D"]: ...
    def table(self) -> Float[Array, "V D"]: ...
    def pool(self, hidden: Float[Array, "B S D"]) -> Float[Array, "B S D"]: ...


class Head(Protocol):
    """Hidden states to outputs at the slots; `reads` lists the targets it can be trained on. A head with a true `at_slots` is
    given the hidden states at the slots only, f32[B,S,D], which spares most of the last layer."""

    reads: tuple[str, ...]

    def __call__(self, hidden: Float[Array, "B T D"], batch: Batch, model: Model, noise: Noise | None) -> Any: ...


class Task(Protocol):
    """What is read of an example, minimised and reported. `size` is what `prepare` will need: (tokens, slots)."""

    couples_rows: bool | dict[str, Any]   # a dictionary: where its keys have these values
    target: str

    def size(self, example: Example) -> tuple[int, int]: ...
    def prepare(self, example: Example, rng: np.random.Generator) -> dict[str, np.ndarray]: ...
    def loss(self, outputs: Any, batch: Batch, gather: Callable[[Any], Any]) -> Float[Array, "B S"]: ...
    def columns(self, outputs: Any, batch: Batch) -> dict[str, Array]: ...
    def metrics(self, columns: Columns) -> dict[str, Any]: ...


class Peft(Protocol):
    """Which parameters are trained: `split` once, `merge` inside every step."""

    def split(self, parameters: Parameters) -> tuple[Parameters, Parameters]: ...
    def merge(self, trained: Parameters, constant: Parameters) -> Parameters: ...


class Gradient(Protocol):
    """How a gradient is made from the loss of the rows at hand. The row count must be a multiple of `count`."""

    count: int
    splits_rows: bool
    one_example_per_row: bool

    def normalise(self, batch: Batch, reduce: Callable[[Any], Any]) -> Float[Array, "B S"]: ...
    def __call__(self, local: Callable[..., Any], trained: Parameters, batch: Batch) -> tuple[Any, Parameters]: ...
    def release(self, gradient: Parameters, noise: UInt32[Array, ""]) -> Parameters: ...


class Optimizer(Protocol):
    """What is done with a gradient; numeric hyper-parameters are leaves of its state."""

    def init(self, trained: Parameters) -> Any: ...
    def update(self, gradient: Parameters, opt: Any, trained: Parameters) -> tuple[Parameters, Any]: ...
    def learning_rate_at(self, opt: Any) -> Float[Array, ""]: ...
    def decayed(self, paths: Sequence[str]) -> dict[str, bool]: ...


class Strategy(Protocol):
    """On which devices, of which `platform` (cpu, cuda, tpu). `use`, `reduce`, `total`, `gather` and `each` are called inside
    the program, the others around it. `each` makes a function of arrays of rows one that runs on each device's own rows; `total`
    one of (what is whole on all, rows) whose results are sums over rows: sums over all devices' rows, exchanged in `dtype`;
    `divide` one of the same whose results are rows."""

    devices: int | None
    platform: str

    def compile(self, function: Callable[..., Any], donate: bool) -> Callable[..., Any]: ...
    def place(self, tree: Any) -> Any: ...
    def put(self, batch: Batch, multiple: int) -> Batch: ...
    def use(self, parameters: Parameters) -> Parameters: ...
    def reduce(self, tree: Any) -> Any: ...
    def total(self, function: Callable[..., Any], dtype: str) -> Callable[..., Any]: ...
    def divide(self, function: Callable[..., Any], dtype: str) -> Callable[..., Any]: ...
    def gather(self, tree: Any) -> Any: ...
    def each(self, function: Callable[..., Any]) -> Callable[..., Any]: ...
    def fetch(self, tree: Any) -> Any: ...


class Tracker(Protocol):
    """Who is told. Steps never go back, but for `start`, which says where a continued run takes up."""

    def start(self, step: int, total: int, saved: Mapping[str, Any]) -> None: ...
    def log(self, step: int, values: Mapping[str, float]) -> None: ...
    def state(self) -> dict[str, Any]: ...
    def finish(self, summary: Mapping[str, Any]) -> None: ...
