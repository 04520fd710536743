"""Several runs in one compiled program, by vmap over their states: each thinks that it is alone."""

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ecrec_jax import mesh
from ecrec_jax.block import pad_rows
from ecrec_jax.types import Batch, Parameters


class Own:
    """One run's row of a tree whose arrays have a leading axis of runs; `part` is the path to the tree from the whole."""

    def __init__(self, whole: "Whole", index: int, part: tuple[str, ...] = ()):
        self.whole, self.index, self.part = whole, index, part

    def __getattr__(self, name: str) -> "Own":
        return Own(self.whole, self.index, (*self.part, name))

    def tree(self) -> Any:
        """The tree of all runs."""
        found = self.whole.tree
        for name in self.part:
            found = getattr(found, name)
        return found


class Whole:
    """What a program returned for all runs; fetched once for all where it is small and everyone reads it."""

    def __init__(self, tree: Any):
        self.tree, self.lock, self.host = tree, threading.Lock(), None

    def fetched(self) -> Any:
        """The tree on the host."""
        with self.lock:
            if self.host is None:
                self.host = mesh.fetch(self.tree)
            return self.host


class Group:
    """The runs of one program and where they wait for each other.

    A program starts when every run that is left has asked for one. Steps go first: a run that has come to the end of its epoch
    waits with its validation, and what its place in the step is given has no effect, until the others have come there too.
    """

    def __init__(self, count: int, devices: int | None, found: Sequence[Any] | None = None):
        everywhere = mesh.over(devices, found)
        self.count = count
        self.mesh = mesh.over(math.gcd(count, everywhere.size), list(everywhere.devices.flat))
        self.rows, _ = mesh.layouts(self.mesh)
        self.platform = self.mesh.devices.flat[0].platform
        self.programs: dict[str, Callable[..., Any]] = {}
        self.asked: dict[int, tuple[str, tuple[Any, ...]]] = {}
        self.answers: dict[int, Any] = {}
        self.left = set(range(count))
        self.turn = threading.Condition()
        self.state = Whole(None)   # of all runs, as the last step left it; a run that made no step has its own there still
        self.kept: dict[str, tuple[list[Any], Any]] = {}   # (each run's tree, all of them on the devices)

    def compile(self, name: str, function: Callable[..., Any], donate: bool) -> None:
        """The program of all runs from one's function, once; runs differ in their arrays only."""
        with self.turn:
            if name not in self.programs:
                many = changing(function) if donate else jax.vmap(function)
                program = many if self.mesh.size == 1 else mesh.each(many, self.rows)
                self.programs[name] = jax.jit(program, donate_argnums=(0,) if donate else (),
                                              compiler_options=mesh.options(self.platform))

    def ask(self, index: int, name: str, given: tuple[Any, ...]) -> Any:
        """What the program gives this run; waits until it has run."""
        with self.turn:
            self.asked[index] = (name, given)
            self.go()
            while index not in self.answers:
                self.turn.wait()
            answer = self.answers.pop(index)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def leave(self, index: int) -> None:
        """A run is at its end, or failed: the others go on."""
        with self.turn:
            self.left.discard(index)
            self.go()

    def go(self) -> None:
        """Start a program if nobody is to be waited for."""
        if not self.left or set(self.asked) != self.left:
            return
        name = "step" if any(asked == "step" for asked, _ in self.asked.values()) else "columns"
        mine = {i: given for i, (asked, given) in self.asked.items() if asked == name}
        try:
            whole = self.start(name, mine)
            self.answers |= {i: whole(i) for i in mine}
        except Exception as error:  # noqa: BLE001 (every run raises it)
            self.answers |= dict.fromkeys(mine, error)
        for i in mine:
            del self.asked[i]
        self.turn.notify_all()

    def start(self, name: str, mine: Mapping[int, tuple[Any, ...]]) -> Callable[[int], Any]:
        """Run a program for these runs; (index) -> what it gives one of them."""
        first, constant, batch = zip(*(mine[i if i in mine else min(mine)] for i in range(self.count)), strict=True)
        constant, batch = self.whole("constant", constant), self.place(batch)
        if name == "step":
            active = self.place([np.bool_(i in mine) for i in range(self.count)])
            self.enter({i: given[0] for i, given in mine.items() if not isinstance(given[0], Own)})
            self.state.tree, logs = self.programs[name](self.state.tree, active, constant, batch)
            told = Whole(logs)
            return lambda i: (Own(self.state, i), Own(told, i))
        found = Whole(self.programs[name](self.whole("trained", first), constant, batch))
        return lambda i: Own(found, i)

    def enter(self, fresh: Mapping[int, Any]) -> None:
        """Put the states of runs that make their first step beside those of the others."""
        if fresh:
            before = self.state.tree is not None
            self.state.tree = self.place([fresh[i] if i in fresh else own(Own(self.state, i)) if before else fresh[min(fresh)]
                                          for i in range(self.count)])

    def whole(self, what: str, given: Sequence[Any]) -> Any:
        """One tree for the programs from each run's; what they are again given is not moved again."""
        if all(isinstance(x, Own) for x in given):
            return given[0].tree()   # the states' parameters, where all are
        known = self.kept.get(what)
        if known is None or any(a is not b for a, b in zip(known[0], given, strict=True)):
            trees = [own(x) if isinstance(x, Own) else x for x in given]
            known = self.kept[what] = (list(given), self.place(trees))
        return known[1]

    def place(self, trees: Sequence[Any]) -> Any:
        """Host trees, one a run, as one with a leading axis of runs, dealt to the devices."""
        return mesh.lay(jax.tree.map(lambda *parts: np.stack([np.asarray(x) for x in parts]), *trees), lambda _: self.rows)


def changing(step: Callable[..., Any]) -> Callable[..., Any]:
    """A step of all runs that leaves those alone that are not `active`."""
    def one(state: Any, active: Any, constant: Parameters, batch: Batch) -> tuple[Any, Any]:
        new, logs = step(state, constant, batch)
        return jax.tree.map(lambda n, o: jnp.where(active, n, o), new, state), logs

    return jax.vmap(one)


def own(row: Own) -> Any:
    """One run's tree on the host."""
    return jax.tree.map(lambda x: mesh.row(x, row.index), row.tree())


class Replica:
    """The strategy of one run of a group: on one device, as far as it can see."""

    def __init__(self, group: Group, index: int):
        self.group, self.index, self.devices, self.platform = group, index, 1, group.platform

    def compile(self, function: Callable[..., Any], donate: bool) -> Callable[..., Any]:
        """The group's program; the one that changes its first argument is the step."""
        name = "step" if donate else "columns"
        self.group.compile(name, function, donate)
        return lambda *given: self.group.ask(self.index, name, given)

    def use(self, tree: Any) -> Any:
        """As it is: the run sees one device, and the group moves the trees of all runs at once."""
        return tree

    place = reduce = gather = each = use

    def put(self, batch: Batch, multiple: int) -> Batch:
        """On the host still, after empty rows up to a multiple of `multiple`."""
        return pad_rows(batch, multiple)

    def total(self, function: Callable[..., Any], dtype: str) -> Callable[..., Any]:
        """As it is."""
        return function

    divide = total

    def fetch(self, tree: Any) -> Any:
        """This run's row to numpy."""
        if not isinstance(tree, Own):
            return mesh.fetch(tree)
        if tree.whole is self.group.state:
            return own(tree)
        return jax.tree.map(lambda x: x[tree.index], tree.whole.fetched())
