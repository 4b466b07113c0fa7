"""Is it safe to force the budget of this model on this engine? Reads what can be read, then proves the rest.

gather(engine) -> ModelFacts -> one Check per trap     (model_facts.py, checks.py: no decoding)
probe(engine, facts) -> generations -> Checks          (probes.py: a maximum, a wait and a minimum must bind)
"""

from __future__ import annotations

from dataclasses import dataclass

from s1.doctor.checks import BLOCKING, CHECKS, Check
from s1.doctor.model_facts import QUESTION, ModelFacts, gather
from s1.doctor.probes import Probe, probe
from s1.errors import S1Error
from s1.formats import ThinkingFormat, choose_format, open_prompt
from s1.policy import BudgetPolicy
from s1.prompt import encode_prompt
from s1.types import Engine, Sampling

BEAM_SEARCH = Check(
    "beam search",
    "note",
    "this vLLM drops the budget of a request for beam search, which s1 itself never asks for",
    "To have such requests refused, start it with --middleware s1.vllm_plugin.beam_search.RefuseBeamSearch.",
)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything that was found about one model."""

    model: str
    safe: bool
    checks: tuple[Check, ...]
    format: ThinkingFormat | None = None
    prompt: str = ""
    """The rendered question with the thinking block opened."""
    probes: tuple[Probe, ...] = ()


async def diagnose(
    engine: Engine, format: str | None = None, *, question: str = QUESTION, tokens: int = 64
) -> Diagnosis:
    """Check and probe `engine`, greedily and one request at a time; a probe thinks about `tokens` tokens at most.

    Whatever is wrong with the model becomes a check; S1Error is raised only for an unknown `format`.
    """
    if format is not None:
        choose_format(engine, format)
    try:
        facts = gather(engine, format, question)
    except S1Error as error:
        return Diagnosis(engine.name, False, (Check("format", "problem", error.message, error.hint),))
    checks = [Check(name, *check(facts)) for name, check in CHECKS.items()]
    probes: tuple[Probe, ...] = ()
    if not any(c.level == "problem" and c.name in BLOCKING for c in checks):
        found, probes = await probe(engine, facts, tokens)
        checks += [*found, *await find_plugin(engine, facts)]
    safe = all(c.level != "problem" for c in checks)
    prompt = open_prompt(facts.prompt, facts.format)
    return Diagnosis(engine.name, safe, tuple(checks), facts.format, prompt, probes)


async def find_plugin(engine: Engine, facts: ModelFacts) -> list[Check]:
    """Whether s1 forces inside this vLLM; nothing for other engines."""
    try_one = getattr(engine, "in_one_request", None)
    if try_one is None:
        return []
    policy = BudgetPolicy(max_thinking=8, max_answer=1)
    found = await try_one(encode_prompt(engine, facts.format, policy, facts.prompt), Sampling(), 8)
    beams = [BEAM_SEARCH] if getattr(getattr(engine, "server", None), "drops_beam_budgets", False) else []
    if found is not None:
        return [Check("plug-in", "ok", "s1's plug-in is in this vLLM: a whole budget is one request"), *beams]
    if getattr(engine, "plugin", False):
        why = "s1's plug-in is in this vLLM, but does not know this format: each wait is one more request"
        return [Check("plug-in", "note", why), *beams]
    todo = "To force inside vLLM, install s1 where the server runs (docs/guides/vllm.md)."
    return [
        Check("plug-in", "note", "s1's plug-in is not in this engine: each wait is one more request", todo)
    ]
