"""`s1 think` streams the thinking, marks forced text, and writes the answer alone to stdout."""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import s1
from s1.budget import Forcing
from s1.cli import main
from s1.cli.think_verb import FORCED, PLAIN, StreamedText
from s1.drive import drive
from s1.engines.scripted import ScriptedEngine
from s1.errors import BadConfig
from s1.formats import get_format
from s1.policy import BudgetPolicy
from s1.prompt import encode_prompt
from s1.types import Generation, Sampling, from_json

THINK = get_format("think")


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s1.cli.options.silence_libraries", lambda: None)
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., str]:
    def write(*continuations: str) -> str:
        file = tmp_path / "script.json"
        file.write_text(json.dumps(continuations))
        return f"scripted:{file}"

    return write


WAITED = ("I add.\n</think>", " I add again.\n</think>", "\n\nIt is four.\n<|end|>")


def test_stdout_holds_the_answer_alone(script, capsys) -> None:
    assert main(["think", "2+2?", "--model", script(*WAITED), "--waits", "1"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "It is four.\n"
    assert "I add.\n[Wait] I add again.\n</think>" in captured.err
    assert "1 waits, ended by itself" in captured.err


def test_forced_text_is_coloured_on_a_terminal(script, capsys, monkeypatch) -> None:
    reader, terminal = os.openpty()
    shown = b""
    try:
        with os.fdopen(terminal, "w") as stderr, monkeypatch.context() as patched:
            patched.setattr("sys.stderr", stderr)
            assert main(["think", "2+2?", "--model", script(*WAITED), "--waits", "1"]) == 0
            stderr.flush()
            while b"again." not in shown:  # a terminal hands over what it has, in pieces
                shown += os.read(reader, 100_000)
    finally:
        os.close(reader)
    text = shown.decode().replace("\r\n", "\n")
    assert f"I add.\n{FORCED}Wait{PLAIN} I add again." in text
    assert "[Wait]" not in text
    assert capsys.readouterr().out == "It is four.\n"


def test_no_color_is_respected_on_a_terminal(monkeypatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def shown_with(stream: io.StringIO) -> str:
        engine = ScriptedEngine(list(WAITED))
        shown = StreamedText(engine.decode, stream, io.StringIO())
        think(engine, BudgetPolicy(waits=1), shown)
        return stream.getvalue()

    assert FORCED in shown_with(Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    assert FORCED not in shown_with(Terminal())


def think(engine: ScriptedEngine, policy: BudgetPolicy, shown: StreamedText) -> Generation:
    forcing = Forcing(encode_prompt(engine, THINK, policy, "<|user|>2+2?<|assistant|>"))
    generation = asyncio.run(drive(forcing, engine, watch=shown.update))
    shown.end(forcing)
    return generation


def test_text_comes_in_pieces_while_it_is_decoded() -> None:
    class Pieces(io.StringIO):
        def __init__(self) -> None:
            super().__init__()
            self.pieces: list[str] = []

        def write(self, text: str) -> int:
            self.pieces.append(text)
            return super().write(text)

    thinking, answer = Pieces(), Pieces()
    engine = ScriptedEngine(["I add the numbers.</think>", "  It is exactly four.  <|end|>"], chunk=2)
    think(engine, BudgetPolicy(), StreamedText(engine.decode, thinking, answer))
    assert answer.getvalue() == "It is exactly four.\n"
    assert sum(1 for p in answer.pieces if p.strip()) > 5
    assert sum(1 for p in thinking.pieces if p.strip()) > 5


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_characters_of_several_tokens_are_never_torn(chunk: int) -> None:
    text = "é is 2 bytes, 数 is 3, 😀 is 4."
    engine = ScriptedEngine([f"{text}</think>", f"{text}<|end|>"], chunk=chunk)
    thinking, answer = io.StringIO(), io.StringIO()
    think(engine, BudgetPolicy(), StreamedText(engine.decode, thinking, answer))
    assert answer.getvalue() == text + "\n"
    assert thinking.getvalue().startswith(text)
    assert "\ufffd" not in thinking.getvalue()


def test_a_cut_shows_the_forced_end_and_its_cue(script, capsys) -> None:
    model = script("I think and think and think", "4<|end|>")
    assert main(["think", "2+2?", "--model", model, "--max-thinking", "7"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "4\n"
    assert captured.err.startswith("I think[\n</think>\n\nFinal Answer:]")
    assert "7 thinking tokens, 0 waits, cut" in captured.err


def test_json_is_the_whole_generation_and_nothing_else(script, capsys) -> None:
    assert main(["think", "2+2?", "--model", script(*WAITED), "--waits", "1", "--json"]) == 0
    captured = capsys.readouterr()
    generation = from_json(Generation, json.loads(captured.out))
    assert generation.waits == 1 and generation.text_of("answer").endswith("It is four.\n")
    assert captured.err == ""


def test_wait_strings_take_turns(script, capsys) -> None:
    model = script("a</think>", "b</think>", "c</think>", "d<|end|>")
    assert main(["think", "q", "--model", model, "--waits", "2", "--wait", "Hmm,So"]) == 0
    assert "a[Hmm]b[So]c" in capsys.readouterr().err


def test_a_system_message_goes_before_the_question(script, capsys) -> None:
    model = script("a</think>", "b<|end|>")
    assert main(["think", "q", "--model", model, "--system", "Be brief.", "--json"]) == 0
    prompt = json.loads(capsys.readouterr().out)["segments"][0]["text"]
    assert prompt.startswith("<|system|>Be brief.<|user|>q<|assistant|>")


def test_sampling_reaches_the_generation(script, capsys) -> None:
    model = script("a</think>", "b<|end|>")
    arguments = ["think", "q", "--model", model, "--temperature", "0.7", "--seed", "5", "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["seed"] == 5


def test_a_question_from_standard_input(script, capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("What is\n2+2?\n"))
    assert main(["think", "-", "--model", script("a</think>", "b<|end|>"), "--json"]) == 0
    assert "<|user|>What is\n2+2?<|assistant|>" in json.loads(capsys.readouterr().out)["segments"][0]["text"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(["", "--waits", "1"], "empty"), (["q", "--seed", "3"], "--temperature")],
    ids=["empty question", "a seed without temperature"],
)
def test_options_without_effect_are_refused(script, capsys, arguments, word) -> None:
    assert main(["think", *arguments, "--model", script("a</think>")]) == 2
    assert word in capsys.readouterr().err


def test_an_engine_that_breaks_leaves_what_was_shown_and_exit_code_2(script, capsys) -> None:
    assert main(["think", "q", "--model", script("a</think>")]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("a\n</think>") and "no continuation left" in captured.err
    assert captured.out == ""


def test_python_think_works_in_a_running_event_loop() -> None:
    engine = ScriptedEngine(list(WAITED))

    async def cell() -> Generation:
        return s1.think("2+2?", engine, waits=1)

    generation = asyncio.run(cell())
    assert (generation.waits, generation.error) == (1, None)
    assert generation.text_of("answer").strip().endswith("It is four.")


def test_python_think_leaves_a_given_engine_open_and_closes_its_own(script, monkeypatch) -> None:
    closed: list[str] = []

    async def close(self: ScriptedEngine) -> None:
        closed.append(self.name)

    monkeypatch.setattr(ScriptedEngine, "close", close)
    s1.think("2+2?", ScriptedEngine(list(WAITED)))
    assert closed == []
    s1.think("2+2?", script(*WAITED))
    assert closed == ["scripted"]


def test_python_think_takes_a_policy_or_its_parts_and_not_both() -> None:
    with pytest.raises(BadConfig, match="policy"):
        s1.think("q", ScriptedEngine([]), policy=BudgetPolicy(), max_thinking=0)
    generation = s1.think(
        "q", ScriptedEngine(list(WAITED)), system="Be brief.", sampling=Sampling(1.0, seed=2), max_thinking=3
    )
    assert (
        generation.seed == 2
        and generation.cut
        and generation.text_of("prompt").startswith("<|system|>Be brief.")
    )
