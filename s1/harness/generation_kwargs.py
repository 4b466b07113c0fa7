"""The generation arguments of lm-evaluation-harness, read once; what cannot be followed is refused."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from s1.errors import BadConfig, nearest
from s1.harness.adapter import (
    POLICY_FIELDS,
    HarnessRequest,
    change_policy,
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

AUTHORS_MARKS: Mapping[str, str] = {"thinking_start": "open", "thinking_end": "close"}
"""Names of the authors' repository (simplescaling/s1) -> fields of the thinking format."""
AUTHORS = (
    "max_tokens_thinking", "min_tokens_thinking", "thinking_n_ignore", "thinking_n_ignore_str", *AUTHORS_MARKS,
    "until_thinking", "until_thinking_2",
)  # fmt: skip


def read_request(given: Mapping[str, Any], policy: BudgetPolicy, seed: int = 0) -> HarnessRequest:
    """Read generation arguments (`generation_kwargs` of a task, `--gen_kwargs`).

    Known: until, one limit (`max_gen_toks`, which bounds the answer), do_sample, temperature, top_p, top_k,
    seed (in place of `seed`), every field of the policy, and the names of the authors' repository, with their
    meaning there. Raises Unsupported for anything else that would change the result.
    """
    rest = dict(given)
    changes = {name: rest.pop(name) for name in POLICY_FIELDS if name in rest}
    theirs = {name: rest.pop(name) for name in given if "thinking" in name and name not in POLICY_FIELDS}
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
            hint = nearest(name, KNOWN)
            if name.startswith("rejection"):
                hint = "Use s1 eval --method rejection."
            raise refuse(f"the generation argument {name!r}", hint)
        if value is not None and value != NEUTRAL[name]:
            raise refuse(f"{name}={value!r}", "Remove it from the task or from --gen_kwargs.")
    changed = change_policy(policy, changes)
    if theirs and changes.get("profile") == "strict":
        raise BadConfig(
            f"profile=strict was given with {', '.join(theirs)}.", "Remove one: these are official."
        )
    return HarnessRequest(
        _authors_policy(theirs, changed) if theirs else changed,
        sampling,
        seed if own_seed is None else own_seed,
        stops=(until,) if isinstance(until, str) else tuple(map(str, until)),
        answer_limit=None if limit is None else int(limit),
        marks=_authors_marks(theirs) if theirs else None,
        auto=theirs.get("max_tokens_thinking") == "auto",
    )


def _authors_policy(theirs: Mapping[str, Any], policy: BudgetPolicy) -> BudgetPolicy:
    """The official policy that the authors' names ask for. `policy` may have set `max_answer` and the profile only."""
    for name in theirs:
        if name not in AUTHORS:
            hint = nearest(name, [*KNOWN, *AUTHORS])
            if name.removesuffix("_thinking") in KNOWN:
                hint = f"Thinking and answer are sampled alike: give {name.removesuffix('_thinking')}."
            raise refuse(f"the generation argument {name!r}", hint)
    official = BudgetPolicy(max_answer=policy.max_answer, profile="official")
    if replace(policy, profile="official") != official:
        raise BadConfig(
            f"The budget is given twice: by {', '.join(theirs)} and by {policy.key}.",
            "Give all of it in the authors' names, or all in those of the policy.",
        )
    limit = theirs.get("max_tokens_thinking")
    least, waits = (_whole(theirs, name) for name in ("min_tokens_thinking", "thinking_n_ignore"))
    if least and waits:
        raise refuse(
            "min_tokens_thinking together with thinking_n_ignore", "Give one, or min_thinking and waits."
        )
    text = theirs.get("thinking_n_ignore_str")
    return replace(
        official,
        max_thinking=None if limit in (None, "auto") else _whole(theirs, "max_tokens_thinking"),
        min_thinking=least,
        waits=waits,
        wait=(str(text) if text and waits else "",) if waits or least else official.wait,
    )


def _authors_marks(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """What changes in the thinking format."""
    marks: dict[str, Any] = {}
    for name, field in AUTHORS_MARKS.items():
        text = theirs.get(name)
        if text is not None:
            if not isinstance(text, str) or not text or text.endswith("\n"):
                raise refuse(
                    f"{name}={text!r}", "Give a text without a newline at its end, which the model writes."
                )
            marks[field] = text
    ends = [theirs[name] for name in ("until_thinking", "until_thinking_2") if theirs.get(name) is not None]
    texts = [text for end in ends for text in ([end] if isinstance(end, str) else end)]
    return {**marks, "stops": tuple(map(str, texts))} if texts else marks


def _whole(theirs: Mapping[str, Any], name: str) -> int:
    value = theirs.get(name) or 0
    if not isinstance(value, (int, float)) or value != int(value) or value < 0:
        raise BadConfig(f"{name} is {value!r}.", "Give a whole number of 0 or more.")
    return int(value)


def _read_sampling(rest: dict[str, Any]) -> Sampling:
    """Take the sampling arguments out of `rest`. `do_sample: false` means greedy, as in the harness."""
    do_sample, temperature = rest.pop("do_sample", None), rest.pop("temperature", None)
    if do_sample and temperature is None:
        raise BadConfig("do_sample is set without a temperature.", "Add --gen_kwargs temperature=1.0.")
    if do_sample is False and temperature:
        log.warning("do_sample is false: the temperature %s is ignored and decoding is greedy.", temperature)
        temperature = None
    return sampling_from(temperature, rest.pop("top_p", None), rest.pop("top_k", None))
