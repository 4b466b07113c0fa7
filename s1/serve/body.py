"""The bodies of requests: their fields, checked, and what they ask for. An unknown field is an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from s1.budget import Forcing
from s1.errors import BadConfig, BadInput
from s1.formats import ThinkingFormat
from s1.harness.adapter import POLICY_FIELDS, HarnessRequest, change_policy, sampling_from
from s1.policy import BudgetPolicy
from s1.prompt import encode_prompt, room_for
from s1.serve.body_parts import (
    Body,
    FieldRefused,
    Message,
    ResponseFormat,
    ShortText,
    StreamOptions,
    Text,
    Tool,
    ToolChoice,
)
from s1.serve.server_settings import ServeSettings
from s1.serve.tools import CALL_CLOSE, CALL_OPEN, call_schema
from s1.terminal import valid_text
from s1.types import Engine

LIMITS = (
    "max_thinking", "thinking_token_budget", "thinking_budget", "thinking_budget_tokens", "max_thinking_tokens",
    "budget_tokens",
)  # fmt: skip
"""The names of other servers for the thinking limit."""
LONG = ("max_thinking", "min_thinking", "waits")
"""The fields that a reasoning effort decides."""
DEEPEST = 64
"""How deep a body may be nested: a schema may go deep, and those who read it call themselves for each level."""
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
Tokens = Annotated[int | None, Field(ge=0, le=1 << 31)]
Likeliest = Annotated[
    int | None, Field(ge=0, le=20, description="Of the answer, with so many of the likeliest tokens.")
]
Neutral = Annotated[float | None, Field(ge=0, le=0)]


class DialBody(Body):
    """The fields of every request: how to draw, and the budget."""

    model: Annotated[str, Field(max_length=300)] | None = None
    stream: bool = False
    seed: Annotated[int | None, Field(ge=-(1 << 63), lt=1 << 63)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=-1, le=1 << 31)] = None
    stop: ShortText | Annotated[list[ShortText], Field(max_length=16)] | None = None
    max_thinking: Tokens = None
    thinking_token_budget: Tokens = None
    thinking_budget: Tokens = None
    thinking_budget_tokens: Tokens = None
    max_thinking_tokens: Tokens = None
    budget_tokens: Tokens = None
    min_thinking: Tokens = None
    waits: Tokens = None
    wait: ShortText | Annotated[list[ShortText], Field(min_length=1, max_length=32)] | None = None
    max_answer: Tokens = None
    cue: Literal["cut", "always", "never"] | None = None
    transition: ShortText | None = None
    grace: Tokens = None
    on_eos_in_thinking: Literal["delimiter", "answer"] | None = None
    on_loop: Literal["ignore", "end", "wait"] | None = None
    reasoning_effort: Effort | None = None
    receipt: Annotated[bool, Field(description="Add all spans and who wrote them to each choice.")] = False
    user: Annotated[str | None, Field(max_length=512, description="Users take turns.")] = None


class BudgetBody(DialBody):
    """The fields that chat and plain completions share."""

    stream_options: StreamOptions | None = None
    n: Annotated[int | None, Field(ge=1, le=1000)] = None
    max_tokens: Annotated[
        int | None, Field(ge=1, le=1 << 31, description="Thinking and answer together.")
    ] = None
    response_format: ResponseFormat | None = None
    # Accepted because clients send them, where they change nothing.
    presence_penalty: Neutral = None
    frequency_penalty: Neutral = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    min_p: Neutral = None


class ChatBody(BudgetBody):
    """POST /v1/chat/completions"""

    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)]
    max_completion_tokens: Annotated[int | None, Field(ge=1, le=1 << 31)] = None
    logprobs: bool | None = None
    top_logprobs: Likeliest = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    store: Literal[False] | None = None
    metadata: dict[str, str] | None = None

    @property
    def offered(self) -> list[Tool]:
        """The tools that the model may call."""
        return [] if self.tool_choice == "none" else self.tools or []

    @property
    def must_call(self) -> list[Tool]:
        """The tools of which it has to call one. Raises BadConfig where there is no such tool."""
        if self.tool_choice in (None, "none", "auto"):
            return []
        wanted = None if isinstance(self.tool_choice, str) else self.tool_choice.function.name
        found = [tool for tool in self.offered if wanted in (None, tool.function.name)]
        if not found:
            raise BadConfig(
                f"tool_choice asks for {wanted or 'a tool'}, which tools does not name.", "Name it there."
            )
        return found


class CompletionBody(BudgetBody):
    """POST /v1/completions: the thinking follows the prompt as it stands."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=64)]
    echo: Literal[False] | None = None
    best_of: Annotated[int | None, Field(ge=1, le=1)] = None
    logprobs: Likeliest = None
    suffix: None = None


