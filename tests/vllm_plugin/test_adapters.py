"""Both adapters, on the data structures of their runners: rows that move, slots that are used again, preemption.

Here anything can happen to a row between two steps; `test_server.py` runs the older runner. Without Triton for CPUs,
vLLM's CPU build has no new runner, so this is where its adapter is tested.
"""

from __future__ import annotations

import importlib.util
import math
import random
from types import SimpleNamespace
from typing import Any

import pytest

if importlib.util.find_spec("vllm") is None:
    pytest.skip("needs vLLM in its own environment: make test-vllm", allow_module_level=True)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from tiny_tokenizers import byte_level  # noqa: E402
from vllm import EngineArgs, SamplingParams  # noqa: E402
from vllm.exceptions import VLLMValidationError  # noqa: E402
from vllm.inputs.engine import tokens_input  # noqa: E402
from vllm.v1.engine.input_processor import InputProcessor  # noqa: E402
from vllm.v1.sample.logits_processor.interface import BatchUpdate, MoveDirectionality  # noqa: E402
from vllm.v1.sample.logits_processor.interface import LogitsProcessor as OlderInterface  # noqa: E402
from vllm.v1.worker.gpu.sample.logits_processor.interface import (  # noqa: E402
    LogitsContext,
    LogitsProcRequestState,
)
from vllm.v1.worker.gpu.sample.logits_processor.interface import (  # noqa: E402
    LogitsProcessor as NewInterface,
)

from s1.engines.tokenizer import tokenizer_at  # noqa: E402
from s1.petri.world import base_model  # noqa: E402
from s1.vllm_plugin.processor import NewRunner, OlderRunner, VLLMBudgetProcessor  # noqa: E402

WIDTH, SLOTS, CONTEXT = 576, 4, 200
BUDGETS = (
    {"max_thinking": 3},
    {"max_thinking": 40, "waits": 2, "wait": ["Wait", "maybe so"]},
    {"min_thinking": 20, "max_thinking": 30, "wait": ""},
    {},
    {"waits": 1, "cue": "always", "max_thinking": 25},
    {"max_thinking": 0},
)


class FrontEnd:
    """What checks parameters in vLLM: the plug-in finds the configuration here."""

    def __init__(self, model: str = str(base_model()), **more: Any) -> None:
        self.vllm_config = SimpleNamespace(
            model_config=SimpleNamespace(
                model=model,
                tokenizer=model,
                max_model_len=CONTEXT,
                get_vocab_size=lambda: WIDTH,
                logits_processors=None,
            ),
            scheduler_config=SimpleNamespace(max_num_seqs=SLOTS, async_scheduling=False),
            speculative_config=None,
            use_v2_model_runner=True,
            additional_config={"s1_format": "petri"},
            **more,
        )

    def check(self, xargs: dict[str, Any], **settings: Any) -> SamplingParams:
        params = SamplingParams(**{"temperature": 0, "max_tokens": 60, "extra_args": dict(xargs)} | settings)
        VLLMBudgetProcessor.validate_params(params)
        return params


class Request:
    """One request: a model that ends its thinking often, and what was said so far."""

    def __init__(self, front: FrontEnd, number: int) -> None:
        text = tokenizer_at(str(base_model()))
        self.params, self.number = front.check(BUDGETS[number]), number
        self.prompt = list(text.encode(f"<|user|> {number}<|assistant|><think>"))
        self.ends = [text.encode("</think>")[0], text.encode("<|end|>")[0]]
        self.output: list[int] = []

    def logits(self) -> torch.Tensor:
        out = torch.rand(
            WIDTH, generator=torch.Generator().manual_seed(1000 * self.number + len(self.output))
        )
        if len(self.output) % 5 == 4:
            out[self.ends] = torch.tensor([3.0, 2.0])
        return out


def older(front: FrontEnd, chance: random.Random) -> list[list[int]]:
    adapter = VLLMBudgetProcessor(front.vllm_config, torch.device("cpu"), False)
    assert type(adapter) is OlderRunner and not adapter.is_argmax_invariant()
    requests = [Request(front, n) for n in range(len(BUDGETS))]
    waiting, rows = list(requests), list[Request]()
    while waiting or rows:
        removed, added, moved = [], [], []
        for row in range(len(rows) - 1, -1, -1):
            done = len(rows[row].output) == 60
            if done or chance.random() < 0.05:  # finished, or preempted
                if not done:
                    waiting.append(rows[row])
                last = len(rows) - 1
                removed.append(row)
                if row != last:
                    rows[row] = rows[last]
                    moved.append((last, row, MoveDirectionality.UNIDIRECTIONAL))
                rows.pop()
                break
        if not removed and waiting and len(rows) < SLOTS:
            request = waiting.pop(0)
            added.append((len(rows), request.params, request.prompt, request.output))
            rows.append(request)
        if len(rows) > 1 and not removed and chance.random() < 0.3:
            rows[0], rows[1] = rows[1], rows[0]
            moved.append((0, 1, MoveDirectionality.SWAP))
        update = BatchUpdate(len(rows), removed, added, moved) if removed or added or moved else None
        adapter.update_state(update)
        if not rows:
            continue
        logits = torch.stack([request.logits() for request in rows])
        for request, token in zip(rows, adapter.apply(logits).argmax(-1).tolist(), strict=True):
            if len(request.output) < 60 and chance.random() < 0.9:  # else in the middle of its prompt
                request.output.append(token)
    return [request.output for request in requests]


