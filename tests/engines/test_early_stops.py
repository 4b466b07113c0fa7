"""A delimiter of several tokens, or one that a model spells otherwise, does not come before a minimum on any engine."""

from __future__ import annotations

import asyncio
import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("openai")

from imitation import Imitation  # noqa: E402
from tiny_tokenizers import byte_level, model_with  # noqa: E402

from s1.budget import Forcing  # noqa: E402
from s1.drive import drive  # noqa: E402
from s1.engines import load_engine  # noqa: E402
from s1.engines.hf import HFEngine  # noqa: E402
from s1.engines.scripted import ScriptedEngine  # noqa: E402
from s1.errors import Unsupported  # noqa: E402
from s1.formats import FORMATS  # noqa: E402
from s1.policy import BudgetPolicy  # noqa: E402
from s1.prompt import encode_prompt  # noqa: E402
from s1.types import Continuation, Sampling, Stop  # noqa: E402

THINK = FORMATS["think"]  # `</think>` is three tokens here, as for SmolLM2
CHANCES = {"</": 0.2, "think": 0.3, ">": 0.3, "<": 0.05, "/": 0.05, "a": 0.2, ".": 0.1, "<|end|>": 0.05}
POLICIES = {
    "silent waits": BudgetPolicy(max_thinking=40, waits=3, wait=("",), max_answer=4),
    "minimum": BudgetPolicy(max_thinking=40, min_thinking=40, wait=("",), max_answer=4),
    "minimum without room": BudgetPolicy(max_thinking=24, min_thinking=24, wait=("Wait " * 5,), max_answer=4),
}


def prompt_of(engine, policy):
    return encode_prompt(engine, THINK, policy, engine.render([{"role": "user", "content": "2+2?"}]))


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level()


@pytest.fixture(scope="module")
def model(tokenizer):
    return model_with(tokenizer, CHANCES)


@pytest.fixture(scope="module")
def engine(model, tokenizer):
    made = HFEngine(model, tokenizer, cache_bytes=1 << 26)
    yield made
    asyncio.run(made.close())


def think(engine, policy, samplings):
    async def all_of():
        rows = [Forcing(prompt_of(engine, policy), how) for how in samplings]
        return await asyncio.gather(*(drive(row, engine) for row in rows))

    return asyncio.run(all_of())


def is_clean(generation, policy):
    """Whether the thinking has no delimiter in it, and its minimum."""
    assert generation.error is None
    assert "</think>" not in generation.thinking
    assert (
        generation.thinking_tokens >= policy.min_thinking or not generation.exact
    )  # counts of text are estimates
    return True


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_a_real_model_never_writes_it_in_its_thinking(engine, policy):
    samplings = [Sampling(), *(Sampling(1.0, seed=n) for n in range(40))]
    found = think(engine, policy, samplings)
    assert all(is_clean(each, policy) for each in found)
    assert any(each.waits for each in found) or not policy.waits
    assert found == [replaced(a, b) for a, b in zip(think(engine, policy, samplings), found, strict=True)]


def replaced(generation, other):
    from dataclasses import replace

    return replace(generation, seconds=other.seconds, first_token_seconds=other.first_token_seconds)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([0.0, 0.7, 1.5]),
    st.integers(0, 30),
    st.lists(
        st.sampled_from(["</think>", "<|end|>", "a.", "</", "think>", ".a."]),
        min_size=1,
        max_size=3,
        unique=True,
    ),
)
def test_no_stop_comes_before_its_minimum(engine, seed, temperature, least, stops):
    request = Continuation(
        engine.encode("<|user|>hi"),
        30,
        tuple(Stop(text, engine.encode(text)) for text in stops),
        least,
        Sampling(temperature, seed=seed if temperature else None),
    )

    async def all_of():
        ids, last = [], None
        async for chunk in engine.stream(request):
            ids += chunk.ids
            last = chunk
        return ids, last

    ids, last = asyncio.run(all_of())
    assert last.finish == "stop" or len(ids) == 30
    assert last.finish != "stop" or len(ids) >= least
    text = engine.decode(ids)
    assert not any(stop in text for stop in stops)


def test_what_is_drawn_instead_follows_the_model_without_that_token(tokenizer):
    """Chi-squared over 600 samples, two degrees of freedom, one chance in a million of failing for other seeds."""
    model = model_with(tokenizer, {"</": 0.5, "a": 0.25, ".": 0.15, "/": 0.1})
    with torch.no_grad():
        model.lm_head.weight.zero_()
    ends = Stop(
        "</", tuple(tokenizer("</")["input_ids"] * 2)
    )  # as if it were two tokens: matched by its text alone
    engine = HFEngine(model, tokenizer, cache_bytes=1 << 26)

    async def one(seed):
        request = Continuation(engine.encode("a"), 2, (ends,), 2, Sampling(1.0, seed=seed))
        return [i async for chunk in engine.stream(request) for i in chunk.ids]

    async def every():
        try:
            return await asyncio.gather(*map(one, range(600)))
        finally:
            await engine.close()

    drawn = asyncio.run(every())
    for place in range(2):
        counts = Counter(engine.decode(ids[place : place + 1]) for ids in drawn)
        wanted = {"a": 300, ".": 180, "/": 120}
        assert counts.keys() == wanted.keys()
        chi_squared = sum((counts[token] - wanted[token]) ** 2 / wanted[token] for token in wanted)
        assert math.exp(-chi_squared / 2) > 1e-6, (place, counts)


SERVERS = {
    "vLLM": {},
    "bans by bias": {"vllm": False},
    "text": {"vllm": False, "ids_in": False, "ids_out": False, "piece": 1},
}


@pytest.mark.parametrize("flags", SERVERS.values(), ids=SERVERS)
def test_a_server_suppresses_it_as_the_hf_engine_does(flags, model, engine, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)

    def logits(ids):
        with torch.inference_mode():
            return [float(x) for x in model(input_ids=torch.tensor([list(ids)])).logits[0, -1]]

    server = Imitation(tokenizer, logits, context=512, **flags)
    options = f"tokenizer={tmp_path}" + ("" if server.vllm else "&context=512&assume=seed")
    served = load_engine(f"openai:{server.address}?{options}")
    try:
        for policy in POLICIES.values():
            (expected,) = think(engine, policy, [Sampling()])
            found, sampled = think(served, policy, [Sampling(), Sampling(1.0, seed=1)])
            assert is_clean(found, policy) and is_clean(sampled, policy)
            if found.exact:
                assert [s.token_ids for s in found.segments] == [s.token_ids for s in expected.segments]
    finally:
        asyncio.run(served.close())
        server.stop()


def test_a_server_that_cannot_ban_a_token_refuses(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    server = Imitation(tokenizer, lambda ids: [0.0] * len(tokenizer), vllm=False, logit_bias=False)
    served = load_engine(f"openai:{server.address}?tokenizer={tmp_path}&context=512&assume=min_tokens")
    try:
        with pytest.raises(Unsupported, match="several tokens"):
            think(served, POLICIES["minimum"], [Sampling()])
    finally:
        asyncio.run(served.close())
        server.stop()


def test_the_scripted_engine_passes_over_it():
    engine = ScriptedEngine(lambda prefix: "[/T]a[/T]b" if "T" not in prefix else "c")
    stop = Stop("[/T]", engine.encode("[/T]"))

    async def text():
        chunks = [c async for c in engine.stream(Continuation((1,), 9, (stop,), 2))]
        return engine.decode([i for c in chunks for i in c.ids])

    assert asyncio.run(text()).startswith("ab")
