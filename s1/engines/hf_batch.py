"""The running batch of the `hf` engine: rows join and leave at any step, each with its own limits.

    waiting --prefill (all but the last token)--> rows 0..n-1 of the board --one token a step--> ended
       ^                                               |      ^                                   |
       +-------- sent back when memory is short -------+      +-- a request that goes on from it -+
                                                                  (or: to the shelf)

Synchronous and single-threaded; `hf.py` puts an event loop in front. The last token of a prefix is fed by the
first decoding step, so that logits come from one place only and a prefix that is known entirely needs no
prefill. An ended row keeps its place until the next step: a request that has come by then and goes on from it
takes the place over, and nothing is copied. The few tokens that a continuation adds (a wait, a delimiter) are
fed by decoding steps too, whose draws are dropped: a forward call for them alone would cost a step.
Shapes: B rows, T positions, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch

from s1.engines.hf_kv_cache import (
    BLOCK,
    Kept,
    KVSlots,
    LayerShape,
    PrefixCache,
    SlotCache,
    Source,
    extend_blocks,
    round_up,
)
from s1.engines.hf_row import Counts, Row, goes_on_from, to_prefill
from s1.engines.sampling import DrawPlan

WORTH = 2 * BLOCK
"""Shared tokens below this are computed again rather than copied or waited for."""
HEADROOM = 64
"""Positions that must be free beside a row when it is let in."""
MASK_ELEMENTS = 1 << 23
"""Bound on the elements of one prefill mask."""


class Batch:
    """Add rows, then `step()` until it is not `busy`. Every call runs under `torch.inference_mode`."""

    def __init__(
        self,
        model: Any,
        *,
        shapes: Sequence[LayerShape],
        cache_argument: str,
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
        self.board = KVSlots(shapes, dtype=model.dtype, device=self.device)
        self.cache = SlotCache(self.board)
        self._cached = {cache_argument: self.cache}
        self.shelf = PrefixCache()
        self.counts = Counts()
        self._all: set[Row] = set()  # what was added and has not ended: a failure must reach every one
        self._arrived: list[Row] = []  # since the last step
        self._ended: list[Row] = []  # in the last step, still in `rows`
        self.waiting: deque[Row] = deque()
        self.rows: list[Row] = []
        self.partial: Row | None = None  # a long prefix in chunks, on the board after the running rows
        self._width = round_up(context)
        # The shelf keeps a quarter, unless one row of full length needs it.
        self._board_bytes = max(cache_bytes * 3 // 4, self.board.bytes_of(1, self._width))
        self._rows_B = torch.arange(max_batch, device=self.device)
        self._ids_B = torch.zeros(max_batch, dtype=torch.long, device=self.device)
        self._positions_B = torch.zeros(max_batch, dtype=torch.long, device=self.device)
        self._plan: DrawPlan | None = None

    @property
    def busy(self) -> bool:
        return bool(len(self.rows) > len(self._ended) or self.waiting or self.partial)

    @property
    def bytes(self) -> int:
        """Bytes of keys and values held, in use or kept."""
        return self.board.bytes + self.shelf.bytes

    def add(self, row: Row) -> None:
        self._all.add(row)
        self._arrived.append(row)
        self.waiting.append(row)

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """Let rows in, prefill once, decode one token in every running row. Returns the rows that ended.

        They stay among `rows` until the next step.
        """
        self._settle()
        ended = self._drop_cancelled()
        self._prefill_some()
        if self.rows:
            ended += self._decode()
        self._all.difference_update(ended)
        return ended

    @torch.inference_mode()
    def clear(self) -> list[Row]:
        """Forget everything, after a failure; returns the rows that were waiting or running."""
        rows = list(self._all)
        self._all.clear()
        self.rows, self.partial, self._plan = [], None, None
        self._arrived, self._ended = [], []
        self.waiting.clear()
        self.shelf = PrefixCache()
        self.board.resize(0, 0, used=0)
        return rows

    # Joining

    def _settle(self) -> None:
        """What ended in the last step makes way: to a request that goes on from it, or to the shelf."""
        arrived, self._arrived = self._arrived, []
        ended, self._ended = self._ended, []
        for row in ended:
            for heir in arrived:
                shared = goes_on_from(heir, row)
                if shared:
                    arrived.remove(heir)
                    self.waiting.remove(heir)
                    self._hand_over(row, heir, shared)
                    break
        self._remove([row for row in ended if row.index >= 0])

    def _hand_over(self, row: Row, heir: Row, shared: int) -> None:
        self.shelf.unregister(row, row.blocks)
        heir.index, heir.cached, row.index = row.index, shared, -1
        self.rows[heir.index] = heir
        self.counts.reused += shared
        self._seat(heir)

    def _prefill_some(self) -> None:
        if self.partial is not None:
            self._prefill([self.partial])
            return
        group, sources = self._choose()
        first = len(self.rows)
        for n, row in enumerate(group):
            row.index, row.cached = first + n, 0
            source, shared = sources[row]
            if isinstance(source, Kept):
                self.board.load(row.index, source, shared)
            elif isinstance(source, Row):
                self.board.copy(row.index, source.index, shared)
            row.cached = shared
            self.counts.reused += shared
        known = [row for row in group if to_prefill(row, row.cached) == 0]
        for row in known:  # `_choose` puts them first, so that running rows stay together
            self._join(row)
        if len(known) < len(group):
            self._prefill(group[len(known) :])

    def _choose(self) -> tuple[list[Row], dict[Row, tuple[Source | None, int]]]:
        """The next rows to let in, in the order of their places, with what each may copy and from where.

        First come, first served: the oldest waiting row is always among them (or nobody is, when memory is
        short). Rows that share a long beginning with one already chosen wait until they can copy it.
        """
        free = self.max_batch - len(self.rows)
        sources: dict[Row, tuple[Source | None, int]] = {}
        known: list[Row] = []
        fresh: list[Row] = []
        extended: list[Row] = []
        claimed: set[int] = set()
        oldest: Row | None = None
        for row in self.waiting:
            if free <= 0:
                break
            source, shared = self.shelf.find(row.ids, row.blocks)
            shared = min(shared, len(row.ids) - 1)
            if shared < WORTH and shared < len(row.ids) - 1:
                source, shared = None, 0
            missing = to_prefill(row, shared)
            ahead = row.blocks[shared // BLOCK :]
            if missing >= WORTH and any(b in claimed for b in ahead[WORTH // BLOCK - 1 :][:1]):
                continue
            claimed.update(ahead)
            sources[row] = (source, shared)
            oldest = oldest or row
            (known if missing == 0 else extended if shared else fresh).append(row)
            free -= 1
        if oldest is None:
            return [], sources

        def missing_of(row: Row) -> int:
            return to_prefill(row, sources[row][1])

        same_way = sorted(extended if not fresh or oldest in extended else fresh, key=missing_of)
        if oldest in same_way:
            same_way.remove(oldest)
            same_way.insert(0, oldest)
        group = list(known)
        width = max((len(row.ids) for row in (*self.rows, *known)), default=0)
        longest = 0
        for row in same_way:
            longest = max(longest, missing_of(row))
            if len(group) > len(known) and (len(group) - len(known) + 1) * longest > self.prefill_tokens:
                break
            group.append(row)
            width = max(width, len(row.ids))
        group = self._fitting(group, oldest)
        chosen = set(group)
        self.waiting = deque(row for row in self.waiting if row not in chosen)
        return group, sources

    def _fitting(self, group: list[Row], oldest: Row) -> list[Row]:
        """As many of `group` as memory lets in, the oldest first of all. Makes room for them on the board."""
        group = list(group)
        while group:
            lengths = [len(row.ids) + min(HEADROOM, row.ask.max_tokens) for row in (*self.rows, *group)]
            if self._reserve(len(self.rows) + len(group), max(lengths)):
                return group
            if not self.rows and len(group) == 1:
                break
            others = [row for row in group if row is not oldest]
            if not others:
                return []
            group.remove(others[-1])
        # One row alone always fits: the context is capped by the memory when the engine is made.
        if group and not self._reserve(1, len(group[0].ids)):
            raise RuntimeError(f"{len(group[0].ids)} tokens do not fit in {self.cache_bytes} bytes")
        return group

    def _reserve(self, rows: int, width: int) -> bool:
        """Make the board at least `rows` x `width`, generously where there is room; False when it cannot."""
        board = self.board
        width = min(round_up(width), self._width)
        if rows <= board.rows and width <= board.width:
            return True
        ample_rows = board.rows if rows <= board.rows else min(self.max_batch, max(rows, 2 * board.rows))
        ample_width = board.width if width <= board.width else min(self._width, round_up(width * 3 // 2))
        used = len(self.rows) + (self.partial is not None)
        for new_rows, new_width in ((ample_rows, ample_width), (rows, ample_width), (rows, width)):
            if board.bytes_of(new_rows, new_width) <= self._board_bytes:
                self.shelf.shrink(self.cache_bytes - board.bytes_of(new_rows, new_width))
                board.resize(new_rows, new_width, used=used)
                return True
        return False

    def _prefill(self, group: list[Row]) -> None:
        """Compute keys and values of what the rows of `group` miss, up to a bound for a single long row."""
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
            width = min(round_up(max(s + c for s, c in zip(starts, counts, strict=True))), self.board.width)
            seen = torch.arange(width, device=device) <= positions[..., None]
            mask = torch.zeros(seen.shape, dtype=self.board.dtype, device=device)
            mask = mask.masked_fill(~seen, float("-inf"))[:, None]
            positions = positions.clamp(max=self.context - 1)
            self.cache.extend(group[0].index, starts, counts, width=width)
        else:
            positions = steps_T.expand(len(group), -1)
            self.cache.fresh(group[0].index, counts)
        self.model.base_model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            **self._cached,
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

    def _join(self, row: Row) -> None:
        self.rows.append(row)
        self._seat(row)

    def _seat(self, row: Row) -> None:
        """Make its place on the board ready for decoding."""
        self.board.show(row.index, row.cached)
        self._ids_B[row.index] = row.ids[row.cached]
        self._positions_B[row.index] = row.cached
        self.shelf.register(row, row.blocks[: row.cached // BLOCK])
        self._plan = None

    # Decoding

    def _decode(self) -> list[Row]:
        self._make_room()
        board, n = self.board, len(self.rows)
        rows_B, positions_B = self._rows_B[:n], self._positions_B[:n]
        width = min(round_up(max(row.cached for row in self.rows) + 1), board.width)
        board.mask[rows_B, 0, 0, positions_B] = 0
        self.cache.decode(rows_B, positions_B, width=width)
        logits_BV = self.model(
            input_ids=self._ids_B[:n, None],
            attention_mask=board.mask[:n, ..., :width],
            position_ids=positions_B[:, None],
            use_cache=True,
            **self._cached,
        ).logits[:, -1]
        drawn_B = self._draw(logits_BV)
        self._ids_B[:n] = drawn_B
        positions_B += 1
        self.counts.steps += 1
        ended, fed = self._ended, []
        for row, token in zip(self.rows, drawn_B.tolist(), strict=True):
            row.cached += 1
            if row.cached < len(row.ids):
                fed.append(row)
                continue
            row.ids.append(token)
            row.sampled += 1
            if row.matcher is not None:
                released, stop = row.matcher.feed((token,))
                row.out.extend(released)
            else:
                stop = row.plan.by_id.get(token)
                if stop is None:
                    row.out.append(token)
            if stop is not None:
                row.stop, row.finish = stop, "stop"
                ended.append(row)
            elif row.sampled >= row.ask.max_tokens:
                if row.matcher is not None:
                    row.out.extend(row.matcher.flush())
                row.finish = "length"
                ended.append(row)
        if fed:
            at = torch.tensor([(row.index, row.ids[row.cached]) for row in fed], device=self.device)
            self._ids_B[at[:, 0]] = at[:, 1]
        self.counts.prefilled += len(fed)
        self.counts.decoded += n - len(fed)
        return list(ended)

    def _draw(self, logits_BV: torch.Tensor) -> torch.Tensor:
        logits_BV[:, self.tokens :] = float("-inf")  # padded vocabulary
        if self._plan is None or self._plan.is_stale():
            self._plan = DrawPlan(self.rows, self.eos, self.device)
        return self._plan.draw(logits_BV)

    def _make_room(self) -> None:
        """Widen the board for the next token; send the newest rows back to waiting where memory is short."""
        while True:
            longest = max(row.cached for row in self.rows) + 1
            if self.partial is None:
                fits = self._reserve(len(self.rows), longest)
            else:
                fits = self._reserve(len(self.rows) + 1, max(longest, len(self.partial.ids)))
            if fits:
                return
            if self.partial is not None:
                sent_back, self.partial = self.partial, None
            else:
                if len(self.rows) == 1:
                    raise RuntimeError(f"{longest} tokens do not fit in {self.cache_bytes} bytes")
                sent_back = self.rows[-1]
                self._leave([sent_back])
            sent_back.cached, sent_back.index = 0, -1
            sent_back.blocks = extend_blocks(sent_back.blocks, sent_back.ids)
            self.waiting.appendleft(sent_back)
            self.counts.preempted += 1

    # Leaving

    def _drop_cancelled(self) -> list[Row]:
        if any(row.cancelled for row in self.waiting):
            self._all.difference_update([row for row in self.waiting if row.cancelled])
            self.waiting = deque(row for row in self.waiting if not row.cancelled)
        if self.partial is not None and self.partial.cancelled:
            self._all.discard(self.partial)
            self.partial = None
        gone = [row for row in self.rows if row.cancelled]
        if gone:
            self._remove(gone)
        return gone

    def _remove(self, gone: list[Row]) -> None:
        """Keep what the rows have computed on the shelf, and close the gaps that they leave."""
        for row in gone:
            self._keep(row)
        self._leave(gone)

    def _keep(self, row: Row) -> None:
        self.shelf.unregister(row, row.blocks)
        room = self.cache_bytes - self.board.bytes - row.cached * self.board.bytes_per_token
        if row.cached < WORTH or room < 0:
            return
        ids = row.ids[: row.cached]
        blocks = extend_blocks(row.blocks[: row.cached // BLOCK], ids)
        known, shared = self.shelf.find(ids, blocks[: len(row.ask.prefix) // BLOCK])
        if isinstance(known, Kept) and shared == known.cached:
            self.shelf.drop(known)  # what is kept now begins with all of it
        self.shelf.shrink(room)
        self.shelf.put(self.board.save(row.index, ids, blocks))

    def _leave(self, gone: list[Row]) -> None:
        for row in sorted(gone, key=lambda each: -each.index):
            self.shelf.unregister(row, row.blocks)
            last = self.rows.pop()
            if last is not row:
                self.board.copy(row.index, last.index, last.cached)
                self.board.mask[row.index] = self.board.mask[last.index]
                self._ids_B[row.index] = self._ids_B[last.index]
                self._positions_B[row.index] = self._positions_B[last.index]
                self.rows[row.index] = last
                last.index = row.index
            row.index = -1
        if gone and self.partial is not None:
            self.board.copy(len(self.rows), self.partial.index, self.partial.cached)
            self.partial.index = len(self.rows)
        if gone:
            self._plan = None
