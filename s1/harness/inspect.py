"""A provider of Inspect AI (0.3.285 and later): `--model s1/FOLDER`, found by its entry point.

    inspect eval task.py --model s1/petri -M max_thinking=64 -M waits=1

What follows `s1/` is what `s1 eval --model` takes. A message of the model has its thinking as reasoning
content and the answer as text; the metadata of the output says what forcing did.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    ModelAPI,
    ModelCall,
    ModelOutput,
    ModelUsage,
    modelapi,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from s1.drive import drive
from s1.engines import load_engine
from s1.errors import BadConfig, EngineFailure, S1Error
from s1.formats import choose_format
from s1.harness.adapter import (
    IN_FLIGHT,
    POLICY_FIELDS,
    HarnessRequest,
    change_policy,
    completion_tokens,
    counts,
    read_arguments,
    refuse,
    render,
    sampling_from,
    shown_text,
)
from s1.policy import BudgetPolicy
from s1.types import Engine, Generation, to_json

SUPPORTED = frozenset(
    {"max_tokens", "temperature", "top_p", "top_k", "seed", "stop_seqs", "reasoning_tokens", "num_choices",
     "extra_body"}
)  # fmt: skip
"""Fields of the config that make the request."""
OF_INSPECT = frozenset(
    {"max_retries", "timeout", "attempt_timeout", "stream_idle_timeout", "max_connections",
     "adaptive_connections", "system_message", "reasoning_history", "cache", "cache_prompt", "fail_on_refusal",
     "parallel_tool_calls", "internal_tools", "max_tool_output"}
)  # fmt: skip
"""Fields that Inspect handles itself, or that concern tools, which are refused anyway."""


@dataclass(frozen=True, slots=True)
class InspectOptions:
    """Arguments of the model besides those of the policy and the engine."""

    format: str | None = None
    """The thinking format; None detects it."""
    show_thinking: bool = False
    """Put the thinking and its delimiters into the text too, for scorers that look there."""


@modelapi(name="s1")
class S1API(ModelAPI):  # type: ignore[misc]
    """One engine with one policy. Concurrent requests share the engine's batch."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig | None = None,
        **given: Any,
    ) -> None:
        config = GenerateConfig() if config is None else config
        super().__init__(model_name, None, None, [], config)
        try:
            if base_url is not None:
                raise refuse("--model-base-url", f"Put the address into the name: s1/openai:{base_url}")
            if api_key is not None:
                raise refuse("a key as an argument", "Set the environment variable that api_key_env names.")
            self.options, self.policy, self._engine_options = read_arguments(
                model_name, given, InspectOptions
            )
            self._engine: Engine | None = load_engine(model_name, **self._engine_options)
            self.fmt = choose_format(self._engine, self.options.format)
        except S1Error as error:
            raise _printed(error) from error
        if config.max_connections is None and config.adaptive_connections is None:
            # Inspect would start with 20 and grow until it meets a rate limit, which an engine does not have.
            config.max_connections = self.max_connections()

    @property
    def engine(self) -> Engine:
        """The engine; loaded again where Inspect uses a model that it has closed."""
        if self._engine is None:
            self._engine = load_engine(self.model_name, **self._engine_options)
        return self._engine

    async def aclose(self) -> None:
        """Close the engine."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.close()

    def max_connections(self) -> int:
        """Requests in progress at once; the engine decides how many of them decode together."""
        return IN_FLIGHT

    def force_reasoning_history(self) -> str:
        """The chat templates of thinking models drop earlier thinking."""
        return "none"

    async def count_text_tokens(self, text: str) -> int:
        """Tokens of the model's own tokenizer."""
        return len(self.engine.encode(text))

    async def tokenize(self, text: str) -> list[int]:
        """Token ids of the model's own tokenizer."""
        return list(self.engine.encode(text))

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> tuple[ModelOutput, ModelCall]:
        """Think, answer, and report the cost.

        Raises Unsupported before any decoding for tools, media and options that no engine of s1 supports,
        BadConfig for limits that contradict each other, EngineFailure when the engine fails.
        """
        if tools:
            raise refuse(
                f"tools ({', '.join(tool.name for tool in tools)})",
                "Use tasks whose solver is generate(), without use_tools() or an agent.",
            )
        check_config(config)
        request = request_of(config, self.policy)
        prompt = render(self.engine, plain_messages(input))
        choices = range(config.num_choices or 1)
        forcings = [request.forcing(self.engine, self.fmt, prompt, choice, prompt) for choice in choices]
        try:
            asyncio.get_running_loop()
        except RuntimeError as error:
            raise refuse("trio", "Unset INSPECT_ASYNC_BACKEND, or set it to asyncio.") from error
        generations = await asyncio.gather(
            *(drive(forcing, self.engine, sample=choice) for choice, forcing in enumerate(forcings))
        )
        for generation in generations:
            if generation.error is not None:
                raise EngineFailure(generation.error)
        call = ModelCall.create(
            {"model": self.engine.name, "prompt": prompt, "policy": to_json(request.policy)},
            {"generations": [to_json(g) for g in generations]},
        )
        return self._output(generations), call

    def _output(self, generations: Sequence[Generation]) -> ModelOutput:
        """The tokens of all choices add up; the prompt counts once."""
        first = generations[0]
        prompt = sum(len(s.token_ids) for s in first.segments if s.phase == "prompt")
        spent = sum(completion_tokens(g) for g in generations)
        return ModelOutput(
            model=self.model_name,
            choices=[self._choice(g) for g in generations],
            usage=ModelUsage(
                input_tokens=prompt,
                output_tokens=spent,
                total_tokens=prompt + spent,
                reasoning_tokens=sum(g.thinking_tokens for g in generations),
            ),
            time=max(g.seconds for g in generations),
            metadata={"s1": counts(first) if len(generations) == 1 else [counts(g) for g in generations]},
        )

    def _choice(self, generation: Generation) -> ChatCompletionChoice:
        text = shown_text(generation, self.fmt, self.options.show_thinking)
        content: list[Any] = [ContentText(text=text)]
        if thinking := generation.text_of("thinking"):
            content.insert(0, ContentReasoning(reasoning=thinking))
        stopped = "stop"
        if generation.finish == "length":
            used = sum(len(s.token_ids) for s in generation.segments)
            stopped = "model_length" if used >= self.engine.context else "max_tokens"
        return ChatCompletionChoice(
            message=ChatMessageAssistant(content=content, model=self.model_name, source="generate"),
            stop_reason=stopped,
        )


