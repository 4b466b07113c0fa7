"""Attempts of an engine at questions, for the difficulty stage (section 2.2 of the paper).

The model answers directly, without a thinking block: a trace need not teach what the model can already do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace

from s1.clients.call_cache import CallCache, ModelCall, ModelReply
from s1.clients.chat_replies import split_thinking
from s1.clients.map_calls import Answerer
from s1.errors import BadInput, first_error
from s1.grading import equivalent, extract_answer
from s1.types import Continuation, Engine, Finish, Question, Sampling, Stop, to_json


@dataclass(frozen=True, slots=True)
class EngineCaller:
    """An engine of this project as a model to ask; see `map_calls.Caller`. It does not close the engine."""

    engine: Engine
    name: str
    """Names the model in the call cache and in columns."""
    sampling: Sampling = Sampling()
    max_tokens: int = 32_768
    concurrency: int = 256
    model_id: str = ""
    """What the model is (`s1.engines.model_id`): replies of other weights under the same name are not reused."""

    @property
    def temperature(self) -> float:
        return self.sampling.temperature

    def request(self, text: str, sample: int = 0, *, system: str | None = None) -> ModelCall:
        messages = ((("system", system),) if system else ()) + (("user", text),)
        settings = {"max_tokens": self.max_tokens, "model_id": self.model_id, **to_json(self.sampling)}
        return ModelCall(self.name, messages, settings, sample)

    @asynccontextmanager
    async def connect(self, cache: CallCache) -> AsyncIterator[Answerer]:
        async def answer(call: ModelCall) -> ModelReply:
            messages = _messages(self.engine, call)
            sampling = self.sampling
            if sampling.seed is not None:
                sampling = replace(sampling, seed=sampling.seed + call.sample)
            prompt, ids, finish = await continue_chat(self.engine, messages, sampling, self.max_tokens)
            thinking, text = split_thinking(self.engine.decode(ids))
            return ModelReply(thinking, text, finish, prompt, len(ids))

        yield answer


def _messages(engine: Engine, call: ModelCall) -> list[dict[str, str]]:
    """The messages of a call. The system message joins the user's where the chat template has no such role."""
    messages = [{"role": role, "content": text} for role, text in call.messages]
    if len(messages) == 2 and messages[0]["role"] == "system":
        try:
            engine.render(messages)
        except BadInput:
            return [{"role": "user", "content": f"{messages[0]['content']}\n\n{messages[1]['content']}"}]
    return messages


async def continue_chat(
    engine: Engine, messages: Sequence[dict[str, str]], sampling: Sampling, max_tokens: int
) -> tuple[int, list[int], Finish]:
    """Length of the prompt in tokens, token ids of the reply, and how it ended."""
    stops = tuple(Stop(eos, engine.encode(eos)) for eos in engine.eos_texts)
    prefix = engine.encode(engine.render(messages))
    room = max(1, min(max_tokens, engine.context - len(prefix)))
    ids: list[int] = []
    finish: Finish = "length"
    async with aclosing(engine.stream(Continuation(prefix, room, stops, 0, sampling))) as chunks:
        async for chunk in chunks:
            ids.extend(chunk.ids)
            finish = chunk.finish or finish
    return len(prefix), ids, finish


def attempt(
    engine: Engine,
    questions: Sequence[Question],
    *,
    kind: str = "math",
    sampling: Sampling = Sampling(),
    max_tokens: int = 32_768,
    concurrency: int = 256,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[bool | None]:
    """Whether the model's direct answers are right, in the order of `questions`; None without a reference.

    `progress` gets how many of how many are done. Raises S1Error when the engine fails.
    """
    done = 0

    async def one(slots: asyncio.Semaphore, question: Question) -> bool | None:
        nonlocal done
        verdict = None
        if question.answer is not None:
            async with slots:
                messages = [{"role": "user", "content": question.text}]
                _, ids, _ = await continue_chat(engine, messages, sampling, max_tokens)
                found = extract_answer(engine.decode(ids), kind)
                verdict = found is not None and await asyncio.to_thread(
                    equivalent, question.answer, found, kind
                )
        done += 1
        progress(done, len(questions))
        return verdict

    async def run() -> list[bool | None]:
        slots = asyncio.Semaphore(concurrency)
        try:
            async with asyncio.TaskGroup() as tasks:
                started = [tasks.create_task(one(slots, question)) for question in questions]
        except BaseExceptionGroup as group:
            raise first_error(group) from None
        return [task.result() for task in started]

    return asyncio.run(run())
