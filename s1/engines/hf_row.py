"""One request in the `hf` engine's batch, and what the batch has done so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from s1.engines.hf_kv_cache import extend_blocks
from s1.engines.stops import StopMatcher, StopPlan
from s1.types import Continuation, Finish, Stop, TokenLogprob

MAX_FED = 8
"""When at least part of a prefix is cached, up to this many missing tokens are fed by decoding steps."""


@dataclass(slots=True, eq=False)
class BatchRow:
    """One request, waiting or running."""

    request: Continuation
    plan: StopPlan
    matcher: StopMatcher | None
    """None when every stop is a single added token."""
    seed: int
    handle: Any = None
    """For the caller's use; the batch never reads it."""
    banned: frozenset[int] = frozenset()
    """Ids that the first draw excludes."""
    ids: list[int] = field(default_factory=list)
    """The prefix and what was drawn after it."""
    blocks: list[int] = field(default_factory=list)
    """Hashes of the whole blocks of `ids`, for the prefix cache."""
    index: int = -1
    """The row of the KV slots that holds this request, or -1."""
    cached: int = 0
    """Positions whose keys and values are computed."""
    sampled: int = 0
    """Tokens drawn. While `cached` is below the last position of `ids`, the prefix is still being fed."""
    cancelled: bool = False
    out: list[int] = field(default_factory=list)
    """New ids for the caller, who removes them."""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    """Of the new ids and of those that are held back, where the request asks for them."""
    finish: Finish | None = None
    stop: Stop | None = None

    def __post_init__(self) -> None:
        self.ids = list(self.request.prefix)
        self.blocks = extend_blocks([], self.ids)

    @property
    def masked_until(self) -> int:
        """How many tokens must be drawn before the masks of the next draw change."""
        return 1 if self.banned and not self.sampled else self.request.min_tokens

    def masked(self, eos: Sequence[int]) -> set[int]:
        """Ids that the next draw excludes: those banned, and below the minimum the ends of one token."""
        ends = {*self.plan.by_id, *eos} if self.sampled < self.request.min_tokens else set[int]()
        return ends | self.banned if not self.sampled else ends

    def missing(self, shared: int) -> int:
        """Tokens to prefill when the first `shared` are cached: none when decoding steps can feed them."""
        missing = len(self.ids) - 1 - shared
        return 0 if shared and missing <= MAX_FED else missing

    def add(self, token: int) -> None:
        """Append a drawn token, and end the row at a stop or at its limit."""
        self.ids.append(token)
        self.sampled += 1
        if self.matcher is None:
            self.stop = self.plan.by_id.get(token)
            if self.stop is None:
                self.out.append(token)
        else:
            released, self.stop = self.matcher.feed((token,))
            self.out.extend(released)
        if self.stop is not None:
            self.finish = "stop"
        elif self.sampled >= self.request.max_tokens:
            if self.matcher is not None:
                self.out.extend(self.matcher.flush())
            self.finish = "length"


@dataclass(slots=True)
class BatchCounts:
    """What a batch has done so far: tokens and forward calls."""

    prefilled: int = 0
    """Prefix tokens computed, by prefill or fed by decoding steps."""
    reused: int = 0
    """Prefix tokens copied from an earlier request."""
    decoded: int = 0
    """Tokens drawn."""
    steps: int = 0
    """Decoding calls."""
    prefills: int = 0
    """Prefill calls."""
    preempted: int = 0
    """How often a row was sent back to wait because memory was short."""
