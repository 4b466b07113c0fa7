"""A real server on a free port, over a model whose pace the test sets."""

from __future__ import annotations

import asyncio
import math
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from token_model import TAGS, TokenModel

from s1.policy import BudgetPolicy
from s1.serve.body import Served
from s1.serve.listen import bind, make_server
from s1.serve.server_settings import ServeSettings
from s1.types import Chunk, Continuation, Engine

ASK = {"messages": [{"role": "user", "content": "2+2?"}]}


class PacedModel(TokenModel):
    """The test model, with `pace` seconds before each piece; it knows what it decodes.

    Requests whose prompt contains `held` wait once they have had `allowed` pieces, together, until the test allows
    more. So a test acts while a request runs, however slow the machine is.
    """

    def __init__(
        self, seed: int = 0, *, pace: float = 0.0, allowed: float = math.inf, held: str = "", **options: Any
    ) -> None:
        super().__init__(seed, **options)
        self.pace, self.allowed, self.held = pace, allowed, held
        self.running = self.given = 0
        self.begun: list[str] = []
        """What each continuation goes on from, in their order."""

    async def stream(self, request: Continuation) -> AsyncGenerator[Chunk, None]:
        self.asked.clear()
        text = self.decode(request.prefix)
        self.begun.append(text)
        self.running += 1
        try:
            async for chunk in super().stream(request):
                if self.held in text:
                    while self.given >= self.allowed:
                        await asyncio.sleep(0.005)
                    self.given += 1
                await asyncio.sleep(self.pace)
                yield chunk
        finally:
            self.running -= 1


@dataclass
class TestServer:
    __test__ = False

    url: str
    served: Served
    server: uvicorn.Server
    thread: threading.Thread

    def post(self, path: str = "/v1/chat/completions", *, headers: Any = None, **body: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, headers=headers, timeout=120)

    def ask(self, **body: Any) -> httpx.Response:
        return self.post(**(ASK | body))

    def raw(self, content: bytes) -> httpx.Response:
        headers = {"content-type": "application/json"}
        return httpx.post(f"{self.url}/v1/chat/completions", content=content, headers=headers, timeout=120)

    def waiting(self) -> int:
        """How many requests wait for a slot."""
        found = re.search(r"^s1_waiting (\d+)", httpx.get(f"{self.url}/metrics", timeout=30).text, re.M)
        assert found
        return int(found[1])

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(60)


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for something that another thread does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def servers() -> Iterator[Callable[..., TestServer]]:
    """Start servers for engines, settings and policy as keywords; they stop at the end."""
    started: list[TestServer] = []

    def start(
        engine: Engine | None = None,
        *,
        fmt: Any = TAGS,
        policy: BudgetPolicy = BudgetPolicy(max_answer=20),
        key: str = "",
        log_requests: bool = False,
        examples: tuple[str, ...] = (),
        **settings: Any,
    ) -> TestServer:
        served = Served(
            engine or PacedModel(),
            fmt,
            "tiny",
            policy,
            ServeSettings(**({"shutdown_seconds": 1} | settings)),
            examples,
        )
        listener = bind("127.0.0.1", 0, key)
        server = make_server(served, listener, key=key, log_requests=log_requests)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.005)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        started.append(TestServer(url, served, server, thread))
        return started[-1]

    yield start
    for each in started:
        each.stop()


def commands() -> Iterator[Callable[..., tuple[str, subprocess.Popen[str]]]]:
    """Start the command `s1 serve` with options on a free port: its address and its process; it ends at the end."""
    running: list[subprocess.Popen[str]] = []

    def start(*options: str, **environment: str) -> tuple[str, subprocess.Popen[str]]:
        process = subprocess.Popen(
            [sys.executable, "-m", "s1", "serve", "--port", "0", *options],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment,
        )  # fmt: skip
        running.append(process)
        assert process.stdout is not None and process.stderr is not None
        found = None
        while found is None and (line := process.stdout.readline()):  # vLLM prints lines of its own before
            found = re.search(r"http://[\d.]+:\d+", line)
        assert found, process.stderr.read()
        httpx.get(f"{found[0]}/health", timeout=200)  # the socket listens before the server is ready
        return found[0], process

    yield start
    for process in running:
        process.terminate()
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
