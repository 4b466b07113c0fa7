"""Replies in the words of the OpenAI API, whole and as a stream of chunks, with the reasoning apart from the answer."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from s1.errors import EngineFailure
from s1.harness.adapter import answer_text, completion_tokens, counts, shown_text
from s1.serve.body import BudgetBody, ChatBody, Served
from s1.serve.live import LiveRequest
from s1.serve.logprobs import LogprobReport
from s1.serve.tools import Answer, before_calls, split_calls
from s1.span_text import SpanPiece
from s1.types import Generation


@dataclass
class ReplyShape:
    """How the reply to one request looks: chat or plain text, and what it asked for."""

    live: LiveRequest
    body: BudgetBody
    served: Served
    _reports: dict[int, LogprobReport] = field(default_factory=dict)

    @property
    def is_chat(self) -> bool:
        return isinstance(self.body, ChatBody)

    @property
    def calls(self) -> bool:
        """Whether the model may call tools."""
        return isinstance(self.body, ChatBody) and bool(self.body.offered)

    def _around(self, *, chunk: bool = False) -> dict[str, Any]:
        """The object that holds the choices, without them."""
        kind = "chat.completion" if self.is_chat else "text_completion"
        return {
            "id": self.live.id,
            "object": f"{kind}.chunk" if chunk and self.is_chat else kind,
            "created": self.live.created,
            "model": self.served.name,
        } | about(self.live, self.body)

    @cached_property
    def _chunk_end(self) -> str:
        return json.dumps(self._around(chunk=True), ensure_ascii=False)[1:]

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> str:
        """One event of the stream. What all events share is written once: there are many."""
        return (
            f"data: {json.dumps({'choices': choices} | more, ensure_ascii=False)[:-1]}, {self._chunk_end}\n\n"
        )

    def whole(self, generations: Sequence[Generation]) -> dict[str, Any]:
        """The reply that is not streamed."""
        choices = []
        for index, generation in enumerate(generations):
            thinking = generation.text_of("thinking")
            answer = shown_text(generation, self.served.fmt)
            reasoning: dict[str, Any] = {"reasoning_content": thinking, "reasoning": thinking}
            finish: str | None = generation.finish
            if self.calls:
                answer, calls = split_calls(answer)
                finish = _finish(generation, calls)
                reasoning |= {"tool_calls": calls} if calls else {}
            if self.is_chat:
                content = answer if answer or "tool_calls" not in reasoning else None
                choice: dict[str, Any] = {"message": {"role": "assistant", "content": content} | reasoning}
            else:
                choice = {"text": answer} | reasoning
            reported = self._reported(index, generation.text_of("delimiter"), generation.text_of("answer"))
            choices.append({"index": index, "finish_reason": finish} | reported | choice)
            if self.body.receipt:
                choices[-1]["receipt"] = receipt(generation)
        return self._around() | {"choices": choices, "usage": usage(generations, self.body.n or 1)}

    def _reported(self, index: int, delimiter: str, answer: str) -> dict[str, Any]:
        """The log-probabilities that were not given yet; see `LogprobReport.new`."""
        forcing = self.live.forcings[index]
        if (top := forcing.encoded.logprobs) is None:
            return {"logprobs": None}
        if index not in self._reports:
            self._reports[index] = LogprobReport(self.served.engine, self.served.fmt, top)
        new = self._reports[index].new(forcing.logprobs, delimiter, answer, chat=self.is_chat)
        return {"logprobs": new}

    def _delta(
        self,
        index: int,
        *,
        content: str = "",
        reasoning: str = "",
        calls: Sequence[dict[str, Any]] = (),
        **more: Any,
    ) -> str:
        """One chunk with new text or calls."""
        new: dict[str, Any] = {"reasoning_content": reasoning, "reasoning": reasoning} if reasoning else {}
        new |= {"tool_calls": calls} if calls else {}
        choice: dict[str, Any] = {"index": index, "finish_reason": None, "logprobs": None} | more
        if self.is_chat:
            choice["delta"] = ({"content": content} if content or not new else {}) | new
        else:
            choice |= {"text": content} | new
        return self._chunk([choice])

    async def events(self) -> AsyncGenerator[str, None]:
        """The server-sent events of a streamed reply. Raises what goes wrong."""
        live, body = self.live, self.body
        answers = [AnswerStream(self.served, calls=self.calls) for _ in live.forcings]
        generations: dict[int, Generation] = {}
        for index in range(len(live.forcings)):
            role = {"delta": {"role": "assistant", "content": ""}} if self.is_chat else {}
            yield self._chunk([{"index": index, "finish_reason": None, "text": ""} | role])
        async for index, piece in live.pieces():
            if isinstance(piece, SpanPiece):
                marks = _marks(live, index, piece) if body.receipt else {}
                if piece.phase == "thinking":
                    yield self._delta(index, reasoning=piece.text, **marks)
                elif new := answers[index].add(piece):
                    yield self._delta(
                        index, content=new, **self._reported(index, **answers[index].texts), **marks
                    )
                continue
            if piece.error is not None:
                raise EngineFailure(piece.error)
            generations[index] = piece
            rest, calls = answers[index].end()
            if rest:
                yield self._delta(index, content=rest)
            if calls:
                yield self._delta(index, calls=[{"index": n} | call for n, call in enumerate(calls)])
            last: dict[str, Any] = {"finish_reason": _finish(piece, calls)}
            last |= self._reported(index, **answers[index].texts)
            if body.receipt:
                last["receipt"] = receipt(piece)
            yield self._delta(index, **last)
        if body.stream_options is not None and body.stream_options.include_usage:
            ordered = [generations[index] for index in sorted(generations)]
            yield self._chunk([], usage=usage(ordered, body.n or 1))
        yield "data: [DONE]\n\n"


class AnswerStream:
    """The text that follows the thinking as `shown_text` would give it, as it grows."""

    def __init__(self, served: Served, *, calls: bool = False) -> None:
        self._fmt, self._given, self._calls = served.fmt, 0, calls
        self.texts = {"delimiter": "", "answer": ""}

    def add(self, piece: SpanPiece) -> str:
        """What is new and sure: blank space at the end waits for a word after it, and so does a call for its end."""
        self.texts[piece.phase] += piece.text
        shown = answer_text(**self.texts, fmt=self._fmt)
        return self._new(before_calls(shown) if self._calls else shown)

    def end(self) -> Answer:
        """What is left when the answer is complete."""
        if not self._calls:
            return Answer("", [])
        content, calls = split_calls(answer_text(**self.texts, fmt=self._fmt))
        return Answer(self._new(content), calls)

    def _new(self, shown: str) -> str:
        new, self._given = shown[self._given :], max(self._given, len(shown))
        return new


def _finish(generation: Generation, calls: Sequence[Any]) -> str | None:
    return "tool_calls" if calls and generation.finish == "stop" else generation.finish


def about(live: LiveRequest, body: BudgetBody) -> dict[str, Any]:
    """What every reply adds: the policy that was followed, and the effort that chose it."""
    policy = live.forcings[0].encoded.policy
    return {"s1": {"policy": policy.key, "reasoning_effort": body.reasoning_effort}}


def _marks(live: LiveRequest, index: int, piece: SpanPiece) -> dict[str, Any]:
    """Who wrote a piece, and how far its choice is."""
    forcing = live.forcings[index]
    return {
        "forced": piece.by == "forced",
        "thinking_tokens": len(forcing.thinking),
        "waits": forcing.waits,
    }


def usage(generations: Sequence[Generation], n: int) -> dict[str, Any]:
    """Tokens of the reply; the prompt of several choices counts once."""
    prompt = sum(len(s.token_ids) for g in generations[::n] for s in g.segments if s.phase == "prompt")
    spent = sum(completion_tokens(g) for g in generations)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": spent,
        "total_tokens": prompt + spent,
        "completion_tokens_details": {"reasoning_tokens": sum(g.thinking_tokens for g in generations)},
    }


def receipt(generation: Generation) -> dict[str, Any]:
    """What forcing did: counts, why the thinking ended, and every span after the prompt with its owner."""
    return {
        **counts(generation),
        "cut_by": generation.cut_by,
        "grace_used": generation.grace_used,
        "spans": [
            {"phase": s.phase, "by": s.by, "text": s.text, "tokens": len(s.token_ids)}
            for s in generation.segments
            if s.phase != "prompt"
        ],
    }
