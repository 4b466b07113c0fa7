"""The metrics against the paper's published values, against brute force, and on their edges."""

import itertools
import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s1.errors import BadInput
from s1.evals.at_k import maj_at_k, pass_at_k
from s1.evals.intervals import (
    accuracy_interval,
    clopper_pearson,
    flips,
    mcnemar,
    paired_difference,
    smallest_difference,
    weights,
)
from s1.evals.metrics import MethodControl, Metrics, read_metrics, write_metrics
from s1.evals.run_metrics import metrics_of
from s1.evals.scaling import control, performance, robust_scaling, scaling
from s1.methods.voting import Vote, winners
from s1.report.curve import candidate_text, caption_of
from s1.report.text import metrics_text
from s1.runs import SCHEMA, PolicyRecord, QuestionsFile, RunConfig, RunRecord, open_run
from s1.types import Generation, Grade, Question, Segment, Spent, from_json, to_json

# Thinking tokens, right answers of 30 on AIME24, bounds of each run, then the published Control, Scaling per
# doubling as recomputed and as printed, and points per 1,000 tokens.
ROWS = {
    "token-conditional": (
        [7939, 7158, 8263, 7108, 7500],
        [8, 9, 10, 10, 12],
        ([None] * 5, [1024, 2048, 4096, 8192, 16384]),
        (40, -23.77, -24, -4.82),
    ),
    "token-conditional with forcing": (
        [1024, 2048, 4031, 5664, 6330],
        [1, 9, 10, 10, 12],
        ([None] * 5, [1024, 2048, 4096, 8192, 16384]),
        (100, 13.16, 13, 6.72),
    ),
    "step-conditional": (
        [7252, 6277, 5396, 5552, 7551],
        [10, 7, 10, 11, 10],
        ([None] * 5, [1600, 3200, 6400, 12800, 25600]),
        (60, 2.93, 3, 0.61),
    ),
    "class-conditional": ([8033, 9651], [9, 11], ([None, 6109], [6109, None]), (50, 25.18, 25, 4.12)),
}


@pytest.mark.parametrize("name", ROWS)
def test_the_rows_of_the_paper_come_out_as_published(name):
    tokens, right, (low, high), (published_control, doubling, printed, per_1k) = ROWS[name]
    accuracies = [100 * r / 30 for r in right]
    assert control(zip(tokens, low, high, strict=True)) == published_control
    assert scaling(tokens, accuracies, per="doubling") == pytest.approx(doubling, abs=0.005)
    assert round(scaling(tokens, accuracies)) == printed, "doubling is the default"
    assert scaling(tokens, accuracies, per="1k") == pytest.approx(per_1k, abs=0.005)
    assert performance(accuracies) == max(accuracies)


@given(
    st.lists(st.integers(1, 99_999), min_size=2, max_size=8, unique=True),
    st.floats(-50, 50),
    st.randoms(use_true_random=False),
)
def test_a_straight_line_has_its_slope_in_any_order(tokens, slope, shuffle):
    line = [(t, 10 + slope * math.log2(t)) for t in tokens]
    shuffle.shuffle(line)
    x, y = zip(*line, strict=True)
    assert scaling(x, y) == pytest.approx(slope, abs=1e-6)
    assert robust_scaling(x, y) == pytest.approx(slope, abs=1e-6)
    assert scaling(x, [0.01 * t for t in x], per="1k") == pytest.approx(10)


def test_one_outlier_moves_the_mean_slope_and_not_the_robust_one():
    tokens, accuracies = [100, 200, 400, 800, 1600, 1601], [10, 20, 30, 40, 50, 40]
    assert scaling(tokens, accuracies) < -500
    assert robust_scaling(tokens, accuracies) == pytest.approx(10, abs=1)


def test_runs_without_a_slope_are_left_out_or_refused():
    assert scaling([100, 100, 200], [10, 30, 20]) == 0
    assert scaling([100, 100], [10, 30]) is None and scaling([5], [1]) is None and scaling([], []) is None
    assert scaling([0, 1000], [10, 30], per="1k") == 20
    with pytest.raises(BadInput, match="0 thinking tokens"):
        scaling([0, 100], [10, 30])
    with pytest.raises(ValueError):
        scaling([1, 2], [1])


