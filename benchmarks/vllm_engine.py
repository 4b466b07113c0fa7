"""The vllm engine against the hf engine, and a sweep through one replay cache against separate runs on vLLM.

    .venv-vllm/bin/python benchmarks/vllm_engine.py throughput [--prompts 64] [--longest 512] [--repeats 3]
    .venv-vllm/bin/python benchmarks/vllm_engine.py replay [--model FOLDER] [--requests 32] [--repeats 3]

Both engines run in turn, in changing order, in one process of vLLM's environment, greedy. vLLM decodes in
processes of its own (on a CPU one core for its worker, the others for the rest), so only wall time is compared.

throughput: the requests of hf_engine.py, and its random model in float32, written to a folder for vLLM. Both
sides decode each token once, so counts allow a ratio of 1; what lies apart is the cost of a step. The least time
is the weights read once for each step, and keys and values for each token, by the bandwidth of a large copy; a
cache that holds the weights goes below it. Prompts are shorter than a block of vLLM's cache: nothing is kept
from one repeat to the next.
replay: 8 budgets, the natural end and waits 1, 2, 4, as in part 3 of forcing.py, on the petri exam. Separate
runs one after another with vLLM's prefix cache emptied between them (as separate commands have it), or all
requests at once with the cache at work, against one memory for each question. Theory: tokens drawn / distinct
prefixes that end in a drawn token. Where generations differ, the first is shown with the gap between its logits.
The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import hf_engine
from forcing_bench import BASE, BUDGETS, WAITS, sharing

from s1.budget import Forcing
from s1.drive import drive
from s1.engines import load_engine
from s1.evals.run import policies_of
from s1.formats import FORMATS, format_of_folder
from s1.petri import world
from s1.prompt import encode_prompt
from s1.replay import ReplayCache, longest_first
from s1.types import Chunk, Continuation, Engine, Generation

Walks = list[list[Forcing]]
"""A row for each policy, a column for each question."""


class Counting:
    """An engine around an engine that counts requests and drawn tokens, the stops among them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.requests = self.tokens = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def stream(self, request: Continuation) -> AsyncGenerator[Chunk, None]:
        self.requests += 1
        async with aclosing(self._engine.stream(request)) as chunks:
            async for chunk in chunks:
                self.tokens += len(chunk.ids) + (chunk.finish == "stop")
                yield chunk


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=("throughput", "replay"))
    parser.add_argument("--model", help="replay: default: what `s1 demo` trained, else the petri base")
    parser.add_argument("--requests", type=int, default=32, help="replay: questions")
    parser.add_argument("--shape", choices=hf_engine.SHAPES, default="small", help="throughput: the model")
    parser.add_argument("--prompts", type=int, default=64, help="throughput: requests")
    parser.add_argument("--longest", type=int, default=512, help="throughput: longest answer")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of the hf engine")
    parser.add_argument("--compile", action="store_true", help="let vLLM compile the model")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    import torch
    import transformers
    import vllm

    torch.set_num_threads(args.threads)
    result = throughput(args) if args.part == "throughput" else replay(args)
    result |= {"benchmark": "vllm_engine", "arguments": vars(args), "vllm": vllm.__version__}
    result |= {"torch": torch.__version__, "transformers": transformers.__version__}
    result |= {"load_average": os.getloadavg()[0]}
    print(json.dumps(result))


def throughput(args: argparse.Namespace) -> dict[str, Any]:
    args.device, args.dtype = "cpu", "float32"
    model = hf_engine._model(args)
    work = hf_engine.drawn_work(args.prompts, args.longest, model.config.vocab_size, args.seed)
    useful, steps = sum(work.limits), max(work.limits)
    least = hf_engine._bytes_read(model, work) / hf_engine._bandwidth("cpu")
    print(
        f"{args.shape}: {model.num_parameters() / 1e6:.1f} M parameters, {args.prompts} prompts, {useful} tokens"
    )
    print(f"at least {steps} steps; by memory bandwidth at least {least:.2f} s")
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        _tokenizer(model.config.vocab_size).save_pretrained(folder)
        engine = load_engine(f"vllm:{folder}", max_batch=args.prompts, eager=not args.compile)

        async def together(given: hf_engine.Work) -> list[list[int]]:
            async def one(prompt: tuple[int, ...], limit: int) -> list[int]:
                return [i async for chunk in engine.stream(Continuation(prompt, limit)) for i in chunk.ids]

            return await asyncio.gather(*map(one, given.prompts, given.limits))

        def on_vllm(given: hf_engine.Work, clock: hf_engine.Clock) -> list[list[int]]:
            with clock:
                return asyncio.run(together(given))

        sides = {"hf": hf_engine._engine_side(model, args.prompts), "vllm": on_vllm}
        wall: dict[str, list[float]] = {name: [] for name in sides}
        answers: dict[str, list[list[int]]] = {}
        for side in sides.values():
            side(work.short(), hf_engine.Clock())  # warm-up
        for repeat in range(args.repeats):
            for name in sorted(sides, reverse=repeat % 2 == 1):
                clock = hf_engine.Clock()
                answers[name] = sides[name](work, clock)
                wall[name].append(clock.wall)
            shown = (
                f"{name} {wall[name][-1]:.2f} s {useful / wall[name][-1]:.0f} tokens/s" for name in sides
            )
            print("   ".join(shown), flush=True)
        asyncio.run(engine.close())
    ratio = _spread(wall["hf"], wall["vllm"])
    gaps = _gaps(model, work.prompts, answers["hf"], answers["vllm"])
    print(f"hf / vllm: {ratio}, counts allow 1; {len(gaps)} of {args.prompts} answers differ")
    for told in gaps[:3]:
        print(told)
    return {
        "useful_tokens": useful,
        "steps": steps,
        "bound_seconds": least,
        "wall": wall,
        "hf_over_vllm": ratio,
        "differing": gaps,
    }


