"""A real HTTP server on this machine that speaks the completions interface, correctly or with faults.

Its "model" is a function from the ids so far to logits. `faults` come first, one for each request to
/v1/completions, in order.
"""

from __future__ import annotations

import json
import random
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Logits = Callable[[Sequence[int]], Sequence[float]]
Fault = Callable[["Handler"], None]


class Imitation(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(
        self,
        tokenizer: Any,
        logits: Logits,
        *,
        vllm: bool = True,
        ids_in: bool = True,
        ids_out: bool = True,
        logit_bias: bool = True,
        shows_special: bool = True,
        completions: bool = True,
        tokenizes: bool = True,
        context: int = 400,
        root: str = "",
        models: Sequence[str] = ("tiny",),
        piece: int = 2,
        pace_seconds: float = 0.0,
    ) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.tokenizer, self.logits = tokenizer, logits
        self.vllm, self.ids_in, self.ids_out, self.logit_bias = vllm, ids_in, ids_out, logit_bias
        self.shows_special, self.completions, self.tokenizes = shows_special, completions, tokenizes
        self.context, self.root, self.models = context, root, models
        self.piece, self.pace_seconds = piece, pace_seconds
        self.faults: deque[Fault] = deque()
        self.garbage: dict[str, Any] = {}
        """Path -> the reply there instead, with status 200."""
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.times: list[float] = []
        self.hangups = 0
        self.running = self.most_running = 0
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Imitation
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        cards = [{"id": name, "object": "model"} for name in self.server.models]
        for card in cards:
            if self.server.vllm:
                card |= {
                    "owned_by": "vllm",
                    "max_model_len": self.server.context,
                    "root": self.server.root or card["id"],
                }
        if self.path in self.server.garbage:
            self.answer(200, self.server.garbage[self.path])
        elif self.path == "/v1/models":
            self.answer(200, {"object": "list", "data": cards})
        else:
            self.answer(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        if self.path in server.garbage:
            self.answer(200, server.garbage[self.path])
        elif self.path == "/v1/completions" and server.completions:
            with server.lock:
                server.bodies.append(body)
                server.keys.append(self.headers["Authorization"])
                server.times.append(time.monotonic())
                server.running += 1
                server.most_running = max(server.most_running, server.running)
                fault = server.faults.popleft() if server.faults else None
            try:
                fault(self) if fault else self.complete(body)
            finally:
                with server.lock:
                    server.running -= 1
        elif self.path == "/tokenize" and server.vllm and server.tokenizes:
            self.answer(200, {"tokens": self.tokens_of(body)})
        elif self.path == "/detokenize" and server.vllm and server.tokenizes:
            self.answer(200, {"prompt": self.text_of(body["tokens"])})
        else:
            self.answer(404, {"error": {"message": "Not Found"}})

    def tokens_of(self, body: dict[str, Any]) -> list[int]:
        text = body.get("prompt")
        if text is None:
            text = self.server.tokenizer.apply_chat_template(
                body["messages"], add_generation_prompt=body["add_generation_prompt"], tokenize=False
            )
        return list(self.server.tokenizer(text, add_special_tokens=False)["input_ids"])

    def text_of(self, ids: Sequence[int]) -> str:
        return str(self.server.tokenizer.decode(list(ids), skip_special_tokens=not self.server.shows_special))

    def answer(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in ({"Content-Type": "application/json"} | (headers or {})).items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def begin_stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def send(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def end_stream(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def break_off(self) -> None:
        self.close_connection = True
        self.connection.shutdown(2)

    @property
    def left_by_client(self) -> bool:
        readable, _, _ = select.select([self.connection], [], [], 0)
        return bool(readable) and not self.connection.recv(1, 2)  # MSG_PEEK

    def complete(self, body: dict[str, Any]) -> None:
        server, prompt = self.server, body["prompt"]
        if isinstance(prompt, list):
            if not server.ids_in:
                self.answer(400, {"error": {"message": "prompt must be a string"}})
                return
            if max(prompt) >= len(server.tokenizer):
                self.answer(400, {"error": {"message": f"Token id {max(prompt)} is out of vocabulary"}})
                return
        else:
            prompt = self.tokens_of({"prompt": prompt})
        decoded = self.decode(prompt, body)
        reports_ids = server.ids_out and body.get("return_token_ids")
        if not body.get("stream"):
            ids = [i for i, _, _ in decoded]
            choice: dict[str, Any] = {"text": self.text_of(ids), "finish_reason": "length"}
            if reports_ids:
                choice["token_ids"] = ids
            self.answer(200, {"choices": [choice]})
            return
        self.begin_stream()
        self.send(": hello\n\n")
        out: list[int] = []
        first = True
        piece = max(server.piece, body.get("stream_interval", 1) if server.vllm else 1)
        try:
            for token, finish, reason in decoded:
                out.append(token)
                if len(out) < (1 if first else piece) and finish is None:
                    continue
                shown = out[:-1] if finish == "stop" else out
                choice = {"text": self.text_of(shown), "finish_reason": finish, "stop_reason": reason}
                if reports_ids:
                    choice["token_ids"] = out
                    if first:
                        choice["prompt_token_ids"] = prompt
                self.send(f"data: {json.dumps({'choices': [choice]})}\n\n")
                out, first = [], False
                time.sleep(server.pace_seconds)
                if self.left_by_client:
                    raise ConnectionResetError
            self.send("data: [DONE]\n\n")
            self.end_stream()
        except (BrokenPipeError, ConnectionResetError):
            with server.lock:
                server.hangups += 1
            self.close_connection = True

    def decode(self, prompt: list[int], body: dict[str, Any]) -> Iterator[tuple[int, str | None, Any]]:
        server = self.server
        bias = {int(i): b for i, b in body.get("logit_bias", {}).items()} if server.logit_bias else {}
        stops = set(body.get("stop_token_ids", ())) if server.vllm else set()
        ends = set() if server.vllm and body.get("ignore_eos") else {server.tokenizer.eos_token_id}
        least = body.get("min_tokens", 0) if server.vllm else 0
        draws = random.Random(body.get("seed"))
        ids = list(prompt)
        for n in range(body["max_tokens"]):
            logits = list(server.logits(ids))
            for i, b in bias.items():
                logits[i] += b
            if n < least:
                for i in stops | {server.tokenizer.eos_token_id}:
                    logits[i] = float("-inf")
            if body.get("temperature", 1) > 0:
                best = sorted(range(len(logits)), key=lambda i: -logits[i])[:4]
                token = draws.choice(best)
            else:
                token = max(range(len(logits)), key=lambda i: logits[i])
            ids.append(token)
            if token in stops:
                yield token, "stop", token
                return
            if token in ends:
                yield token, "stop", None
                return
            yield token, "length" if n + 1 == body["max_tokens"] else None, None


def status(code: int, message: str = "no", headers: dict[str, str] | None = None) -> Fault:
    """A refusal that asks for a short wait, unless `headers` say otherwise."""
    headers = {"Retry-After-Ms": "20"} if headers is None else headers
    return lambda handler: handler.answer(code, {"error": {"message": message}}, headers)


def noise(seed: int, size: int, favoured: Sequence[int] = (), bonus: float = 0.0) -> Logits:
    """Logits that look random but depend on the last ids alone."""

    def logits(ids: Sequence[int]) -> list[float]:
        drawn = random.Random(repr((seed, len(ids), tuple(ids[-6:]))))
        values = [drawn.random() for _ in range(size)]
        for i in favoured:
            values[i] += bonus
        return values

    return logits
