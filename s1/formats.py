"""How a family of models marks its thinking: one format per family, and how to detect it.

A checkpoint folder may have its own format in `thinking.json` (written by `s1 train`). Otherwise `detect`
decides from the vocabulary and the chat template, gives its reason, and refuses to guess.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from s1.errors import BadConfig, BadInput
from s1.types import Engine, Stop, from_json, to_json


@dataclass(frozen=True, slots=True)
class ThinkingFormat:
    """The strings around thinking. Their spaces and newlines are part of what the model was trained on."""

    name: str
    open: str
    """Appended to the chat template's assistant prefix; "" when the template itself opens the block."""
    close: str
    """Appended when the thinking ends, for any reason."""
    stops: tuple[str, ...]
    """Strings with which the model ends its thinking. The end of turn always counts too."""
    cue: str = ""
    """Appended after `close` when the thinking was cut, so that an answer follows (section 3.1)."""
    newline: bool = False
    """Whether `close` must be on its own line."""

    def __post_init__(self) -> None:
        if not self.close or not self.stops or not all(self.stops):
            raise BadConfig(
                f"The thinking format {self.name!r} has no end delimiter.",
                "Give close and at least one stop.",
            )


FORMATS: dict[str, ThinkingFormat] = {
    f.name: f
    for f in (
        ThinkingFormat(
            "s1",
            "<|im_start|>think\n",
            "<|im_start|>answer\n",
            ("<|im_start|>",),
            "Final Answer:",
            newline=True,
        ),
        ThinkingFormat("think", "<think>\n", "</think>\n\n", ("</think>",), "Final Answer:", newline=True),
        ThinkingFormat("mistral", "[THINK]", "[/THINK]", ("[/THINK]",), "Final Answer:"),
        ThinkingFormat(
            "harmony",
            "<|channel|>analysis<|message|>",
            "<|end|><|start|>assistant<|channel|>final<|message|>",
            ("<|end|>", "<|channel|>", "<|start|>"),
            "Final Answer:",
        ),
        ThinkingFormat("petri", "<think>", "</think>", ("</think>",), " Answer :"),
    )
}


def get_format(name: str) -> ThinkingFormat:
    """The format of that name. Raises BadConfig with the valid names."""
    if name not in FORMATS:
        raise BadConfig(f"Unknown thinking format {name!r}.", f"Choose one of: {', '.join(FORMATS)}.")
    return FORMATS[name]


@dataclass(frozen=True, slots=True)
class Detected:
    """A format, and why it is that of the model."""

    format: ThinkingFormat
    why: str


MARKS = {
    "harmony": ("<|channel|>", "<|message|>"),
    "mistral": ("[THINK]", "[/THINK]"),
    "think": ("</think>", "<think>"),
}
"""What identifies a family: the token that its chat templates mention, and one more of its tokens."""


def detect(vocabulary: Callable[[str], bool], template: str | None) -> Detected:
    """Detect the format from the special tokens and the chat template. `vocabulary(s)`: whether s is one token.

    A template decides, because models that do not think may share the vocabulary of one that does. Raises
    BadConfig when no format or more than one fits.
    """
    found, unused = list[Detected](), list[str]()
    for name, marks in MARKS.items():
        if template and marks[0] in template:
            found.append(Detected(FORMATS[name], f"the chat template mentions {marks[0]}"))
        elif all(map(vocabulary, marks)):
            if template:
                unused.append(marks[0])
            else:
                found.append(Detected(FORMATS[name], f"the vocabulary has {' and '.join(marks)}"))
    if len(found) == 1:
        return found[0]
    if found:
        raise BadConfig(
            f"Several thinking formats fit: {', '.join(d.format.name for d in found)}.",
            "Choose one with --format.",
        )
    if unused:
        raise BadConfig(
            f"The vocabulary has {unused[0]}, but the chat template never mentions it: this model "
            "may not think.",
            "If it does, choose the format: --format " + " | ".join(FORMATS),
        )
    raise BadConfig(
        "No thinking delimiters found in the vocabulary or the chat template.",
        "Choose the format: --format " + " | ".join(FORMATS),
    )


def format_of_folder(folder: Path) -> ThinkingFormat | None:
    """The format in a checkpoint folder, or None. Raises BadConfig when its file is broken."""
    file = folder / "thinking.json"
    if not file.is_file():
        return None
    try:
        return from_json(ThinkingFormat, json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, BadInput, BadConfig) as error:
        raise BadConfig(
            f"{file} is not a thinking format: {error}", "Write it again with s1 train."
        ) from error


def choose_format(engine: Engine, name: str | None = None) -> ThinkingFormat:
    """The named format, else the checkpoint's own, else what `detect` finds. Raises BadConfig."""
    return find_format(engine, name).format


def find_format(engine: Engine, name: str | None = None) -> Detected:
    """As `choose_format`, with the reason."""
    if name is not None:
        return Detected(get_format(name), "named by you")
    if engine.folder and (own := format_of_folder(engine.folder)):
        return Detected(own, "thinking.json in the model's folder")

    def is_one_token(text: str) -> bool:  # the token for unknown text may be a single token too
        ids = engine.encode(text)
        return len(ids) == 1 and engine.decode(ids).strip() == text

    return detect(is_one_token, engine.template)


def write_format(fmt: ThinkingFormat, folder: Path) -> None:
    """Write the format into a checkpoint folder."""
    (folder / "thinking.json").write_text(json.dumps(to_json(fmt), indent=1) + "\n", encoding="utf-8")


