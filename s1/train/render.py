"""Traces as token ids and labels: loss on thinking and answer, none on the prompt (section 3.1).

prompt | open | thinking | newline? close | answer | end of turn
---- no loss -- loss ---------------------------------------------

A trace may name parts of its thinking that carry no loss (`Trace.untrained`). The authors' collator masks the prompt
and nothing else: "official" puts loss on the opening delimiter too, and on what the chat template writes after the
end of turn (a newline in Qwen2.5). Decoding writes the first and never reaches the second, so "strict" trains neither.

A cut trace ends as forcing ends it:

prompt | open | first part of the thinking | newline? close cue | answer | end of turn
---- no loss -- loss ------------------------ no loss ----------- loss ---------------
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from s1.errors import BadInput
from s1.formats import DELIMITERS, ThinkingFormat, encode_after, open_prompt
from s1.seeds import seed_of
from s1.types import Trace

IGNORED = -100
"""The label that PyTorch's cross entropy ignores."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """One training row. `labels` equals `input_ids` where there is loss and is -100 elsewhere."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]


def render_dataset(
    traces: Sequence[Trace],
    fmt: ThinkingFormat,
    tokenizer: Any,
    end: str,
    answer_prefix: str,
    max_length: int,
    profile: Literal["strict", "official"] = "strict",
    cut_share: float = 0.0,
    seed: int = 0,
) -> list[Rendered]:
    """All rows of a dataset. Raises BadInput naming the first row that cannot be trained on.

    `cut_share` of the rows, chosen by the seed, are cut at a random token of their thinking.
    """

    if not tokenizer.chat_template:
        raise BadInput(
            "The tokenizer has no chat template, so there is no prompt to answer.",
            "Use an instruct model, or set tokenizer.chat_template and save the tokenizer.",
        )

    official = profile == "official"
    after_turn = _written_after(tokenizer)[1].partition(end)[2] if official else ""
    rows = []
    for i, trace in enumerate(traces):
        chance = random.Random(seed_of("cut", seed, i, trace.question.id))
        kept = chance.random() if chance.random() < cut_share else None
        row = render_trace(
            trace, fmt, tokenizer, end=end, answer_prefix=answer_prefix, learn_opening=official,
            after_turn=after_turn, kept=kept,
        )  # fmt: skip
        rows.append(row)
    check_rows(rows, traces, tokenizer, end, max_length)
    return rows


def check_rows(
    rows: Sequence[Rendered], traces: Sequence[Trace], tokenizer: Any, end: str, max_length: int
) -> None:
    """Raise BadInput for rows that are too long, or whose end of turn is not one token that carries loss."""
    ids = _encode(tokenizer, end)
    if len(ids) != 1:
        raise BadInput(
            f"The end of turn {end!r} takes {len(ids)} tokens, so decoding cannot stop there.",
            "Add it to the tokenizer as a special token, or use a chat template that ends turns with one.",
        )
    longer = [(len(row.input_ids), trace.question.id) for row, trace in zip(rows, traces, strict=True)]
    longer = sorted(found for found in longer if found[0] > max_length)
    if longer:
        size, name = longer[-1]
        raise BadInput(
            f"{len(longer)} of {len(rows)} rows are above max_length {max_length}; the longest, of question {name}, "
            f"has {size} tokens.",
            f"--set max_length={size} keeps all. Or drop the rows: a cut trace teaches the model not to stop.",
        )
    for row, trace in zip(rows, traces, strict=True):
        if ids[0] not in row.labels or row.labels[0] != IGNORED:
            raise BadInput(
                f"Question {trace.question.id}: the end of turn carries no loss, or the prompt carries some.",
                "Check the chat template with s1 doctor.",
            )


def render_trace(
    trace: Trace,
    fmt: ThinkingFormat,
    tokenizer: Any,
    *,
    end: str,
    answer_prefix: str = "",
    learn_opening: bool = False,
    after_turn: str = "",
    kept: float | None = None,
) -> Rendered:
    """Token ids and labels of one trace.

    `end` is the end-of-turn token; `answer_prefix` is put before an answer that does not contain it already
    (the paper: "Answer: "). `learn_opening` puts loss on the opening delimiter, and `after_turn` follows the end of
    turn with loss. `kept` cuts the thinking: that share of its tokens is kept, 0 to below 1, and what forcing writes
    after a cut follows without loss; it goes with neither of the two.
    Raises BadInput when thinking or answer is empty or contains a delimiter, which would teach the model to stop
    in the wrong place, or when nothing is left to learn.
    """
    for name, text in (("thinking", trace.thinking), ("answer", trace.answer)):
        if not text.strip():
            raise BadInput(
                f"Question {trace.question.id}: the {name} is empty.", "Drop the row with s1 curate."
            )
        # The opening delimiter also opens the steps of a stepped trace.
        delimiters = {*DELIMITERS, *fmt.stops, end} - {fmt.open}
        held = next((s for s in sorted(delimiters) if s in text), None)
        if held:
            raise BadInput(
                f"Question {trace.question.id}: the {name} contains the delimiter {held!r}.",
                "Drop the row with s1 curate or choose another --format.",
            )
    messages = [{"role": "user", "content": trace.question.text}]
    asked = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    opening = open_prompt(asked, fmt)[len(asked) :]
    if not learn_opening:
        asked, opening = asked + opening, ""
    prompt = _encode(tokenizer, asked)
    thinking, answer = trace.thinking.strip(), trace.answer.strip()
    prefixed = answer if answer_prefix.strip() in answer else answer_prefix + answer
    if kept is None:
        newline = "\n" if fmt.newline else ""
        after = newline + fmt.close + prefixed + end + after_turn
        ids, labels = _learnt(trace, opening, thinking + after, tokenizer)
    else:
        ids, labels = _learnt(trace, "", thinking, tokenizer)
        count = int(kept * len(ids))
        forced = _forced_end(fmt, (*prompt, *ids[:count]), tokenizer)
        written = _encode(
            tokenizer, (" " + answer.removeprefix(answer_prefix) if fmt.cue else prefixed) + end
        )
        ids, labels = [*ids[:count], *forced, *written], [*labels[:count], *[IGNORED] * len(forced), *written]
    return Rendered((*prompt, *ids), (*[IGNORED] * len(prompt), *labels))


