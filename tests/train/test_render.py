import pytest

from s1.errors import BadInput
from s1.formats import FORMATS
from s1.train.render import IGNORED, render_trace
from s1.types import Question, Trace
from scripts.petri.tokenizer import build_tokenizer


def rendered(thinking=" x 0 : 1 no . ", answer="5", fmt="petri", prefix="Answer : "):
    tokenizer = build_tokenizer()
    trace = Trace(Question("q1", "solve 3 x", "5"), thinking, answer)
    row = render_trace(
        trace,
        FORMATS[fmt],
        encode=lambda text: tokenizer.encode(text, add_special_tokens=False),
        render=lambda m: tokenizer.apply_chat_template(m, tokenize=False, add_generation_prompt=True),
        end="<|end|>",
        answer_prefix=prefix,
    )
    return tokenizer, row


def test_the_loss_is_on_thinking_delimiter_answer_and_end_and_on_nothing_else():
    tokenizer, row = rendered()
    assert tokenizer.decode(row.input_ids) == (
        "<|user|> solve 3 x<|assistant|><think> x 0 : 1 no .</think> Answer : 5<|end|>"
    )
    learnt = [i for i in row.labels if i != IGNORED]
    assert tokenizer.decode(learnt) == " x 0 : 1 no .</think> Answer : 5<|end|>"
    assert row.labels[len(row.labels) - len(learnt) :] == row.input_ids[len(row.labels) - len(learnt) :]


def test_an_answer_that_says_answer_already_gets_no_second_prefix():
    tokenizer, row = rendered(answer="Answer : 5")
    assert tokenizer.decode(row.input_ids).count("Answer") == 1


@pytest.mark.parametrize("field", ["thinking", "answer"])
@pytest.mark.parametrize("text", ["", "  ", "a </think> b", "a <|end|>"])
def test_empty_texts_and_texts_that_hold_a_delimiter_are_refused_by_name(field, text):
    with pytest.raises(BadInput, match=f"q1.*{field}"):
        rendered(**{field: text})
