"""What a log says of the past of every row, and after its end, of rows to come."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from ecrec_jax.data import digest, history, vectors
from ecrec_jax.data.clean import codes
from ecrec_jax.types import InputError

Sides = Mapping[str, Sequence[str | None]]   # user and item of every row
Numbers = dict[str, Float[np.ndarray, "R"]]  # by their names


@dataclasses.dataclass(frozen=True)
class Past:
    """Which numbers are made: counts (`history`), how long ago (`recency`), whether texts match (by a file of `vectors`)."""

    history: bool
    recency: bool
    vectors: Path | None

    def before(self, sides: Sides, time: Float[np.ndarray, "R"], clicked: Bool[np.ndarray, "R"], fields: Collection[str]
               ) -> Numbers:
        """Of every row, by the rows strictly before it.

        Raises:
            InputError: one of these `fields` has the name of such a number.
        """
        found = history.before(sides, time, clicked) if self.history else {}
        found |= history.since(sides, time) if self.recency else {}
        if self.vectors is not None:
            item, names = codes(sides["item"])
            found["text_match"] = history.match(sides["user"], time, clicked, item, vectors.load(self.vectors, names)[1:])
        for name in found:
            if name in fields:
                raise InputError(f"data.fields: {name} is what a number made of the rows before is called: rename the column")
        return found

    def files(self) -> list[Path]:
        """What numbers are made of beside the log."""
        return [] if self.vectors is None else [self.vectors]

    def kept(self, sides: Sides, time: Float[np.ndarray, "R"], clicked: Bool[np.ndarray, "R"]) -> dict[str, Any]:
        """What `after` needs of a whole log, as JSON has it."""
        found: dict[str, Any] = {"history": history.totals(sides if self.history else {}, clicked), "end": float(time.max())}
        if self.recency:
            found["last"] = history.last(sides, time)
        if self.vectors is not None:
            found |= {"taken": history.taken(sides["user"], clicked, sides["item"]), "vectors": digest.of(self.vectors)}
        return found

    def after(self, known: Mapping[str, Any], sides: Sides, time: Float[np.ndarray, "R"] | None, where: Callable[[int], str]
              ) -> Numbers:
        """Of rows that come after all those that are `known`; `time` where it is known.

        Raises:
            InputError: a row is earlier, the vectors are others, or an item has none, or the run is too old to know.
        """
        if time is not None and (time < known.get("end", -np.inf)).any():
            row = int(np.argmax(time < known["end"]))
            raise InputError(f"{where(row)}: a time before the end of the run's log, and new rows come after it")
        found = history.now(known["history"], sides) if self.history else {}
        if self.recency:
            found |= history.since_last(known["last"], sides, time)
        if self.vectors is not None:
            if "taken" not in known:
                raise InputError("data.vectors: the run doesn't keep what its users took, which new rows are matched with: "
                                 "train it again")
            if digest.of(self.vectors) != known["vectors"]:
                raise InputError(f"data.vectors: {self.vectors} is another file than the one that the run was trained with")
            taken = known["taken"]
            names = sorted({x for some in taken.values() for x in some} | set(map(history.text, sides["item"])))
            vector = dict(zip(names, vectors.load(self.vectors, names)[1:], strict=False))
            found["text_match"] = history.match_all(taken, sides["user"], sides["item"], vector)
        return found
