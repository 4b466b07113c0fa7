"""The hf engine against transformers' own: padded generate() and continuous batching (generate_batch).

    python benchmarks/hf_engine.py [--shape small] [--prompts 64] [--longest 512] [--repeats 3] [--threads 1]
    python benchmarks/hf_engine.py --device cuda --dtype bfloat16 --shape qwen2-1.5b

Theory against generate(): a padded batch decodes every row to the longest answer, a compacted one only what is
asked for. With lengths drawn from {32, ..., 1024} that is the ratio of row-steps. The fixed cost of a step keeps
the engine below it; not copying a growing cache at every step lifts it. Against continuous batching there is
no such ratio: both decode each token once.
Theory against the hardware: each step reads all weights once and the keys and values of its rows, so that bytes
/ bandwidth is the least time. Bandwidth is that of a large copy, measured here. On a CPU whose cache holds the
weights the time may fall below it.

The three sides run in turn, in changing order, over the same weights, which are random: the text means nothing,
the cost is that of the shape. Greedy; where ids differ, the first pair and its place are printed. Each side
gets its requests with a limit of its own (generate() cannot: it takes the longest). generate_batch takes one
limit for all, so its manager, on which it is built, is used instead; its cache is sized for the
requests, since the default takes most of the memory, and starting and stopping it is not timed.
The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

SHAPES = {
    # hidden, layers, heads, key/value heads, intermediate, vocabulary
    "tiny": (64, 2, 4, 2, 128, 512),
    "small": (256, 4, 4, 2, 1024, 2048),
    "qwen2-1.5b": (1536, 28, 12, 2, 8960, 151_936),
}
LENGTHS = (32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Work:
    prompts: list[tuple[int, ...]]
    limits: list[int]

    def short(self) -> Work:
        return Work(self.prompts, [min(n, 16) for n in self.limits])


class Clock:
    """Wall and CPU seconds of what runs inside it; what a side does only once stays outside."""

    wall = cpu = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.wall = time.perf_counter() - self._began[0]
        self.cpu = time.process_time() - self._began[1]


Side = Callable[[Work, Clock], list[list[int]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--longest", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without", action="append", default=[], choices=("generate", "generate_batch"))
    args = parser.parse_args()

    import torch
    import transformers

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    model = _model(args)
    work = drawn_work(args.prompts, args.longest, model.config.vocab_size, args.seed)
    useful, longest = sum(work.limits), max(work.limits)
    padded = args.prompts * longest / useful
    bandwidth = _bandwidth(args.device)
    least = _bytes_read(model, work) / bandwidth
    print(f"{args.shape}: {model.num_parameters() / 1e6:.0f} M parameters, {args.prompts} prompts, "
          f"{useful} tokens asked for, longest {longest}")  # fmt: skip
    print(f"row-steps, padded / compacted: {padded:.2f}")
    print(f"bandwidth {bandwidth / 1e9:.0f} GB/s: at least {least:.2f} s for the compacted batch")

    sides: dict[str, Side] = {"hf": _engine_side(model, args.prompts)}
    if "generate" not in args.without:
        sides["generate"] = lambda given, clock: _generate(model, given, clock)
    if "generate_batch" not in args.without:
        sides["generate_batch"] = _manager_side(model, work)
    for name in list(sides):
        try:
            sides[name](work.short(), Clock())  # warm-up
        except Exception as error:  # a side that cannot run here is reported, the others are still measured
            print(f"{name} cannot run: {type(error).__name__}: {str(error).splitlines()[0]}")
            del sides[name]
    names = list(sides)
    wall: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    answers: dict[str, list[list[int]]] = {}
    for repeat in range(args.repeats):
        turn = repeat % len(names)
        for name in names[turn:] + names[:turn]:
            clock = Clock()
            answers[name] = sides[name](work, clock)
            wall[name].append(clock.wall)
            cpu[name].append(clock.cpu)
        shown = (f"{name} {wall[name][-1]:.2f} s {useful / wall[name][-1]:.0f} tokens/s" for name in names)
        print("   ".join(shown), flush=True)

    rows = []
    for name in names:
        if name == "hf":
            continue
        row: dict[str, Any] = {"case": f"{name} / hf", "theory": padded if name == "generate" else 1.0}
        for kind, seconds in (("wall", wall), ("cpu", cpu)):
            ratios = [a / b for a, b in zip(seconds[name], seconds["hf"], strict=True)]
            row[kind] = [round(x, 3) for x in (statistics.median(ratios), min(ratios), max(ratios))]
        row["differing"] = _differing(answers[name], answers["hf"], work.limits, name)
        rows.append(row)
        print(
            "{case:<20} wall {wall}  cpu {cpu}  theory {theory:.2f}  differing answers {differing}".format(
                **row
            )
        )
    over = statistics.median(wall["hf"]) / least
    print(f"hf / bandwidth bound: {over:.2f}")
    result = {"benchmark": "hf_engine", "arguments": vars(args), "useful_tokens": useful, "rows": rows}
    result |= {
        "wall": wall,
        "cpu": cpu,
        "bound_seconds": least,
        "bandwidth": bandwidth,
        "hf_over_bound": over,
    }
    result |= {"torch": torch.__version__, "transformers": transformers.__version__}
    result |= {"load_average": os.getloadavg()[0]}
    result["device"] = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    print(json.dumps(result))


def drawn_work(count: int, longest: int, vocabulary: int, seed: int) -> Work:
    """Prompts of 20 to 60 random tokens, and how many tokens each wants."""
    choose = random.Random(seed)
    prompts = [
        tuple(choose.randrange(3, vocabulary) for _ in range(choose.randint(20, 60))) for _ in range(count)
    ]
    return Work(prompts, [choose.choice([n for n in LENGTHS if n <= longest]) for _ in prompts])


def _model(args: argparse.Namespace) -> Any:
    import torch
    import transformers

    hidden, layers, heads, kv_heads, intermediate, vocabulary = SHAPES[args.shape]
    shape = {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": args.longest + 256,
        "eos_token_id": None,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
    }
    config = transformers.Qwen2Config(**shape)
    with torch.device(args.device):
        model = transformers.Qwen2ForCausalLM(config)
    return model.eval().to(device=args.device, dtype=getattr(torch, args.dtype))


def _bandwidth(device: str) -> float:
    """Bytes a second, read and written, of a copy that no cache holds."""
    import torch

    source = torch.ones(1 << 28 if device == "cuda" else 1 << 26, device=device)
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(4):
        _wait(device)
        begin = time.perf_counter()
        target.copy_(source)
        _wait(device)
        best = max(best, 2 * source.nbytes / (time.perf_counter() - begin))
    return best


def _wait(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def _bytes_read(model: Any, work: Work) -> float:
    """What decoding has to read: the weights once a step, and each row's keys and values once a token."""
    config = model.config
    head = config.hidden_size // config.num_attention_heads
    a_token = 2 * config.num_hidden_layers * config.num_key_value_heads * head * model.dtype.itemsize
    weights = sum(p.nbytes for p in model.parameters())
    positions = sum(
        n * len(p) + n * (n - 1) // 2 for p, n in zip(work.prompts, work.limits, strict=True)
    )  # sum of the lengths that a request has over its steps
    return weights * max(work.limits) + a_token * positions


