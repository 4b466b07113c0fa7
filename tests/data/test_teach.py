from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s1.cli import main
from s1.clients.call_cache import CallCache, ModelCall, ModelReply
from s1.clients.chat import ApiSettings, SpendingCap
from s1.clients.chat_replies import message_texts, read_reply, split_thinking
from s1.clients.http import Event, RequestFailure
from s1.clients.map_calls import Refused
from s1.data.pool import Pool, pool_of_rows
from s1.data.teach import teach
from s1.errors import BadConfig, BadInput, S1Error


def questions(count: int) -> Pool:
    rows = ({"id": f"q{i:03d}", "question": f"what is {i} and {i}?", "source": "s"} for i in range(count))
    return pool_of_rows(enumerate(rows, 1), "rows")


def api(chat: Any, **changes: Any) -> ApiSettings:
    return ApiSettings(**{"url": chat.url, "model": "m", "max_tokens": 50, "concurrency": 16, **changes})


@pytest.mark.parametrize("stream", [True, False])
def test_every_row_arrives_though_three_in_ten_calls_fail(
    chat: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setattr("s1.data.teach.BATCH", 7)
    chat.share = 0.3
    with CallCache(tmp_path / "journal.jsonl") as journal:
        taught = teach(questions(80), api(chat, stream=stream), journal)
    assert taught.pool.rows.height == 80 and taught.pool.rejects.height == 0
    assert set(chat.faulty) == {"", "429", "500", "nothing", "garbage", "half"}
    for row in taught.pool.rows.iter_rows(named=True):
        assert row["thinking"] == f"thinking about {row['question']}"
        assert row["attempt"] == f"answer to {row['question']}" and row["trace_by"] == "m"
    assert set(chat.answered.values()) == {1}
    assert taught.tokens_out == sum(len(f"thinking about {q} answer to {q}".split()) for q in chat.answered)


def test_nothing_is_asked_twice(chat: Any, tmp_path: Path) -> None:
    for count in (10, 20):
        with CallCache(tmp_path / "journal.jsonl") as journal:
            rows = teach(questions(count), api(chat), journal).pool.rows
        assert rows.height == count
    assert set(chat.answered.values()) == {1} and len(chat.bodies) == 20
    moved = api(chat, concurrency=3, stream=False, tries=2)
    with CallCache(tmp_path / "journal.jsonl") as journal:
        assert teach(questions(20), moved, journal).pool.rows.equals(rows)
        assert len(chat.bodies) == 20
        teach(questions(2), api(chat, max_tokens=51), journal)
    assert len(chat.bodies) == 22


def test_several_samples_are_several_calls_and_equal_texts_share_one(chat: Any, tmp_path: Path) -> None:
    rows = [{"id": i, "question": "same?", "source": "s"} for i in ("a", "b")]
    with CallCache(tmp_path / "journal.jsonl") as journal:
        pool = teach(pool_of_rows(enumerate(rows, 1), "r"), api(chat), journal, samples=3).pool
    assert pool.rows["id"].to_list() == ["a", "a-1", "a-2", "b", "b-1", "b-2"]
    assert len(chat.bodies) == 3
    with pytest.raises(BadConfig, match="at temperature 0"), CallCache(tmp_path / "j2") as journal:
        teach(questions(1), api(chat, temperature=0.0), journal, samples=2)


def test_the_spending_cap_holds_at_the_server(chat: Any, tmp_path: Path) -> None:
    chat.share, chat.seconds = 0.3, 0.002
    prices = {"usd_per_million_in": 1000.0, "usd_per_million_out": 4000.0}
    capped = api(chat, max_usd=2.5, stream=True, **prices)
    with CallCache(tmp_path / "journal.jsonl") as journal:
        taught = teach(questions(80), capped, journal)
        booked = journal.spent_usd
    billed = (chat.tokens_in * 1000 + chat.tokens_out * 4000) / 1e6
    assert 0 < taught.pool.rows.height < 80
    assert set(taught.pool.rejects["reason"]) == {"not asked: the spending cap is reached"}
    assert billed <= booked <= 2.5
    # A second run goes on with what the first left.
    with CallCache(tmp_path / "journal.jsonl") as journal:
        assert journal.spent_usd == pytest.approx(booked)
        more = api(chat, max_usd=100.0, **prices)
        assert teach(questions(80), more, journal).pool.rows.height == 80
    assert set(chat.answered.values()) == {1}


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 1)), max_size=12), st.floats(0, 6))
def test_a_spending_cap_is_never_exceeded(calls: list[tuple[float, float]], cap: float) -> None:
    async def run() -> float:
        spending, spent, reserved = SpendingCap(cap), 0.0, 0.0

        async def call(bound: float, share: float) -> None:
            nonlocal spent, reserved
            try:
                await spending.reserve(bound)
            except Refused:
                return
            reserved += bound
            assert spent + reserved <= cap + 1e-9
            await asyncio.sleep(0)
            reserved -= bound
            spent += bound * share
            await spending.settle(bound, bound * share)

        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            for bound, share in calls:
                tasks.create_task(call(bound, share))
        return spent

    assert asyncio.run(run()) <= cap + 1e-9


