"""The openai engine against a real server on this machine: what it sends, survives and refuses."""

from __future__ import annotations

import asyncio
import email.utils
import threading
import time
from contextlib import aclosing, contextmanager
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("openai")
pytest.importorskip("transformers")

from imitation import Imitation, noise, status  # noqa: E402

from s1.budget import Forcing  # noqa: E402
from s1.doctor import diagnose  # noqa: E402
from s1.drive import drive  # noqa: E402
from s1.engines import load_engine  # noqa: E402
from s1.engines.openai_completions import piece_of  # noqa: E402
from s1.engines.openai_probe import Server, server_url  # noqa: E402
from s1.engines.requests import seed_at  # noqa: E402
from s1.engines.stops import TextStops  # noqa: E402
from s1.errors import BadConfig, BadInput, EngineFailure, S1Error, Unsupported  # noqa: E402
from s1.formats import FORMATS  # noqa: E402
from s1.policy import BudgetPolicy  # noqa: E402
from s1.prompt import encode_prompt  # noqa: E402
from s1.types import Continuation, Sampling, Stop  # noqa: E402
from scripts.petri.tokenizer import VOCABULARY_SIZE, build_tokenizer  # noqa: E402


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    where = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(where)
    return str(where)


def words(tokenizer, ending=0.0):
    """Logits of whole words, with ends of thinking and turn among them."""
    plain = [i for t, i in tokenizer.get_vocab().items() if t.startswith("Ġ") and len(t) > 1]
    ends = [tokenizer.convert_tokens_to_ids(t) for t in ("</think>", "<|end|>")]
    base = noise(3, VOCABULARY_SIZE, plain, 5.0)

    def logits(ids):
        values = base(ids)
        for n, i in enumerate(ends):
            if (len(ids) + 3 * n) % 7 == 0:
                values[i] += ending
        return values

    return logits


@contextmanager
def served(tokenizer, logits=None, options="", **flags):
    """A running server and an engine for it. Without flags: one that says it is vLLM."""
    server = Imitation(tokenizer, logits or words(tokenizer, 9.0), **flags)
    engine = None
    try:
        engine = load_engine(f"openai:{server.address}?{options}")
        server.bodies.clear()
        yield server, engine
    finally:
        if engine is not None:
            asyncio.run(engine.close())
        server.stop()


def all_of(engine, wanted):
    async def collect():
        ids, last = [], None
        async for chunk in engine.stream(wanted):
            ids.extend(chunk.ids)
            last = chunk
        return tuple(ids), last.finish, last.stop, last.exact

    return asyncio.run(collect())


def greedy(logits, prefix, count, stops=(), valid=VOCABULARY_SIZE, least=0):
    """What any server must give: the largest logit, step by step."""
    ids = list(prefix)
    for n in range(count):
        values = list(logits(ids))[:valid]
        if n < least:
            for stop in stops:
                values[stop] = float("-inf")
        best = max(range(len(values)), key=values.__getitem__)
        if best in stops:
            break
        ids.append(best)
    return tuple(ids[len(prefix) :])


def stop_of(engine, text):
    return Stop(text, engine.encode(text))


def test_ids_go_in_and_come_out_and_the_stop_is_left_out(tokenizer, folder):
    logits = words(tokenizer, 9.0)
    with served(tokenizer, logits, f"tokenizer={folder}") as (server, engine):
        close = stop_of(engine, "</think>")
        prefix = engine.encode("<|user|> 3 + 4<|assistant|><think>")
        ids, finish, stop, exact = all_of(engine, Continuation(prefix, 60, (close,)))
        assert (finish, stop, exact) == ("stop", close, True)
        assert ids == greedy(logits, prefix, 60, close.ids, len(tokenizer))
        assert server.bodies[0]["prompt"] == list(prefix)


def test_an_end_of_turn_that_is_no_stop_is_an_ordinary_token(tokenizer, folder):
    logits = words(tokenizer, 9.0)
    with served(tokenizer, logits, f"tokenizer={folder}") as (_, engine):
        prefix = engine.encode(" 1 2")
        ids, finish, stop, _ = all_of(engine, Continuation(prefix, 40))
        assert (len(ids), finish, stop) == (40, "length", None)
        assert set(engine.encode("<|end|>")) & set(ids)
        assert ids == greedy(logits, prefix, 40, valid=len(tokenizer))


