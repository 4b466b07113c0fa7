"""What metrics.json holds, as types; docs/formats.md describes every field.

Accuracies, bounds, shares and differences are in percent or percentage points.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from s1 import runs
from s1.errors import BadInput
from s1.jsonl import read_json, write_json

SCHEMA = 3


@dataclass(frozen=True, slots=True)
class Slope:
    """A slope of accuracy over thinking tokens with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class MeanSpent:
    """Means of what a method spent on one answer; for plain forcing the generation's own tokens."""

    thinking: float | None
    """Thinking tokens of all rollouts."""
    answer: float | None
    reward: float | None
    rollouts: float | None
    failed: float | None


@dataclass(frozen=True, slots=True)
class Point:
    """One dot of the curve: one policy over all questions that count. None where nothing was measured."""

    key: str
    label: str
    kind: str
    max_thinking: int | None
    min_thinking: int | None
    waits: int
    wait: tuple[str, ...]
    n: int
    """Questions."""
    accuracy: float | None
    """Everything but "right" counts as wrong."""
    low: float | None
    high: float | None
    interval: str | None
    """The kind of interval: "clopper-pearson"."""
    accuracy_best: float | None
    """With the outcomes cut, no answer and error counted as right."""
    thinking_tokens: float | None
    """Mean over the generations without an error, as are all means below."""
    thinking_tokens_median: float | None
    thinking_tokens_max: int | None
    spent: MeanSpent
    answer_tokens: float | None
    waits_appended: float | None
    forced_share: float | None
    """Percent of the tokens after the prompt that the forcing appended; None without token ids."""
    cut_share: float | None
    outcomes: Mapping[str, int]
    seconds: float | None
    exact: bool
    """False where any token count is an estimate."""
    pass_at_k: Mapping[str, float] | None = None
    """Percent for k = "1", "2", "4", ... and all samples; None with one sample."""
    maj_at_k: Mapping[str, float] | None = None

    @property
    def cost(self) -> float:
        """Mean thinking tokens of all rollouts, 0 where nothing was measured."""
        return self.spent.thinking or 0.0

    @property
    def price(self) -> float:
        """Mean tokens of all rollouts: thinking, answer and reward model."""
        return sum(each or 0.0 for each in (self.spent.thinking, self.spent.answer, self.spent.reward))


@dataclass(frozen=True, slots=True)
class MethodControl:
    """Control of one method (section 3.2), over its policies that have a bound."""

    method: str
    """ "budget forcing", or the kind of another method."""
    policies: int
    """How many of them have a bound."""
    per_run: float
    """Percent of these whose mean thinking is within the bound, as in the paper."""
    per_sample: float | None
    """Percent of their generations whose thinking is; None where all failed."""


@dataclass(frozen=True, slots=True)
class Flip:
    """What changed from one policy to another on the same questions."""

    before: str
    """Keys of the two policies."""
    after: str
    n: int
    wrong_to_right: int
    right_to_wrong: int
    p: float | None
    """Exact two-sided McNemar test; None with several samples, which are not independent evidence."""
    difference: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class FallenQuestion:
    """A question that was right at one budget and wrong at a larger one."""

    question_id: str
    sample: int
    right: tuple[bool, ...]
    """At each policy of the ladder."""


@dataclass(frozen=True, slots=True)
class BudgetLadder:
    """Policies of rising budget on the same questions, and the questions whose correctness is not monotone in it.

    A question counts once for each sample, because the policies of a sample share their tokens.
    """

    policies: tuple[str, ...]
    """Keys: the budgets and the natural end, or the natural end and the waits with one string."""
    n: int
    """Questions."""
    not_monotone: float
    """Percent of the questions, and its interval."""
    low: float
    high: float
    questions: tuple[FallenQuestion, ...]


@dataclass(frozen=True, slots=True)
class Advice:
    """Which policy to use. All names are keys."""

    policy: str
    """The cheapest that is, with 95 % confidence, not worse than the best by more than `margin` points.

    Found by going from the best to the next cheaper one for as long as that is shown, so the 95 % hold for the
    whole search and not only for each test.
    """
    best: str
    """The highest accuracy; the cheapest of equals."""
    margin: float
    difference_low: float
    """The lower bound that supports this choice."""
    candidate: str | None
    """The next cheaper policy, if it looks as good but is not shown to be."""
    questions_needed: int | None
    """How many questions would show it with 80 % power."""
    rivals: tuple[str, ...] = ()
    """Policies that are not shown to be worse than the best, with 95 % confidence over all pairs of policies."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """All numbers of one run. Only questions that every policy has finished in every sample count."""

    schema: int
    model: str
    benchmark: str
    benchmark_version: str
    questions_sha256: str
    grading: str
    """Profile of the extraction: "strict", "official", or either with ", judged by NAME"."""
    exact: bool
    questions: int
    complete: int
    """Questions that count."""
    done: int
    """Generations that are there, of all policies."""
    expected: int
    """Generations of the finished run. Before they are all there, `performance` and `advice` are None."""
    samples: int
    confidence: float
    points: tuple[Point, ...]
    """In the order of the run's policies."""
    control: tuple[MethodControl, ...]
    """One for each method that has a bound, in the order of the points; methods are never mixed."""
    scaling_per_doubling: Slope | None
    robust_scaling_per_doubling: Slope | None
    scaling_per_1k: Slope | None
    robust_scaling_per_1k: Slope | None
    performance: float | None
    flips: tuple[Flip, ...]
    smallest_difference: float | None
    advice: Advice | None
    ladders: tuple[BudgetLadder, ...] = ()

    @property
    def finished(self) -> bool:
        return self.done >= self.expected

    def point(self, key: str) -> Point:
        """The point of the policy with this key. Raises KeyError."""
        return {p.key: p for p in self.points}[key]


def write_metrics(path: str | Path, metrics: Metrics) -> None:
    """Replace metrics.json of a run folder."""
    write_json(Path(path) / runs.METRICS, metrics)


def read_metrics(path: str | Path) -> Metrics:
    """metrics.json of a run folder. Raises BadInput when the run was not graded yet, or by an older version."""
    try:
        return read_json(Metrics, runs.existing(path, runs.METRICS))
    except BadInput as error:
        raise BadInput(error.message, error.hint or f"Grade the run again: s1 report {path}.") from None
