"""Votes: the rule by itself, then over rollouts of a scripted model."""

import asyncio
import math
import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from s1 import runs
from s1.engines.scripted import ScriptedEngine
from s1.errors import BadConfig
from s1.evals.at_k import maj_at_k
from s1.evals.benchmarks import Benchmark
from s1.evals.run import Plan, evaluate
from s1.formats import FORMATS
from s1.grading.grouping import candidates, canonical
from s1.methods import QuestionTooLong, Task, load_method
from s1.methods.short_m import ShortM
from s1.methods.voting import (
    Majority,
    ShortestMajority,
    Vote,
    Weighted,
    majority,
    pick_winner,
    shortest_majority,
    weighted,
    winners,
)
from s1.policy import BudgetPolicy
from s1.replay import ReplayCache
from s1.types import Generation, Question, Sampling, Segment, Spent

ANSWERS = st.sampled_from(["4", "5", "6", "seven", None])
VOTES = st.lists(st.builds(Vote, ANSWERS, st.integers(0, 40), st.floats(0, 1)), max_size=9)
RULES = st.sampled_from([majority, weighted, shortest_majority])


def won(votes, rule=majority, kind="exact"):
    """The answer that wins."""
    found = winners(votes, kind, rule)
    return votes[found[0]].answer if found else None


@given(VOTES, RULES, st.randoms())
def test_the_order_of_the_votes_decides_nothing(votes, rule, shuffler):
    shuffled = votes[:]
    shuffler.shuffle(shuffled)
    assert won(shuffled, rule) == won(votes, rule)


@given(VOTES, ANSWERS)
def test_a_majority_always_wins(votes, answer):
    spoken = [v for v in votes if v.answer is not None]
    assume(answer is not None)
    more = [Vote(answer)] * (len(spoken) + 1)
    assert won([*votes, *more]) == answer


@given(VOTES, st.sampled_from([majority, weighted]), st.integers(0, 40), st.floats(0, 1))
def test_one_more_vote_for_the_winner_keeps_it(votes, rule, length, weight):
    winner = won(votes, rule)
    assume(winner is not None)
    assert won([*votes, Vote(winner, length, weight)], rule) == winner


@given(VOTES)
def test_one_more_short_vote_for_the_winner_keeps_it_in_a_shortest_majority(votes):
    winner = won(votes, shortest_majority)
    assume(winner is not None)
    shortest = min(v.length for v in votes if v.answer == winner)
    assert won([*votes, Vote(winner, shortest)], shortest_majority) == winner


@given(VOTES)
def test_over_distinct_strings_a_majority_is_what_a_counter_says(votes):
    counts = Counter(v.answer for v in votes if v.answer is not None)
    found = [votes[i].answer for i in winners(votes, "exact")]
    assert len(found) == max(counts.values(), default=0)
    assert all(counts[answer] == len(found) for answer in found) and len(set(found)) <= 1


@given(VOTES)
def test_candidates_are_a_partition_of_those_who_spoke(votes):
    groups = candidates([v.answer for v in votes], "exact")
    spoken = [i for i, v in enumerate(votes) if v.answer is not None]
    assert sorted(i for group in groups for i in group) == spoken


@given(VOTES, st.sampled_from(["4", "5", "6"]))
def test_a_vote_over_all_samples_is_maj_at_all_up_to_ties(votes, gold):
    assume(votes)
    chance = maj_at_k([v.answer for v in votes], [v.answer == gold for v in votes], len(votes))
    if chance in (0.0, 1.0):
        assert (won(votes) == gold) == (chance == 1.0)
    else:
        counts = Counter(v.answer for v in votes if v.answer is not None)
        assert chance == pytest.approx(1 / list(counts.values()).count(max(counts.values())))


def test_a_tie_goes_to_the_shortest_then_to_the_alphabet():
    assert won([Vote("a", 9), Vote("b", 5), Vote("a", 9), Vote("b", 50)]) == "b"
    assert won([Vote("b", 5), Vote("a", 5)]) == "a"


def test_winners_stand_shortest_first():
    assert winners([Vote("a", 9), Vote("b", 1), Vote("a", 4), Vote("a", 4)], "exact") == [2, 3, 0]


def test_a_shortest_majority_divides_by_the_log_of_the_mean_length():
    two, one = [Vote("a", 90), Vote("a", 110)], [Vote("b", 8)]
    assert shortest_majority(two) == pytest.approx(2 / math.log(100))
    assert shortest_majority(one) == pytest.approx(1 / math.log(8))
    assert won([*two, *one]) == "a" and won([*two, *one], shortest_majority) == "b"
    assert shortest_majority([Vote("a", 0)]) == shortest_majority([Vote("a", 2)])


