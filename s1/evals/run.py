"""Run policies and other methods over questions into a run folder, then grade it and compute its metrics.

The methods of one question and sample run one after another on one replay cache, which decodes their shared
prefix once; questions run side by side. What the folder already holds is not done again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from s1 import runs
from s1.engines.model_id import model_id
from s1.errors import BadConfig, S1Error
from s1.evals.benchmarks import Benchmark
from s1.evals.compare_graders import verdicts_of, with_judge
from s1.evals.metrics import Metrics, write_metrics
from s1.evals.run_metrics import metrics_of
from s1.formats import ThinkingFormat
from s1.grading import grade
from s1.grading.equivalence import require_for
from s1.grading.judge import Judge
from s1.methods import Method, QuestionTooLong, Reward, Task
from s1.methods.budget_forcing import BudgetForcing
from s1.methods.rollouts import side_by_side
from s1.policy import BudgetPolicy
from s1.replay import ReplayCache, longest_first
from s1.runs import Key, PolicyRecord, RunConfig
from s1.seeds import seed_of
from s1.types import Engine, Generation, Grade, Question, Sampling, to_json

MOST_FAILURES = 0.2
"""A run in which more than this share of the requests fails is stopped."""
SHOW_SECONDS = 2.0
"""Time between two calls of `progress` while no request ends: the first may take minutes."""
FEWEST_REQUESTS = 20
"""Failures are judged as if at least so many requests had been made. Requests in flight count as made, because a
failure often comes sooner than a success."""


@dataclass
class RunProgress:
    """How far a run is. `right` is out of the `graded` generations of this call, `tokens` were really decoded."""

    total: int
    done: int = 0
    graded: int = 0
    right: int = 0
    failed: int = 0
    """Requests that the engine broke off."""
    running: int = 0
    """Questions and samples in flight."""
    errors: int = 0
    """These, and questions that do not fit the context."""
    last_error: str = ""
    tokens: int = 0
    began: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run: everything that decides the result, besides the engine and the questions."""

    policies: tuple[BudgetPolicy, ...] = ()
    samples: int = 1
    sampling: Sampling = Sampling()
    """Its seed is the base from which each question and sample gets its own."""
    grading: str = "strict"
    """Profile of the extraction, also of votes: strict, or official (as the authors' code extracts answers)."""
    methods: tuple[Method, ...] = ()
    """Other ways to scale, run after the policies on the same replay cache (`s1.methods`)."""

    def __post_init__(self) -> None:
        keys = [m.key for m in self.in_tables()]
        if not keys or len(set(keys)) != len(keys):
            raise BadConfig(
                f"A plan needs at least one policy, and no policy twice: {keys}.", "Remove the copies."
            )
        if self.samples < 1:
            raise BadConfig(f"samples is {self.samples}.", "Use 1 or more.")
        if self.samples > 1 and self.sampling.temperature == 0:
            raise BadConfig("Samples at temperature 0 are all equal.", "Set a temperature above 0.")

    def in_tables(self) -> list[Method]:
        """Policies and methods in the order of tables."""
        return [*map(BudgetForcing, self.policies), *self.methods]

    def in_order(self) -> list[Method]:
        """As they run: the longest policy first, then the other methods, the largest first."""
        return [*map(BudgetForcing, longest_first(self.policies)), *reversed(self.methods)]

    def sampling_of(self, question: Question, sample: int) -> Sampling:
        """The sampling of one question and sample, with a seed of its own; greedy decoding has none."""
        if self.sampling.temperature == 0:
            return replace(self.sampling, seed=None)
        return replace(self.sampling, seed=seed_of(self.sampling.seed or 0, question.id, sample))


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
    progress: Callable[[RunProgress], None] = lambda p: None,
) -> Metrics:
    """Run the plan on every question of the benchmark into the folder `out`; returns its metrics.

    A second call on the same folder resumes where the first stopped. Raises BadConfig when the folder holds
    another run, S1Error when the engine fails too often (what was done is kept).
    """
    check_before(benchmark, plan, out, reward)
    config = RunConfig(
        benchmark=benchmark.name,
        benchmark_version=benchmark.version,
        kind=benchmark.kind,
        model=model or engine.name,
        model_id=model_id(engine.name),
        format=to_json(fmt),
        policies=tuple(map(policy_record, plan.in_tables())),
        samples=plan.samples,
        sampling=plan.sampling,
        grading=plan.grading,
        reward=reward.name if reward else None,
    )
    with runs.open_run(out, config, benchmark.questions) as run:
        grades = asyncio.run(_run_all(run, engine, fmt, plan, reward, concurrency, progress))
        run.finish()
    return grade_run(out, known=grades)


def check_before(benchmark: Benchmark, plan: Plan, out: Path, reward: Reward | None = None) -> None:
    """Raise what `evaluate` would, as far as it can be known without an engine: call it before loading one."""
    for method in plan.methods:
        method.check(plan.sampling, reward)
    require_for(benchmark.kind)
    runs.check_folder(out)


