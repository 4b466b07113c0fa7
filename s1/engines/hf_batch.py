"""The running batch of the `hf` engine: rows join and leave at any step, each with its own limits.

    waiting --prefill (all but the last token)--> rows 0..n-1 of the KV slots --one token a step--> ended
       ^                                               |                                             |
       +-------- sent back when memory is short -------+                             to the prefix cache

Synchronous and single-threaded; `hf.py` connects it to event loops. The last token of a prefix is fed by the first
decoding step, so that logits come from one place only and a prefix that is fully cached needs no prefill. When only
a few tokens are missing (a wait, a delimiter), decoding steps feed them too and their draws are dropped.
Shapes: B rows, T positions, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from s1.engines.hf_checkpoint import CheckpointFacts
from s1.engines.hf_kv_cache import (
    BLOCK,
    CachedPrefix,
    KVSlots,
    PrefixCache,
    PrefixSource,
    SlotCache,
    extend_blocks,
    round_up,
)
from s1.engines.hf_row import BatchCounts, BatchRow
from s1.engines.sampling import DrawPlan

MIN_SHARED = 2 * BLOCK
"""A shared prefix shorter than this is computed again rather than copied or waited for."""
KEPT_BYTES = 1 << 28
"""The prefix cache keeps this much, or twice what the running rows have needed: a server's memory stays flat."""
HEADROOM = 64
"""Positions that must be free after a row's prefix when it joins."""
MASK_ELEMENTS = 1 << 23
"""Bound on the elements of one prefill mask."""


class Candidate(NamedTuple):
    """A waiting row, and the source from which its first `shared` positions can be copied."""

    row: BatchRow
    source: PrefixSource | None
    shared: int

    @property
    def missing(self) -> int:
        return self.row.missing(self.shared)