def test_control_counts_both_bounds_as_inside():
    assert control((t, None, 16) for t in (10, 16, 17)) == pytest.approx(200 / 3)
    assert control((t, 10, 16) for t in (10, 16, 17)) == pytest.approx(200 / 3)
    assert control([(9, 10, None)]) == 0 and control([]) is None and control([(3, None, None)]) == 100
    assert performance([]) is None


# Intervals ------------------------------------------------------------------------------------------------


def test_bootstrap_weights_draw_n_of_n():
    blocks = list(weights(7, draws=2500, seed=3))
    assert [b.shape for b in blocks] == [(1000, 7), (1000, 7), (500, 7)]
    rows = np.concatenate(blocks)
    assert np.allclose(rows.sum(axis=1), 1) and np.allclose(rows * 7, np.round(rows * 7))
    assert abs(rows.mean() - 1 / 7) < 1e-12 and rows.std() > 0.1


def test_the_interval_agrees_with_theory_and_repeats():
    scores = [1.0] * 240 + [0.0] * 160
    one, two = accuracy_interval(scores), accuracy_interval(scores)
    assert one == two and one.mean == 0.6
    half = 1.96 * math.sqrt(0.6 * 0.4 / 400)
    assert one.low == pytest.approx(0.6 - half, abs=0.005)
    assert one.high == pytest.approx(0.6 + half, abs=0.005)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        (0, 30, 0, 0.1157),
        (1, 30, 0.0008, 0.1722),
        (15, 30, 0.3130, 0.6870),
        (30, 30, 0.8843, 1),
        (1, 1, 0.025, 1),
    ],
)
def test_one_sample_gives_the_tables_of_clopper_and_pearson(right, n, low, high):
    found = accuracy_interval([1.0] * right + [0.0] * (n - right))
    assert found[1:3] == pytest.approx((low, high), abs=1e-4)
    assert found[1:3] == clopper_pearson(right, n)


@given(st.integers(1, 60), st.integers(0, 60), st.floats(0.5, 0.999))
def test_the_bounds_are_where_the_binomial_tails_are(n, right, confidence):
    """Against exact sums of binomial probabilities."""
    right = min(right, n)
    low, high = clopper_pearson(right, n, confidence)
    tail = (1 - confidence) / 2
    if right:
        upper = sum(math.comb(n, i) * low**i * (1 - low) ** (n - i) for i in range(right, n + 1))
        assert upper == pytest.approx(tail, rel=1e-5, abs=1e-8)
    if right < n:
        lower = sum(math.comb(n, i) * high**i * (1 - high) ** (n - i) for i in range(right + 1))
        assert lower == pytest.approx(tail, rel=1e-5, abs=1e-8)


@given(st.integers(2, 200), st.sampled_from([1, 2, 4, 8, 64]))
def test_the_first_success_never_narrows_the_interval(n, samples):
    none, one = accuracy_interval([0.0] * n), accuracy_interval([1 / samples] + [0.0] * (n - 1))
    assert one.high >= none.high
    all_right, but_one = accuracy_interval([1.0] * n), accuracy_interval([1 - 1 / samples] + [1.0] * (n - 1))
    assert but_one.low <= all_right.low
    with pytest.raises(BadInput, match="no scores"):
        accuracy_interval([])


def test_equal_scores_between_the_ends_have_a_width_and_samples_narrow_it():
    three = accuracy_interval([0.5] * 3)
    assert three.low < 0.2 and three.high > 0.8
    mixed = [(i % 9) / 8 for i in range(60)]
    once = [float(i % 2) for i in range(60)]
    width = [found.high - found.low for found in (accuracy_interval(mixed), accuracy_interval(once))]
    assert width[0] < 0.8 * width[1]


