"""`/v1/responses`: the same request and reply in the words of OpenAI's newer API. Nothing is stored."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from s1.errors import BadConfig, EngineFailure
from s1.harness.adapter import shown_text
from s1.serve.body import ChatBody, DialBody, Effort, Likeliest, Served
from s1.serve.body_parts import (
    Body,
    CalledFunction,
    CallId,
    JsonSchema,
    Message,
    NamedFunction,
    NamedTool,
    ResponseFormat,
    Text,
    Tool,
    ToolCall,
    ToolFunction,
)
from s1.serve.live import LiveRequest
from s1.serve.logprobs import LogprobReport
from s1.serve.replies import AnswerStream, about, receipt, usage
from s1.serve.tools import Answer, split_calls
from s1.span_text import SpanPiece
from s1.types import Generation

Nothing = Annotated[list[Any], Field(max_length=0)]
ItemId = Annotated[str, Field(max_length=200)]


class InputPart(Body):
    type: Literal["input_text", "output_text"]
    text: Text
    annotations: Nothing | None = None
    logprobs: list[dict[str, Any]] | None = None


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


class InputCall(CalledFunction):
    """A call that the model has made."""

    type: Literal["function_call"]
    call_id: CallId
    id: ItemId | None = None
    status: Literal["completed", "incomplete"] | None = None


class InputCallOutput(Body):
    """What the client has found for it."""

    type: Literal["function_call_output"]
    call_id: CallId
    output: Text | list[InputPart]
    id: ItemId | None = None
    status: Literal["completed", "incomplete"] | None = None


class FunctionTool(ToolFunction):
    """What /v1/chat/completions calls a tool, without the inner object."""

    type: Literal["function"]

    def for_chat(self) -> Tool:
        """The same in the words of the other routes."""
        return Tool(type="function", function=ToolFunction(**self.model_dump(exclude={"type"})))


class ChosenTool(NamedFunction):
    type: Literal["function"]


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

    input: (
        Text
        | Annotated[
            list[InputMessage | InputReasoning | InputCall | InputCallOutput],
            Field(min_length=1, max_length=4096),
        ]
    )
    instructions: Text | None = None
    max_output_tokens: Annotated[
        int | None, Field(ge=1, le=1 << 31, description="Thinking and answer together.")
    ] = None
    reasoning: Reasoning | None = None
    text: TextOptions | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = None
    include: Annotated[list[Literal["message.output_text.logprobs"]], Field(max_length=1)] | None = None
    top_logprobs: Likeliest = None
    # Accepted where they change nothing.
    store: Annotated[Literal[False] | None, Field(description="Nothing is stored.")] = None
    truncation: Literal["disabled"] | None = None
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
                messages.append(Message(role=item.role, content=_joined(item.content)))
            elif isinstance(item, InputCallOutput):
                messages.append(Message(role="tool", content=_joined(item.output), tool_call_id=item.call_id))
            elif isinstance(item, InputCall):
                if not messages or messages[-1].role != "assistant":
                    messages.append(Message(role="assistant"))
                function = CalledFunction(name=item.name, arguments=item.arguments)
                calls = messages[-1].tool_calls or []
                messages[-1].tool_calls = [*calls, ToolCall(id=item.call_id, function=function)]
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
        if self.top_logprobs is not None and not self.include:
            raise BadConfig(
                "top_logprobs is given without include.", 'Set include to ["message.output_text.logprobs"].'
            )
        choice = self.tool_choice
        return ChatBody(
            messages=messages,
            tools=None if self.tools is None else [tool.for_chat() for tool in self.tools],
            tool_choice=NamedTool(type="function", function=NamedFunction(name=choice.name))
            if isinstance(choice, ChosenTool)
            else choice,
            parallel_tool_calls=self.parallel_tool_calls,
            logprobs=bool(self.include) or None,
            top_logprobs=self.top_logprobs,
            max_completion_tokens=self.max_output_tokens,
            response_format=None if self.format is None else self.format.for_chat(),
            **dial,
        )


def _joined(content: str | list[InputPart]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


@dataclass
class ResponseShape:
    """How the reply looks: an item with the reasoning, if there is any, one with the answer, and one for each call."""

    live: LiveRequest
    body: ChatBody
    served: Served
    asked: ResponsesBody
    _report: LogprobReport | None = None
    _logprobs: list[dict[str, Any]] = field(default_factory=list)
    """Of all tokens of the answer so far, those of calls included; empty where they are not asked for."""

    def whole(self, generations: Sequence[Generation]) -> dict[str, Any]:
        """The finished response."""
        [generation] = generations
        answer = Answer(shown_text(generation, self.served.fmt), [])
        return self._finished(generation, split_calls(answer.content) if self.body.offered else answer)

    def _finished(self, generation: Generation, answer: Answer) -> dict[str, Any]:
        counted = usage([generation], 1)
        thinking, stopped = generation.text_of("thinking"), generation.finish == "stop"
        output = [self._item("reasoning", thinking)] if thinking else []
        if answer.content or not answer.calls:
            self._more_logprobs()
            output.append(self._item("message", answer.content))
        output += [self._call(call) for call in answer.calls]
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
        numbers = itertools.count()
        answers = AnswerStream(self.served, calls=bool(self.body.offered))
        kind, text, index = "", "", -1

        def event(name: str, /, **more: Any) -> str:
            data = {"type": f"response.{name}", "sequence_number": next(numbers)} | more
            return f"event: response.{name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"

        def at() -> dict[str, Any]:
            return {"item_id": self._id(kind), "output_index": index, "content_index": 0}

        def opened() -> Iterator[str]:
            yield event("output_item.added", output_index=index, item=self._item(kind, None))
            yield event("content_part.added", **at(), part=_part(kind, "", []))

        def done() -> Iterator[str]:
            item = self._item(kind, text)
            yield event(f"{PARTS[kind]}.done", **at(), **_report(kind, self._logprobs), text=text)
            yield event("content_part.done", **at(), part=item["content"][0])
            yield event("output_item.done", output_index=index, item=item)

        def called(call: dict[str, Any]) -> Iterator[str]:
            item = self._call(call)
            where = {"item_id": item["id"], "output_index": index}
            arguments, open_item = item["arguments"], {"arguments": "", "status": "in_progress"}
            yield event("output_item.added", output_index=index, item=item | open_item)
            yield event("function_call_arguments.delta", **where, delta=arguments)
            yield event("function_call_arguments.done", **where, name=item["name"], arguments=arguments)
            yield event("output_item.done", output_index=index, item=item)

        for name in ("created", "in_progress"):
            yield event(name, response=self._around("in_progress", []))
        async for _, piece in self.live.pieces():
            answer = Answer("", [])
            if isinstance(piece, SpanPiece):
                next_kind = "reasoning" if piece.phase == "thinking" else "message"
                new = piece.text if piece.phase == "thinking" else answers.add(piece)
            elif piece.error is not None:
                raise EngineFailure(piece.error)
            else:
                answer = answers.end()
                next_kind, new = "message", answer.content
                if answer.calls and not new:  # there is no message besides them, or it is whole
                    next_kind = kind
            if next_kind != kind and (new or isinstance(piece, Generation)):
                for line in done() if kind else ():
                    yield line
                kind, text, index = next_kind, "", index + 1
                for line in opened():
                    yield line
            if new:
                text += new
                report = self._more_logprobs() if kind == "message" else []
                yield event(f"{PARTS[kind]}.delta", **at(), **_report(kind, report), delta=new)
            if isinstance(piece, Generation):
                self._more_logprobs()
                for line in done() if kind else ():
                    yield line
                for call in answer.calls:
                    index += 1
                    for line in called(call):
                        yield line
                content = text if kind == "message" else ""
                response = self._finished(piece, Answer(content, answer.calls))
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
            "parallel_tool_calls": bool(self.body.offered) and asked.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": self.body.reasoning_effort, "summary": None},
            "store": False,
            "temperature": asked.temperature,
            "text": {"format": shape.model_dump(by_alias=True, exclude_none=True)},
            "tool_choice": asked.model_dump()["tool_choice"] or ("auto" if asked.tools else "none"),
            "tools": [tool.model_dump() for tool in asked.tools or ()],
            "top_logprobs": asked.top_logprobs,
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
        item["content"] = [] if text is None else [_part(kind, text, self._logprobs)]
        more: dict[str, Any] = {"summary": []} if kind == "reasoning" else {"role": "assistant"}
        return item | more

    def _call(self, call: dict[str, Any]) -> dict[str, Any]:
        """An output item for a call."""
        ids = {"id": call["id"].replace("call_", "fc_"), "call_id": call["id"]}
        return {"type": "function_call", "status": "completed", **ids, **call["function"]}

    def _more_logprobs(self) -> list[dict[str, Any]]:
        """Those of the tokens since the last call."""
        forcing = self.live.forcings[0]
        if (top := forcing.encoded.logprobs) is None:
            return []
        self._report = self._report or LogprobReport(self.served.engine, self.served.fmt, top)
        new: list[dict[str, Any]] = self._report.new(forcing.logprobs, "", "", chat=True)["content"]
        self._logprobs += new
        return new


PARTS = {"reasoning": "reasoning_text", "message": "output_text"}


def _part(kind: str, text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
    part: dict[str, Any] = {"type": PARTS[kind], "text": text}
    return part | ({"annotations": []} if kind == "message" else {}) | _report(kind, logprobs)


def _report(kind: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
    return {"logprobs": logprobs} if kind == "message" else {}