def test_a_stop_of_several_tokens_ends_it_and_hangs_up(tokenizer, folder):
    with served(tokenizer, options=f"tokenizer={folder}", pace_seconds=0.01) as (server, engine):
        prefix = engine.encode(" 1 2")
        free, _, _, _ = all_of(engine, Continuation(prefix, 30))
        text = engine.decode(free[10:12])
        ids, finish, stop, _ = all_of(engine, Continuation(prefix, 300, (Stop(text, engine.encode(text)),)))
        assert (finish, ids) == ("stop", free[:10])
        assert stop is not None and len(stop.ids) == 2
        wait_for(lambda: server.hangups == 1)


def test_no_stop_comes_before_min_tokens(tokenizer, folder):
    logits = words(tokenizer, 9.0)
    with served(tokenizer, logits, f"tokenizer={folder}") as (_, engine):
        close, end = stop_of(engine, "</think>"), stop_of(engine, "<|end|>")
        prefix = engine.encode(" 1 2")
        ids, *_ = all_of(engine, Continuation(prefix, 60, (close, end), min_tokens=25))
        assert len(ids) >= 25
        assert ids == greedy(logits, prefix, 60, close.ids + end.ids, len(tokenizer), least=25)


def test_bans_by_bias_give_the_same_minimum_where_a_server_has_no_min_tokens(tokenizer, folder):
    results = []
    for flags in ({}, {"vllm": False}):
        options = f"tokenizer={folder}" + ("&context=400" if flags else "")
        with served(tokenizer, options=options, **flags) as (server, engine):
            stops = (stop_of(engine, "</think>"), stop_of(engine, "<|end|>"))
            wanted = Continuation(engine.encode(" 1 2"), 60, stops, min_tokens=25)
            results.append(all_of(engine, wanted))
            assert len(server.bodies) == (2 if flags else 1)
    assert results[0] == results[1] and results[0][3]


