"""The openai engine against a server that fails: what it must survive, and what it must report."""

from __future__ import annotations

import asyncio
import random

import pytest

pytest.importorskip("openai")
pytest.importorskip("transformers")

from faulty_server import FaultyServer  # noqa: E402

from s1.budget import Forcing  # noqa: E402
from s1.drive import drive  # noqa: E402
from s1.engines import load_engine  # noqa: E402
from s1.formats import FORMATS  # noqa: E402
from s1.policy import BudgetPolicy  # noqa: E402
from s1.prompt import encode_prompt  # noqa: E402
from scripts.petri.tokenizer import build_tokenizer  # noqa: E402

POLICY = BudgetPolicy(max_thinking=40, waits=2, max_answer=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer().save_pretrained(where)
    return where


@pytest.fixture(scope="module")
def size(folder):
    return len(build_tokenizer())


def run(rates, folder, size, requests=30, timeout=60, **flags):
    """The generations of `requests` requests, and how many had each fault."""
    ends = [build_tokenizer().convert_tokens_to_ids(t) for t in ("</think>", "<|end|>")]

    def next_token(ids):
        drawn = random.Random(repr(tuple(ids[-3:]) + (len(ids),)))
        return drawn.choice(ends) if drawn.random() < 0.05 else drawn.randrange(20, size)

    async def all_of(engine):
        rendered = [f"<|user|> {n % 10} + 4<|assistant|>" * (1 + n % 3) for n in range(requests)]
        rows = [Forcing(encode_prompt(engine, FORMATS["petri"], POLICY, text)) for text in rendered]
        try:
            return await asyncio.gather(*(drive(row, engine) for row in rows))
        finally:
            await engine.close()

    with FaultyServer(rates, next_token=next_token, size=size, root=str(folder), **flags) as server:
        engine = load_engine(f"openai:{server.url}?timeout={timeout}&connections=16")
        return asyncio.run(all_of(engine)), server.served


def tokens(found):
    return [[segment.token_ids for segment in generation.segments] for generation in found]


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_cut_streams_change_no_token_and_fail_no_request(share, folder, size):
    whole, _ = run({}, folder, size)
    found, served = run({"cut": share * 0.7, "early end": share * 0.3}, folder, size)
    assert served["cut"] and not any(generation.error for generation in found)
    assert tokens(found) == tokens(whole)


def test_refusals_are_repeated_and_false_usage_changes_nothing(folder, size):
    whole, _ = run({}, folder, size, 20)
    found, served = run({"429": 0.1, "500": 0.1, "negative usage": 0.3}, folder, size, 20)
    assert served["429"] and served["500"] and served["negative usage"]
    assert not any(generation.error for generation in found) and tokens(found) == tokens(whole)


@pytest.mark.parametrize("fault", ["garbage", "time-out", "huge event"])
def test_what_cannot_be_read_is_an_error_of_its_request_alone(fault, folder, size, monkeypatch):
    monkeypatch.setattr("s1.clients.http.LARGEST_EVENT_BYTES", 1 << 16)
    whole, _ = run({}, folder, size, 12)
    silence = {"timeout": 5, "silence_seconds": 7.0} if fault == "time-out" else {}
    found, served = run({fault: 0.2}, folder, size, 12, huge_bytes=1 << 17, **silence)
    failed = [generation.error is not None for generation in found]
    assert sum(failed) == served[fault] > 0
    for generation, right in zip(found, whole, strict=True):
        if generation.error is None:
            assert tokens([generation]) == tokens([right])
