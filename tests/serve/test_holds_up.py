"""Under load and attack: queue, time limits, clients that leave, engines that die, and who is let in."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import suppress

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import ASK, PacedModel, until

from s1.errors import BadConfig, EngineFailure
from s1.serve import listen
from s1.serve.fair_slots import FairSlots
from s1.serve.listen import bind
from s1.types import Chunk, Continuation

LONG = {"max_thinking": 150, "min_thinking": 150}


def slow() -> PacedModel:
    return PacedModel(pace=0.02, ends_in=10_000)


def in_background(served, **body):
    found: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: found.append(served.ask(**body)), daemon=True)
    thread.start()
    return thread, found


def test_beyond_the_queue_a_request_is_told_when_to_come_back(serve) -> None:
    served = serve(slow(), concurrent=1, waiting=1)
    first, got = in_background(served, **LONG)
    until(lambda: served.served.engine.running == 1)
    second, _ = in_background(served, max_thinking=1)
    until(lambda: "s1_waiting 1.0" in httpx.get(f"{served.url}/metrics").text)
    refused = served.ask(max_thinking=1)
    assert refused.status_code == 429 and 1 <= int(refused.headers["retry-after"]) <= 60
    first.join(20), second.join(20)
    assert got[0].status_code == 200


def test_waiting_requests_are_served_in_order(serve) -> None:
    served = serve(PacedModel(pace=0.01), concurrent=1)
    order: list[int] = []
    threads = []
    for n in range(4):
        threads.append(threading.Thread(target=lambda n=n: (served.ask(max_thinking=5), order.append(n))))
        threads[-1].start()
        time.sleep(0.05)
    for thread in threads:
        thread.join(20)
    assert order == [0, 1, 2, 3]


class Gated(PacedModel):
    """Begins when the gate is open."""

    gate: threading.Event

    async def stream(self, request: Continuation) -> AsyncGenerator[Chunk, None]:
        while not self.gate.is_set():
            await asyncio.sleep(0.01)
        async for chunk in super().stream(request):
            yield chunk


@pytest.mark.parametrize("apart", ["address", "user"])
def test_a_client_with_many_requests_does_not_starve_another(serve, apart) -> None:
    model = Gated(pace=0.002, ends_in=10_000)
    model.gate = threading.Event()
    served = serve(model, concurrent=2, waiting=140)
    ended: list[str] = []
    threads = []

    def ask(who: str) -> None:
        address = httpx.HTTPTransport(
            local_address="127.0.0.2" if apart == "address" and who == "few" else None
        )
        user = {"user": who} if apart == "user" else {}
        with httpx.Client(transport=address, timeout=60) as client:
            got = client.post(f"{served.url}/v1/chat/completions", json=ASK | {"max_thinking": 9} | user)
        ended.append(f"{who} {got.status_code}")

    for who, count, waiting in (("many", 64, 62), ("few", 4, 66)):
        for _ in range(count):
            threads.append(threading.Thread(target=ask, args=(who,), daemon=True))
            threads[-1].start()
        until(lambda n=waiting: f"s1_waiting {n}.0" in httpx.get(f"{served.url}/metrics").text, 60)
    model.gate.set()
    for thread in threads:
        thread.join(60)
    assert sorted(ended) == ["few 200"] * 4 + ["many 200"] * 64
    after = ended[: len(ended) - 1 - ended[::-1].index("few 200")].count("many 200")
    assert after < 40, ended  # in order of arrival it would be 64


def test_a_client_that_fills_its_share_of_the_queue_leaves_room_for_another(serve) -> None:
    served = serve(slow(), concurrent=1, waiting=6)
    holders = [in_background(served, user="many", max_thinking=40) for _ in range(4)]
    until(lambda: "s1_waiting 3.0" in httpx.get(f"{served.url}/metrics").text)
    assert served.ask(user="many", max_thinking=1).status_code == 429
    other, got = in_background(served, user="few", max_thinking=1)
    for thread, _ in (*holders, (other, got)):
        thread.join(60)
    assert got[0].status_code == 200


@settings(max_examples=50)
@given(
    slots=st.integers(1, 4),
    waiting=st.integers(0, 12),
    steps=st.lists(st.tuples(st.sampled_from("abcx"), st.integers(1, 5)), max_size=60),
)
def test_slots_are_never_idle_nor_exceeded_while_clients_come_and_go(slots, waiting, steps) -> None:
    async def go() -> None:
        queue = FairSlots(slots, waiting)
        held: list[tuple[str, asyncio.Future[None]]] = []
        for client, count in steps:
            if client != "x":
                held += [(client, ticket) for ticket in queue.ask(client, count) or ()]
            elif held:  # somebody leaves, in every third case while it still waits
                owner, ticket = held.pop(count % len(held))
                if not ticket.done() and count % 3 == 0:
                    ticket.cancel()
                queue.leave(owner, ticket)
            running = sum(ticket.done() for _, ticket in held)
            assert running == min(slots, len(held))
            assert queue.waiting == len(held) - running <= waiting
        for owner, ticket in held:
            queue.leave(owner, ticket)
        assert queue.waiting == 0 and queue.ask("a", slots) is not None

    asyncio.run(go())


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("queued", [True, False])
def test_a_client_that_leaves_frees_its_slot_at_once(serve, stream, queued) -> None:
    served = serve(slow(), concurrent=1)
    holder, _ = in_background(served, **LONG) if queued else (None, None)
    if queued:
        until(lambda: served.served.engine.running == 1)
    asked = {"json": ASK | LONG | {"stream": stream}, "timeout": 0.3}
    if stream and not queued:
        with httpx.stream("POST", f"{served.url}/v1/chat/completions", **asked) as got:
            next(got.iter_lines())
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{served.url}/v1/chat/completions", **asked)
    if holder:
        assert served.served.engine.running == 1
        holder.join(20)
    until(lambda: served.served.engine.running == 0, 2)
    assert served.ask(max_thinking=1).status_code == 200


def test_a_request_that_takes_too_long_is_ended(serve) -> None:
    served = serve(slow(), request_seconds=0.3)
    assert served.ask(**LONG).status_code == 504
    with httpx.stream("POST", f"{served.url}/v1/chat/completions", json=ASK | LONG | {"stream": True}) as got:
        last = [line for line in got.iter_lines() if line][-2:]
    assert "took more" in json.loads(last[0].removeprefix("data: "))["error"]["message"]
    assert last[1] == "data: [DONE]" and served.served.engine.running == 0


class Failing(PacedModel):
    """Fails on requests whose prompt says so, in the middle; `stuck` ones never give a token."""

    async def stream(self, request: Continuation) -> AsyncGenerator[Chunk, None]:
        prompt = self.decode(request.prefix)
        async for chunk in super().stream(request):
            if "fail" in prompt:
                raise EngineFailure("http://upstream/v1 broke off.")
            if "mistake" in prompt:
                raise ZeroDivisionError("secret prompt")
            if "stuck" in prompt:
                await asyncio.sleep(60)
            yield chunk


@pytest.mark.parametrize(("word", "status"), [("fail", 502), ("mistake", 500), ("stuck", 504)])
def test_an_engine_that_dies_or_stalls_costs_that_request_alone(serve, word, status, caplog) -> None:
    served = serve(Failing(pace=0.01, ends_in=10_000), request_seconds=1.0)
    other, got = in_background(served, max_thinking=60)
    refused = served.ask(messages=[{"role": "user", "content": word}])
    assert refused.status_code == status
    assert "Traceback" not in refused.text and "secret" not in refused.text + caplog.text
    stream = served.ask(messages=[{"role": "user", "content": word}], stream=True)
    assert stream.status_code in (status, 200) and "secret" not in stream.text
    other.join(20)
    assert got[0].status_code == 200


def test_a_body_that_is_too_large_or_too_slow_is_refused(serve) -> None:
    served = serve(body_bytes=2_000, body_seconds=0.3)
    assert served.raw(b" " * 3_000).status_code == 413
    assert httpx.post(f"{served.url}/v1/chat/completions", content=iter([b" " * 3_000])).status_code == 413
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
            "Content-Length: 100\r\n\r\n{".encode()
        )
        assert b" 408 " in connection.recv(1000)


def test_connections_that_send_nothing_are_closed_and_hinder_nobody(serve, monkeypatch) -> None:
    monkeypatch.setattr(listen, "HEADER_SECONDS", 0.5)
    served = serve()
    host, port = served.url.removeprefix("http://").split(":")
    idle = [socket.create_connection((host, int(port))) for _ in range(150)]
    for connection in idle[::2]:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost:")
    assert served.ask(max_thinking=1).status_code == 200
    for connection in idle:
        connection.settimeout(10)
        assert connection.recv(1) == b""
        connection.close()


def test_beyond_the_bound_the_connection_that_is_silent_for_longest_is_closed(serve) -> None:
    served = serve(slow(), connections=4)
    host, port = served.url.removeprefix("http://").split(":")
    other, got = in_background(served, max_thinking=40)
    until(lambda: served.served.engine.running == 1)
    silent = []
    for _ in range(6):
        silent.append(socket.create_connection((host, int(port))))
        silent[-1].sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost:")
        time.sleep(0.05)
    assert served.ask(max_thinking=1).status_code == 200
    for connection in silent[:3]:
        connection.settimeout(5)
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    other.join(20)
    assert got[0].status_code == 200  # one that works is never closed
    for connection in silent:
        connection.close()


SLOW_CONNECTIONS = 3000


@pytest.mark.slow
def test_thousands_of_slow_connections_hinder_nobody(serve, monkeypatch) -> None:
    resource = pytest.importorskip("resource")
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * SLOW_CONNECTIONS + 1000  # both ends are in this process
    if most != resource.RLIM_INFINITY and most < needed:
        pytest.skip(f"this process may open only {most} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(now, needed), most))
    monkeypatch.setattr(listen, "HEADER_SECONDS", 3.0)
    served = serve(PacedModel(ends_in=20), body_seconds=3.0, connections=2000)
    host, port = served.url.removeprefix("http://").split(":")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n".encode()
    sent = (b"", head, head + b"Content-Length: 500\r\n\r\n{")
    slow_ones, answered = [], 0
    try:
        for n in range(SLOW_CONNECTIONS):
            slow_ones.append(socket.create_connection((host, int(port)), timeout=10))
            slow_ones[-1].sendall(sent[n % 3])
            if n % 100 == 0:
                answered += served.ask(max_thinking=1).status_code == 200
        assert answered == SLOW_CONNECTIONS // 100
        for connection in slow_ones:  # each is closed, after an answer or without one
            with suppress(ConnectionResetError):
                while connection.recv(1000):
                    continue
    finally:
        for connection in slow_ones:
            connection.close()
    assert served.ask(max_thinking=1).status_code == 200


def test_a_shutdown_lets_running_requests_finish(serve) -> None:
    served = serve(PacedModel(pace=0.02, ends_in=10_000), shutdown_seconds=20)
    thread, got = in_background(served, max_thinking=60)
    until(lambda: served.served.engine.running == 1)
    served.stop()
    thread.join(10)
    assert got[0].status_code == 200
    with pytest.raises(httpx.ConnectError):
        served.ask()


# --- who is let in ------------------------------------------------------------------------------------------


def test_without_the_key_nothing_but_the_page_and_health_answers(serve) -> None:
    served = serve(key="secret-ключ")
    right = {"Authorization": "Bearer secret-ключ".encode()}
    for path, without in (
        ("/", 200),
        ("/health", 200),
        ("/v1/models", 401),
        ("/metrics", 401),
        ("/nothing", 401),
    ):
        assert httpx.get(served.url + path).status_code == without, path
    for wrong in ("Bearer secret", "Basic secret", "Bearer", "Bearer é"):
        assert served.ask(headers={"Authorization": wrong.encode()}).status_code == 401
    assert served.ask(headers=right).status_code == 200


def test_another_address_than_this_machine_needs_a_key() -> None:
    with pytest.raises(BadConfig, match="key"):
        bind("0.0.0.0", 0, "")
    bind("0.0.0.0", 0, "a key").close()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:80"}, 403),
        ({"Content-Type": "text/plain"}, 400),
        ({}, 200),
    ],
)
def test_a_page_of_another_origin_can_neither_read_nor_post(serve, headers, status) -> None:
    served = serve()
    given = {"Content-Type": "application/json"} | headers
    got = httpx.post(f"{served.url}/v1/chat/completions", content=json.dumps(ASK), headers=given)
    assert got.status_code == status
    assert "access-control-allow-origin" not in got.headers
    assert served.ask(headers={"Origin": served.url}).status_code == 200


def test_no_path_of_a_request_is_opened(serve) -> None:
    served = serve()
    for path in (
        "/assets/../app.py",
        "/assets/%2e%2e/app.py",
        "/assets/..%2fapp.py",
        "//etc/passwd",
        "/assets/",
    ):
        assert httpx.get(served.url + path).status_code == 404


def test_the_log_names_routes_and_times_and_no_prompt_and_no_key(serve, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    served = serve(key="very-secret", log_requests=True)
    served.ask(
        headers={"Authorization": "Bearer very-secret"}, messages=[{"role": "user", "content": "my prompt"}]
    )
    until(lambda: "POST /v1/chat/completions 200" in caplog.text)
    assert "very-secret" not in caplog.text and "my prompt" not in caplog.text
