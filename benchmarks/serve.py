"""The server against the engine alone: throughput, time to the first token, time per token, and a soak.

    python benchmarks/serve.py MODEL [--clients 1,8,64] [--requests 4] [--thinking 128] [--answer 32]
    python benchmarks/serve.py MODEL --soak 600            # seconds at 64 clients that leave at random
    python benchmarks/serve.py MODEL --upstream URL        # before a vLLM server with MODEL, against that server alone

All sides decode the same requests: a minimum and a limit of the same size, so that each thinks exactly that long.
"engine" drives them in one process; "server" is `s1 serve` in another, asked by plain HTTP clients that share the
machine with it, so their reading of events counts against the server. With --upstream there are "vllm", the upstream
asked directly for the same budget by the fields of s1's plug-in, which it must have, and "unforced", the upstream
asked for as many tokens without a budget. Tokens are those after the prompt. `cpu_ms_per_token` is processor time of
the process that decodes (of "server" with --upstream, `s1 serve` alone; of the others there, the client).
The rounds of the sides alternate; what is printed are medians over the rounds, also of the ratios of neighbours. The
last line is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from s1.budget import Forcing
from s1.drive import drive
from s1.engines import load_engine
from s1.formats import FORMATS, choose_format
from s1.petri.world import questions
from s1.policy import BudgetPolicy
from s1.prompt import encode_prompt
from s1.types import Engine, Sampling


@dataclass(frozen=True)
class Timing:
    """One request, in seconds."""

    first: float
    whole: float
    tokens: int


def body(text: str, policy: BudgetPolicy, seed: int) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": text}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 1.0,
        "seed": seed,
        "max_thinking": policy.max_thinking,
        "min_thinking": policy.min_thinking,
        "wait": policy.wait,
        "max_answer": policy.max_answer,
    }


async def ask(
    client: httpx.AsyncClient,
    sent: dict[str, Any],
    address: str = "/v1/chat/completions",
    first_holds: str = '"reasoning_content"',
) -> Timing:
    began, first, tokens = time.perf_counter(), 0.0, 0
    async with client.stream("POST", address, json=sent) as reply:
        if reply.status_code != 200:
            raise RuntimeError(f"{reply.status_code}: {(await reply.aread())[:200]!r}")
        async for line in reply.aiter_lines():
            if not first and first_holds in line:
                first = time.perf_counter() - began
            if '"usage"' in line and (usage := json.loads(line[6:])["usage"]):
                tokens = usage["completion_tokens"]
            if line.startswith('data: {"error"'):
                raise RuntimeError(line)
    return Timing(first, time.perf_counter() - began, tokens)


async def load(
    one: Callable[[int], Awaitable[Timing]], clients: int, each: int, cpu: Callable[[], float]
) -> dict[str, Any]:
    """Every client asks `each` requests, one after another. `cpu`: processor seconds so far."""
    began, cpu_began = time.perf_counter(), cpu()

    async def client(number: int) -> list[Timing]:
        return [await one(number * each + n) for n in range(each)]

    timings = [t for many in await asyncio.gather(*map(client, range(clients))) for t in many]
    seconds, tokens = time.perf_counter() - began, sum(t.tokens for t in timings)
    per_token = [(t.whole - t.first) / max(1, t.tokens - 1) * 1000 for t in timings]
    return {
        "clients": clients,
        "requests": len(timings),
        "tokens_per_second": round(tokens / seconds, 1),
        "cpu_ms_per_token": round((cpu() - cpu_began) / tokens * 1000, 3),
        "first_token_ms": percentiles([t.first * 1000 for t in timings]),
        "per_token_ms": percentiles(per_token),
    }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {f"p{p}": round(ordered[min(len(ordered) - 1, len(ordered) * p // 100)], 2) for p in (50, 99)}


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The medians over all rounds, and the slowest and fastest."""
    speeds = [row["tokens_per_second"] for row in rows]
    made: dict[str, Any] = {"n": sum(row["requests"] for row in rows), "range": [min(speeds), max(speeds)]}
    for what in ("tokens_per_second", "cpu_ms_per_token"):
        made[what] = median(row[what] for row in rows)
    for what in ("first_token_ms", "per_token_ms"):
        made[what] = {p: median(row[what][p] for row in rows) for p in ("p50", "p99")}
    return made


def start_server(*options: str) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "s1", "serve", *options, "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    found = re.search(r"http://[\d.]+:\d+", process.stdout.readline())
    assert found
    return process, found[0]


def cpu_seconds(process: subprocess.Popen[str]) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(process: subprocess.Popen[str]) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+)", status)
    assert found
    return int(found[1]) / 1024