def test_retry_after_stops_every_request(chat: Any, tmp_path: Path) -> None:
    """Both workers wait for their refusals at the same time."""
    chat.share, chat.faults, chat.retry_after, chat.seconds = 1.0, ("429",), "0.5", 0.3
    chat.most_faults = 2
    with CallCache(tmp_path / "journal.jsonl") as journal:
        settings = api(chat, concurrency=2, tries=1)
        assert teach(questions(6), settings, journal).pool.rows.height == 6
    assert len(chat.times) == 8 and chat.times[2] - chat.times[0] >= 0.75


@pytest.mark.parametrize("seconds", ["0", "0.001"])
def test_a_server_that_only_ever_says_later_is_given_up(
    chat: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: str
) -> None:
    monkeypatch.setattr("s1.clients.chat.MOST_PAUSES", 3)
    chat.share, chat.faults, chat.retry_after = 1.0, ("429",), seconds
    with CallCache(tmp_path / "journal.jsonl") as journal, pytest.raises(S1Error, match="No reply.*HTTP 429"):
        teach(questions(1), api(chat, tries=2), journal)
    assert len(chat.times) == (2 if seconds == "0" else 5)


@pytest.mark.parametrize("fault", ["huge event", "huge reply", "huge refusal"])
def test_what_is_too_large_is_refused_before_it_is_read(
    chat: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr("s1.clients.http.LARGEST_EVENT_BYTES", 1_000_000, raising=False)
    chat.share, chat.faults = 1.0, (fault,)
    with CallCache(tmp_path / "j") as cache, pytest.raises(S1Error, match="more than 1000000 bytes"):
        teach(questions(1), api(chat, tries=1), cache)
    assert chat.huge_mb < 40  # the rest is what the sockets hold


def test_a_refusal_that_no_other_try_can_change_ends_the_run(
    chat: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-key")
    chat.share, chat.faults = 1.0, ("401",)
    with CallCache(tmp_path / "journal.jsonl") as journal:
        with pytest.raises(S1Error, match="HTTP 401") as caught:
            teach(questions(5), api(chat), journal)
        chat.faults = ("400",)
        rejects = teach(questions(2), api(chat), journal).pool.rejects
    assert chat.keys == {"Bearer sk-secret-key"}
    assert "secret" not in str(caught.value) and rejects["reason"].str.starts_with("HTTP 400").all()
    assert not any("secret" in reason for reason in rejects["reason"])
    assert "secret" not in (tmp_path / "journal.jsonl").read_text()


def test_a_server_that_is_not_there_is_named_after_a_few_tries(chat: Any, tmp_path: Path) -> None:
    chat.close()
    with CallCache(tmp_path / "journal.jsonl") as journal, pytest.raises(S1Error, match="No reply from http"):
        teach(questions(3), api(chat, tries=2), journal)


def test_a_row_that_never_gets_a_reply_is_rejected_and_the_others_stay(chat: Any, tmp_path: Path) -> None:
    def reply(body: dict[str, Any]) -> dict[str, Any]:
        return {"content": "" if "what is 3 " in body["messages"][-1]["content"] else "fine"}

    chat.reply = reply
    with CallCache(tmp_path / "journal.jsonl") as journal:
        pool = teach(questions(6), api(chat, tries=3, concurrency=1), journal).pool
    assert pool.rows.height == 5
    number, reason = pool.rejects.select("id", "reason").row(0)
    assert number == "q003" and "3 tries" in reason and "empty" in reason


S1 = [sys.executable, "-m", "s1", "curate", "teach"]


def test_after_kill_9_the_same_command_goes_on_and_asks_only_what_was_in_flight(
    chat: Any, tmp_path: Path
) -> None:
    chat.share, chat.seconds, chat.faults = 0.1, 0.02, ("429", "nothing")
    (tmp_path / "pool.jsonl").write_text(
        "".join(json.dumps({"id": f"q{i}", "question": f"question {i}"}) + "\n" for i in range(60))
    )
    out = tmp_path / "out"
    command = [*S1, str(tmp_path / "pool.jsonl"), "--out", str(out), "--model", "m", "--url", chat.url]
    command += ["--set", "concurrency=4", "--set", "max_tokens=40"]
    plain = chat.reply

    def answered() -> int:
        return sum(chat.answered.values())

    for stop_at in (10, 30):
        killed = threading.Event()

        def held(body: dict[str, Any], stop_at: int = stop_at, killed: threading.Event = killed) -> Any:
            if answered() >= stop_at:  # so that the command cannot come to its end before it is killed
                killed.wait(60)
            return plain(body)

        chat.reply = held
        child = subprocess.Popen(
            command, stderr=subprocess.DEVNULL, env={**os.environ, "OPENAI_API_KEY": "k-1"}
        )
        while answered() < stop_at:
            assert child.poll() is None
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        assert not (out / "stage.json").exists()
        killed.set()
    chat.reply = plain
    # As a torn write leaves it.
    with (out / "journal.jsonl").open("ab") as file:
        file.write(b'{"key": "half of a li')
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OPENAI_API_KEY": "k-1"}
    )
    assert done.returncode == 0, done.stderr
    rows = pl.read_parquet(out / "pool.parquet")
    assert sorted(rows["question"]) == sorted(f"question {i}" for i in range(60))
    assert (rows["attempt"] == "answer to " + rows["question"]).all()
    again = answered() - 60
    assert 0 <= again <= 2 * 4 and max(chat.answered.values()) <= 3
    asked = len(chat.bodies)
    first = {f.name: f.read_bytes() for f in out.iterdir()}
    assert main(command[3:]) == 0
    assert len(chat.bodies) == asked and {f.name: f.read_bytes() for f in out.iterdir()} == first
    assert all(b"k-1" not in content for content in first.values())


@pytest.mark.slow
def test_a_spending_cap_holds_at_the_server_across_kills(chat: Any, tmp_path: Path) -> None:
    cap, price = 1.0, 1000.0  # 25 calls of 40 tokens
    (tmp_path / "pool.jsonl").write_text(
        "".join(json.dumps({"id": f"q{i}", "question": f"question {i}"}) + "\n" for i in range(80))
    )
    out, waiting = tmp_path / "out", threading.Semaphore(0)
    command = [*S1, str(tmp_path / "pool.jsonl"), "--out", str(out), "--model", "m", "--url", chat.url]
    command += ["--max-usd", str(cap), "--set", f"usd_per_million_out={price}", "--set", "max_tokens=40"]
    command += ["--set", "concurrency=4"]
    kills = 0
    for _ in range(5):
        killed, answers = threading.Event(), threading.Semaphore(2)

        def held(body: dict[str, Any], killed: threading.Event = killed, answers: Any = answers) -> Any:
            if not answers.acquire(blocking=False):
                waiting.release()
                killed.wait(60)
            return {"content": "word " * 39 + "end"}

        chat.reply = held
        child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        reached = 0
        while reached < 4 and child.poll() is None:
            reached += waiting.acquire(timeout=0.05)
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
            kills += 1
        child.wait()
        killed.set()
    chat.reply = lambda body: {"content": "word " * 39 + "end"}
    done = subprocess.run(command, capture_output=True, text=True)
    with CallCache(out / "journal.jsonl") as journal:
        billed, booked, replies = chat.tokens_out * price / 1e6, journal.spent_usd, len(journal)
    assert kills >= 3 and replies >= 2 * kills, done.stderr
    assert replies * 40 * price / 1e6 < billed <= booked <= cap


def test_a_reservation_counts_until_it_is_settled(tmp_path: Path) -> None:
    path, calls = tmp_path / "journal.jsonl", [ModelCall("m", (("user", text),)) for text in "abc"]
    with CallCache(path) as journal:
        for call in calls:
            journal.reserve(call, 1.0)
        journal.append(calls[0], ModelReply("t", "a", "stop", 1, 2, 0.25))
        journal.book(calls[1], "nothing came", 0.0)
        assert (journal.spent_usd, journal.booked_usd) == (1.25, 0.25)
    for _ in range(2):  # the last is asked again; the reservation that was left open stays counted
        with CallCache(path) as journal:
            assert (journal.spent_usd, journal.booked_usd) == (1.25, 1.25)
            assert journal.get(calls[0].key) == ModelReply("t", "a", "stop", 1, 2, 0.25)
            assert len(journal) == 1 and calls[2].key not in journal
    with CallCache(path) as journal:
        journal.reserve(calls[2], 1.0)
        journal.append(calls[2], ModelReply("t", "c", "stop", 1, 2, 0.5))
    with CallCache(path) as journal:
        assert journal.spent_usd == 1.75 and len(journal) == 2


@pytest.mark.parametrize("tokens", [-1_000_000, 51, 0, 10**30, 3.5, "3", True, [], 1e999])
@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens"])
def test_token_counts_that_cannot_be_true_cost_the_worst_case(
    chat: Any, tmp_path: Path, name: str, tokens: Any
) -> None:
    if name == "prompt_tokens" and tokens in (0, 51):
        tokens = 5000
    chat.usage = {name: tokens, "total_tokens": None}
    with CallCache(tmp_path / "journal.jsonl") as cache:
        teach(questions(2), api(chat, usd_per_million_out=1000.0, max_usd=5.0), cache)
        reply = cache.get(api(chat).request("what is 0 and 0?").key)
        assert reply is not None and not reply.exact and reply.usd == 0.05
        assert cache.spent_usd == pytest.approx(2 * 0.05)


def test_a_journal_belongs_to_one_process_and_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    request = ModelCall("m", (("user", "hi"),))
    with CallCache(path) as journal:
        journal.append(request, ModelReply("t", "a", "stop", 1, 2, 0.5))
        journal.book(request, "half a stream", 0.25)
        with pytest.raises(BadInput, match="in use"):
            CallCache(path)
    with CallCache(path) as journal:
        assert journal.get(request.key) == ModelReply("t", "a", "stop", 1, 2, 0.5)
        assert len(journal) == 1 and journal.spent_usd == 0.75 and journal.get("other") is None
    path.write_bytes(path.read_bytes() + b"garbage\n")
    with pytest.raises(BadInput, match=r"journal.jsonl, line 4"):
        CallCache(path)
    (tmp_path / "other.jsonl").write_text('{"question": "q"}\n')
    with pytest.raises(BadInput, match="not a journal"):
        CallCache(tmp_path / "other.jsonl")


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 400))
def test_a_journal_cut_anywhere_keeps_its_whole_lines(cut: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.jsonl"
        requests = [ModelCall("m", (("user", f"q{i}"),)) for i in range(3)]
        with CallCache(path) as journal:
            for request in requests:
                journal.append(request, ModelReply("ü", request.messages[0][1], "stop"))
        whole = path.read_bytes()
        path.write_bytes(whole[:cut])
        kept = max(whole[:cut].count(b"\n") - 1, 0)
        with CallCache(path) as journal:
            assert len(journal) == kept
            for request in requests[kept:]:
                journal.append(request, ModelReply("ü", request.messages[0][1], "stop"))
        assert path.read_bytes() == whole


def test_the_key_tells_content_apart_and_nothing_else() -> None:
    base = ModelCall("m", (("user", "q"),), {"max_tokens": 5, "temperature": 1.0})
    assert base.key == ModelCall("m", (("user", "q"),), {"temperature": 1.0, "max_tokens": 5}).key
    others = [
        ModelCall("n", base.messages, base.settings),
        ModelCall("m", (("user", "r"),), base.settings),
        ModelCall("m", base.messages, {"max_tokens": 6, "temperature": 1.0}),
        ModelCall("m", base.messages, base.settings, 1),
    ]
    assert len({base.key, *(o.key for o in others)}) == 5


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"reasoning_content": "t", "content": "a"}, ("t", "a")),
        ({"reasoning": "t", "content": "a"}, ("t", "a")),
        ({"content": "<think>\nt\n</think>\n\na"}, ("t", "a")),
        ({"content": "t</think>a <think>b</think>"}, ("t", "a <think>b</think>")),
        ({"content": "<thought>t</thought>a"}, ("t", "a")),
        ({"content": "<think>t"}, ("t", "")),
        ({"content": "a, where <think> is a tag"}, ("", "a, where <think> is a tag")),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "t"}]},
                      {"type": "text", "text": "a"}]}, ("t", "a")),
        ({"content": [{"type": "reasoning", "text": "t"}, {"type": "output_text", "text": "a"}]}, ("t", "a")),
        ({"content": None, "reasoning_content": "t"}, ("t", "")),
    ],
)  # fmt: skip
def test_thinking_is_found_in_every_shape(message: dict[str, Any], expected: tuple[str, str]) -> None:
    reply = read([{"choices": [{"message": message, "finish_reason": "stop"}]}])
    assert (reply.thinking, reply.answer) == expected and not reply.exact


