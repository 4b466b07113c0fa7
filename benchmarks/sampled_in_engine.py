"""Whether samples forced inside vLLM have the distribution of samples forced from outside, on SmolLM2.

    python -m scripts.smollm2.parity convert FOLDER                     (in the environment of s1)
    .venv-vllm/bin/python benchmarks/sampled_in_engine.py FOLDER [--samples 1000] [--first-seed 0]

One question, temperature 1, one Wait, thinking of at most 48 tokens. Three statistics of a sample: how many tokens come
before the Wait, which token comes first after it, and how long the whole thinking is. Each is counted over the samples
of both ways and compared by a chi-squared test of two samples. Results: docs/guides/vllm.md.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Hashable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from serve_vllm import serve  # noqa: E402

from s1.budget import Forcing  # noqa: E402
from s1.drive import drive  # noqa: E402
from s1.engines import load_engine  # noqa: E402
from s1.formats import FORMATS, open_prompt  # noqa: E402
from s1.policy import BudgetPolicy  # noqa: E402
from s1.prompt import encode_prompt  # noqa: E402
from s1.types import Engine, Sampling  # noqa: E402

QUESTION = "Name one colour."
POLICY = BudgetPolicy(max_thinking=48, waits=1, max_answer=1)
AT_ONCE, FEWEST = 64, 10
"""Requests at once; values seen less often than this are counted together."""
STATISTICS = ("tokens before Wait", "token after Wait", "tokens of thinking")
Counts = dict[str, Counter[Hashable]]


class Rounds(Forcing):
    """Forced from outside."""

    by_rounds = True


def both_ways(url: str, samples: int, first_seed: int = 0) -> tuple[Counts, Counts]:
    """The statistics of so many samples from a server with the plug-in: forced inside it, and from outside."""
    engine = load_engine(f"openai:{url}")
    prompt = engine.render([{"role": "user", "content": QUESTION}])

    async def every() -> tuple[Counts, Counts]:
        inside = await _inside(engine, url, prompt, range(first_seed, first_seed + samples))
        outside = await _outside(engine, prompt, range(first_seed, first_seed + samples))
        await engine.close()
        return _counts(engine, inside), _counts(engine, outside)

    return asyncio.run(every())


async def _inside(engine: Engine, url: str, prompt: str, seeds: range) -> list[list[int]]:
    import openai

    ids = list(engine.encode(open_prompt(prompt, FORMATS["s1"])))
    budget = {"max_thinking": POLICY.max_thinking, "waits": 1, "wait": "Wait", "thinking_format": "s1"}
    more = {
        "vllm_xargs": budget,
        "return_token_ids": True,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
    }
    found = []
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=600) as client:
        for start in seeds[::AT_ONCE]:
            reply = await client.completions.create(
                model="petri", prompt=ids, n=min(AT_ONCE, seeds.stop - start), max_tokens=64,
                temperature=1.0, top_p=1.0, seed=start, extra_body=more,
            )  # fmt: skip
            found += [choice.model_extra["token_ids"] for choice in reply.choices]  # type: ignore[index]
    return found


async def _outside(engine: Engine, prompt: str, seeds: range) -> list[list[int]]:
    encoded = encode_prompt(engine, FORMATS["s1"], POLICY, prompt)
    places = asyncio.Semaphore(AT_ONCE)

    async def one(seed: int) -> list[int]:
        async with places:
            made = await drive(Rounds(encoded, Sampling(1.0, seed=seed)), engine)
        assert made.error is None, made.error
        return [i for segment in made.segments if segment.phase != "prompt" for i in segment.token_ids]

    return list(await asyncio.gather(*map(one, seeds)))


def _counts(engine: Engine, outputs: list[list[int]]) -> Counts:
    wait, close = list(engine.encode("Wait")), engine.encode(FORMATS["s1"].close)[0]
    counts: Counts = {name: Counter() for name in STATISTICS}
    for ids in outputs:
        thinking = ids[: ids.index(close)]
        places = (n for n in range(len(thinking)) if thinking[n : n + len(wait)] == wait)
        at = next(places, None)
        after = None if at is None else ids[at + len(wait)]
        for name, value in zip(STATISTICS, (at, after, len(thinking)), strict=True):
            counts[name][value] += 1
    return counts


def chi_squared(one: Counter[Hashable], other: Counter[Hashable]) -> tuple[float, int, float]:
    """Statistic, degrees of freedom and p-value of the test that both were drawn from one distribution."""
    import torch

    both = one + other
    frequent = [value for value, count in both.items() if count >= FEWEST]
    cells = [(one[value], other[value]) for value in frequent]
    rest = (one.total() - sum(a for a, _ in cells), other.total() - sum(b for _, b in cells))
    table = torch.tensor([*cells, rest] if sum(rest) else cells, dtype=torch.double)
    expected = table.sum(1, keepdim=True) * table.sum(0, keepdim=True) / table.sum()
    statistic, freedom = float(((table - expected) ** 2 / expected).sum()), len(table) - 1
    if not freedom:
        return 0.0, 0, 1.0
    return (
        statistic,
        freedom,
        float(torch.special.gammaincc(torch.tensor(freedom / 2), torch.tensor(statistic / 2))),
    )


def main() -> None:
    """Print a line for each statistic."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--first-seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work, serve(options.folder, Path(work), *OPTIONS) as running:
        inside, outside = both_ways(running.url, options.samples, options.first_seed)
    for name in STATISTICS:
        statistic, freedom, p = chi_squared(inside[name], outside[name])
        print(f"{name}: chi-squared {statistic:.1f}, {freedom} degrees of freedom, p = {p:.3f}")
        print(f"  inside  {inside[name].most_common(12)}\n  outside {outside[name].most_common(12)}")


OPTIONS = ("--max-model-len", "1024", "--no-async-scheduling", "--max-num-batched-tokens", "16384")
"""Of the server: format s1 needs the last token, which the older runner shows only without asynchronous scheduling.
On a CPU vLLM 0.32 dies of a request with a seed whose prompt it reads in several steps, hence so many tokens a step."""

if __name__ == "__main__":
    main()
