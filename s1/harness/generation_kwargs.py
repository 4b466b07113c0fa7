"""The generation arguments of lm-evaluation-harness, read once; what cannot be followed is refused."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from s1.errors import BadConfig
from s1.harness.adapter import (
    POLICY_FIELDS,
    HarnessRequest,
    change_policy,
    nearest_names,
    refuse,
    sampling_from,
)
from s1.policy import BudgetPolicy
from s1.types import Sampling

log = logging.getLogger(__name__)

LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""The names that tasks use for one and the same limit."""
NEUTRAL: Mapping[str, object] = {
    "min_p": 0, "num_beams": 1, "repetition_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0,
    "length_penalty": 1, "use_cache": True,
}  # fmt: skip
"""Arguments of other models that change nothing at this value; any other value is refused."""
KNOWN = ("until", "do_sample", "temperature", "top_p", "top_k", "seed", LIMITS[0], *POLICY_FIELDS)


def read_request(given: Mapping[str, Any], policy: BudgetPolicy, seed: int = 0) -> HarnessRequest:
    """Read generation arguments (`generation_kwargs` of a task, `--gen_kwargs`).

    Known: until, one limit (`max_gen_toks`, which bounds the answer), do_sample, temperature, top_p, top_k,
    seed (in place of `seed`), and every field of the policy. Raises Unsupported for anything else that would
    change the result.
    """
    rest = dict(given)
    changes = {name: rest.pop(name) for name in POLICY_FIELDS if name in rest}
    until = rest.pop("until", None) or ()
    limits = {name: rest.pop(name) for name in LIMITS if rest.get(name) is not None}
    if len(set(limits.values())) > 1:
        raise BadConfig(f"Several limits of the answer that differ: {limits}.", "Give one: max_gen_toks.")
    limit = next(iter(limits.values()), None)
    if limit is not None and (not isinstance(limit, (int, float)) or limit != int(limit)):
        raise BadConfig(f"max_gen_toks is {limit!r}.", "Give a whole number of tokens.")
    sampling, own_seed = _read_sampling(rest), rest.pop("seed", None)
    for name, value in rest.items():
        if name not in NEUTRAL:
            raise refuse(f"the generation argument {name!r}", nearest_names([name], KNOWN))
        if value is not None and value != NEUTRAL[name]:
            raise refuse(f"{name}={value!r}", "Remove it from the task or from --gen_kwargs.")
    return HarnessRequest(
        change_policy(policy, changes),
        sampling,
        seed if own_seed is None else own_seed,
        stops=(until,) if isinstance(until, str) else tuple(map(str, until)),
        answer_limit=None if limit is None else int(limit),
    )


def _read_sampling(rest: dict[str, Any]) -> Sampling:
    """Take the sampling arguments out of `rest`. `do_sample: false` means greedy, as in the harness."""
    do_sample, temperature = rest.pop("do_sample", None), rest.pop("temperature", None)
    if do_sample and temperature is None:
        raise BadConfig("do_sample is set without a temperature.", "Add --gen_kwargs temperature=1.0.")
    if do_sample is False and temperature:
        log.warning("do_sample is false: the temperature %s is ignored and decoding is greedy.", temperature)
        temperature = None
    return sampling_from(temperature, rest.pop("top_p", None), rest.pop("top_k", None))
