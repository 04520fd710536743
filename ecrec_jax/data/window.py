"""Events of users in order, cut into windows of tokens."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from ecrec_jax.data.tokenise import Ragged


class Log(NamedTuple):
    """E events, sorted by user, then time: each event's user, session, kind, text (numbers of them) and row in the file."""

    user: Int[np.ndarray, "E"]
    session: Int[np.ndarray, "E"]
    kind: Int[np.ndarray, "E"]
    text: Int[np.ndarray, "E"]
    row: Int[np.ndarray, "E"]


def changes(*columns: Int[np.ndarray, "E"]) -> Bool[np.ndarray, "E"]:
    """Where any of the columns differs from the event before; the first event does."""
    found = np.ones(len(columns[0]), bool)
    found[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return found


def cut(log: Log, inside: Int[np.ndarray, "E"], opening: Int[np.ndarray, "E"], room: int) -> Bool[np.ndarray, "E"]:
    """Which events open a window. A window takes sessions of one user, one after the other, as long as they fit as a whole;
    a session that doesn't fit opens the next one, and is cut between its events only if it is longer than a window.

    `inside` and `opening` are the tokens of an event within a window and as its first (at most `room`, the tokens of a
    window). They are equal where a session begins.
    """
    begins = changes(log.user, log.session)
    bounds = [*np.flatnonzero(begins).tolist(), len(begins)]
    fresh, total = changes(log.user).tolist(), np.concatenate([[0], np.cumsum(inside)]).tolist()
    found, free = np.zeros(len(begins), bool), 0
    for first, end in zip(bounds[:-1], bounds[1:], strict=True):
        if not fresh[first] and total[end] - total[first] <= free:
            free -= total[end] - total[first]
            continue
        free = 0   # the session opens a window
        for event in range(first, end):
            found[event] = inside[event] > free
            free = room - opening[event] if found[event] else free - inside[event]
    return found


def join(lists: list[Ragged], special: tuple[int, int]) -> Ragged:
    """Tokenised texts without the special tokens around each, one list after the other, and at last each of `special`."""
    kept = np.concatenate([texts.word >= 0 for texts in lists] + [np.ones(2, bool)])
    tokens = np.concatenate([texts.tokens for texts in lists] + [np.array(special, "i4")])
    word = np.concatenate([texts.word for texts in lists] + [np.full(2, -1, "i4")])
    size = np.concatenate([np.diff(texts.offset) for texts in lists] + [np.ones(2, int)])
    offset = np.concatenate([[0], np.cumsum(kept)])[np.concatenate([[0], np.cumsum(size)])]
    return Ragged(tokens[kept], np.zeros(kept.sum(), "i4"), word[kept], offset, np.zeros(len(size), bool))


def windows(log: Log, kinds: Ragged, texts: Ragged, special: tuple[int, int], max_length: int
            ) -> tuple[Ragged, Bool[np.ndarray, "E"], Int[np.ndarray, "W"]]:
    """(tokens of the windows, the events whose kind is said, each window's first event): [CLS], then of every event its kind
    where it is said, its text and [SEP].

    `special` holds the ids of [CLS] and [SEP]. Words are numbered from the log's first to its last; none is in two windows.
    """
    size, kind_size = (np.diff(side.offset)[of] - 2 for side, of in ((texts, log.text), (kinds, log.kind)))
    said = changes(log.user, log.session, log.kind)
    opens = cut(log, size + said * kind_size + 1, size + kind_size + 1, max_length - 1)
    said |= opens
    bank = join([kinds, texts], special)
    cls, sep = len(bank.offset) - 3, len(bank.offset) - 2
    piece = np.stack([np.where(opens, cls, -1), np.where(said, log.kind, -1), len(kinds.offset) - 1 + log.text,
                      np.full_like(log.text, sep)], 1)
    event, piece = np.nonzero(piece >= 0)[0], piece[piece >= 0]
    size, words = np.diff(bank.offset)[piece], np.maximum.reduceat(bank.word, bank.offset[:-1])[piece] + 1
    end, before = np.cumsum(size), np.cumsum(words) - words
    where = np.repeat(bank.offset[piece] - (end - size), size) + np.arange(end[-1])
    word = np.where(bank.word[where] < 0, -1, bank.word[where] + np.repeat(before, size))
    first = np.flatnonzero(opens)
    offset = np.append(np.repeat(event, size).searchsorted(first), len(where))
    truncated = np.logical_or.reduceat(texts.truncated[log.text], first)
    return Ragged(bank.tokens[where], np.zeros(len(where), "i4"), word.astype("i4"), offset, truncated), said, first
