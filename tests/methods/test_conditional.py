"""Conditional control: what the model is asked, how its steps end, what Control is measured against."""

import asyncio
import json
from dataclasses import replace

import pytest

from s1.engines.scripted import ScriptedEngine
from s1.errors import BadConfig
from s1.evals.benchmarks import load_benchmark
from s1.evals.run import policy_record
from s1.evals.run_metrics import metrics_of
from s1.evals.scaling import control
from s1.formats import FORMATS
from s1.grading import grade
from s1.methods import Task, load_method
from s1.methods.budget_forcing import BudgetForcing
from s1.methods.conditional import (
    ClassConditional,
    StepConditional,
    TokenConditional,
    step_format,
    step_line,
)
from s1.policy import BudgetPolicy
from s1.runs import SCHEMA, QuestionsFile, RunConfig, RunRecord, key_of
from s1.types import Question, Sampling

QUESTION = Question("q", "What?", "7")


def answer(method, script, fmt="petri", question=QUESTION, **engine):
    model = ScriptedEngine(script, **engine)
    found = asyncio.run(method.answer(Task(model, FORMATS[fmt], question, sampling=Sampling())))
    return found, model


def prompt(found):
    return found.segments[0].text


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        (TokenConditional(512), "What?\n\nThink for up to 512 tokens."),
        (StepConditional(16), "What?\n\nThink for up to 16 steps."),
        (ClassConditional("short"), "What?\n\nAnswer after a short amount of thinking. Do not spend"),
        (ClassConditional("long"), "What?\n\nAnswer after a long amount of thinking. If you feel like"),
    ],
)
def test_the_request_follows_the_question(method, request_):
    found, _ = answer(method, ["t</think>", " 7<|end|>"])
    assert request_ in prompt(found) and found.policy == method.key
    assert grade(found, QUESTION, "exact").outcome == "right"


def test_the_request_follows_the_choices():
    question = Question("q", "Which?\n\nA) four\nB) five", "B", choices=("four", "five"))
    found, _ = answer(TokenConditional(8), ["t</think>", " B<|end|>"], question=question)
    assert "Which?\n\nA) four\nB) five\n\nThink for up to 8 tokens.<|assistant|>" in prompt(found)


def test_choices_are_shown_once(tmp_path):
    file = tmp_path / "set.jsonl"
    file.write_text(json.dumps({"question": "Which?", "choices": ["four", "five"], "answer": "B"}))
    (question,) = load_benchmark(file).questions
    found, _ = answer(BudgetForcing(), ["t</think>", " B<|end|>"], question=question)
    assert prompt(found).count("A) four") == 1


def test_a_token_limit_binds_only_when_it_is_forced():
    script = ["t" * 20 + "</think>", " 7<|end|>"]
    free, _ = answer(TokenConditional(8), script)
    cut, _ = answer(TokenConditional(8, forced=True), script)
    assert (free.thinking_tokens, free.cut) == (20, False)
    assert (cut.thinking_tokens, cut.cut) == (8, True)
    both, _ = answer(TokenConditional(8, True, BudgetPolicy(max_thinking=0)), script)
    assert both.thinking_tokens == 0
    assert free.policy != cut.policy


STEPS = "<|im_start|>"
COUNTDOWN = f"2 steps left\nfirst\n{STEPS}1 steps left\nsecond\n{STEPS}0 steps left\nthird\n{STEPS}answer"


def test_steps_of_s1_are_opened_by_the_delimiter_that_the_model_continues():
    free, model = answer(StepConditional(2), [COUNTDOWN, "\n7<|im_end|>"], "s1", end="<|im_end|>")
    assert prompt(free).endswith(f"<|assistant|>{STEPS}")
    assert free.text_of("thinking") == COUNTDOWN.removesuffix(f"{STEPS}answer")
    assert free.text_of("delimiter") == f"{STEPS}answer\n"
    assert free.thinking_tokens == len(model.encode(free.text_of("thinking")))


def test_a_forced_count_of_steps_ends_where_step_0_begins():
    forced, _ = answer(StepConditional(2, forced=True), [COUNTDOWN, "\n7<|im_end|>"], "s1", end="<|im_end|>")
    assert forced.text_of("thinking") == f"2 steps left\nfirst\n{STEPS}1 steps left\nsecond\n"
    assert grade(forced, QUESTION, "exact").outcome == "right"
    assert not forced.cut


