"""What several tests need."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine is no failing test, and the same examples are tried on every machine. To look for others:
# pytest --hypothesis-profile=search
settings.register_profile("search", deadline=None)
settings.register_profile("s1", deadline=None, derandomize=True, database=None)
settings.load_profile("s1")


class Deprecations(logging.Handler):
    """Makes an error of what transformers will drop and says in its log; pyproject.toml, of what it warns of."""

    def emit(self, record: logging.LogRecord) -> None:
        if "deprecated" in record.getMessage():
            raise FutureWarning(record.getMessage())


@pytest.fixture(autouse=True, scope="session")
def watched_log() -> Iterator[None]:
    log, handler = logging.getLogger("transformers"), Deprecations()
    log.setLevel(logging.WARNING)
    log.addHandler(handler)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log, "setLevel", lambda level: None)  # the command line quietens it
        yield
    log.removeHandler(handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real public data beside the checkout; skips where it is not there."""
    folder = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real data not found: {folder}")
    return folder