class Batch:
    """Add rows, then call `step()` while `busy`. All calls must come from one thread.

    tokens: ids from here on are padding of the logits and are never drawn. context, max_batch, cache_bytes,
    prefill_tokens: see `HFEngine`.
    """

    def __init__(
        self,
        model: Any,
        facts: CheckpointFacts,
        *,
        tokens: int,
        eos: Sequence[int],
        context: int,
        max_batch: int,
        cache_bytes: int,
        prefill_tokens: int,
    ) -> None:
        self.model, self.tokens, self.eos = model, tokens, tuple(eos)
        self.context, self.max_batch = context, max_batch
        self.cache_bytes, self.prefill_tokens = cache_bytes, prefill_tokens
        self.device: torch.device = model.device
        self.slots = KVSlots(facts.shapes, dtype=model.dtype, device=self.device)
        self.view = SlotCache(self.slots)
        self._cache_argument = {facts.cache_argument: self.view}
        self.prefixes = PrefixCache()
        self.counts = BatchCounts()
        self.waiting: deque[BatchRow] = deque()
        self.rows: list[BatchRow] = []
        self.partial: BatchRow | None = None  # a long prefix in pieces, in the slot after the running rows
        self._width = round_up(context)
        # The prefix cache keeps a quarter, unless one row of full length needs it.
        self._slot_bytes = max(cache_bytes * 3 // 4, self.slots.bytes_of(1, self._width))
        self._rows_B = torch.arange(max_batch, device=self.device)
        self._ids_B = torch.zeros(max_batch, dtype=torch.long, device=self.device)
        self._positions_B = torch.zeros(max_batch, dtype=torch.long, device=self.device)
        self._draw_plan: DrawPlan | None = None
        self._unfinished: set[BatchRow] = set()  # a failure must reach every one of them

    @property
    def busy(self) -> bool:
        return bool(self.rows or self.waiting or self.partial)

    @property
    def bytes(self) -> int:
        """Bytes of keys and values, of running rows and in the prefix cache."""
        return self.slots.bytes + self.prefixes.bytes

    def add(self, row: BatchRow) -> None:
        self._unfinished.add(row)
        self.waiting.append(row)

    @torch.inference_mode()
    def step(self) -> list[BatchRow]:
        """Let rows join, prefill once, decode one token in every running row. Returns the rows that ended."""
        self._drop_cancelled()
        if self.partial is not None:
            self._prefill([self.partial])
        else:
            self._admit()
        ended = self._decode() if self.rows else []
        self._remove(ended)
        self._unfinished.difference_update(ended)
        return ended

    @torch.inference_mode()
    def clear(self) -> list[BatchRow]:
        """Forget everything, after a failure. Returns the rows that were waiting or running."""
        rows = list(self._unfinished)
        self._unfinished.clear()
        self.rows, self.partial, self._draw_plan = [], None, None
        self.waiting.clear()
        self.prefixes = PrefixCache()
        self.slots.resize(0, 0, used=0)
        return rows

    # Joining

    def _admit(self) -> None:
        """Let waiting rows join: copy what is cached of their prefixes and prefill the rest."""
        candidates = self._candidates()
        if not candidates:
            return
        group = self._fitting(self._prefill_group(candidates), oldest=candidates[0])
        admitted = {candidate.row for candidate in group}
        self.waiting = deque(row for row in self.waiting if row not in admitted)
        for index, (row, source, shared) in enumerate(group, len(self.rows)):
            if isinstance(source, CachedPrefix):
                self.slots.load(index, source, shared)
            elif isinstance(source, BatchRow):
                self.slots.copy(index, source.index, shared)
            row.index, row.cached = index, shared
            self.counts.reused += shared
        for candidate in group:
            if not candidate.missing:
                self._join(candidate.row)
        if rest := [candidate.row for candidate in group if candidate.missing]:
            self._prefill(rest)

    def _candidates(self) -> list[Candidate]:
        """The oldest waiting rows, as many as rows are free, the oldest first.

        A row that shares a long prefix with an older candidate keeps waiting until it can copy it.
        """
        found: list[Candidate] = []
        claimed: set[int] = set()
        for row in self.waiting:
            if len(found) == self.max_batch - len(self.rows):
                break
            source, shared = self.prefixes.find(row.ids, row.blocks)
            shared = min(shared, len(row.ids) - 1)
            if shared < MIN_SHARED and shared < len(row.ids) - 1:
                source, shared = None, 0
            candidate = Candidate(row, source, shared)
            new_blocks = row.blocks[shared // BLOCK :]
            if candidate.missing >= MIN_SHARED and any(
                block in claimed for block in new_blocks[MIN_SHARED // BLOCK - 1 :][:1]
            ):
                continue
            claimed.update(new_blocks)
            found.append(candidate)
        return found

    def _prefill_group(self, candidates: list[Candidate]) -> list[Candidate]:
        """The candidates that need no prefill, then those that share the next prefill call.

        One call either begins new prefixes or extends cached ones. It takes rows of similar length, shortest
        first, but the oldest candidate before all others.
        """
        oldest = candidates[0]
        cached = [c for c in candidates if not c.missing]
        new = [c for c in candidates if c.missing and not c.shared]
        extended = [c for c in candidates if c.missing and c.shared]
        kind = extended if not new or oldest in extended else new
        kind.sort(key=lambda c: (c is not oldest, c.missing))
        group: list[Candidate] = []
        longest = 0
        for candidate in kind:
            longest = max(longest, candidate.missing)
            if group and (len(group) + 1) * longest > self.prefill_tokens:
                break
            group.append(candidate)
        return cached + group

    def _fitting(self, group: list[Candidate], oldest: Candidate) -> list[Candidate]:
        """As many of `group` as memory allows, the oldest first of all. Makes room for them in the KV slots."""
        while group:
            rows = [*self.rows, *(c.row for c in group)]
            width = max(len(row.ids) + min(HEADROOM, row.request.max_tokens) for row in rows)
            if self._reserve(len(rows), width):
                return group
            if len(group) == 1:
                break
            group.remove([c for c in group if c is not oldest][-1])
        # One row alone always fits: HFEngine caps the context by the memory.
        if self.rows:
            return []
        if not self._reserve(1, len(oldest.row.ids)):
            raise RuntimeError(f"{len(oldest.row.ids)} tokens do not fit in {self.cache_bytes} bytes")
        return group

    def _reserve(self, rows: int, width: int) -> bool:
        """Make the KV slots at least `rows` x `width`, larger if there is room. False when they do not fit."""
        slots = self.slots
        width = min(round_up(width), self._width)
        if rows <= slots.rows and width <= slots.width:
            return True
        ample_rows = slots.rows if rows <= slots.rows else min(self.max_batch, max(rows, 2 * slots.rows))
        ample_width = slots.width if width <= slots.width else min(self._width, round_up(width * 3 // 2))
        used = len(self.rows) + (self.partial is not None)
        for new_rows, new_width in ((ample_rows, ample_width), (rows, ample_width), (rows, width)):
            size = slots.bytes_of(new_rows, new_width)
            if size <= self._slot_bytes:
                self.prefixes.shrink(self.cache_bytes - size)
                slots.resize(new_rows, new_width, used=used)
                return True
        return False

    def _prefill(self, group: list[BatchRow]) -> None:
        """Compute the missing keys and values of `group`, of a single long row only a piece."""
        starts = [row.cached for row in group]
        counts = [len(row.ids) - 1 - start for row, start in zip(group, starts, strict=True)]
        if len(group) == 1:
            most = self.prefill_tokens
            if starts[0]:
                most = max(BLOCK, min(most, MASK_ELEMENTS // round_up(len(group[0].ids))))
            counts = [min(counts[0], most)]
        longest, device = max(counts), self.device
        ids = torch.tensor(
            [
                row.ids[start : start + count] + [0] * (longest - count)
                for row, start, count in zip(group, starts, counts, strict=True)
            ],
            device=device,
        )
        steps_T = torch.arange(longest, device=device)
        mask = None
        if any(starts):
            positions = torch.tensor(starts, device=device)[:, None] + steps_T
            width = min(round_up(max(s + c for s, c in zip(starts, counts, strict=True))), self.slots.width)
            seen = torch.arange(width, device=device) <= positions[..., None]
            mask = torch.zeros(seen.shape, dtype=self.slots.dtype, device=device)
            mask = mask.masked_fill(~seen, float("-inf"))[:, None]
            positions = positions.clamp(max=self.context - 1)
            self.view.extend(group[0].index, starts, counts, width=width)
        else:
            positions = steps_T.expand(len(group), -1)
            self.view.begin(group[0].index, counts)
        self.model.base_model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            **self._cache_argument,
        )
        self.counts.prefills += 1
        self.counts.prefilled += sum(counts)
        self.partial = None
        for row, count in zip(group, counts, strict=True):
            row.cached += count
            if row.cached == len(row.ids) - 1:
                self._join(row)
            else:
                self.partial = row

    def _join(self, row: BatchRow) -> None:
        """Make a row ready for decoding."""
        self.rows.append(row)
        self.slots.show(row.index, row.cached)
        self._ids_B[row.index] = row.ids[row.cached]
        self._positions_B[row.index] = row.cached
        self.prefixes.register(row, row.blocks[: row.cached // BLOCK])
        self._draw_plan = None

    # Decoding

    def _decode(self) -> list[BatchRow]:
        """One token for every running row. Returns the rows that ended."""
        self._make_room()
        slots, n = self.slots, len(self.rows)
        rows_B, positions_B = self._rows_B[:n], self._positions_B[:n]
        width = min(round_up(max(row.cached for row in self.rows) + 1), slots.width)
        slots.mask[rows_B, 0, 0, positions_B] = 0
        self.view.decode(rows_B, positions_B, width=width)
        logits_BV = self.model(
            input_ids=self._ids_B[:n, None],
            attention_mask=slots.mask[:n, ..., :width],
            position_ids=positions_B[:, None],
            use_cache=True,
            **self._cache_argument,
        ).logits[:, -1]
        logits_BV[:, self.tokens :] = float("-inf")  # padded vocabulary
        if self._draw_plan is None or self._draw_plan.is_stale():
            self._draw_plan = DrawPlan(self.rows, self.eos, self.device)
        drawn_B = self._draw_plan.draw(logits_BV)
        self._ids_B[:n] = drawn_B
        positions_B += 1
        self.counts.steps += 1
        fed: list[BatchRow] = []
        for row, token in zip(self.rows, drawn_B.tolist(), strict=True):
            row.cached += 1
            if row.cached < len(row.ids):
                fed.append(row)
            else:
                row.add(token)
        if fed:
            at = torch.tensor([(row.index, row.ids[row.cached]) for row in fed], device=self.device)
            self._ids_B[at[:, 0]] = at[:, 1]
        self.counts.prefilled += len(fed)
        self.counts.decoded += n - len(fed)
        return [row for row in self.rows if row.finish]

    def _make_room(self) -> None:
        """Widen the KV slots for the next token. When memory is short, send the newest rows back to wait."""
        while True:
            longest = max(row.cached for row in self.rows) + 1
            rows = len(self.rows)
            if self.partial is not None:
                rows, longest = rows + 1, max(longest, len(self.partial.ids))
            if self._reserve(rows, longest):
                return
            if self.partial is not None:
                sent_back, self.partial = self.partial, None
            elif len(self.rows) > 1:
                sent_back = self.rows[-1]
                self._leave([sent_back])
            else:
                raise RuntimeError(f"{longest} tokens do not fit in {self.cache_bytes} bytes")
            sent_back.cached, sent_back.index = 0, -1
            sent_back.blocks = extend_blocks(sent_back.blocks, sent_back.ids)
            self.waiting.appendleft(sent_back)
            self.counts.preempted += 1

    # Leaving

    def _drop_cancelled(self) -> None:
        if not any(row.cancelled for row in self._unfinished):
            return
        if self.partial is not None and self.partial.cancelled:
            self.partial = None
        self.waiting = deque(row for row in self.waiting if not row.cancelled)
        self._remove([row for row in self.rows if row.cancelled])
        self._unfinished = {row for row in self._unfinished if not row.cancelled}

    def _remove(self, gone: list[BatchRow]) -> None:
        """Keep in the prefix cache what the rows have computed, and close the gaps that they leave."""
        for row in gone:
            self._keep(row)
        self._leave(gone)

    def _keep(self, row: BatchRow) -> None:
        self.prefixes.unregister(row, row.blocks)
        held, new = self.slots.bytes, row.cached * self.slots.bytes_per_token
        room = min(self.cache_bytes - held, max(KEPT_BYTES, 2 * held)) - new
        if row.cached < MIN_SHARED or room < 0:
            return
        ids = row.ids[: row.cached]
        blocks = extend_blocks(row.blocks[: row.cached // BLOCK], ids)
        known, shared = self.prefixes.find(ids, blocks[: len(row.request.prefix) // BLOCK])
        if isinstance(known, CachedPrefix) and shared == known.cached:
            self.prefixes.drop(known)  # the new entry begins with all of it
        self.prefixes.shrink(room)
        self.prefixes.put(self.slots.save(row.index, ids, blocks))

    def _leave(self, gone: list[BatchRow]) -> None:
        """Move the last rows into the places of those that leave, so that running rows stay together."""
        for row in sorted(gone, key=lambda each: -each.index):
            self.prefixes.unregister(row, row.blocks)
            last = self.rows.pop()
            if last is not row:
                self.slots.copy(row.index, last.index, last.cached)
                self.slots.mask[row.index] = self.slots.mask[last.index]
                self._ids_B[row.index] = self._ids_B[last.index]
                self._positions_B[row.index] = self._positions_B[last.index]
                self.rows[row.index] = last
                last.index = row.index
            row.index = -1
        if gone and self.partial is not None:
            self.slots.copy(len(self.rows), self.partial.index, self.partial.cached)
            self.partial.index = len(self.rows)
        if gone:
            self._draw_plan = None