@pytest.mark.parametrize("accuracy", [0.02, 0.05, 0.5, 0.95])
@pytest.mark.parametrize("within", [0.05, 0.3, 0.9])
def test_the_interval_covers_the_truth_with_8_samples_of_30_questions(accuracy, within):
    """`within` is the correlation of the samples of a question. 600 trials: below 547 has a chance of 1e-4 at 95 %."""
    rng = np.random.default_rng(7)
    spread = (1 - within) / within
    each = rng.beta(accuracy * spread, (1 - accuracy) * spread, size=(600, 30))
    found = [accuracy_interval(list(row)) for row in rng.binomial(8, each) / 8]
    assert sum(low <= accuracy <= high for _, low, high, _ in found) >= 547


@pytest.mark.parametrize(("gained", "lost"), [(0.0, 0.0), (0.03, 0.0), (0.1, 0.1), (0.3, 0.02)])
def test_the_interval_of_a_difference_covers_the_truth(gained, lost):
    rng = np.random.default_rng(8)
    covered = 0
    for _ in range(300):
        draw = rng.random(30)
        before = [float(gained <= u < 0.5 + gained) for u in draw]
        after = [1.0 if u < gained else 0.0 if u < gained + lost else before[i] for i, u in enumerate(draw)]
        found = paired_difference(before, after)
        covered += found.low <= gained - lost <= found.high
    assert covered >= 268, "below has a chance of 1e-4 at 95 %"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=40))
def test_an_interval_holds_its_mean_and_stays_inside_0_and_1(scores):
    mean, low, high, _ = accuracy_interval(scores)
    assert 0 <= low <= mean + 1e-12 and mean - 1e-12 <= high <= 1


def test_pairing_narrows_the_difference_of_two_runs_that_agree_mostly():
    before = [float(i % 2) for i in range(200)]
    after = [1.0 if i < 20 else before[i] for i in range(200)]
    paired = paired_difference(before, after)
    assert paired.mean == pytest.approx(0.05) and 0.015 < paired.low < 0.03 and 0.07 < paired.high < 0.1
    same = paired_difference(before, before)
    assert same.mean == 0 and -0.03 < same.low < 0 < same.high < 0.03


def test_lists_of_different_lengths_are_not_compared():
    for compare in (paired_difference, flips):
        with pytest.raises(ValueError):
            compare([1, 0, 1], [1, 0])
    with pytest.raises(BadInput, match="no scores"):
        paired_difference([], [])


def test_flips_and_their_exact_p():
    before, after = [0, 0, 0, 1, 1, 0], [1, 1, 0, 1, 0, 1]
    assert flips(before, after)[:2] == (3, 1)
    assert flips(before, after).p == pytest.approx(0.625)
    assert mcnemar(34, 5) == pytest.approx(2e-6, rel=0.3)
    assert mcnemar(18, 0) == pytest.approx(2**-17) and mcnemar(0, 0) == 1 and mcnemar(4, 4) == 1


@pytest.mark.parametrize("n", range(11))
def test_mcnemar_is_the_share_of_coin_throws_at_least_as_uneven(n):
    throws = [sum(coins) for coins in itertools.product((0, 1), repeat=n)]
    for gained in range(n + 1):
        uneven = [abs(2 * heads - n) >= abs(2 * gained - n) for heads in throws]
        assert mcnemar(gained, n - gained) == pytest.approx(sum(uneven) / len(uneven))


def test_smallest_difference_is_one_that_is_found_four_times_in_five():
    n, rng = 400, np.random.default_rng(0)
    d = smallest_difference(n, discordant=0.2)
    gained = rng.multinomial(n, [0.1 + d / 2, 0.1 - d / 2, 0.8], size=2000)
    power = np.mean([mcnemar(int(g), int(lost)) < 0.05 for g, lost, _ in gained])
    assert 0.74 < power < 0.86
    assert smallest_difference(30) > 0.22 and smallest_difference(1) == 1


def test_smallest_difference_with_several_samples_is_found_four_times_in_five():
    n, samples, rng = 300, 8, np.random.default_rng(0)
    base = rng.beta(2, 2, size=n)

    def differences(shift, runs):
        shares = [rng.binomial(samples, np.clip(base + s, 0, 1), size=(runs, n)) for s in (0, shift)]
        return (shares[1] - shares[0]) / samples

    square = float(np.mean(differences(0, 500) ** 2))
    d = smallest_difference(n, discordant=square, step=1 / samples)
    found = differences(d, 2000)
    power = np.mean(np.abs(found.mean(axis=1)) > 1.96 * found.std(axis=1) / math.sqrt(n))
    assert 0.74 < power < 0.86


