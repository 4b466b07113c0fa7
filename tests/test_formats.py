"""Thinking formats: what opens, ends and marks thinking, and how the right one is found or refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from token_model import SPELLED

from s1.engines.scripted import ScriptedEngine
from s1.errors import BadConfig
from s1.formats import (
    FORMATS,
    ThinkingFormat,
    as_stops,
    choose_format,
    detect,
    format_of_folder,
    get_format,
    open_prompt,
    write_format,
)
from s1.policy import BudgetPolicy
from s1.prompt import encode_prompt

R1_TEMPLATE = "{{ content.split('</think>')[-1] }}{% if add_generation_prompt %}<think>\n{% endif %}"


class TokenizerOnly:
    """The part of an engine that formats and prompts need: a real tokenizer, without a model."""

    name, context = "tokenizer", 32_768
    folder: Path | None = None

    def __init__(self, tokenizer: Any, ends: tuple[str, ...], template: str | None) -> None:
        self.tokenizer, self.eos_texts, self.template = tokenizer, ends, template

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))


def load_tokenizer(folder: Path) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def qwen25(shared_data: Path) -> TokenizerOnly:
    folder = shared_data / "tokenizers" / "qwen2.5-instruct"
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    return TokenizerOnly(load_tokenizer(folder), ("<|im_end|>", "<|endoftext|>"), config["chat_template"])


@pytest.fixture(scope="module")
def qwen3(shared_data: Path) -> TokenizerOnly:
    """The vocabulary of Qwen2.5 with the tokens that Qwen3 adds, and the template of Qwen3."""
    config = json.loads(
        (shared_data / "tokenizers" / "qwen3" / "tokenizer_config.json").read_text(encoding="utf-8")
    )
    tokenizer = load_tokenizer(shared_data / "tokenizers" / "qwen2.5-instruct")
    tokenizer.add_tokens([t["content"] for t in config["added_tokens_decoder"].values()])
    return TokenizerOnly(tokenizer, ("<|im_end|>",), config["chat_template"])


# --- opening ---------------------------------------------------------------------------------------------


def test_a_prompt_is_opened_once() -> None:
    fmt = FORMATS["think"]
    assert open_prompt("<|assistant|>", fmt) == "<|assistant|><think>\n"
    for opened in ("<|assistant|><think>", "<|assistant|><think>\n", "<|assistant|><think>\n\n"):
        assert open_prompt(opened, fmt) == opened


def test_a_delimiter_earlier_in_the_prompt_does_not_count_as_open() -> None:
    rendered = "<|user|>What does <think> mean?<|assistant|>"
    assert open_prompt(rendered, FORMATS["think"]) == rendered + "<think>\n"


def test_a_format_without_an_opening_leaves_the_prompt_alone() -> None:
    assert open_prompt("<|assistant|>\n", ThinkingFormat("x", "", "END", ("END",))) == "<|assistant|>\n"


# --- finding ---------------------------------------------------------------------------------------------


def vocabulary(*tokens: str) -> Any:
    return lambda text: text in tokens


@pytest.mark.parametrize(
    ("tokens", "template", "name"),
    [
        (("<think>", "</think>"), R1_TEMPLATE, "think"),
        (("<think>", "</think>"), None, "think"),
        ((), R1_TEMPLATE, "think"),
        (("[THINK]", "[/THINK]"), None, "mistral"),
        (("[THINK]", "[/THINK]"), "[SYSTEM_PROMPT]...[THINK]Your thoughts[/THINK]", "mistral"),
        (("<|channel|>", "<|message|>"), "<|start|>assistant<|channel|>analysis<|message|>", "harmony"),
        (("<think>", "</think>", "[THINK]", "[/THINK]"), R1_TEMPLATE, "think"),
    ],
)
def test_the_family_is_found(tokens: tuple[str, ...], template: str | None, name: str) -> None:
    found = detect(vocabulary(*tokens), template)
    assert found.format is FORMATS[name]
    assert "template mentions" in found.why if template else "vocabulary has" in found.why


@pytest.mark.parametrize(
    ("tokens", "template", "message"),
    [
        ((), None, "No thinking delimiters"),
        (("<think>",), None, "No thinking delimiters"),
        ((), "<|im_start|>assistant", "No thinking delimiters"),
        (("[THINK]", "[/THINK]"), "[INST]{{ content }}[/INST]", "may not think"),
        (
            ("<think>", "</think>", "[THINK]", "[/THINK]"),
            None,
            "Several thinking formats fit: mistral, think",
        ),
    ],
)
def test_a_guess_is_refused(tokens: tuple[str, ...], template: str | None, message: str) -> None:
    with pytest.raises(BadConfig, match=message) as caught:
        detect(vocabulary(*tokens), template)
    assert "--format" in caught.value.hint


def test_qwen25_has_no_thinking_and_the_refusal_names_the_formats(qwen25: TokenizerOnly) -> None:
    with pytest.raises(BadConfig, match="No thinking delimiters") as caught:
        choose_format(qwen25)
    assert all(name in caught.value.hint for name in FORMATS)
    assert choose_format(qwen25, "s1") is FORMATS["s1"]


def test_qwen25_with_a_template_that_thinks_is_found(qwen25: TokenizerOnly) -> None:
    assert choose_format(TokenizerOnly(qwen25.tokenizer, qwen25.eos_texts, R1_TEMPLATE)).name == "think"


def test_qwen3_is_found_and_its_template_leaves_the_opening_to_us(qwen3: TokenizerOnly) -> None:
    jinja2 = pytest.importorskip("jinja2")
    assert choose_format(qwen3).name == "think"
    assert qwen3.template is not None
    rendered = jinja2.Template(qwen3.template).render(
        messages=[{"role": "user", "content": "2+2?"}], add_generation_prompt=True
    )
    assert open_prompt(rendered, FORMATS["think"]).endswith("<|im_start|>assistant\n<think>\n")


def test_the_token_for_unknown_texts_is_no_delimiter() -> None:
    class Unknowing(ScriptedEngine):
        def encode(self, text: str) -> tuple[int, ...]:
            return (0,)

    engine = Unknowing([])
    engine.template = None
    with pytest.raises(BadConfig, match="No thinking delimiters"):
        choose_format(engine)


# --- ids -------------------------------------------------------------------------------------------------


def test_the_ids_of_the_s1_format_are_those_of_the_paper_s_model(qwen25: TokenizerOnly) -> None:
    chat = "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
    official = encode_prompt(qwen25, FORMATS["s1"], BudgetPolicy(profile="official"), chat)
    assert official.prompt[-2:] == (151644, 26865)
    assert official.close == (151644, 9217)
    assert official.waits == ((14190,),)
    assert [stop.ids for stop in official.stops] == [(151644,), (151645,), (151643,)]
    assert [stop.ids for stop in official.answer_stops] == [(151645,), (151643,)]
    strict = encode_prompt(qwen25, FORMATS["s1"], BudgetPolicy(), chat)
    assert strict.prompt == (*official.prompt, 198)
    assert strict.close == (151644, 9217, 198)


@pytest.mark.parametrize("profile", ["strict", "official"])
def test_the_pieces_of_a_cut_encode_like_the_whole(qwen25: TokenizerOnly, profile: Any) -> None:
    encoded = encode_prompt(qwen25, FORMATS["s1"], BudgetPolicy(profile=profile), "<|im_start|>assistant\n")
    whole = qwen25.encode("\n<|im_start|>answer\nFinal Answer:")
    assert encoded.newline + encoded.close + encoded.cue == whole


@pytest.mark.parametrize("name", ["s1", "think"])
def test_delimiters_of_one_token_stop_by_one_id(qwen3: TokenizerOnly, name: str) -> None:
    assert all(len(stop.ids) == 1 for stop in as_stops(FORMATS[name].stops, qwen3.encode))


def test_delimiters_of_several_tokens_keep_all_their_ids(qwen25: TokenizerOnly) -> None:
    (stop,) = as_stops(["[/THINK]"], qwen25.encode)
    assert len(stop.ids) > 1 and qwen25.decode(stop.ids) == "[/THINK]"


def test_a_delimiter_without_a_token_is_refused() -> None:
    with pytest.raises(BadConfig, match="'</think>' has no token"):
        as_stops(["</think>"], lambda text: ())


# --- values and files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=list(FORMATS))
def test_a_format_survives_its_file(tmp_path: Path, fmt: ThinkingFormat) -> None:
    write_format(fmt, tmp_path)
    assert format_of_folder(tmp_path) == fmt


def test_a_folder_without_a_format_carries_none(tmp_path: Path) -> None:
    assert format_of_folder(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "thinking.json"),
        (b"[]", "expected an object"),
        (b'{"name": "x"}', "'open' is missing"),
        (b'{"name": "x", "open": "", "close": "", "stops": ["a"]}', "no end delimiter"),
        (b'{"name": "x", "open": 1, "close": "a", "stops": ["a"]}', "ThinkingFormat.open"),
        (b'{"name": "\xff"}', "thinking.json"),
    ],
)
def test_a_broken_format_file_is_refused_by_name(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "thinking.json").write_bytes(text)
    with pytest.raises(BadConfig, match=message) as caught:
        format_of_folder(tmp_path)
    assert str(tmp_path / "thinking.json") in caught.value.message


def test_the_format_in_the_checkpoint_folder_wins_over_the_template(tmp_path: Path) -> None:
    engine = ScriptedEngine([])
    assert choose_format(engine).name == "think"
    write_format(SPELLED, tmp_path)
    engine.folder = tmp_path
    assert choose_format(engine) == SPELLED
    assert choose_format(engine, "s1").name == "s1"


@pytest.mark.parametrize(("close", "stops"), [("", ("a",)), ("a", ()), ("a", ("",))])
def test_a_format_without_an_end_delimiter_is_refused(close: str, stops: tuple[str, ...]) -> None:
    with pytest.raises(BadConfig, match="no end delimiter"):
        ThinkingFormat("x", "a", close, stops)


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(BadConfig, match="'thinking'") as caught:
        get_format("thinking")
    assert all(name in caught.value.hint for name in FORMATS)