@settings(deadline=None, max_examples=60)
@given(st.text(alphabet="ab <>/\n", max_size=20), st.text(alphabet="ab \n", max_size=20), st.integers(1, 9))
def test_a_stream_in_any_pieces_reads_like_the_whole(thinking: str, answer: str, size: int) -> None:
    text = f"<think>{thinking}</think>{answer}!"
    events = [{"choices": [{"delta": {"content": text[i : i + size]}}]} for i in range(0, len(text), size)]
    reply = read([*events, {"choices": [{"delta": {}, "finish_reason": "stop"}]}])
    assert (reply.thinking, reply.answer) == split_thinking(text)


def read(events: list[Any]) -> ModelReply:
    async def source() -> Any:
        for number, event in enumerate(events, 1):
            yield Event(event, 100 * number)

    return asyncio.run(read_reply(source(), (1000, 1000)))


@pytest.mark.parametrize(
    "events",
    [
        [],
        [{"choices": [{"delta": {"content": "a"}}]}],
        [{"error": {"message": "overloaded"}}],
        [17],
        [[]],
        [{}],
        [{"choices": []}],
        [{"choices": [{}]}],
        [{"choices": [{"message": {"content": ""}, "finish_reason": "stop"}]}],
    ],
)
def test_what_is_not_a_whole_reply_is_none_and_its_bytes_are_known(events: list[Any]) -> None:
    with pytest.raises(RequestFailure) as caught:
        read(events)
    assert caught.value.received == 100 * len(events)