def _encode(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def _learnt(trace: Trace, opening: str, text: str, tokenizer: Any) -> tuple[list[int], list[int]]:
    """Ids and labels of a text that begins with the thinking of the trace, after an opening.

    A token that is partly in a part without loss has none either.
    """
    text = opening + text
    ids = _encode(tokenizer, text)
    labels = list(ids)
    if trace.untrained:
        if not tokenizer.is_fast:
            raise BadInput(
                "Parts without loss need a tokenizer that says where its tokens are.",
                "Save it with a tokenizer.json.",
            )
        places = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        spans = [(a + len(opening), b + len(opening)) for a, b in _in_stripped(trace)]
        for i, (start, stop) in enumerate(places):
            if any(start < b and a < stop for a, b in spans):
                labels[i] = IGNORED
    return ids, labels


def _forced_end(fmt: ThinkingFormat, before: Sequence[int], tokenizer: Any) -> list[int]:
    """The ids that forcing appends after `before` when it cuts: newline if needed, delimiter, cue."""
    encode, decode = partial(_encode, tokenizer), tokenizer.decode
    newline = "\n" if fmt.newline and not decode(before[-8:]).endswith("\n") else ""
    pieces = [encode_after(text, encode, decode) for text in (newline, fmt.close, fmt.cue) if text]
    if None in pieces:
        raise BadInput(
            "This tokenizer cannot add the end of thinking to a text without changing it.",
            "Leave cut_share out, or choose another --format.",
        )
    return [i for piece in pieces if piece for i in piece]


def _in_stripped(trace: Trace) -> list[tuple[int, int]]:
    """The parts without loss, counted in the thinking without its outer whitespace."""
    text = trace.thinking
    for start, end in trace.untrained:
        if not 0 <= start < end <= len(text):
            raise BadInput(
                f"Question {trace.question.id}: untrained holds [{start}, {end}], but the thinking has "
                f"{len(text)} characters.",
                "Give [start, end] in characters of the thinking, with start before end.",
            )
    lead, length = len(text) - len(text.lstrip()), len(text.strip())
    return [(min(max(a - lead, 0), length), min(max(b - lead, 0), length)) for a, b in trace.untrained]


def delimiter_note(fmt: ThinkingFormat, tokenizer: Any) -> str:
    """How many tokens each delimiter takes where it is not one, "" where all are."""
    counts = {
        mark: len(_encode(tokenizer, mark)) for mark in dict.fromkeys((fmt.open.strip(), *fmt.stops)) if mark
    }
    several = [f"{mark} takes {count} tokens" for mark, count in counts.items() if count > 1]
    return f"Delimiters that are not one token: {', '.join(several)}." if several else ""


def end_of_turn(tokenizer: Any) -> str:
    """The token that the chat template writes after an assistant message, or else the EOS token.

    The two may differ: some tokenizers end a text with one token and a turn with another. Raises BadInput
    when there is neither.
    """
    found, after = _written_after(tokenizer)
    written = [token for token in tokenizer.get_added_vocab() if found and after.lstrip().startswith(token)]
    end = max(written, key=len, default="") or tokenizer.eos_token
    if not end:
        raise BadInput(
            "The chat template writes no token after an assistant message, and the tokenizer has no EOS token.",
            "Set tokenizer.eos_token and save the tokenizer.",
        )
    return str(end)


def _written_after(tokenizer: Any) -> tuple[str, str]:
    """An answer, and what the chat template writes after it; "" twice where it does not write the answer."""
    answer = "It is four."
    turns = [{"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": answer}]
    try:
        rendered = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except Exception:  # each template raises errors of its own kind
        rendered = ""
    _, found, after = rendered.rpartition(answer)
    return found, after if found else ""
