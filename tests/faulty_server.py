"""A server on this machine that fails as real ones do, at the rates that a test names.

It speaks /v1/completions as vLLM does, with token ids, and /v1/chat/completions, both streamed or whole. Faults are
drawn with a seed, one for each request; whole replies to /v1/completions (probes) have none.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAULTS = (
    "429",
    "500",
    "time-out",  # says nothing for `silence_seconds`, then hangs up
    "garbage",  # an event that is no JSON
    "cut",  # the connection breaks after some events
    "early end",  # the stream ends in good order, without saying how
    "negative usage",
    "huge event",  # one event of `huge_bytes`
)


REFUSAL = "401"
"""A refusal for good, with the server's own words."""


class FaultyServer(ThreadingHTTPServer):
    """Use as a context manager; `url` is its address.

    rates: fault -> share of the requests that have it. next_token: the model, from all ids so far to the next one.
    size: ids in its vocabulary. root: what it names as the model's folder. reply: the text of a chat reply.
    words: the message of its refusals.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        rates: Mapping[str, float],
        *,
        next_token: Callable[[Sequence[int]], int] = lambda ids: ids[-1],
        size: int = 256,
        context: int = 4096,
        root: str = "",
        reply: str = "<think>Two and two.</think>Four.",
        words: str = "try again",
        seed: int = 0,
        silence_seconds: float = 5.0,
        huge_bytes: int = 1 << 27,
    ) -> None:
        assert set(rates) <= {*FAULTS, REFUSAL} and sum(rates.values()) <= 1
        super().__init__(("127.0.0.1", 0), _Handler)
        self.rates, self.next_token, self.size, self.context, self.root = (
            rates,
            next_token,
            size,
            context,
            root,
        )
        self.reply, self.silence_seconds, self.huge_bytes = reply, silence_seconds, huge_bytes
        self.words = words
        self.random, self.lock = random.Random(seed), threading.Lock()
        self.served: Counter[str] = Counter()
        """How many requests had each fault; "" is none."""
        self.tokens_in = self.tokens_out = 0
        """What chat requests would be billed: each that was not refused is written to its end, whatever arrives."""
        self.closing = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"

    def __enter__(self) -> FaultyServer:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def draw(self) -> tuple[str, float]:
        """The fault of one request, and where in the reply it comes (0 to 1)."""
        with self.lock:
            at, where = self.random.random(), self.random.random()
            fault = ""
            for name, rate in self.rates.items():
                if 0 <= at < rate:
                    fault = name
                at -= rate
            self.served[fault] += 1
        return fault, where


class _Handler(BaseHTTPRequestHandler):
    server: FaultyServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        card = {
            "id": "faulty",
            "owned_by": "vllm",
            "max_model_len": self.server.context,
            "root": self.server.root,
        }
        self.answer(200, {"object": "list", "data": [card]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            if self.path == "/v1/completions":
                self.reply(body, list(self.completion(body)), has_faults=bool(body.get("stream")))
            elif self.path == "/v1/chat/completions":
                self.reply(body, list(self.chat()), has_faults=True)
            else:
                self.answer(404, {"error": {"message": "Not Found"}})
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def completion(self, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """One choice for each token."""
        ids, bias = list(body["prompt"]), {int(i): b for i, b in body.get("logit_bias", {}).items()}
        forced = [i for i, b in bias.items() if b > 0]
        for n in range(body["max_tokens"]):
            token = forced[0] if forced else self.server.next_token(ids)
            while bias.get(token, 0) < 0:
                token = (token + 1) % self.server.size
            ids.append(token)
            is_end = token in body.get("stop_token_ids", ()) and n >= body.get("min_tokens", 0)
            finish = "stop" if is_end else "length" if n + 1 == body["max_tokens"] else None
            yield {
                "text": "",
                "token_ids": [token],
                "finish_reason": finish,
                "stop_reason": token if is_end else None,
            }
            if is_end:
                return

    def chat(self) -> Iterator[dict[str, Any]]:
        """One choice for each word."""
        words = self.server.reply.split(" ")
        for n, word in enumerate(words, 1):
            delta = {"content": word if n == len(words) else word + " "}
            yield {"delta": delta, "finish_reason": "stop" if n == len(words) else None}

    def reply(self, body: Mapping[str, Any], choices: list[dict[str, Any]], *, has_faults: bool) -> None:
        fault, where = self.server.draw() if has_faults else ("", 0.0)
        if fault in ("429", "500", REFUSAL):
            self.answer(int(fault), {"error": {"message": self.server.words}}, {"Retry-After-Ms": "10"})
            return
        if "messages" in body:
            with self.server.lock:
                self.server.tokens_in += 7
                self.server.tokens_out += len(choices)
        if fault == "time-out":
            self.server.closing.wait(self.server.silence_seconds)
            self.hang_up()
            return
        count = -5 if fault == "negative usage" else len(choices)
        usage = {"prompt_tokens": 7, "completion_tokens": count, "total_tokens": 7 + count}
        if not body.get("stream"):
            whole = choices[-1] | {"token_ids": [i for c in choices for i in c.get("token_ids", ())]}
            whole["message"] = {"content": "".join(c.get("delta", {}).get("content", "") for c in choices)}
            self.whole({"choices": [whole], "usage": usage}, fault, where)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        at = (
            int(where * len(choices))
            if fault in ("garbage", "cut", "early end", "huge event")
            else len(choices)
        )
        for choice in choices[:at]:
            self.event({"choices": [choice]})
        if fault == "garbage":
            self.chunk(b"data: {oops\n\n")
        if fault == "huge event":
            self.chunk(b'data: {"choices": [], "padding": "' + b"x" * self.server.huge_bytes + b'"}\n\n')
        if fault == "cut":
            self.hang_up()
            return
        if at == len(choices):
            self.event({"choices": [], "usage": usage})
        self.chunk(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def whole(self, value: Any, fault: str, where: float) -> None:
        """A reply in one piece, or what a fault leaves of it."""
        data = json.dumps(value).encode()
        if fault == "garbage":
            data = b"{oops"
        if fault == "huge event":
            data = b'{"choices": [], "padding": "' + b"x" * self.server.huge_bytes + b'"}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if fault in ("cut", "early end"):
            self.wfile.write(data[: int(where * len(data))])
            self.hang_up()
        else:
            self.wfile.write(data)

    def event(self, value: Any) -> None:
        self.chunk(f"data: {json.dumps(value)}\n\n".encode())

    def chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def hang_up(self) -> None:
        self.close_connection = True
        time.sleep(0.001)  # so that what was written arrives
        self.connection.shutdown(2)

    def answer(self, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, text in ({"Content-Type": "application/json"} | dict(headers or {})).items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