def new(front: FrontEnd, chance: random.Random) -> list[list[int]]:
    def buffer(*shape: int) -> Any:
        tensor = torch.zeros(shape, dtype=torch.int32)
        return SimpleNamespace(gpu=tensor, np=tensor.numpy())

    states = LogitsProcRequestState(
        device=torch.device("cpu"), max_num_reqs=SLOTS, vocab_size=WIDTH, all_token_ids=buffer(SLOTS, CONTEXT),
        prompt_len=buffer(SLOTS), prefill_len=buffer(SLOTS), total_len=buffer(SLOTS),
    )  # fmt: skip
    adapter = VLLMBudgetProcessor(front.vllm_config, states)
    assert type(adapter) is NewRunner
    requests = [Request(front, n) for n in range(len(BUDGETS))]
    waiting, slots = list(requests), dict[int, Request]()
    while waiting or slots:
        for slot in [s for s, r in slots.items() if len(r.output) == 60 or chance.random() < 0.03]:
            request = slots.pop(slot)
            if len(request.output) < 60:
                waiting.append(request)
        free = [slot for slot in range(SLOTS) if slot not in slots]
        if waiting and free:
            slot, request = chance.choice(free), waiting.pop(0)
            slots[slot] = request
            ids = request.prompt + request.output
            states.all_token_ids.gpu[slot, : len(ids)] = torch.tensor(ids, dtype=torch.int32)
            states.prompt_len.gpu[slot], states.prefill_len.gpu[slot] = len(request.prompt), len(ids)
            wants = adapter.add_request(slot, request.params)
            assert wants == bool(BUDGETS[request.number])
        adapter.apply_staged_writes()
        batch = [slot for slot in slots if chance.random() < 0.9]
        chance.shuffle(batch)
        if not batch:
            continue
        ids = [slots[slot].prompt + slots[slot].output for slot in batch]
        short = [
            chance.random() < 0.2 and len(i) == int(states.prefill_len.gpu[s])
            for i, s in zip(ids, batch, strict=True)
        ]
        seen = torch.tensor([len(i) - part for i, part in zip(ids, short, strict=True)])
        mapping = torch.tensor(batch, dtype=torch.int32)
        context = LogitsContext(
            expanded_idx_mapping=mapping, idx_mapping=mapping, idx_mapping_np=np.array(batch),
            expanded_local_pos=torch.zeros(len(batch), dtype=torch.int32),
            input_ids=torch.tensor([i[int(n) - 1] for i, n in zip(ids, seen, strict=True)]),
            pos=seen - 1, seq_lens_upper_bound_np=seen.numpy(),
        )  # fmt: skip
        logits = torch.stack([slots[slot].logits() for slot in batch])
        tokens = adapter.apply(logits, context).argmax(-1).tolist()
        for slot, token, is_short in zip(batch, tokens, short, strict=True):
            if not is_short:
                slots[slot].output.append(token)
                states.all_token_ids.gpu[slot, len(slots[slot].prompt) + len(slots[slot].output) - 1] = token
    return [request.output for request in requests]


def test_both_adapters_force_the_same_whatever_happens_to_their_rows() -> None:
    text = tokenizer_at(str(base_model()))
    wanted = older(FrontEnd(), random.Random(0))
    for seed in range(1, 6):
        assert older(FrontEnd(), random.Random(seed)) == wanted
        assert new(FrontEnd(), random.Random(seed)) == wanted
    texts = [text.decode(ids) for ids in wanted]
    close = text.encode("</think>")[0]
    assert [ids.index(close) for ids in (wanted[0], wanted[5])] == [3, 0]
    assert 20 <= wanted[2].index(close) <= 30
    assert texts[1].count("Wait") == 1 and texts[1].count("maybe so") == 1
    assert "</think> Answer :" in texts[4]
    untouched = Request(FrontEnd(), 3)
    while len(untouched.output) < 60:
        untouched.output.append(int(untouched.logits().argmax()))
    assert untouched.output == wanted[3]


