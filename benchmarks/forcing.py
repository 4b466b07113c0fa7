"""What budget forcing costs on the hf engine, and what it saves: overhead, walks, replay.

    python benchmarks/forcing.py [--only overhead|walks|replay] [--wide] [--model FOLDER] [--threads 1]

Each measurement is shown with its theory. A batched decoder has a fixed cost per step (one token in all running
rows) and a cost per row; both are fitted first, on steps of 1 to 32 rows, and give the expected ratio of seconds
("model"). When the fixed cost dominates, as when reading the weights takes longest, the ratio of steps is reached.
1. Overhead: `drive()` against plain continuations after the same prompts. They have as many tokens as the
   generation, forced ones included ("same"), or only as many as the model drew ("drawn"). Theory: 1 for "same"; for
   "drawn" the forced tokens are extra. Goal: 1.01. Wall time spreads more than that here, so the seconds outside the
   model's forward calls are compared too: both sides compute the same rows in them.
2. Walks: each request by itself against lock-step rounds, as in the authors' code, where each round waits for all
   requests. All requests at once, or fewer slots than requests, with rounds of the whole list or batches that end
   before the next begins. Theory: ratio of steps, simulated. Lengths: see `_lengths`, the same law for every round;
   or the model's own. Goal: 1.5.
3. Replay: all policies of a question through one replay cache against separate runs. Theory: decoded tokens /
   distinct prefixes that end in a decoded token. Goal: several times.
The sides run in turn, in changing order, on a new engine over the same weights, greedy; encoding the prompts
is not timed. Default model: runs/demo/model of `s1 demo` where it is, else the petri base that ships. --wide takes
a random model of 68 M parameters in bfloat16, which the caches of most processors do not hold, for parts 1 and 2.
The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from forcing_bench import BASE, BUDGETS, WAITS, Bench, Side, draws, driven, sharing, spread, tokens_of

from s1.budget import Forcing
from s1.drive import drive
from s1.evals.run import policies_of
from s1.formats import choose_format
from s1.petri import world
from s1.policy import BudgetPolicy
from s1.replay import ReplayCache, longest_first
from s1.types import Chunk, Continuation, Engine, Generation

SLOTS = 8
CONTEXT = 900
"""Tokens that all rounds of a request may take together in part 2."""
TRACES = Path(__file__).resolve().parents[2] / "shared/data/traces/misguided_attention.parquet"
OPEN_MODELS = ("deepseek-r1-0528", "QwQ-32b", "qwen3-235b-a22b-think", "phi-4-reasoning-plus")
MEDIAN, SIGMA = 3420, 1.05
"""A log-normal fitted to the 624 traces of these models there, in tokens; used where the file is not."""


@dataclass
class Drawn:
    """Walks like `Forcing`: rounds of given lengths, with `wait` appended after each."""

    prefix: tuple[int, ...]
    lengths: list[int]
    wait: tuple[int, ...]

    def ask(self) -> Continuation | None:
        return Continuation(self.prefix, self.lengths[0]) if self.lengths else None

    def feed(self, chunk: Chunk) -> bool:
        self.prefix += chunk.ids
        if chunk.finish is not None:
            self.prefix, self.lengths = self.prefix + self.wait, self.lengths[1:]
        return chunk.finish is None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="a model folder with its thinking format")
    parser.add_argument("--only", choices=("overhead", "walks", "replay"))
    parser.add_argument("--wide", action="store_true", help="a model that no cache holds")
    parser.add_argument("--waits", type=int, nargs="+", default=list(WAITS))
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    import torch
    import transformers

    from s1.engines.hf import load

    demo = Path("runs/demo/model")
    folder = args.model or str(demo if demo.is_dir() else world.base_model())
    loaded = load(folder, device="cpu", threads=args.threads)
    fmt = choose_format(loaded, "petri" if folder == str(world.base_model()) else None)
    if args.wide:
        _widen(loaded)
    prompts = [loaded.render([{"role": "user", "content": q.text}]) for q in world.questions(args.requests)]
    bench = Bench(loaded, fmt, prompts, args.repeats)
    warm = bench.forcings(replace(BASE, max_thinking=32))
    bench.measure(Side(lambda: warm, driven, args.requests))
    began = time.perf_counter()
    everything = ("overhead", "walks") if args.wide else ("overhead", "walks", "replay")
    parts = {args.only or part for part in everything}
    rows: list[dict[str, Any]] = []
    if "overhead" in parts:
        rows += overhead(bench, own=not args.wide)
    if "walks" in parts:
        bench = replace(bench, cost=_cost(bench))
        print("a step takes {:.2f} ms, a row in it {:.3f} ms".format(*(1000 * x for x in bench.cost)))
        rows += walks(bench, args.waits, own=not args.wide)
    if "replay" in parts:
        rows += replay(replace(bench, cost=(0.0, 0.0)))
    result = {"benchmark": "forcing", "arguments": vars(args), "model": Path(folder).name, "rows": rows}
    result |= {"torch": torch.__version__, "transformers": transformers.__version__, "cost": bench.cost}
    result |= {"load_average": os.getloadavg()[0], "seconds": round(time.perf_counter() - began, 1)}
    print(json.dumps(result))


def overhead(bench: Bench, own: bool) -> Iterable[dict[str, Any]]:
    """Part 1. The last policy masks the end, so that every request thinks for the whole budget."""
    count = len(bench.prompts)

    async def plain(engine: Engine, continuations: Sequence[Continuation]) -> None:
        await _each(engine, [Drawn(request.prefix, [request.max_tokens], ()) for request in continuations])

    long = replace(BASE, max_thinking=512, min_thinking=512, wait=("",))
    policies = ((replace(BASE, max_thinking=64), 7), (replace(BASE, waits=2), 3), (long, 1))
    for policy, times in policies if own else policies[:1]:
        forced = Side(lambda policy=policy: bench.forcings(policy), driven, count)
        generations = bench.measure(forced)["result"]
        sides = {"forced": forced}
        for name, count_of in (("same", tokens_of), ("drawn", draws)):
            continuations = [Continuation(g.segments[0].token_ids, count_of(g)) for g in generations]
            sides[name] = Side(lambda continuations=continuations: continuations, plain, count)
        found = bench.turns(sides, bench.repeats * times)
        for name in ("same", "drawn"):
            pairs = list(zip(found["forced"], found[name], strict=True))
            row: dict[str, Any] = {
                "case": f"1 overhead: {policy.label} / {name}",
                "goal": "<= 1.01",
                "n": len(pairs),
            }
            for kind in ("wall", "cpu"):
                row[kind] = spread(x[kind] / y[kind] for x, y in pairs)
            whole = statistics.median(y["wall"] for _, y in pairs)
            row["outside"] = spread(1 + (x["outside"] - y["outside"]) / whole for x, y in pairs)
            a, b = pairs[-1]
            row["theory"] = (a["tokens"] + a["fed"]) / (b["tokens"] + b["fed"])
            row["counts"] = [[x["steps"], x["tokens"], x["fed"]] for x in (a, b)]
            row["seconds"] = [round(whole, 3), round(statistics.median(y["outside"] for _, y in pairs), 4)]
            shown = "  ".join(
                "{} {:.3f} ({:.3f}-{:.3f})".format(k, *row[k]) for k in ("wall", "cpu", "outside")
            )
            print(f"{row['case']:<48} {shown}  rows computed {row['theory']:.3f}  n {len(pairs)}", flush=True)
            yield row


def walks(bench: Bench, all_waits: Sequence[int], own: bool) -> Iterable[dict[str, Any]]:
    """Part 2."""
    wait = bench.loaded.encode("Wait")
    starts = [m.encoded.prompt for m in bench.forcings(BASE)]
    rows = len(starts)
    source, draw = _lengths()
    print(f"lengths: {source}")
    for waits in all_waits:
        choose = random.Random(waits)
        lengths = [[draw(choose, CONTEXT // (waits + 1)) for _ in range(waits + 1)] for _ in starts]

        def drawn(lengths: list[list[int]] = lengths) -> list[Drawn]:
            return [Drawn(ids, list(n), wait) for ids, n in zip(starts, lengths, strict=True)]

        for name, work, slots, batch in (
            ("at once", _in_rounds, rows, rows),
            (f"{SLOTS} slots, whole list", _in_rounds, SLOTS, rows),
            (f"{SLOTS} slots, batches", _in_batches, SLOTS, SLOTS),
        ):
            theory = _rounds_steps(lengths, slots, batch) / _walks_steps(lengths, slots)
            slow, fast = Side(drawn, work, slots), Side(drawn, _each, slots)
            yield bench.compare(f"2 rounds / walks: waits {waits}, {name}", slow, fast, ">= 1.5", theory)
        if not own:
            continue

        def walked(policy: BudgetPolicy = replace(BASE, waits=waits)) -> list[Forcing]:
            return bench.forcings(policy)

        slow, fast = Side(walked, _in_rounds, rows), Side(walked, _each, rows)
        yield bench.compare(f"2 rounds / walks: waits {waits}, own lengths", slow, fast, ">= 1.5")


def _lengths() -> tuple[str, Callable[[random.Random, int], int]]:
    """Lengths of reasoning traces, 1 token here for 128 there, and what they are."""
    if not TRACES.is_file():
        law = f"log-normal, median {MEDIAN}, sigma {SIGMA}, / 128"
        return law, lambda choose, most: _clip(choose.lognormvariate(0, SIGMA) * MEDIAN / 128, most)
    import polars

    table = polars.read_parquet(TRACES, columns=["model", "trace_tokens_qwen2.5"])
    found = table.filter(polars.col("model").is_in(OPEN_MODELS))["trace_tokens_qwen2.5"].drop_nulls()
    tokens = [n for n in found.to_list() if n > 0]
    what = f"{len(tokens)} traces of {', '.join(OPEN_MODELS)}, / 128"
    return what, lambda choose, most: _clip(choose.choice(tokens) / 128, most)


def _clip(length: float, most: int) -> int:
    return min(most, max(1, round(length)))


def _walks_steps(lengths: Sequence[Sequence[int]], slots: int) -> int:
    """Steps when a free slot takes the next request; each continuation feeds one token more."""
    return _last_end([sum(rounds) + len(rounds) - 1 for rounds in lengths], slots)


def _rounds_steps(lengths: Sequence[Sequence[int]], slots: int, batch: int) -> int:
    """Steps when each batch waits for its slowest request in every round."""
    steps = 0
    for first in range(0, len(lengths), batch):
        for n, column in enumerate(zip(*lengths[first : first + batch], strict=True)):
            steps += _last_end([length + (n > 0) for length in column], slots)
    return steps


def _last_end(durations: Sequence[int], slots: int) -> int:
    ends = [0] * slots
    for duration in durations:
        heapq.heapreplace(ends, ends[0] + duration)
    return max(ends)


def _cost(bench: Bench) -> tuple[float, float]:
    """Seconds of a step and of a row in it: least squares over steps of 1 to 32 rows, about 100 tokens long."""
    points = []
    for rows in (1, 2, 4, 8, 16, 32):
        best = float("inf")
        for _ in range(3):
            engine = bench.engine(rows)
            for n in range(rows):
                engine.batch.add(engine.row_of(Continuation(tuple(range(10 + n, 80 + n)), 60)))
            for _ in range(4):
                engine.batch.step()
            began = time.perf_counter()
            for _ in range(12):
                engine.batch.step()
            best = min(best, (time.perf_counter() - began) / 12)
        points.append((rows, best))
    print("steps: " + ", ".join(f"{rows} rows {1000 * seconds:.2f} ms" for rows, seconds in points))
    x, y = (statistics.fmean(column) for column in zip(*points, strict=True))
    slope = sum((rows - x) * (seconds - y) for rows, seconds in points) / sum((r - x) ** 2 for r, _ in points)
    return y - slope * x, slope


def _widen(loaded: Any) -> None:
    """Put a random model of 68 M parameters in the place of the loaded one; the tokenizer stays."""
    import torch
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=loaded.model.config.vocab_size,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=6,
        num_attention_heads=16,
        num_key_value_heads=4,
        max_position_embeddings=loaded.context,
        eos_token_id=None,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    loaded.model = transformers.LlamaForCausalLM(config).eval().to(torch.bfloat16)


def replay(bench: Bench) -> Iterable[dict[str, Any]]:
    """Part 3. Separate runs one after another, as separate commands would be, or all requests at once."""
    policies, count = longest_first(policies_of(BUDGETS, WAITS, base=BASE)), len(bench.prompts)

    async def replayed(engine: Engine, walks: list[list[Forcing]]) -> list[Generation]:
        async def walk(column: Sequence[Forcing]) -> list[Generation]:
            memory = ReplayCache(engine)
            return [await drive(machine, memory) for machine in column]

        generations = await asyncio.gather(*map(walk, zip(*walks, strict=True)))
        return [g for row in zip(*generations, strict=True) for g in row]

    async def one_by_one(engine: Any, walks: list[list[Forcing]]) -> list[Generation]:
        generations = []
        for machines in walks:
            generations += await driven(engine, machines)
            engine.batch.clear()  # a command of its own has no keys and values of the one before
        return generations

    async def at_once(engine: Engine, walks: list[list[Forcing]]) -> list[Generation]:
        return await driven(engine, sum(walks, []))

    for name, work, rows in (("one by one", one_by_one, count), ("all at once", at_once, 4 * count)):
        slow, fast = (Side(lambda: [bench.forcings(p) for p in policies], w, rows) for w in (work, replayed))
        yield bench.compare(f"3 {len(policies)} runs / replay: {name}", slow, fast, "several", sharing)


async def _each(engine: Engine, machines: Sequence[Any]) -> None:
    await asyncio.gather(*(_in_rounds(engine, [machine]) for machine in machines))


async def _in_rounds(engine: Engine, machines: Sequence[Any]) -> None:
    async def one(machine: Any, request: Continuation) -> None:
        async with aclosing(engine.stream(request)) as chunks:
            async for chunk in chunks:
                if not machine.feed(chunk):
                    return

    while continuations := [(m, request) for m in machines if (request := m.ask()) is not None]:
        await asyncio.gather(*(one(m, request) for m, request in continuations))


async def _in_batches(engine: Engine, machines: Sequence[Any]) -> None:
    for first in range(0, len(machines), SLOTS):
        await _in_rounds(engine, machines[first : first + SLOTS])


if __name__ == "__main__":
    main()
