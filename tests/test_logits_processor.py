"""A caller's own generate() follows the same rules as s1's engine, token for token."""

from __future__ import annotations

import asyncio
import copy
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tiny_models import tiny  # noqa: E402

import s1  # noqa: E402
from s1.budget import Forcing  # noqa: E402
from s1.drive import drive  # noqa: E402
from s1.engines.hf import HFEngine  # noqa: E402
from s1.errors import BadInput, Unsupported  # noqa: E402
from s1.formats import get_format  # noqa: E402
from s1.logits_processor import LoadedModel  # noqa: E402
from s1.policy import BudgetPolicy  # noqa: E402
from s1.prompt import encode_prompt  # noqa: E402
from s1.types import Generation, Sampling  # noqa: E402
from scripts.petri.tokenizer import build_tokenizer  # noqa: E402

PETRI = get_format("petri")
QUESTIONS = ("solve 5 x + 14 = 7 mod 23", "poly 3 x ^ 2 + 1 at 4 mod 11", "sum 3 4 5", "solve x", "h")


@pytest.fixture(scope="module")
def model():
    """A model that was not trained: it seldom ends by itself."""
    return tiny("llama", vocab=576, eos=3, pad=0)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def ending(model):
    """The same model, made to end its thinking and its answer often, so that every rule has work."""
    changed = copy.deepcopy(model)
    head = torch.nn.Linear(model.config.hidden_size, model.config.vocab_size, dtype=model.dtype)
    with torch.no_grad():
        head.weight.copy_(model.get_output_embeddings().weight)
        head.bias.zero_()
        head.bias[[3, 5]] = torch.tensor([3.0, 4.0], dtype=model.dtype)
    changed.lm_head = head
    return changed


@pytest.fixture(scope="module")
def prompts(tokenizer):
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": q}], add_generation_prompt=True, tokenize=False
        )
        for q in QUESTIONS
    ]


def by_engine(model, tokenizer, prompts, policies, samplings) -> list[Generation]:
    engine = HFEngine(model, tokenizer, cache_bytes=1 << 26)

    async def go() -> list[Generation]:
        requests = [
            Forcing(encode_prompt(engine, PETRI, policy, prompt), sampling)
            for prompt, policy, sampling in zip(prompts, policies, samplings, strict=True)
        ]
        try:
            return await asyncio.gather(*(drive(r, engine) for r in requests))
        finally:
            await engine.close()

    return asyncio.run(go())


def comparable(generation: Generation) -> Generation:
    return replace(generation, seconds=0.0, first_token_seconds=None, question_id="")


PADDED = list(range(508, 576))
"""Ids of the model that the tokenizer does not have; nothing but s1 keeps `generate()` from them."""

POLICIES = (
    BudgetPolicy(max_thinking=12, max_answer=6),
    BudgetPolicy(max_thinking=30, waits=2, wait=("Wait", "So"), max_answer=9),
    BudgetPolicy(max_thinking=40, min_thinking=25, wait=("",), max_answer=5),
    BudgetPolicy(max_thinking=0, max_answer=7, cue="always"),
    BudgetPolicy(max_thinking=20, min_thinking=20, waits=1, grace=4, transition=" so then", max_answer=0),
)


@pytest.mark.parametrize("temperature", [0.0, 0.9], ids=["greedy", "sampled"])
def test_rows_with_different_budgets_equal_the_engine_token_for_token(
    ending, tokenizer, prompts, temperature
) -> None:
    samplings = [Sampling(temperature, seed=n, top_p=0.9 if n % 2 else 1.0) for n in range(len(prompts))]
    processor = s1.budget_processor(ending, tokenizer, prompts, POLICIES, format=PETRI, sampling=samplings)
    output = ending.generate(**processor.inputs, **processor.options)
    generations = processor.generations()
    wanted = by_engine(ending, tokenizer, prompts, POLICIES, samplings)
    assert [comparable(r) for r in generations] == [comparable(r) for r in wanted]
    assert {r.cut for r in generations} == {True, False} and {r.finish for r in generations} == {
        "stop",
        "length",
    }
    assert generations[1].waits == 2 and generations[2].thinking_tokens >= 25
    width = processor.inputs["input_ids"].shape[1]
    for row, generation in zip(output, generations, strict=True):
        emitted = [i for s in generation.segments if s.phase != "prompt" for i in s.token_ids]
        assert row[width : width + len(emitted)].tolist() == emitted
        assert row[width + len(emitted)].item() == 3, "an end of turn closes the row"
        assert set(row[width + len(emitted) + 1 :].tolist()) <= {0}


