"""SGLang's own endpoint, as its documentation describes it: a real HTTP server that checks each request.

SGLang itself was never run. llama.cpp's endpoint is tested on a real server in tests/real.
"""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

pytest.importorskip("transformers")
pytest.importorskip("openai")

from s1.budget import Forcing  # noqa: E402
from s1.drive import drive  # noqa: E402
from s1.engines import load_engine  # noqa: E402
from s1.errors import Unsupported  # noqa: E402
from s1.formats import FORMATS  # noqa: E402
from s1.policy import BudgetPolicy  # noqa: E402
from s1.prompt import encode_prompt  # noqa: E402
from s1.types import Sampling  # noqa: E402

FIELDS = {"text", "input_ids", "sampling_params", "return_logprob", "stream", "lora_path"}
PARAMETERS = {
    "max_new_tokens", "stop", "stop_token_ids", "temperature", "top_p", "top_k", "min_p", "frequency_penalty",
    "presence_penalty", "repetition_penalty", "min_new_tokens", "n", "ignore_eos", "skip_special_tokens",
    "logit_bias", "sampling_seed", "json_schema",
}  # fmt: skip
"""The names in SGLang's documentation of /generate and its sampling parameters."""
THOUGHT, END = 30, 4
"""The server draws the token THOUGHT, and each sixth one is a stop if the request names one."""


class SGLang(BaseHTTPRequestHandler):
    seen: list[dict[str, Any]] = []

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        card = {"id": "m", "object": "model", "owned_by": "sglang", "max_model_len": 256}
        self.reply({"object": "list", "data": [card]} if self.path == "/v1/models" else {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/generate" and set(body) <= FIELDS
        asked = body["sampling_params"]
        assert set(asked) <= PARAMETERS
        self.seen.append(body)
        ids: list[int] = []
        finish: dict[str, Any] = {"type": "length", "length": asked["max_new_tokens"]}
        while len(ids) < asked["max_new_tokens"]:
            stops = [i for i in asked["stop_token_ids"] if str(i) not in asked["logit_bias"]]
            if stops and (len(body["input_ids"]) + len(ids)) % 6 == 0:
                ids.append(stops[0])
                finish = {"type": "stop", "matched": stops[0]}
                break
            ids.append(THOUGHT)
        self.reply({"text": "", "output_ids": ids, "meta_info": {"id": "x", "finish_reason": finish}})

    def reply(self, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture(scope="module")
def engine():
    server = ThreadingHTTPServer(("127.0.0.1", 0), SGLang)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    engine = load_engine(f"openai:http://127.0.0.1:{server.server_port}/v1", tokenizer="petri")
    yield engine
    asyncio.run(engine.close())
    server.shutdown()


def think(engine, policy: BudgetPolicy, sampling: Sampling = Sampling()):
    prompt = engine.render([{"role": "user", "content": "4 + 5"}])
    return asyncio.run(
        drive(Forcing(encode_prompt(engine, FORMATS["petri"], policy, prompt), sampling), engine)
    )


def test_ids_go_in_and_out_and_the_context_is_the_servers(engine) -> None:
    assert engine.server.native == "sglang" and engine.server.exact and engine.context == 256
    found = think(engine, BudgetPolicy(max_thinking=3, max_answer=2))
    assert found.exact and found.thinking_tokens <= 3
    assert all(type(i) is int for body in SGLang.seen for i in body["input_ids"])


def test_the_stop_that_the_server_reports_ends_the_thinking_and_a_wait_continues_it(engine) -> None:
    natural = think(engine, BudgetPolicy(max_thinking=60, max_answer=2))
    assert not natural.cut and natural.thinking_tokens < 6
    waited = think(engine, BudgetPolicy(waits=2, max_thinking=60, max_answer=2))
    assert waited.waits == 2 and waited.thinking_tokens > natural.thinking_tokens


def test_a_minimum_bans_the_ends_and_filters_are_neutral_unless_asked_for(engine) -> None:
    SGLang.seen.clear()
    assert think(engine, BudgetPolicy(min_thinking=20, max_thinking=40, max_answer=2)).thinking_tokens >= 20
    assert any(body["sampling_params"]["logit_bias"] for body in SGLang.seen)
    SGLang.seen.clear()
    think(engine, BudgetPolicy(max_thinking=3, max_answer=2), Sampling(temperature=0.7, seed=5))
    asked = SGLang.seen[0]["sampling_params"]
    assert (asked["top_k"], asked["top_p"], asked["min_p"], asked["repetition_penalty"]) == (
        -1,
        1.0,
        0.0,
        1.0,
    )
    assert isinstance(asked["sampling_seed"], int)


def test_a_schema_goes_with_the_answer_alone_and_logprobs_are_refused(engine) -> None:
    SGLang.seen.clear()
    prompt = engine.render([{"role": "user", "content": "4 + 5"}])
    encoded = encode_prompt(engine, FORMATS["petri"], BudgetPolicy(max_thinking=3, max_answer=2), prompt)
    schema = '{"type": "object"}'
    asyncio.run(drive(Forcing(replace(encoded, json_schema=schema)), engine))
    *thinking, answer = (body["sampling_params"] for body in SGLang.seen)
    assert answer["json_schema"] == schema and all("json_schema" not in asked for asked in thinking)
    with pytest.raises(Unsupported, match="logprobs"):
        asyncio.run(drive(Forcing(replace(encoded, logprobs=1), phase="answer"), engine))
