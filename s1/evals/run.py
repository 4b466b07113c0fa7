"""Run policies and other methods over questions into a run folder, then grade it and compute its metrics.

Each question (and sample) walks its methods one after another on one trunk; questions run side by side,
as many as the engine likes. What is in the folder already is not done again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from s1 import runs
from s1.errors import BadConfig, S1Error, first_error
from s1.evals.benchmarks import Benchmark
from s1.evals.compare_graders import verdicts_of, with_judge
from s1.evals.metrics import metrics_of
from s1.formats import ThinkingFormat
from s1.grading import grade
from s1.grading.judge import Judge
from s1.methods import Checked, Method, Reward, Task, described
from s1.methods.budget_forcing import BudgetForcing
from s1.policy import BudgetPolicy
from s1.replay import ReplayCache, longest_first
from s1.seeds import seed_of
from s1.types import Engine, Grade, Question, Sampling, to_json

MOST_FAILURES = 0.2
"""A run in which more than this share of the first requests fails is broken, not unlucky."""
ENOUGH_TO_TELL = 20


@dataclass
class Progress:
    """How far a run is; `right` of `graded` receipts of this call, `tokens` those really decoded."""

    total: int
    done: int = 0
    graded: int = 0
    right: int = 0
    failed: int = 0
    """Requests that the engine broke off."""
    errors: int = 0
    """These, and questions that do not fit the context."""
    last_error: str = ""
    tokens: int = 0
    replayed: int = 0
    began: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run: everything that decides the result, besides the engine and the questions."""

    policies: tuple[BudgetPolicy, ...] = ()
    samples: int = 1
    sampling: Sampling = Sampling()
    """Its seed is the base from which each question and sample gets its own."""
    grading: str = "strict"
    """Extraction profile: strict, or official (SEMANTICS 3.7)."""
    methods: tuple[Method, ...] = ()
    """Other ways to scale, run after the policies on the same trunk (`s1.methods`)."""

    def __post_init__(self) -> None:
        keys = [p.key for p in self.policies] + [m.key for m in self.methods]
        if not keys or len(set(keys)) != len(keys):
            raise BadConfig(f"The policies must differ and be at least one: {keys}.", "Remove the copies.")
        if self.samples < 1:
            raise BadConfig(f"samples is {self.samples}.", "Use 1 or more.")
        if self.samples > 1 and self.sampling.temperature == 0:
            raise BadConfig(
                "Several samples at temperature 0 are the same one.", "Set a temperature above 0."
            )

    def in_order(self) -> list[Method]:
        """As a trunk runs them: the longest policy first, then the other methods, the largest first."""
        return [*map(BudgetForcing, longest_first(self.policies)), *reversed(self.methods)]


def evaluate(
    benchmark: Benchmark,
    engine: Engine,
    fmt: ThinkingFormat,
    plan: Plan,
    out: Path,
    *,
    model: str = "",
    reward: Reward | None = None,
    concurrency: int = 256,
    progress: Callable[[Progress], None] = lambda p: None,
) -> dict[str, Any]:
    """Run the plan on every question of the benchmark into the folder `out`; returns its metrics.

    Called again on the same folder it goes on where it stopped. Raises BadConfig when the folder holds
    another run, S1Error when the engine fails too often (what was done is kept).
    """
    config: dict[str, Any] = {
        "benchmark": benchmark.name,
        "benchmark_version": benchmark.version,
        "kind": benchmark.kind,
        "model": model or engine.name,
        "format": to_json(fmt),
        "policies": [{"key": p.key, "label": p.label, "kind": p.kind, **to_json(p)} for p in plan.policies],
        "samples": plan.samples,
        "sampling": to_json(plan.sampling),
        "grading": plan.grading,
    }
    for method in plan.methods:
        if isinstance(method, Checked):
            method.check(plan.sampling, reward)
    if plan.methods:
        config["policies"] += [described(m) for m in plan.methods]
        config["reward"] = reward.name if reward else None
    with runs.open_run(out, config, benchmark.questions) as run:
        asyncio.run(_run_all(run, engine, fmt, plan, reward, concurrency, progress))
        runs.finish(run)
    return grade_run(out, plan.grading)


