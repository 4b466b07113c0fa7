"""One rule for repeating requests: what is worth it, and how long to wait."""

from __future__ import annotations

import email.utils

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s1.clients.retry import LONGEST_BACKOFF_SECONDS, backoff_seconds, may_be_repeated, wanted_seconds

NOW = 1_800_000_000.0


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 524, 529])
def test_a_busy_or_failing_server_is_asked_again(status: int) -> None:
    assert may_be_repeated(status)


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 413, 422, 501, 505])
def test_what_cannot_succeed_is_not_repeated(status: int) -> None:
    assert not may_be_repeated(status)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "1e999"}, float("inf")),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "tomorrow"}, None),
        ({"retry-after": "Mon, 99 Foo 99999 99:99:99 GMT"}, None),
        ({"retry-after": email.utils.formatdate(NOW + 90, usegmt=True)}, 90.0),
        ({"retry-after": email.utils.formatdate(NOW + 90)}, 90.0),
        ({"retry-after": email.utils.formatdate(NOW - 90, usegmt=True)}, 0.0),
    ],
)
def test_the_wanted_wait_is_read_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    assert wanted_seconds(headers, NOW) == seconds


@settings(max_examples=300, derandomize=True, deadline=None, database=None)
@given(st.text(max_size=40))
def test_no_header_is_too_strange(value: str) -> None:
    seconds = wanted_seconds({"retry-after": value}, NOW)
    assert seconds is None or seconds >= 0


chances = st.floats(0, 1, exclude_max=True)


@settings(max_examples=300, derandomize=True, deadline=None, database=None)
@given(st.integers(0, 10_000), st.floats(0.01, 5), chances)
def test_a_backoff_doubles_up_to_its_bound_and_is_never_less_than_half(
    repeat: int, first: float, chance: float
) -> None:
    full = min(LONGEST_BACKOFF_SECONDS, first * 2.0 ** min(repeat, 30))
    assert full / 2 <= backoff_seconds(repeat, first=first, chance=chance) <= full
