"""The logits processor that vLLM loads: the interfaces of its two model runners around `rules.BatchedForcing`.

vLLM asks for a class by the entry point `vllm.logits_processors`, in its front end (to check the parameters of
requests) and in its workers. Each runner refuses a class that does not derive from its own interface, so
`VLLMBudgetProcessor`, at the end, derives from both and makes the adapter of the runner that calls it.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any
from weakref import WeakValueDictionary

import torch
from vllm.v1.sample.logits_processor.builtin import process_dict_updates
from vllm.v1.sample.logits_processor.interface import LogitsProcessor as OlderInterface
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as NewInterface

from s1.errors import S1Error
from s1.types import from_json
from s1.vllm_plugin.request import FIELDS, PLAN, ForcingPlan, plan_request, tokenizer_of_server
from s1.vllm_plugin.rules import BatchedForcing

_first = WeakValueDictionary[int, Any]()
"""Configuration -> the adapter that serves it. vLLM loads a class twice that is named twice; the second rests."""


class _Adapter:
    """What both runners need."""

    def __init__(self, vllm_config: Any, slots: int, device: Any) -> None:
        self.config, self.slots, self.device = vllm_config, slots, device
        self.rests = id(vllm_config) in _first
        _first.setdefault(id(vllm_config), self)

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuse what cannot be honoured with a ValueError, which becomes HTTP 400; add the plan to the rest."""
        given = sampling_params.extra_args
        if not given or given.keys().isdisjoint((*FIELDS, PLAN)):
            return
        if not isinstance(given.get(PLAN, {}), dict):  # over HTTP there are only texts, numbers and lists
            raise ValueError(f"{PLAN} is not a field for requests. Use {', '.join(FIELDS)}.")
        try:
            plan = plan_request(sampling_params, _config_of_caller())
        except S1Error as error:
            raise ValueError(f"{error.message} {error.hint or ''}".strip()) from None
        sampling_params.extra_args = {**given, PLAN: asdict(plan)}  # requests may share the dictionary

    @cached_property
    def rules(self) -> BatchedForcing:
        """Made for the first request with a budget."""
        text, size = tokenizer_of_server(self.config), self.config.model_config.get_vocab_size()
        assert text.vocabulary is not None
        bytes_of = text.vocabulary.bytes_of
        newlines = [bytes_of(i).endswith(b"\n") for i in range(min(size, text.vocab_size or size))]
        return BatchedForcing(self.slots, self.device, torch.tensor(newlines, device=self.device))

    def _place(self, slot: int, plan: ForcingPlan, prompt: int, opened: bool) -> None:
        most = int(self.config.model_config.max_model_len)
        self.rules.add(slot, plan, prompt=prompt, context=min(most, prompt + plan.max_tokens), opened=opened)


def _config_of_caller() -> Any:
    """The configuration of the engine that checks the parameters: vLLM does not hand it to a class method."""
    frame = sys._getframe(1)
    while frame is not None:
        config = getattr(frame.f_locals.get("self"), "vllm_config", None)
        if hasattr(config, "model_config"):
            return config
        frame = frame.f_back  # type: ignore[assignment]
    raise S1Error("The plug-in cannot see the model of this server.", "Use a tested version of vLLM.")


def plan_of(sampling_params: Any) -> ForcingPlan | None:
    """The plan that the front end made, None for a request without a budget.

    The n samples of a request share its plan; each has a seed of its own, and by it a state and coins of its own.
    """
    given, seed = sampling_params.extra_args, sampling_params.seed
    if not given or PLAN not in given:
        return None
    plan = from_json(ForcingPlan, given[PLAN])
    return replace(plan, key=f"{plan.key} {seed}", seed=int(seed or 0))


class OlderRunner(_Adapter, OlderInterface):  # type: ignore[misc]
    """For the runner whose batch is a list of rows that come, go and move."""

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
        super().__init__(vllm_config, int(vllm_config.scheduler_config.max_num_seqs), device)
        self.rows: dict[int, tuple[int, int, list[int]]] = {}
        """Row -> slot, last token of the prompt, tokens so far (vLLM's own list)."""

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        if batch_update is not None and not self.rests:
            process_dict_updates(self.rows, batch_update, self._new_row)

    def _new_row(
        self, params: Any, prompt: list[int] | None, output: list[int]
    ) -> tuple[int, int, list[int]] | None:
        plan = plan_of(params)
        if plan is None:
            return None
        prompt = prompt or []
        taken = {slot for slot, _, _ in self.rows.values()}
        slot = next(s for s in range(self.slots) if s not in taken)
        opened = not prompt or plan.is_opened(prompt[-plan.longest_opening :])
        self._place(slot, plan, len(prompt), opened)
        return slot, prompt[-1] if prompt else -1, output

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        if self.rows:
            found = [
                (row, slot, len(ids), ids[-1] if ids else last)
                for row, (slot, last, ids) in self.rows.items()
            ]
            self.rules.apply(logits, *torch.tensor(found, device=self.device).unbind(1))
        return logits


class NewRunner(_Adapter, NewInterface):  # type: ignore[misc]
    """For the runner that keeps requests in slots and the tokens of all slots on the device."""

    def __init__(self, vllm_config: Any, req_states: Any) -> None:
        super().__init__(vllm_config, int(req_states.max_num_reqs), req_states.device)
        self.requests = req_states
        self.active: list[bool] = [False] * self.slots
        self.coming: list[tuple[int, ForcingPlan]] = []

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        plan = None if self.rests else plan_of(sampling_params)
        if self.active[req_idx]:
            self.rules.release(req_idx)
        self.active[req_idx] = plan is not None
        if plan is not None:
            self.coming.append((req_idx, plan))
        return plan is not None

    def apply_staged_writes(self) -> None:
        """New requests get their slot here, where the tokens of their prompts can be read."""
        for slot, plan in self.coming:
            size = int(self.requests.prompt_len.np[slot])
            tail = self.requests.all_token_ids.gpu[slot, max(0, size - plan.longest_opening) : size].tolist()
            self._place(slot, plan, size, plan.is_opened(tail))
        self.coming.clear()

    def apply(self, logits: torch.Tensor, ctx: Any) -> torch.Tensor:
        chosen = [row for row, slot in enumerate(ctx.idx_mapping_np.tolist()) if self.active[slot]]
        if chosen:
            rows = torch.tensor(chosen, device=logits.device)
            slots = ctx.idx_mapping[rows].long()
            seen = ctx.pos[rows].long() + 1
            tokens = seen - self.requests.prompt_len.gpu[slots].long()
            ready = seen >= self.requests.prefill_len.gpu[slots]
            self.rules.apply(logits, rows, slots, tokens, ctx.input_ids[rows].long(), ready)
        return logits


class VLLMBudgetProcessor(OlderRunner, NewRunner):  # type: ignore[misc]
    """What the entry point names. Making one gives the adapter of the runner whose arguments came."""

    def __new__(cls, vllm_config: Any, *more: Any) -> Any:
        return OlderRunner(vllm_config, *more) if len(more) == 2 else NewRunner(vllm_config, *more)
