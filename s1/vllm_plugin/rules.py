"""The rules of `budget.Forcing` for a batch of rows, as tensor operations without a loop over the batch.

A row is a request inside an engine: it has a slot, the tokens so far, and the logits of its next token. Where the
model would end its thinking, the row is forced to a wait, to the rest of its budget's end, or its end is masked.

    thinking --end drawn, waits left or below the minimum--> force wait --> thinking, end masked once
    thinking --end drawn-----------------------------------> force close --> answer, untouched
    thinking --limit reached-------------------------------> force close and cue --> answer, untouched

An end is drawn before the engine draws: for greedy requests it is the best token, for sampled ones a coin falls on
its probability under the request's own temperature and filters. The coin is a function of seed and position.
Shapes: N rows, V vocabulary, S slots, F forced sequences of a slot, L their longest length.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from s1.vllm_plugin.request import MOST_ENDS, MOST_FORCED, MOST_WAITS, ForcingPlan

if TYPE_CHECKING:
    import torch

MINUS_INFINITY = float("-inf")
REST, THINKING, FORCING = 0, 1, 2
"""What a row does: nothing more (its answer), think, or say a forced sequence."""
OPEN, CUT, END, WAIT = 0, 1, 3, 5
"""Forced sequences of a slot. CUT and END are followed by the same with a newline before it."""
MODE, SEQUENCE, OFFSET, WAITS, SUPPRESSED, MASKED = range(6)
"""Columns of a state. SUPPRESSED: the end may not come at once. MASKED: no wait fits below the minimum."""
HEAD, LIMIT, LEAST, MOST, STRINGS, SILENT, NEWLINE, SEED, TOP_K, PROMPT, ENDS = range(11)
"""Columns of whole numbers that are constant for a request. HEAD: tokens forced to open the thinking."""
TEMPERATURE, TOP_P, MIN_P = range(3)
SAVED = 4096
"""States kept of requests that left their slot: one that was preempted comes back."""


class BatchedForcing:
    """The state of all requests with a budget. `newline_V`: which tokens end in a newline. Logits beyond it are the
    padding of the embedding, which is never drawn."""

    def __init__(self, slots: int, device: Any, newline_V: torch.Tensor) -> None:
        import torch

        def whole(*shape: int) -> torch.Tensor:
            return torch.zeros((slots, *shape), dtype=torch.long, device=device)

        self.device, self.newline_V = device, newline_V
        self.state = whole(2, MASKED + 1)  # before and after the last decision
        self.decided = whole()  # tokens so far at the last decision; one may be asked for again
        self.fixed = whole(ENDS + 1)
        self.sampling = torch.ones((slots, 3), dtype=torch.double, device=device)
        self.forced = whole(WAIT + MOST_WAITS, MOST_FORCED)
        self.length = whole(WAIT + MOST_WAITS)
        self.ends = whole(MOST_ENDS)
        self.sampled, self.filtered = set[int](), set[int]()
        """Slots whose requests sample, and those of them that filter."""
        self._key_at: dict[int, str] = {}
        self._saved: OrderedDict[str, tuple[torch.Tensor, torch.Tensor]] = OrderedDict()

    def add(self, slot: int, plan: ForcingPlan, *, prompt: int, context: int, opened: bool) -> None:
        """Put a request into a slot. `prompt`: its tokens; `context`: most tokens of prompt and output.

        A request that was here before, in this slot or another, goes on where it was.
        """
        import torch

        key = plan.key
        self.release(slot)
        for other in [s for s, k in self._key_at.items() if k == key]:
            self.release(other)
        self._key_at[slot] = key
        head = () if opened else plan.open
        self.fixed[slot] = torch.tensor(
            [
                len(head),
                plan.limit(prompt + len(head), context),
                plan.least,
                plan.most,
                len(plan.waits),
                not any(plan.waits),
                bool(plan.newline),
                plan.seed if plan.seed < 1 << 63 else plan.seed - (1 << 64),
                plan.top_k,
                prompt,
                len(plan.ends),
            ]
        )
        self.sampling[slot] = torch.tensor([plan.temperature, plan.top_p, plan.min_p])
        after = [plan.close + (plan.cue if with_cue else ()) for with_cue in plan.cues]
        sequences = [head, *(n + ids for ids in after for n in ((), plan.newline)), *plan.waits]
        for row, ids in enumerate(sequences):
            self.forced[slot, row, : len(ids)] = torch.tensor(ids, dtype=torch.long)
            self.length[slot, row] = len(ids)
        ends = plan.ends + plan.ends[:1] * (MOST_ENDS - len(plan.ends))
        self.ends[slot] = torch.tensor(ends, dtype=torch.long)
        if plan.temperature > 0:
            self.sampled.add(slot)
            if plan.top_k or plan.top_p < 1 or plan.min_p > 0:
                self.filtered.add(slot)
        if key in self._saved:
            self.state[slot], self.decided[slot] = self._saved.pop(key)
        else:
            begin = [FORCING if head else THINKING, OPEN, 0, 0, 0, 0]
            self.state[slot] = torch.tensor([begin, begin])
            self.decided[slot] = -1

    def release(self, slot: int) -> None:
        """Empty a slot. Its state is kept for a while: engines do not say whether a request comes back."""
        self.sampled.discard(slot)
        self.filtered.discard(slot)
        if (key := self._key_at.pop(slot, None)) is not None:
            self._saved[key] = (self.state[slot].clone(), self.decided[slot].clone())
            if len(self._saved) > SAVED:
                self._saved.popitem(last=False)

    def apply(
        self,
        logits_BV: torch.Tensor,
        rows_N: torch.Tensor,
        slots_N: torch.Tensor,
        tokens_N: torch.Tensor,
        last_N: torch.Tensor,
        ready_N: torch.Tensor | None = None,
    ) -> None:
        """Decide for the rows `rows_N` of `logits_BV`, in place. `tokens_N`: output tokens so far; `last_N`: the last
        token of output or prompt. Rows that are not `ready_N` are in the middle of their prompt: left alone."""
        import torch

        if len(self.newline_V) < logits_BV.shape[-1]:
            logits_BV[rows_N, len(self.newline_V) :] = MINUS_INFINITY
        before_N2S, decided_N = self.state[slots_N], self.decided[slots_N]
        again_N1 = (decided_N == tokens_N)[:, None]
        start = torch.where(again_N1, before_N2S[:, 0], before_N2S[:, 1])
        mode, waits = start[:, MODE], start[:, WAITS]
        thinking = mode == THINKING
        if logits_BV.device.type == "cpu" and not bool((mode != REST).any()):
            return
        fixed = self.fixed[slots_N]
        n = tokens_N - fixed[:, HEAD]
        over = thinking & (n >= fixed[:, LIMIT])
        short = n < fixed[:, LEAST]
        held = (start[:, MASKED] | fixed[:, SILENT]).bool() & short
        shielded = start[:, SUPPRESSED].bool() | held
        asked = thinking & ~over & ~shielded
        if ready_N is not None:
            asked = asked & ready_N
        drawn, other = self._end_drawn(logits_BV, rows_N, slots_N, fixed[:, PROMPT] + tokens_N, asked)

        wait = WAIT + waits % fixed[:, STRINGS]
        length_NF = self.length[slots_N]
        wait_length = length_NF.gather(1, wait[:, None])[:, 0]
        room = fixed[:, LIMIT] - n >= wait_length + 1
        no_room = drawn & short & ~room
        waiting = drawn & room & (short | (waits < fixed[:, MOST]))
        silent = waiting & (wait_length == 0)
        speaks = waiting & ~silent
        ended = drawn & ~no_room & ~waiting
        masked = (thinking & ~over & shielded) | no_room | silent | (asked & ~drawn)

        needs_newline = fixed[:, NEWLINE].bool()
        needs_newline = needs_newline & ~self.newline_V[last_N.clamp(0, len(self.newline_V) - 1)]
        begins = over | ended | speaks
        sequence = torch.where(speaks, wait, torch.where(over, CUT, END) + needs_newline.long())
        sequence = torch.where(begins, sequence, start[:, SEQUENCE])
        offset = torch.where(begins, 0, start[:, OFFSET])
        says = begins | (mode == FORCING)
        token = self.forced[slots_N, sequence, offset.clamp(max=MOST_FORCED - 1)]
        through = says & (offset + 1 >= length_NF.gather(1, sequence[:, None])[:, 0])
        back = (sequence == OPEN) | (sequence >= WAIT)
        after = torch.stack(
            [
                torch.where(through, torch.where(back, THINKING, REST), torch.where(says, FORCING, mode)),
                sequence,
                torch.where(says, offset + 1, offset),
                waits + waiting.long(),
                torch.where(says, (through & (sequence >= WAIT)).long(), 0),
                start[:, MASKED] | no_room.long(),
            ],
            dim=1,
        )
        new, decided = torch.stack([start, after], dim=1), tokens_N
        if ready_N is not None:
            new = torch.where(ready_N[:, None, None], new, before_N2S)
            decided = torch.where(ready_N, tokens_N, decided_N)
            says, masked = says & ready_N, masked & ready_N
        self.state[slots_N], self.decided[slots_N] = new, decided
        self._write(
            logits_BV,
            rows_N,
            self.ends[slots_N],
            masked,
            says | (other >= 0),
            torch.where(says, token, other),
        )

    def _write(
        self,
        logits_BV: torch.Tensor,
        rows_N: torch.Tensor,
        ends_NE: torch.Tensor,
        masked_N: torch.Tensor,
        forced_N: torch.Tensor,
        token_N: torch.Tensor,
    ) -> None:
        import torch

        kept_NE = logits_BV[rows_N[:, None], ends_NE]
        logits_BV[rows_N[:, None], ends_NE] = kept_NE.masked_fill(masked_N[:, None], MINUS_INFINITY)
        if logits_BV.device.type == "cpu":  # where it costs nothing to ask, only forced rows are written
            chosen = forced_N.nonzero()[:, 0]
            logits_BV[rows_N[chosen]] = MINUS_INFINITY
            logits_BV[rows_N[chosen], token_N[chosen]] = 0.0
            return
        forced_B = torch.zeros(len(logits_BV), dtype=torch.bool, device=logits_BV.device)
        forced_B[rows_N] = forced_N
        logits_BV.masked_fill_(forced_B[:, None], MINUS_INFINITY)
        at_N = token_N.clamp(min=0)
        logits_BV[rows_N, at_N] = logits_BV[rows_N, at_N].masked_fill(forced_N, 0.0)

    def _end_drawn(
        self,
        logits_BV: torch.Tensor,
        rows_N: torch.Tensor,
        slots_N: torch.Tensor,
        position_N: torch.Tensor,
        asked_N: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Whether each asked row draws an end, and the token that it draws instead where this must be decided here.

        A filtered row that could have drawn an end draws its token here, because the engine would filter what is
        left once more. -1 where the engine draws.
        """
        import torch

        drawn_N, other_N = torch.zeros_like(asked_N), torch.full_like(position_N, -1)
        which = torch.arange(len(rows_N), device=asked_N.device)
        if logits_BV.device.type == "cpu":
            which = which[asked_N]
            if not len(which):
                return drawn_N, other_N
        slots, ends_KE = slots_N[which], self.ends[slots_N[which]]
        logits_KV = logits_BV[rows_N[which]].float()
        drawn_K = (logits_KV.argmax(dim=-1)[:, None] == ends_KE).any(dim=-1)
        other_K = other_N[which]
        if self.sampled:
            sampling, fixed = self.sampling[slots], self.fixed[slots]
            sampled = sampling[:, TEMPERATURE] > 0
            scale = torch.where(sampled, sampling[:, TEMPERATURE], 1.0)[:, None]
            weight_KV = torch.softmax(logits_KV.double() / scale, dim=-1)
            if self.filtered:
                weight_KV = filter_weights(
                    weight_KV, top_k=fixed[:, TOP_K], top_p=sampling[:, TOP_P], min_p=sampling[:, MIN_P]
                )
            counts = torch.arange(MOST_ENDS, device=ends_KE.device) < fixed[:, ENDS, None]
            end_K = (weight_KV.gather(1, ends_KE) * counts).sum(-1)
            coin = uniform(fixed[:, SEED], position_N[which], stream=1) * weight_KV.sum(-1)
            falls = coin < end_K
            drawn_K = torch.where(sampled, falls, drawn_K)
            if self.filtered:
                is_filtered = (fixed[:, TOP_K] > 0) | (sampling[:, TOP_P] < 1) | (sampling[:, MIN_P] > 0)
                sum_KV = weight_KV.scatter(1, ends_KE, 0.0).cumsum(-1)
                target = uniform(fixed[:, SEED], position_N[which], stream=2) * sum_KV[:, -1]
                pick = torch.searchsorted(sum_KV, target[:, None], right=True)[:, 0]
                pick = pick.clamp(max=sum_KV.shape[-1] - 1)
                other_K = torch.where(sampled & is_filtered & ~falls & (end_K > 0), pick, -1)
        drawn_N[which], other_N[which] = drawn_K & asked_N[which], other_K.where(asked_N[which], -1)
        return drawn_N, other_N