async def soak(
    process: subprocess.Popen[str], url: str, texts: Sequence[str], policy: BudgetPolicy, seconds: float
) -> Any:
    """64 clients, a third of whose requests they leave at a random moment."""
    end, done, left, errors = time.monotonic() + seconds, 0, 0, list[str]()
    samples: list[float] = []

    async def client(number: int) -> None:
        nonlocal done, left
        draws = random.Random(number)
        limits = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as http:
            while time.monotonic() < end:
                sent = body(draws.choice(texts), policy, draws.randrange(1 << 30))
                patience = draws.uniform(0.05, 1.5) if draws.random() < 1 / 3 else 120.0
                try:
                    async with asyncio.timeout(patience):
                        await ask(http, sent)
                    done += 1
                except TimeoutError:
                    left += 1
                except (RuntimeError, httpx.HTTPError) as error:
                    errors.append(repr(error)[:200])

    async def sample() -> None:
        while time.monotonic() < end:
            await asyncio.sleep(seconds / 12)
            samples.append(round(memory_mib(process), 1))

    await asyncio.gather(sample(), *map(client, range(64)))
    await asyncio.sleep(2)
    metrics = httpx.get(f"{url}/metrics").text
    running = [line for line in metrics.splitlines() if re.match("s1_(running|waiting) ", line)]
    return {"seconds": seconds, "finished": done, "left": left, "errors": errors[:5], "error_count": len(errors),
            "rss_mib": samples, "after": running}  # fmt: skip


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--upstream", metavar="URL", help="a vLLM server with the model, with /v1")
    parser.add_argument("--format", default="petri", help="with --upstream")
    parser.add_argument("--clients", default="1,8,64")
    parser.add_argument("--requests", type=int, default=4, help="of each client")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--thinking", type=int, default=128)
    parser.add_argument("--answer", type=int, default=32)
    parser.add_argument("--soak", type=float, metavar="SECONDS")
    given = parser.parse_args()
    policy = BudgetPolicy(
        max_thinking=given.thinking, min_thinking=given.thinking, wait=("",), max_answer=given.answer
    )
    texts = [q.text for q in questions(64)]
    options = (
        ["--upstream", given.upstream, "--format", given.format]
        if given.upstream
        else ["--model", given.model]
    )
    process, url = start_server(*options)
    result: dict[str, Any] = {"model": given.model, "policy": policy.key}
    engine = load_engine(given.model, max_batch=256)
    limits = httpx.Limits(max_connections=None)
    try:
        async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as http:
            await ask(http, body(texts[0], policy, 0))

            async def by_server(number: int) -> Timing:
                return await ask(http, body(texts[number % 64], policy, number))

            if given.soak:
                result["soak"] = await soak(process, url, texts, policy, given.soak)
            else:
                if given.upstream:
                    others = upstream_alone(engine, given, texts)
                else:
                    others = {"engine": engine_alone(engine, policy, texts)}
                for one in others.values():
                    await one(0)
                for clients in map(int, given.clients.split(",")):
                    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in [*others, "server"]}
                    for _ in range(given.rounds):
                        for name, one in others.items():
                            rounds[name].append(await load(one, clients, given.requests, time.process_time))
                        rounds["server"].append(
                            await load(by_server, clients, given.requests, lambda: cpu_seconds(process))
                        )
                    found = {name: summary(rows) for name, rows in rounds.items()}
                    for name in others:
                        pairs = list(zip(rounds[name], rounds["server"], strict=True))
                        found[f"server / {name}"] = {
                            what: round(median(server[what] / other[what] for other, server in pairs), 3)
                            for what in ("tokens_per_second", "cpu_ms_per_token")
                        }
                    result[f"{clients} clients"] = found
                    print(clients, found, flush=True)
    finally:
        process.terminate()
        process.wait(60)
        await engine.close()
    print(json.dumps(result))


def engine_alone(
    engine: Engine, policy: BudgetPolicy, texts: Sequence[str]
) -> Callable[[int], Awaitable[Timing]]:
    fmt = choose_format(engine)

    async def one(number: int) -> Timing:
        prompt = engine.render([{"role": "user", "content": texts[number % 64]}])
        got = await drive(
            Forcing(encode_prompt(engine, fmt, policy, prompt), Sampling(1.0, seed=number)), engine
        )
        spent = sum(len(s.token_ids) for s in got.segments if s.phase != "prompt")
        return Timing(got.first_token_seconds or 0.0, got.seconds, spent)

    return one


def upstream_alone(
    engine: Engine, given: argparse.Namespace, texts: Sequence[str]
) -> dict[str, Callable[[int], Awaitable[Timing]]]:
    """vLLM itself: with the budget as fields of the plug-in, and asked for as many tokens without one."""
    http = httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=None))
    name = httpx.get(f"{given.upstream}/models").json()["data"][0]["id"]
    fmt = FORMATS[given.format]
    most = given.thinking + given.answer
    budget = {
        "max_thinking": given.thinking,
        "min_thinking": given.thinking,
        "wait": "",
        "thinking_format": given.format,
    }
    forced = {"max_tokens": most + len(engine.encode(fmt.close + fmt.cue)), "vllm_xargs": budget}

    def asking(more: dict[str, Any]) -> Callable[[int], Awaitable[Timing]]:
        async def one(number: int) -> Timing:
            sent = {
                "prompt": engine.render([{"role": "user", "content": texts[number % 64]}]) + fmt.open,
                "model": name,
                "temperature": 1.0,
                "seed": number,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            return await ask(http, sent | more, f"{given.upstream}/completions", '"text"')

        return one

    return {"vllm": asking(forced), "unforced": asking({"max_tokens": most, "ignore_eos": True})}


if __name__ == "__main__":
    asyncio.run(main())