# Several samples ------------------------------------------------------------------------------------------


@given(st.integers(1, 7), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_hit(n, data):
    right, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    subsets = list(itertools.combinations([i < right for i in range(n)], k))
    assert pass_at_k(n, right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


@settings(deadline=None)
@given(st.lists(st.sampled_from(["R", "R2", "a", "b", "c", None]), min_size=1, max_size=8), st.data())
def test_maj_at_k_is_the_mean_vote_over_all_subsets(answers, data):
    k = data.draw(st.integers(1, len(answers)))
    right = [a in ("R", "R2") for a in answers]

    def vote(subset):
        counts = {}
        for a in subset:
            if a is not None:
                a = "R" if a == "R2" else a
                counts[a] = counts.get(a, 0) + 1
        top = [a for a, c in counts.items() if c == max(counts.values())]
        return top.count("R") / len(top) if top else 0

    subsets = list(itertools.combinations(answers, k))
    assert maj_at_k(answers, right, k) == pytest.approx(sum(map(vote, subsets)) / len(subsets))


HALVES = ["1/2", "0.5", r"\frac{1}{2}", "7", "7"]


def test_maj_at_k_counts_answers_and_not_spellings():
    assert maj_at_k(HALVES, [a == "7" for a in HALVES], 5) == 0
    assert maj_at_k(["023", "23", "7"], [False, False, True], 3, "integer") == 0
    assert maj_at_k(["b", "(B)", "C"], [False, False, True], 3, "choice") == 0
    assert maj_at_k(["1/2", "0.5", "7"], [False, False, True], 3, "exact") == pytest.approx(1 / 3)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["1/2", "0.5", "0.50", "7", "7.0", "x+1", None]), min_size=1, max_size=7))
def test_maj_at_all_is_the_vote_of_the_method(answers):
    chance = maj_at_k(answers, [a in ("7", "7.0") for a in answers], len(answers))
    if chance in (0, 1):
        won = winners([Vote(a) for a in answers], "math")
        assert chance == (bool(won) and answers[won[0]] in ("7", "7.0"))


def test_maj_at_k_of_many_samples_compares_each_spelling_once(monkeypatch):
    compared = []
    monkeypatch.setattr("s1.grading.grouping.equivalent", lambda *a: compared.append(a[:2]) or False)
    answers = ["2^n + 1", "3^n + 1"] * 500 + ["7"] * 24
    for k in (1, 2, 4, 8):
        maj_at_k(answers, [a == "7" for a in answers], k)
    assert len(compared) <= 2, "two spellings in both directions, whatever the number of samples and of k"


def test_maj_at_k_is_exact_for_64_samples():
    rng = random.Random(1)
    answers = [rng.choice(["r"] * 8 + [str(i) for i in range(30)]) for _ in range(64)]
    right = [a == "r" for a in answers]
    assert maj_at_k(answers, right, 1) == pytest.approx(sum(right) / 64)
    values = [maj_at_k(answers, right, k) for k in (1, 4, 16, 32, 64)]
    assert values == sorted(values) and values[-1] == 1
    with pytest.raises(BadInput, match="k=65 with 64"):
        maj_at_k(answers, right, 65)


# A whole run ----------------------------------------------------------------------------------------------

POLICIES = [
    PolicyRecord("budget 16", "max 16", "budget", max_thinking=16),
    PolicyRecord("budget 32", "max 32", "budget", max_thinking=32),
    PolicyRecord("natural", "natural", "natural"),
    PolicyRecord("1 wait", "wait 1", "wait", settings={"waits": 1, "wait": ["Wait"]}),
    PolicyRecord("2 waits", "wait 2", "wait", settings={"waits": 2, "wait": ["Wait"]}),
]
QUESTIONS = [Question(f"q{i}", f"{i}?", str(i)) for i in range(40)]
RIGHT = {"budget 16": 10, "budget 32": 20, "natural": 24, "1 wait": 28, "2 waits": 29}
TOKENS = {"budget 16": 16, "budget 32": 30, "natural": 50, "1 wait": 70, "2 waits": 90}