def policy_record(method: Method) -> PolicyRecord:
    """How config.json stores a policy or method: its names, every setting, and the bounds that Control measures."""
    settings = {"method": type(method).__name__, **to_json(method)}
    if isinstance(method, BudgetForcing):
        settings = to_json(method.policy)
    return PolicyRecord(
        method.key,
        method.label,
        method.kind,
        min_thinking=method.bounds.get("min_thinking"),
        max_thinking=method.bounds.get("max_thinking"),
        votes=method.votes,
        amount=settings.get("amount"),
        settings=settings,
    )


async def _run_all(
    run: runs.Run,
    engine: Engine,
    fmt: ThinkingFormat,
    plan: Plan,
    reward: Reward | None,
    concurrency: int,
    progress: Callable[[RunProgress], None],
) -> dict[Key, Grade]:
    """Everything that the run folder lacks; returns the grades of these generations."""
    done, kind, methods = run.done(), run.config.kind, plan.in_order()
    state = RunProgress(
        len(run.questions) * plan.samples * len(methods), len(done), began=time.perf_counter()
    )
    grades: dict[Key, Grade] = {}
    slots = asyncio.Semaphore(concurrency)
    caches = set[ReplayCache]()  # of the questions in flight

    def show() -> None:
        progress(replace(state, tokens=state.tokens + sum(cache.decoded_tokens for cache in caches)))

    async def keep_showing() -> None:
        while True:
            await asyncio.sleep(SHOW_SECONDS)
            if state.done < state.total:
                show()

    async def answer(question: Question, sample: int) -> None:
        """The missing methods of one question and sample, on one replay cache."""
        todo = [m for m in methods if (question.id, sample, m.key) not in done]
        if not todo:
            return
        async with slots:
            cache = ReplayCache(engine)
            caches.add(cache)
            drawn = plan.sampling_of(question, sample)
            task = Task(cache, fmt, question, sample, drawn, kind, reward, plan.grading)
            state.running += 1
            for method in todo:
                try:
                    generation = await method.answer(task)
                except QuestionTooLong as error:
                    generation = Generation(
                        question.id, sample, method.key, (), 0, 0, 0, 0, False, None, error=str(error)
                    )
                run.append(generation)
                state.done += 1
                state.failed += generation.error is not None and bool(generation.segments)
                found = await asyncio.to_thread(grade, generation, question, kind, profile=plan.grading)
                grades[runs.key_of(generation)] = found
                state.graded += 1
                state.errors += generation.error is not None
                state.last_error = generation.error or state.last_error
                state.right += found.outcome == "right"
                show()
                made = state.done + state.running - 1
                if state.failed > MOST_FAILURES * max(made, FEWEST_REQUESTS):
                    raise S1Error(
                        f"{state.failed} of {state.done} requests failed. The last error: {generation.error}",
                        "Fix this, then rerun the command to resume; what succeeded is kept.",
                    )
            state.running -= 1
            state.tokens += cache.decoded_tokens
            caches.remove(cache)

    showing = asyncio.create_task(keep_showing())
    try:
        await side_by_side(
            answer(question, sample) for question in run.questions for sample in range(plan.samples)
        )
    finally:
        showing.cancel()
    if state.last_error and state.errors == state.graded:
        raise S1Error(f"No request succeeded. The last error: {state.last_error}")
    return grades


def grade_run(
    path: str | Path,
    profile: str | None = None,
    *,
    judge: Judge | None = None,
    judged_by: str = "a model",
    known: Mapping[Key, Grade] | None = None,
) -> Metrics:
    """Grade a run folder and write grades.jsonl and metrics.json; needs no model.

    `profile` overrides that of the run. Raises BadConfig where votes were taken under that of the
    run: another rollout might win under this one. `judge`, named `judged_by`, may call right what the grader
    did not find equal. `known` are grades of this profile that need not be computed again.
    """
    record, questions = runs.read_config(path), runs.read_questions(path)
    profile = profile or record.config.grading
    voted = [p.label for p in record.config.policies if p.votes]
    if voted and profile != record.config.grading:
        raise BadConfig(
            f"{path}: {', '.join(map(repr, voted))} voted on answers extracted as {record.config.grading!r}. Under "
            f"{profile!r} other rollouts may win, and a report does not vote again.",
            f"Run the command again with --grading {profile} and another --out, or report without --grading.",
        )
    by_id = {q.id: q for q in questions}
    generations = runs.read_generations(path)
    grades: dict[Key, Grade] = {}
    for generation in generations:
        key, question = runs.key_of(generation), by_id[generation.question_id]
        found = (known or {}).get(key)
        grades[key] = found or grade(generation, question, record.config.kind, profile=profile)
    if judge is not None:
        grades = with_judge(grades, verdicts_of(generations, by_id, grades, judge))
        profile = f"{profile}, judged by {judged_by}"
    runs.write_grades(path, grades)
    metrics = metrics_of(record, questions, generations, grades, grading=profile)
    write_metrics(path, metrics)
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