def _printed(error: S1Error) -> Exception:
    """The error as the type that Inspect's command prints without a traceback, if Inspect has that type."""
    try:
        from inspect_ai._util.error import PrerequisiteError
    except ImportError:
        return error
    return cast(Exception, PrerequisiteError(str(error)))


def check_config(config: GenerateConfig) -> None:
    """Raise Unsupported for a field that would otherwise be ignored."""
    for name, value in config:
        if value in (None, False, 0, [], {}) or name in SUPPORTED | OF_INSPECT:
            continue
        hint = "Remove it."
        if name in ("reasoning_effort", "effort", "reasoning_mode"):
            hint = "Give a number of tokens: --reasoning-tokens, or -M max_thinking."
        raise refuse(f"{name}={value!r:.60}", hint)


def request_of(config: GenerateConfig, policy: BudgetPolicy) -> HarnessRequest:
    """The request of a config: `extra_body` may hold fields of the policy; `reasoning_tokens` is max_thinking."""
    changes: dict[str, Any] = dict(config.extra_body or {})
    if unknown := [name for name in changes if name not in POLICY_FIELDS]:
        raise refuse(f"{unknown[0]!r} in extra_body", "It may hold fields of the policy, such as waits.")
    policy = change_policy(policy, changes)
    if config.reasoning_tokens is not None:
        if policy.max_thinking not in (None, config.reasoning_tokens):
            raise BadConfig(
                f"reasoning_tokens is {config.reasoning_tokens} and max_thinking is {policy.max_thinking}.",
                "Give only one of them.",
            )
        policy = change_policy(policy, {"max_thinking": config.reasoning_tokens})
    if (config.num_choices or 1) > 1 and not config.temperature:
        raise BadConfig(
            f"num_choices is {config.num_choices} at temperature 0: all would be the same.",
            "Set --temperature.",
        )
    return HarnessRequest(
        policy,
        sampling_from(config.temperature, config.top_p, config.top_k),
        config.seed,
        stops=tuple(config.stop_seqs or ()),
        total_limit=config.max_tokens,
    )


def plain_messages(messages: Sequence[ChatMessage]) -> list[dict[str, str]]:
    """Roles and texts for the chat template. Raises Unsupported for tool results and media."""
    plain = []
    for message in messages:
        if message.role == "tool" or (message.role == "assistant" and message.tool_calls):
            raise refuse("tool calls in the conversation", "Use tasks without tools.")
        if not isinstance(message.content, str):
            for part in message.content:
                if part.type not in ("text", "reasoning"):
                    raise refuse(f"{part.type} in a message", "Use tasks with text alone.")
        plain.append({"role": message.role, "content": message.text})
    return plain
