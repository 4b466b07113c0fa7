"""The generation arguments of lm-evaluation-harness, read once and refused where they cannot be honoured."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from s1.errors import BadConfig
from s1.harness.request import refuse
from s1.harness.settings import POLICY, change_policy, nearest
from s1.policy import BudgetPolicy
from s1.types import Sampling

log = logging.getLogger(__name__)

LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""The names under which tasks give one limit."""
NEUTRAL: Mapping[str, object] = {
    "min_p": 0, "num_beams": 1, "repetition_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0,
    "length_penalty": 1, "use_cache": True,
}  # fmt: skip
"""Arguments of other models that change nothing at this value; at any other they are refused."""


class Request(NamedTuple):
    """What the generation arguments of one request ask for."""

    policy: BudgetPolicy
    sampling: Sampling
    seed: int | None
    until: list[str]
    answer_limit: int | None


def read_request(given: Mapping[str, Any], policy: BudgetPolicy) -> Request:
    """Read generation arguments (`generation_kwargs` of a task, `--gen_kwargs`).

    Known: until, one limit (`max_gen_toks`, which bounds the answer), do_sample, temperature, top_p, top_k,
    seed, and every field of the policy. Raises Unsupported for anything else that would change the result.
    """
    rest = dict(given)
    changes = {name: rest.pop(name) for name in POLICY if name in rest}
    until = rest.pop("until", None) or []
    limits = {name: rest.pop(name) for name in LIMITS if rest.get(name) is not None}
    if len(set(limits.values())) > 1:
        raise BadConfig(f"Several limits of the answer that differ: {limits}.", "Give one: max_gen_toks.")
    sampling = _sampling(rest)
    seed = rest.pop("seed", None)
    for name, value in rest.items():
        if name not in NEUTRAL:
            raise refuse(
                f"the generation argument {name!r}",
                nearest(
                    [name],
                    ["until", "do_sample", "temperature", "top_p", "top_k", "seed", LIMITS[0], *POLICY],
                ),
            )
        if value is not None and value != NEUTRAL[name]:
            raise refuse(f"{name}={value!r}", "Remove it from the task or from --gen_kwargs.")
    limit = next(iter(limits.values()), None)
    if limit is not None and (not isinstance(limit, (int, float)) or limit != int(limit)):
        raise BadConfig(f"max_gen_toks is {limit!r}.", "Give a whole number of tokens.")
    return Request(
        change_policy(policy, changes) if changes else policy,
        sampling,
        seed,
        [until] if isinstance(until, str) else [str(u) for u in until],
        None if limit is None else int(limit),
    )


def _sampling(rest: dict[str, Any]) -> Sampling:
    """Take the arguments of sampling out of `rest`. `do_sample: false` means greedy, as in the harness."""
    do_sample = rest.pop("do_sample", None)
    temperature = rest.pop("temperature", None)
    top_p, top_k = rest.pop("top_p", None), rest.pop("top_k", None)
    if do_sample and temperature is None:
        raise BadConfig("do_sample is set without a temperature.", "Add --gen_kwargs temperature=1.0.")
    if do_sample is False and temperature:
        log.warning("do_sample is false, so temperature %s is not used: decoding is greedy.", temperature)
        temperature = 0.0
    return Sampling(
        temperature=float(temperature or 0.0),
        top_p=1.0 if top_p is None else float(top_p),
        top_k=max(0, int(top_k or 0)),  # -1 is another way to say "all"
    )
