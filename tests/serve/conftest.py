"""Servers for one test, and one that tests of the same file share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from serving import PacedModel, TestServer, servers


@pytest.fixture
def serve() -> Iterator[Callable[..., TestServer]]:
    yield from servers()


@pytest.fixture(scope="module")
def shared() -> Iterator[TestServer]:
    started = servers()
    yield next(started)(PacedModel())
    next(started, None)
