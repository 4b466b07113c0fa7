"""The bodies of requests: their fields, checked, and what they ask for. An unknown field is an error."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from s1.budget import Forcing
from s1.errors import BadConfig, BadInput
from s1.formats import ThinkingFormat
from s1.harness.adapter import POLICY_FIELDS, HarnessRequest, change_policy, sampling_from
from s1.policy import BudgetPolicy
from s1.prompt import encode_prompt, room_for
from s1.serve.server_settings import ServeSettings
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
Text = Annotated[str, Field(max_length=1 << 22)]
ShortText = Annotated[str, Field(max_length=1000)]
Neutral = Annotated[float | None, Field(ge=0, le=0)]


class FieldRefused(BadConfig):
    """A field that the engine of this server cannot follow."""

    def __init__(self, field: str, why: str, hint: str = "") -> None:
        super().__init__(f"{field!r} is not supported: {why}", hint)
        self.field = field


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class ContentPart(Body):
    type: Literal["text"]
    text: Text


class Message(Body):
    """One message. Earlier thinking (`reasoning_content`) is accepted and never shown to the model again, as in the
    chat templates of such models."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[ContentPart]
    name: Annotated[str, Field(max_length=64)] | None = None
    type: Literal["text"] | None = None
    reasoning_content: Text | None = None
    reasoning: Text | None = None
    refusal: None = None

    def plain(self) -> dict[str, str]:
        """Role and text for the chat template."""
        text = self.content if isinstance(self.content, str) else "".join(p.text for p in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(Body):
    include_usage: bool = False


class JsonSchema(Body):
    name: Annotated[str | None, Field(max_length=64)] = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    description: Text | None = None
    strict: Annotated[bool | None, Field(description="The schema is followed in any case.")] = None


class ResponseFormat(Body):
    """What the answer is; the thinking is free text."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def as_schema(self) -> str | None:
        """The JSON schema as text; None for plain text. Raises BadConfig where it is missing or has no use."""
        if (self.json_schema is not None) != (self.type == "json_schema"):
            raise BadConfig(
                f"response_format has the type {self.type!r} {'without' if self.type == 'json_schema' else 'and'} "
                "json_schema.",
                'Write {"type": "json_schema", "json_schema": {"name": "answer", "schema": {...}}}.',
            )
        if self.json_schema is None:
            return None if self.type == "text" else '{"type": "object"}'
        return json.dumps(self.json_schema.schema_ or {}, ensure_ascii=False)


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
    logprobs: Literal[False] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    store: Literal[False] | None = None
    metadata: dict[str, str] | None = None


class CompletionBody(BudgetBody):
    """POST /v1/completions: the thinking follows the prompt as it stands."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=64)]
    echo: Literal[False] | None = None
    best_of: Annotated[int | None, Field(ge=1, le=1)] = None
    logprobs: None = None
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
    if schema is not None:
        fmt = replace(fmt, cue="")  # all of the answer is JSON
    request = HarnessRequest(
        policy,
        sampling_from(body.temperature, body.top_p, body.top_k),
        body.seed,
        stops=_stops(body.stop, served.fmt),
        total_limit=_same(
            {name: getattr(body, name, None) for name in ("max_tokens", "max_completion_tokens")}
        ),
        json_schema=schema,
    )
    if all(getattr(body, name) is None for name in LIMITS):
        request = _fitting(request, prompts, served)
    made = [request.forcing(served.engine, fmt, p, i) for p in prompts for i in range(n)]
    for forcing in made:
        if settings.prompt_tokens is not None and len(forcing.encoded.prompt) > settings.prompt_tokens:
            raise BadInput(f"The prompt has more than {settings.prompt_tokens} tokens.", "Shorten it.")
    return made


def _schema(body: BudgetBody, served: Served) -> str | None:
    """The JSON schema of the answer, if there is one. Raises BadConfig where it cannot be followed."""
    schema = None if body.response_format is None else body.response_format.as_schema()
    if schema is not None and "json_schema" not in served.engine.features:
        raise FieldRefused(
            "response_format",
            f"the engine {served.engine.name} cannot hold an answer to a grammar.",
            "Ask for JSON in the prompt, or serve vLLM or llama.cpp.",
        )
    if schema is not None and body.cue not in (None, "never"):
        raise BadConfig(
            f"cue {body.cue!r} and response_format contradict each other: a cue is not JSON.",
            "Remove one of them.",
        )
    return schema


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
    """Raise BadInput for a lone surrogate anywhere in a body, which no tokenizer takes, and for one nested too deeply."""
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