class TurnBody(Body):
    """POST /v1/thinking/{id}: change a request while it thinks."""

    wait: Annotated[bool, Field(description="Continue when the model would end.")] = False
    answer_now: Annotated[bool, Field(description="Cut here and answer.")] = False
    max_thinking: Annotated[Tokens, Field(description="Another limit.")] = None


@dataclass(frozen=True, slots=True)
class Served:
    """What the server serves: an engine under a name, with the policy of requests that name none."""

    engine: Engine
    fmt: ThinkingFormat
    name: str
    policy: BudgetPolicy = BudgetPolicy()
    settings: ServeSettings = ServeSettings()
    examples: tuple[str, ...] = ()
    """Questions that the page offers."""


def forcings(body: BudgetBody, prompts: Sequence[str], served: Served) -> list[Forcing]:
    """The machines of all choices: `n` for each prompt, in order. Raises S1Error for what cannot be followed."""
    settings, n = served.settings, body.n or 1
    if n * len(prompts) > settings.choices:
        raise BadConfig(f"{n * len(prompts)} choices are more than {settings.choices}.", "Ask for fewer.")
    if n > 1 and not body.temperature:
        raise BadConfig(f"n is {n} at temperature 0: all would be the same.", "Set a temperature.")
    if body.stream_options is not None and not body.stream:
        raise BadConfig("stream_options is given without stream.", "Set stream, or remove it.")
    policy, fmt, schema = policy_of(body, served), served.fmt, _schema(body, served)
    stops = _stops(body.stop, fmt)
    if isinstance(body, ChatBody) and body.must_call:
        fmt, policy = replace(fmt, cue=CALL_OPEN), replace(policy, cue="always")
    elif schema is not None or (isinstance(body, ChatBody) and body.offered and body.cue is None):
        fmt = replace(fmt, cue="")  # all of the answer is JSON, or may be a call
    served = replace(served, fmt=fmt)
    if isinstance(body, ChatBody) and body.offered and body.parallel_tool_calls is False:
        stops = (*stops, CALL_CLOSE)
    request = HarnessRequest(
        policy,
        sampling_from(body.temperature, body.top_p, body.top_k),
        body.seed,
        stops=stops,
        total_limit=_same(
            {name: getattr(body, name, None) for name in ("max_tokens", "max_completion_tokens")}
        ),
        json_schema=schema,
        logprobs=_logprobs(body, served),
    )
    if all(getattr(body, name) is None for name in LIMITS):
        request = _fitting(request, prompts, served)
    made = [request.forcing(served.engine, served.fmt, p, i) for p in prompts for i in range(n)]
    for forcing in made:
        if settings.prompt_tokens is not None and len(forcing.encoded.prompt) > settings.prompt_tokens:
            raise BadInput(f"The prompt has more than {settings.prompt_tokens} tokens.", "Shorten it.")
    return made


def _schema(body: BudgetBody, served: Served) -> str | None:
    """The JSON schema of the answer, if there is one. Raises BadConfig where it cannot be followed."""
    field, schema = "response_format", None
    if body.response_format is not None:
        schema = body.response_format.as_schema()
    if isinstance(body, ChatBody) and body.offered and schema is not None:
        raise BadConfig(
            "response_format and tools contradict each other: a call is not an answer in that format.",
            'Give one of them, or tool_choice "none".',
        )
    if isinstance(body, ChatBody) and body.must_call:
        field, schema = "tool_choice", call_schema(body.must_call)
    if schema is None:
        return None
    if "json_schema" not in served.engine.features:
        raise FieldRefused(
            field,
            f"the engine {served.engine.name} cannot hold an answer to a grammar.",
            "Ask for it in the prompt, or serve vLLM or llama.cpp. (/v1/responses calls a format text.format.)",
        )
    if body.cue not in (None, "never"):
        raise BadConfig(
            f"cue {body.cue!r} and {field} contradict each other: a cue is not JSON.", "Remove one of them."
        )
    return schema


