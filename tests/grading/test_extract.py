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

STATED = [
    ("So the length is √13.", "√13"),
    ("So the length is 2√13 cm.", "2√13"),
    ("the ratio is (1 + √5)/2.", "(1 + √5)/2"),
    ("You need 3½ cups.", "3½"),
    ("<answer>(2, 5)</answer>", "(2, 5)"),
    (r"<answer>\sqrt{2}</answer>", r"\sqrt{2}"),
    ("<answer>\n12\n</answer> since 3+4=7", "12"),
    (r"<answer>so \boxed{7} it is</answer>", "7"),
    ("<think>a <answer>3</answer></think> <answer>4</answer>", "4"),
    ("Write it in <answer></answer> tags. The value is 12.", "12"),
    ("<answer>5", "5"),
    ('{"answer": 12, "check": 7}', "12"),
    ('{"reasoning": "3+4=7", "final_answer": "12", "n": 2}', "12"),
    (r'{"answer": "\frac{1}{2}"}', r"\frac{1}{2}"),
    (r"x = \boxed{5} and y = \boxed{7}", "5, 7"),
    (r"Thus $x = \boxed{5}$ and $y = \boxed{7}$.", "5, 7"),
    (r"The largest is \boxed{9}, and the smallest is \boxed{1}.", "9, 1"),
    (r"We get \boxed{2}, but that is wrong; it is \boxed{3}.", "3"),
    (r"First \boxed{2}. And then \boxed{3}.", "3"),
    (r"Write your solution with \boxed at the end. The value is 12.", "12"),
    (r"Put your answer in \boxed{...}. The value is 12.", "12"),
    (r"I will use \boxed. The value is 12.", "12"),
    (r"The values are $\boxed{3}$ or $\boxed{-3}$.", "3, -3"),
    (r"So x = \boxed{3} or x = \boxed{-3}.", "3, -3"),
    (r"Either $\boxed{a}$ or $\boxed{b}$.", "a or b"),
    (r"Format: \boxed{<answer>}. It is 14.", "14"),
    (r"Put it in \boxed{[your answer]}. It equals 16.", "16"),
    ('<answer id="1">\n\\sqrt{2}\n</answer>', r"\sqrt{2}"),
    ("<final-answer>7</final-answer> 8", "7"),
    ('{"result": 42, "confidence": 95}', "42"),
    ('{"answer": 3e5, "steps": 4}', "3e5"),
    ("Final answer - 12", "12"),
    ("Final answer — 12. Check: 3+4=7", "12"),
    ("Final answer -12", "-12"),
    ("最终答案：12。验证：3+4=7", "12"),
    ("答案为 12，因为3+4=7", "12"),
    ("答案是12个苹果。共3天", "12"),
    ("所以，答案是 $\\frac{1}{2}$。", r"\frac{1}{2}"),
    ("答えは8です。検算: 3+4=7", "8"),
    ("정답은 8입니다. 검산: 3+4=7", "8"),
    ("La réponse est 8, car 2^3 = 8 et 3^2 = 9.", "8"),
    ("Réponse finale : 8. Vérification : 3+4 = 7", "8"),
    ("La respuesta es 8, porque 2^3=8 y 3^2=9.", "8"),
    ("Die Antwort ist 8, weil 2^3=8 und 3^2=9.", "8"),
    ("A resposta é 8, pois 3^2 = 9", "8"),
    ("La risposta è (2, 8), perché 3^2 = 9", "(2, 8)"),
    ("Ответ: 8. Проверка: 3+4=7", "8"),
    ("Đáp án: 8. Kiểm tra 3+4=7", "8"),
    ("الإجابة: 8. لأن 3+4=7", "8"),
    ("Cevap: 8, 3+4=7", "8"),
]

CHOICE = [
    ("<answer>C</answer>", "C"),
    ("<answer>(C) 12</answer>", "C"),
    ('{"answer": "C", "confidence": "A"}', "C"),
    ('{"choice": "B", "steps": 3}', "B"),
    ('{"reasoning": "1+1=2", "option": "D"}', "D"),
    ("{'selected_option': 'A'}", "A"),
    ('<answer type="final">C</answer>', "C"),
    ("<answer><b>C</b></answer>", "C"),
    ("A alternativa correta é B.", "B"),
    ("La opción correcta es la A.", "A"),
    ("La respuesta correcta es la opción A.", "A"),
    ("L'opzione corretta è B.", "B"),
    ("La bonne option est la D.", "D"),
    ("Die richtige Option ist B.", "B"),
    ("Правильный вариант: B", "B"),
    ("Gabarito: D", "D"),
    ("正しい選択肢は B です。", "B"),
    ("选项 B 正确。", "B"),
    ("Final answer - B", "B"),
    ("Final answer — (B)", "B"),
    ("答案：C", "C"),
    ("正确答案是 B，因为 A 错", "B"),
    ("故选：C", "C"),
    ("La réponse est B, car A est faux", "B"),
    ("Die richtige Antwort ist C, nicht A", "C"),
    ("\\boxed{E=mc^2}\nFinal answer: (D)", "D"),
    ("\\boxed{F = ma}\n\nThe answer is B.", "B"),
    ("\\boxed{D=5}. Therefore (A).", "A"),
    ("\\boxed{12}\nThe correct option is B", "B"),
    (r"Final answer: (D), since \boxed{A=\pi r^2}", "D"),
    (r"(A) is out. \boxed{\text{(C) } x=2}", "C"),
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


@pytest.mark.parametrize(("text", "answer"), STATED, ids=lambda t: str(t)[:24])
def test_a_stated_answer_is_found_whatever_marks_it(text: str, answer: str) -> None:
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


@pytest.mark.parametrize(
    "piece",
    [r"\boxed{", r"\(", "Answer: ", "$", "{", " ", "x is ", r"\boxed{1} and ", "<answer>", "\n", "√1+"],
)
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
