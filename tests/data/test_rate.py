from __future__ import annotations

import asyncio
import selectors
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s1.clients.call_cache import CallCache
from s1.clients.chat import ApiSettings
from s1.clients.rate import MINUTE_SECONDS, Rate
from s1.data.pool import pool_of_rows
from s1.data.teach import teach
from s1.errors import BadConfig


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        super().__init__(_Jump(self))
        self.now = 0.0

    def time(self) -> float:
        return self.now


class _Jump(selectors.SelectSelector):
    def __init__(self, loop: JumpingLoop) -> None:
        super().__init__()
        self.loop = loop

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "everyone waits for something that never comes"
        self.loop.now += timeout
        return []


def play(rate_of: Any, calls: list[tuple[float, int, float, float]]) -> list[list[float]]:
    """(start, tokens counted with from then on) of each call (comes at, bound, share used, seconds)."""
    found: list[list[float]] = []

    async def call(rate: Rate, at: float, bound: int, share: float, seconds: float) -> None:
        await asyncio.sleep(at)
        entered = await rate.enter(bound)
        record = [asyncio.get_running_loop().time(), float(bound)]
        found.append(record)
        await asyncio.sleep(seconds)
        used = int(bound * share)
        if share == 0:
            rate.leave(entered)
            found.remove(record)
            return
        rate.settle(entered, used)
        if asyncio.get_running_loop().time() < record[0] + MINUTE_SECONDS:
            record[1] = used

    async def run() -> None:
        rate = rate_of()
        async with asyncio.TaskGroup() as tasks:
            for one in calls:
                tasks.create_task(call(rate, *one))

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(run())
    return sorted(found)


CALLS = st.lists(
    st.tuples(
        st.floats(0, 200), st.integers(1, 120), st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.floats(0, 90)
    ),
    max_size=25,
)


@settings(deadline=None, max_examples=100)
@given(CALLS, st.integers(1, 30), st.integers(1, 200))
def test_no_minute_holds_more_than_the_limits(
    calls: list[tuple[float, int, float, float]], requests: int, tokens: int
) -> None:
    found = play(lambda: Rate(requests, tokens), calls)
    assert len(found) == sum(share > 0 for _, _, share, _ in calls)
    for i, (start, _) in enumerate(found):
        minute = [(at, used) for at, used in found[i:] if at < start + MINUTE_SECONDS - 1e-6]
        assert len(minute) <= requests
        assert len(minute) == 1 or sum(used for _, used in minute) <= tokens


def test_requests_are_spaced_evenly_and_what_is_given_back_makes_room() -> None:
    starts = [at for at, _ in play(lambda: Rate(30, None), [(0.0, 1, 1.0, 0.0)] * 4)]
    assert starts == pytest.approx([0, 2, 4, 6])
    # Three of 40 tokens fit into 100 once the first is known to have used 20.
    starts = [
        at
        for at, _ in play(
            lambda: Rate(None, 100), [(0.0, 40, 0.5, 7.0), (1.0, 40, 1.0, 9.0), (2.0, 40, 1.0, 9.0)]
        )
    ]
    assert starts == pytest.approx([0, 1, 7])
    assert [at for at, _ in play(lambda: Rate(), [(3.0, 10**9, 1.0, 1.0)] * 5)] == [3.0] * 5


def test_what_is_larger_than_the_limit_goes_alone() -> None:
    starts = [at for at, _ in play(lambda: Rate(None, 10), [(0.0, 50, 1.0, 1.0)] * 3)]
    assert starts == pytest.approx([0, 60, 120])


@pytest.mark.parametrize(
    "limits",
    [{"requests_per_minute": 20}, {"tokens_per_minute": 150}, {}],
)
def test_a_server_sees_no_more_than_its_limits(
    chat: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, int]
) -> None:
    monkeypatch.setattr("s1.clients.rate.MINUTE_SECONDS", 2.0)
    chat.share, chat.faults = 0.2 if "requests_per_minute" in limits else 0.0, ("500", "half")
    rows = ({"id": f"q{i}", "question": f"what is {i} and {i}?"} for i in range(10))
    api = ApiSettings(url=chat.url, model="m", max_tokens=20, concurrency=8, **limits)
    with CallCache(tmp_path / "journal.jsonl") as journal:
        began = time.monotonic()
        taught = teach(pool_of_rows(enumerate(rows, 1), "rows"), api, journal)
    assert taught.pool.rows.height == 10
    # A try comes to the server after its start, however late, so no try may be there before its turn.
    for number, arrived in enumerate(sorted(chat.times)):
        # 22 tokens each, 8 words in and 14 out: six fit into 150.
        turn = 2.0 * (number // 6) if "tokens_per_minute" in limits else 0.1 * number if limits else 0.0
        assert arrived - began >= turn - 0.01


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(BadConfig, match="a limit per minute"):
        ApiSettings(model="m", tokens_per_minute=0)
