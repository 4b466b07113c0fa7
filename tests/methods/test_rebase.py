"""REBASE: how leaves are shared, what the search finds, and what it counts."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s1.engines.scripted import ScriptedEngine
from s1.errors import BadConfig, EngineFailure
from s1.formats import FORMATS
from s1.methods import QuestionTooLong, Scored, Task, load_method
from s1.methods.budget_forcing import BudgetForcing
from s1.methods.rebase import Rebase, fork_sampling, shares
from s1.policy import BudgetPolicy
from s1.replay import ReplayCache
from s1.types import Question, Sampling
from tests.token_model import SPELLED, TAGS, TokenModel

QUESTION = Question("q", "2+2?", "4")
SCORES = st.lists(st.floats(0, 1), min_size=1, max_size=20)
BALANCE = st.sampled_from([0.01, 0.1, 0.2, 1.0, 10.0])


# --- the rule of the shares ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "budget", "balance", "expected"),
    [
        ((0.9, 0.5, 0.1), 16, 0.2, (14, 2, 0)),  # masses 1, e^-2, e^-4: 13.9 up, then 1.8 of 2 up
        ((0.1, 0.9, 0.5), 16, 0.2, (0, 14, 2)),
        ((0.5, 0.5, 0.5), 7, 0.2, (3, 2, 2)),
        ((0.5, 0.5), 1, 0.2, (1, 0)),
        ((0.0, 1.0), 8, 1e-3, (0, 8)),
        ((1e6, -1e6), 4, 0.2, (4, 0)),
    ],
)
def test_leaves_are_shared_from_the_best_node_down_each_share_rounded_up(scores, budget, balance, expected):
    assert shares(scores, budget, balance) == expected


@given(SCORES, st.integers(0, 64), BALANCE)
def test_shares_add_up_to_what_is_left_and_none_is_negative(scores, budget, balance):
    counts = shares(scores, budget, balance)
    assert len(counts) == len(scores) and sum(counts) == budget and min(counts) >= 0


@given(SCORES, st.integers(0, 64), BALANCE)
def test_a_node_with_more_reward_never_gets_fewer_leaves_than_another(scores, budget, balance):
    counts = shares(scores, budget, balance)
    ordered = [count for _, count in sorted(zip(scores, counts, strict=True), key=lambda p: (p[0], p[1]))]
    assert ordered == sorted(ordered)


@given(SCORES, st.integers(0, 64), BALANCE, st.integers(0, 19), st.floats(0.01, 1))
def test_more_reward_for_a_node_never_costs_it_leaves(scores, budget, balance, which, more):
    which %= len(scores)
    better = [score + more * (i == which) for i, score in enumerate(scores)]
    assert shares(better, budget, balance)[which] >= shares(scores, budget, balance)[which]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12, unique=True), st.randoms(), BALANCE)
def test_shares_follow_their_nodes_into_another_order(scores, random, balance):
    order = list(range(len(scores)))
    random.shuffle(order)
    counts = shares(scores, 16, balance)
    assert shares([scores[i] for i in order], 16, balance) == tuple(counts[i] for i in order)


# --- the search -----------------------------------------------------------------------------------------


class Letters(ScriptedEngine):
    """Thinks `steps` letters, each " x ." by its seed, and answers with them."""

    def __init__(self, steps: int = 3, letters: str = "ab", breaks_at: str = "") -> None:
        super().__init__([])
        self.steps, self.letters, self.breaks_at = steps, letters, breaks_at

    async def stream(self, ask):
        said = self.decode(ask.prefix).partition("<think>")[2]
        thought = said.partition("</think>")[0]
        letters = [word for word in thought.split() if word != "."]
        if self.breaks_at and thought.endswith(self.breaks_at):
            raise EngineFailure("out of memory")
        if "</think>" in said:
            text = f" Answer : {''.join(letters)}<|end|>"
        else:
            seeds = (f"{ask.sampling.seed}/{i}" for i in range(len(letters), self.steps))
            drawn = [hashlib.sha256(seed.encode()).digest()[0] % len(self.letters) for seed in seeds]
            text = "".join(f" {self.letters[i]} ." for i in drawn) + "</think>"
        self.script = lambda prefix: text
        async for chunk in super().stream(ask):
            yield chunk


class Likes:
    """Scores a rollout by the share of one letter in its thinking; one token for each rollout it reads."""

    name = "likes"

    def __init__(self, letter: str) -> None:
        self.letter, self.read = letter, list[str]()

    async def score(self, question: Question, rollouts: Sequence[str]) -> Scored:
        self.read += rollouts
        thoughts = [r.partition("</think>")[0].replace(".", "").split() for r in rollouts]
        return Scored(tuple(t.count(self.letter) / max(1, len(t)) for t in thoughts), len(rollouts))


def task(engine=None, *, seed: int | None = 7, reward=None, fmt=FORMATS["petri"], temperature=1.0) -> Task:
    sampling = Sampling(temperature=temperature, seed=seed)
    return Task(engine or Letters(), fmt, QUESTION, 3, sampling, "exact", reward or Likes("a"))


def answer(method: Rebase, given: Task):
    return asyncio.run(method.answer(given))


def plain(generation):
    return replace(generation, seconds=0.0, first_token_seconds=None)


@pytest.mark.parametrize("by", ["weighted", "majority", "best"])
@pytest.mark.parametrize("letter", ["a", "b"])
def test_the_search_goes_where_the_reward_leads(letter, by):
    for seed in range(5):
        found = answer(Rebase(8, balance=0.01, by=by), task(seed=seed, reward=Likes(letter)))
        assert found.error is None and found.text_of("answer").endswith(letter * 3)


def test_a_softer_balance_follows_the_reward_less():
    def hits(balance: float) -> int:
        given = [task(Letters(6), seed=seed, reward=Likes("b")) for seed in range(20)]
        found = [
            answer(Rebase(4, balance=balance, by="majority"), each).text_of("thinking") for each in given
        ]
        return sum(text.count("b") for text in found)

    assert hits(0.01) > hits(100.0) + 10


def test_every_token_of_the_tree_is_counted_once():
    reward = Likes("a")
    found = answer(Rebase(8), task(reward=reward))
    # Three steps of four bytes for 8 branches; their answers; scores at three depths and of the leaves.
    assert found.spent is not None
    assert (found.spent.thinking, found.spent.rollouts, found.spent.failed) == (8 * 3 * 4, 8, 0)
    assert found.spent.answer == 8 * len(" Answer : aaa")
    assert found.spent.reward == len(reward.read) == 4 * 8
    assert (found.thinking_tokens, found.policy, found.sample, found.seed) == (12, "rebase:width=8", 3, 7)
    assert [(s.phase, s.by) for s in found.segments] == [
        ("prompt", "format"),
        ("thinking", "model"),
        ("delimiter", "model"),
        ("answer", "model"),
    ]


def test_a_branch_that_has_answered_takes_its_leaf_out_of_the_search():
    class Early(Letters):
        async def stream(self, ask):
            thought = self.decode(ask.prefix).partition("<think>")[2].partition("</think>")[0]
            self.steps = 1 if thought.startswith(" b") else 3
            async for chunk in super().stream(ask):
                yield chunk

    reward = Likes("a")
    found = answer(Rebase(8, balance=100.0), task(Early(), reward=reward))
    by_depth = [sum(len(r.split()) == 2 * d and "<" not in r for r in reward.read) for d in (1, 2, 3)]
    early = sum(r.startswith(" b .</think>") for r in reward.read)
    assert by_depth[0] == 8 and 0 < early < 8
    assert by_depth[1] == by_depth[2] == 8 - early
    assert sum("</think>" in r for r in reward.read) == 8
    assert found.spent.thinking == 4 * (8 + 2 * (8 - early))


def test_after_the_last_step_branches_go_on_to_their_end_without_forks():
    reward = Likes("a")
    found = answer(Rebase(4, max_steps=1), task(reward=reward))
    assert found.thinking_tokens == 12 and found.spent.thinking == 4 * 12
    assert found.spent.reward == 8  # once after the step, once at the end


def test_a_step_without_its_delimiter_ends_at_its_limit():
    reward = Likes("a")
    answer(Rebase(2, step="nowhere", step_tokens=5), task(reward=reward))
    assert sorted({len(r) for r in reward.read if "<" not in r}) == [5, 10]


def test_two_searches_with_one_seed_are_the_same_and_seeds_differ():
    found = [plain(answer(Rebase(6), task(Letters(5, "abcd"), seed=seed))) for seed in (1, 1, 2, 3, 4)]
    assert found[0] == found[1]
    assert len({g.text_of("thinking") for g in found}) > 1


def test_forks_have_their_own_seeds_and_a_first_child_goes_on_as_its_parent():
    given = task(seed=7)
    assert fork_sampling(given, (0,)) == fork_sampling(given, (0, 0, 0)) == given.sampling
    assert fork_sampling(given, (3, 0)) == given.member(3)
    paths = [(i, j, k) for i in range(4) for j in range(4) for k in range(4)]
    assert len({fork_sampling(given, path).seed for path in paths}) == len(paths)


def test_a_smaller_search_replays_what_a_larger_one_decoded():
    alone, shared = ReplayCache(Letters(4, "abc")), ReplayCache(Letters(4, "abc"))
    first = answer(Rebase(4), task(alone))
    answer(Rebase(8), task(shared))
    before = shared.decoded_tokens
    assert plain(answer(Rebase(4), task(shared))) == plain(first)
    assert shared.decoded_tokens - before <= alone.decoded_tokens - 4 * len(" a")


POLICIES = st.builds(
    lambda budget, least, waits, wait, grace: BudgetPolicy(
        max_thinking=budget,
        min_thinking=min(least, budget),
        waits=waits,
        wait=(wait,),
        grace=grace,
        max_answer=9,
    ),
    st.integers(0, 60),
    st.integers(0, 30),
    st.integers(0, 3),
    st.sampled_from(["Wait", ""]),
    st.integers(0, 9),
)


@settings(max_examples=150, deadline=None)
@given(
    POLICIES, st.integers(0, 10_000), st.integers(1, 5), st.sampled_from([TAGS, SPELLED]), st.integers(1, 9)
)
def test_a_search_of_width_one_is_the_plain_sample(policy, seed, chunk, fmt, step_tokens):
    delimiter = fmt.stops[0]

    def given() -> Task:
        return task(TokenModel(seed, chunk=chunk, ends_in=12, delimiter=delimiter), seed=seed, fmt=fmt)

    one = answer(Rebase(1, step=".", step_tokens=step_tokens, policy=policy), given())
    other = asyncio.run(BudgetForcing(policy).answer(given()))
    assert one.segments == other.segments and one.error == other.error is None
    counts = ("thinking_tokens", "answer_tokens", "forced_tokens", "waits", "cut", "finish", "grace_used")
    assert [getattr(one, c) for c in counts] == [getattr(other, c) for c in counts]
    assert (one.spent.thinking, one.spent.answer) == (other.thinking_tokens, other.answer_tokens)


class Hash:
    """A reward without sense, the same on every machine."""

    name = "hash"

    async def score(self, question: Question, rollouts: Sequence[str]) -> Scored:
        drawn = [hashlib.sha256(r.encode("utf-8", "replace")).digest()[0] / 255 for r in rollouts]
        return Scored(tuple(drawn), sum(map(len, rollouts)))


@settings(max_examples=80, deadline=None)
@given(POLICIES, st.integers(0, 10_000), st.integers(2, 6), st.sampled_from(["weighted", "majority", "best"]))
def test_the_generation_of_a_search_is_consistent_under_every_policy(policy, seed, width, by):
    given = task(TokenModel(seed, ends_in=12), seed=seed, fmt=TAGS, reward=Hash())
    found = answer(Rebase(width, step=".", by=by, policy=policy), given)
    tokens = {
        phase: [s for s in found.segments if s.phase == phase] for phase in ("prompt", "thinking", "answer")
    }
    assert found.error is None and found.finish in ("stop", "length")
    assert sum(len(s.token_ids) for s in tokens["thinking"]) == found.thinking_tokens
    assert found.thinking_tokens - found.grace_used <= policy.max_thinking
    assert sum(len(s.token_ids) for s in tokens["answer"]) == found.answer_tokens
    assert found.waits <= policy.waits or policy.min_thinking
    assert found.thinking_tokens <= found.spent.thinking
    assert found.answer_tokens <= found.spent.answer <= width * 9
    assert found.spent.rollouts == width
    again = answer(Rebase(width, step=".", by=by, policy=policy), given)
    assert plain(again) == plain(found)


# --- what cannot work -----------------------------------------------------------------------------------


class Broken:
    name = "broken"

    def __init__(self, scores: tuple[float, ...] | None) -> None:
        self.scores = scores

    async def score(self, question: Question, rollouts: Sequence[str]) -> Scored:
        if self.scores is None:
            raise EngineFailure("The reward model broken ran out of memory.")
        return Scored(self.scores, 5)


@pytest.mark.parametrize("scores", [None, (0.5,), (0.1, float("nan"), 0.2, 0.3), (float("inf"),) * 4])
def test_a_reward_model_that_breaks_is_an_error_with_what_was_spent(scores):
    found = answer(Rebase(4), task(reward=Broken(scores)))
    assert "reward model broken" in found.error
    assert found.segments and found.policy == "rebase:width=4"
    assert (found.spent.thinking, found.spent.answer) == (16, 0)


def test_branches_that_the_engine_broke_off_do_not_vote():
    reward = Likes("a")
    found = answer(Rebase(8, balance=100.0), task(Letters(breaks_at=" b ."), reward=reward))
    assert found.error is None and found.text_of("answer").endswith("aaa") and found.spent.failed > 0
    ended = [text for text in reward.read if "</think>" in text]
    assert len(ended) == 8 - found.spent.failed and not any("b" in text for text in ended)


def test_when_every_branch_breaks_off_the_error_says_so():
    found = answer(Rebase(4), task(Letters(letters="b", breaks_at=" b .")))
    assert "out of memory" in found.error and found.spent.failed == 4


def test_a_search_without_a_reward_model_or_at_temperature_zero_is_refused():
    with pytest.raises(BadConfig, match="needs a reward model"):
        answer(Rebase(4), replace(task(), reward=None))
    with pytest.raises(BadConfig, match="temperature"):
        answer(Rebase(4), task(temperature=0.0, seed=None))
    with pytest.raises(BadConfig, match="seed"):
        answer(Rebase(4), task(seed=None))


@pytest.mark.parametrize(
    "settings", [{"width": 0}, {"balance": 0.0}, {"step_tokens": 0}, {"max_steps": 0}, {"by": "luck"}]
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(BadConfig, match=next(iter(settings))):
        Rebase(**settings)


def test_a_question_that_does_not_fit_is_refused():
    engine = Letters()
    engine.context = 10
    with pytest.raises(QuestionTooLong):
        answer(Rebase(4), task(engine))


def test_labels_tell_searches_apart():
    labels = [
        Rebase().label,
        Rebase(8).label,
        Rebase(by="best").label,
        Rebase(balance=1.0).label,
        load_method("rebase:step=' .'", policy=BudgetPolicy(max_thinking=9)).label,
    ]
    assert labels[0] == "rebase 16" and labels[-1] == "rebase 16, step ' .', max 9"
    assert len(set(labels)) == 5