def open_prompt(rendered: str, fmt: ThinkingFormat) -> str:
    """The rendered prompt with the thinking block opened, unless its template has already opened it.

    Raises BadConfig for a prompt whose template has already closed the block: some models are told in this way to
    answer at once, and a second opening delimiter would be unlike anything they were trained on.
    """
    text = rendered.rstrip()
    if fmt.open.strip() and text.endswith(fmt.close.strip()):
        raise BadConfig(
            f"The chat template ends the prompt with {fmt.close.strip()!r}: it asks the model not to think.",
            "Turn thinking on with the template's argument, usually template.enable_thinking=true in the engine spec.",
        )
    marker = fmt.open.strip()
    return rendered if marker and text.endswith(marker) else rendered + fmt.open


BEFORE = ("\n", ".", "a", "0")
"""Texts after which a fragment is tried; it must merge with one of them in no tokenizer."""


def encode_after(
    text: str, encode: Callable[[str], Sequence[int]], decode: Callable[[Sequence[int]], str]
) -> tuple[int, ...] | None:
    """Ids that add exactly `text` to what comes before them; None where this tokenizer has none.

    A tokenizer in the style of SentencePiece puts a space before whatever it encodes. So a fragment is encoded together
    with something before it, where alone it would add more than itself. A tokenizer of whole words that can only write
    a word with a space before it keeps that space.
    """
    for before in BEFORE:
        known, whole = tuple(encode(before)), tuple(encode(before + text))
        for ids in (tuple(encode(text)), whole[len(known) :] if whole[: len(known)] == known else ()):
            if ids and decode(known + ids) == decode(known) + text:
                return ids
    alone, known = tuple(encode(text)), tuple(encode(BEFORE[0]))
    return alone if decode(known + alone) == f"{decode(known)} {text}" else None


def as_stops(texts: Sequence[str], encode: Callable[[str], tuple[int, ...]]) -> tuple[Stop, ...]:
    """Stop strings with their ids. Raises BadConfig for a string that encodes to no token."""
    stops = tuple(Stop(text, encode(text)) for text in texts)
    for stop in stops:
        if not stop.ids:
            raise BadConfig(
                f"The delimiter {stop.text!r} has no token in this vocabulary.", "Check the format."
            )
    return stops


TAGS = ("think", "thinking", "thought", "reasoning")
OPENINGS = [f"<{t}>" for t in TAGS] + ["<|begin_of_thought|>", *(f.open.strip() for f in FORMATS.values())]
CLOSINGS = [f"</{t}>" for t in TAGS] + ["<|end_of_thought|>", *(f.close.strip() for f in FORMATS.values())]
WRAPPINGS = (
    "<|begin_of_solution|>",
    "<|end_of_solution|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|end|>",
)
"""What may stand around an answer."""
DELIMITERS = tuple(
    sorted({*OPENINGS, *CLOSINGS, *WRAPPINGS, *(stop for f in FORMATS.values() for stop in f.stops)})
)
"""Every string that marks thinking or a turn in some family of models. None belongs into a trace."""


def _any_of(texts: Sequence[str]) -> str:
    return "(?:" + "|".join(map(re.escape, sorted(set(texts), key=len, reverse=True))) + ")"


_OPENED = re.compile(rf"\s*{_any_of(OPENINGS)}", re.I)
_CLOSED = re.compile(_any_of(CLOSINGS), re.I)
_ENDS = re.compile(rf"^\s*{_any_of(WRAPPINGS)}|{_any_of(WRAPPINGS)}\s*$", re.I)
_STRAY = re.compile(_any_of(DELIMITERS), re.I)


def without_delimiters(thinking: str | None, answer: str | None) -> tuple[str | None, str | None]:
    """Thinking and answer of one reply, split at a delimiter that is left in them where it is clear what is meant.

    Clear are one block of thinking at the start of the thinking or, where there is no other thinking, of the answer;
    its opening may be missing. A text without delimiters is returned as it is, and missing thinking stays None. Raises
    BadInput, with the delimiter, where another one remains: it would teach the model to stop in the wrong place.

    >>> without_delimiters("<think>2 and 2</think>It is 4.", None)
    ('2 and 2', 'It is 4.')
    """
    if not _STRAY.search(f"{thinking or ''}\n{answer or ''}"):
        return thinking, answer
    inside, rest = _block(thinking or "")
    before, reply = _block(answer or "")
    if inside is None and thinking is not None:
        inside, rest = _bare(thinking), ""
    if not inside:
        inside = before if thinking is None else before or ""
    elif before not in (None, "", inside):
        raise BadInput("the answer holds a block of thinking that differs from the thinking")
    if rest and reply and rest != reply:
        raise BadInput("the thinking goes on after its end delimiter, and differs from the answer")
    found = inside, reply or rest
    for name, text in zip(("thinking", "answer"), found, strict=True):
        if stray := _STRAY.search(text or ""):
            raise BadInput(f"the {name} contains the delimiter {stray[0]!r}")
    return found


def _block(text: str) -> tuple[str | None, str]:
    """The thinking of a text up to its first end delimiter (None where there is no delimiter), and what follows."""
    opened = _OPENED.match(text)
    closed = _CLOSED.search(text, opened.end() if opened else 0)
    if closed:
        return text[opened.end() if opened else 0 : closed.start()].strip(), _bare(text[closed.end() :])
    return (text[opened.end() :].strip(), "") if opened else (None, _bare(text))


def _bare(text: str) -> str:
    while (shorter := _ENDS.sub("", text)) != text:
        text = shorter
    return text.strip()
