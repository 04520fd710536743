"""What users should be shown: `python -m experiments.recommend run_dir=DIR users=FILE k=10`."""

if __name__ == "__main__":
    from experiments.launch import settle

    settle()

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ecrec_jax import build, evaluate, section
from ecrec_jax.data import read
from ecrec_jax.data.behaviour import times
from ecrec_jax.data.feed import Feed
from ecrec_jax.factored import LEAST
from ecrec_jax.types import Example, Facts, InputError
from ecrec_jax.use.diversify import mmr, similarity
from experiments import output, record, saved, wiring


def main(config: dict[str, Any]) -> None:
    """Rank for every user, filter, diversify, write."""
    wiring.compilation_cache()
    path = output.named(config["output"])
    folder, run = saved.opened(config["run_dir"])
    parts = build.rebuild(folder, run)
    if parts.task.target not in ("next_item", "masked_item"):
        raise InputError(f"run_dir: {folder} is no run that ranks items; one of experiment=next_item does, "
                         f"with model.checkpoint={folder} if it goes on from this one")
    names = named(folder, parts.facts.items)
    numbers = {name: number for number, name in enumerate(names, 1)}
    check(config, len(names))
    hidden = np.array(sorted({numbers[name] for name in blocked(config, names)}), "i4")
    if len(hidden) == len(names):
        raise InputError("block, only and never leave no item to recommend")
    users, histories, types, unknown = asked(config, run, folder, numbers, parts.facts.events)
    pool = min(max(config["candidates"], config["k"]) if config["diversify"] else config["k"], len(names) - len(hidden))
    warm = [number for number, history in enumerate(histories) if len(history)]
    found = ranked(parts, run, [(histories[i], types[i]) for i in warm], hidden, pool, config["had"]) if warm else []
    popular = np.array(parts.facts.item_counts, float)[1:-1]
    popular[hidden - 1] = -np.inf
    order = np.argsort(-popular, kind="stable")[:pool]
    lists, cold = dict(zip(warm, found, strict=True)), (order + 1, popular[order])
    vectors = np.asarray(parts.graph.net(parts.parameters | parts.constants).model.table())
    rows, shown = [], []
    for number, user in enumerate(users):
        items, scores = chosen(*lists.get(number, cold), vectors, config["k"], config["diversify"])
        shown += [vectors[items]] if number in lists and len(items) == config["k"] > 1 else []
        rows += [(user, rank, names[item - 1], float(score), "history" if number in lists else "popular")
                 for rank, (item, score) in enumerate(zip(items, scores, strict=True), 1)]
        rows += [] if len(items) else [(user, None, None, None, output.NOTHING)]
    output.write(pd.DataFrame(rows, columns=["user", "rank", "item", "score", "why"]).astype({"rank": "Int64"}), path)
    alike = f"; items of a list have a mean cosine of {similarity(np.stack(shown)):.3f}" if shown else ""
    print(f"{len(users)} users, {len(users) - len(warm)} without history, who get what is popular; "
          f"{sum(row[1] is None for row in rows)} for whom nothing is left; {unknown} events with items that the run "
          f"doesn't know; {len(hidden)} items filtered{alike}; written to {path}")


def named(folder: Path, items: int) -> list[str]:
    """What the items of a run are called.

    Raises:
        InputError: a name has a line break, which logs may no longer have.
    """
    names = (folder / "items.txt").read_text(encoding="utf-8").split("\n")[:-1]
    if len(names) != items:
        raise InputError(f"{folder / 'items.txt'}: {len(names)} names of {items} items, so one has a line break: train it again")
    return names


def chosen(items: np.ndarray, scores: np.ndarray, vectors: np.ndarray, k: int, weight: float) -> tuple[np.ndarray, np.ndarray]:
    """(k of the items, or as many as there are, their scores): the best, or such as differ from each other."""
    items, scores = items[scores > LEAST], scores[scores > LEAST]
    places = mmr(scores, vectors[items], k, weight) if weight and len(items) else np.arange(min(k, len(items)))
    return items[places], scores[places]


def check(config: Mapping[str, Any], items: int) -> None:
    """Whether the numbers make sense.

    Raises:
        InputError: the first that doesn't.
    """
    for key, hint in (("k", int), ("candidates", int), ("diversify", float), ("had", bool), ("only", list[str] | None),
                      ("never", list[str] | None), ("items", str | None), ("block", str | list[str] | None), ("users", str)):
        section.checked(config[key], hint, key)
    if not 1 <= config["k"] <= items:
        raise InputError(f"k is {config['k']}, must lie between 1 and the {items} items")
    if not 0 <= config["diversify"] <= 1:
        raise InputError(f"diversify is {config['diversify']}, must lie between 0 and 1")


def listed(path: Path) -> list[str]:
    """The names in a text file, one a line."""
    return [line.strip() for line in read.decode(path, path.read_bytes()).split("\n") if line.strip()]


