"""The scripted engine follows the whole protocol, so that what is tested with it holds for real engines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_model import run

from s1.engines import load_engine
from s1.engines.requests import check_request
from s1.engines.scripted import ScriptedEngine
from s1.errors import BadInput, EngineFailure
from s1.types import Chunk, Continuation, Stop

FEW = settings(max_examples=200, derandomize=True, deadline=None, database=None)


def all_of(engine: ScriptedEngine, request: Continuation) -> list[Chunk]:
    async def collect() -> list[Chunk]:
        return [chunk async for chunk in engine.stream(request)]

    return run(collect())


@pytest.mark.parametrize("length", [10, 12])
def test_a_prefix_that_fills_the_context_is_not_told_to_request_fewer_tokens(length):
    request = Continuation(tuple(range(length)), 5)
    with pytest.raises(BadInput, match="exceed") as error:
        check_request(request, context=10, vocab_size=None)
    assert error.value.hint == "Shorten the prefix."


def text_of(chunks: Sequence[Chunk], engine: ScriptedEngine) -> str:
    return engine.decode([i for chunk in chunks for i in chunk.ids])


def stop_of(engine: ScriptedEngine, text: str) -> Stop:
    return Stop(text, engine.encode(text))


def test_a_stop_ends_the_continuation_and_is_not_part_of_it() -> None:
    engine = ScriptedEngine(["ab</think>cd"])
    chunks = all_of(engine, Continuation((1,), 50, (stop_of(engine, "</think>"),)))
    assert text_of(chunks, engine) == "ab"
    assert chunks[-1].finish == "stop" and chunks[-1].stop == stop_of(engine, "</think>")


def test_the_limit_ends_the_continuation() -> None:
    engine = ScriptedEngine(["abcdef"])
    chunks = all_of(engine, Continuation((1,), 4, (stop_of(engine, "</think>"),)))
    assert text_of(chunks, engine) == "abcd"
    assert (chunks[-1].finish, chunks[-1].stop) == ("length", None)


def test_a_script_that_runs_out_ends_the_turn() -> None:
    engine = ScriptedEngine(["ab"])
    end = stop_of(engine, "<|end|>")
    chunks = all_of(engine, Continuation((1,), 50, (stop_of(engine, "</think>"), end)))
    assert text_of(chunks, engine) == "ab"
    assert (chunks[-1].finish, chunks[-1].stop) == ("stop", end)


def test_a_stop_of_several_tokens_counts_only_when_all_of_it_came() -> None:
    engine = ScriptedEngine(lambda prefix: "ab[/T]c")
    stops = (stop_of(engine, "[/T]"),)
    assert text_of(all_of(engine, Continuation((1,), 5, stops)), engine) == "ab[/T"
    assert text_of(all_of(engine, Continuation((1,), 6, stops)), engine) == "ab"


def test_no_stop_comes_before_the_minimum() -> None:
    engine = ScriptedEngine(lambda prefix: "a</think>bc</think>d")
    chunks = all_of(engine, Continuation((1,), 50, (stop_of(engine, "</think>"),), min_tokens=2))
    assert text_of(chunks, engine) == "abc"
    assert chunks[-1].finish == "stop"


def test_a_script_shorter_than_the_minimum_is_filled_up() -> None:
    engine = ScriptedEngine(["a"])
    assert (
        text_of(all_of(engine, Continuation((1,), 50, (stop_of(engine, "<|end|>"),), min_tokens=3)), engine)
        == "a.."
    )


def test_a_list_that_is_used_up_is_a_failure_of_the_engine() -> None:
    engine = ScriptedEngine([])
    with pytest.raises(EngineFailure, match="no continuation left"):
        all_of(engine, Continuation((1,), 5))


def test_beyond_the_context_is_refused_before_decoding() -> None:
    engine = ScriptedEngine(["abc"], context=10)
    with pytest.raises(BadInput, match="context of 10"):
        all_of(engine, Continuation((1,) * 8, 3))
    assert engine.asked == []


@FEW
@given(st.text(alphabet="ab é€😀<|end|></think>") | st.text(max_size=20))
def test_every_text_survives_encode_and_decode(text: str) -> None:
    engine = ScriptedEngine([])
    assert engine.decode(engine.encode(text)) == text


def test_equal_text_has_equal_ids_on_every_engine() -> None:
    one, other = ScriptedEngine([]), ScriptedEngine([])
    one.encode("<|user|>")
    assert one.encode("<think>a</think>") == other.encode("<think>a</think>")


@FEW
@given(st.text(alphabet="abé", min_size=1, max_size=20), st.integers(1, 9), st.integers(1, 30))
def test_the_size_of_chunks_changes_nothing(text: str, size: int, most: int) -> None:
    whole, pieces = (ScriptedEngine([text + "<|end|>"], chunk=n) for n in (100, size))
    ends = (stop_of(whole, "<|end|>"),)
    one, many = all_of(whole, Continuation((1,), most, ends)), all_of(pieces, Continuation((1,), most, ends))
    assert text_of(one, whole) == text_of(many, whole)
    assert (one[-1].finish, one[-1].stop) == (many[-1].finish, many[-1].stop)
    assert all(len(chunk.ids) <= size for chunk in many)


def test_a_file_of_continuations_makes_an_engine(tmp_path: Path) -> None:
    file = tmp_path / "script.json"
    file.write_text(json.dumps(["one</think>", "two"]), encoding="utf-8")
    engine = load_engine(f"scripted:{file}")
    assert isinstance(engine, ScriptedEngine)
    assert text_of(all_of(engine, Continuation((1,), 3)), engine) == "one"


@pytest.mark.parametrize("text", ["{", '{"a": 1}', "[1]", "[]"])
def test_a_file_that_is_no_list_of_texts_is_refused_by_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "script.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=r"script\.json"):
        load_engine(f"scripted:{file}")


def test_a_missing_file_is_refused_by_name() -> None:
    with pytest.raises(BadInput, match=r"no-such\.json"):
        load_engine("scripted:no-such.json")