def run(samples=1, change=None):
    generations, grades = [], {}
    for q, question in enumerate(QUESTIONS):
        for label, tokens in TOKENS.items():
            for sample in range(samples):
                fields = dict(thinking_tokens=tokens + q % 2, answer_tokens=3, forced_tokens=1, waits=0)
                if label == "budget 16":
                    fields["thinking_tokens"] = 16
                right = q < RIGHT[label]
                if label == "2 waits" and q == 0:
                    right = False
                fields |= dict(
                    cut=label.startswith("budget"), finish="stop", exact=True, seconds=0.25, error=None
                )
                grade = Grade("right" if right else "wrong", "x" if right else f"y{sample}", "test")
                if change:
                    grade = change(question.id, label, sample, fields, grade) or grade
                segments = (
                    Segment((1,) * 9, "p", "prompt", "format"),
                    Segment((1,) * 3, "t", "thinking", "model"),
                    Segment((1,), "f", "thinking", "forced"),
                )
                g = Generation(question.id, sample, label, segments, **fields)
                generations.append(g)
                grades[g.question_id, g.sample, g.policy] = grade
    return generations, grades


def record(policies=POLICIES, samples=1):
    config = RunConfig("sums", "exact", "m", tuple(policies), samples=samples)
    return RunRecord(SCHEMA, QuestionsFile(len(QUESTIONS), "abc"), config, ())


def measured(generations, grades, policies=POLICIES, questions=QUESTIONS, draws=200, **more) -> Metrics:
    return metrics_of(record(policies), questions, generations, grades, draws=draws, **more)


def metrics(samples=1, change=None, **more) -> Metrics:
    return metrics_of(record(samples=samples), QUESTIONS, *run(samples, change), draws=2000, **more)


def test_metrics_of_a_run_hold_what_others_script_against():
    m = metrics(grading="official")
    assert (m.model, m.benchmark, m.grading, m.questions_sha256, m.exact) == (
        "m",
        "sums",
        "official",
        "abc",
        True,
    )
    assert m.questions == m.complete == 40 and m.samples == 1
    assert [(p.key, p.label, p.kind) for p in m.points] == [(p.key, p.label, p.kind) for p in POLICIES]
    assert [p.accuracy for p in m.points] == [25, 50, 60, 70, 70]
    assert [p.thinking_tokens for p in m.points] == [16, 30.5, 50.5, 70.5, 90.5]
    for p in m.points:
        assert p.n == 40 and p.low < p.accuracy < p.high and p.forced_share == 25
        assert p.accuracy == p.accuracy_best
    assert m.points[0].cut_share == 100 and m.points[2].cut_share == 0
    assert m.control == (MethodControl("budget forcing", 2, 100, 100),) and m.performance == 70
    x, y = [p.thinking_tokens for p in m.points], [p.accuracy for p in m.points]
    for per, mean, robust in (
        ("doubling", m.scaling_per_doubling, m.robust_scaling_per_doubling),
        ("1k", m.scaling_per_1k, m.robust_scaling_per_1k),
    ):
        assert mean.value == pytest.approx(scaling(x, y, per), abs=1e-6)
        assert robust.value == pytest.approx(robust_scaling(x, y, per), abs=1e-6)
        assert all(slope.low < slope.value < slope.high for slope in (mean, robust))


def test_metrics_come_back_from_their_file(tmp_path):
    open_run(tmp_path, record().config, QUESTIONS).close()
    for samples in (1, 3):
        write_metrics(tmp_path, metrics(samples))
        assert read_metrics(tmp_path) == metrics(samples) == from_json(Metrics, to_json(metrics(samples)))


def test_metrics_of_an_older_version_say_how_to_renew_them(tmp_path):
    open_run(tmp_path, record().config, QUESTIONS).close()
    old = to_json(metrics()) | {"schema": 2, "control": 100.0, "control_per_sample": 100.0}
    (tmp_path / "metrics.json").write_text(json.dumps(old))
    with pytest.raises(BadInput, match=r"metrics\.json") as caught:
        read_metrics(tmp_path)
    assert "s1 report" in caught.value.hint


