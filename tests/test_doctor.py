"""The doctor finds each trap, proves that forcing binds, and says so where it does not."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from token_model import TokenModel, run

from s1.cli import main
from s1.doctor import Diagnosis, diagnose
from s1.doctor.checks import (
    Check,
    Finding,
    check_close,
    check_context,
    check_defaults,
    check_delimiters,
    check_ends,
    check_history,
    check_opening,
    check_pad,
    check_vocabulary,
)
from s1.doctor.model_facts import REPLY, THOUGHT, ModelFacts, gather
from s1.doctor.probes import find_stand_in, judge_maximum, judge_minimum, judge_repeat, judge_wait
from s1.engines.scripted import ScriptedEngine
from s1.errors import BadConfig, Unsupported
from s1.formats import get_format
from s1.types import Chunk, Continuation, Stop

THINK = get_format("think")
END = Stop("<|im_end|>", (7,))
HEALTHY = ModelFacts(
    format=THINK,
    why="test",
    question="2+2?",
    prompt="<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n",
    prompt_tokens=12,
    stops=(Stop("</think>", (9,)),),
    close=(9, 10),
    eos_texts=(END,),
    context=8192,
    history=f"<think>\n{THOUGHT}</think>\n\n{REPLY}<|im_end|>\n<|im_start|>user\nAnd then?",
    tokenizer_size=100,
    logits=100,
    eos="<|im_end|>",
    pad="<|pad|>",
)


TRAPS: dict[str, tuple[Callable[[ModelFacts], Finding], dict[str, object], str, str]] = {
    "a template that closes the block at once": (
        check_opening,
        {"prompt": "2+2?<|im_start|>assistant\n<think>\n\n</think>\n\n"},
        "problem",
        "closes the block",
    ),
    "a format that opens nothing": (
        check_opening,
        {"format": replace(THINK, open="")},
        "note",
        "opens nothing",
    ),
    "a delimiter outside the vocabulary": (check_delimiters, {"lost": ("</think>",)}, "problem", "</think>"),
    "an end of several tokens": (
        check_delimiters,
        {"stops": (Stop("</think>", (1, 2, 3)),)},
        "note",
        "3 tokens",
    ),
    "no end of turn": (check_ends, {"eos_texts": ()}, "problem", "no end-of-turn"),
    "a template that ends turns with another token": (
        check_ends,
        {"eos_texts": (Stop("<|endoftext|>", (8,)),)},
        "note",
        "<|im_end|>",
    ),
    "a generation_config that disagrees with the tokenizer": (
        check_ends,
        {"history": None, "eos": "<|endoftext|>"},
        "note",
        "<|endoftext|>",
    ),
    "an end of turn inside the delimiter": (check_close, {"close": (9, 7)}, "note", "<|im_end|>"),
    "a padded vocabulary": (check_vocabulary, {"logits": 128}, "note", "28 padded ids"),
    "logits that cannot be seen": (check_vocabulary, {"logits": None}, "note", "100 tokens"),
    "a tokenizer larger than the model": (check_vocabulary, {"logits": 99}, "problem", "only 99"),
    "pad equal to EOS": (check_pad, {"pad": "<|im_end|>"}, "note", "also an end of turn"),
    "no pad token": (check_pad, {"pad": None}, "note", "none"),
    "a template that drops thinking": (check_history, {"history": REPLY}, "note", "drops"),
    "a template that refuses a past turn": (check_history, {"history": None}, "note", "refuses"),
    "a small context": (check_context, {"context": 60}, "problem", "60 tokens"),
    "sampling of the model's own": (
        check_defaults,
        {"defaults": {"temperature": 0.6}},
        "note",
        "temperature 0.6",
    ),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_each_trap_is_found_and_a_healthy_model_has_none(trap: str) -> None:
    check, change, wanted, word = TRAPS[trap]
    assert check(HEALTHY).level == "ok"
    found = check(replace(HEALTHY, **change))  # type: ignore[arg-type]
    assert found.level == wanted and word in found.found
    assert found.todo or trap in ("a template that refuses a past turn", "logits that cannot be seen")


def test_it_says_who_opens_the_block() -> None:
    assert "s1 puts" in check_opening(HEALTHY).found
    assert "template opens" in check_opening(replace(HEALTHY, prompt="2+2?<think>\n")).found


def answers(prefix: str) -> str:
    """A model that ends its thinking by itself after 36 tokens, and again after each wait."""
    if "</think>" in prefix:
        return "It is four.<|end|>"
    thought, text = prefix.partition("<think>\n")[2], "I add two and two, and that is four."
    if text.startswith(thought):
        return text[len(thought) :] + "</think>"
    return " let me see.</think>" if thought.endswith("Wait") else " and on.</think>"


def names(report: Diagnosis, wanted: str) -> set[str]:
    return {c.name for c in report.checks if c.level == wanted}


def found(report: Diagnosis, name: str) -> Check:
    return next(c for c in report.checks if c.name == name)


def test_a_model_on_which_forcing_binds_is_safe_and_the_generations_show_it() -> None:
    report = run(diagnose(ScriptedEngine(answers)))
    assert report.safe and names(report, "problem") == set()
    generations = {p.name: p.generation for p in report.probes}
    assert generations["natural"].thinking_tokens == 36 and not generations["natural"].cut
    assert generations["maximum"].thinking_tokens == 16 and generations["maximum"].cut
    assert generations["wait"].waits == 1
    assert generations["minimum"].thinking_tokens >= 40
    assert {"maximum", "wait", "minimum", "answer", "repeatable", "end in thinking"} <= names(report, "ok")


def test_a_model_that_thinks_on_is_probed_with_a_word_for_its_delimiter() -> None:
    said = "I add two and two, then I look at it, and so on without an end " * 3

    def endless(prefix: str) -> str:
        if "</think>" in prefix:
            return "Four.<|end|>"
        thought = prefix.partition("<think>\n")[2]
        return said[len(thought) :] if said.startswith(thought) else " more words than asked for"

    report = run(diagnose(ScriptedEngine(endless)))
    assert report.safe
    assert "in place of the delimiter" in found(report, "wait").found
    assert "in place of the delimiter" in found(report, "minimum").found


class Overruns(ScriptedEngine):
    """Breaks one rule of the engine protocol."""

    def __init__(self, rule: str) -> None:
        super().__init__(answers)
        self.rule = rule

    async def stream(self, ask: Continuation) -> AsyncGenerator[Chunk, None]:
        if self.rule == "minimum" and ask.min_tokens > 1:
            raise Unsupported("No min_tokens here.", "Use waits.")
        if self.rule == "limit":
            ask = replace(ask, max_tokens=ask.max_tokens + 5)
        if self.rule == "stops":
            ask = replace(ask, stops=())
        if self.rule == "min_tokens":
            ask = replace(ask, min_tokens=0)
        async for chunk in super().stream(ask):
            yield chunk


@pytest.mark.parametrize("rule", ["limit", "stops", "min_tokens"])
def test_an_engine_that_ignores_a_rule_is_not_safe(rule: str) -> None:
    report = run(diagnose(Overruns(rule)))
    assert not report.safe
    assert names(report, "problem") & {"natural", "maximum", "wait", "minimum"}


def test_an_engine_that_says_it_cannot_mask_is_safe_without_that() -> None:
    report = run(diagnose(Overruns("minimum")))
    assert report.safe
    assert found(report, "minimum").level == "note"


def test_an_end_of_turn_instead_of_the_delimiter_is_noted() -> None:
    report = run(
        diagnose(ScriptedEngine(lambda p: "Four.<|end|>" if "</think>" in p else "I add them.<|end|>"))
    )
    assert "<|end|> and not by the delimiter" in found(report, "natural").found


def test_a_model_that_does_not_think_is_held_until_the_limit_cuts() -> None:
    report = run(
        diagnose(ScriptedEngine(lambda p: "Four.<|end|>" if "</think>" in p else "</think> and more"))
    )
    assert report.safe and found(report, "natural").level == "note"
    generation = next(p.generation for p in report.probes if p.name == "maximum")
    assert generation.cut and generation.thinking_tokens == 8


def test_an_empty_answer_after_the_cut_is_noted() -> None:
    report = run(diagnose(ScriptedEngine(lambda p: "<|end|>" if "</think>" in p else answers(p))))
    assert found(report, "answer").level == "note"


def test_a_model_without_delimiters_is_not_safe_and_says_what_to_name() -> None:
    engine = ScriptedEngine(answers)
    engine.template = "no marks"
    report = run(diagnose(engine))
    assert not report.safe and report.probes == ()
    assert "--format" in report.checks[0].todo


def test_an_unknown_format_is_the_callers_mistake() -> None:
    with pytest.raises(BadConfig, match="s9"):
        run(diagnose(ScriptedEngine(answers), "s9"))


def test_a_generation_that_does_not_show_it_is_a_problem() -> None:
    engine = ScriptedEngine(answers)
    generations = {p.name: p.generation for p in run(diagnose(engine)).probes}
    maximum, waited, least = generations["maximum"], generations["wait"], generations["minimum"]
    assert judge_maximum(maximum, 16).level == "ok"
    assert judge_maximum(maximum, 15).level == "problem"
    assert judge_maximum(replace(maximum, cut=False), 16).level == "problem"
    assert judge_minimum(least, 36, least.thinking_tokens, "").level == "ok"
    assert judge_minimum(least, 36, least.thinking_tokens + 1, "").level == "problem"
    wait = engine.encode("Wait")
    assert judge_wait(waited, 36, wait, "").level == "ok"
    assert judge_wait(waited, 36, engine.encode("Hmm"), "").level == "problem"
    assert judge_wait(replace(waited, waits=0), 36, wait, "").level == "problem"
    assert judge_wait(maximum, 36, wait, "").level == "problem"


def test_an_engine_that_runs_over_the_delimiter_is_named() -> None:
    assert "does not stop there" in found(run(diagnose(Overruns("stops"))), "natural").found


def test_decoding_that_changes_when_repeated_is_noted() -> None:
    report = run(diagnose(ScriptedEngine(answers)))
    generation = next(p.generation for p in report.probes if p.name == "maximum")
    assert judge_repeat(generation, (1, 2, 3)).level == "note"


def test_a_stand_in_occurs_first_where_it_is_used_and_is_one_token() -> None:
    engine = ScriptedEngine([])
    assert find_stand_in(engine.encode("aab"), engine.encode, engine.decode) == (2, "b")
    assert find_stand_in(engine.encode("aaaa é"), engine.encode, engine.decode) is None


@pytest.mark.parametrize("seed", range(6))
def test_random_models_that_keep_to_the_protocol_are_never_called_unsafe(seed: int) -> None:
    report = run(diagnose(TokenModel(seed, ends_in=20, context=1000)))
    assert names(report, "problem") <= {"wait"}, report.checks  # "wait": it said nothing that can stand in
    assert {"maximum"} <= names(report, "ok")


def qwens(shared_data: Path) -> tuple[ModelFacts, ModelFacts]:
    """What the doctor reads of the tokenizers of Qwen2.5 and Qwen3, with a model without weights."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from s1.logits_processor import LoadedModel

    folder = shared_data / "tokenizers"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "qwen2.5-instruct")
    defaults = transformers.GenerationConfig.from_pretrained(folder / "qwen2.5-instruct")
    config = transformers.Qwen2Config(
        vocab_size=151_936,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=32_768,
    )
    with torch.device("meta"):
        model = transformers.Qwen2ForCausalLM(config)
    model.generation_config = defaults

    def facts(format: str | None) -> ModelFacts:
        engine = LoadedModel(model, tokenizer)
        engine.model = model  # type: ignore[attr-defined]  # as the hf engine has it
        return gather(engine, format)

    old = facts("s1")
    later = json.loads((folder / "qwen3" / "tokenizer_config.json").read_text())
    tokenizer.chat_template = later["chat_template"]
    tokenizer.add_tokens(["<tool_response>", "</tool_response>", "<think>", "</think>"])
    return old, facts(None)


