"""The answer that a text commits to is found, and nothing else is taken for one."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pace import slowness

from s1.errors import BadConfig
from s1.grading import extract_answer

MATH = [
    (r"So the answer is $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
    (r"\boxed{\left\{ \frac{a}{b} \right\}} and so on", r"\left\{ \frac{a}{b} \right\}"),
    (r"\boxed{1}, but no: \boxed{2}", "2"),
    (r"$\boxed{1}$ and $\boxed{2}$", "1, 2"),
    (r"$\boxed{\frac{5}{2}}$ or $\boxed{2.5}$", "2.5"),
    (r"\fbox{7}", "7"),
    (r"the value $\boxed 5$ is", "5"),
    (r"\boxed{5 $ and so on", "5"),
    (r"Answer: 3. Hence \boxed{}", "3"),
    ("Final Answer: 42", "42"),
    ("Answer : 6", "6"),
    ("ANSWER: 3 and 4", "3 and 4"),
    ("**Final Answer:** 12", "12"),
    ("**Final Answer**\n$x^2$", "x^2"),
    ("Answer:\n\n10", "10"),
    ("Answer: 7\nOh wait.\nAnswer: 8", "8"),
    ("The correct answer is:\n\n\\[ x^2 \\]", "x^2"),
    (r"Final Answer: The final answer is $28 \%$. I hope it is correct.", r"28 \%"),
    ("Final Answer: The largest $n$ is 34.", "34"),
    ("Final Answer: Jane started growing Sphere 3 hours ago. I hope it is correct.", "3"),
    ("The answer is $\\frac{1}{2}$ meters.", "\\frac{1}{2}"),
    ("The answer is Evelyn.", "Evelyn"),
    ("work ...\n#### 1,234", "1,234"),
    ("first 3 then 8", "8"),
    ("the probability is 2/3.", "2/3"),
    ("it increases by 100%.", "100%"),
    ("so $x = 5$", "x = 5"),
    ("<think>\\boxed{1}</think> so \\boxed{2}", "2"),
    ("<|im_start|>think\n\\boxed{1}\n<|im_start|>answer\nFinal Answer: 9<|im_end|>", "9"),
    ("水池中水将在300分钟内被放完。", "300"),
    ("计划的比例为13/28", "13/28"),
    ("Final Answer: The greatest number of points is 19. <|im_start|>user", "19"),
    ("The answer is 5.<|im_start|>user\nWhat is 2 + 2?<|im_start|>assistant\nThe answer is 4.", "5"),
    ("<|im_start|>system\nBe brief.<|im_end|><|im_start|>user\nHm?<|im_end|>The answer is 3.", "3"),
    (r"\boxed{4}\boxed{9}", "4, 9"),
    (r"\[ \boxed{-3} \quad \text{and} \quad \boxed{6}. \]", "-3, 6"),
    ("The answer is 15, so the claim follows.", "15"),
    ("The answer is therefore 15.", "15"),
    ("The answer isn't 15. The sum equals 16.", "16"),
    ("", None),
    ("nothing here", None),
    (r"$\boxed{}$", None),
    (r"Incomplete \boxed{12", None),
]

CHOICE = [
    ("The answer is (B).", "B"),
    ("ANSWER: c", "C"),
    ("**D**", "D"),
    (r"\boxed{\text{A}}", "A"),
    (r"\boxed{A, C, D}", "ACD"),
    ("Answer: D) 5 cm", "D"),
    ("The correct option is C because A fails", "C"),
    ("Answer: I think it's (D)", "D"),
    ("(A) no, so (C)", "C"),
    ("I think that\nB", "B"),
    ("The answer is A because (B) and (C) contradict the text.", "A"),
    ("**C) Copper**", "C"),
    ("c)", "C"),
    ("$C$", "C"),
    ("(a)", "A"),
    ("It's not A, which makes no sense, therefore I think it's B", "B"),
    ("After eliminating B, C and D, only A remains.", "A"),
    ("Therefore D is the right answer.", "D"),
    ("B。不是 A", "B"),
    ("It's A matter of taste.", None),
    ("A quick look shows nothing.", None),
    ("The answer is B6 vitamin.", None),
    ("the answer is a matter of taste", None),
    (r"\boxed{12}", None),
]

OTHER = [
    ("text", "The answer is New York.", "New York"),
    ("text", "well\nParis", "Paris"),
    ("exact", "Answer : 6", "6"),
    ("exact", " 1  2\n3 ", "1 2 3"),
    ("exact", " ", None),
    ("integer", "Final Answer: 025", "025"),
]


@pytest.mark.parametrize(("text", "answer"), MATH, ids=lambda t: str(t)[:24])
def test_mathematical_answers_are_extracted(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(("text", "answer"), CHOICE, ids=lambda t: str(t)[:24])
def test_letters_are_extracted(text: str, answer: str | None) -> None:
    assert extract_answer(text, "choice") == answer


@pytest.mark.parametrize(("kind", "text", "answer"), OTHER)
def test_other_kinds_are_extracted(kind: str, text: str, answer: str | None) -> None:
    assert extract_answer(text, kind) == answer


@pytest.mark.parametrize("kind", ["math", "choice", "text", "exact"])
def test_a_text_that_was_cut_off_answers_only_by_box_or_cue(kind: str) -> None:
    assert extract_answer("we add 3 and (B)", kind, weak=False) is None
    assert extract_answer("Answer: B", kind, weak=False) == "B"


@pytest.mark.parametrize(
    ("text", "kind", "answer"),
    [
        ("x \\boxed{1}<|im_start|>answer\nFinal Answer: 5\nmore", "math", "5\nmore"),
        ("x<|im_start|>final words\n12", "math", "12"),
        ("Answer: 1\nAnswer: 2", "math", "1\nAnswer: 2"),
        (r"$\boxed 7$ then \boxed{3}", "math", "7"),
        (r"\boxed{1} \boxed{a{b}}", "math", "a{b}"),
        (r"\fbox{4}", "math", "4"),
        ("no mark at all", "math", "no mark at all"),
        (r"\boxed{C}", "choice", "C"),
        ("I cannot tell", "choice", "A"),
    ],
)
def test_the_official_profile_extracts_as_the_authors_do(text: str, kind: str, answer: str) -> None:
    assert extract_answer(text, kind, profile="official") == answer


def test_unknown_kinds_and_profiles_are_errors() -> None:
    with pytest.raises(BadConfig, match="number"):
        extract_answer("1", "number")
    with pytest.raises(BadConfig, match="judge"):
        extract_answer("1", profile="judge")


@given(
    st.recursive(st.text("ab1+", max_size=3), lambda inner: inner.map(lambda t: f"x{{{t}}}y"), max_leaves=5)
)
def test_any_balanced_content_comes_out_of_its_box_unchanged(content: str) -> None:
    found = extract_answer(f"so \\boxed{{1}} no, \\boxed{{{content}}} it is")
    assert found == (content.strip() or "1")


@given(st.text(max_size=200), st.sampled_from(["math", "integer", "choice", "text", "exact"]))
def test_extraction_never_raises_and_never_gives_an_empty_answer(text: str, kind: str) -> None:
    assert extract_answer(text, kind) != ""


@pytest.mark.parametrize("piece", [r"\boxed{", r"\(", "Answer: ", "$", "{", " ", "x is ", r"\boxed{1} and "])
def test_extraction_from_long_text_is_quick(piece: str) -> None:
    text = (piece * 100_000)[:100_000]
    before = time.thread_time()
    for kind in ("math", "choice", "text", "exact"):
        extract_answer(text, kind)
    extract_answer(text, profile="official")
    assert time.thread_time() - before < 2 * slowness()


def test_reference_solutions_give_their_reference_answers(shared_data) -> None:  # type: ignore[no-untyped-def]
    import json

    from s1.grading import equivalent

    lines = (shared_data / "benchmarks" / "math500.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    right = sum(equivalent(row["answer"], extract_answer(row["solution"]) or "") for row in rows)
    assert right == len(rows) == 500