def test_step_10_is_not_step_0():
    script = [f"10 steps left\na\n{STEPS}9 steps left\nb\n{STEPS}answer", "\n7<|im_end|>"]
    found, _ = answer(StepConditional(10, forced=True), script, "s1", end="<|im_end|>")
    assert "9 steps left\nb" in found.text_of("thinking")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("forced", [False, True])
def test_a_model_that_carries_the_format_of_steps_is_asked_in_the_same(name, forced):
    carried = step_format(FORMATS[name])
    assert step_format(carried, forced) == step_format(FORMATS[name], forced)
    assert step_line(carried, 3) == step_line(FORMATS[name], 3)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "s1"])
def test_elsewhere_steps_are_plain_lines(name):
    fmt = FORMATS[name]
    assert step_line(fmt, 3) == "3 steps left\n"
    assert step_format(fmt).stops == fmt.stops and step_format(fmt).open == fmt.open
    assert step_format(fmt, forced=True).stops == ("\n0 steps left", *fmt.stops)
    script = ["10 steps left\na\n0 steps left\nb</think>", " 7<|end|>"]
    if name == "think":
        found, _ = answer(StepConditional(10, forced=True), script, name)
        assert found.text_of("thinking") == "10 steps left\na"


def test_a_class_can_be_forced():
    script = ["t" * 20 + "</think>", " 7<|end|>"]
    assert answer(ClassConditional("short", max_thinking=5), script)[0].thinking_tokens == 5
    longer, _ = answer(
        ClassConditional("long", min_thinking=25), [script[0], "t" * 9 + "</think>", " 7<|end|>"]
    )
    assert longer.waits == 1 and longer.thinking_tokens == 20 + len("Wait") + 9


def measured(methods, tokens):
    """Control of runs in which each method thought so many tokens."""
    found, grades = [], {}
    for method, n in zip(methods, tokens, strict=True):
        free = method.policy if isinstance(method, BudgetForcing) else BudgetPolicy()
        generation, _ = answer(BudgetForcing(free), ["t" * n + "</think>", " 7<|end|>"])
        generation = replace(generation, policy=method.key)
        found.append(generation)
        grades[key_of(generation)] = grade(generation, QUESTION, "exact")
    config = RunConfig("toy", "exact", "m", tuple(map(policy_record, methods)))
    record = RunRecord(SCHEMA, QuestionsFile(1, ""), config, ())
    metrics = metrics_of(record, [QUESTION], found, grades, draws=20)
    return next(((c.per_run, c.per_sample) for c in metrics.control), (None, None))


def test_control_of_tokens_and_of_steps_at_100_tokens_each():
    tokens = [TokenConditional(n) for n in (8, 16, 32)]
    assert measured(tokens, [9, 16, 1]) == (pytest.approx(200 / 3), pytest.approx(200 / 3))
    steps = [StepConditional(n) for n in (1, 2)]
    assert measured(steps, [101, 200]) == (50, 50)


def test_control_of_classes_is_measured_against_the_natural_end():
    both = [BudgetForcing(), ClassConditional("short"), ClassConditional("long")]
    assert measured(both, [20, 10, 30]) == (100, 100)
    assert measured(both, [20, 30, 30]) == (50, 50)
    assert measured(both, [20, 30, 10]) == (0, 0)
    assert measured(both[1:], [10, 30]) == (None, None)


def test_the_published_control_comes_out_of_the_published_tokens():
    """SEMANTICS 1: 40, 60 and 50 percent on AIME24."""

    def published(tokens, methods):
        return control((t, None, m.bounds["max_thinking"]) for t, m in zip(tokens, methods, strict=True))

    tokens = [TokenConditional(1024 * 2**i) for i in range(5)]
    assert published([7939, 7158, 8263, 7108, 7500], tokens) == 40
    forced = [TokenConditional(1024 * 2**i, forced=True) for i in range(5)]
    assert published([1024, 2048, 4031, 5664, 6330], forced) == 100
    steps = [StepConditional(16 * 2**i) for i in range(5)]
    assert published([7252, 6277, 5396, 5552, 7551], steps) == 60


@pytest.mark.parametrize(
    "spec", ["token-conditional:tokens=0", "step-conditional:steps=-1", "class-conditional:amount=middle"]
)
def test_what_cannot_be_asked_is_refused(spec):
    with pytest.raises(BadConfig):
        load_method(spec)
