import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s1.budget import Forcing
from s1.data.read_traces import read_traces
from s1.errors import BadConfig, BadInput
from s1.formats import FORMATS, open_prompt
from s1.policy import BudgetPolicy
from s1.prompt import encode_prompt
from s1.train.render import IGNORED, render_dataset, render_trace
from s1.train.settings import TrainSettings
from s1.types import Chunk, Question, Trace
from scripts.petri.tokenizer import build_tokenizer


class Characters:
    """A tokenizer whose tokens are characters, with a chat template that is the question alone."""

    is_fast = True

    def encode(self, text, add_special_tokens):
        return [ord(c) for c in text]

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        return messages[0]["content"]

    def __call__(self, text, add_special_tokens, return_offsets_mapping):
        return {"offset_mapping": [(i, i + 1) for i in range(len(text))]}


def rendered(thinking=" x 0 : 1 no . ", answer="5", fmt="petri", prefix="Answer : "):
    tokenizer = build_tokenizer()
    trace = Trace(Question("q1", "solve 3 x", "5"), thinking, answer)
    return tokenizer, render_trace(trace, FORMATS[fmt], tokenizer, end="<|end|>", answer_prefix=prefix)


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


@st.composite
def traces_with_parts(draw):
    text = draw(st.text("ab \n", min_size=1, max_size=30).filter(str.strip))
    cuts = draw(st.lists(st.tuples(st.integers(0, len(text) - 1), st.integers(1, len(text))), max_size=3))
    return Trace(Question("q", "Why?"), text, "4", untrained=tuple((a, b) for a, b in cuts if a < b))


@given(traces_with_parts())
def test_parts_of_the_thinking_are_read_but_carry_no_loss(trace):
    def render(unmarked):
        return render_trace(unmarked, FORMATS["petri"], Characters(), end="\x00")

    row, plain = render(trace), render(Trace(trace.question, trace.thinking, trace.answer))
    assert row.input_ids == plain.input_ids
    lead = len(trace.thinking) - len(trace.thinking.lstrip())
    first = len("Why?" + FORMATS["petri"].open)
    stripped = trace.thinking.strip()
    for place, (label, whole) in enumerate(zip(row.labels, plain.labels, strict=True)):
        at = place - first + lead
        marked = 0 <= place - first < len(stripped) and any(a <= at < b for a, b in trace.untrained)
        assert label == (IGNORED if marked else whole)


def test_a_token_that_is_partly_in_a_part_without_loss_carries_none():
    tokenizer = build_tokenizer()
    trace = Trace(Question("q", "solve 3 x"), " x 0 : 1 no . wait x 1 : 4 yes .", "5", untrained=((4, 13),))
    (row,) = render_dataset([trace], FORMATS["petri"], tokenizer, "<|end|>", "", 100)
    assert tokenizer.decode(row.input_ids).count("no .") == 1
    learnt = tokenizer.decode([i for i in row.labels if i != IGNORED])
    assert "wait x 1 : 4 yes ." in learnt and ": 1 no" not in learnt


@pytest.mark.parametrize("part", [(3, 3), (-1, 2), (0, 999)])
def test_a_part_outside_the_thinking_is_refused_with_its_question(part):
    with pytest.raises(BadInput, match="q7.*untrained"):
        render_dataset(
            [Trace(Question("q7", "solve"), "x 0", "5", untrained=(part,))],
            FORMATS["petri"], build_tokenizer(), "<|end|>", "", 100,
        )  # fmt: skip


ROW = {"id": "q1", "question": "solve 3 x", "thinking": "x 0 : 1 no .", "attempt": "5", "answer": "5"}


def test_the_column_untrained_is_read_from_a_file(tmp_path):
    import polars as pl

    rows = [ROW | {"untrained": [[0, 3]]}, ROW | {"id": "q2", "question": "add 1", "untrained": []}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    pl.DataFrame(rows).write_parquet(tmp_path / "rows.parquet")
    for name in ("rows.jsonl", "rows.parquet"):
        found = {t.question.id: t.untrained for t in read_traces(tmp_path / name)}
        assert found == {"q1": ((0, 3),), "q2": ()}


@pytest.mark.parametrize("value", ["0-3", [0, 3], [[0]], [["a", "b"]], [[0.5, 2]], {"a": 1}])
def test_a_column_untrained_of_another_form_is_refused_with_its_row(tmp_path, value):
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW | {"untrained": value}) + "\n")
    with pytest.raises(BadInput, match="row 1, untrained"):
        read_traces(tmp_path / "rows.jsonl")


@pytest.fixture(scope="module")
def qwen(shared_data):
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(shared_data / "tokenizers" / "qwen2.5-instruct")


REAL = Trace(
    Question("q", "How many r are in strawberry?"), "  I spell it.\n\ns-t-r-a-w… 3\n", " Three: r, r, r. "
)


def test_the_training_text_is_that_of_the_official_code(qwen):
    (row,) = render_dataset([REAL], FORMATS["s1"], qwen, "<|im_end|>", "Answer: ", 1000)
    assert qwen.decode(row.input_ids) == (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHow many r are in strawberry?<|im_end|>\n<|im_start|>assistant\n"
        "<|im_start|>think\nI spell it.\n\ns-t-r-a-w… 3\n<|im_start|>answer\nAnswer: Three: r, r, r.<|im_end|>"
    )


