"""Log-probabilities: those of the model itself, one for each token, and the same tokens as without them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch  # noqa: E402

from s1.engines import load_engine  # noqa: E402
from s1.errors import Unsupported  # noqa: E402
from s1.formats import as_stops  # noqa: E402
from s1.types import Chunk, Continuation, Sampling, TokenLogprob  # noqa: E402

ASK = [{"role": "user", "content": "start 6 mod 11 ; 1 : + 7 ; 2 : + 9"}]
DRAWS = {
    "greedy": Sampling(),
    "drawn": Sampling(temperature=1.3, seed=4),
    "filtered": Sampling(temperature=0.7, top_p=0.8, top_k=5, seed=4),
}


@pytest.fixture(scope="module")
def engine():
    engine = load_engine("petri", cache_bytes=1 << 26)
    yield engine
    asyncio.run(engine.close())


async def tokens(engine: Any, request: Continuation) -> tuple[list[int], list[TokenLogprob], Chunk]:
    ids, found, last = list[int](), list[TokenLogprob](), Chunk(())
    async for last in engine.stream(request):
        ids += last.ids
        found += last.logprobs
    return ids, found, last


def asked(engine: Any, sampling: Sampling, logprobs: int | None, stops: tuple[str, ...] = ()) -> Continuation:
    prefix = engine.encode(engine.render(ASK) + "<think>")
    return Continuation(
        prefix, 24, as_stops(stops, engine.encode), 0, sampling, json_schema=None, logprobs=logprobs
    )


@pytest.mark.parametrize("name", DRAWS)
def test_they_are_those_of_the_model_before_temperature(engine, name) -> None:
    request = asked(engine, DRAWS[name], 3)
    ids, found, _ = asyncio.run(tokens(engine, request))
    with torch.inference_mode():
        logits = engine.model(torch.tensor([[*request.prefix, *ids]])).logits[0].float()
    logprob = logits[len(request.prefix) - 1 : -1].log_softmax(-1)
    assert [each.token for each in found] == ids and len(ids) == 24
    for at, each in enumerate(found):
        assert each.logprob == pytest.approx(float(logprob[at, each.token]), abs=1e-4)
        top = logprob[at].topk(3)
        assert [p for _, p in each.top] == pytest.approx(top.values.tolist(), abs=1e-4)
        assert name != "greedy" or each.top[0] == (each.token, each.logprob)


def test_a_batch_in_which_some_ask_draws_what_each_draws_alone(engine) -> None:
    requests = [asked(engine, sampling, top) for sampling in DRAWS.values() for top in (None, 0, 2)]

    async def together() -> list[Any]:
        return list(await asyncio.gather(*(tokens(engine, request) for request in requests)))

    for request, (ids, found, _) in zip(requests, asyncio.run(together()), strict=True):
        alone, reported, _ = asyncio.run(tokens(engine, request))
        assert ids == alone
        assert len(found) == len(reported) == (0 if request.logprobs is None else len(ids))
        assert all(len(each.top) == request.logprobs for each in found)


def test_tokens_that_were_held_back_keep_theirs_and_a_stop_has_none(engine) -> None:
    whole, _, _ = asyncio.run(tokens(engine, asked(engine, Sampling(), None)))
    text = engine.decode(whole)
    stop = text[len(text) // 2 :][:7]  # begins within a word, and parts of it are held back
    ids, found, last = asyncio.run(tokens(engine, asked(engine, Sampling(), 0, (stop, "no such text"))))
    before = "".join(text.partition(stop)[0].split())
    assert last.finish == "stop" and before.startswith("".join(engine.decode(ids).split()))
    drawn = [a for a, b in zip(ids, whole, strict=False) if a == b]  # the rest spells a part of a token
    assert [each.token for each in found] == drawn == ids[: len(drawn)] and drawn


def test_an_engine_without_grammars_refuses_a_schema(engine) -> None:
    request = Continuation(engine.encode("a"), 4, json_schema="{}")
    with pytest.raises(Unsupported, match="json_schema"):
        asyncio.run(tokens(engine, request))
