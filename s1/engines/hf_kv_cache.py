"""Keys and values of the `hf` engine: slots for running requests and a cache of finished ones.

    KVSlots       per layer [rows, heads, width, dim], preallocated: row i holds request i from position 0
    PrefixCache   finished requests, each cut to its length, found by token ids, least recently used dropped first

Growing a cache by concatenation at every step takes 1.7 times as long on a CPU, so the slots are written in
place and grow by half when they are full. Together the two stay within one bound in bytes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from transformers.cache_utils import Cache

BLOCK = 16
"""Tokens per block of the prefix index."""
WIDTH = 64
"""Widths are multiples of this, so that shapes, and with them the order of sums, change rarely."""


def round_up(n: int, to: int = WIDTH) -> int:
    return -(-n // to) * to


class LayerShape(NamedTuple):
    heads: int
    key_dim: int
    value_dim: int


class KVSlots:
    """Rows of keys and values, with the additive mask for decoding (0 for visible positions, -inf for others).

    `tensors` are the keys of the first layer, its values, the keys of the second, and so on.
    """

    def __init__(self, shapes: Sequence[LayerShape], *, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self.bytes_per_token = sum(s.heads * (s.key_dim + s.value_dim) for s in shapes) * dtype.itemsize
        self.rows = self.width = 0
        self.tensors = [self._empty(0, 0, s.heads, dim) for s in shapes for dim in (s.key_dim, s.value_dim)]
        self.mask = torch.zeros((0, 1, 1, 0), dtype=dtype, device=device)

    @property
    def bytes(self) -> int:
        return self.bytes_of(self.rows, self.width)

    def bytes_of(self, rows: int, width: int) -> int:
        return rows * width * self.bytes_per_token

    def resize(self, rows: int, width: int, *, used: int) -> None:
        """Change to `rows` x `width`, keeping the first `used` rows. Briefly holds one tensor twice."""
        copied = min(width, self.width)
        for i, old in enumerate(self.tensors):
            new = self._empty(rows, width, old.shape[1], old.shape[3])
            new[:used, :, :copied] = old[:used, :, :copied]
            self.tensors[i] = new
        mask = torch.full((rows, 1, 1, width), float("-inf"), dtype=self.dtype, device=self.device)
        mask[:used, ..., :copied] = self.mask[:used, ..., :copied]
        self.mask, self.rows, self.width = mask, rows, width

    def show(self, row: int, length: int) -> None:
        """Make the first `length` positions of a row visible, and no others."""
        self.mask[row] = float("-inf")
        self.mask[row, ..., :length] = 0

    def copy(self, target: int, source: int, length: int) -> None:
        """Copy the first `length` positions of one row to another."""
        for tensor in self.tensors:
            tensor[target, :, :length] = tensor[source, :, :length]

    def load(self, target: int, kept: CachedPrefix, length: int) -> None:
        """Copy the first `length` positions of a finished request to a row."""
        for tensor, part in zip(self.tensors, kept.tensors, strict=True):
            tensor[target, :, :length] = part[:, :length]

    def save(self, row: int, ids: Sequence[int], blocks: list[int]) -> CachedPrefix:
        """A copy of the first `len(ids)` positions of a row."""
        length = len(ids)
        parts = [tensor[row, :, :length].clone() for tensor in self.tensors]
        return CachedPrefix(list(ids), length, blocks, parts, length * self.bytes_per_token)

    def _empty(self, rows: int, width: int, heads: int, dim: int) -> torch.Tensor:
        # Zeros, not garbage: a masked position still takes part in sums, and NaN times 0 is NaN.
        return torch.zeros((rows, heads, width, dim), dtype=self.dtype, device=self.device)


class SlotCache(Cache):  # type: ignore[misc]
    """What a transformers model sees of the KV slots during one forward call.

    It has no layers of its own: to the mask code of transformers it looks empty, and positions and masks are
    passed explicitly. Before each call, `decode`, `begin` or `extend` sets where the new keys and values go.
    """

    def __init__(self, slots: KVSlots) -> None:
        super().__init__(layers=[])
        self.slots = slots
        self._spans: list[tuple[int, int, int]] = []
        self._view: tuple[int, int, int] | None = None
        self._at: tuple[torch.Tensor, torch.Tensor] | None = None

    def decode(self, rows_B: torch.Tensor, positions_B: torch.Tensor, *, width: int) -> None:
        """One new token in each of the first B rows."""
        self._at, self._view = (rows_B, positions_B), (0, len(rows_B), width)

    def begin(self, first: int, counts: Sequence[int]) -> None:
        """Right-padded new rows, at `first` and after it, from position 0: plain causal attention."""
        self._at, self._view = None, None
        self._spans = [(first + n, 0, count) for n, count in enumerate(counts)]

    def extend(self, first: int, starts: Sequence[int], counts: Sequence[int], *, width: int) -> None:
        """Rows at `first` and after it that already hold `starts` positions; the view is `width` wide."""
        self._at, self._view = None, (first, first + len(starts), width)
        self._spans = [
            (first + n, start, count) for n, (start, count) in enumerate(zip(starts, counts, strict=True))
        ]

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write [B, heads, new, dim] in place; return the keys and values to attend to."""
        keys, values = self.slots.tensors[2 * layer_idx : 2 * layer_idx + 2]
        if self._at is not None:
            rows_B, positions_B = self._at
            keys[rows_B, :, positions_B] = key_states[:, :, 0]
            values[rows_B, :, positions_B] = value_states[:, :, 0]
        else:
            for n, (row, start, count) in enumerate(self._spans):
                keys[row, :, start : start + count] = key_states[n, :, :count]
                values[row, :, start : start + count] = value_states[n, :, :count]
        if self._view is None:
            return key_states, value_states
        first, last, width = self._view
        return keys[first:last, :, :width], values[first:last, :, :width]


