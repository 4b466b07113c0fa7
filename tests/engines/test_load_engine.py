"""Engine specs: names, and options read by the types of the engine's `load`."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from s1 import engines
from s1.engines import engine_options, load_engine
from s1.errors import BadConfig


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine "fake", whose `load` returns what it was given."""
    module = ModuleType("s1.engines.fake")

    def load(
        rest: str,
        *,
        context: int | None = None,
        eager: bool = False,
        memory: float | None = None,
        model: str = "",
    ) -> dict[str, Any]:
        return {"rest": rest, "context": context, "eager": eager, "memory": memory, "model": model}

    module.load = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "s1.engines.fake", module)
    monkeypatch.setattr(engines, "ENGINES", (*engines.ENGINES, "fake"))


def test_each_option_of_a_spec_is_read_by_its_type() -> None:
    found = load_engine("fake:http://host:1/v1?context=4096&eager=true&memory=0.5&model=a%2Fb")
    assert found == {
        "rest": "http://host:1/v1", "context": 4096, "eager": True, "memory": 0.5, "model": "a/b"
    }  # fmt: skip
    assert load_engine("fake:x?eager=No")["eager"] is False  # type: ignore[index]
    assert load_engine("fake:x", context=3)["context"] == 3  # type: ignore[index]


def test_the_options_of_an_engine_are_those_of_its_load() -> None:
    assert engine_options("fake:x") == ["context", "eager", "memory", "model"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("contxt=1", "'context'"),
        ("context=many", "whole number"),
        ("context=1.5", "whole number"),
        ("memory=much", "number"),
        ("eager=perhaps", "true or false"),
        ("eager", "true or false"),
    ],
)
def test_an_option_that_cannot_be_read_is_named(query: str, message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        load_engine(f"fake:x?{query}")


def test_an_unknown_engine_or_option_is_answered_with_the_nearest() -> None:
    with pytest.raises(BadConfig, match="'fake'"):
        load_engine("fak:x")
    with pytest.raises(BadConfig, match="'memory'"):
        load_engine("fake:x", memry=1)
