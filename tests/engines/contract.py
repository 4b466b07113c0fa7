"""What every engine must do: follow the `Engine` protocol, and give the same token ids for the same policies.

The model is the petri base: tiny and real. Every difference fails: the message names the first position where
two engines differ, and the gap between the model's own logits of the two tokens there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from s1.budget import Forcing
from s1.drive import drive
from s1.errors import BadInput
from s1.formats import FORMATS, ThinkingFormat
from s1.petri.world import base_model
from s1.policy import BudgetPolicy
from s1.prompt import encode_prompt
from s1.types import Chunk, Continuation, Engine, Generation, Sampling, Stop

WORD = ThinkingFormat("word", "<think>", " so", (" so",), " Answer :")
"""Ends at a plain word, which the model writes often and which is not an added token."""
PHRASE = ThinkingFormat("phrase", "<think>", " no x", (" no x", " ; 2 :", " 1 0"), " Answer :")
"""Ends at several tokens."""


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    format: ThinkingFormat
    policy: BudgetPolicy


PETRI = FORMATS["petri"]
CASES = (
    Case("natural", PETRI, BudgetPolicy(max_thinking=60, max_answer=12)),
    Case("no thinking", PETRI, BudgetPolicy(max_thinking=0, max_answer=12)),
    Case("one token", PETRI, BudgetPolicy(max_thinking=1, max_answer=12)),
    Case("waits", PETRI, BudgetPolicy(max_thinking=70, waits=4, max_answer=12)),
    Case("a cycle", PETRI, BudgetPolicy(max_thinking=70, waits=3, wait=(" Wait", " maybe"), max_answer=12)),
    Case("silent waits", PETRI, BudgetPolicy(max_thinking=70, waits=4, wait=("",), max_answer=12)),
    Case("minimum", PETRI, BudgetPolicy(max_thinking=60, min_thinking=50, wait=("",), max_answer=12)),
    Case("minimum with words", PETRI, BudgetPolicy(max_thinking=60, min_thinking=50, max_answer=12)),
    Case("official", PETRI, BudgetPolicy(max_thinking=40, waits=2, max_answer=12, profile="official")),
    Case("a word", WORD, BudgetPolicy(max_thinking=80, waits=2, max_answer=12)),
    Case("a masked word", WORD, BudgetPolicy(max_thinking=60, min_thinking=50, wait=("",), max_answer=12)),
    Case("a phrase", PHRASE, BudgetPolicy(max_thinking=80, waits=1, max_answer=12)),
    Case(
        "grace",
        PETRI,
        BudgetPolicy(
            max_thinking=20, min_thinking=18, wait=("",), grace=10, transition=" done", max_answer=12
        ),
    ),
    Case("always a cue", PETRI, BudgetPolicy(max_thinking=30, cue="always", max_answer=12)),
)
QUESTIONS = (
    "start 6 mod 13 ; 1 : * 8 ; 2 : * 4",
    "clock 6 h 10 ; 1 : + 1 h 5 ; 2 : + 2 h 40 ; 3 : + 5 h 35",
    "poly at 5 mod 11 ; 0 : 1 ; 1 : 1 ; 2 : 10 ; 3 : 2 ; 4 : 4 ; 5 : 9",
)


def model_folder() -> Path:
    """The petri weights; skips where they have not been made."""
    try:
        return base_model()
    except BadInput as error:
        pytest.skip(str(error))


def generations(
    engine: Engine, cases: Sequence[Case] = CASES, questions: int = len(QUESTIONS)
) -> dict[str, Generation]:
    """All cases on the first questions at once, greedy."""

    async def all_of() -> list[Generation]:
        return await asyncio.gather(*(one(case, text) for case in cases for text in QUESTIONS[:questions]))

    async def one(case: Case, text: str) -> Generation:
        prompt = engine.render([{"role": "user", "content": text}])
        encoded = encode_prompt(engine, case.format, case.policy, prompt)
        return await drive(Forcing(encoded), engine)

    names = [f"{case.name}, question {n}" for case in cases for n in range(questions)]
    return dict(zip(names, asyncio.run(all_of()), strict=True))


def same_ids(expected: Mapping[str, Generation], found: Mapping[str, Generation], folder: Path) -> None:
    """Fails with the first difference of every case, explained."""
    assert list(expected) == list(found)
    differences = []
    for name, wanted in expected.items():
        got = found[name]
        assert wanted.error is None, f"{name}: the reference failed: {wanted.error}"
        if got.error is not None:
            differences.append(f"{name}: {got.error}")
        elif parts_of(got) != parts_of(wanted):
            differences.append(f"{name}: {explain(ids_of(wanted), ids_of(got), folder)}")
        elif facts_of(got) != facts_of(wanted):
            differences.append(f"{name}: the same ids, but {facts_of(got)} instead of {facts_of(wanted)}")
    assert not differences, f"{len(differences)} of {len(expected)} differ:\n" + "\n".join(differences)


def ids_of(generation: Generation) -> list[int]:
    return [i for segment in generation.segments for i in segment.token_ids]


def parts_of(generation: Generation) -> list[tuple[tuple[int, ...], str, str]]:
    return [(s.token_ids, s.phase, s.by) for s in generation.segments]


def facts_of(generation: Generation) -> tuple[object, ...]:
    return (generation.waits, generation.cut, generation.finish, generation.grace_used)


def explain(wanted: Sequence[int], got: Sequence[int], folder: Path) -> str:
    """Where two runs first differ, and the gap between the logits of their tokens there."""
    shared = next((n for n, (a, b) in enumerate(zip(wanted, got, strict=False)) if a != b), None)
    if shared is None:
        if len(wanted) == len(got):
            return "the same ids, but other owners"
        return f"one ends after {min(len(wanted), len(got))} tokens, the other continues"
    logits = last_logits(folder, wanted[:shared])
    a, b = wanted[shared], got[shared]
    order = sorted(range(len(logits)), key=lambda i: -logits[i])
    return (
        f"position {shared}: id {a} (logit {logits[a]:.6f}, rank {order.index(a)}) expected, "
        f"id {b} (logit {logits[b]:.6f}, rank {order.index(b)}) found; gap {abs(logits[a] - logits[b]):.2e}"
    )


def last_logits(folder: Path, ids: Sequence[int]) -> list[float]:
    """The model's own logits after `ids`, from one forward call in float32."""
    import torch

    with torch.inference_mode():
        out = model_of(folder)(input_ids=torch.tensor([list(ids)]))
    return [float(x) for x in out.logits[0, -1]]