def test_flips_are_reported_from_natural_to_each_wait_and_from_wait_to_wait():
    found = {(f.before, f.after): f for f in metrics().flips}
    assert list(found) == [("natural", "1 wait"), ("natural", "2 waits"), ("1 wait", "2 waits")]
    first = found["natural", "2 waits"]
    assert (first.wrong_to_right, first.right_to_wrong, first.difference) == (5, 1, 10)
    assert first.p == pytest.approx(mcnemar(5, 1), rel=1e-3) and first.low < 10 < first.high


def test_unanswered_questions_are_wrong_at_worst_and_right_at_best():
    def change(question, label, sample, fields, grade):
        if label == "natural" and question in ("q30", "q31", "q32", "q33"):
            fields["error"] = "gone" if question == "q33" else None
            fields["thinking_tokens"] = 0 if question == "q33" else fields["thinking_tokens"]
            return Grade(
                {"q30": "cut", "q31": "no answer", "q32": "wrong", "q33": "error"}[question], None, ""
            )

    point = metrics(change=change).points[2]
    assert point.accuracy == 60 and point.accuracy_best == 67.5
    assert point.outcomes == {"right": 24, "wrong": 13, "cut": 1, "no answer": 1, "error": 1}
    assert point.thinking_tokens == pytest.approx((20 * 50 + 19 * 51) / 39, abs=1e-6), (
        "failures have no tokens"
    )


def test_a_run_over_its_budget_fails_control():
    def change(question, label, sample, fields, grade):
        if label == "budget 16":
            fields["thinking_tokens"] = 17 if question == "q0" else 16
        if label == "budget 32":
            fields["thinking_tokens"] = 40 if question < "q2" else 20

    m = metrics(change=change)
    (control,) = m.control
    assert control.per_run == 50, "17 once is a mean over 16; 40 and 20 are a mean under 32"
    over = 1 + sum(q.id < "q2" for q in QUESTIONS)
    assert control.per_sample == pytest.approx(100 * (1 - over / 80))
    free = [p for p in POLICIES if p.max_thinking is None]
    generations, grades = run()
    kept = [g for g in generations if g.policy in {p.key for p in free}]
    assert measured(kept, grades, free).control == ()


def of_other_methods(kinds):
    """Budget forcing as in `run`, and a policy of each kind that is asked for at most 60 tokens and spends 90."""
    generations, grades = run()
    policies = list(POLICIES)
    for kind in kinds:
        policies.append(PolicyRecord(kind, kind, kind.split(":")[0], max_thinking=60))
        for g in [g for g in generations if g.policy == "2 waits"]:
            generations.append(replace(g, policy=kind))
            grades[g.question_id, 0, kind] = grades[g.question_id, 0, "2 waits"]
    return generations, grades, policies


def test_control_is_that_of_each_method_alone():
    generations, grades, policies = of_other_methods(
        ["rejection", "token-conditional:1", "token-conditional:2"]
    )
    found = measured(generations, grades, policies)
    assert found.control == (
        MethodControl("budget forcing", 2, 100, 100),
        MethodControl("rejection", 1, 0, 0),
        MethodControl("token-conditional", 2, 0, 0),
    )
    assert found.control[:1] == metrics().control, "other methods in the folder change nothing"
    text = metrics_text(found)
    assert all(f"Control of {c.method} {c.per_run:.1f} %" in text for c in found.control)


def test_scaling_never_mixes_other_methods():
    generations, grades, policies = of_other_methods(["rejection", "token-conditional"])
    kept = [p for p in policies if p.kind not in ("budget", "wait")]
    found = [g for g in generations if g.policy in {p.key for p in kept}]
    assert measured(found, grades, kept).scaling_per_doubling is None
    one = [p for p in kept if p.kind != "rejection"]
    assert (
        measured([g for g in found if g.policy != "rejection"], grades, one).scaling_per_doubling is not None
    )


