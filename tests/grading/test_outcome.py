"""Every generation gets one of five outcomes."""

from __future__ import annotations

import pytest

from s1.errors import BadInput
from s1.grading import answer_text, grade
from s1.types import Finish, Generation, Owner, Question, Segment


def question(answer: str | None = "42", **more: object) -> Question:
    return Question("q", "What is it?", answer, **more)  # type: ignore[arg-type]


def generation(
    *answer: tuple[str, Owner], finish: Finish | None = "stop", error: str | None = None
) -> Generation:
    segments = (
        Segment((1,), "What is it?", "prompt", "format"),
        Segment((2,), "Perhaps \\boxed{13}", "thinking", "model"),
        *(Segment((3,), text, "answer" if by == "model" else "delimiter", by) for text, by in answer),
    )
    return Generation("q", 0, "p", segments, 1, 1, 0, 0, False, finish, error=error)


def test_a_correct_answer_is_right_and_another_is_wrong() -> None:
    assert grade(generation(("Answer: 42", "model")), question()).outcome == "right"
    found = grade(generation(("Answer: 41", "model")), question())
    assert (found.outcome, found.extracted, found.how) == ("wrong", "41", "number")


def test_thinking_is_never_read_as_an_answer() -> None:
    assert grade(generation(("I do not know", "model")), question("13")).outcome == "no answer"
    assert grade(generation(), question("13")).outcome == "no answer"


def test_an_answer_that_ran_out_of_tokens_is_cut_unless_it_had_committed() -> None:
    assert grade(generation(("We add 40 and 2", "model"), finish="length"), question("2")).outcome == "cut"
    assert grade(generation((r"\boxed{42", "model"), finish="length"), question()).outcome == "cut"
    assert (
        grade(generation((r"\boxed{42}. To check,", "model"), finish="length"), question()).outcome == "right"
    )


def test_a_forced_cue_counts_and_a_forced_delimiter_does_not() -> None:
    cued = generation(("<|im_start|>answer\nFinal Answer:", "forced"), (" 42", "model"), finish="length")
    assert answer_text(cued) == "Final Answer:  42"
    assert grade(cued, question()).outcome == "right"
    plain = generation(("<answer>", "forced"), ("6", "model"))
    assert grade(plain, question("6"), "exact").outcome == "right"


def test_an_engine_error_is_an_error_and_says_which() -> None:
    found = grade(generation(finish=None, error="the server went away"), question())
    assert (found.outcome, found.how) == ("error", "the server went away")


def test_a_choice_that_is_spelt_out_counts_as_its_letter() -> None:
    asked = question("B", choices=("Paris", "New York"))
    assert grade(generation(("The answer is New York.", "model")), asked, "choice").outcome == "right"
    assert grade(generation(("The answer is London.", "model")), asked, "choice").outcome == "no answer"


def test_a_tolerance_of_the_question_is_honoured() -> None:
    asked = question("4.2", meta={"tolerance": 0.1})
    assert grade(generation(("Answer: 4.25", "model")), asked).outcome == "right"
    assert grade(generation(("Answer: 4.31", "model")), asked).outcome == "wrong"


def test_the_official_profile_changes_what_is_extracted() -> None:
    said = generation(("Answer: 1\nAnswer: 42", "model"))
    assert grade(said, question()).outcome == "right"
    assert grade(said, question(), profile="official").outcome == "wrong"


def test_a_monstrous_answer_is_wrong_in_time() -> None:
    found = grade(generation((r"\boxed{9^{9^{9^{9}}} + x}", "model")), question())
    assert found.outcome == "wrong"


def test_a_missing_reference_or_another_question_is_bad_input() -> None:
    with pytest.raises(BadInput, match="no reference answer"):
        grade(generation(("1", "model")), question(None))
    with pytest.raises(BadInput, match="was given question other"):
        grade(generation(("1", "model")), Question("other", "?", "1"))