def _logprobs(body: BudgetBody, served: Served) -> int | None:
    """How many of the likeliest tokens are wanted besides the drawn ones. Raises BadConfig."""
    if isinstance(body, ChatBody):
        if body.top_logprobs is not None and not body.logprobs:
            raise BadConfig("top_logprobs is given without logprobs.", "Set logprobs, or remove it.")
        top = (body.top_logprobs or 0) if body.logprobs else None
    else:
        top = body.logprobs if isinstance(body, CompletionBody) else None
    if top is not None and "logprobs" not in served.engine.features:
        raise FieldRefused("logprobs", f"the engine {served.engine.name} gives tokens without them.")
    return top


def policy_of(body: BudgetBody, served: Served) -> BudgetPolicy:
    """The server's policy, or that of the effort, changed by the fields of the body."""
    settings = served.settings
    given = {f: v for f in POLICY_FIELDS if f != "max_thinking" and (v := getattr(body, f, None)) is not None}
    limit = _same({name: getattr(body, name) for name in LIMITS})
    if limit is not None:
        given["max_thinking"] = limit
    for name, most in zip(LONG, (settings.thinking_tokens,) * 2 + (settings.waits,), strict=True):
        if most is not None and given.get(name, 0) > most:
            raise BadConfig(f"{name} is {given[name]}; this server allows {most}.", "Ask for less.")
    base = served.policy
    if body.reasoning_effort is not None:
        base = _with_effort(base, getattr(settings.efforts, body.reasoning_effort))
        for name in LONG:
            if name in given and given[name] != getattr(base, name):
                raise BadConfig(
                    f"{name} is {given[name]}, and reasoning_effort {body.reasoning_effort!r} means "
                    f"{name} {getattr(base, name)}.",
                    "Give only one of them.",
                )
    return change_policy(base, given)


def _with_effort(base: BudgetPolicy, effort: BudgetPolicy) -> BudgetPolicy:
    """An effort decides how long to think; of the rest, what it sets."""
    default = BudgetPolicy()
    names = [f for f in POLICY_FIELDS if f in LONG or getattr(effort, f) != getattr(default, f)]
    return replace(base, **{name: getattr(effort, name) for name in names})


def _same(given: Mapping[str, int | None]) -> int | None:
    """The value of several names for one thing. Raises BadConfig where two differ."""
    named = {name: value for name, value in given.items() if value is not None}
    if len(set(named.values())) > 1:
        raise BadConfig(
            " and ".join(f"{name} {value}" for name, value in named.items()) + " contradict each other.",
            "They mean the same: give one.",
        )
    return next(iter(named.values()), None)


def _stops(stop: str | Sequence[str] | None, fmt: ThinkingFormat) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    for text in stops:
        if text.strip() in (*fmt.stops, fmt.open.strip(), fmt.close.strip()):
            raise BadConfig(
                f"The stop {text!r} is a delimiter of the thinking.", "Stops end the answer: use another."
            )
    return stops


def _fitting(request: HarnessRequest, prompts: Sequence[str], served: Served) -> HarnessRequest:
    """The request without a limit that the client did not ask for and that does not fit: then the room decides."""
    policy = request.policy
    if policy.max_thinking is None:
        return request
    for prompt in prompts:
        encoded = encode_prompt(served.engine, served.fmt, policy, prompt, total_limit=request.total_limit)
        if policy.max_thinking + policy.grace > room_for(encoded).thinking:
            return replace(request, policy=replace(policy, max_thinking=None))
    return request


def check_texts(value: Any, depth: int = 0) -> None:
    """Raise BadInput for a lone surrogate in a body, which no tokenizer takes, and for a body nested too deeply."""
    if depth > DEEPEST:
        raise BadInput(f"The body is nested more than {DEEPEST} deep.", "Use a flatter schema.")
    if isinstance(value, str):
        if valid_text(value) != value:
            raise BadInput("A text is not valid Unicode (a lone surrogate).", "Correct it.")
    elif isinstance(value, dict):
        for name, each in value.items():
            check_texts(name)
            check_texts(each, depth + 1)
    elif isinstance(value, list):
        for each in value:
            check_texts(each, depth + 1)