_models: dict[Path, Any] = {}


def model_of(folder: Path) -> Any:
    if folder not in _models:
        import torch
        from transformers import AutoModelForCausalLM

        _models[folder] = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return _models[folder]


# The protocol, one rule each. After `prefix` the engine must continue for at least 40 tokens.


async def _collect(chunks: AsyncGenerator[Chunk, None]) -> tuple[tuple[int, ...], Chunk]:
    ids: list[int] = []
    last: Chunk | None = None
    async for chunk in chunks:
        assert last is None or last.finish is None, "something came after the end"
        ids.extend(chunk.ids)
        last = chunk
    assert last is not None and last.finish is not None, "it ended without saying how"
    return tuple(ids), last


def continued(engine: Engine, request: Continuation) -> tuple[tuple[int, ...], Chunk]:
    return asyncio.run(_collect(engine.stream(request)))


def check_limits(engine: Engine, prefix: tuple[int, ...]) -> None:
    """A limit is met exactly, and a shorter continuation is the beginning of a longer one."""
    ids, last = continued(engine, Continuation(prefix, 40))
    assert (len(ids), last.finish, last.stop) == (40, "length", None)
    for limit in (0, 1, 7):
        assert continued(engine, Continuation(prefix, limit))[0] == ids[:limit]
    assert continued(engine, Continuation(prefix + ids[:13], 27))[0] == ids[13:]


