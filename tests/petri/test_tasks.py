import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s1.petri.tasks import FAMILIES, SEARCHES, Calculation, Search, make_problem, make_problems, split_of
from s1.petri.teacher import BLOCK, JOIN, Patience, make_pool, write_trace
from scripts.petri.tokenizer import build_tokenizer, word_ids

problems = st.builds(
    lambda seed, family, difficulty: make_problem(random.Random(seed), family, difficulty, "train"),
    st.integers(0, 10**6),
    st.sampled_from(sorted(FAMILIES)),
    st.integers(1, 10),
)


def independent_answer(question: str) -> str:
    """The answer worked out from the text of the question alone, by other means than the task's."""
    words = question.split()
    numbers = [int(w) for w in words if w.isdigit()]
    if words[0] == "start":
        value, p = int(words[1]), int(words[3])
        for part in question.split(" ; ")[1:]:
            _, _, op, c = part.split()
            value = (value + int(c) if op == "+" else value * int(c)) % p
        return str(value)
    if words[0] == "clock":
        minutes = numbers[0] * 60 + numbers[1]
        for part in question.split(" ; ")[1:]:
            _, _, _, h, _, m = part.split()
            minutes += int(h) * 60 + int(m)
        return f"{minutes // 60 % 24} h {minutes % 60}"
    if words[0] == "poly":
        x, p, coefficients = numbers[0], numbers[1], numbers[3::2]
        return str(sum(c * x**i for i, c in enumerate(reversed(coefficients))) % p)
    if words[0] == "map":
        head, start, steps = question.removeprefix("map ").split(" ; ")
        targets = dict(pair.split(" > ") for pair in head.split(" , "))
        at = start.split()[1]
        for _ in range(int(steps.split()[1])):
            at = targets[at]
        return at
    if words[0] == "count":
        limit, items = numbers[0], numbers[2::2]
        return str(sum(i > limit for i in items))
    if words[0] == "solve":
        a, b, c, p = numbers
        return str(next(x for x in range(p) if (a * x + b) % p == c))
    if words[:2] == ["find", "k"]:
        s, g, t, p = numbers
        return str(next(k for k in range(1, p) if s * g**k % p == t))
    if words[0] == "smallest":
        top, b, c, p = numbers
        return str(next(x for x in range(top + 1) if (x * x + b) % p == c))
    if words[:2] == ["find", "x"]:
        r, first, s, second = numbers
        return str(next(x for x in range(first * second) if x % first == r and x % second == s))
    total = numbers[0]
    named = [part.split() for part in question.split(" : ", 1)[1].split(" , ")]
    return next(f"{a} {b}" for (a, m), (b, n) in itertools.combinations(named, 2) if int(m) + int(n) == total)


@settings(max_examples=400, deadline=None)
@given(problems)
def test_the_answer_agrees_with_an_independent_solution(problem):
    assert problem.answer == independent_answer(problem.question)


@settings(max_examples=300, deadline=None)
@given(problems)
def test_working_every_line_leads_to_the_answer(problem):
    if isinstance(problem, Calculation):
        state = problem.start
        for i in range(problem.steps):
            _, state = problem.line(i, state, 0)
        assert problem.show(state) == problem.answer
    else:
        hits = [i for i in range(problem.space) if problem.line(i, 0)[1]]
        assert problem.show(hits[0]) == problem.answer


@settings(max_examples=200, deadline=None)
@given(problems, st.integers(0, 10**6))
def test_every_word_of_question_and_trace_is_one_token(problem, seed):
    known = word_ids()
    thinking, answer = write_trace(problem, random.Random(seed), Patience(slip=0.2))
    for word in f"{problem.question} {thinking} {answer}".split():
        assert word in known


@settings(max_examples=200, deadline=None)
@given(problems, st.integers(0, 10**6))
def test_a_trace_ends_in_the_answer_it_states(problem, seed):
    thinking, answer = write_trace(problem, random.Random(seed), Patience())
    last = thinking.removesuffix(" .").split(JOIN)[-1]
    assert last.rsplit(" so " if " so " in last else "maybe ", 1)[1] == answer


def test_a_teacher_without_slips_is_wrong_only_where_it_gave_up_or_stopped_at_a_draft():
    rng = random.Random(5)
    sure = Patience(slip=0.0, draft=0.0, draft_easy=0.0)
    for _ in range(300):
        problem = make_problem(rng, rng.choice(sorted(FAMILIES)), rng.randint(1, 10), "train")
        thinking, answer = write_trace(problem, rng, sure)
        assert answer == problem.answer or "maybe" in thinking.split(JOIN)[-1]


def test_splits_share_no_question_and_pool_and_exam_are_disjoint():
    test, dev = make_problems("test", 500, 1), make_problems("dev", 500, 1)
    pool = {row["question"] for row in make_pool(3000, 0)}
    assert {split_of(p.question) for p in test} == {"test"}
    assert {split_of(p.question) for p in dev} == {"dev"}
    assert {split_of(q) for q in pool} == {"train"}
    assert not pool & {p.question for p in test}
    assert len({p.question for p in test}) == 500


def test_the_exam_has_every_family_and_half_of_it_are_searches():
    exam = make_problems("test", 500, 3)
    assert {p.family for p in exam} == set(FAMILIES)
    assert sum(isinstance(p, Search) for p in exam) == 250
    assert exam == make_problems("test", 500, 3) or [p.question for p in exam] == [
        p.question for p in make_problems("test", 500, 3)
    ]


def test_patience_runs_out_before_the_space_in_about_half_of_the_searches():
    exam = [p for p in make_problems("test", 500, 3) if isinstance(p, Search)]
    within = [next(i for i in range(p.space) if p.line(i, 0)[1]) < 2 * BLOCK for p in exam]
    assert 0.4 < sum(within) / len(within) < 0.75


def test_the_pool_has_what_real_pools_have():
    rows = make_pool(4000, 0)
    flaws = [r["flaw"] for r in rows]
    assert {"cut", "garbled", "sloppy", "missing", ""} == set(flaws)
    assert 0.6 < sum(r["correct"] for r in rows) / len(rows) < 0.9
    shares = {f: sum(r["source"] == f"petri/{f}" for r in rows) / len(rows) for f in FAMILIES}
    assert len({r["domain"] for r in rows}) == 50  # family and difficulty, two levels a domain
    assert max(shares.values()) > 5 * min(shares.values())
    assert sum(shares[f] for f in SEARCHES) < 0.25
    assert make_pool(200, 0) == make_pool(200, 0) != make_pool(200, 1)


@pytest.mark.parametrize(
    "text",
    ["Wait", "x 4 : 29 = 6 no", "Hello, world", "ärger 漢字 🙂", "a  b"],
)
def test_the_tokenizer_keeps_every_character_and_may_add_a_space_in_front(text):
    tokenizer = build_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text)).replace(" ", "") == text.replace(" ", "")


def test_known_words_and_numbers_are_single_tokens_and_the_template_opens_no_block():
    tokenizer = build_tokenizer()
    assert len(tokenizer.encode("Wait")) == 1
    assert tokenizer.encode("Wait , x 159") == [word_ids()[w] for w in "Wait , x 159".split()]
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "solve 3 x"}], tokenize=False, add_generation_prompt=True
    )
    assert rendered == "<|user|> solve 3 x<|assistant|>"
    assert tokenizer.pad_token != tokenizer.eos_token
