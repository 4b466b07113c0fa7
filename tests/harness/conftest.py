"""A model that needs no weights: it thinks, wants to stop, and is right only when it was made to wait."""

import pytest

from s1.engines.scripted import ScriptedEngine


def talk(prefix: str) -> str:
    if "</think>" in prefix:
        return (" Answer: 5" if "Wait" in prefix else " Answer: 4") + "\n\nNext question<|end|>"
    return " try more and more</think>"


@pytest.fixture
def engines(monkeypatch):
    """The harness loads scripted engines; the list holds them."""
    loaded = []

    def load(spec, **options):
        loaded.append(ScriptedEngine(talk, **options))
        return loaded[-1]

    for module in ("s1.harness.lm_eval", "s1.harness.inspect"):
        try:
            monkeypatch.setattr(f"{module}.load_engine", load)
        except ImportError:  # the harness is not installed: its tests skip
            continue
    return loaded
