"""`/v1/responses`: the same request and reply in the words of OpenAI's newer API. Nothing is stored."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from s1.errors import BadConfig, EngineFailure
from s1.harness.adapter import shown_text
from s1.serve.body import ChatBody, DialBody, Effort, Served
from s1.serve.body_parts import Body, JsonSchema, Message, ResponseFormat, Text
from s1.serve.live import LiveRequest
from s1.serve.replies import AnswerStream, about, receipt, usage
from s1.span_text import SpanPiece
from s1.types import Generation

Nothing = Annotated[list[Any], Field(max_length=0)]
ItemId = Annotated[str, Field(max_length=200)]


class InputPart(Body):
    type: Literal["input_text", "output_text"]
    text: Text
    annotations: Nothing | None = None
    logprobs: Nothing | None = None


class InputMessage(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[InputPart]
    type: Literal["message"] = "message"
    id: ItemId | None = None
    status: Literal["completed", "incomplete"] | None = None


class InputReasoning(Body):
    """Earlier thinking: accepted, and not shown to the model again."""

    type: Literal["reasoning"]
    id: ItemId | None = None
    summary: Nothing | None = None
    content: list[dict[str, Any]] | None = None
    encrypted_content: None = None
    status: Literal["completed", "incomplete"] | None = None


class Reasoning(Body):
    effort: Effort | None = None


class TextFormat(JsonSchema):
    """What /v1/chat/completions calls response_format, without the inner object."""

    type: Literal["text", "json_object", "json_schema"]

    def for_chat(self) -> ResponseFormat:
        """The same in the words of the other routes."""
        inner = self.model_dump(by_alias=True, exclude={"type"}, exclude_none=True)
        return ResponseFormat(type=self.type, json_schema=JsonSchema(**inner) if inner else None)


class TextOptions(Body):
    format: TextFormat | None = None


class ResponsesBody(DialBody):
    """POST /v1/responses"""

    input: Text | Annotated[list[InputMessage | InputReasoning], Field(min_length=1, max_length=4096)]
    instructions: Text | None = None
    max_output_tokens: Annotated[
        int | None, Field(ge=1, le=1 << 31, description="Thinking and answer together.")
    ] = None
    reasoning: Reasoning | None = None
    # Accepted where they change nothing.
    text: TextOptions | None = None
    tools: Nothing | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    store: Annotated[Literal[False] | None, Field(description="Nothing is stored.")] = None
    truncation: Literal["disabled"] | None = None
    include: Nothing | None = None
    metadata: dict[str, str] | None = None

    @property
    def format(self) -> TextFormat | None:
        return None if self.text is None else self.text.format

    def as_chat(self) -> ChatBody:
        """The same request to /v1/chat/completions. Raises BadConfig for two efforts that differ."""
        messages = [] if self.instructions is None else [Message(role="system", content=self.instructions)]
        items = [InputMessage(role="user", content=self.input)] if isinstance(self.input, str) else self.input
        for item in items:
            if isinstance(item, InputMessage):
                said = (
                    item.content if isinstance(item.content, str) else "".join(p.text for p in item.content)
                )
                messages.append(Message(role=item.role, content=said))
        if not any(message.role == "user" for message in messages):
            raise BadConfig("input holds no message of the user.", "Add one.")
        dial = {name: getattr(self, name) for name in DialBody.model_fields}
        effort = self.reasoning and self.reasoning.effort
        if effort is not None and dial["reasoning_effort"] not in (None, effort):
            raise BadConfig(
                f"reasoning.effort {effort!r} and reasoning_effort {dial['reasoning_effort']!r} contradict each other.",
                "They mean the same: give one.",
            )
        dial["reasoning_effort"] = effort or dial["reasoning_effort"]
        return ChatBody(
            messages=messages,
            max_completion_tokens=self.max_output_tokens,
            response_format=None if self.format is None else self.format.for_chat(),
            **dial,
        )


@dataclass
class ResponseShape:
    """How the reply looks: an item with the reasoning, if there is any, and one with the answer."""

    live: LiveRequest
    body: ChatBody
    served: Served
    asked: ResponsesBody

    def whole(self, generations: Sequence[Generation]) -> dict[str, Any]:
        """The finished response."""
        [generation] = generations
        counted = usage(generations, 1)
        thinking, stopped = generation.text_of("thinking"), generation.finish == "stop"
        output = [self._item("reasoning", thinking)] if thinking else []
        output.append(self._item("message", shown_text(generation, self.served.fmt)))
        spent = {
            "input_tokens": counted["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": counted["completion_tokens"],
            "output_tokens_details": counted["completion_tokens_details"],
            "total_tokens": counted["total_tokens"],
        }
        end = {"usage": spent} | ({"receipt": receipt(generation)} if self.body.receipt else {})
        if not stopped:
            end["incomplete_details"] = {"reason": "max_output_tokens"}
        return self._around("completed" if stopped else "incomplete", output) | end

    async def events(self) -> AsyncGenerator[str, None]:
        """The server-sent events: an item opens, grows and is done, then the next. Raises what goes wrong."""
        numbers, answers = itertools.count(), AnswerStream(self.served)
        kind, text, index = "", "", -1

        def event(name: str, **more: Any) -> str:
            data = {"type": f"response.{name}", "sequence_number": next(numbers)} | more
            return f"event: response.{name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"

        def opened() -> Iterator[str]:
            item = self._item(kind, None)
            yield event("output_item.added", output_index=index, item=item)
            at = {"item_id": item["id"], "output_index": index, "content_index": 0}
            yield event("content_part.added", **at, part=_part(kind, ""))

        def done() -> Iterator[str]:
            item = self._item(kind, text)
            at = {"item_id": item["id"], "output_index": index, "content_index": 0}
            yield event(f"{PARTS[kind]}.done", **at, **_logprobs(kind), text=text)
            yield event("content_part.done", **at, part=_part(kind, text))
            yield event("output_item.done", output_index=index, item=item)

        for name in ("created", "in_progress"):
            yield event(name, response=self._around("in_progress", []))
        async for _, piece in self.live.pieces():
            if isinstance(piece, SpanPiece):
                next_kind = "reasoning" if piece.phase == "thinking" else "message"
                new = piece.text if piece.phase == "thinking" else answers.add(piece)
            elif piece.error is not None:
                raise EngineFailure(piece.error)
            else:
                next_kind, new = "message", ""
            if next_kind != kind and (new or isinstance(piece, Generation)):
                for line in done() if kind else ():
                    yield line
                kind, text, index = next_kind, "", index + 1
                for line in opened():
                    yield line
            if new:
                text += new
                at = {"item_id": self._id(kind), "output_index": index, "content_index": 0}
                yield event(f"{PARTS[kind]}.delta", **at, **_logprobs(kind), delta=new)
            if isinstance(piece, Generation):
                for line in done():
                    yield line
                response = self.whole([piece])
                yield event(response["status"], response=response)

    def _around(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        asked, shape = self.asked, self.asked.format or TextFormat(type="text")
        return {
            "id": self.live.id,
            "object": "response",
            "created_at": self.live.created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "metadata": asked.metadata or {},
            "model": self.served.name,
            "output": output,
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "reasoning": {"effort": self.body.reasoning_effort, "summary": None},
            "store": False,
            "temperature": asked.temperature,
            "text": {"format": shape.model_dump(by_alias=True, exclude_none=True)},
            "tool_choice": "none",
            "tools": [],
            "top_p": asked.top_p,
            "truncation": "disabled",
            "usage": None,
        } | about(self.live, self.body)

    def _id(self, kind: str) -> str:
        return ("rs_" if kind == "reasoning" else "msg_") + self.live.id

    def _item(self, kind: str, text: str | None) -> dict[str, Any]:
        """An output item; without a text it is still open."""
        status = "in_progress" if text is None else "completed"
        item: dict[str, Any] = {"type": kind, "id": self._id(kind), "status": status}
        item["content"] = [] if text is None else [_part(kind, text)]
        more: dict[str, Any] = {"summary": []} if kind == "reasoning" else {"role": "assistant"}
        return item | more


PARTS = {"reasoning": "reasoning_text", "message": "output_text"}


def _part(kind: str, text: str) -> dict[str, Any]:
    part: dict[str, Any] = {"type": PARTS[kind], "text": text}
    return part | ({"annotations": [], "logprobs": []} if kind == "message" else {})


def _logprobs(kind: str) -> dict[str, Any]:
    return {"logprobs": []} if kind == "message" else {}
