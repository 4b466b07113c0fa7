"""Servers for one test, and one that tests of the same file share."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest
from serving import PacedModel, TestServer, commands, servers


@pytest.fixture
def serve() -> Iterator[Callable[..., TestServer]]:
    yield from servers()


@pytest.fixture(scope="module")
def shared() -> Iterator[TestServer]:
    started = servers()
    yield next(started)(PacedModel())
    next(started, None)


@pytest.fixture
def command() -> Iterator[Callable[..., tuple[str, subprocess.Popen[str]]]]:
    yield from commands()
