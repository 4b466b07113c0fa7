"""`s1 curate teach` against a real vLLM server. Run by `make test-vllm`.

The teacher is the petri base under a chat template that opens the thinking block itself, as those of DeepSeek-R1 and
Qwen3 do. It hardly ever closes its thinking; what counts here is that the traces are those of the hf engine.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

if importlib.util.find_spec("vllm") is None:
    pytest.skip("needs vLLM in its own environment: make test-vllm", allow_module_level=True)


from s1.clients.call_cache import CallCache  # noqa: E402
from s1.clients.chat import ApiSettings  # noqa: E402
from s1.clients.chat_replies import split_thinking  # noqa: E402
from s1.data.pool import Pool, pool_of_rows  # noqa: E402
from s1.data.teach import teach  # noqa: E402
from s1.engines import load_engine  # noqa: E402
from s1.petri.world import base_model, questions  # noqa: E402
from s1.types import Continuation, Stop  # noqa: E402

pytestmark = pytest.mark.timeout(900)
TEMPLATE = (
    "{% for m in messages %}<|user|>{{ ' ' + m['content'].strip() }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>{% endif %}"
)
BODY = {"chat_template": TEMPLATE, "skip_special_tokens": False}
"""The tags of petri are special tokens, which vLLM leaves out otherwise."""


SERVERS = {"tags": "vllm_server", "reasoning field": "vllm_server_with_parser"}
"""The first leaves the thinking in the text, the second has it parsed."""


@pytest.fixture(scope="module", params=SERVERS)
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(SERVERS[request.param]).url)


@pytest.fixture(scope="module")
def expected() -> list[tuple[str, str, int]]:
    """Thinking, answer and prompt tokens of each reply, as the hf engine decodes them greedily."""
    engine = load_engine(str(base_model()))
    stops = tuple(Stop(end, engine.encode(end)) for end in engine.eos_texts)

    async def run() -> list[tuple[str, str, int]]:
        found = []
        for question in questions(12):
            prompt = engine.encode(engine.render([{"role": "user", "content": question.text}]) + "<think>")
            chunks = engine.stream(Continuation(prompt, 200, stops))
            ids = [i async for chunk in chunks for i in chunk.ids]
            found.append((*split_thinking(engine.decode(ids)), len(prompt)))
        await engine.close()
        return found

    return asyncio.run(run())


def pool(count: int) -> Pool:
    rows = (
        {"id": f"q{i:02d}", "question": q.text, "source": "petri"} for i, q in enumerate(questions(count))
    )
    return pool_of_rows(enumerate(rows, 1), "petri")


def test_traces_are_those_of_the_model(
    request: pytest.FixtureRequest,
    url: str,
    expected: list[tuple[str, str, int]],
    tmp_path: Path,
) -> None:
    parsed = request.node.callspec.params["url"] == "reasoning field"
    # The server's parser calls a reply that never ends its thinking all thinking; tags leave it an answer.
    traces = [
        (answer, "") if parsed and not thinking else (thinking, answer) for thinking, answer, _ in expected
    ]
    settings = ApiSettings(url=url, model="petri", max_tokens=200, temperature=0.0, body=BODY)
    with CallCache(tmp_path / "journal.jsonl") as journal:
        taught = teach(pool(12), settings, journal)
    rows = taught.pool.rows.sort("id")
    assert list(zip(rows["thinking"], rows["attempt"], strict=True)) == traces
    assert taught.tokens_in == sum(e[2] for e in expected)


def served(url: str) -> int:
    """Requests that the server has finished, by its own count."""
    text = urllib.request.urlopen(url.removesuffix("/v1") + "/metrics", timeout=60).read().decode()
    counts = re.findall(r"^vllm:request_success_total\{.*\} (\S+)$", text, re.M)
    return int(sum(map(float, counts)))


def test_after_kill_9_the_command_goes_on_and_asks_nothing_twice(url: str, tmp_path: Path) -> None:
    (tmp_path / "pool.jsonl").write_text(
        "".join(
            json.dumps({"id": f"q{i:02d}", "question": q.text}) + "\n" for i, q in enumerate(questions(30))
        )
    )
    out, before = tmp_path / "out", served(url)
    command = [sys.executable, "-m", "s1", "curate", "teach", str(tmp_path / "pool.jsonl"), "--out", str(out)]
    command += ["--model", "petri", "--url", url, "--samples", "2", "--set", "concurrency=8"]
    command += ["--set", "max_tokens=200", "--set", f"body={json.dumps(BODY)}"]
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    journal = out / "journal.jsonl"
    limit = time.monotonic() + 120
    while not journal.exists() or journal.read_bytes().count(b"\n") < 20:
        assert child.poll() is None and time.monotonic() < limit, "the command ended or stands still"
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL and not (out / "stage.json").exists()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in journal.read_text().splitlines()[1:]]
    assert len(lines) == len({line["key"] for line in lines}) == 60
    limit = time.monotonic() + 60
    while served(url) - before < 60 and time.monotonic() < limit:  # it counts after it has sent
        time.sleep(0.1)
    assert 60 <= served(url) - before <= 60 + 8
    stage = json.loads((out / "stage.json").read_text())
    assert stage["stages"][-1]["out"] == 60
    assert {line["exact"] for line in lines} == {True}
