"""Tools: what the model reads of them, and the calls in its answer.

The chat template shows the tools to the model. Calls are read in the form that Hermes began and Qwen uses:

    <tool_call>
    {"name": "add", "arguments": {"a": 2, "b": 2}}
    </tool_call>
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

from s1.errors import BadConfig
from s1.harness.adapter import render
from s1.serve.body_parts import FieldRefused, Message, Tool
from s1.types import Engine

CALL_OPEN, CALL_CLOSE = "<tool_call>\n", "</tool_call>"
MARK = CALL_OPEN.strip()
BLOCK = re.compile(rf"{MARK}\s*(.*?)\s*(?:{CALL_CLOSE}|\Z)", re.DOTALL)


def chat_prompt(engine: Engine, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> str:
    """The conversation and the tools in the chat template. Raises FieldRefused for what the template leaves out."""
    said, known = [message.plain() for message in messages], [tool.plain() for tool in tools]
    prompt = render(engine, said, known)
    if known:
        if render(engine, said) == prompt:
            raise FieldRefused("tools", "the chat template of this model does not show them.")
        if MARK not in prompt or '"arguments":' not in prompt:
            raise FieldRefused("tools", f"this model does not write its calls as JSON in {MARK}.")
    for field, changed in (
        ("tool_calls", [m | {"tool_calls": []} if "tool_calls" in m else m for m in said]),
        ("role: tool", [m | {"content": "?"} if m["role"] == "tool" else m for m in said]),
    ):
        if changed != said and render(engine, changed, known) == prompt:
            raise FieldRefused(field, "the chat template of this model does not show it.")
    return prompt


def call_schema(tools: Sequence[Tool]) -> str:
    """The JSON schema of a call of one of `tools`. Raises BadConfig for definitions that contradict each other."""
    calls, definitions = list[dict[str, Any]](), dict[str, Any]()
    for tool in tools:
        arguments = dict(tool.function.parameters or {"type": "object"})
        defined = arguments.pop("$defs", {})
        if not isinstance(defined, dict):
            raise BadConfig(
                f"tools: $defs of {tool.function.name!r} is not an object.", "Correct its schema."
            )
        for name, definition in defined.items():
            if definitions.setdefault(name, definition) != definition:
                raise BadConfig(
                    f"tools: two of them define {name!r} differently.", "Rename one in its $defs."
                )
        parts = {"name": {"const": tool.function.name}, "arguments": arguments}
        calls.append(
            {"type": "object", "properties": parts, "required": list(parts), "additionalProperties": False}
        )
    schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
    return json.dumps(schema | ({"$defs": definitions} if definitions else {}), ensure_ascii=False)


class Answer(NamedTuple):
    """What an answer says, and what it calls."""

    content: str
    calls: list[dict[str, Any]]


def split_calls(answer: str) -> Answer:
    """An answer without its calls, and these. What is not a call, such as one that was cut, stays in the content."""
    calls, content, end = list[dict[str, Any]](), "", 0
    for block in BLOCK.finditer(answer):
        try:
            found = json.loads(block[1])
        except (ValueError, RecursionError):
            continue
        name, arguments = (
            (found.get("name"), found.get("arguments")) if isinstance(found, dict) else ("", None)
        )
        if isinstance(name, str) and name and isinstance(arguments, dict):
            function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
            calls.append({"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function})
            content, end = content + answer[end : block.start()], block.end()
    return Answer((content + answer[end:]).strip(), calls)


def before_calls(answer: str) -> str:
    """The part of an unfinished answer that surely comes before any call."""
    before, found, _ = answer.partition(MARK)
    if not found:
        begun = next((n for n in range(len(MARK) - 1, 0, -1) if answer.endswith(MARK[:n])), 0)
        before = answer[: len(answer) - begun]
    return before.rstrip()
