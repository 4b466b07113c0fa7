"""A provider of Inspect AI (0.3.285 and later): `--model s1/FOLDER`, found by its entry point.

    inspect eval task.py --model s1/runs/demo/model -M max_thinking=512 -M waits=1

What follows `s1/` is what `s1 eval --model` takes. A message of the model has its thinking as reasoning
content and the answer as text; what forcing did stands in the metadata of the output.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
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

from s1.budget import Forcing, drive
from s1.engines import load_engine
from s1.errors import BadConfig, EngineFailure, S1Error
from s1.formats import choose_format
from s1.harness.request import counts, refuse, render, shown_text
from s1.harness.settings import IN_FLIGHT, change_policy, read_arguments
from s1.policy import BudgetPolicy
from s1.prompt import encode_prompt
from s1.seeds import seed_of
from s1.types import Engine, Generation, Sampling, to_json

HONOURED = frozenset(
    {"max_tokens", "temperature", "top_p", "top_k", "seed", "stop_seqs", "reasoning_tokens", "num_choices",
     "extra_body"}
)  # fmt: skip
"""Fields of the config that a request is built from."""
OF_INSPECT = frozenset(
    {"max_retries", "timeout", "attempt_timeout", "stream_idle_timeout", "max_connections",
     "adaptive_connections", "system_message", "reasoning_history", "cache", "cache_prompt", "fail_on_refusal",
     "parallel_tool_calls", "internal_tools", "max_tool_output"}
)  # fmt: skip
"""Fields that Inspect acts on itself, or that speak of tools, which are refused anyway."""


@dataclass(frozen=True, slots=True)
class Options:
    """Arguments of the model beside those of the policy and the engine."""

    format: str | None = None
    """The thinking format, where it cannot be detected."""
    show_thinking: bool = False
    """Put the thinking and its delimiters into the text as well, for scorers that look there."""


@modelapi(name="s1")
class S1API(ModelAPI):  # type: ignore[misc]
    """One engine with one policy. Requests side by side share the engine's batch."""

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
            arguments = read_arguments(model_name, given, Options)
            self.options: Options = arguments.own
            self.policy = arguments.policy
            self._engine_options = arguments.engine
            self._engine: Engine | None = load_engine(model_name, **arguments.engine)
            self.fmt = choose_format(self._engine, self.options.format)
        except S1Error as error:
            raise _printed(error) from error
        if config.max_connections is None and config.adaptive_connections is None:
            # Inspect would begin with 20 and grow while no rate limit answers; an engine has none.
            config.max_connections = self.max_connections()

    @property
    def engine(self) -> Engine:
        """The engine; loaded again where Inspect closed the model and goes on using it."""
        if self._engine is None:
            self._engine = load_engine(self.model_name, **self._engine_options)
        return self._engine

    async def aclose(self) -> None:
        """Close the engine."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.close()

    def max_connections(self) -> int:
        """Requests that walk at once; the engine decides how many of them decode at once."""
        return IN_FLIGHT

    def force_reasoning_history(self) -> str:
        """Chat templates of thinking models leave earlier thinking out."""
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
        """Think, answer, and say what it cost.

        Raises Unsupported before any decoding for tools, media and options that no engine of s1 honours,
        BadConfig for limits that contradict each other, EngineFailure when the engine breaks.
        """
        if tools:
            raise refuse(
                f"tools ({', '.join(tool.name for tool in tools)})",
                "Use tasks whose solver is generate(), without use_tools() or an agent.",
            )
        check_config(config)
        policy = policy_of(self.policy, config)
        prompt = render(self.engine, plain_messages(input))
        wanted = config.num_choices or 1
        if wanted > 1 and not config.temperature:
            raise BadConfig(
                f"num_choices is {wanted} at temperature 0.", "Set --temperature: all would be the same."
            )
        encoded = encode_prompt(
            self.engine, self.fmt, policy, prompt, stops=config.stop_seqs or (), total_limit=config.max_tokens
        )
        walks = [Forcing(encoded, sampling_of(config, prompt, choice)) for choice in range(wanted)]
        try:
            asyncio.get_running_loop()
        except RuntimeError as error:
            raise refuse("trio", "Unset INSPECT_ASYNC_BACKEND, or set it to asyncio.") from error
        generations = await asyncio.gather(*(drive(w, self.engine, sample=k) for k, w in enumerate(walks)))
        for generation in generations:
            if generation.error is not None:
                raise EngineFailure(generation.error)
        generations = [replace(g, policy=policy.key) for g in generations]
        call = ModelCall.create(
            {"model": self.engine.name, "prompt": prompt, "policy": to_json(policy)},
            {"generations": [to_json(g) for g in generations]},
        )
        return self._output(generations, config, encoded.context), call

    def _output(self, generations: Sequence[Generation], config: GenerateConfig, context: int) -> ModelOutput:
        """Several choices count their tokens together, but the prompt once."""
        first = generations[0]
        prompt = sum(len(s.token_ids) for s in first.segments if s.phase == "prompt")
        spent = sum(_spent(g) for g in generations)
        return ModelOutput(
            model=self.model_name,
            choices=[self._choice(g, config) for g in generations],
            usage=ModelUsage(
                input_tokens=prompt,
                output_tokens=spent,
                total_tokens=prompt + spent,
                reasoning_tokens=sum(g.thinking_tokens for g in generations),
            ),
            time=max(g.seconds for g in generations),
            metadata={"s1": counts(first) if len(generations) == 1 else [counts(g) for g in generations]},
        )

    def _choice(self, generation: Generation, config: GenerateConfig) -> ChatCompletionChoice:
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
    """The error in the kind that Inspect's command prints without a traceback, while Inspect has that kind."""
    try:
        from inspect_ai._util.error import PrerequisiteError
    except ImportError:
        return error
    return cast(Exception, PrerequisiteError(str(error)))


