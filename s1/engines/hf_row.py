"""One request of the `hf` engine's batch: waiting, running or ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from s1.engines.hf_kv_cache import extend_blocks
from s1.engines.stops import StopMatcher, StopPlan
from s1.types import Continuation, Finish, Stop

FED = 8
"""At most this many missing tokens are fed by decoding steps where the rest of the prefix is known."""


@dataclass(slots=True, eq=False)
class Row:
    """One request, waiting or running."""

    ask: Continuation
    plan: StopPlan
    matcher: StopMatcher | None
    """None when every stop is a single added token."""
    seed: int
    handle: Any = None
    """Whatever the caller wants to find again; never touched here."""
    ids: list[int] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    index: int = -1
    cached: int = 0
    """Positions whose keys and values are on the board."""
    sampled: int = 0
    """Tokens drawn. While `cached` is below the last position of `ids`, the prefix is still being fed."""
    cancelled: bool = False
    out: list[int] = field(default_factory=list)
    """Ids not yet taken by the caller, who clears them."""
    finish: Finish | None = None
    stop: Stop | None = None

    def __post_init__(self) -> None:
        if not self.ids:
            self.ids = list(self.ask.prefix)
        self.blocks = extend_blocks([], self.ids)


@dataclass(slots=True)
class Counts:
    """What the batch has done so far, in tokens and forward calls."""

    prefilled: int = 0
    reused: int = 0
    decoded: int = 0
    steps: int = 0
    prefills: int = 0
    preempted: int = 0


def to_prefill(row: Row, shared: int) -> int:
    """Tokens to prefill when the first `shared` are known: none where decoding steps can feed them."""
    missing = len(row.ids) - 1 - shared
    return 0 if shared and missing <= FED else missing


def goes_on_from(heir: Row, row: Row) -> int:
    """How many positions of `row`, which ended, serve `heir`; 0 where it does not go on from its end.

    The last few may differ: the beginning of a stop of several tokens is not part of what follows.
    """
    least, most = max(0, row.cached - FED), min(row.cached, len(heir.ids) - 1)
    if heir.cancelled or most < least or heir.ids[:least] != row.ids[:least]:
        return 0
    shared = least
    while shared < most and heir.ids[shared] == row.ids[shared]:
        shared += 1
    return shared if to_prefill(heir, shared) == 0 else 0