def test_a_cut_reply_without_an_answer_is_one_and_says_so() -> None:
    reply = read([{"choices": [{"message": {"reasoning": "hm"}, "finish_reason": "length"}],
                   "usage": {"prompt_tokens": 3, "completion_tokens": 0, "total_tokens": 10}}])  # fmt: skip
    assert (reply.finish, reply.answer, reply.completion_tokens, reply.exact) == ("length", "", 7, True)
    assert message_texts({"content": 5}) == ("", "")


def test_a_server_that_counts_no_tokens_costs_the_bytes_that_came(chat: Any, tmp_path: Path) -> None:
    chat.counts = False
    prices = {"usd_per_million_in": 1000.0, "usd_per_million_out": 4000.0}
    with CallCache(tmp_path / "journal.jsonl") as cache:
        taught = teach(questions(2), api(chat, max_tokens=5000, **prices), cache)
        assert taught.usd == pytest.approx(cache.spent_usd)
    assert taught.tokens_out >= chat.tokens_out and taught.usd > (chat.tokens_out * 4000) / 1e6


def test_the_default_server_is_the_one_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert ApiSettings().url == "http://127.0.0.1:9/v1"
    monkeypatch.delenv("OPENAI_BASE_URL")
    assert "openai.com" in ApiSettings().url


def test_keys_of_calls_stay_the_same_so_that_stored_replies_are_found() -> None:
    plain = ApiSettings(url="http://x", model="m", max_tokens=50).request("what is 2?")
    shaped = ApiSettings(model="m", temperature=0.05, top_p=0.9, system="s", limit_field="n", body={"a": [1]})
    assert plain.key == "3d9db31b6758244511aa4a7f1dbc78bdac3ee0a377e89a6de8e923aed464e95d"
    assert shaped.request("é", 3).key == "143376a969eef2ce19184d7f4384c29eaf7fddfbc5e75c3db9729b5a3df7ee36"
