"""A chat server that fails as real ones do."""

from __future__ import annotations

import json
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

FAULTS = ("429", "500", "nothing", "garbage", "half")


def answer_of(body: dict[str, Any]) -> dict[str, Any]:
    """The message for a request: thinking and answer name the question."""
    question = body["messages"][-1]["content"]
    return {"reasoning_content": f"thinking about {question}", "content": f"answer to {question}"}


class ChatServer:
    """Listens on a free port. `share` of the calls fail in one of `faults`; `reply` makes the message."""

    def __init__(self) -> None:
        self.share, self.faults, self.reply = 0.0, FAULTS, answer_of
        self.most_faults = math.inf
        """After so many faults, no call fails."""
        self.seconds = 0.0
        self.counts = True
        """Whether replies say how many tokens they used."""
        self.usage: dict[str, Any] = {}
        """Counts that replies give instead of the true ones."""
        self.retry_after = "0.02"
        self.answered: Counter[str] = Counter()
        self.faulty: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.times: list[float] = []
        self.tokens_in = self.tokens_out = self.busy = self.most_busy = 0
        self.huge_mb = 0
        self._draw, self._lock = random.Random(0), threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                server.handle(self)

            def log_message(self, *arguments: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def handle(self, http: BaseHTTPRequestHandler) -> None:
        body = json.loads(http.rfile.read(int(http.headers["Content-Length"])))
        with self._lock:
            self.bodies.append(body)
            self.keys.add(http.headers.get("Authorization", ""))
            self.times.append(time.monotonic())
            self.busy += 1
            self.most_busy = max(self.most_busy, self.busy)
            fails = (
                self._draw.random() < self.share and self.faulty.total() - self.faulty[""] < self.most_faults
            )
            fault = self._draw.choice(self.faults) if fails else ""
            seconds = self.seconds  # as it is when the call comes
            self.faulty[fault] += 1
        time.sleep(seconds)
        with self._lock:
            self.busy -= 1
        if fault == "429":
            self._send(http, 429, b"slow down", {"Retry-After": self.retry_after})
        elif fault == "500":
            self._send(http, 500, b"oops")
        elif fault.isdigit():
            self._send(
                http, int(fault), b'{"error": "no: ' + http.headers.get("Authorization", "").encode() + b'"}'
            )
        elif fault.startswith("huge"):  # one event, reply or refusal of 100 MB
            kind = {"huge event": "text/event-stream"}.get(fault, "application/json")
            status = 500 if fault == "huge refusal" else 200
            self._send(http, status, b"data: " if fault == "huge event" else b'"', {"Content-Type": kind})
            try:
                for _ in range(100):
                    http.wfile.write(b"x" * 1_000_000)
                    self.huge_mb += 1
            except OSError:
                pass  # the client hung up
        elif fault == "garbage":
            self._send(http, 200, b"<html>not an answer", {"Content-Type": "application/json"})
        elif fault != "nothing":
            self._answer(http, body, half=fault == "half")

    def _answer(self, http: BaseHTTPRequestHandler, body: dict[str, Any], *, half: bool) -> None:
        message = self.reply(body)
        finish = message.pop("finish", "stop")
        words = " ".join(str(v) for v in message.values()).split()
        used = len(str(body["messages"]).split()), len(words)
        usage = {
            "prompt_tokens": used[0],
            "completion_tokens": used[1],
            "total_tokens": sum(used),
            **self.usage,
        }
        if not self.counts:
            usage = None
        with self._lock:
            self.tokens_in += used[0]
            self.tokens_out += used[1] // 2 if half else used[1]
            if not half:
                self.answered[body["messages"][-1]["content"]] += 1
        if not body.get("stream"):
            choice = {"message": {"role": "assistant", **message}, "finish_reason": finish}
            data = json.dumps({"choices": [choice], "usage": usage}).encode()
            self._send(http, 200, data[: len(data) // 2] if half else data)
            return
        deltas = [
            {k: v[i : i + 7]} for k, v in message.items() if isinstance(v, str) for i in range(0, len(v), 7)
        ]
        events: list[Any] = [{"choices": [{"delta": d, "finish_reason": None}]} for d in deltas]
        events += [{"choices": [{"delta": {}, "finish_reason": finish}]}, {"choices": [], "usage": usage}]
        lines = [f"data: {json.dumps(e)}\n\n" for e in events[: len(events) // 2 if half else None]]
        text = "".join(lines) + ("" if half else "data: [DONE]\n\n")
        self._send(http, 200, text.encode(), {"Content-Type": "text/event-stream"})

    def _send(
        self, http: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str] | None = None
    ) -> None:
        try:
            http.send_response(status)
            for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
                http.send_header(name, value)
            http.end_headers()
            http.wfile.write(body)
        except OSError:
            pass  # the client was killed

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setattr("s1.clients.chat.FIRST_BACKOFF_SECONDS", 0.01)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    server = ChatServer()
    yield server
    server.close()


@pytest.fixture
def says() -> Callable[[dict[str, str]], Callable[[dict[str, Any]], dict[str, Any]]]:
    """A reply function: the text of the first key that occurs in the whole request."""

    def make(texts: dict[str, str]) -> Callable[[dict[str, Any]], dict[str, Any]]:
        def reply(body: dict[str, Any]) -> dict[str, Any]:
            whole = json.dumps(body["messages"])
            return {"content": next(text for key, text in texts.items() if key in whole)}

        return reply

    return make