def test_published_tokenizers_are_read_for_what_they_are(shared_data: Path) -> None:
    old, new = qwens(shared_data)
    assert [check_delimiters(f).level for f in (old, new)] == ["ok", "ok"]
    assert [check_opening(f).level for f in (old, new)] == ["ok", "ok"]
    assert [check_ends(f).level for f in (old, new)] == ["ok", "ok"]
    assert old.format.name == "s1" and new.format.name == "think" and "</think>" in new.why
    assert "271 padded ids" in check_vocabulary(old).found
    assert check_pad(new).level == "note", "its pad token is among the ends of generation_config"
    assert [check_history(f).level for f in (old, new)] == ["ok", "note"], "Qwen3 drops past thinking"
    assert "repetition_penalty 1.05" in check_defaults(old).found


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("s1.cli.options.silence_libraries", lambda: None)
    lines = [
        "<think>",
        "I add two and two.</think>",
        "Four.<|end|>",
        "I add two and two.</think>",
        "4<|end|>",
    ]
    waits = [
        "I add two and two.</think>",
        " Let me see.</think>",
        "4<|end|>",
        "I add two and two.",
        "and.",
        "4",
    ]
    (tmp_path / "script.json").write_text(json.dumps(lines + waits))
    return f"scripted:{tmp_path / 'script.json'}"


def test_the_command_prints_a_line_a_check_and_exits_with_0(
    script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", script]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "Safe to use. 4 probes."
    assert all(line.split()[0] in ("ok", "note", "problem") for line in lines[:-1])


def test_the_command_prints_json_with_the_generations(
    script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", script, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["safe"] and [p["name"] for p in report["probes"]] == [
        "natural",
        "maximum",
        "wait",
        "minimum",
    ]
    assert report["prompt"].endswith("<think>\n")


def test_an_unsafe_model_exits_with_1(
    tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("s1.cli.options.silence_libraries", lambda: None)
    (tmp_path / "script.json").write_text('["<think>"]')
    assert main(["doctor", f"scripted:{tmp_path / 'script.json'}"]) == 1
    assert "problem" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["no/such/folder"], ["scripted:none.json"], ["x", "--max-thinking", "3"]]
)
def test_what_cannot_be_used_exits_with_2(arguments: list[str], monkeypatch, capsys) -> None:
    monkeypatch.setattr("s1.cli.options.silence_libraries", lambda: None)
    assert main(["doctor", *arguments]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