def test_a_tokenizer_without_a_pad_token_gives_the_same_tokens(ending, tokenizer, prompts) -> None:
    unpadded = copy.deepcopy(tokenizer)
    unpadded.pad_token = None
    found = []
    for each in (tokenizer, unpadded):
        processor = s1.budget_processor(ending, each, prompts, POLICIES, format=PETRI)
        ending.generate(**processor.inputs, **processor.options)
        found.append([comparable(g) for g in processor.generations()])
    assert found[0] == found[1]


def test_a_policy_without_limits_changes_no_token_of_generate(model, tokenizer, prompts) -> None:
    processor = s1.budget_processor(model, tokenizer, prompts[:1], BudgetPolicy(max_answer=20), format=PETRI)
    options = {**processor.options, "max_new_tokens": 40}
    forced = model.generate(**processor.inputs, **options)
    plain = model.generate(
        **processor.inputs, **{**options, "logits_processor": None}, suppress_tokens=PADDED
    )
    thinking = processor.generations()[0].thinking_tokens
    assert thinking > 5
    assert forced[0].tolist()[: thinking + 10] == plain[0].tolist()[: thinking + 10]


def test_a_request_without_anything_to_decode_is_closed_at_once(model, tokenizer, prompts) -> None:
    policy = BudgetPolicy(max_thinking=0, max_answer=0)
    processor = s1.budget_processor(model, tokenizer, prompts[:1], policy, format=PETRI)
    output = model.generate(**processor.inputs, **processor.options)
    emitted = tokenizer.decode(output[0, processor.inputs["input_ids"].shape[1] :])
    assert emitted == "</think> Answer :<|end|>"
    assert processor.generations()[0].error is None


def speak(processor, wanted: list[int], width: int = 576) -> list[int]:
    """What a batch of one emits when the model's best token is each of `wanted` in turn."""
    ids = processor.inputs["input_ids"]
    for token in wanted:
        scores = torch.zeros(1, width)
        scores[0, token] = 9.0
        ids = torch.cat([ids, processor(ids, scores).argmax(-1, keepdim=True)], dim=-1)
    return ids[0, processor.inputs["input_ids"].shape[1] :].tolist()


def test_ids_above_the_tokenizer_are_never_drawn(model, tokenizer, prompts) -> None:
    processor = s1.budget_processor(model, tokenizer, prompts[:1], BudgetPolicy(), format=PETRI)
    assert len(tokenizer) == 508
    assert speak(processor, [550, 20]) == [0, 20]


def test_the_end_of_turn_that_the_model_chose_is_kept(model, tokenizer, prompts, monkeypatch) -> None:
    monkeypatch.setattr(model.generation_config, "eos_token_id", [3, 0])
    processor = s1.budget_processor(model, tokenizer, prompts[:1], BudgetPolicy(waits=1), format=PETRI)
    wait = tokenizer("Wait", add_special_tokens=False)["input_ids"]
    assert speak(processor, [20, 0, 21, 5, 22, 0]) == [20, *wait, 21, 5, 22, 0]
    generation = processor.generations()[0]
    assert (generation.waits, generation.finish, generation.error) == (1, "stop", None)


