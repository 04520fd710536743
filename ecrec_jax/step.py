"""The one train step, with holes for task, peft, gradient, optimizer and strategy; and its evaluating sister."""

import copy
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ecrec_jax.block import mix
from ecrec_jax.net import Graph
from ecrec_jax.types import Batch, Gradient, Noise, Optimizer, Parameters, Peft, State, Strategy, Task

Logs = dict[str, Any]


def numbered(task: Task, constant: Parameters) -> Task:
    """The task with the numbers that stand as `task.NAME` among the constants: those of one run of several in a program."""
    mine = {name.removeprefix("task."): x for name, x in constant.items() if name.startswith("task.")}
    if not mine:
        return task
    changed = copy.copy(task)
    for name, x in mine.items():   # not through its constructor, whose checks need numbers that are known
        object.__setattr__(changed, name, x)
    return changed


def make_step(
    graph: Graph, task: Task, peft: Peft, gradient: Gradient, optimizer: Optimizer, strategy: Strategy
) -> Callable[[State, Parameters, Batch], tuple[State, Logs]]:
    """One update, (State, constant, Batch) -> (State, logs). Pure, and the same under jit, pmap and vmap.

    Weights are normalised first, so that loss and gradient are plain sums over rows, micro-batches and devices.
    """

    def step(state: State, constant: Parameters, batch: Batch) -> tuple[State, Logs]:
        noise = mix(state.seed, state.step)
        live = strategy.reduce(batch["weight"].sum()) > 0
        batch = {**batch, "weight": gradient.normalise(batch, strategy.reduce)}

        def sums(whole: tuple[Parameters, Parameters, Any], rows: Batch) -> tuple[Any, Parameters]:
            trained, constant, noise = whole

            def local(trained: Parameters, rows: Batch) -> Any:
                net = graph.net(strategy.use(peft.merge(trained, constant)))
                outputs = net(rows, Noise(noise, rows["row"]), strategy)
                with jax.named_scope("loss"):
                    return (numbered(task, constant).loss(outputs, rows, strategy.gather) * rows["weight"]).sum()

            return gradient(local, trained, rows)

        loss, grads = strategy.total(sums, graph.dtype)((state.trained, constant, noise), batch)
        grads = gradient.release(grads, noise)
        with jax.named_scope("optimizer"):
            updates, opt = optimizer.update(grads, state.opt, state.trained)
        logs = {"loss": loss, "gradient_norm": optax.tree.norm(grads), "learning_rate": optimizer.learning_rate_at(opt)}
        with jax.named_scope("optimizer"):
            new = (optax.apply_updates(state.trained, updates), opt)
            trained, opt = jax.tree.map(lambda n, o: jnp.where(live, n, o), new, (state.trained, state.opt))
        return State(trained, opt, state.step + 1, state.seed), logs   # a batch of no weight changed nothing

    return step


def make_columns(
    graph: Graph, task: Task, peft: Peft, strategy: Strategy
) -> Callable[[Parameters, Parameters, Batch], Logs]:
    """What evaluation needs of every slot, (trained, constant, Batch) -> columns over the global batch, no dropout."""

    def columns(trained: Parameters, constant: Parameters, batch: Batch) -> Logs:
        def of(whole: tuple[Parameters, Parameters], rows: Batch) -> Logs:
            trained, constant = whole
            outputs = graph.net(strategy.use(peft.merge(trained, constant)))(rows, None, strategy)
            return task.columns(outputs, rows) | {"loss": numbered(task, constant).loss(outputs, rows, strategy.gather)}

        found = strategy.divide(of, graph.dtype)((trained, constant), batch)
        return strategy.gather(found | {key: batch[key] for key in ("label", "weight", "example")})

    return columns


def make_reader(graph: Graph, peft: Peft, strategy: Strategy) -> Callable[[Parameters, Parameters, Batch], Any]:
    """The vectors that a model's text encoder makes of the items in `row`, (trained, constant, Batch) -> f[N,F], no dropout."""

    def vectors(trained: Parameters, constant: Parameters, batch: Batch) -> Any:
        def of(whole: tuple[Parameters, Parameters], rows: Batch) -> Any:
            return graph.net(strategy.use(peft.merge(*whole))).model.encode(rows["row"], None)

        return strategy.gather(strategy.divide(of, graph.dtype)((trained, constant), batch))

    return vectors