async def _run_all(
    run: runs.Run,
    engine: Engine,
    fmt: ThinkingFormat,
    plan: Plan,
    reward: Reward | None,
    concurrency: int,
    progress: Callable[[Progress], None],
) -> None:
    done = run.done()
    kind, methods = str(run.config["kind"]), plan.in_order()
    state = Progress(len(run.questions) * plan.samples * len(methods), len(done), began=time.perf_counter())
    slots = asyncio.Semaphore(concurrency)

    async def walk(question: Question, sample: int) -> None:
        todo = [m for m in methods if (question.id, sample, m.key) not in done]
        if not todo:
            return
        async with slots:
            trunk = ReplayCache(engine)
            sampling = replace(plan.sampling, seed=_seed(plan, question, sample))
            task = Task(trunk, fmt, question, sample, sampling, kind, reward)
            for method in todo:
                before = trunk.decoded_tokens, trunk.replayed_tokens
                generation = await method.answer(task)
                run.append(generation)
                state.tokens += trunk.decoded_tokens - before[0]
                state.replayed += trunk.replayed_tokens - before[1]
                state.done += 1
                state.failed += generation.error is not None and bool(generation.segments)
                graded = await asyncio.to_thread(grade, generation, question, kind, profile=plan.grading)
                state.graded += 1
                state.errors += generation.error is not None
                state.last_error = generation.error or state.last_error
                state.right += graded.outcome == "right"
                progress(state)
                if state.failed > max(MOST_FAILURES * state.done, ENOUGH_TO_TELL * MOST_FAILURES):
                    raise S1Error(
                        f"{state.failed} of {state.done} requests failed; the last: {generation.error}",
                        "Mend that and run the same command again: what succeeded is kept.",
                    )

    try:
        async with asyncio.TaskGroup() as tasks:
            for question in run.questions:
                for sample in range(plan.samples):
                    tasks.create_task(walk(question, sample))
    except BaseExceptionGroup as group:
        raise first_error(group) from None
    if state.last_error and state.errors == state.graded:
        raise S1Error(f"No request succeeded; the last: {state.last_error}")


def _seed(plan: Plan, question: Question, sample: int) -> int | None:
    if plan.sampling.temperature == 0:
        return None
    return seed_of(plan.sampling.seed or 0, question.id, sample)


def grade_run(
    path: str | Path, profile: str | None = None, *, judge: Judge | None = None, judged_by: str = ""
) -> dict[str, Any]:
    """Grade every receipt of a run folder and write grades.jsonl and metrics.json; needs no model.

    A judge, where one is given, may call right what the grader did not find equal; `judged_by` names it.
    """
    path = Path(path)
    stored = runs.read_config(path)
    config: Mapping[str, Any] = stored["config"]
    profile = profile or str(config.get("grading", "strict"))
    questions = runs.read_questions(path)
    by_id = {q.id: q for q in questions}
    generations = runs.read_generations(path)
    grades: dict[runs.Key, Grade] = {}
    for generation in generations:
        grades[runs.key_of(generation)] = grade(
            generation, by_id[generation.question_id], str(config["kind"]), profile=profile
        )
    if judge is not None:
        grades = with_judge(grades, verdicts_of(generations, by_id, grades, judge))
        profile = f"{profile}, judged by {judged_by or 'a model'}"
    runs.write_grades(path, grades)
    metrics = metrics_of(
        generations,
        grades,
        questions,
        config["policies"],
        grading=profile,
        about={
            "model": config.get("model"),
            "benchmark": config.get("benchmark"),
            "benchmark_version": config.get("benchmark_version"),
            "questions_sha256": stored["questions"].get("sha256"),
        },
    )
    runs.write_metrics(path, metrics)
    return metrics


def policies_of(
    budgets: Sequence[int],
    waits: Sequence[int],
    *,
    base: BudgetPolicy = BudgetPolicy(),
    strings: Sequence[tuple[str, ...]] = (),
) -> tuple[BudgetPolicy, ...]:
    """The usual grid on top of `base`: each budget, the natural end, and each number of waits.

    `strings` are the wait strings to try, each a cycle; without any, those of `base`.
    """
    grid = [replace(base, max_thinking=b) for b in sorted(set(budgets))]
    grid.append(base)
    numbers = [w for w in sorted(set(waits)) if w]
    for wait in dict.fromkeys(strings or (base.wait,)):
        grid += [replace(base, waits=w, wait=wait) for w in numbers]
    return tuple(grid)
