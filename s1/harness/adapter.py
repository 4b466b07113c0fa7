"""What both harnesses share: the arguments of a model, one request, and what a task sees of its result.

A harness passes the arguments of a model (`--model_args`, `-M`) as one flat list of names: the fields of the
policy, the harness's own options and the options of the engine. An unknown name is refused, never dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from s1.budget import Forcing
from s1.config import settings_of
from s1.engines import engine_options
from s1.errors import BadConfig, BadInput, Unsupported, nearest
from s1.formats import ThinkingFormat
from s1.policy import BudgetPolicy, parse_limit
from s1.prompt import EncodedPrompt, encode_prompt, room_for
from s1.seeds import seed_of
from s1.types import Engine, Generation, Sampling, to_json

T = TypeVar("T")

POLICY_FIELDS = tuple(f.name for f in fields(BudgetPolicy))
IN_FLIGHT = 256
"""Requests in progress at once, as in `s1 eval`. With all of them at once every question would think before
the first one answers, so that nothing would be saved until nearly the end and cached prefixes would be lost."""


def read_arguments(
    spec: str, given: Mapping[str, Any], options: type[T]
) -> tuple[T, BudgetPolicy, dict[str, Any]]:
    """Sort the arguments of the model `spec`: the harness's own, the policy, and the options for `load_engine`.

    `options` is a dataclass with a default for every field.
    Raises BadConfig for unknown names, all at once, and for values of the wrong type.
    """
    own = [f.name for f in fields(options)]  # type: ignore[arg-type]
    engine = {name: value for name, value in given.items() if name not in (*POLICY_FIELDS, *own)}
    known = engine_options(spec)
    if unknown := [name for name in engine if name not in known]:
        raise BadConfig(
            f"The model takes no argument {', '.join(map(repr, unknown))}.",
            nearest(unknown[0], {*POLICY_FIELDS, *own, *known}),
        )
    policy = change_policy(BudgetPolicy(), {n: v for n, v in given.items() if n in POLICY_FIELDS})
    return settings_of(options, {n: v for n, v in given.items() if n in own}), policy, engine


def change_policy(policy: BudgetPolicy, changes: Mapping[str, Any]) -> BudgetPolicy:
    """The policy with some fields changed: `wait` may be one string, `max_thinking` may be "auto".

    Raises BadConfig for a wrong value or a policy that contradicts itself.
    """
    changed = dict(changes)
    if isinstance(changed.get("wait"), str):
        changed["wait"] = [changed["wait"]]
    if isinstance(limit := changed.get("max_thinking"), str):
        try:
            changed["max_thinking"] = parse_limit(limit)
        except ValueError:
            raise BadConfig(f"max_thinking is {limit!r}.", "Give a number of tokens, or auto.") from None
    return settings_of(BudgetPolicy, to_json(policy) | changed)


AUTO_RESERVE = 100
"""Tokens that `max_tokens_thinking=auto` of the authors' code keeps for the answer."""