def filter_weights(
    weight_BV: torch.Tensor, *, top_k: torch.Tensor, top_p: torch.Tensor, min_p: torch.Tensor
) -> torch.Tensor:
    """Probabilities with those outside the filters set to 0: min-p, then top-k (0: off), then top-p of the rest."""
    import torch

    sorted_BV, order_BV = weight_BV.sort(dim=-1, descending=True, stable=True)
    rank_V = torch.arange(sorted_BV.shape[-1], device=sorted_BV.device)
    k_B = torch.where(top_k > 0, top_k, sorted_BV.shape[-1])
    out = (rank_V[None] >= k_B[:, None]) | (sorted_BV < min_p[:, None] * sorted_BV[:, :1])
    sorted_BV = sorted_BV.masked_fill(out, 0.0)
    mass_BV = sorted_BV.cumsum(-1) - sorted_BV
    out = (mass_BV >= top_p[:, None] * sorted_BV.sum(-1, keepdim=True)) & (rank_V > 0)
    return torch.zeros_like(weight_BV).scatter_(1, order_BV, sorted_BV.masked_fill(out, 0.0))


def uniform(seed_N: torch.Tensor, position_N: torch.Tensor, *, stream: int) -> torch.Tensor:
    """Numbers in [0, 1): those of `s1.engines.sampling.uniform`, with `stream` as its redraw."""
    mixed = _mix(_mix(_mix(seed_N) ^ stream) ^ position_N)
    return _shift(mixed, 11).double() / (1 << 53)


def _mix(x: torch.Tensor) -> torch.Tensor:
    x = x + (0x9E3779B97F4A7C15 - (1 << 64))
    x = (x ^ _shift(x, 30)) * (0xBF58476D1CE4E5B9 - (1 << 64))
    x = (x ^ _shift(x, 27)) * (0x94D049BB133111EB - (1 << 64))
    return x ^ _shift(x, 31)


def _shift(x: torch.Tensor, by: int) -> torch.Tensor:
    """Shift right without the sign."""
    return (x >> by) & ((1 << (64 - by)) - 1)