def test_a_weighted_vote_adds_what_each_is_worth():
    votes = [Vote("a", 1, 0.3), Vote("a", 1, 0.3), Vote("b", 1, 0.7)]
    assert (won(votes), won(votes, weighted)) == ("a", "b")


@pytest.mark.parametrize(
    ("kind", "answers", "groups"),
    [
        ("integer", ["023", "23", "24"], [[0, 1], [2]]),
        ("choice", ["(B)", "b.", "C"], [[0, 1], [2]]),
        ("text", ["New York", "new york!", "York"], [[0, 1], [2]]),
        ("exact", ["1 2", "1  2", "12"], [[0, 1], [2]]),
        ("math", ["0.5", "\\frac{1}{2}", "1/2", "2"], [[0, 1, 2], [3]]),
        ("math", ["(1, 2)", "(1,2)", "(2,1)"], [[0, 1], [2]]),
        ("math", ["5", "5", "5 \\text{ cm}", "6"], [[0, 1, 2], [3]]),
    ],
)
def test_answers_that_say_the_same_are_one_candidate(kind, answers, groups):
    assert sorted(sorted(g) for g in candidates(answers, kind)) == groups
    shuffled = list(range(len(answers)))
    random.Random(1).shuffle(shuffled)
    again = candidates([answers[i] for i in shuffled], kind)
    assert sorted(sorted(shuffled[i] for i in g) for g in again) == groups


def test_equal_spellings_are_compared_once(monkeypatch):
    compared = []
    monkeypatch.setattr("s1.grading.grouping.equivalent", lambda *a: compared.append(a[:2]) or False)
    candidates(["x + 1", "x+1", "$x + 1$"] * 20 + ["x + 2"] * 20, "math")
    assert len(compared) == 2  # two spellings, both directions
    assert canonical("$x + 1$", "math") == canonical("x+1", "math")


ROLLS = [
    ("think a lot", " 8"),
    ("short", " 7"),
    ("a bit longer", " 7"),
    ("the longest thought", " 8"),
    ("x", ""),
]


def test_the_shortest_of_the_winners_is_returned_and_all_are_counted(rolled):
    found, engine = rolled(Majority(5), [*ROLLS[:3], None, ROLLS[4]])
    assert (found.text_of("thinking"), found.policy, found.sample) == ("short", "majority:n=5", 0)
    whole = [ROLLS[i] for i in (0, 1, 2, 4)]
    assert found.spent == Spent(
        sum(len(t) for t, _ in whole), sum(len(a) for _, a in whole), rollouts=5, failed=1
    )
    assert found.seed == list(engine.numbers)[1] and found.error is None


def test_who_has_no_answer_does_not_vote(rolled):
    found, _ = rolled(Majority(3), [("xx", ""), ("yy", ""), ("long enough", " 7")])
    assert found.text_of("answer").endswith("7")
    found, _ = rolled(Majority(2), [("xxx", ""), ("y", "")])
    assert (found.text_of("thinking"), found.error) == ("y", None)


def test_a_shortest_majority_over_rollouts(rolled):
    rolls = [("z" * 90, " 8"), ("z" * 110, " 8"), ("z" * 8, " 7")]
    assert rolled(Majority(3), rolls)[0].text_of("answer").endswith("8")
    assert rolled(ShortestMajority(3), rolls)[0].text_of("answer").endswith("7")


def test_a_weighted_vote_reads_the_reward_model_and_pays_for_it(rolled, liking):
    reward = liking({"bad": 0.1, "good": 0.9})
    found, _ = rolled(Weighted(3), [("bad 1", " 8"), ("bad 2", " 8"), ("good", " 7")], reward)
    assert found.text_of("thinking") == "good" and found.spent.reward == 15
    assert reward.read[2] == "good</think> 7"


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_reward_model_that_gives_no_number_is_an_error_of_the_question(rolled, liking, score):
    found, _ = rolled(Weighted(1), [("x", " 8")], liking({"x": score}))
    assert "liking" in found.error and found.spent.thinking == 1


def test_when_all_rollouts_fail_the_error_says_so_and_their_tokens_count(rolled):
    found, _ = rolled(Majority(2), [None, None])
    assert found.error == "All 2 rollouts failed; the first: the engine broke"
    assert (found.spent.failed, found.spent.rollouts, found.policy) == (2, 2, "majority:n=2")


