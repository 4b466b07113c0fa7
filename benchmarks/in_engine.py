"""Budgets inside vLLM against continuing from outside, on one machine and model.

    .venv-vllm/bin/python benchmarks/in_engine.py [--model FOLDER] [--repeats 3] [--requests 1,8,64] [--pairs 200]

plain: 64 requests without a budget, in one engine in which the plug-in is switched on and off. The two runs of a pair
come one after the other, in a random order; what counts is the ratio of their processor times, which other work on the
machine hardly changes. The median over the pairs is given with its 95 % interval.
waits: 4 waits, thinking of at most 200 tokens and answers of 12, greedy, on a server with the plug-in: each budget in
one request, continued from outside as its own request ends, and in rounds in which all wait for the slowest. The tokens
are the same, so tokens per second compare the time. All ways and numbers of requests take turns.
memory: of that server (all processes), and of one from which the plug-in is hidden, after 64 requests.
The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from serve_vllm import Running, environment, serve  # noqa: E402

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
POLICY = BudgetPolicy(max_thinking=200, waits=4, max_answer=12)
PLAIN_REQUESTS, PLAIN_TOKENS = 64, 32


class Rounds(Forcing):
    """Forced from outside."""

    by_rounds = True


def plain(model: str, prompts: list[tuple[int, ...]], pairs: int) -> list[float]:
    """Processor time with the plug-in over that without it, for each pair of runs."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = (
        "0"  # all in this process, so that the plug-in can be reached
    )
    from vllm import LLM, SamplingParams

    from s1.vllm_plugin.processor import OlderRunner

    llm = LLM(model, dtype="float32", enforce_eager=True, max_num_seqs=PLAIN_REQUESTS,
              distributed_executor_backend="uni", disable_log_stats=True)  # fmt: skip
    engine: Any = llm.llm_engine
    worker = engine.engine_core.engine_core.model_executor.driver_worker.worker
    used, front = worker.model_runner.input_batch.logitsprocs.non_argmax_invariant, engine.input_processor
    both = list(used)
    others = [each for each in both if not isinstance(each, OlderRunner)]
    assert len(others) == len(both) - 1, "the plug-in was not found"
    check = front.validate_logits_processors_params
    params = SamplingParams(temperature=0, max_tokens=PLAIN_TOKENS, ignore_eos=True, detokenize=False)
    requests: Any = [{"prompt_token_ids": list(ids)} for ids in prompts]

    def seconds(switched_on: bool) -> float:
        used[:] = both if switched_on else others
        front.validate_logits_processors_params = check if switched_on else lambda given: None
        began = time.process_time()
        llm.generate(requests, params, use_tqdm=False)
        return time.process_time() - began

    chance, ratios = random.Random(0), list[float]()
    for _ in range(4):  # warms up
        seconds(True)
    for _ in range(pairs):
        order = [True, False]
        chance.shuffle(order)
        found = {switched_on: seconds(switched_on) for switched_on in order}
        ratios.append(found[True] / found[False])
    return ratios


def median_interval(values: list[float]) -> tuple[float, float, float]:
    """The median and its 95 % interval: two values whose ranks hold it whatever the distribution."""
    ranked, count = sorted(values), len(values)
    below = lambda k: sum(math.comb(count, i) for i in range(k + 1)) / 2**count  # noqa: E731
    rank = next(k for k in range(count) if below(k) > 0.025)
    return statistics.median(ranked), ranked[rank], ranked[count - 1 - rank]


async def lock_step(machines: list[Forcing], engine: Engine) -> None:
    """Every machine's next continuation, then the next of all of them."""

    async def one(machine: Forcing, request: Continuation) -> None:
        async for chunk in engine.stream(request):
            machine.feed(chunk)

    while asked := [(m, r) for m in machines if (r := m.ask()) is not None]:
        await asyncio.gather(*(one(*each) for each in asked))


def tokens_of(generations: list[Generation]) -> int:
    return sum(len(s.token_ids) for g in generations for s in g.segments if s.phase != "prompt")


