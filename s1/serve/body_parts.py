"""The parts of which the bodies of requests are made. An unknown field is an error everywhere."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from s1.errors import BadConfig

Text = Annotated[str, Field(max_length=1 << 22)]
ShortText = Annotated[str, Field(max_length=1000)]
ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
CallId = Annotated[str, Field(max_length=200)]


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


class CalledFunction(Body):
    name: ToolName
    arguments: Annotated[Text, Field(description="A JSON object, as text.")]


class ToolCall(Body):
    """A call that the model has made."""

    id: CallId | None = None
    type: Literal["function"] = "function"
    function: CalledFunction

    def plain(self) -> dict[str, Any]:
        """The same with the arguments as an object, which chat templates want. Raises BadConfig."""
        name = self.function.name
        try:
            arguments = json.loads(self.function.arguments)
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            raise BadConfig(
                f"tool_calls: the arguments of {name!r} are not a JSON object.", "Send them as you got them."
            )
        return {"id": self.id, "type": "function", "function": {"name": name, "arguments": arguments}}


class ToolFunction(Body):
    name: ToolName
    description: Text | None = None
    parameters: Annotated[dict[str, Any] | None, Field(description="A JSON schema.")] = None
    strict: bool | None = None


class Tool(Body):
    """A function that the model may call. The client runs it."""

    type: Literal["function"]
    function: ToolFunction

    def plain(self) -> dict[str, Any]:
        """The tool for the chat template."""
        function = self.function.model_dump(exclude={"strict"}, exclude_none=True)
        return {"type": "function", "function": function}


class NamedFunction(Body):
    name: ToolName


class NamedTool(Body):
    type: Literal["function"]
    function: NamedFunction


ToolChoice = Literal["none", "auto", "required"] | NamedTool


class Message(Body):
    """One message. Earlier thinking (`reasoning_content`) is accepted and never shown to the model again, as in the
    chat templates of such models."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[ContentPart] | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=128)] | None = None
    tool_call_id: CallId | None = None
    name: Annotated[str, Field(max_length=64)] | None = None
    type: Literal["text"] | None = None
    reasoning_content: Text | None = None
    reasoning: Text | None = None
    refusal: None = None

    def plain(self) -> dict[str, Any]:
        """Role, text and tool calls for the chat template. Raises BadConfig for a message that makes no sense."""
        if self.tool_calls and self.role != "assistant":
            raise BadConfig(
                f"A message of the {self.role} has tool_calls.", "Only the assistant calls tools."
            )
        if self.content is None and not self.tool_calls:
            raise BadConfig(
                f"A message of the {self.role} has no content.", "Give it, or remove the message."
            )
        content = self.content or ""
        text = content if isinstance(content, str) else "".join(p.text for p in content)
        made: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": text}
        if self.tool_calls:
            made["tool_calls"] = [call.plain() for call in self.tool_calls]
        if self.tool_call_id is not None:
            made["tool_call_id"] = self.tool_call_id
        return made


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
