from __future__ import annotations

import random
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s1.data.curate_settings import PETRI_CLEAN, CleanSettings
from s1.data.repetition import find_loops
from s1.errors import BadConfig

PROSE = "First I read the question again. There are 12 boxes with 7 red and 5 blue balls, and one is drawn."
PARAGRAPH = " ".join(f"w{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(53)) + "."
LETTERS = "".join(random.Random(0).choices("abcdefghijklmnop", k=15_000))
SECTION = " ".join(LETTERS[at : at + 5] for at in range(0, 15_000, 5)) + "\n"
CHINESE = "我们需要再检查一下这个答案是否正确,因为题目的条件还没有全部使用。"
JAPANESE = "もう一度この答えが正しいかどうかを確認する必要があります。"
THAI = "เราต้องตรวจสอบคำตอบนี้อีกครั้งเพราะยังไม่ได้ใช้เงื่อนไขทั้งหมด"


def loops(text: str | None, rules: CleanSettings = CleanSettings()) -> bool:
    return bool(find_loops(pl.Series([text], dtype=pl.String), rules)[0])


LOOPS = {
    "paragraph": (PARAGRAPH + "\n\n") * 25,
    "paragraph three times": (PARAGRAPH + "\r\n\r\n") * 3,
    "very long section": SECTION * 3,
    "cut in a repetition": ((PARAGRAPH + " ") * 5)[:-100],
    "Chinese": CHINESE * 60,
    "Japanese": JAPANESE * 60,
    "Thai": THAI * 60,
    "Russian": "Надо ещё раз проверить этот ответ. " * 30,
    "no spaces": "no-" * 300,
    "one letter": "a" * 250,
    "one mark": "!" * 400,
    "emoji": "😂" * 300,
    "digits": "9" * 400,
    "period of a fraction": "0." + "142857" * 60,
    "marks on lines of their own": ".\n\n" * 60,
    "numbered steps": " ".join(f"Step {i}: let me verify the result again." for i in range(1, 120)),
    "a few numbered lines": "\n".join(f"Step {i}: let me verify" for i in range(1, 20)),
    "numbered downwards": "\n".join(f"Only {i} more checks to do now." for i in range(120, 0, -1)),
    "numbered Chinese": "\n".join(f"第{i}步:让我再验证一下这个结果。" for i in range(1, 60)),
    "word": "wait " * 6,
    "number": "4 " * 30,
}
ORDINARY = {
    "rule": "-" * 220,
    "three rules": ("=" * 220 + "\n") * 3,
    "spaced rule": "- " * 150,
    "box drawing": "─" * 300,
    "dots": "." * 300,
    "frames": ("+---" * 30 + "+\n|" + "   |" * 30 + "\n") * 8,
    "table of numbers": "| n | square |\n|---|---|\n" + "".join(f"| {i} | {i * i} |\n" for i in range(60)),
    "table of words": "| n | prime |\n|---|---|\n"
    + "".join(f"| {i} | no, even |\n" for i in range(4, 80, 2)),
    "truth table": "| p | q | both |\n|---|---|---|\n" + "| T | F | F |\n| F | T | F |\n" * 6,
    "table of zeros": "| 0 | 0 | 0 |\n" * 12,
    "matrix": "0 0 0 0 0 ; " * 5,
    "numbers": " ".join(map(str, range(300))),
    "powers": "\n".join(f"2^{i} = {2**i}" for i in range(40)),
    "trials": " ".join(f"For n = {n}, the value of f is {n * n + n + 41}." for n in range(30)),
    "products": "\n".join(f"{i} times {j} is {i * j}." for i in range(1, 7) for j in range(1, 7)),
    "long number": str(7**160),
    "a phrase three times": "So the answer is twelve. " * 3,
}


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("text", ["{}", PROSE + "\n\n{}\n\nSo it is 7."])
def test_a_loop_is_found_in_any_script_and_at_any_length(name: str, text: str) -> None:
    assert loops(text.format(LOOPS[name]))


@pytest.mark.parametrize("name", ORDINARY)
def test_rules_tables_and_calculations_are_left_alone(name: str) -> None:
    assert not loops(PROSE + "\n\n" + ORDINARY[name] + "\n\nSo it is 7.")


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from("abcdefgh"), max_size=20),
    st.lists(st.sampled_from("ijklmnopqrstuvwxyz"), min_size=2, max_size=18, unique=True),
    st.integers(1, 16),
    st.sampled_from([" ", "\n", "  ", "\r\n", "\t"]),
)
def test_a_phrase_is_a_loop_from_four_times_and_thirty_words(
    head: list[str], phrase: list[str], times: int, space: str
) -> None:
    # Between phrases of other letters, so that nothing else repeats.
    unique_head = [f"{w}{i}" for i, w in enumerate(head)]
    text = space.join([*unique_head, *(phrase * times), "end."])
    assert loops(text) == (times >= 4 and times * len(phrase) >= 30)


@settings(deadline=None, max_examples=25)
@given(st.text(st.characters(codec="utf-8"), min_size=1), st.integers(0, 2000), st.integers(3, 5))
def test_a_period_of_any_length_and_alphabet_is_found(phrase: str, more: int, times: int) -> None:
    phrase = " ".join([phrase, *(f"{n:x}z" for n in range(1, more))])
    long = len(phrase.split()) > 50
    assert loops(PROSE + " " + (phrase + " ") * times) or not long


WORDS = st.lists(
    st.sampled_from(
        ["a", "so", "7", "12", "Wait,", "---", "| 0 |", "好", "x" * 220, "\u00a0", "\u3000", "\x1c"]
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.none() | st.tuples(WORDS, st.integers(1, 30), st.sampled_from(["", " ", "\n"])), max_size=8),
    st.sampled_from([1, 40, 1 << 22]),
    st.sampled_from([CleanSettings(), PETRI_CLEAN]),
)
def test_a_text_is_judged_alone_whatever_stands_beside_it(
    parts: list[tuple[list[str], int, str] | None], size: int, rules: CleanSettings
) -> None:
    texts = [None if part is None else part[2].join(part[0] * part[1]) for part in parts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("s1.data.repetition.BATCH_BYTES", size)
        together = find_loops(pl.Series(texts, dtype=pl.String), rules).to_list()
    assert together == [loops(text, rules) for text in texts]


def test_the_words_of_neighbours_do_not_add_up() -> None:
    texts = pl.Series(["so so so", "so so so", "", None, PARAGRAPH, PARAGRAPH, PARAGRAPH, PARAGRAPH])
    assert not find_loops(texts, CleanSettings()).any()


def test_real_traces_loop_where_a_reader_sees_a_loop(shared_data: Path) -> None:
    traces = pl.read_parquet(shared_data / "traces/misguided_attention.parquet")["trace"]
    assert find_loops(traces, CleanSettings()).arg_true().to_list() == [58, 95, 693, 1120]


def test_bounds_below_what_the_search_can_see_are_refused() -> None:
    with pytest.raises(BadConfig):
        CleanSettings(word_run=3)
