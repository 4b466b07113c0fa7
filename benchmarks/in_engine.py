"""Budgets inside vLLM against continuing from outside, on one machine and model.

    .venv-vllm/bin/python benchmarks/in_engine.py [--model FOLDER] [--repeats 5] [--requests 1,8,64]

Two vLLM servers run side by side, one with s1's plug-in and one from which it is hidden; only one works at a time.

plain: 64 requests without a budget of 100 tokens each, on either server in turn: what the plug-in costs them.
waits: 4 waits, thinking of at most 200 tokens and answers of 12, greedy, on the server with the plug-in: each budget
in one request, continued from outside as its own request ends, and in rounds in which all wait for the slowest. The
tokens are the same, so tokens per second compare the time.
Also the processor time of each server for the plain requests, and its memory (all processes) after them. The last line
is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from serve_vllm import environment, serve  # noqa: E402

from s1.budget import Forcing  # noqa: E402
from s1.drive import drive  # noqa: E402
from s1.engines import load_engine  # noqa: E402
from s1.evals.benchmarks import load_benchmark  # noqa: E402
from s1.formats import FORMATS  # noqa: E402
from s1.petri.world import base_model  # noqa: E402
from s1.policy import BudgetPolicy  # noqa: E402
from s1.prompt import encode_prompt  # noqa: E402
from s1.types import Continuation, Engine, Generation  # noqa: E402

HIDE = """
import importlib.metadata as metadata
_all = metadata.entry_points
def entry_points(**which):
    found = _all(**which)
    return metadata.EntryPoints(()) if which.get("group") == "vllm.logits_processors" else found
metadata.entry_points = entry_points
"""


class Rounds(Forcing):
    by_rounds = True


async def plain(engine: Engine, prompts: list[tuple[int, ...]]) -> int:
    async def one(prefix: tuple[int, ...]) -> int:
        return sum([len(chunk.ids) async for chunk in engine.stream(Continuation(prefix, 100))])

    return sum(await asyncio.gather(*(one(prefix) for prefix in prompts)))


async def lock_step(machines: list[Forcing], engine: Engine) -> None:
    """Every machine's next continuation, then the next of all of them."""

    async def one(machine: Forcing, request: Continuation) -> None:
        async for chunk in engine.stream(request):
            machine.feed(chunk)

    while asked := [(m, r) for m in machines if (r := m.ask()) is not None]:
        await asyncio.gather(*(one(*each) for each in asked))


def tokens_of(generations: list[Generation]) -> int:
    return sum(len(s.token_ids) for g in generations for s in g.segments if s.phase != "prompt")


def processes(address: str) -> list[Path]:
    """The processes of the server at this address, children included."""
    port = address.rsplit(":", 1)[1].split("/")[0]
    groups, members = set[int](), dict[Path, int]()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            members[folder] = os.getpgid(int(folder.name))
            if f"--port\0{port}\0" in (folder / "cmdline").read_text():
                groups.add(members[folder])
        except OSError:  # it has ended
            continue
    return [folder for folder, group in members.items() if group in groups]


def memory(address: str) -> float:
    """MiB of a server, shared pages divided among those who share them."""
    lines = [line for p in processes(address) for line in (p / "smaps_rollup").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def processor_seconds(address: str) -> float:
    """Processor time of a server so far, which other work on the machine disturbs less than wall time."""
    fields = [(p / "stat").read_text().rpartition(")")[2].split() for p in processes(address)]
    return sum(int(f[11]) + int(f[12]) for f in fields) / os.sysconf("SC_CLK_TCK")


def timed(work: Callable[[], Awaitable[int]]) -> float:
    """Tokens per second."""
    began = time.perf_counter()
    tokens = asyncio.run(work())  # type: ignore[arg-type]
    return tokens / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=str(base_model()))
    parser.add_argument("--format", default="petri")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--requests", default="1,8,64")
    options = parser.parse_args()
    sizes = [int(n) for n in options.requests.split(",")]
    questions = [q.text for q in load_benchmark("petri").questions[: max(*sizes, 64)]]
    config = ["--additional-config", json.dumps({"s1_format": options.format})]
    result: dict[str, object] = {"load": os.getloadavg(), "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        (Path(other) / "sitecustomize.py").write_text(HIDE)
        hidden = environment(Path(other))
        with (
            serve(Path(options.model), Path(one), *config, env=environment(Path(one))) as ours,
            serve(Path(options.model), Path(other), env=hidden) as theirs,
        ):
            addresses = {"with": ours.url, "without": theirs.url}
            engines = {name: load_engine(f"openai:{a}") for name, a in addresses.items()}
            assert [engine.plugin for engine in engines.values()] == [True, False]  # type: ignore[attr-defined]
            forced = engines["with"]
            prompts = [forced.encode(forced.render([{"role": "user", "content": q}])) for q in questions[:64]]
            rates: dict[str, list[float]] = {name: [] for name in engines}
            spent: dict[str, list[float]] = {name: [] for name in engines}
            for repeat in range(options.repeats + 1):
                for name in sorted(engines, reverse=bool(repeat % 2)):
                    before = processor_seconds(addresses[name])
                    rate = timed(lambda name=name: plain(engines[name], prompts))  # type: ignore[misc]
                    if repeat:  # the first warms up
                        rates[name].append(rate)
                        spent[name].append(processor_seconds(addresses[name]) - before)
            result |= {"plain": rates, "plain, processor seconds": spent}
            result["memory"] = {name: memory(address) for name, address in addresses.items()}
            times = {name: statistics.median(found) for name, found in spent.items()}
            print(f"processor seconds: {times}; with / without {times['with'] / times['without']:.3f}")
            print(f"memory: {result['memory']} MiB")
            medians = {name: statistics.median(found) for name, found in rates.items()}
            print(
                f"plain, 64 requests: {medians} tokens/s; with / without {medians['with'] / medians['without']:.3f}"
            )

            policy = BudgetPolicy(max_thinking=200, waits=4, max_answer=12)

            def machines(count: int, kind: type[Forcing]) -> list[Forcing]:
                texts = [forced.render([{"role": "user", "content": q}]) for q in questions[:count]]
                return [kind(encode_prompt(forced, FORMATS[options.format], policy, text)) for text in texts]

            async def driven(count: int, kind: type[Forcing]) -> int:
                return tokens_of(
                    list(await asyncio.gather(*(drive(m, forced) for m in machines(count, kind))))
                )

            async def stepped(count: int) -> int:
                made = machines(count, Rounds)
                await lock_step(made, forced)
                return tokens_of([m.result() for m in made])

            ways: dict[str, Callable[[int], Awaitable[int]]] = {
                "in vLLM": lambda count: driven(count, Forcing),
                "continued": lambda count: driven(count, Rounds),
                "lock-step": stepped,
            }
            for count in sizes:
                found: dict[str, list[float]] = {name: [] for name in ways}
                for repeat in range(options.repeats + 1):
                    for name in sorted(ways, reverse=bool(repeat % 2)):
                        rate = timed(lambda name=name, count=count: ways[name](count))  # type: ignore[misc]
                        if repeat:
                            found[name].append(rate)
                result[f"waits, {count}"] = found
                shown = {name: round(statistics.median(each), 1) for name, each in found.items()}
                print(f"4 waits, {count} requests: {shown} tokens/s")
            for engine in engines.values():
                asyncio.run(engine.close())
    result["load after"] = os.getloadavg()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