def _engine_side(model: Any, rows: int) -> Side:
    """A new engine for each run, with nothing kept from an earlier one."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from s1.engines.hf import HFEngine
    from s1.types import Continuation

    words = Tokenizer(models.WordLevel({f"w{n}": n for n in range(model.config.vocab_size)}, unk_token="w0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)

    async def together(given: Work) -> list[list[int]]:
        engine = HFEngine(model, tokenizer, max_batch=rows)

        async def one(prompt: tuple[int, ...], limit: int) -> list[int]:
            return [i async for chunk in engine.stream(Continuation(prompt, limit)) for i in chunk.ids]

        answers = await asyncio.gather(*map(one, given.prompts, given.limits))
        await engine.close()
        return answers

    def run(given: Work, clock: Clock) -> list[list[int]]:
        with clock:
            return asyncio.run(together(given))

    return run


def _generate(model: Any, given: Work, clock: Clock) -> list[list[int]]:
    import torch

    prompts, width = given.prompts, max(map(len, given.prompts))
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    with clock:
        out = model.generate(ids, attention_mask=mask, max_new_tokens=max(given.limits), do_sample=False)
    return [row[width:][:limit] for row, limit in zip(out.tolist(), given.limits, strict=True)]


def _manager_side(model: Any, work: Work) -> Side:
    """transformers' continuous batching. On a copy, because it sets another attention on the model."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    model = copy.deepcopy(model)
    page = 64
    pages = sum(-(-(len(p) + n + 1) // page) for p, n in zip(work.prompts, work.limits, strict=True))
    sizes = ContinuousBatchingConfig(page_size=page, num_blocks=pages + 64, max_batch_tokens=4096)
    greedy = GenerationConfig(
        do_sample=False, max_new_tokens=max(work.limits), eos_token_id=-1, pad_token_id=0
    )

    def answers_of(manager: Any, given: Work) -> list[list[int]]:
        names = [
            manager.add_request(list(p), max_new_tokens=n, eos_token_id=-1)
            for p, n in zip(given.prompts, given.limits, strict=True)
        ]
        found: dict[str, list[int]] = {}
        while len(found) < len(names):
            output = manager.get_result(timeout=60)
            if output is None or output.error:
                raise RuntimeError(f"no result: {output and output.error}")
            if output.is_finished():
                found[output.request_id] = list(output.generated_tokens)
        return [found[name] for name in names]

    def run(given: Work, clock: Clock) -> list[list[int]]:
        with model.continuous_batching_context_manager(
            generation_config=greedy, continuous_batching_config=sizes, warmup=False
        ) as manager:
            answers_of(manager, Work(given.prompts[:1], [1]))  # its cache and thread are ready after this
            with clock:
                return answers_of(manager, given)

    return run


def _differing(a: Sequence[list[int]], b: Sequence[list[int]], limits: Sequence[int], name: str) -> int:
    """How many answers are not the same ids; the first is shown."""
    wrong = [n for n, limit in enumerate(limits) if a[n][:limit] != b[n]]
    for n in wrong[:1]:
        at = next((i for i, (x, y) in enumerate(zip(a[n], b[n], strict=False)) if x != y), -1)
        print(
            f"answer {n} parts at token {at} of {limits[n]}: {name} {a[n][at : at + 3]}, hf {b[n][at : at + 3]}"
        )
    return len(wrong)


if __name__ == "__main__":
    main()
