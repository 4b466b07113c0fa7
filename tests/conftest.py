"""What several tests need."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from serve_vllm import Running, serve

from s1.types import Engine

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


# vLLM takes most of a minute to start, so the files that need it share what they can (make test-vllm).


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server of the petri base. The last test of test_vllm.py, the last file that needs it, kills it."""
    from s1.petri.world import base_model

    with serve(base_model(), tmp_path_factory.mktemp("vllm"), "--trust-request-chat-template") as running:
        yield running


@pytest.fixture(scope="session")
def vllm_server_with_parser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One that knows petri's format, parses reasoning and tool calls, and refuses budgets for beam search."""
    from s1.petri.world import base_model

    reasoning = {"reasoning_start_str": "<think>", "reasoning_end_str": "</think>"}
    options = ["--additional-config", json.dumps({"s1_format": "petri"}), "--trust-request-chat-template"]
    options += ["--reasoning-parser", "deepseek_r1", "--reasoning-config", json.dumps(reasoning)]
    options += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    options += ["--middleware", "s1.vllm_plugin.beam_search.RefuseBeamSearch"]
    with serve(base_model(), tmp_path_factory.mktemp("vllm"), *options) as running:
        yield running


@pytest.fixture(scope="session")
def vllm_engine() -> Iterator[Engine]:
    """vLLM in this process."""
    from s1.engines import load_engine
    from s1.petri.world import base_model

    engine = load_engine(f"vllm:{base_model()}", eager=True, max_batch=64)
    yield engine
    asyncio.run(engine.close())