def replay(args: argparse.Namespace) -> dict[str, Any]:
    trained = Path("runs/demo/model")
    args.model = args.model or str(trained if trained.is_dir() else world.base_model())
    engine = load_engine(f"vllm:{args.model}", max_batch=256, eager=not args.compile)
    fmt = format_of_folder(Path(args.model)) or FORMATS["petri"]
    prompts = [engine.render([{"role": "user", "content": q.text}]) for q in world.questions(args.requests)]
    policies = longest_first(policies_of(BUDGETS, WAITS, base=BASE))

    async def replayed(counting: Engine, walks: Walks) -> list[Generation]:
        async def walk(column: Sequence[Forcing]) -> list[Generation]:
            memory = ReplayCache(counting)
            return [await drive(machine, memory) for machine in column]

        generations = await asyncio.gather(*map(walk, zip(*walks, strict=True)))
        return [g for row in zip(*generations, strict=True) for g in row]

    async def at_once(counting: Engine, walks: Walks) -> list[Generation]:
        return await asyncio.gather(*(drive(m, counting) for row in walks for m in row))

    async def one_by_one(counting: Engine, walks: Walks) -> list[Generation]:
        generations: list[Generation] = []
        for machines in walks:
            generations += await at_once(counting, [machines])
            await _forget(engine)
        return generations

    works: dict[str, Callable[[Engine, Walks], Awaitable[list[Generation]]]] = {
        "one by one": one_by_one,
        "all at once": at_once,
        "one replay": replayed,
    }

    async def measure(work: Callable[[Engine, Walks], Awaitable[list[Generation]]]) -> dict[str, Any]:
        walks = [[Forcing(encode_prompt(engine, fmt, p, text)) for text in prompts] for p in policies]
        counting = Counting(engine)
        await _forget(engine)
        began = time.perf_counter()
        generations = await work(cast(Engine, counting), walks)
        seconds = time.perf_counter() - began
        return {
            "wall": seconds,
            "tokens": counting.tokens,
            "requests": counting.requests,
            "generations": generations,
        }

    asyncio.run(measure(replayed))  # warm-up
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in works}
    for repeat in range(args.repeats):
        names = list(works)
        for name in names[repeat % 3 :] + names[: repeat % 3]:
            found[name].append(asyncio.run(measure(works[name])))
    asyncio.run(engine.close())
    last = {name: runs[-1] for name, runs in found.items()}
    theory = sharing(last["one by one"]["generations"])
    rows = []
    for name in ("one by one", "all at once"):
        walls = _spread([r["wall"] for r in found[name]], [r["wall"] for r in found["one replay"]])
        gaps = _generation_gaps(args.model, last[name]["generations"], last["one replay"]["generations"])
        row = {"case": f"{len(policies)} runs {name} / one replay", "wall": walls, "theory": round(theory, 2)}
        row |= {"tokens": round(last[name]["tokens"] / last["one replay"]["tokens"], 2), "differing": gaps}
        row["seconds"] = [[round(r["wall"], 2) for r in found[n]] for n in (name, "one replay")]
        row["counts"] = [[last[n]["requests"], last[n]["tokens"]] for n in (name, "one replay")]
        rows.append(row)
        print(f"{row['case']:<36} wall {walls}  tokens {row['tokens']}  theory {row['theory']}  "
              f"counts {row['counts']}  differing {len(gaps)} of {len(policies) * args.requests}")  # fmt: skip
        for told in gaps[:3]:
            print(told)
    return {"rows": rows}


async def _forget(engine: Any) -> None:
    """Empty vLLM's prefix cache."""

    async def reset() -> None:
        await engine.llm.reset_prefix_cache()

    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(reset(), engine._beside.loop))


def _tokenizer(vocabulary: int) -> Any:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"w{n}": n for n in range(vocabulary)}, unk_token="w0"))
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1")


def _spread(slow: Sequence[float], fast: Sequence[float]) -> list[float]:
    """Ratios in pairs: median, least, most."""
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    return [round(x, 2) for x in (statistics.median(ratios), min(ratios), max(ratios))]


def _generation_gaps(folder: str, a: Sequence[Generation], b: Sequence[Generation]) -> list[str]:
    wrong = [(x, y) for x, y in zip(a, b, strict=True) if x.segments != y.segments]
    if not wrong:
        return []
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(Path(folder), dtype=torch.float32).eval()
    left, right = (
        [[i for s in g.segments for i in s.token_ids] for g in side] for side in zip(*wrong, strict=True)
    )
    return _gaps(model, [()] * len(wrong), left, right)


def _gaps(
    model: Any, prompts: Sequence[Sequence[int]], a: Sequence[Sequence[int]], b: Sequence[Sequence[int]]
) -> list[str]:
    """Where answers part, and how far apart the model itself holds the two tokens there."""
    import torch

    told = []
    for n, (prompt, x, y) in enumerate(zip(prompts, a, b, strict=True)):
        if list(x) == list(y):
            continue
        at = next((i for i, (p, q) in enumerate(zip(x, y, strict=False)) if p != q), None)
        if at is None:
            told.append(f"answer {n}: one ends after {min(len(x), len(y))} tokens, the other goes on")
            continue
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([[*prompt, *x[:at]]])).logits[0, -1].float()
        gap = abs(float(logits[x[at]] - logits[y[at]]))
        told.append(f"answer {n} parts at token {at} of {len(x)}: {x[at]} or {y[at]}, logits {gap:.1e} apart")
    return told


if __name__ == "__main__":
    main()
