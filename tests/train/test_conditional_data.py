"""Training sets for conditional control: prompts state the real length, in the words that decoding uses."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s1.errors import BadConfig
from s1.formats import FORMATS
from s1.methods.conditional import step_format, with_limit
from s1.train.conditional_data import conditional_traces, power_of_two
from s1.train.render import IGNORED, render_trace
from s1.train.settings import TrainSettings
from s1.types import Question, Trace

S1, PETRI = FORMATS["s1"], FORMATS["petri"]
words = st.lists(st.text("abc", min_size=1, max_size=5), min_size=1, max_size=40)


def count(text: str) -> int:
    return len(text.split())


def trace(thinking: str) -> Trace:
    return Trace(Question("q", "Why?", "4"), thinking, "4")


@given(st.integers(1, 100_000))
def test_the_power_of_two_is_the_smallest_that_is_enough(n):
    p = power_of_two(n)
    assert p >= n and p & (p - 1) == 0 and (p == 1 or p // 2 < n)


@given(words)
def test_the_prompt_asks_for_no_less_than_the_trace_has_and_the_trace_stays(tokens):
    thinking = " ".join(tokens)
    (made,), fmt = conditional_traces([trace(thinking)], "token", S1, count=count)
    asked = int(re.fullmatch(r"Why\?\n\nThink for up to (\d+) tokens\.", made.question.text)[1])
    assert asked == power_of_two(len(tokens)) >= len(tokens)
    assert (made.thinking, made.answer, made.question.id, fmt) == (thinking, "4", "q", S1)
    assert made.question.text == with_limit("Why?", asked, "tokens")


@given(st.lists(words.map(" ".join), min_size=1, max_size=9), st.sampled_from([S1, PETRI]))
def test_steps_count_down_to_zero_and_no_word_is_lost(steps, fmt):
    (made,), stepped = conditional_traces([trace("\n\n".join(steps))], "step", fmt, count=count)
    mark = re.escape("<|im_start|>") if fmt is S1 else ""
    found = re.split(rf"(?:{mark}|^|\n)(\d+) steps left\n", "\n" + made.thinking, flags=re.M)[1:]
    assert [int(n) for n in found[::2]] == list(range(len(steps), -1, -1))
    assert [s.strip() for s in found[1::2]] == [*steps, ""]
    assert int(re.search(r"up to (\d+) steps", made.question.text)[1]) == power_of_two(len(steps))
    assert stepped == step_format(fmt)


@pytest.mark.parametrize("fmt", [S1, PETRI])
def test_a_stepped_trace_renders_with_its_own_delimiters_and_the_same_mask(fmt):
    (made,), stepped = conditional_traces([trace("one\n\ntwo")], "step", fmt, count=count)

    class Characters:
        def encode(self, text, add_special_tokens):
            return [ord(c) for c in text]

        def apply_chat_template(self, messages, tokenize, add_generation_prompt):
            return f"<user>{messages[0]['content']}<assistant>"

    row = render_trace(made, stepped, Characters(), end="<|end|>")
    learnt = "".join(chr(i) for i, label in zip(row.input_ids, row.labels, strict=True) if label != IGNORED)
    prompt = "".join(chr(i) for i, label in zip(row.input_ids, row.labels, strict=True) if label == IGNORED)
    assert prompt.endswith("<assistant>" + stepped.open)
    mark = "<|im_start|>" if fmt is S1 else ""
    newline = "\n" if fmt is S1 else ""
    assert learnt == (
        f"2 steps left\none\n{mark}1 steps left\ntwo\n{mark}0 steps left{newline}{fmt.close}4<|end|>"
    )


def test_another_kind_is_refused():
    with pytest.raises(BadConfig, match="'tokens'.*token, step"):
        TrainSettings(conditional="tokens")
