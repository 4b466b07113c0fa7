"""The command `s1 serve`, as a process: with the model that ships, and in front of another server."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import httpx
import pytest
from serving import ASK

from s1.engines.model_files import PETRI

sys.path.append(str(Path(__file__).parents[1] / "engines"))
from imitation import Imitation, noise, status  # noqa: E402


@pytest.mark.slow
def test_the_model_that_ships_is_served_and_ctrl_c_ends_it(command) -> None:
    url, process = command("--model", "petri", "--max-thinking", "9", "--max-answer", "5", "--log-requests")
    got = httpx.post(f"{url}/v1/chat/completions", json=ASK | {"receipt": True}, timeout=200)
    assert got.json()["s1"]["policy"] == "max_thinking=9,max_answer=5"
    assert "A thinking dial" in httpx.get(url).text
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0 and "Traceback" not in errors and "chat/completions 200" in errors


@pytest.mark.slow
def test_it_stands_in_front_of_another_server(command) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(PETRI)
    upstream = Imitation(tokenizer, noise(3, len(tokenizer)), root=str(PETRI), context=300)
    try:
        url, _ = command("--upstream", upstream.address, "--format", "petri", "--max-answer", "5")
        got = httpx.post(
            f"{url}/v1/chat/completions",
            json=ASK | {"thinking_token_budget": 20, "receipt": True},
            timeout=200,
        ).json()
        receipt = got["choices"][0]["receipt"]
        assert (receipt["thinking_tokens"], receipt["exact"], receipt["cut_by"]) == (20, True, "limit")
        upstream.faults.append(lambda handler: handler.break_off())
        dead = httpx.post(f"{url}/v1/chat/completions", json=ASK | {"max_thinking": 20}, timeout=200)
        upstream.faults.extend([status(500)] * 9)
        refused = httpx.post(f"{url}/v1/chat/completions", json=ASK | {"max_thinking": 20}, timeout=200)
        upstream.faults.clear()
        again = httpx.post(f"{url}/v1/chat/completions", json=ASK | {"max_thinking": 20}, timeout=200)
        assert {dead.status_code, refused.status_code} <= {502, 200} and refused.status_code == 502
        assert again.status_code == 200
    finally:
        upstream.stop()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--host", "0.0.0.0"], "key"),
        (["--set", "concurent=3"], "concurrent"),
        (["--set", "concurrent=0"], "concurrent"),
        (["--set", "efforts.low.max_thinking=-1"], "max_thinking"),
        (["--port", "99999"], "99999"),
        (["--upstream", "nowhere"], "address"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(options, word, monkeypatch, capsys) -> None:
    from s1.cli import main

    monkeypatch.delenv("S1_API_KEY", raising=False)
    assert main(["serve", *options]) == 2
    said = capsys.readouterr().err
    assert word in said and "Traceback" not in said
