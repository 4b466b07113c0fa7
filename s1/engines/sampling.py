"""Draw the next token of each row of a batch, so that no row's draw depends on its neighbours.

A draw needs one number in [0, 1). It is a function of the request's seed, the position of the token and the
request's count of redraws alone, so that a continuation in pieces draws what it would have drawn in one go, and a
draw in place of a suppressed end does not use its number again. Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from s1.engines.hf_row import BatchRow
from s1.types import Sampling, TokenLogprob

_MASK = (1 << 64) - 1


def uniform(seed: int, position: int, redraw: int = 0) -> float:
    """A number in [0, 1) from a seed and a position (SplitMix64, two rounds, three for a redraw)."""
    state = _mix(seed & _MASK)
    if redraw:
        state = _mix(state ^ redraw)
    return (_mix(state ^ (position & _MASK)) >> 11) / (1 << 53)


def _mix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def draw(
    logits_BV: torch.Tensor,
    *,
    temperature_B: torch.Tensor,
    uniform_B: torch.Tensor,
    top_k_B: torch.Tensor | None = None,
    top_p_B: torch.Tensor | None = None,
) -> torch.Tensor:
    """One id per row after temperature (> 0), then top-k (0: off), then top-p of what top-k leaves."""
    probability_BV = torch.softmax(logits_BV.double() / temperature_B[:, None], dim=-1)
    if top_k_B is None or top_p_B is None:
        return _pick(probability_BV, uniform_B)
    sorted_BV, order_BV = probability_BV.sort(dim=-1, descending=True, stable=True)
    rank_V = torch.arange(sorted_BV.shape[-1], device=sorted_BV.device)
    k_B = torch.where(top_k_B > 0, top_k_B, sorted_BV.shape[-1])
    sorted_BV = sorted_BV.masked_fill(rank_V[None] >= k_B[:, None], 0.0)
    before_BV = sorted_BV.cumsum(-1) - sorted_BV
    sorted_BV = sorted_BV.masked_fill(before_BV >= top_p_B[:, None] * sorted_BV.sum(-1, keepdim=True), 0.0)
    return order_BV.gather(-1, _pick(sorted_BV, uniform_B)[:, None])[:, 0]


def _pick(weight_BV: torch.Tensor, uniform_B: torch.Tensor) -> torch.Tensor:
    """Index of the first running sum above uniform x total, so never a token of weight 0."""
    sum_BV = weight_BV.cumsum(-1)
    total_B1 = sum_BV[:, -1:]
    target_B1 = uniform_B[:, None].double() * total_B1
    target_B1 = torch.minimum(target_B1, torch.nextafter(total_B1, torch.zeros_like(total_B1)))
    return torch.searchsorted(sum_BV, target_B1, right=True)[:, 0]


def draw_one(logits_1V: torch.Tensor, sampling: Sampling, position: int, redraw: int = 0) -> int:
    """One id from one row of logits, with the seed of `sampling`: what a row of a batch draws there."""
    uniform_1 = _numbers([uniform(sampling.seed or 0, position, redraw)], logits_1V.device)
    return int(draw(logits_1V, uniform_B=uniform_1, **_settings([sampling], logits_1V.device)))


def _filters(sampling: Sampling) -> bool:
    return sampling.top_p < 1 or sampling.top_k != 0


def _settings(samplings: Sequence[Sampling], device: torch.device) -> dict[str, torch.Tensor]:
    """The arguments of `draw` for rows of which all filter, or none."""
    names = ("temperature", "top_k", "top_p") if _filters(samplings[0]) else ("temperature",)
    return {f"{name}_B": _numbers([getattr(s, name) for s in samplings], device) for name in names}


def _numbers(numbers: Sequence[float], device: torch.device) -> torch.Tensor:
    dtype = torch.long if all(isinstance(n, int) for n in numbers) else torch.double
    return torch.tensor(numbers, dtype=dtype, device=device)


class DrawPlan:
    """How the current rows draw: which are masked until their `min_tokens`, which sample, and how."""

    def __init__(self, rows: Sequence[BatchRow], eos: Sequence[int], device: torch.device) -> None:
        self.device = device
        self.masked = [(row, row.masked_until) for row in rows if row.sampled < row.masked_until]
        pairs = [(row.index, i) for row, _ in self.masked for i in row.masked(eos)]
        self.masked_at = torch.tensor(pairs, device=device).unbind(1) if pairs else None
        sampling = [row for row in rows if row.request.sampling.temperature > 0]
        self.all_sample = len(sampling) == len(rows)
        self.groups = [
            (
                group,
                _numbers([r.index for r in group], device),
                _settings([r.request.sampling for r in group], device),
            )
            for filters in (False, True)
            if (group := [r for r in sampling if _filters(r.request.sampling) is filters])
        ]
        """Rows that draw together, their places in the batch, and how they draw."""
        self.reported = [r for r in rows if r.request.logprobs is not None]
        self.reported_at = _numbers([r.index for r in self.reported], device)

    def is_stale(self) -> bool:
        """Whether the masks of a row have changed."""
        return any(row.sampled >= until for row, until in self.masked)

    def draw(self, logits_BV: torch.Tensor) -> torch.Tensor:
        """The next token of each row. Rows that ask for log-probabilities get them."""
        if not self.reported:
            return self._draw(logits_BV)
        logprob_RV = logits_BV[self.reported_at].float().log_softmax(dim=-1)
        drawn_B = self._draw(logits_BV)
        self._report(logprob_RV, drawn_B[self.reported_at])
        return drawn_B

    def _report(self, logprob_RV: torch.Tensor, drawn_R: torch.Tensor) -> None:
        most = max(row.request.logprobs or 0 for row in self.reported)
        top, top_ids = logprob_RV.topk(min(most, logprob_RV.shape[-1]), dim=-1)
        own = logprob_RV.gather(-1, drawn_R[:, None])[:, 0].tolist()
        likeliest = [
            list(zip(i, p, strict=True)) for i, p in zip(top_ids.tolist(), top.tolist(), strict=True)
        ]
        for row, token, logprob, pairs in zip(self.reported, drawn_R.tolist(), own, likeliest, strict=True):
            if row.cached == len(row.ids) - 1:  # its prefix is complete, so this token is its own
                row.logprobs.append(TokenLogprob(token, logprob, tuple(pairs[: row.request.logprobs])))

    def _draw(self, logits_BV: torch.Tensor) -> torch.Tensor:
        if self.masked_at is not None:
            logits_BV[self.masked_at] = float("-inf")
        if self.all_sample:
            drawn_B = torch.empty(len(logits_BV), dtype=torch.long, device=self.device)
        else:
            drawn_B = logits_BV.argmax(dim=-1)
        for rows, at, settings in self.groups:
            numbers = [uniform(row.seed, len(row.ids), row.request.redraw) for row in rows]
            drawn_B[at] = draw(logits_BV[at], uniform_B=_numbers(numbers, self.device), **settings)
        return drawn_B