def test_a_row_that_generate_leaves_early_says_so(model, tokenizer, prompts) -> None:
    policy = BudgetPolicy(max_thinking=20, max_answer=4)
    processor = s1.budget_processor(model, tokenizer, prompts[:1], policy, format=PETRI)
    model.generate(**processor.inputs, **{**processor.options, "max_new_tokens": 3})
    assert "max_new_tokens" in (processor.generations()[0].error or "")


def test_a_processor_made_for_other_prompts_is_refused(model, tokenizer, prompts) -> None:
    processor = s1.budget_processor(model, tokenizer, prompts[:1], BudgetPolicy(), format=PETRI)
    other = tokenizer(prompts[1], add_special_tokens=False, return_tensors="pt")
    with pytest.raises(BadInput, match=r"processor\.inputs"):
        model.generate(**other, **processor.options)


def test_drawing_behind_the_processor_is_noticed(model, tokenizer, prompts) -> None:
    processor = s1.budget_processor(
        model, tokenizer, prompts[:1], BudgetPolicy(max_thinking=60, max_answer=4), format=PETRI
    )
    options = {**processor.options, "do_sample": True, "temperature": 50.0, "top_k": 0}
    with pytest.raises(Unsupported, match="do_sample=False"):
        model.generate(**processor.inputs, **options)


def test_beams_are_refused(model, tokenizer, prompts) -> None:
    processor = s1.budget_processor(model, tokenizer, prompts[:1], BudgetPolicy(max_thinking=9), format=PETRI)
    with pytest.raises(Unsupported, match="beams"):
        model.generate(**processor.inputs, **processor.options, num_beams=2)


def test_a_processor_serves_one_call(model, tokenizer, prompts) -> None:
    policy = BudgetPolicy(max_thinking=3, max_answer=2)
    processor = s1.budget_processor(model, tokenizer, prompts[:1], policy, format=PETRI)
    model.generate(**processor.inputs, **processor.options)
    with pytest.raises(Unsupported, match="each call"):
        model.generate(**processor.inputs, **processor.options)


def test_what_cannot_be_taken_back_is_refused(model, tokenizer, prompts) -> None:
    spelled = replace(PETRI, name="spelled", stops=("yes no",))
    with pytest.raises(Unsupported, match="2 tokens"):
        s1.budget_processor(model, tokenizer, prompts[:1], BudgetPolicy(), format=spelled)
    ending = replace(PETRI, name="ending", close="</think><|end|>")
    with pytest.raises(Unsupported, match="end-of-turn"):
        s1.budget_processor(model, tokenizer, prompts[:1], BudgetPolicy(), format=ending)
    rounds = BudgetPolicy(max_thinking=9, waits=1, profile="official")
    with pytest.raises(Unsupported, match="official"):
        s1.budget_processor(model, tokenizer, prompts[:1], rounds, format=PETRI)


def test_a_model_that_states_no_context_needs_one_and_a_nameless_one_has_no_folder(tokenizer) -> None:
    unstated = tiny("bloom", vocab=576, eos=3, pad=0, max_position_embeddings=None)
    with pytest.raises(Unsupported, match="states no max_position_embeddings.*option context"):
        LoadedModel(unstated, tokenizer)
    loaded = LoadedModel(unstated, tokenizer, context=100)
    assert (loaded.context, loaded.eos_texts, loaded.folder) == (100, ("<|end|>",), None)
    assert loaded.name == "generate:BloomForCausalLM"
    unstated.generation_config.eos_token_id = None
    assert LoadedModel(unstated, tokenizer, context=100).eos == (tokenizer.eos_token_id,)


def test_lists_of_the_wrong_length_are_refused(model, tokenizer, prompts) -> None:
    with pytest.raises(BadInput, match="2 policies for 1"):
        s1.budget_processor(model, tokenizer, prompts[:1], [BudgetPolicy()] * 2, format=PETRI)
    with pytest.raises(BadInput, match="list of prompts"):
        s1.budget_processor(model, tokenizer, prompts[0], BudgetPolicy(), format=PETRI)
