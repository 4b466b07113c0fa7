"""A text that follows another is encoded so that it adds itself and nothing else, whatever its tokenizer."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("openai")

from imitation import Imitation, noise  # noqa: E402
from tiny_tokenizers import byte_level, model_with, sentencepiece  # noqa: E402

from s1.budget import Forcing  # noqa: E402
from s1.drive import drive  # noqa: E402
from s1.engines import load_engine  # noqa: E402
from s1.engines.hf import HFEngine  # noqa: E402
from s1.engines.tokenizer import LocalTokenizer, TokenizedEngine  # noqa: E402
from s1.errors import BadConfig  # noqa: E402
from s1.formats import FORMATS, encode_after  # noqa: E402
from s1.policy import BudgetPolicy  # noqa: E402
from s1.prompt import encode_prompt  # noqa: E402

MADE = {
    "byte level": byte_level(),
    **{scheme: sentencepiece(scheme) for scheme in ("always", "first", "never", "legacy")},
}
FRAGMENTS = st.text(st.sampled_from("a .\nWé</think>1漢"), min_size=1, max_size=12)


def engine_of(tokenizer):
    eos = [tokenizer.eos_token_id]
    return TokenizedEngine("test", 4096, LocalTokenizer(tokenizer, name="test", eos=eos, folder=None))


@pytest.mark.parametrize("name", MADE)
def test_a_lone_surrogate_is_encoded_as_the_replacement_character(name):
    """Prompts also come from harnesses and from Python."""
    engine = engine_of(MADE[name])
    assert engine.encode("lone \ud83d here") == engine.encode("lone \ufffd here")


@pytest.mark.parametrize("name", MADE)
@settings(max_examples=150, deadline=None)
@given(st.lists(FRAGMENTS, min_size=1, max_size=4))
def test_joined_fragments_are_the_joined_text(name, fragments):
    engine = engine_of(MADE[name])
    begin = engine.encode("<|user|>2+2?<|assistant|>So")
    ids, text = begin, engine.decode(begin)
    for fragment in fragments:
        more = encode_after(fragment, engine.encode, engine.decode)
        assert more is not None
        ids, text = ids + more, text + fragment
    assert engine.decode(ids) == text


@pytest.mark.parametrize("fmt", ["s1", "think", "petri"])
@pytest.mark.parametrize("name", MADE)
def test_what_is_forced_is_in_the_text_as_it_was_written(name, fmt):
    tokenizer = MADE[name]
    engine = HFEngine(model_with(tokenizer, {"a": 0.5, ".": 0.5}), tokenizer, cache_bytes=1 << 26)
    policy = BudgetPolicy(max_thinking=30, waits=1, wait=("\nWait, so",), transition="\n Then.", max_answer=4)
    prompt = encode_prompt(engine, FORMATS[fmt], policy, "<|user|>2+2?<|assistant|>")

    async def go():
        try:
            return await drive(Forcing(prompt), engine)
        finally:
            await engine.close()

    found = asyncio.run(go())
    forced = "".join(s.text for s in found.segments if s.by == "forced" and s.phase != "prompt")
    fmt = FORMATS[fmt]
    newline = "\n" if fmt.newline else ""
    assert found.error is None and forced == "\n Then." + newline + fmt.close + fmt.cue
    assert all(engine.decode(prompt.prompt + ids).endswith(policy.wait[0]) for ids in prompt.waits)


@pytest.mark.parametrize("name", MADE)
def test_a_server_of_text_gets_back_the_text_it_wrote(name, tmp_path):
    tokenizer = MADE[name]
    tokenizer.save_pretrained(tmp_path)
    ids = {i for c in ("a", ".", " a") for i in tokenizer(c, add_special_tokens=False)["input_ids"][-1:]}
    logits = noise(1, len(tokenizer), sorted(ids), 5.0)
    server = Imitation(tokenizer, logits, vllm=False, ids_in=False, ids_out=False, context=512)
    engine = load_engine(f"openai:{server.address}?tokenizer={tmp_path}&context=512")
    policy = BudgetPolicy(max_thinking=12, max_answer=4)
    try:
        prompt = encode_prompt(engine, FORMATS["think"], policy, "<|user|>2+2?<|assistant|>")
        server.bodies.clear()
        found = asyncio.run(drive(Forcing(prompt), engine))
        first, answer = (body["prompt"] for body in (server.bodies[0], server.bodies[-1]))
        thought = "".join(s.text for s in found.segments if s.phase == "thinking")
        assert found.error is None and answer == first + thought + "\n</think>\n\nFinal Answer:"
        assert " </think>" not in answer
    finally:
        asyncio.run(engine.close())
        server.stop()


def test_a_tokenizer_that_cannot_write_a_string_is_refused():
    engine = engine_of(byte_level())
    decode = engine.decode
    engine.decode = lambda ids: decode(ids).replace("Wait", "wait")
    with pytest.raises(BadConfig, match="'Wait'"):
        encode_prompt(engine, FORMATS["think"], BudgetPolicy(waits=1), "<|user|>2+2?<|assistant|>")