def test_only_questions_that_every_policy_finished_are_counted():
    generations, grades = run()
    m = measured(generations[:-3], grades)
    assert m.questions == 40 and m.complete == 39 and {p.n for p in m.points} == {39}
    m = measured([], {})
    assert m.complete == 0 and m.scaling_per_doubling is None and m.points[0].accuracy is None
    assert m.performance is None and m.advice is None and m.flips == ()


def test_a_run_that_stopped_early_says_so_first_and_advises_nothing():
    generations, grades = run()
    stopped, whole = measured(generations[:-3], grades), measured(generations, grades)
    assert (stopped.done, stopped.expected) == (len(generations) - 3, len(generations))
    assert stopped.advice is None and stopped.performance is None and stopped.points[0].accuracy is not None
    first, *rest = metrics_text(stopped).splitlines()
    assert (
        "incomplete" in first and f"{stopped.done} of {stopped.expected}" in first and "same command" in first
    )
    assert not any("Advice" in line or "Performance" in line for line in rest)
    assert whole.done == whole.expected and "incomplete" not in metrics_text(whole)
    assert "incomplete" in caption_of(stopped), "the figure may be shown without the page"


def test_a_run_has_the_samples_that_were_asked_for():
    generations, grades = run(2)
    found = metrics_of(record(samples=8), QUESTIONS, generations, grades, draws=20)
    assert (found.samples, found.questions, found.complete) == (8, 40, 0), "2 of 8 are not a run of 2"
    with pytest.raises(BadInput, match="sample that is not in the run"):
        metrics_of(record(samples=1), QUESTIONS, generations, grades, draws=20)


def test_samples_are_averaged_per_question_and_voted_on():
    def change(question, label, sample, fields, grade):
        if label == "natural":
            return Grade("right", "x", "") if sample < 2 else Grade("wrong", f"y{sample}", "")

    m = metrics(samples=4, change=change)
    point = m.points[2]
    assert m.samples == 4 and point.n == 40 and point.accuracy == 50
    assert point.pass_at_k == {"1": 50, "2": pytest.approx(100 * 5 / 6, abs=1e-6), "4": 100}
    assert point.maj_at_k["4"] == 100 and point.maj_at_k["1"] == 50
    assert all(f.p is None for f in m.flips), "samples of one question are not independent evidence"
    assert m.points[0].high - m.points[0].low > 20, "four copies are not four times the questions"


def test_a_vote_over_the_samples_of_a_run_groups_spellings():
    def change(question, label, sample, fields, grade):
        return Grade("right" if HALVES[sample] == "7" else "wrong", HALVES[sample], "")

    generations, grades = run(5, change)
    config = replace(record().config, kind="math", samples=5)
    found = metrics_of(replace(record(), config=config), QUESTIONS, generations, grades, draws=20)
    assert {p.maj_at_k["5"] for p in found.points} == {0}


def test_draws_without_thinking_tokens_have_no_slope():
    def change(question, label, sample, fields, grade):
        if label == "budget 16" and question != "q0":
            fields["thinking_tokens"] = 0

    two = [POLICIES[0], POLICIES[3]]
    generations, grades = run(1, change)
    kept = [g for g in generations if g.policy in {p.key for p in two}]
    m = measured(kept, grades, two, draws=2000)
    assert m.scaling_per_doubling.low > 2, "draws without q0 have 0 tokens, which is no slope of 0"


def test_zero_thinking_tokens_take_no_part_in_the_log_slope():
    def change(question, label, sample, fields, grade):
        if label == "budget 16":
            fields["thinking_tokens"] = 0

    m = metrics(change=change)
    x, y = [p.thinking_tokens for p in m.points[1:]], [p.accuracy for p in m.points[1:]]
    assert m.scaling_per_doubling.value == pytest.approx(scaling(x, y), abs=1e-6)
    assert math.isfinite(m.scaling_per_1k.value) and math.isfinite(m.scaling_per_doubling.low)


