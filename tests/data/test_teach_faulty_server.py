"""The teacher against a server that fails: no row is lost, and the server is never paid more than the cap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai")

from faulty_server import FAULTS, FaultyServer  # noqa: E402

from s1.clients.call_cache import CallCache  # noqa: E402
from s1.clients.chat import ApiSettings  # noqa: E402
from s1.data.pool import Pool, pool_of_rows  # noqa: E402
from s1.data.teach import Taught, teach  # noqa: E402

USD_IN, USD_OUT = 1000.0, 10_000.0
"""Prices of a million tokens."""
ROWS = 48


def questions() -> Pool:
    rows = ({"id": f"q{i:02d}", "question": f"what is {i} and {i}?", "source": "s"} for i in range(ROWS))
    return pool_of_rows(enumerate(rows, 1), "rows")


def paid(server: FaultyServer) -> float:
    return (server.tokens_in * USD_IN + server.tokens_out * USD_OUT) / 1e6


def ask(server: FaultyServer, journal: Path, **changes: Any) -> tuple[Taught, float]:
    """What the teacher gave, and what the journal says that all calls cost."""
    settings = ApiSettings(
        url=server.url, model="m", max_tokens=20, timeout_seconds=3.0, usd_per_million_in=USD_IN,
        usd_per_million_out=USD_OUT, **{"concurrency": 16, "tries": 20, **changes},
    )  # fmt: skip
    with CallCache(journal) as cache:
        return teach(questions(), settings, cache), cache.spent_usd


@pytest.fixture(autouse=True)
def _small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s1.clients.chat.FIRST_BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr("s1.clients.http.LARGEST_EVENT_BYTES", 1 << 16)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("share", [0.05, 0.3])
def test_no_row_is_lost_and_every_call_is_paid_for(share: float, stream: bool, tmp_path: Path) -> None:
    rates = {fault: share / len(FAULTS) for fault in FAULTS}
    with FaultyServer(rates, silence_seconds=1.0, huge_bytes=1 << 17, seed=5) as server:
        taught, booked = ask(server, tmp_path / "journal.jsonl", stream=stream)
        assert paid(server) <= booked + 1e-9
        assert sum(server.served.values()) > ROWS or share < 0.1
        assert share < 0.1 or len([fault for fault in FAULTS if server.served[fault]]) >= 6
    assert (
        taught.pool.rejects.height == 0
        and taught.pool.rows["id"].to_list() == questions().rows["id"].to_list()
    )
    assert taught.pool.rows.select("thinking", "attempt").unique().rows() == [("Two and two.", "Four.")]
    assert paid(server) <= booked + 1e-9, "also what came after the last reply"


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_lone_surrogate_in_a_reply_costs_no_row(stream: bool, tmp_path: Path) -> None:
    """It becomes the replacement character, which the quality rules of curation look for."""
    reply = "<think>lone \ud83d here.</think>Four \ud83d \ud83d\ude00."
    with FaultyServer({}, reply=reply) as server:
        for _ in range(2):  # the second time from the journal
            taught, _ = ask(server, tmp_path / "journal.jsonl", stream=stream)
            found = taught.pool.rows.select("thinking", "attempt").unique().rows()
            assert found == [("lone \ufffd here.", "Four \ufffd \U0001f600.")]


@pytest.mark.parametrize("fault", FAULTS)
def test_the_cap_holds_whatever_fails(fault: str, tmp_path: Path) -> None:
    """A cap for some of the rows: each row has a reply or the reason why there is none, and can go on later."""
    cap, journal = 2.0, tmp_path / "journal.jsonl"
    with FaultyServer({fault: 0.3}, silence_seconds=0.2, huge_bytes=1 << 17, seed=3) as server:
        taught, booked = ask(server, journal, max_usd=cap, stream=fault != "time-out")
        rows, rejects = taught.pool.rows, taught.pool.rejects
        assert server.served[fault] and paid(server) <= booked <= cap
        assert sorted([*rows["id"], *rejects["id"]]) == questions().rows["id"].to_list()
        assert set(rejects["reason"]) == {"not asked: the spending cap is reached"}
        server.rates = {}
        more, booked = ask(server, journal, max_usd=1000.0)
        assert more.pool.rows.height == ROWS and paid(server) <= booked
        assert more.pool.rows.filter(more.pool.rows["id"].is_in(rows["id"].implode())).equals(rows)