def thinking_of_samples(xargs: dict[str, Any], seed: int, end: float) -> list[int]:
    """Tokens of thinking of three samples of one request that come to a runner one step after the other.

    `end`: the probability of an end at each token.
    """
    front, text = FrontEnd(), tokenizer_at(str(base_model()))
    parent = front.check(xargs, n=3, temperature=1.0, seed=seed)
    adapter = VLLMBudgetProcessor(front.vllm_config, torch.device("cpu"), False)
    prompt, close = list(text.encode("<|user|> 1<|assistant|><think>")), text.encode("</think>")[0]
    outputs: list[list[int]] = []
    for _ in range(30):
        update = None
        if len(outputs) < 3:
            params = parent.clone()
            params.n, params.seed = 1, seed + len(outputs)  # as vLLM's ParentRequest does
            outputs.append([])
            update = BatchUpdate(len(outputs), [], [(len(outputs) - 1, params, prompt, outputs[-1])], [])
        adapter.update_state(update)
        logits = torch.full((len(outputs), WIDTH), -1e4)
        logits[:, 7], logits[:, close] = math.log(1 - end), math.log(max(end, 1e-9))
        for output, token in zip(outputs, adapter.apply(logits).argmax(-1).tolist(), strict=True):
            output.append(token)
    return [output.index(close) for output in outputs]


def test_the_samples_of_a_request_keep_their_budgets_apart_and_throw_coins_of_their_own() -> None:
    assert thinking_of_samples({"max_thinking": 6}, seed=1, end=0.0) == [6, 6, 6]
    drawn = [thinking_of_samples({"max_thinking": 20}, seed, end=0.4) for seed in range(0, 60, 3)]
    assert sum(len(set(lengths)) > 1 for lengths in drawn) > 10
    # They add up to the distribution: a token is thought with probability 0.6, so 1.5 on average.
    assert sum(map(sum, drawn)) / 60 == pytest.approx(1.5, abs=0.75), "3 standard errors"


def test_the_class_of_the_entry_point_has_both_interfaces_and_a_second_one_rests() -> None:
    assert issubclass(VLLMBudgetProcessor, OlderInterface) and issubclass(VLLMBudgetProcessor, NewInterface)
    front = FrontEnd()
    first, second = (VLLMBudgetProcessor(front.vllm_config, torch.device("cpu"), False) for _ in range(2))
    request = Request(front, 5)
    update = BatchUpdate(1, [], [(0, request.params, request.prompt, request.output)], [])
    for adapter in (first, second):
        adapter.update_state(update)
    left = second.apply(torch.zeros(1, WIDTH))
    assert torch.equal(left, torch.zeros(1, WIDTH)) and first.apply(torch.zeros(1, WIDTH)).isinf().any()


def test_speculative_decoding_is_refused_and_requests_without_a_budget_pass() -> None:
    """vLLM's own front end, as an engine with drafts by n-grams makes it."""
    drafts = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3}
    arguments = EngineArgs(
        model=str(base_model()), dtype="float32", enforce_eager=True, speculative_config=drafts
    )
    front = InputProcessor(arguments.create_engine_config())

    def check(xargs: dict[str, Any]) -> None:
        params = SamplingParams(max_tokens=60, extra_args=xargs)
        front.process_inputs("1", tokens_input([1, 2]), params, ("generate",))

    with pytest.raises(VLLMValidationError, match=r"max_thinking.*speculative decoding"):  # HTTP 400
        check({"max_thinking": 5})
    check({})


def test_a_model_whose_format_is_unknown_or_ends_in_several_tokens_is_refused(tmp_path) -> None:
    byte_level().save_pretrained(tmp_path)
    front = FrontEnd(str(tmp_path))
    front.vllm_config.additional_config = {}
    with pytest.raises(ValueError, match="thinking_format is not known for this model"):
        front.check({"max_thinking": 5})
    with pytest.raises(ValueError, match="thinking_format is 'mistral'.*tokens of this model"):
        front.check({"max_thinking": 5, "thinking_format": "mistral"})


def test_penalties_are_honoured_where_they_come_first_and_refused_elsewhere() -> None:
    params = SamplingParams(temperature=0, max_tokens=60, presence_penalty=0.5, extra_args={"waits": 1})
    front = FrontEnd()

    class Caller:
        vllm_config = front.vllm_config

        def check(self) -> None:
            VLLMBudgetProcessor.validate_params(params)

    Caller().check()
    front.vllm_config.use_v2_model_runner = False
    with pytest.raises(ValueError, match="presence_penalty"):
        Caller().check()


def test_the_older_runner_without_the_last_token_refuses_formats_with_a_newline() -> None:
    front = FrontEnd()
    front.vllm_config.use_v2_model_runner = False
    front.vllm_config.scheduler_config.async_scheduling = True
    lined = '{"name": "l", "open": "<think>", "close": "</think>", "stops": ["</think>"], "cue": "", "newline": true}'
    with pytest.raises(ValueError, match="--logits-processors"):
        front.check({"max_thinking": 5, "thinking_format": lined})
    front.check({"max_thinking": 5})
    front.vllm_config.model_config.logits_processors = ["s1.vllm_plugin.processor:VLLMBudgetProcessor"]
    front.check({"max_thinking": 5, "thinking_format": lined})
