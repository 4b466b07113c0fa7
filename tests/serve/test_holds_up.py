"""Under load and attack: queue, time limits, clients that leave, engines that die, and who is let in."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import math
import re
import socket
import threading
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


def in_background(served, **body):
    found: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: found.append(served.ask(**body)), daemon=True)
    thread.start()
    return thread, found


def saying(words: str) -> dict[str, object]:
    """A request with these words, in as many tokens as another."""
    return {"messages": [{"role": "user", "content": words}], "max_thinking": 9}


def in_order(model: PacedModel, pattern: str) -> list[str]:
    """What matches in the prompts that the model decoded, as they began."""
    found = (re.search(pattern, prompt) for prompt in model.begun)
    return list(dict.fromkeys(match[0] for match in found if match))


def test_beyond_the_queue_a_request_is_told_when_to_come_back(serve) -> None:
    model = PacedModel(allowed=0)
    served = serve(model, concurrent=1, waiting=1)
    first, got = in_background(served, max_thinking=9)
    until(lambda: model.running == 1)
    second, _ = in_background(served, max_thinking=1)
    until(lambda: served.waiting() == 1)
    refused = served.ask(max_thinking=1)
    assert refused.status_code == 429 and 1 <= int(refused.headers["retry-after"]) <= 60
    model.allowed = math.inf
    first.join(60), second.join(60)
    assert got[0].status_code == 200


def test_waiting_requests_are_served_in_order(serve) -> None:
    model = PacedModel(allowed=0)
    served = serve(model, concurrent=1)
    threads = []
    for n in range(4):
        threads.append(in_background(served, **saying(f"number {n}"))[0])
        until(lambda n=n: model.running == 1 and served.waiting() == n)
    model.allowed = math.inf
    for thread in threads:
        thread.join(60)
    assert in_order(model, r"number \d") == [f"number {n}" for n in range(4)]


@pytest.mark.parametrize("apart", ["address", "user"])
def test_a_client_with_many_requests_does_not_starve_another(serve, apart) -> None:
    model = PacedModel(allowed=0)
    served = serve(model, concurrent=2, waiting=140)
    ended: list[int] = []
    threads = []

    def ask(who: str, number: int) -> None:
        address = httpx.HTTPTransport(
            local_address="127.0.0.2" if apart == "address" and who == "few" else None
        )
        user = {"user": who} if apart == "user" else {}
        body = ASK | saying(f"{who} {number}") | user
        with httpx.Client(transport=address, timeout=120) as client:
            ended.append(client.post(f"{served.url}/v1/chat/completions", json=body).status_code)

    for who, count, waiting in (("many", 64, 62), ("few", 4, 66)):
        for number in range(count):
            threads.append(threading.Thread(target=ask, args=(who, number), daemon=True))
            threads[-1].start()
        until(lambda n=waiting: served.waiting() == n)
    model.allowed = math.inf
    for thread in threads:
        thread.join(60)
    assert ended == [200] * 68
    order = [words.split()[0] for words in in_order(model, r"(many|few) \d+")]
    assert order.count("few") == 4 and order.count("many") == 64
    after = order[: len(order) - 1 - order[::-1].index("few")].count("many")
    assert after < 40, order  # in order of arrival it would be 64


def test_a_client_that_fills_its_share_of_the_queue_leaves_room_for_another(serve) -> None:
    model = PacedModel(allowed=0)
    served = serve(model, concurrent=1, waiting=6)
    holders = [in_background(served, user="many", max_thinking=9) for _ in range(4)]
    until(lambda: served.waiting() == 3)
    assert served.ask(user="many", max_thinking=1).status_code == 429
    other, got = in_background(served, user="few", max_thinking=1)
    until(lambda: served.waiting() == 4)
    model.allowed = math.inf
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
    """The model gives a few pieces and no more, so that nothing ends by itself."""
    model = PacedModel(ends_in=10_000, allowed=5)
    served = serve(model, concurrent=1)
    holder = in_background(served, **saying("stay"))[0] if queued else None
    if queued:
        until(lambda: model.running == 1)
    client = http.client.HTTPConnection(served.url.removeprefix("http://"), timeout=60)
    body = json.dumps(ASK | {"stream": stream})
    client.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    until(lambda: served.waiting() == 1 if queued else model.running == 1)
    if stream and not queued:
        with client.getresponse() as reply:
            assert reply.readline()
    client.close()
    until(lambda: served.waiting() == 0 and model.running == queued)
    model.allowed = math.inf
    if holder:
        holder.join(60)
    until(lambda: model.running == 0)
    assert served.ask(max_thinking=1).status_code == 200


def test_a_request_that_takes_too_long_is_ended_and_costs_no_other(serve) -> None:
    model = PacedModel(ends_in=10_000, allowed=10, held="stuck")
    served = serve(model, request_seconds=3.0)
    asked = saying("stuck") | {"max_thinking": 300}
    streamed, lines = in_background(served, stream=True, **asked)
    until(lambda: model.given == 10)
    stuck, got = in_background(served, **asked)
    until(lambda: model.running == 2)
    assert served.ask(max_thinking=60).status_code == 200 and not got
    stuck.join(60), streamed.join(60)
    assert got[0].status_code == 504
    *_, error, done = [line for line in lines[0].text.splitlines() if line]
    assert "took more" in json.loads(error.removeprefix("data: "))["error"]["message"]
    assert done == "data: [DONE]"
    until(lambda: model.running == 0)


class Failing(PacedModel):
    """Fails on requests whose prompt says so, in the middle."""

    async def stream(self, request: Continuation) -> AsyncGenerator[Chunk, None]:
        prompt = self.decode(request.prefix)
        async for chunk in super().stream(request):
            if "fail" in prompt:
                raise EngineFailure("http://upstream/v1 broke off.")
            if "mistake" in prompt:
                raise ZeroDivisionError("secret prompt")
            yield chunk


@pytest.mark.parametrize(("word", "status"), [("fail", 502), ("mistake", 500)])
def test_an_engine_that_dies_costs_that_request_alone(serve, word, status, caplog) -> None:
    model = Failing(ends_in=10_000, allowed=5, held="other")
    served = serve(model)
    other, got = in_background(served, **saying("other"))
    until(lambda: model.given == 5)
    refused = served.ask(**saying(word))
    assert refused.status_code == status
    assert "Traceback" not in refused.text and "secret" not in refused.text + caplog.text
    stream = served.ask(**saying(word), stream=True)
    assert stream.status_code in (status, 200) and "secret" not in stream.text
    model.allowed = math.inf
    other.join(60)
    assert got[0].status_code == 200


def test_a_body_that_is_too_large_or_too_slow_is_refused(serve) -> None:
    served = serve(body_bytes=2_000)
    assert served.raw(b" " * 3_000).status_code == 413
    pieces = iter([b" " * 3_000])
    assert httpx.post(f"{served.url}/v1/chat/completions", content=pieces, timeout=30).status_code == 413
    served = serve(body_seconds=0.3)
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
            "Content-Length: 100\r\n\r\n{".encode()
        )
        assert b" 408 " in connection.recv(1000)


def test_connections_that_send_nothing_are_closed_and_hinder_nobody(serve, monkeypatch) -> None:
    monkeypatch.setattr(listen, "HEADER_SECONDS", 1.0)
    served = serve()
    host, port = served.url.removeprefix("http://").split(":")
    idle = [socket.create_connection((host, int(port))) for _ in range(150)]
    for connection in idle[::2]:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost:")
    assert served.ask(max_thinking=1).status_code == 200
    for connection in idle:
        assert_closed(connection)


def test_beyond_the_bound_the_connection_that_is_silent_for_longest_is_closed(serve) -> None:
    model = PacedModel(allowed=0, held="other")
    served = serve(model, connections=4)
    host, port = served.url.removeprefix("http://").split(":")
    other, got = in_background(served, **saying("other"))
    until(lambda: model.running == 1)
    silent = []
    for _ in range(6):
        silent.append(socket.create_connection((host, int(port))))
        silent[-1].sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost:")
    assert served.ask(max_thinking=1).status_code == 200
    for connection in silent[:3]:
        assert_closed(connection)
    model.allowed = math.inf
    other.join(60)
    assert got[0].status_code == 200  # one that works is never closed
    for connection in silent[3:]:
        connection.close()


def assert_closed(connection: socket.socket) -> None:
    connection.settimeout(60)
    with connection, suppress(ConnectionResetError):
        assert connection.recv(1) == b""


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
            slow_ones.append(socket.create_connection((host, int(port)), timeout=60))
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
    model = PacedModel(allowed=0)
    served = serve(model, shutdown_seconds=60)
    thread, got = in_background(served, max_thinking=60)
    until(lambda: model.running == 1)
    served.server.should_exit = True
    until(lambda: not is_open(served.url))
    assert model.running == 1 and not got
    model.allowed = math.inf
    thread.join(60)
    assert got[0].status_code == 200
    served.stop()
    with pytest.raises(httpx.ConnectError):
        served.ask()


def is_open(url: str) -> bool:
    host, port = url.removeprefix("http://").split(":")
    try:
        socket.create_connection((host, int(port)), timeout=60).close()
    except ConnectionRefusedError:
        return False
    return True


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
