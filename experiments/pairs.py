"""What users took before, beside what they are shown, in words: `python -m experiments.pairs data=NAME texts=FILE output=FILE`."""

if __name__ == "__main__":
    from experiments.launch import settle

    settle()

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ecrec_jax import section
from ecrec_jax.data import catalogue, history, read
from ecrec_jax.data.clicks import Clicks, Log
from ecrec_jax.types import Facts, InputError
from experiments import output

KEYS = {"texts": str, "text_columns": list[str], "output": str, "input": str | None, "most": int, "share": float}
NOTHING = "nothing yet"   # the history of who took nothing


def main(config: dict[str, Any]) -> None:
    """Read the log and the items' texts, write a pair of texts for every row.

    Raises:
        InputError: a key, a file or a cell that can't be used, an item without text, a split that histories tell of.
    """
    asked = section.typed(config, KEYS)
    data, path = section.make(config["data"], "data", Facts()), output.named(asked["output"])
    if not isinstance(data, Clicks):
        raise InputError("data: pairs are made of a log of items that were shown, data=clicks or one that refines it")
    if asked["most"] < 1 or not 0 < asked["share"] < 1:
        raise InputError(f"most is {asked['most']}, share is {asked['share']}: expected at least 1, and a share between 0 and 1")
    if data.split == "random" and asked["input"] is None:
        raise InputError("data.split=random holds out clicks that the histories of later rows tell: set data.split=time")
    log = data.log()
    catalog = read.read(read.locate(asked["texts"], data.root, "texts"))
    known = catalogue.texts(catalog, ("texts", "item"), ("text_columns", asked["text_columns"]))
    users, items = (read.column(log.table, column, key) for column, key in
                    ((data.user_column, "data.user_column"), (data.item_column, "data.item_column")))
    if asked["input"] is None:
        taken = history.recent(users, log.time, log.clicked, items, asked["most"])
        more = {"taken": log.clicked.astype(int), "split": splits(log, asked["share"])}
        table = log.table
    else:
        table, more = read.read(read.locate(asked["input"], ".", "input")), {}
        names = [*users, *read.column(table, data.user_column, "data.user_column")]
        new, old = len(table.place), len(users)
        items = [*items, *read.column(table, data.item_column, "data.item_column")]
        time, clicked = (np.append(x, np.full(new, end)) for x, end in ((log.time, np.inf), (log.clicked, False)))
        taken, items = history.recent(names, time, clicked, items, asked["most"])[old:], items[old:]
    made = pairs(taken, items, known, table, output.empty(table)) | more
    for name in made:
        if name in table.columns:
            raise InputError(f"{table.path} has a column {name!r}, as the pairs have: rename it")
    output.write(pd.DataFrame(table.columns | made), path)
    print(f"{len(items)} pairs, {sum(not some for some in taken)} without a history; written to {path}")


def pairs(taken: Sequence[Sequence[str]], items: Sequence[str | None], known: dict[str, str], table: read.Table,
          empty: Sequence[bool]) -> dict[str, list[str]]:
    """The texts of what was taken, and of what is shown, nothing in `empty` rows.

    Raises:
        InputError: an item has none.
    """
    for i, (item, some) in enumerate(zip(items, taken, strict=True)):
        for name in (*([] if empty[i] else [history.text(item)]), *some):
            if name not in known:
                raise InputError(f"{table.where(i)}: texts has no text of item {name!r}" + " of its history" * (name in some))
    return {"history": [". ".join(known[item] for item in some) or NOTHING for some in taken],
            "candidate": [known.get(history.text(item), "") for item in items]}


def splits(log: Log, share: float) -> np.ndarray:
    """For the cross-encoder: the first `share` of the log's training rows trains, equal times together, the others validate; what
    validates and tests in the log tests."""
    own = np.sort(log.time[log.split == 0])
    moment = own[min(int(share * len(own)), len(own) - 1)]
    if not (own < moment).any():
        raise InputError(f"share: no training row lies before the first {share:g} of them in time")
    return np.where(log.split > 0, "test", np.where(log.time < moment, "train", "valid"))


if __name__ == "__main__":
    from experiments.launch import main as launch

    launch(main, "pairs")