def _spent(generation: Generation) -> int:
    """Tokens after the prompt: thinking, answer, and the delimiters and cue that were forced."""
    return sum(len(s.token_ids) for s in generation.segments if s.phase != "prompt")


def check_config(config: GenerateConfig) -> None:
    """Refuse what would be dropped. Raises Unsupported naming the field."""
    for name, value in config:
        if value in (None, False, 0, [], {}) or name in HONOURED | OF_INSPECT:
            continue
        hint = "Leave it out."
        if name in ("reasoning_effort", "effort", "reasoning_mode"):
            hint = "Give a number of tokens: --reasoning-tokens, or -M max_thinking."
        raise refuse(f"{name}={value!r:.60}", hint)


def policy_of(policy: BudgetPolicy, config: GenerateConfig) -> BudgetPolicy:
    """The policy of one request: `extra_body` may hold its fields; `reasoning_tokens` is max_thinking."""
    if config.extra_body:
        unknown = [name for name in config.extra_body if not hasattr(policy, name) or name == "label"]
        if unknown:
            raise refuse(f"{unknown[0]!r} in extra_body", "It may hold fields of the policy, such as waits.")
        policy = change_policy(policy, config.extra_body)
    if config.reasoning_tokens is None:
        return policy
    if policy.max_thinking not in (None, config.reasoning_tokens):
        raise BadConfig(
            f"reasoning_tokens is {config.reasoning_tokens} and max_thinking is {policy.max_thinking}.",
            "Give one of the two.",
        )
    return change_policy(policy, {"max_thinking": config.reasoning_tokens})


def sampling_of(config: GenerateConfig, prompt: str, choice: int) -> Sampling:
    """Greedy where no temperature is given. With a seed, a prompt and choice get the same text each time."""
    temperature = config.temperature or 0.0
    seed = None
    if temperature and config.seed is not None:
        seed = seed_of(config.seed, choice, prompt)
    return Sampling(
        temperature=temperature,
        top_p=1.0 if config.top_p is None else config.top_p,
        top_k=config.top_k or 0,
        seed=seed,
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
                    raise refuse(f"{part.type} in a message", "Use tasks of text alone.")
        plain.append({"role": message.role, "content": message.text})
    return plain
