"""Options in a spec: read by their kind, refused by name."""

from __future__ import annotations

import pytest

from s1.engines.spec import options_in
from s1.errors import BadConfig

KNOWN = ("context", "eager", "memory", "model")
KINDS = {"context": int, "eager": bool, "memory": float}


def test_each_option_is_read_by_its_kind() -> None:
    assert options_in("", KNOWN, KINDS) == {}
    found = options_in("context=4096&eager=true&memory=0.5&model=a%2Fb", KNOWN, KINDS)
    assert found == {"context": 4096, "eager": True, "memory": 0.5, "model": "a/b"}
    assert options_in("eager=No", KNOWN, KINDS) == {"eager": False}


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("contxt=1", "Did you mean 'context'"),
        ("context=many", "not a number"),
        ("context=1.5", "not a number"),
        ("eager=perhaps", "neither true nor false"),
        ("eager", "neither true nor false"),
    ],
)
def test_what_cannot_be_read_is_named(query: str, said: str) -> None:
    with pytest.raises(BadConfig, match=said):
        options_in(query, KNOWN, KINDS)


def test_where_there_are_no_options_any_is_refused() -> None:
    with pytest.raises(BadConfig, match="takes none"):
        options_in("a=1", (), {})
