"""Budget forcing for people who keep their own transformers `generate()` call."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from s1.budget import Forcing
from s1.errors import BadInput, Unsupported
from s1.formats import ThinkingFormat, choose_format
from s1.policy import BudgetPolicy
from s1.prompt import encode_prompt
from s1.types import Sampling

if TYPE_CHECKING:
    from s1.engines.logits_processor import BudgetProcessor

V = TypeVar("V")


def budget_processor(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    policies: BudgetPolicy | Sequence[BudgetPolicy],
    *,
    format: ThinkingFormat | str | None = None,
    sampling: Sampling | Sequence[Sampling] = Sampling(),
    context: int | None = None,
) -> BudgetProcessor:
    """A logits processor that forces `policies` on `prompts` in one call of `model.generate()`.

        processor = s1.budget_processor(model, tokenizer, [prompt], BudgetPolicy(max_thinking=500, waits=1))
        output = model.generate(**processor.inputs, **processor.options)
        receipt = processor.receipts()[0]

    prompts: rendered by the chat template, up to where the assistant begins. policies, sampling: one for all
    rows, or one for each. Under greedy decoding and with seeds alike it gives the tokens of the hf engine.
    Raises Unsupported for what a processor cannot do (docs/guides/transformers.md), BadInput and BadConfig
    as `s1.think` does.
    """
    from s1.engines.logits_processor import BudgetProcessor, LoadedModel

    if isinstance(prompts, str) or not prompts:
        raise BadInput("No list of prompts was given.", "Give a list of rendered prompts, one for each row.")
    each_policy = _for_each(policies, len(prompts), "policies")
    each_sampling = [_with_seed(s) for s in _for_each(sampling, len(prompts), "samplings")]
    loaded = LoadedModel(model, tokenizer, context)
    fmt = format if isinstance(format, ThinkingFormat) else choose_format(loaded, format)
    machines = []
    for prompt, policy, drawn in zip(prompts, each_policy, each_sampling, strict=True):
        if policy.profile == "official" and policy.waits:
            raise Unsupported(
                "The official profile takes back tokens after its rounds, which generate() cannot.",
                "Use profile strict, or s1.think.",
            )
        encoded = encode_prompt(loaded, fmt, policy, prompt)
        forced = {
            *encoded.close,
            *encoded.cue,
            *encoded.transition,
            *(i for wait in encoded.waits for i in wait),
        }
        if forced & set(loaded.eos):
            raise Unsupported(
                f"The format {fmt.name!r} forces an end-of-turn token, at which generate() ends the row.",
                "Use s1.think or an s1 engine, which go on after it.",
            )
        machines.append(Forcing(encoded, drawn))
    side = {"padding_side": "left", "return_tensors": "pt"}
    inputs = tokenizer.pad({"input_ids": [list(m.encoded.prompt) for m in machines]}, **side)
    return BudgetProcessor(
        machines,
        each_sampling,
        eos=loaded.eos,
        tokens=loaded.tokens,
        inputs={name: tensor.to(model.device) for name, tensor in inputs.items()},
        max_new_tokens=max(map(_most_tokens, machines)),
    )


def _most_tokens(machine: Forcing) -> int:
    """Upper bound of what one row decodes: thinking, its end, the answer, and one end of turn."""
    encoded, policy = machine.encoded, machine.encoded.policy
    left = encoded.context - len(encoded.prompt)
    answer = left if policy.max_answer is None else policy.max_answer
    return 1 + min(left, machine.limit + policy.grace + encoded.forced_end + answer)


def _for_each(given: V | Sequence[V], count: int, what: str) -> list[V]:
    if not isinstance(given, Sequence):
        return [given] * count
    if len(given) != count:
        raise BadInput(f"{len(given)} {what} for {count} prompts.", "Give one for all, or one for each.")
    return list(given)


def _with_seed(sampling: Sampling) -> Sampling:
    fixed = sampling.temperature == 0 or sampling.seed is not None
    return sampling if fixed else replace(sampling, seed=secrets.randbits(63))