def check_stops(engine: Engine, prefix: tuple[int, ...]) -> None:
    """The first stop ends it and is left out; one that does not fit within the limit does not count."""
    ids, _ = continued(engine, Continuation(prefix, 40))
    at = next(n for n in range(5, 40) if ids[n] not in ids[:n])
    stop = Stop(engine.decode(ids[at : at + 1]), ids[at : at + 1])
    got, last = continued(
        engine, Continuation(prefix, 40, (Stop("never there", engine.encode("never there")), stop))
    )
    assert (got, last.finish, last.stop) == (ids[:at], "stop", stop)
    got, last = continued(engine, Continuation(prefix, at, (stop,)))
    assert (got, last.finish) == (ids[:at], "length")
    got, last = continued(engine, Continuation(prefix, at + 1, (stop,)))
    assert (got, last.finish) == (ids[:at], "stop")
    pair = next(n for n in range(3, 38) if not any(ids[m : m + 2] == ids[n : n + 2] for m in range(n)))
    both = Stop(engine.decode(ids[pair : pair + 2]), ids[pair : pair + 2])
    got, last = continued(engine, Continuation(prefix, 40, (both,)))
    assert (got, last.finish, last.stop) == (ids[:pair], "stop", both)


def check_minimum(engine: Engine, prefix: tuple[int, ...]) -> None:
    """Before the minimum, neither a stop of a single token nor the end of turn; afterwards both."""
    ends = tuple(Stop(text, engine.encode(text)) for text in engine.eos_texts)
    ids, _ = continued(engine, Continuation(prefix, 40, ends, min_tokens=40))
    assert not {i for end in ends for i in end.ids} & set(ids)
    at = next(n for n in range(5, 40) if ids[n] not in ids[:n])
    stop = Stop(engine.decode(ids[at : at + 1]), ids[at : at + 1])
    got, last = continued(engine, Continuation(prefix, 40, (stop, *ends), min_tokens=at + 5))
    assert len(got) >= at + 5 and got[:at] == ids[:at] and ids[at] not in got[: at + 5]
    got, last = continued(engine, Continuation(prefix, 40, (stop, *ends), min_tokens=at))
    assert (got, last.finish) == (ids[:at], "stop") and last.stop in (stop, *ends)


def check_leaving(engine: Engine, prefix: tuple[int, ...]) -> None:
    """A stream may be left at any time, and the engine keeps serving."""

    async def leave() -> None:
        for _ in range(3):
            async with aclosing(engine.stream(Continuation(prefix, 200))) as chunks:
                async for _chunk in chunks:
                    break

    asyncio.run(leave())
    assert len(continued(engine, Continuation(prefix, 5))[0]) == 5


def check_bad_requests(engine: Engine, prefix: tuple[int, ...]) -> None:
    """Requests that cannot be served are refused before anything is decoded."""
    size = engine.context - len(prefix)
    for request in (
        Continuation(prefix, size + 1),
        Continuation((), 5),
        Continuation(prefix, 5, min_tokens=6),
        Continuation((*prefix, 10**6), 5),
        Continuation((-1,), 5),
        Continuation(prefix, 5, (Stop("x", (10**6,)),)),
    ):
        with pytest.raises(BadInput):
            continued(engine, request)


def check_seeds(engine: Engine, prefix: tuple[int, ...]) -> None:
    """A seed repeats a sample, whatever else is in the batch; another seed gives another sample."""

    def request(seed: int) -> Continuation:
        return Continuation(prefix, 30, sampling=Sampling(temperature=1.5, top_p=0.98, top_k=40, seed=seed))

    async def together() -> list[tuple[int, ...]]:
        found = await asyncio.gather(*(_collect(engine.stream(request(seed))) for seed in (1, 2, 3, 1, 2, 3)))
        return [ids for ids, _ in found]

    results = asyncio.run(together())
    assert results[:3] == results[3:] and len(set(results)) == 3
    assert continued(engine, request(2))[0] == results[1]


PROTOCOL = (check_limits, check_stops, check_minimum, check_leaving, check_bad_requests, check_seeds)