class PrefixSource(Protocol):
    """Something whose first `cached` ids have keys and values: a finished request or a running row."""

    ids: list[int]
    cached: int


@dataclass(slots=True, eq=False)
class CachedPrefix:
    """Keys and values of a finished request, [heads, length, dim] each, in the order of `KVSlots.tensors`."""

    ids: list[int]
    cached: int
    blocks: list[int]
    tensors: list[torch.Tensor] = field(repr=False)
    bytes: int


def extend_blocks(blocks: list[int], ids: Sequence[int]) -> list[int]:
    """Hashes of the whole blocks of `ids`, each chained to the one before; `blocks` are those already known."""
    blocks = list(blocks)
    for n in range(len(blocks), len(ids) // BLOCK):
        last = blocks[-1] if blocks else 0
        blocks.append(hash((last, *ids[n * BLOCK : (n + 1) * BLOCK])))
    return blocks


class PrefixCache:
    """Finished requests, and an index of them and the running ones that finds the longest shared prefix."""

    def __init__(self) -> None:
        self.bytes = 0
        self._kept: OrderedDict[CachedPrefix, None] = OrderedDict()
        self._index: dict[int, dict[Any, None]] = {}

    def find(self, ids: Sequence[int], blocks: Sequence[int]) -> tuple[PrefixSource | None, int]:
        """The source that shares the longest prefix with `ids`, and how many tokens they share."""
        # Blocks are chained, so the known ones come first.
        known = bisect_left(blocks, True, key=lambda block: block not in self._index)
        if not known:
            return None, 0
        best: PrefixSource | None = None
        shared = 0
        for source in list(self._index[blocks[known - 1]])[-4:]:
            length = _common(ids, source.ids, known * BLOCK, min(len(ids), source.cached))
            if length > shared:
                best, shared = source, length
        if isinstance(best, CachedPrefix):
            self._kept.move_to_end(best)
        return best, shared

    def register(self, source: Any, blocks: Sequence[int]) -> None:
        for block in blocks:
            self._index.setdefault(block, {})[source] = None

    def unregister(self, source: Any, blocks: Sequence[int]) -> None:
        for block in blocks:
            sources = self._index.get(block, {})
            sources.pop(source, None)
            if not sources:
                self._index.pop(block, None)

    def put(self, kept: CachedPrefix) -> None:
        self._kept[kept] = None
        self.bytes += kept.bytes
        self.register(kept, kept.blocks)

    def drop(self, kept: CachedPrefix) -> None:
        if kept in self._kept:
            del self._kept[kept]
            self.bytes -= kept.bytes
            self.unregister(kept, kept.blocks)

    def shrink(self, limit: int) -> None:
        """Drop the least recently used entries until at most `limit` bytes are held."""
        while self._kept and self.bytes > limit:
            self.drop(next(iter(self._kept)))


def _common(a: Sequence[int], b: Sequence[int], at_least: int, at_most: int) -> int:
    """Length of the shared prefix; 0 when not even `at_least` tokens agree (a hash collision)."""
    at_least = min(at_least, at_most)
    if list(a[:at_least]) != b[:at_least]:
        return 0
    n = at_least
    while n < at_most and a[n] == b[n]:
        n += 1
    return n
