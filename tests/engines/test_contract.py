"""The contract on every engine that this environment can run; test_vllm.py runs it on vLLM."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("openai")

from contract import (  # noqa: E402
    PROTOCOL,
    check_bad_requests,
    check_leaving,
    check_limits,
    check_minimum,
    check_stops,
    explain,
    generations,
    model_folder,
    model_of,
    same_ids,
)
from imitation import Imitation  # noqa: E402

from s1.engines import load_engine  # noqa: E402
from s1.engines.hf_checkpoint import checkpoint_facts  # noqa: E402
from s1.engines.scripted import ScriptedEngine  # noqa: E402
from s1.types import Engine  # noqa: E402

PROMPT = "<|user|> poly at 5 mod 11 ; 0 : 1 ; 1 : 1 ; 2 : 10 ; 3 : 2 ; 4 : 4 ; 5 : 9<|assistant|><think>"


def served_logits(folder):
    """Logits of the real model, with the cache of the request that each thread of the server decodes."""
    from transformers import DynamicCache

    state, cache_argument = threading.local(), checkpoint_facts(model_of(folder), None).cache_argument

    def logits(ids: Sequence[int]) -> list[float]:
        known = getattr(state, "ids", None)
        new = ids[-1:] if known is not None and list(ids[:-1]) == known else list(ids)
        if len(new) != 1 or known is None:
            state.cache = DynamicCache()
        with torch.inference_mode():
            cache = {cache_argument: state.cache}
            out = model_of(folder)(input_ids=torch.tensor([new]), use_cache=True, **cache)
        state.ids = list(ids)
        return [float(x) for x in out.logits[0, -1]]

    return logits


KINDS = {
    "hf": None,
    "hf, one at a time": {"max_batch": 1},
    "openai, ids": {},
    "openai, bans by bias": {"vllm": False},
    "openai, text": {"vllm": False, "ids_in": False, "ids_out": False},
}


@pytest.fixture(scope="module")
def folder():
    return model_folder()


@pytest.fixture(scope="module", params=KINDS)
def engine(request, folder) -> Iterator[Engine]:
    flags, server, threads = KINDS[request.param], None, torch.get_num_threads()
    if request.param.startswith("hf"):
        made = load_engine(str(folder), cache_bytes=1 << 26, **(flags or {}))
    else:
        from transformers import AutoTokenizer

        torch.set_num_threads(1)  # the server has threads of its own
        tokenizer = AutoTokenizer.from_pretrained(folder)
        server = Imitation(tokenizer, served_logits(folder), context=1024, piece=1, **(flags or {}))
        options = f"tokenizer={folder}" + ("" if server.vllm else "&context=1024")
        made = load_engine(f"openai:{server.address}?{options}&connections=8")
    yield made
    asyncio.run(made.close())
    torch.set_num_threads(threads)
    if server is not None:
        server.stop()


@pytest.fixture(scope="module")
def expected(folder):
    reference = load_engine(str(folder), cache_bytes=1 << 26)
    found = generations(reference)
    asyncio.run(reference.close())
    return found


def test_the_same_policies_give_the_same_ids(engine, expected, folder):
    is_server = engine.name.startswith("openai")  # the server of this test is slow: one question will do
    found = generations(engine, questions=1 if is_server else 3)
    same_ids({name: expected[name] for name in found}, found, folder)
    assert all(g.exact == (not is_server or engine.server.exact) for g in found.values())


def test_the_cases_reach_every_part_of_forcing(expected):
    found = list(expected.values())
    assert any(g.waits for g in found) and any(g.cut for g in found) and not all(g.cut for g in found)
    assert any(g.grace_used for g in found) and {g.finish for g in found} == {"stop", "length"}


@pytest.mark.parametrize("check", PROTOCOL, ids=lambda check: check.__name__.removeprefix("check_"))
def test_the_engine_follows_the_protocol(check, engine):
    plain = engine.name.startswith("openai") and not engine.server.is_vllm
    if plain and check not in (check_minimum, check_bad_requests):
        pytest.skip(
            "this server ends every turn and promises no seeds; test_openai.py holds both to be refused"
        )
    check(engine, engine.encode(PROMPT))


@pytest.mark.parametrize("check", [check_limits, check_stops, check_leaving])
def test_the_scripted_engine_follows_the_protocol(check):
    text = "".join(f"{n}{chr(97 + n % 26)}" for n in range(200))
    begin = "<|user|>"
    engine = ScriptedEngine(lambda prefix: text[len(prefix) - len(begin) :])
    check(engine, engine.encode(begin))


def test_a_difference_is_explained_by_the_gap_of_the_logits(folder):
    ids = list(range(10, 30))
    other = [*ids[:15], 400, *ids[16:]]
    found = explain(ids, other, folder)
    assert "position 15" in found and "id 25" in found and "id 400" in found and "gap" in found


def test_a_wrong_engine_fails_the_contract(expected, folder):
    """The suite can fail: one changed token in one generation is found and named."""
    from dataclasses import replace

    name = "natural, question 1"
    wrong = dict(expected)
    segments = list(wrong[name].segments)
    changed = segments[1].token_ids[:2] + (99,) + segments[1].token_ids[3:]
    segments[1] = replace(segments[1], token_ids=changed)
    wrong[name] = replace(wrong[name], segments=tuple(segments))
    with pytest.raises(AssertionError, match=f"1 of {len(expected)} differ:\n{name}: position"):
        same_ids(expected, wrong, folder)
