"""Which traces can have a repetition loop at all: a cheap test of many at once, before the exact search of each.

In a loop of period p, words equal those p places later, over a long run. A run of r places contains at least
r // s of every s-th place, so it is enough to check every s-th place (s is a quarter of the shortest run that
counts) and ask whether r // s in a row agree. Words are compared by hash, so a few traces pass by chance and no
loop is missed.
"""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl

from s1.data.partitions import spaces_only

LONGEST_PERIOD = 32
LONG_WORD = 200
"""A word this long may be one character repeated."""
BATCH_BYTES = 1 << 22
"""Text of the traces checked together: enough to keep NumPy busy; its words take ten times as much memory."""


def may_loop(texts: pl.Series, *, word_run: int, phrase_words: int, repeats: int) -> np.ndarray:
    """For each text, False where it has no loop by these bounds.

    A loop is a word that follows itself over `word_run` places, a phrase of 2 to LONGEST_PERIOD words that is
    repeated `repeats` times over `phrase_words` words or more, or a character repeated in one long word.
    """
    sizes = texts.str.len_bytes().fill_null(0).to_numpy().astype(np.int64)
    batch = (np.cumsum(sizes) - sizes) // BATCH_BYTES
    starts = [*np.flatnonzero(np.diff(batch, prepend=-1)), len(texts)]
    found = [
        _may_loop(texts[start:end], word_run, phrase_words, repeats)
        for start, end in itertools.pairwise(starts)
    ]
    return np.concatenate(found) if found else np.zeros(0, dtype=bool)


def _may_loop(texts: pl.Series, word_run: int, phrase_words: int, repeats: int) -> np.ndarray:
    spaced = spaces_only(texts.fill_null(""))
    split = spaced.str.split(" ")
    words = split.explode()
    counts = split.list.len().to_numpy()
    docs = np.repeat(np.arange(len(texts), dtype=np.int32), counts)
    found = np.zeros(len(texts), dtype=bool)
    found[docs[(words.str.len_bytes() >= LONG_WORD).to_numpy()]] = True
    is_word = (words != "").to_numpy()
    hashes, docs = words.hash(seed=0).to_numpy()[is_word], docs[is_word]
    for period in range(1, min(LONGEST_PERIOD, len(hashes) - 1) + 1):
        run = word_run - 1 if period == 1 else max(phrase_words, repeats * period) - period
        step = max(1, run // 4)
        at = np.arange(0, len(hashes) - period, step)
        equal = (hashes[at] == hashes[at + period]) & (docs[at] == docs[at + period])
        in_a_row = run // step
        if len(equal) < in_a_row:
            continue
        places = len(equal) - in_a_row + 1
        agree = equal[:places].copy()
        for later in range(1, in_a_row):
            agree &= equal[later : later + places]
        found[docs[at[:places][agree]]] = True
    return found