@dataclass(frozen=True, slots=True)
class HarnessRequest:
    """What a harness asks for in one request, besides the prompt."""

    policy: BudgetPolicy
    sampling: Sampling = Sampling()
    """Without a seed; `forcing` derives one."""
    seed: int | None = None
    stops: tuple[str, ...] = ()
    answer_limit: int | None = None
    """Most tokens of the answer."""
    total_limit: int | None = None
    """Most tokens of thinking and answer together."""
    marks: Mapping[str, Any] | None = None
    """Fields of the thinking format to change. Not None: a request in the names of the authors' code, where `stops`
    end the thinking too and `answer_limit` also bounds thinking that has no limit of its own."""
    auto: bool = False
    """The thinking limit is the authors' `auto`: `answer_limit` less the prompt, the delimiters and a reserve."""
    json_schema: str | None = None
    """The JSON schema that the answer follows."""
    logprobs: int | None = None
    """How many of the likeliest tokens of the answer are reported; None: no report."""

    def thinking_format(self, engine: Engine, fmt: ThinkingFormat) -> ThinkingFormat:
        """The format that this request is decoded in."""
        if self.marks is None:
            return fmt
        marked = replace(fmt, **self.marks)
        ends = (*marked.stops, *(stop for stop in self.stops if stop not in engine.eos_texts))
        return replace(marked, stops=tuple(dict.fromkeys(ends)))

    def forcing(self, engine: Engine, fmt: ThinkingFormat, prompt: str, *identity: object) -> Forcing:
        """The machine of one sample, in what `thinking_format` gives. Where it is drawn with a seed, its own seed
        follows from `identity`.

        Raises BadInput for a prompt that does not fit, BadConfig for limits that contradict each other.
        """
        limits = {"answer_limit": self.answer_limit, "total_limit": self.total_limit}
        encoded = encode_prompt(engine, fmt, self.policy, prompt, stops=self.stops, **limits)
        encoded = replace(encoded, json_schema=self.json_schema, logprobs=self.logprobs)
        if self.marks is not None and self.policy.max_thinking is None:
            encoded = self._limited(encoded)
        if self.seed is None or self.sampling.temperature == 0:
            return Forcing(encoded, self.sampling)
        return Forcing(encoded, replace(self.sampling, seed=seed_of(self.seed, *identity)))

    def _limited(self, encoded: EncodedPrompt) -> EncodedPrompt:
        limit = min(self.answer_limit or encoded.context, encoded.context)
        if self.auto:
            limit -= len(encoded.prompt) + len(encoded.close) + len(encoded.cue) + AUTO_RESERVE
            if limit < 0:
                raise BadInput(
                    f"The prompt has {len(encoded.prompt)} tokens: max_tokens_thinking=auto leaves none for thinking.",
                    "Raise max_gen_toks, shorten the prompt, or give a number.",
                )
        limit = max(0, min(limit, room_for(encoded).thinking))
        return replace(encoded, policy=replace(encoded.policy, max_thinking=limit))


def sampling_from(temperature: float | None, top_p: float | None, top_k: int | None) -> Sampling:
    """Greedy where no temperature is given. A `top_k` of -1 means all tokens, as 0 does."""
    return Sampling(
        float(temperature or 0.0), 1.0 if top_p is None else float(top_p), max(0, int(top_k or 0))
    )


def render(
    engine: Engine, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()
) -> str:
    """The conversation in the chat template. Raises BadInput where the template refuses it."""
    from jinja2 import TemplateError

    try:
        return engine.render(messages, tools) if tools else engine.render(messages)
    except TemplateError as error:
        roles = ", ".join(m["role"] for m in messages)
        raise BadInput(
            f"The chat template refuses a conversation of {roles}: {error}",
            "Remove what the template does not support, such as the system message.",
        ) from error


def shown_text(generation: Generation, fmt: ThinkingFormat, with_thinking: bool = False) -> str:
    """What a task sees: the answer, or everything after the prompt, delimiters included.

    The answer begins with the format's cue where that was forced, and is stripped of whitespace.
    """
    delimiter, answer = generation.text_of("delimiter"), generation.text_of("answer")
    if with_thinking:
        return fmt.open + generation.text_of("thinking") + delimiter + answer.rstrip()
    return answer_text(delimiter, answer, fmt)


def answer_text(delimiter: str, answer: str, fmt: ThinkingFormat) -> str:
    """What a client sees of the text after the thinking: what follows the delimiter, cue included."""
    return (delimiter.partition(fmt.close.strip())[2] + answer).strip()


def completion_tokens(generation: Generation) -> int:
    """Tokens after the prompt: thinking, answer, and the delimiters and cue that were forced."""
    return sum(len(s.token_ids) for s in generation.segments if s.phase != "prompt")


def counts(generation: Generation) -> dict[str, Any]:
    """What forcing did and what it cost, for logs that show numbers only."""
    names = (
        "policy", "thinking_tokens", "answer_tokens", "forced_tokens", "waits", "cut", "finish", "exact",
    )  # fmt: skip
    return {name: getattr(generation, name) for name in names}


def refuse(what: str, hint: str) -> Unsupported:
    """The error for something a harness asks for that no engine of s1 does."""
    return Unsupported(f"s1 models do not support {what}.", hint)