def blocked(config: Mapping[str, Any], names: Sequence[str]) -> set[str]:
    """The items that the rules filter.

    Raises:
        InputError: an item or category that isn't there.
    """
    found = config["block"] or []
    if isinstance(found, str):
        found = listed(read.locate(found, ".", "block"))
    strange = set(found) - set(names)
    if strange:
        raise InputError(f"block: the run knows no item {sorted(strange)[0]!r}")
    if config["only"] is None and config["never"] is None:
        return set(found)
    if config["items"] is None:
        raise InputError("only and never filter by category: give the items' table, items=FILE with the columns item and category")
    table = read.read(read.locate(config["items"], ".", "items"))
    lines = [*zip(*(read.stripped(table, name, "items") for name in ("item", "category")), strict=True)]
    for key in ("only", "never"):
        for name in config[key] or []:
            if name not in {kind for _, kind in lines}:
                raise InputError(f"{key}: {config['items']} has no category {name!r}")
    of = lambda key: {item for item, kind in lines if kind in (config[key] or [])}  # noqa: E731 (an item may have several)
    return set(found) | of("never") & set(names) | (set(names) - of("only") if config["only"] is not None else set())


def asked(config: Mapping[str, Any], run: Mapping[str, Any], folder: Path, numbers: Mapping[str, int],
          events: Sequence[str] | None) -> tuple[list[str], list[np.ndarray], list[np.ndarray], int]:
    """(users in the order of the file, their histories as item numbers, the numbers of the types of these `events`, events whose
    item the run doesn't know).

    Raises:
        InputError: a file that can't be used; a user whom the run's data doesn't have, a type of event that it doesn't.
    """
    path = read.locate(config["users"], ".", "users")
    data = section.make(run["data"] | {"root": config["data"]["root"]}, "data", Facts())
    if path.suffix == ".txt":
        if not (users := list(dict.fromkeys(listed(path)))):
            raise InputError(f"{path}: no users")
        log = data.events()
        record.same_data(folder, data.digest(log))
        number = {name: i for i, name in enumerate(log.users)}
        for user in users:
            if user not in number:
                raise InputError(f"{path}: the data of {folder} has no user {user!r}; give histories as a table instead")
        bounds = np.searchsorted(log.user, np.arange(len(log.users) + 1))
        mine = [slice(bounds[number[user]], bounds[number[user] + 1]) for user in users]
        return users, [log.item[part] + 1 for part in mine], [log.type[part] for part in mine], 0
    table = read.read(path)
    user, item = (read.stripped(table, name, "users") for name in (data.user_column, data.item_column))
    time, some = np.zeros(len(user)), np.flatnonzero(np.array(item, object) != "")   # a user without history has no time
    if data.time_column in table.columns and len(some):
        time[some] = times(table, data.time_column, data.time_format, some)
    kind = read.column(table, data.type_column, "data.type_column") if events is not None else None
    histories: dict[str, list[tuple[int, int]]] = {}
    unknown = 0
    for row in np.argsort(time, kind="stable"):
        if not user[row]:
            raise InputError(f"{table.where(int(row))}: an event without user")
        known, thing = histories.setdefault(user[row], []), item[row]
        what = (kind[row] or "").strip() if kind is not None else None
        if thing and what is not None and what not in events:
            raise InputError(f"{table.where(int(row))}: the run knows no events of type {what!r}; they are {', '.join(events)}")
        known += [(numbers[thing], 0 if what is None else events.index(what))] if thing in numbers else []
        unknown += bool(thing) and thing not in numbers
    users = list(dict.fromkeys(user))
    both = [np.array(histories[name], "i4").reshape(-1, 2).T for name in users]
    return users, [items for items, _ in both], [types for _, types in both], unknown


def ranked(parts: build.Parts, run: Mapping[str, Any], histories: Sequence[tuple[np.ndarray, np.ndarray]],
           hidden: np.ndarray, most: int, had: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """(the `most` best items, their scores) after every history of items and types, without the hidden ones and, unless
    `had`, what a user had: its items, of events of the run's target types, if any."""
    length = parts.facts.longest(run["data"]["max_length"])
    no_loss = {"negatives": 1, "shared": False, "sampled": "none"} if hasattr(parts.task, "negatives") else {}
    task = dataclasses.replace(parts.task, most=most, cutoffs=[1], filter_seen=True, **no_loss)
    examples, targets = [], run["data"].get("target_types")
    counted = [parts.facts.events.index(name) for name in targets] if targets else None
    for number, (history, types) in enumerate(histories):
        tokens = history[-length:].astype("i4")
        seen = hidden if had else np.union1d(history if counted is None else history[np.isin(types, counted)], hidden)
        first = length - len(tokens) if run["data"]["align"] == "right" else 0
        examples.append(Example(tokens, types[-length:].astype("i4"), 0, number, None, seen.astype("i4"), first))   # no label
    feed = Feed(examples, task, None)
    feed.shape = feed.few(feed.shaped(run["data"]["batch_size"], None), build.READ)._replace(seen=max(feed.seen, 1))
    trained, frozen = parts.peft.split(parts.parameters)
    place = parts.strategy.place
    evaluator = evaluate.Evaluator(dataclasses.replace(parts, task=task), place(frozen | parts.constants))
    columns = evaluator.columns(place(trained), feed, title="recommend")
    return list(zip(columns["top_items"], columns["top_scores"], strict=True))


if __name__ == "__main__":
    from experiments.launch import main as launch

    launch(main, "recommend")