def memory(server: Running) -> float:
    """MiB of a server, shared pages divided among those who share them."""
    folders = [f for f in Path("/proc").glob("[0-9]*") if _group(f) == server.process.pid]
    lines = [line for f in folders for line in (f / "smaps_rollup").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def _group(folder: Path) -> int:
    try:
        return os.getpgid(int(folder.name))
    except OSError:  # it has ended
        return 0


async def unforced(engine: Engine, prompts: list[tuple[int, ...]]) -> None:
    """All prompts at once, without a budget."""

    async def one(prefix: tuple[int, ...]) -> None:
        async for _ in engine.stream(Continuation(prefix, 100)):
            pass

    await asyncio.gather(*(one(prefix) for prefix in prompts))


def timed(work: Callable[[], Awaitable[int]]) -> float:
    """Tokens per second."""
    began = time.perf_counter()
    tokens = asyncio.run(work())  # type: ignore[arg-type]
    return tokens / (time.perf_counter() - began)


def waits(
    engine: Engine, fmt: str, questions: list[str], sizes: list[int], repeats: int
) -> dict[str, list[float]]:
    """Tokens per second of each way and number of requests."""

    def machines(count: int, kind: type[Forcing]) -> list[Forcing]:
        texts = [engine.render([{"role": "user", "content": q}]) for q in questions[:count]]
        return [kind(encode_prompt(engine, FORMATS[fmt], POLICY, text)) for text in texts]

    async def driven(count: int, kind: type[Forcing]) -> int:
        return tokens_of(list(await asyncio.gather(*(drive(m, engine) for m in machines(count, kind)))))

    async def stepped(count: int) -> int:
        made = machines(count, Rounds)
        await lock_step(made, engine)
        return tokens_of([m.result() for m in made])

    ways: dict[str, Callable[[int], Awaitable[int]]] = {
        "in vLLM": lambda count: driven(count, Forcing),
        "continued": lambda count: driven(count, Rounds),
        "lock-step": stepped,
    }
    turns = [(name, count) for count in sizes for name in ways]
    rates: dict[str, list[float]] = {f"{name}, {count}": [] for name, count in turns}
    timed(lambda: ways["in vLLM"](max(sizes)))  # warms up
    chance = random.Random(0)
    for _ in range(repeats):
        chance.shuffle(turns)
        for name, count in turns:
            rates[f"{name}, {count}"].append(timed(lambda name=name, count=count: ways[name](count)))  # type: ignore[misc]
    return rates


def main() -> None:
    """Measure all three."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=str(base_model()))
    parser.add_argument("--format", default="petri")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--requests", default="1,8,64")
    parser.add_argument("--pairs", type=int, default=200)
    options = parser.parse_args()
    sizes = [int(n) for n in options.requests.split(",")]
    questions = [q.text for q in load_benchmark("petri").questions[: max(*sizes, PLAIN_REQUESTS)]]
    config = ["--additional-config", json.dumps({"s1_format": options.format})]
    result: dict[str, object] = {"load": os.getloadavg(), "cores": os.cpu_count()}
    used = dict[str, float]()
    for name in ("without", "with"):
        with tempfile.TemporaryDirectory() as work:
            if name == "without":
                (Path(work) / "sitecustomize.py").write_text(HIDE)
            env = environment(Path(work))
            with serve(Path(options.model), Path(work), *config, env=env) as server:
                engine = load_engine(f"openai:{server.url}")
                assert engine.plugin is (name == "with")  # type: ignore[attr-defined]
                prompts = [
                    engine.encode(engine.render([{"role": "user", "content": q}]))
                    for q in questions[:PLAIN_REQUESTS]
                ]
                asyncio.run(unforced(engine, prompts))
                used[name] = memory(server)
                if name == "with":
                    rates = waits(engine, options.format, questions, sizes, options.repeats)
                    for way, found in rates.items():
                        shown = f"{statistics.median(found):.0f} ({min(found):.0f} to {max(found):.0f})"
                        print(f"4 waits, {way}: {shown} tokens/s", flush=True)
                    result["waits"] = rates
                asyncio.run(engine.close())
    print(f"memory: {used} MiB", flush=True)
    ratios = plain(options.model, prompts, options.pairs)
    median, low, high = median_interval(ratios)
    print(
        f"without a budget: {median:.4f} of the processor time ({low:.4f} to {high:.4f}), {len(ratios)} pairs"
    )
    print(json.dumps(result | {"memory": used, "plain": ratios, "load after": os.getloadavg()}))


if __name__ == "__main__":
    main()