def test_official_trains_all_that_follows_the_prompt_to_the_newline_after_the_turn(qwen):
    """The authors' collator masks up to "<|im_start|>assistant" and a newline, and what pads the row."""
    (row,) = render_dataset([REAL], FORMATS["s1"], qwen, "<|im_end|>", "Answer: ", 1000, profile="official")
    turns = [
        {"role": "user", "content": REAL.question.text},
        {"role": "assistant", "content": "<|im_start|>think\nI spell it.\n\ns-t-r-a-w… 3\n<|im_start|>answer\n"
         "Answer: Three: r, r, r."},
    ]  # fmt: skip
    text = qwen.apply_chat_template(turns, tokenize=False)
    assert list(row.input_ids) == qwen.encode(text, add_special_tokens=False)
    learnt = [i for i in row.labels if i != IGNORED]
    assert qwen.decode(learnt) == text[text.index("<|im_start|>think") :] and text.endswith("<|im_end|>\n")
    assert list(row.labels[-len(learnt) :]) == learnt


@given(traces_with_parts())
def test_official_differs_from_strict_by_the_opening_and_what_follows_the_turn(trace):
    def render(**official):
        return render_trace(trace, FORMATS["s1"], Characters(), end="\x00", **official)

    strict, official = render(), render(learn_opening=True, after_turn="\n")
    first, opened = len("Why?"), len(FORMATS["s1"].open)
    assert official.input_ids == (*strict.input_ids, ord("\n"))
    assert official.labels[first : first + opened] == official.input_ids[first : first + opened]
    assert official.labels[:first] == strict.labels[:first]
    assert official.labels[first + opened :] == (*strict.labels[first + opened :], ord("\n"))


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=lambda fmt: fmt.name)
def test_training_text_and_forced_text_have_the_same_ids(qwen, fmt):
    """Cut at the opening delimiter and force what was written: decoding continues from the ids of training."""
    (row,) = render_dataset([REAL], fmt, qwen, "<|im_end|>", "", 1000)
    rendered = qwen.apply_chat_template(
        [{"role": "user", "content": REAL.question.text}], tokenize=False, add_generation_prompt=True
    )
    prompt = qwen.encode(open_prompt(rendered, fmt), add_special_tokens=False)
    assert list(row.input_ids[: len(prompt)]) == prompt
    assert row.labels[: len(prompt)] == (IGNORED,) * len(prompt) and IGNORED not in row.labels[len(prompt) :]
    newline = "\n" if fmt.newline else ""
    pieces = [qwen.encode(t, add_special_tokens=False) for t in
              (REAL.thinking.strip() + newline, fmt.close, REAL.answer.strip() + "<|im_end|>")]  # fmt: skip
    assert list(row.input_ids[len(prompt) :]) == [i for piece in pieces for i in piece]


CUT = Trace(Question("q", "Why?"), "one\ntwo  three\n\nfour. ", "Answer: five")


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=lambda fmt: fmt.name)
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.5, 0.99])
def test_a_cut_trace_has_the_ids_of_forcing_and_no_loss_on_what_is_forced(qwen, fmt, kept):
    """The policy's limit cuts the same thinking; what comes before the answer is compared id by id."""

    class Engine:
        name, context, eos_texts = "qwen", 10_000, ("<|im_end|>",)
        decode = staticmethod(qwen.decode)

        @staticmethod
        def encode(text):
            return tuple(qwen.encode(text, add_special_tokens=False))

    rendered = qwen.apply_chat_template(
        [{"role": "user", "content": "Why?"}], tokenize=False, add_generation_prompt=True
    )
    thinking = Engine.encode(CUT.thinking.strip())
    count = int(kept * len(thinking))
    forcing = Forcing(encode_prompt(Engine, fmt, BudgetPolicy(max_thinking=count), rendered))
    request = forcing.ask()
    if count:
        assert request.max_tokens == count
        forcing.feed(Chunk(thinking[:count], finish="length"))
        request = forcing.ask()
    row = render_trace(CUT, fmt, qwen, end="<|im_end|>", answer_prefix="Answer: ", kept=kept)
    prefix = list(request.prefix)
    assert list(row.input_ids[: len(prefix)]) == prefix
    opened = len(Engine.encode(open_prompt(rendered, fmt)))
    learnt = [label != IGNORED for label in row.labels]
    assert learnt == [opened <= i < opened + count or i >= len(prefix) for i in range(len(row.input_ids))]
    assert qwen.decode(row.input_ids[len(prefix) :]) == " five<|im_end|>"


def test_the_share_of_rows_that_are_cut_follows_from_the_seed():
    tokenizer = build_tokenizer()
    traces = [
        Trace(Question(f"q{n}", f"solve {n % 90} x"), "x 0 : 1 no . x 1 : 4 yes .", "5") for n in range(300)
    ]

    def rows(share, seed):
        return render_dataset(
            traces, FORMATS["petri"], tokenizer, "<|end|>", "Answer : ", 100, cut_share=share, seed=seed
        )

    whole, some, others = rows(0.0, 0), rows(0.3, 0), rows(0.3, 1)
    assert some == rows(0.3, 0) and some != others
    cut = [a for a, b in zip(some, whole, strict=True) if a != b]
    assert 60 < len(cut) < 120
    assert len({len(row.input_ids) for row in cut}) > 5, "cuts are not at random places"
    closing = tokenizer.convert_tokens_to_ids("</think>")
    assert all(closing not in row.labels and row.labels[-1] == row.input_ids[-1] for row in cut)


@pytest.mark.parametrize(
    "change",
    [
        {"cut_share": 1.0},
        {"cut_share": -0.1},
        {"cut_share": 0.5, "conditional": "token"},
        {"cut_share": 0.5, "profile": "official"},
    ],
)
def test_a_share_without_ends_to_learn_or_with_stated_lengths_is_refused(change):
    with pytest.raises(BadConfig, match="cut_share"):
        TrainSettings(**change)
