"""Chat completions as servers send them, read into a `ModelReply`: whole or streamed, thinking in any shape.

Thinking comes as a field of its own (`reasoning_content`, `reasoning`), as parts of the content with a type
("thinking", "reasoning"), or in tags at the head of the text (`<think>`, `<thought>`, also without the
opening one where the chat template wrote it). What is no whole reply raises `Broken`.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

from s1.clients.call_cache import ModelReply

REASONING_FIELDS = ("reasoning_content", "reasoning")
THINKING_PARTS = frozenset({"thinking", "reasoning", "reasoning_text"})
TAGS = re.compile(r"^\s*<(think|thought|thinking)>", re.I)
CLOSES = re.compile(r"</(think|thought|thinking)>", re.I)


class Broken(Exception):
    """A try that gave no usable reply. `received` bounds the tokens that had come from above."""

    def __init__(self, why: str, *, retry_after: float | None = None, received: int = 0) -> None:
        super().__init__(why)
        self.retry_after, self.received = retry_after, received


def split_thinking(text: str) -> tuple[str, str]:
    """Thinking and answer of a text with tags; ("", text) where there are none.

    >>> split_thinking("<think>2 and 2</think>It is 4.")
    ('2 and 2', 'It is 4.')
    """
    opened, closed = TAGS.search(text), CLOSES.search(text)
    if closed:
        start = opened.end() if opened and opened.end() <= closed.start() else 0
        return text[start : closed.start()].strip(), text[closed.end() :].strip()
    if opened:
        return text[opened.end() :].strip(), ""  # cut while thinking
    return "", text.strip()


def message_texts(message: Mapping[str, Any]) -> tuple[str, str]:
    """The thinking and the text of one message or delta, as they stand, tags not yet split."""
    thinking = ""
    for name in REASONING_FIELDS:
        if isinstance(message.get(name), str) and message[name]:
            thinking = message[name]
            break
    content = message.get("content")
    if isinstance(content, str):
        return thinking, content
    text = ""
    for part in content if isinstance(content, list) else ():
        if isinstance(part, Mapping):
            kind = part.get("type")
            inner = part.get(kind) if isinstance(kind, str) and kind in part else part.get("text")
            if isinstance(inner, list):  # parts inside a thinking part
                inner = "".join(p.get("text", "") for p in inner if isinstance(p, Mapping))
            if isinstance(inner, str):
                if kind in THINKING_PARTS:
                    thinking += inner
                else:
                    text += inner
    return thinking, text


def read_json(body: bytes) -> ModelReply:
    """The reply in the body of a plain response. Raises Broken."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        raise Broken("the reply is no JSON", received=len(body)) from None
    choice = _choice(data, len(body))
    message = choice.get("message")
    if not isinstance(message, Mapping):
        raise Broken("the reply has no message", received=len(body))
    thinking, text = message_texts(message)
    return _reply(thinking, text, choice.get("finish_reason"), data.get("usage"), len(body))


async def read_stream(lines: AsyncIterator[str]) -> ModelReply:
    """The reply of a server-sent event stream. Raises Broken, also when it ends before it says how."""
    thinking, text = list[str](), list[str]()
    finish: Any = None
    usage: Any = None
    received = 0
    try:
        async for line in lines:
            if not line.startswith("data:"):
                continue
            data = line[5:].strip()
            if data == "[DONE]":
                break
            received += len(data.encode())
            event = _event(data, received)
            usage = event.get("usage") or usage
            for choice in event.get("choices") or ():
                if isinstance(choice, Mapping):
                    delta = choice.get("delta")
                    more = message_texts(delta) if isinstance(delta, Mapping) else ("", "")
                    thinking.append(more[0])
                    text.append(more[1])
                    finish = choice.get("finish_reason") or finish
    except Broken:
        raise
    except Exception as error:  # what the HTTP library raises; the caller knows no count of bytes
        raise Broken(f"the stream broke ({type(error).__name__})", received=received) from error
    if finish is None:
        raise Broken("the stream ended early", received=received)
    return _reply("".join(thinking), "".join(text), finish, usage, received)


def _event(data: str, received: int) -> Mapping[str, Any]:
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        raise Broken("an event of the stream is no JSON", received=received) from None
    if not isinstance(event, Mapping):
        raise Broken("an event of the stream is no object", received=received)
    if event.get("error"):
        raise Broken(f"the stream says: {json.dumps(event['error'])[:200]}", received=received)
    return event


def _choice(data: Any, received: int) -> Mapping[str, Any]:
    choices = data.get("choices") if isinstance(data, Mapping) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        said = json.dumps(data.get("error"))[:200] if isinstance(data, Mapping) else ""
        raise Broken("the reply has no choices" + (f": {said}" if said else ""), received=received)
    return choices[0]


def _reply(thinking: str, text: str, finish: Any, usage: Any, received: int) -> ModelReply:
    thinking = thinking.strip()
    if thinking:
        answer = text.strip()
    else:
        thinking, answer = split_thinking(text)
    if not thinking and not answer and finish not in ("length", "content_filter"):
        raise Broken("the reply is empty", received=received)
    tokens_in, tokens_out, exact = 0, received, False
    if isinstance(usage, Mapping):
        counted_in, counted_out, total = (
            usage.get(k) for k in ("prompt_tokens", "completion_tokens", "total_tokens")
        )
        if isinstance(counted_in, int) and isinstance(counted_out, int):
            # Some servers leave thinking out of completion_tokens but not out of the total.
            if isinstance(total, int):
                counted_out = max(counted_out, total - counted_in)
            tokens_in, tokens_out, exact = counted_in, counted_out, True
    return ModelReply(thinking, answer, str(finish), tokens_in, tokens_out, exact=exact)
