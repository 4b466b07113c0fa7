"""Repetition loops: text that equals itself some places later, at any distance and in any script.

The texts of a part are searched together, as one array of bytes, in a few passes of NumPy:

1. Digits become 0 and whitespace blanks, then runs of digits, blanks and marks (- = | ...) are shortened to one.
   A numbered step then equals the next one, and a rule of 220 dashes is one dash.
2. Where does the text equal itself `lag` bytes later? A loop with a short period agrees over a whole run of bytes,
   so it is enough to compare eight bytes at every few places. In a loop with a long period the same anchors (places
   chosen by the bytes around them) come again, and their distance is the lag.
3. A stretch that is long enough is judged as text (`_is_loop`), where numbers count as they are.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl

from s1.data.curate_settings import CleanSettings

BATCH_BYTES = 1 << 22
"""Text that is searched together. The search takes some twenty times as much memory."""
SHORT_LAG = 256
"""Lags up to this one are compared, longer ones are found through anchors."""
ANCHOR_EVERY = 16
"""One place in so many is an anchor, on average."""
PIECE = 8
"""Bytes compared at once."""
MARKS = b"-=_~*#+.|:<>/\\^"
COLLAPSED = np.isin(np.arange(256), list(b"0 " + MARKS))
CANONICAL = bytes.maketrans(b"123456789\t\n\x0b\x0c\r", b"000000000     ")
RULE = re.compile(r"[-=_~*#+.|:<>/\\^\s\u00b7\u2010-\u2015\u2022-\u2027\u2190-\u25ff\u3000\u30fb]*")
"""What rules and frames are made of,"""
LINE = re.compile(r"[-_| \u2010-\u2015\u2500-\u257f]*")
"""and those with blanks, on one line."""
UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\ua4cf\uf900-\ufaff\uff66-\uff9f]")
"""Characters of scripts that put no spaces between words. Two count as a word."""
CHARACTERS_A_WORD = 6
"""Longer words count as several, so that text without spaces has words too."""
LONG_NUMBER = 200
"""A number of so many digits is a loop when they repeat themselves."""
SIGNS = 4
"""A phrase without a letter must be so many times as long,"""
TABLE = 10
"""and a table row so many times."""
LONG_PHRASE = 50
"""From so many words on a phrase may occur MERCY times less than `loop_repeats`, so two and a half times by default."""
MERCY = 1.5
NUMBERED_TIMES, NUMBERED_WORDS = 12, 4
"""A phrase of so many words is a loop after so many times even if its numbers count up or down."""


def find_loops(texts: pl.Series, rules: CleanSettings) -> pl.Series:
    """Whether each of some texts has a repetition loop; a null has none."""
    sizes = texts.str.len_bytes().fill_null(0).to_numpy().astype(np.int64)
    batch = (np.cumsum(sizes) - sizes) // BATCH_BYTES
    starts = [*np.flatnonzero(np.diff(batch, prepend=-1)), len(texts)]
    found = [_Batch(texts[a:b], rules).search() for a, b in itertools.pairwise(starts)]
    return pl.Series(np.concatenate(found) if found else [], dtype=pl.Boolean)


class _Batch:
    """Some texts as one array of bytes, and which of them loop."""

    def __init__(self, texts: pl.Series, rules: CleanSettings) -> None:
        column: Any = texts.fill_null("").to_arrow(compat_level=pl.CompatLevel.oldest())
        _, offsets, values = column.buffers()
        bounds = np.frombuffer(offsets, np.int64, len(texts) + 1, 8 * column.offset)
        self.raw = b"".join([memoryview(values or b"")[bounds[0] : bounds[-1]], bytes(3 * PIECE)])
        masked = self.raw.translate(CANONICAL)
        codes = np.frombuffer(masked, np.uint8)
        again = np.flatnonzero(codes[1:] == codes[:-1]) + 1
        keep = np.ones(len(codes), dtype=bool)
        keep[again[COLLAPSED[codes[again]]]] = False
        keep[bounds[:-1] - bounds[0]] = True
        gone = again[~keep[again]]
        self.shifts = gone - np.arange(len(gone))
        self.bounds = bounds - bounds[0] - np.searchsorted(gone, bounds - bounds[0])
        self.edges: list[int] = self.bounds.tolist()
        self.size = self.edges[-1]
        self.codes = codes[keep]
        self.numbers = np.frombuffer(self.raw, np.uint8)[keep]
        """`codes` with its digits."""
        self.text = self.codes[: self.size].tobytes()
        self.backwards = self.codes[: self.size][::-1].tobytes()
        self.long_numbers = b"0" * LONG_NUMBER in masked
        self.rules = rules
        self.judged = np.zeros(len(texts), dtype=bool)
        """A text full of numbers agrees at many lags: after the first, only where the numbers agree as well."""
        self.found = np.zeros(len(texts), dtype=bool)

    def search(self) -> np.ndarray:
        """Whether each text loops."""
        if self.long_numbers:
            self._check_numbers()
        # The eight bytes from each place on as one number, without a copy.
        pieces: Any = np.ndarray(self.size + PIECE, "<u8", self.codes.data, strides=(1,))
        exact: Any = np.ndarray(self.size + PIECE, "<u8", self.numbers.data, strides=(1,))
        text = self.text
        for lag in range(1, min(SHORT_LAG, self.size - 1) + 1):
            run = self._least_run(lag)
            step, half = max(1, run - PIECE + 1), max(run // 2, PIECE)
            left = exact if self.judged.all() else pieces
            hits = self._open(
                np.flatnonzero(left[: self.size - lag : step] == left[lag : self.size : step]) * step
            )
            if left is pieces and self.judged.any():
                hits = hits[~self.judged[self._texts_at(hits)] | (exact[hits] == exact[hits + lag])]
            # A run around such a place holds the half of one before it, or after it.
            places = [
                at
                for at in hits.tolist()
                if text[at : at + half] == text[at + lag : at + lag + half]
                or text[at + PIECE - half : at + PIECE] == text[at + lag + PIECE - half : at + lag + PIECE]
            ]
            self._check(lag, places)
        for lag, places in self._repeated_anchors():
            self._check(lag, places)
        return self.found

    def _repeated_anchors(self) -> Iterable[tuple[int, list[int]]]:
        """Lags above SHORT_LAG at which many anchors of a text come again, and where."""
        mixed = self.codes[: self.size] * np.uint8(101)
        for at, factor in enumerate((59, 167, 211), 1):
            mixed = (mixed ^ self.codes[at : self.size + at]) * np.uint8(factor)
        anchors = np.flatnonzero(mixed < 256 // ANCHOR_EVERY)
        # Sorted by the sixteen bytes that follow, numbers as they are, then by place: both in one number.
        bits = self.size.bit_length()
        pieces: Any = np.ndarray(self.size + 2 * PIECE, "<u8", self.numbers.data, strides=(1,))
        keys = pieces[anchors] * np.uint64(0x9E3779B97F4A7C15) + pieces[anchors + PIECE]
        keys = np.sort((keys >> np.uint64(bits) << np.uint64(bits)) | anchors.astype(np.uint64))
        anchors = (keys & np.uint64((1 << bits) - 1)).astype(np.int64)
        keys >>= np.uint64(bits)
        again = np.flatnonzero((keys[1:] == keys[:-1]) & (np.diff(anchors) > SHORT_LAG))
        places, lags = anchors[again], anchors[again + 1] - anchors[again]
        texts = self._texts_at(places)
        pairs = np.where(texts == self._texts_at(places + lags), lags << 32 | texts, 0)
        names, pair, times = np.unique(pairs, return_inverse=True, return_counts=True)
        often = (names > 0) & (times >= np.maximum(3, (names >> 32) // (8 * ANCHOR_EVERY)))
        places, lags = places[often[pair]], lags[often[pair]]
        order = np.lexsort((places, lags))
        found = zip(lags[order].tolist(), places[order].tolist(), strict=True)
        for lag, group in itertools.groupby(found, key=lambda pair: pair[0]):
            yield lag, [place for _, place in group]

    def _open(self, places: Any) -> Any:
        """Those of some places whose text is not known to loop."""
        return places[~self.found[self._texts_at(places)]] if len(places) else places

    def _texts_at(self, places: Any) -> Any:
        return np.searchsorted(self.bounds, places, side="right") - 1

    def _least_run(self, lag: int) -> int:
        """Over how many bytes at least a loop with this lag agrees with itself."""
        rules = self.rules
        phrase = max(self._least_times(lag / 2) * lag, 2 * rules.loop_words)
        return int(min(phrase, min(rules.word_run, rules.other_run) * lag)) - lag - 1

    def _least_times(self, words: float) -> float:
        """How often at least a phrase of so many words occurs in a loop."""
        return self.rules.loop_repeats if words < LONG_PHRASE else max(2, self.rules.loop_repeats - MERCY)

    def _check(self, lag: int, places: Sequence[int]) -> None:
        """Judges the stretches around some places at which the text agrees with itself `lag` later."""
        done, least = 0, self._least_run(lag)
        for place, number in zip(places, self._texts_at(places).tolist(), strict=True):
            if place < done or self.found[number]:
                continue
            first, last = self.edges[number], self.edges[number + 1]
            end = done = _agreement(self.text, place, lag, last)
            mirrored = _agreement(self.backwards, self.size - place - lag, lag, self.size - first)
            start = self.size - lag - mirrored
            if end - start < least:
                continue
            other = np.flatnonzero(self.numbers[start:end] != self.numbers[start + lag : end + lag])
            alike = int(np.diff(np.concatenate(([-1], other, [end - start]))).max()) - 1
            if alike >= least or not self.judged[number]:
                self.judged[number] = True
                self.found[number] = self._is_loop(first, last, start, end + lag, lag)

    def _check_numbers(self) -> None:
        for digits in re.finditer(rb"\d{%d,}" % LONG_NUMBER, self.raw):
            if any(digits[0][lag:] == digits[0][:-lag] for lag in range(1, 31)):
                place = digits.start() - np.searchsorted(
                    self.shifts + np.arange(len(self.shifts)), digits.start()
                )
                self.found[self._texts_at(place)] = True

    def _is_loop(self, first: int, last: int, start: int, end: int, lag: int) -> bool:
        """Whether text[start:end], with period `lag`, is a loop; its trace is text[first:last]."""
        rules, span, phrase = self.rules, self.text[start:end], self.text[start : start + lag]
        first_part = self._raw(start, start + lag)
        raw, lettered = self._raw(start, end), any(map(str.isalpha, first_part))
        blanks = phrase.count(b" ")
        if (LINE if blanks else RULE).fullmatch(raw.strip()):
            return False
        units: Sequence[Any] = self.raw[self._place(start) : self._place(end)].split() if blanks else raw
        if blanks:  # whole words only
            before, after = self.text[max(first, start - 1) : start], self.text[end : min(last, end + 1)]
            units = units[bool((before + b" ").strip() and span[:1] != b" ") :]
            units = units[: len(units) - bool((after + b" ").strip() and span[-1:] != b" ")]
        # Numbers are compared as they are, and so is whatever was shortened.
        of_phrase = blanks or len(first_part)
        if len(units) < 2 * of_phrase:
            return False
        repeated = of_phrase + _longest(a == b for a, b in zip(units, units[of_phrase:], strict=False))
        share = repeated / len(units)
        size = float(repeated if blanks > 1 else 0)
        if lettered or not blanks:
            size = max(size, share * len(raw) / CHARACTERS_A_WORD, share * len(UNSPACED.findall(raw)) / 2)
        if blanks == 1 and repeated >= (rules.word_run if lettered else rules.other_run):
            return True
        is_table = phrase.count(b"|") > 1 and "\n" in raw
        least = rules.loop_words * (TABLE if is_table else SIGNS if blanks and not lettered else 1)
        times = repeated / of_phrase
        if size >= least and times >= self._least_times(size / times):
            return True
        times = (end - start) // lag
        if is_table or not lettered or times < NUMBERED_TIMES or size < share * NUMBERED_WORDS * times:
            return False
        parts = [self._raw(at, at + lag) for at in range(start, end - lag + 1, lag)]
        counts = [[int(number[-9:]) for number in re.findall(r"\d+", part)] for part in parts]
        steps = [[b - a for a, b in zip(*pair, strict=False)] for pair in itertools.pairwise(counts)]
        return 2 + _longest(a == b for a, b in itertools.pairwise(steps)) >= NUMBERED_TIMES

    def _raw(self, start: int, end: int) -> str:
        return self.raw[self._place(start) : self._place(end)].decode("utf-8", "ignore")

    def _place(self, at: int) -> int:
        """Where in `raw` a byte of `text` is."""
        return at + int(np.searchsorted(self.shifts, at, side="right"))


def _longest(values: Iterable[bool]) -> int:
    """The length of the longest run of True."""
    return max((len(list(run)) for value, run in itertools.groupby(values) if value), default=0)


def _agreement(text: bytes, place: int, lag: int, end: int) -> int:
    """The first place from `place` on where text[place] and text[place + lag] differ or the latter is past `end`."""
    size, grows = 64, True
    while size:
        stop = min(place + size, end - lag)
        if place < stop and text[place:stop] == text[place + lag : stop + lag]:
            place = stop
            size = size * 2 if grows else size // 2
        else:
            size, grows = size // 2, False
    return place
