"""A draw that follows a suppressed end is a fresh one: forcing skews no token of the model.

With an empty wait, or an end that is masked after it was drawn, the next token is drawn where the end was, from the
model's distribution without its ends. Chi-squared, with one chance in a million of failing for other seeds.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tiny_models import tiny  # noqa: E402

import s1  # noqa: E402
from s1.budget import Forcing  # noqa: E402
from s1.drive import drive  # noqa: E402
from s1.engines.hf import HFEngine  # noqa: E402
from s1.engines.requests import seed_at  # noqa: E402
from s1.engines.scripted import ScriptedEngine  # noqa: E402
from s1.formats import ThinkingFormat, get_format  # noqa: E402
from s1.policy import BudgetPolicy  # noqa: E402
from s1.prompt import encode_prompt  # noqa: E402
from s1.replay import ReplayCache  # noqa: E402
from s1.types import Continuation, Sampling  # noqa: E402
from scripts.petri.tokenizer import build_tokenizer  # noqa: E402

PETRI = get_format("petri")
FALSE_ALARMS = 1e-6
STOP, END = 5, 3
CHANCES = {END: 0.05, STOP: 0.45, 20: 0.2, 30: 0.15, 300: 0.15}
"""What the model gives each token, everywhere. Two of them end its thinking."""
WORDS = {token: chance / 0.5 for token, chance in CHANCES.items() if token not in (STOP, END)}

POLICIES = {
    "empty wait": BudgetPolicy(max_thinking=3, waits=99, wait=("",), max_answer=0),
    "masked end": BudgetPolicy(max_thinking=3, min_thinking=3, wait=("Wait Wait Wait Wait",), max_answer=0),
}


@pytest.fixture(scope="module")
def model():
    made = tiny("llama", vocab=576, eos=END, pad=0)
    head = torch.nn.Linear(made.config.hidden_size, 576, dtype=made.dtype)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.fill_(-200.0)
        for token, chance in CHANCES.items():
            head.bias[token] = math.log(chance)
    made.lm_head = head
    return made


@pytest.mark.parametrize("top_p", [1.0, 0.999999], ids=["plain", "filtered"])
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_what_is_drawn_instead_of_an_end_follows_the_model(model, policy, top_p) -> None:
    tokenizer = build_tokenizer()
    samplings = [Sampling(1.0, top_p=top_p, seed=n) for n in range(400)]
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "sum 3 4 5"}], add_generation_prompt=True, tokenize=False
    )
    engine = HFEngine(model, tokenizer, cache_bytes=1 << 26, max_batch=100)

    async def by_engine():
        rows = [Forcing(encode_prompt(engine, PETRI, policy, prompt), how) for how in samplings]
        try:
            return await asyncio.gather(*(drive(row, engine) for row in rows))
        finally:
            await engine.close()

    drawn = [thinking_of(generation) for generation in asyncio.run(by_engine())]
    processor = s1.budget_processor(
        model, tokenizer, [prompt] * len(samplings), policy, format=PETRI, sampling=samplings
    )
    model.generate(**processor.inputs, **processor.options)
    assert drawn == [thinking_of(generation) for generation in processor.generations()]
    for position in range(3):
        counts = Counter(thinking[position] for thinking in drawn)
        assert counts.keys() == WORDS.keys()
        wanted = {token: chance * len(drawn) for token, chance in WORDS.items()}
        chi_squared = sum((counts[token] - wanted[token]) ** 2 / wanted[token] for token in WORDS)
        # With two degrees of freedom the chance of more than x is exp(-x / 2).
        assert math.exp(-chi_squared / 2) > FALSE_ALARMS, (position, counts)


def thinking_of(generation) -> tuple[int, ...]:
    assert generation.error is None and generation.thinking_tokens == 3
    return tuple(i for s in generation.segments if s.phase == "thinking" for i in s.token_ids)


def asked(policy: BudgetPolicy, *written: str) -> list[Continuation]:
    """What is asked for when the model writes each of `written` in turn."""
    engine = ScriptedEngine([*written, "4<|end|>"])
    encoded = encode_prompt(engine, get_format("think"), policy, "<|user|>2+2?<|assistant|>")
    asyncio.run(drive(Forcing(encoded, Sampling(1.0, seed=1)), engine))
    return engine.asked


def test_only_a_draw_where_an_end_was_drawn_before_counts_as_a_redraw() -> None:
    ends = ["a</think>", "b</think>", "c</think>"]
    empty = asked(BudgetPolicy(max_thinking=50, waits=2, wait=("",)), *ends)
    assert [ask.redraw for ask in empty] == [0, 1, 2, 2]
    waits = asked(BudgetPolicy(max_thinking=50, waits=2, wait=("Wait",)), *ends)
    assert [ask.redraw for ask in waits] == [0, 0, 0, 0]
    no_room = asked(BudgetPolicy(max_thinking=5, min_thinking=5, wait=("Wait, wait",)), "a</think>", "bcde")
    assert [ask.redraw for ask in no_room] == [0, 1, 1]


def test_a_stop_of_several_tokens_uses_as_many_numbers() -> None:
    spelled = ThinkingFormat("spelled", "(", "ab)", ("ab",), "So:")
    policy = BudgetPolicy(max_thinking=50, waits=2, wait=("-", "--"))
    engine = ScriptedEngine(["xab", "yab", "zab", "4<|end|>"])
    forcing = Forcing(encode_prompt(engine, spelled, policy, "2+2?"), Sampling(1.0, seed=1))
    asyncio.run(drive(forcing, engine))
    assert [ask.redraw for ask in engine.asked] == [0, 1, 1, 1]


def test_a_replay_cache_tells_redraws_apart() -> None:
    engine = ScriptedEngine(["a", "b"])
    cache = ReplayCache(engine)
    request = Continuation((1,), 1, sampling=Sampling(1.0, seed=1))

    async def ids(ask: Continuation) -> list[int]:
        return [i async for chunk in cache.stream(ask) for i in chunk.ids]

    async def go() -> list[list[int]]:
        return [await ids(replace(request, redraw=n)) for n in (0, 1, 0, 1)]

    a, b = ord("a"), ord("b")
    assert asyncio.run(go()) == [[a], [b], [a], [b]]


def test_a_server_gets_another_seed_for_a_redraw_and_the_same_as_before_for_all_else() -> None:
    assert seed_at(7, 12, 0) == seed_at(7, 12)
    assert len({seed_at(7, 12, redraw) for redraw in range(5)}) == 5
    assert seed_at(None, 12, 1) is None