def with_a_vote(thinking, spent, more=(12, 0)):
    """The run above and a vote of 4 that is right 28 times, with the tokens of its answer and of all rollouts.

    `more` are the tokens of the answers and of the reward model.
    """
    generations, grades = run()
    for g in [g for g in generations if g.policy == "1 wait"]:
        vote = replace(g, policy="vote", thinking_tokens=thinking, spent=Spent(spent, *more, 4))
        generations.append(vote)
        grades[vote.question_id, vote.sample, vote.policy] = grades[g.question_id, g.sample, g.policy]
    return measured(generations, grades, [*POLICIES, PolicyRecord("vote", "vote", "majority")], draws=2000)


def test_a_vote_costs_as_much_as_all_its_rollouts():
    assert with_a_vote(10, 300).advice.best == "1 wait"
    assert with_a_vote(300, 10).advice.best == "vote"
    assert with_a_vote(300, 10, (90, 0)).advice.best == "1 wait", "tokens of answers count"
    assert with_a_vote(300, 10, (12, 80)).advice.best == "1 wait", "tokens of the reward model count"


def test_scaling_is_that_of_budget_forcing_where_the_run_has_other_methods_too():
    assert with_a_vote(10, 300).scaling_per_doubling == metrics().scaling_per_doubling
    labels = ["vote", "natural"]
    generations, grades = run()
    spent = {"vote": 400, "natural": 100}
    found = [
        replace(g, policy=label, spent=Spent(spent[label], 3))
        for label, source in zip(labels, ["1 wait", "natural"], strict=True)
        for g in generations
        if g.policy == source
    ]
    graded = {
        (g.question_id, 0, g.policy): grades[g.question_id, 0, "1 wait" if g.policy == "vote" else "natural"]
        for g in found
    }
    m = measured(found, graded, [PolicyRecord("vote", "vote", "majority"), POLICIES[2]])
    assert m.scaling_per_doubling.value == 5, "from 60 to 70 percent over two doublings of what was spent"


def test_advice_names_the_cheapest_policy_that_is_not_worse():
    advice = metrics().advice
    assert advice.best == advice.policy == "1 wait", "the cheaper of two equals is the best"
    assert advice.candidate is None and advice.difference_low == 0

    def one_sample_apart(question, label, sample, fields, grade):
        if label in ("natural", "1 wait"):
            right = int(question[1:]) < 35 or (label == "1 wait" and (question, sample) == ("q35", 0))
            return Grade("right" if right else "wrong", "x", "")

    advice = metrics(samples=4, change=one_sample_apart).advice
    assert advice.best == advice.policy == "1 wait" and advice.candidate == "natural", (
        "40 questions show too little"
    )


def test_advice_says_how_many_questions_would_tell():
    def change(question, label, sample, fields, grade):
        if label in ("natural", "1 wait"):
            extra = label == "1 wait" and (question, sample) == ("q39", 0)
            start = 0 if label == "natural" else 4
            return Grade("right" if start <= int(question[1:]) < start + 34 or extra else "wrong", "x", "")

    advice = metrics(samples=4, change=change).advice
    assert advice.policy == advice.best == "1 wait" and advice.candidate == "natural"
    assert 6_000 < advice.questions_needed < 8_000, "(2.49 x 45 points / 1.375 points) squared"


@pytest.mark.parametrize(("needed", "said"), [(400, "about 400 questions"), (401, "too small to tell")])
def test_a_benchmark_that_would_need_ten_times_its_questions_is_called_too_small(needed, said):
    found = metrics()
    advice = replace(found.advice, candidate="natural", questions_needed=needed)
    assert said in candidate_text(replace(found, advice=advice)), "of 40 questions"


def test_a_generation_without_grade_or_policy_is_named():
    generations, grades = run()
    with pytest.raises(BadInput, match="'q0', 0, 'budget 16'.*no grade"):
        measured(generations, {})
    with pytest.raises(BadInput, match="not in the run"):
        measured(generations, grades, questions=QUESTIONS[1:])


def test_labels_are_only_shown():
    renamed = [replace(p, label="the same") for p in POLICIES]
    found = measured(*run(), renamed, draws=2000)
    assert found == replace(metrics(), points=tuple(replace(p, label="the same") for p in metrics().points))


def test_metrics_repeat_to_the_byte():
    assert metrics() == metrics()
