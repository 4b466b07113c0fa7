"""What the measurements of `forcing.py` and `vllm_engine.py` share: two sides timed in turn, and the work counted."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from s1.budget import Forcing
from s1.drive import drive
from s1.formats import ThinkingFormat
from s1.policy import BudgetPolicy
from s1.prompt import encode_prompt
from s1.types import Engine, Generation

BUDGETS = (8, 16, 24, 32, 48, 64, 96, 128)
WAITS = (1, 2, 4)
BASE = BudgetPolicy(max_answer=12)


@dataclass(frozen=True)
class Side:
    """One side of a ratio: what to make beforehand, and what to do with it on a new engine."""

    make: Callable[[], Any]
    work: Callable[[Engine, Any], Any]
    rows: int


class Timed:
    """A model whose forward calls are timed."""

    def __init__(self, model: Any) -> None:
        self.model, self.seconds = model, 0.0

    def __call__(self, **given: Any) -> Any:
        return self._timed(self.model, given)

    def base_model(self, **given: Any) -> Any:
        return self._timed(self.model.base_model, given)

    def _timed(self, call: Callable[..., Any], given: dict[str, Any]) -> Any:
        began = time.perf_counter()
        out = call(**given)
        self.seconds += time.perf_counter() - began
        return out


@dataclass(frozen=True)
class Bench:
    loaded: Any
    fmt: ThinkingFormat
    prompts: list[str]
    repeats: int
    cost: tuple[float, float] = (0.0, 0.0)
    """Seconds of a step, and of a row in it."""

    def forcings(self, policy: BudgetPolicy) -> list[Forcing]:
        return [Forcing(encode_prompt(self.loaded, self.fmt, policy, p)) for p in self.prompts]

    def engine(self, rows: int) -> Any:
        from s1.engines.hf import HFEngine

        return HFEngine(self.loaded.model, self.loaded.tokenizer, max_batch=rows)

    def measure(self, side: Side) -> dict[str, Any]:
        engine = self.engine(side.rows)
        model = engine.batch.model = Timed(engine.model)
        given = side.make()

        async def run() -> Any:
            result = await side.work(engine, given)
            await engine.close()
            return result

        wall, cpu = time.perf_counter(), time.process_time()
        result = asyncio.run(run())
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        counts = engine.counts
        found = {"wall": wall, "cpu": cpu, "outside": wall - model.seconds, "result": result}
        return found | {"steps": counts.steps, "tokens": counts.decoded, "fed": counts.prefilled}

    def turns(self, sides: dict[str, Side], repeats: int) -> dict[str, list[dict[str, Any]]]:
        """Every side `repeats` times, the one that begins changing."""
        names = list(sides)
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for repeat in range(repeats):
            first = repeat % len(names)
            for name in names[first:] + names[:first]:
                found[name].append(self.measure(sides[name]))
        return found

    def compare(self, case: str, slow: Side, fast: Side, goal: str, theory: Any = None) -> dict[str, Any]:
        """Ratios slow / fast in pairs: median, least, most. theory: None means the ratio of steps."""
        found = self.turns({"slow": slow, "fast": fast}, self.repeats)
        a, b = found["slow"][-1], found["fast"][-1]
        row: dict[str, Any] = {"case": case, "goal": goal}
        for kind in ("wall", "cpu"):
            row[kind] = spread(x[kind] / y[kind] for x, y in zip(found["slow"], found["fast"], strict=True))
        row |= {name: a[name] / b[name] for name in ("steps", "tokens")}
        row["theory"] = theory(a["result"]) if callable(theory) else theory or row["steps"]
        step, per_row = self.cost
        seconds = [step * x["steps"] + per_row * (x["tokens"] + x["fed"]) for x in (a, b)]
        row["model"] = seconds[0] / seconds[1] if step else None
        row["seconds"] = [[round(x["wall"], 3) for x in found[name]] for name in ("slow", "fast")]
        row["counts"] = [[x["steps"], x["tokens"], x["fed"]] for x in (a, b)]
        both = zip(a["result"] or (), b["result"] or (), strict=False)
        row["differing"] = sum(x.segments != y.segments for x, y in both)
        shown = "  ".join("{} {:.3f} ({:.3f}-{:.3f})".format(name, *row[name]) for name in ("wall", "cpu"))
        numbers = "  ".join(f"{n} {row[n]:.2f}" for n in ("theory", "steps", "tokens", "model") if row[n])
        print(f"{case:<48} {shown}  {numbers}  goal {goal}  differing {row['differing']}", flush=True)
        return row


async def driven(engine: Engine, machines: Sequence[Forcing]) -> list[Generation]:
    return await asyncio.gather(*(drive(m, engine) for m in machines))


def spread(ratios: Iterable[float]) -> list[float]:
    found = sorted(ratios)
    return [round(x, 4) for x in (statistics.median(found), found[0], found[-1])]


def tokens_of(generation: Generation) -> int:
    """Tokens after the prompt, forced ones included, and the stop at the end."""
    return sum(len(s.token_ids) for s in generation.segments[1:]) + (generation.finish == "stop")


def draws(generation: Generation) -> int:
    """Tokens drawn for a generation: the model's own, and each stop that ended one of its spans."""
    own = sum(len(s.token_ids) for s in generation.segments if s.by == "model" and s.phase != "delimiter")
    return own + generation.waits + (not generation.cut) + (generation.finish == "stop")


def sharing(generations: Sequence[Generation]) -> float:
    """Draws / draws after distinct prefixes, which are the least that decode every generation once."""
    seen = set()
    for generation in generations:
        path = 0
        for n, segment in enumerate(generation.segments):
            wait = segment.phase == "thinking" and segment.by == "forced"
            begins = segment.phase == "delimiter" and generation.segments[n - 1].phase == "thinking"
            if wait or (begins and not generation.cut):
                seen.add(path)  # the stop that was drawn here
            for token in segment.token_ids:
                seen |= {path} if segment.by == "model" and segment.phase != "delimiter" else set()
                path = hash((path, token))
        seen |= {path} if generation.finish == "stop" else set()
    return sum(map(draws, generations)) / len(seen)