def test_a_question_that_does_not_fit_is_an_error_of_its_generation_in_a_run(tmp_path):
    questions = tuple(Question(f"q{n}", "x" * n, "7") for n in (100, 1))
    bench = Benchmark("toy", "exact", questions, "1")
    engine = ScriptedEngine(lambda p: " 7<|end|>" if "</think>" in p else "t</think>", context=80)
    plan = Plan((BudgetPolicy(),), sampling=Sampling(1.0), methods=(Majority(2), ShortM(1, 2)))
    evaluate(bench, engine, FORMATS["petri"], plan, tmp_path / "run")
    found = {(g.question_id, g.policy): g for g in runs.read_generations(tmp_path / "run")}
    assert len(found) == 6
    for (question, _), generation in found.items():
        if question == "q100":
            assert "does not fit" in generation.error and not generation.segments
        else:
            assert generation.error is None and generation.finish == "stop"


@pytest.mark.parametrize(
    "spec", ["forcing", "majority:n=2", "short-m:m=1,k=2", "rejection", "step-conditional"]
)
def test_a_policy_that_fits_no_question_is_not_the_fault_of_the_question(spec):
    def answer(context, **limits):
        settings = {"limit": 70} if spec == "rejection" else {"policy": BudgetPolicy(max_thinking=70)}
        task = Task(
            ScriptedEngine([], context=context),
            FORMATS["petri"],
            Question("q", "x"),
            0,
            Sampling(1.0, seed=1),
        )
        return asyncio.run(load_method(spec, **settings).answer(task))

    with pytest.raises(QuestionTooLong):
        answer(75)
    with pytest.raises(BadConfig):
        answer(60)


@pytest.mark.parametrize("name", ["majority", "shortest-majority"])
def test_votes_at_temperature_0_are_refused_before_anything_is_decoded(name, rolled, tmp_path):
    method = load_method(f"{name}:n=2")
    with pytest.raises(BadConfig, match="temperature 0"):
        rolled(method, ROLLS, temperature=0.0, seed=None)
    questions = (Question("q", "What?", "7"),)
    bench = Benchmark("toy", "exact", questions, "1")
    engine = ScriptedEngine([])
    with pytest.raises(BadConfig, match="temperature"):
        evaluate(bench, engine, FORMATS["petri"], Plan(methods=(method,)), tmp_path / "run")
    assert not engine.asked and not (tmp_path / "run").exists()
    assert rolled(load_method(f"{name}:n=1"), ROLLS[:1], temperature=0.0, seed=3)[0].error is None


def test_rollouts_without_seeds_are_refused(rolled):
    with pytest.raises(BadConfig, match="seed"):
        rolled(Majority(2), ROLLS, seed=None)


def test_a_weighted_vote_without_a_reward_model_is_refused(rolled):
    with pytest.raises(BadConfig, match="--reward"):
        rolled(Weighted(2), ROLLS)


@pytest.mark.parametrize("spec", ["majority:n=0", "weighted:n=-1", "shortest-majority:n=x"])
def test_a_vote_of_nobody_is_refused(spec):
    with pytest.raises(BadConfig):
        load_method(spec)


def test_a_vote_of_4_replays_the_first_4_of_a_vote_of_8(rolled):
    rolls = [("t" * n, f" {n % 3}") for n in range(3, 11)]
    _, engine = rolled(Majority(8), rolls)
    cache = ReplayCache(engine)
    task = Task(cache, FORMATS["petri"], Question("q", "What?"), 0, Sampling(1.0, seed=3), "exact")
    eight = asyncio.run(Majority(8).answer(task))
    decoded = cache.decoded_tokens
    four = asyncio.run(Majority(4).answer(task))
    assert cache.decoded_tokens == decoded and four.spent.thinking == 3 + 4 + 5 + 6
    alone = asyncio.run(Majority(4).answer(replace(task, engine=engine)))
    assert four.segments == alone.segments and four.spent == alone.spent
    assert eight.spent.rollouts == 8


@pytest.mark.parametrize(("grading", "answer"), [("strict", "17"), ("official", "16")])
def test_votes_extract_answers_by_the_profile_of_the_grading(grading, answer):
    """The official extraction finds no cue in two of three answers, so that they are no majority."""
    texts = (" I think it is 17.", " So we get 17.", " Answer: 16")
    rolls = [
        Generation(
            "q", 0, "natural", (Segment((1,), text, "answer", "model"),), length, 3, 0, 0, False, "stop"
        )
        for text, length in zip(texts, (9, 8, 5), strict=True)
    ]
    task = Task(ScriptedEngine([]), FORMATS["petri"], Question("q", "What?", "17"), grading=grading)
    assert answer in asyncio.run(pick_winner(task, rolls, "majority")).answer
