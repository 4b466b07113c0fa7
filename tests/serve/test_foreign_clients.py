"""Clients that nobody here wrote: curl, lm-evaluation-harness's own OpenAI model, and the command `llm`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from serving import ASK, PacedModel


def test_curl_reads_a_stream(serve) -> None:
    served = serve(PacedModel(pace=0.01))
    body = json.dumps(ASK | {"stream": True, "thinking_token_budget": 12})
    done = subprocess.run(
        ["curl", "-sN", f"{served.url}/v1/chat/completions", "-H", "Content-Type: application/json", "-d", body],
        capture_output=True, text=True, check=True, timeout=200,
    )  # fmt: skip
    lines = [line.removeprefix("data: ") for line in done.stdout.splitlines() if line]
    assert lines[-1] == "[DONE]"
    deltas = [json.loads(line)["choices"][0]["delta"] for line in lines[:-1]]
    assert any(d.get("reasoning_content") for d in deltas) and any(d.get("content") for d in deltas)


def test_lm_evals_own_client_gets_the_answers(serve) -> None:
    pytest.importorskip("lm_eval")
    from lm_eval.models.openai_completions import LocalChatCompletion

    served = serve(PacedModel(ends_in=20))
    model = LocalChatCompletion(
        base_url=f"{served.url}/v1/chat/completions", model="tiny", tokenizer_backend=None, num_concurrent=1
    )
    asked = SimpleNamespace(
        args=(json.dumps(ASK["messages"]), {"until": ["\n\n\n"], "max_gen_toks": 100, "temperature": 0}),
        idx=0,
    )
    asked.args = (model.apply_chat_template(ASK["messages"]), asked.args[1])
    got = model.generate_until([asked], disable_tqdm=True)
    expected = served.ask(max_tokens=100, stop=["\n\n\n"]).json()["choices"][0]["message"]["content"]
    assert got == [expected]


def test_the_command_llm_talks_to_it(serve, tmp_path) -> None:
    pytest.importorskip("llm")
    served = serve(PacedModel(ends_in=20))
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: s1\n  model_name: tiny\n  api_base: {served.url}/v1\n", encoding="utf-8"
    )
    environment = os.environ | {"LLM_USER_PATH": str(tmp_path), "LLM_LOAD_PLUGINS": ""}
    command = shutil.which("llm", path=os.path.dirname(sys.executable))
    assert command is not None
    for more in ([], ["--no-stream", "-o", "seed", "1"]):
        done = subprocess.run(
            [command, "-m", "s1", "2+2?", "--no-log", "--key", "none", *more],
            capture_output=True, text=True, check=False, timeout=200, env=environment,
        )  # fmt: skip
        expected = served.ask().json()["choices"][0]["message"]["content"]
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == expected.strip()