def test_ids_beyond_the_vocabulary_are_passed_over_and_never_sent_back(tokenizer, folder):
    plain = words(tokenizer, 9.0)
    padding = range(len(tokenizer), VOCABULARY_SIZE)
    assert len(padding) > 3

    def logits(ids):
        values = list(plain(ids))
        if len(ids) % 5 == 0:
            values[padding[len(ids) // 5 % 3]] = 50.0
        return values

    with served(tokenizer, logits, f"tokenizer={folder}") as (server, engine):
        prefix = engine.encode(" 1 2")
        ids, finish, _, _ = all_of(engine, Continuation(prefix, 40))
        assert finish == "length"
        assert ids == greedy(plain, prefix, 40, valid=len(tokenizer))
        assert len(server.bodies) == 4
        all_of(engine, Continuation(prefix, 40))
        assert len(server.bodies) == 5  # known by now
        with pytest.raises(BadInput, match="vocabulary"):
            all_of(engine, Continuation((*prefix, padding[0]), 5))
        assert len(server.bodies) == 5


def test_the_same_seed_gives_the_same_draws_and_a_continuation_gets_others(tokenizer, folder):
    with served(tokenizer, options=f"tokenizer={folder}") as (server, engine):
        sampling = Sampling(temperature=1.0, seed=7)
        wanted = Continuation(engine.encode(" 1 2"), 30, sampling=sampling)
        first = all_of(engine, wanted)
        assert all_of(engine, wanted) == first
        assert (
            all_of(engine, Continuation(wanted.prefix, 30, sampling=Sampling(temperature=1.0, seed=8)))
            != first
        )
        all_of(engine, Continuation(wanted.prefix + first[0], 5, sampling=sampling))
        seeds = [body["seed"] for body in server.bodies]
        assert seeds[0] == seeds[1] and len(set(seeds)) == 3


@settings(max_examples=200, derandomize=True, deadline=None, database=None)
@given(st.integers(0, 2**63), st.integers(0, 10**6))
def test_seeds_fit_every_server_and_depend_on_the_position(seed, position):
    assert 0 <= seed_at(seed, position) < 2**31
    assert seed_at(seed, position) == seed_at(seed, position)
    assert seed_at(seed, position) != seed_at(seed, position + 1)


def test_forcing_walks_through_a_server(tokenizer, folder):
    with served(tokenizer, options=f"tokenizer={folder}") as (_, engine):
        policy = BudgetPolicy(max_thinking=30, waits=2, max_answer=5)
        prompt = encode_prompt(engine, FORMATS["petri"], policy, "<|user|> 3 + 4<|assistant|>")
        generation = asyncio.run(drive(Forcing(prompt), engine))
        assert generation.error is None and generation.exact and generation.waits == 2
        assert generation.thinking_tokens <= 30 and generation.answer_tokens <= 5


def test_sampling_defaults_of_the_checkpoint_are_overruled(tokenizer, folder):
    with served(tokenizer, options=f"tokenizer={folder}") as (server, engine):
        all_of(engine, Continuation((5,), 2))
        body = server.bodies[0]
        said = {k: body[k] for k in ("top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty")}
        assert said == {
            "top_k": 0,
            "top_p": 1.0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
        }


# A server that is busy, broken or gone


def test_a_busy_server_is_asked_again_after_the_time_it_names(tokenizer, folder):
    with served(tokenizer, options=f"tokenizer={folder}") as (server, engine):
        expected = all_of(engine, Continuation((5,), 6))
        server.faults += [status(429, "busy", {"Retry-After": "0.5"}), status(503)]
        assert all_of(engine, Continuation((5,), 6)) == expected
        assert server.times[-2] - server.times[-3] >= 0.5 and len(server.bodies) == 4


def test_retry_after_may_be_a_date(tokenizer, folder):
    def busy(handler):
        later = email.utils.formatdate(time.time() + 2, usegmt=True)
        status(429, "busy", {"Retry-After": later})(handler)

    with served(tokenizer, options=f"tokenizer={folder}") as (server, engine):
        server.faults.append(busy)
        all_of(engine, Continuation((5,), 2))
        assert server.times[-1] - server.times[-2] >= 0.9  # a date has whole seconds


def test_a_server_that_asks_for_an_hour_fails_the_request_at_once(tokenizer, folder):
    with served(tokenizer, options=f"tokenizer={folder}") as (server, engine):
        server.faults.append(status(429, "quota", {"Retry-After": "3600"}))
        with pytest.raises(EngineFailure, match="3600 s"):
            all_of(engine, Continuation((5,), 2))


def test_retries_end(tokenizer, folder):
    with served(tokenizer, options=f"tokenizer={folder}&retries=2") as (server, engine):
        server.faults += [status(500, "boom")] * 5
        with pytest.raises(EngineFailure, match="500.*boom"):
            all_of(engine, Continuation((5,), 2))
        assert len(server.bodies) == 3


def test_a_bad_request_is_not_repeated_and_its_reason_is_shown(tokenizer, folder):
    with served(tokenizer, options=f"tokenizer={folder}") as (server, engine):
        server.faults.append(status(400, "min_tokens is too many"))
        with pytest.raises(EngineFailure, match="400.*min_tokens is too many"):
            all_of(engine, Continuation((5,), 2))
        assert len(server.bodies) == 1


def test_the_key_is_sent_and_never_shown(tokenizer, folder, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret-123")
    with served(tokenizer, options=f"tokenizer={folder}&api_key_env=MY_KEY") as (server, engine):
        assert "Bearer sk-secret-123" in server.keys
        server.faults.append(status(401, "Incorrect API key provided: sk-secret-123"))
        with pytest.raises(EngineFailure) as caught:
            all_of(engine, Continuation((5,), 2))
        assert "401" in str(caught.value) and "environment variable" in str(caught.value)
        assert "secret" not in str(caught.value) and "secret" not in engine.name


def test_without_a_key_no_authorization_is_sent(tokenizer, folder):
    with served(tokenizer, options=f"tokenizer={folder}") as (server, engine):
        all_of(engine, Continuation((5,), 2))
        assert set(server.keys) == {None}


def test_an_empty_address_means_the_server_that_the_environment_names(tokenizer, folder, monkeypatch):
    server = Imitation(tokenizer, words(tokenizer, 9.0))
    monkeypatch.setenv("OPENAI_BASE_URL", server.address)
    try:
        engine = load_engine(f"openai:?tokenizer={folder}")
        assert server.address in engine.name
        asyncio.run(engine.close())
    finally:
        server.stop()


def test_a_reply_without_end_is_given_up(tokenizer, folder, monkeypatch):
    monkeypatch.setattr("s1.clients.http.LARGEST_REPLY_BYTES", 5000)

    def endless(handler):
        handler.begin_stream()
        for _ in range(10_000):
            handler.send('data: {"choices": []}\n\n')

    with served(tokenizer, options=f"tokenizer={folder}") as (server, engine):
        server.faults.append(endless)
        with pytest.raises(EngineFailure, match="more than 5000 bytes"):
            all_of(engine, Continuation((5,), 4))


def html(handler):
    handler.answer(200, b"<html>welcome</html>", {"Content-Type": "text/html"})


def events(*texts):
    def fault(handler):
        handler.begin_stream()
        for text in texts:
            handler.send(text)
        handler.end_stream()

    return fault


def half(handler):
    handler.begin_stream()
    handler.send('data: {"choices": [{"text": "", "token_ids": [7, 8]}]}\n\n')
    handler.break_off()


HALF = 'data: {"choices": [{"text": "", "token_ids": [7, 8]}]}\n\n'


def gzipped(handler):
    handler.answer(200, b"no gzip", {"Content-Type": "text/event-stream", "Content-Encoding": "gzip"})


BROKEN = {
    "a web page": (html, "instead of an event"),
    "no json": (events("data: oops\n\n"), "cannot be read"),
    "json without a bottom": (events(f"data: {'[' * 100_000}\n\n"), "cannot be read"),
    "bytes that are no text": (lambda handler: handler.answer(200, b"\xff\xfe\x00"), "cannot be read"),
    "a redirect": (status(307, "moved", {"Location": "/elsewhere"}), "307.*another address"),
    "another shape": (events('data: {"hello": 1}\n\n'), "without a choice"),
    "a list": (events("data: [1, 2]\n\n"), "without a choice"),
    "no ids": (events('data: {"choices": [{"text": "x"}]}\n\n'), "without token ids"),
    "ids that are none": (events('data: {"choices": [{"token_ids": ["7"]}]}\n\n'), "without token ids"),
    "too much": (events('data: {"choices": [{"token_ids": [7, 7, 7, 7, 7, 7]}]}\n\n'), "more than 4"),
    "an error within": (events(HALF, 'data: {"error": {"message": "engine died"}}\n\n'), "engine died"),
    "an unknown end": (
        events('data: {"choices": [{"token_ids": [7], "finish_reason": "content_filter"}]}\n\n'),
        "content_filter",
    ),
    "another prompt": (
        events('data: {"choices": [{"token_ids": [7], "prompt_token_ids": [1, 5]}]}\n\n'),
        "prompt",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_answer_is_a_clear_failure(kind, tokenizer, folder):
    fault, said = BROKEN[kind]
    with served(tokenizer, options=f"tokenizer={folder}") as (server, engine):
        server.faults.append(fault)
        with pytest.raises(EngineFailure, match=said):
            all_of(engine, Continuation((5,), 4))
        assert len(server.bodies) == 1
        assert len(all_of(engine, Continuation((5,), 4))[0]) == 4  # the next request is served


def test_a_broken_request_keeps_what_had_arrived_in_its_generation(tokenizer, folder):
    with served(tokenizer, options=f"tokenizer={folder}") as (server, engine):
        prompt = encode_prompt(
            engine, FORMATS["petri"], BudgetPolicy(max_thinking=30), "<|user|> 3<|assistant|>"
        )
        server.faults.append(BROKEN["an error within"][0])
        generation = asyncio.run(drive(Forcing(prompt), engine))
        assert generation.error is not None and "engine died" in generation.error
        assert [s.token_ids for s in generation.segments if s.by == "model"] == [(7, 8)]


CUT = {
    "an early end": events(HALF, "data: [DONE]\n\n"),
    "nothing": events(),
    "half a stream": half,
    "another encoding than it names": gzipped,
}


@pytest.mark.parametrize("kind", CUT)
def test_a_cut_stream_is_continued_from_the_tokens_that_had_arrived(kind, tokenizer, folder):
    had = (7, 8) if CUT[kind] in (CUT["an early end"], half) else ()
    with served(tokenizer, options=f"tokenizer={folder}") as (server, engine):
        expected = all_of(engine, Continuation((5, *had), 6 - len(had)))
        server.bodies.clear()
        server.faults.append(CUT[kind])
        ids, *how = all_of(engine, Continuation((5,), 6))
        assert (ids, *how) == (had + expected[0], *expected[1:])
        assert [body["prompt"] for body in server.bodies] == [[5], [5, *had]]
        assert server.bodies[1]["max_tokens"] == 6 - len(had)


def test_a_stream_that_is_cut_again_and_again_without_a_token_is_given_up(tokenizer, folder):
    with served(tokenizer, options=f"tokenizer={folder}&retries=1") as (server, engine):
        server.faults += [half, events(), half, events(), events()]
        with pytest.raises(EngineFailure, match="in the middle"):
            all_of(engine, Continuation((5,), 9))
        assert len(server.bodies) == 5 and server.bodies[-1]["prompt"] == [5, 7, 8, 7, 8]


def test_a_server_that_is_gone_after_a_cut_is_not_waited_for_twice(tokenizer, folder):
    with served(tokenizer, options=f"tokenizer={folder}&retries=1") as (server, engine):
        server.faults += [half, status(400, "no such model")]
        with pytest.raises(EngineFailure, match="no such model"):
            all_of(engine, Continuation((5,), 9))
        assert len(server.bodies) == 2


def test_a_connection_that_breaks_before_any_answer_is_tried_again(tokenizer, folder):
    with served(tokenizer, options=f"tokenizer={folder}") as (server, engine):
        server.faults.append(lambda handler: handler.break_off())
        assert len(all_of(engine, Continuation((5,), 4))[0]) == 4
        assert len(server.bodies) == 2


def test_a_silent_server_fails_the_request_and_is_not_asked_again(tokenizer, folder):
    released = []

    def silent(handler):
        while not released:
            time.sleep(0.02)

    def hang(handler):
        handler.begin_stream()
        handler.send(HALF)
        silent(handler)

    with served(tokenizer, options=f"tokenizer={folder}&timeout=1") as (server, engine):
        for fault in (hang, silent):
            server.faults.append(fault)
            with pytest.raises(EngineFailure, match="1 s.*raise timeout"):
                all_of(engine, Continuation((5,), 4))
        assert len(server.bodies) == 2
        released.append(True)


def test_comments_that_keep_a_connection_alive_are_no_answer(tokenizer, folder):
    """Gateways send them for as long as the model behind them is stuck."""
    released = []

    def stuck(handler):
        handler.begin_stream()
        handler.send(HALF)
        while not released:
            handler.send(": PROCESSING\n\n")
            time.sleep(0.05)

    with served(tokenizer, options=f"tokenizer={folder}&timeout=1") as (server, engine):
        server.faults.append(stuck)
        began = time.monotonic()
        with pytest.raises(EngineFailure, match="1 s.*raise timeout"):
            all_of(engine, Continuation((5,), 4))
        assert time.monotonic() - began > 0.9
        released.append(True)


def test_a_server_that_draws_ever_new_ids_beyond_the_vocabulary_is_left(tokenizer, folder, monkeypatch):
    """As with the tokenizer of another model; each such id is asked around, but not for ever."""
    monkeypatch.setattr("s1.engines.openai.MOST_PADDING", 5)
    with served(tokenizer, options=f"tokenizer={folder}") as (server, engine):
        for n in range(20):
            server.faults.append(events(f'data: {{"choices": [{{"token_ids": [{10**6 + n}]}}]}}\n\n'))
        with pytest.raises(EngineFailure, match="beyond the vocabulary.*tokenizer="):
            all_of(engine, Continuation((5,), 4))
        assert len(server.bodies) == 6


def many_events(count):
    token = 'data: {"choices": [{"token_ids": [7]}]}\n\n'
    end = 'data: {"choices": [{"token_ids": [], "finish_reason": "length"}]}\n\n'
    return events(token * count + end)


def test_a_fast_server_is_asked_for_events_of_several_tokens(tokenizer, folder):
    """Each event costs both sides the same, however many tokens it has; what comes out stays the same."""
    with served(tokenizer, options=f"tokenizer={folder}") as (server, engine):
        close, phrase = stop_of(engine, "</think>"), Stop(" 1 2", engine.encode(" 1 2"))
        wanted = Continuation(engine.encode(" 1 2"), 390, (close,), min_tokens=60)
        expected = all_of(engine, wanted)
        server.faults += [many_events(380)] * 2
        for _ in range(2):
            all_of(engine, Continuation((5,), 380))
        assert all_of(engine, wanted) == expected
        all_of(engine, replace(wanted, stops=(close, phrase)))  # its end is seen only here
        asked = [body.get("stream_interval", 1) for body in server.bodies]
        assert asked[0] == 1 and asked[-2] > 1 and asked[-1] == 1


def test_a_slow_server_sends_each_token_as_it_comes(tokenizer, folder):
    with served(tokenizer, options=f"tokenizer={folder}", pace_seconds=0.03, piece=1) as (server, engine):
        for _ in range(2):
            all_of(engine, Continuation((5,), 9))
        assert not any("stream_interval" in body for body in server.bodies)


GARBAGE = [
    None,
    7,
    [],
    [1],
    "text",
    {},
    {"data": 3},
    {"data": [{}]},
    {"tokens": "no"},
    {"tokens": [[1]]},
    b"<html>",
]


@pytest.mark.parametrize("path", ["/v1/models", "/tokenize", "/detokenize", "/v1/completions"])
@pytest.mark.parametrize("answer", GARBAGE, ids=str)
def test_garbage_while_the_server_is_found_out_is_a_clear_failure(path, answer, tokenizer, folder):
    server = Imitation(tokenizer, words(tokenizer, 9.0))
    server.garbage[path] = answer
    try:
        with pytest.raises(S1Error) as caught:
            load_engine(f"openai:{server.address}?retries=0")
        assert "127.0.0.1" in caught.value.message and caught.value.hint
    finally:
        server.stop()


def test_a_server_that_is_not_there_is_named(tokenizer, folder):
    with pytest.raises(EngineFailure, match="127.0.0.1:9/v1/models.*Start the server"):
        load_engine(f"openai:http://127.0.0.1:9/v1?tokenizer={folder}&retries=1")


def wait_for(condition, seconds=60.0):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.02)


def test_leaving_the_stream_hangs_up_on_the_server(tokenizer, folder):
    with served(tokenizer, options=f"tokenizer={folder}", pace_seconds=0.02) as (server, engine):

        async def leave():
            async with aclosing(engine.stream(Continuation((5,), 390))) as chunks:
                async for _ in chunks:
                    break
            # Within the loop: when that is closed, its streams end anyway.
            await asyncio.to_thread(wait_for, lambda: server.hangups == 1 and server.running == 0)

        asyncio.run(leave())


def test_a_cancelled_task_hangs_up_too(tokenizer, folder):
    with served(tokenizer, options=f"tokenizer={folder}", pace_seconds=0.02) as (server, engine):

        async def cancel():
            begun = asyncio.Event()

            async def consume():
                async for _ in engine.stream(Continuation((5,), 390)):
                    begun.set()

            task = asyncio.create_task(consume())
            await begun.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await asyncio.to_thread(wait_for, lambda: server.hangups == 1 and server.running == 0)

        asyncio.run(cancel())


def test_no_more_connections_are_open_than_allowed(tokenizer, folder):
    together = threading.Barrier(3)

    def busy(handler):
        together.wait(60)  # each of three waits for the others
        status(503)(handler)

    with served(tokenizer, options=f"tokenizer={folder}&connections=3") as (server, engine):
        server.faults += [busy] * 3

        async def many():
            async def one(n):
                return [i async for c in engine.stream(Continuation((5 + n,), 10)) for i in c.ids]

            return await asyncio.gather(*(one(n) for n in range(12)))

        results = asyncio.run(many())
        assert all(len(ids) == 10 for ids in results)
        assert server.most_running == 3


def test_a_closed_engine_says_so(tokenizer, folder):
    with served(tokenizer, options=f"tokenizer={folder}") as (_, engine):
        asyncio.run(engine.close())
        asyncio.run(engine.close())
        with pytest.raises(EngineFailure, match="closed"):
            all_of(engine, Continuation((5,), 4))


def test_closing_fails_the_requests_that_still_run(tokenizer, folder):
    with served(tokenizer, options=f"tokenizer={folder}", pace_seconds=0.02) as (_, engine):

        async def close_amid():
            stream = engine.stream(Continuation((5,), 390))
            await anext(stream)
            await engine.close()
            async for _ in stream:
                pass

        with pytest.raises(EngineFailure, match="closed in the middle"):
            asyncio.run(asyncio.wait_for(close_amid(), 20))


# What a server cannot do


PLAIN = {"vllm": False, "ids_in": False, "ids_out": False}


def test_a_lone_surrogate_in_a_servers_text_becomes_the_replacement_character():
    event = {"choices": [{"text": "lone \ud83d here", "finish_reason": None}]}
    found = piece_of(event, Continuation((5,), 9), Server("m", 400, False, frozenset()), "x")
    assert found is not None and found.text == "lone \ufffd here"


@pytest.mark.parametrize(
    ("what", "wanted"),
    [
        ("seed", Continuation((5,), 9, sampling=Sampling(temperature=1.0, seed=1))),
        ("top_k", Continuation((5,), 9, sampling=Sampling(temperature=1.0, top_k=4))),
        ("min_tokens", Continuation((5,), 9, min_tokens=2)),
    ],
)
def test_what_a_server_may_drop_is_refused_before_decoding_unless_assumed(what, wanted, tokenizer, folder):
    options = f"tokenizer={folder}&context=400"
    flags = {**PLAIN, "logit_bias": False}
    wanted = replace(wanted, stops=(Stop("<|end|>", (tokenizer.eos_token_id,)),))
    with served(tokenizer, options=options, **flags) as (server, engine):
        with pytest.raises(Unsupported, match=f"assume={what}"):
            all_of(engine, wanted)
        assert not server.bodies
    with served(tokenizer, words(tokenizer), f"{options}&assume={what}", **flags) as (server, engine):
        all_of(engine, wanted)
        assert what in server.bodies[0]


def test_a_server_that_ends_every_turn_must_be_told_that_this_is_a_stop(tokenizer, folder):
    with served(tokenizer, options=f"tokenizer={folder}&context=400", **PLAIN) as (server, engine):
        with pytest.raises(Unsupported, match="ignore_eos"):
            all_of(engine, Continuation((5,), 9, (stop_of(engine, "</think>"),)))
        assert not server.bodies


def test_text_is_used_and_marked_inexact_where_a_server_knows_no_ids(tokenizer, folder):
    logits = words(tokenizer, 9.0)
    with served(tokenizer, logits, f"tokenizer={folder}&context=400", **PLAIN) as (server, engine):
        close, end = stop_of(engine, "</think>"), stop_of(engine, "<|end|>")
        prefix = engine.encode("<|user|> 3 + 4<|assistant|><think>")
        ids, finish, stop, exact = all_of(engine, Continuation(prefix, 60, (close, end)))
        assert (finish, exact) == ("stop", False)
        assert stop in (close, end)
        assert ids == greedy(logits, prefix, 60, close.ids + end.ids, len(tokenizer))
        assert isinstance(server.bodies[-1]["prompt"], str)
        generation = asyncio.run(
            drive(
                Forcing(
                    encode_prompt(
                        engine,
                        FORMATS["petri"],
                        BudgetPolicy(max_thinking=30, waits=1),
                        "<|user|> 3 + 4<|assistant|>",
                    )
                ),
                engine,
            )
        )
        assert generation.error is None and not generation.exact and generation.waits == 1


def test_a_delimiter_that_a_server_hides_is_refused(tokenizer, folder):
    flags = {**PLAIN, "shows_special": False}
    with served(tokenizer, options=f"tokenizer={folder}&context=400", **flags) as (_, engine):
        wanted = Continuation((5,), 20, (stop_of(engine, "</think>"), stop_of(engine, "<|end|>")))
        with pytest.raises(Unsupported, match="does not show the token '</think>'"):
            all_of(engine, wanted)
        assert all_of(engine, Continuation((5,), 20, wanted.stops[1:]))[1] in ("stop", "length")


def test_a_server_without_completions_is_refused(tokenizer, folder):
    with (
        pytest.raises(Unsupported, match="no completions endpoint"),
        served(tokenizer, options=f"tokenizer={folder}", completions=False),
    ):
        pass


def test_a_server_that_has_no_model_yet_is_one_clear_line(tokenizer, folder):
    with (
        pytest.raises(BadConfig, match="serves no model"),
        served(tokenizer, options=f"tokenizer={folder}", models=()),
    ):
        pass


def test_a_server_with_several_models_wants_a_name(tokenizer, folder):
    with (
        pytest.raises(BadConfig, match="2 models: a, b.*model="),
        served(tokenizer, options=f"tokenizer={folder}", models=("a", "b")),
    ):
        pass
    with (
        pytest.raises(BadConfig, match="does not serve 'c'.*a, b"),
        served(tokenizer, options=f"tokenizer={folder}&model=c", models=("a", "b")),
    ):
        pass
    with served(tokenizer, options=f"tokenizer={folder}&model=b", models=("a", "b")) as (_, engine):
        assert engine.name.endswith("?model=b")


def test_a_tokenizer_of_another_model_is_refused(tokenizer, tmp_path):
    other = build_tokenizer()
    other.add_tokens(["Wait"])
    other.save_pretrained(tmp_path)
    with (
        pytest.raises(BadConfig, match="not that of tiny"),
        served(tokenizer, options=f"tokenizer={tmp_path}"),
    ):
        pass


def test_the_servers_own_tokenizer_is_used_where_there_is_none_here(tokenizer, folder):
    policy, question = (
        BudgetPolicy(max_thinking=30, waits=2, max_answer=5),
        [{"role": "user", "content": "3 + 4"}],
    )
    generations = []
    for options in (f"tokenizer={folder}", ""):
        with served(tokenizer, options=options) as (_, engine):
            prompt = encode_prompt(engine, FORMATS["petri"], policy, engine.render(question))
            generations.append(asyncio.run(drive(Forcing(prompt), engine)))
            assert engine.eos_texts == ("<|end|>",)
            if not options:
                with pytest.raises(Unsupported, match="tokenizer="):
                    all_of(engine, Continuation((5,), 9, (stop_of(engine, " 1 2"),)))
    assert generations[0].segments == generations[1].segments and generations[1].exact


def test_the_folder_that_the_server_names_is_used_where_it_is_here(tokenizer, folder):
    with served(tokenizer, root=folder) as (_, engine):
        assert str(engine.folder) == folder and engine.template


def test_a_plain_server_needs_a_tokenizer_and_a_context(tokenizer, folder):
    with pytest.raises(BadConfig, match="tokenizer="), served(tokenizer, options="context=400", **PLAIN):
        pass
    with (
        pytest.raises(BadConfig, match="context="),
        served(tokenizer, options=f"tokenizer={folder}", **PLAIN),
    ):
        pass


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("openai:127.0.0.1:8000", "not the address"),
        ("openai:", "not the address"),
        ("openai:http://me:word@host/v1", "password"),
        ("openai:http://host/v1?modle=x", "Did you mean 'model'"),
        ("openai:http://host/v1?retries=many", "not a whole number"),
        ("openai:http://host/v1?connections=0", "connections >= 1"),
        ("openai:http://host/v1?context=0", "context >= 1"),
        ("openai:http://host/v1?timeout=nan", "timeout > 0"),
        ("openai:http://host:port/v1", "not the address"),
        ("openai:http://host:99999/v1", "not the address"),
        ("openai:http://[::1/v1", "not the address"),
        ("openai:http://\u2028/v1", "not the address"),
        ("openai:http://host/v1?timeout=-1", "timeout > 0"),
    ],
)
def test_a_bad_address_is_explained(address, expected):
    with pytest.raises(BadConfig, match=expected):
        load_engine(address)


def test_an_address_loses_its_last_slash():
    assert server_url("https://h:1/v1/") == "https://h:1/v1"


def test_one_engine_serves_several_event_loops(tokenizer, folder):
    with served(tokenizer, options=f"tokenizer={folder}") as (_, engine):
        assert all_of(engine, Continuation((5,), 4)) == all_of(engine, Continuation((5,), 4))


@pytest.mark.parametrize(
    "wanted",
    [
        Continuation((), 3),
        Continuation((5,), 3, min_tokens=4),
        Continuation((5,), 400),
        Continuation((-1,), 3),
    ],
)
def test_a_request_that_nobody_could_serve_never_reaches_the_server(wanted, tokenizer, folder):
    with served(tokenizer, options=f"tokenizer={folder}") as (server, engine):
        with pytest.raises(S1Error):
            all_of(engine, wanted)
        assert not server.bodies


STOPS = tuple(Stop(text, (1,)) for text in ("ab", "abc", "ca", "bb b"))


@settings(max_examples=500, derandomize=True, deadline=None, database=None)
@given(st.text("abc ", max_size=30), st.lists(st.integers(1, 5), max_size=30))
def test_text_in_any_pieces_stops_at_the_same_place(text, sizes):
    found = [(text.find(s.text), s) for s in STOPS if s.text in text]
    expected = text[: min(at for at, _ in found)] if found else text
    stops, out, stop, at = TextStops(STOPS), "", None, 0
    for size in [*sizes, len(text)]:
        more, stop = stops.feed(text[at : at + size])
        out, at = out + more, at + size
        if stop:
            break
    out += "" if stop else stops.flush()
    assert (stop is not None) == bool(found)
    if not found:
        assert out == text
    else:
        assert out == expected or (stop is not None and text.startswith(out + stop.text))


@pytest.mark.parametrize("kind", ["ids", "the server's tokenizer", "text"])
def test_the_doctor_proves_forcing_through_a_server(kind, tokenizer, folder):
    flags = {**PLAIN} if kind == "text" else {}
    options = {
        "ids": f"tokenizer={folder}",
        "the server's tokenizer": "",
        "text": f"tokenizer={folder}&context=400",
    }
    with served(tokenizer, words(tokenizer, 9.0), options[kind], **flags) as (_, engine):
        report = asyncio.run(diagnose(engine, "petri"))
    assert report.safe, [c for c in report.checks if c.level == "problem"]
    levels = {check.name: check.level for check in report.checks}
    assert {levels[name] for name in ("maximum", "wait", "minimum", "end in thinking")} == {"ok"}
    assert levels["pad token"] == ("note" if kind == "the server's tokenizer" else "ok")
    assert {probe.generation.exact for probe in report.probes} == {kind != "text"}
