"""Chat completions as servers send them, read into a `ModelReply`: whole or streamed, thinking in any shape.

Thinking comes in a field of its own (`reasoning_content`, `reasoning`), in typed parts of the content ("thinking",
"reasoning"), or in tags at the beginning of the text (`<think>`, `<thought>`; the opening tag is missing where the
chat template wrote it). Anything that is not a whole reply raises `RequestFailure`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

from s1.clients.call_cache import ModelReply
from s1.clients.http import Event, RequestFailure
from s1.terminal import valid_text

REASONING_FIELDS = ("reasoning_content", "reasoning")
THINKING_PARTS = frozenset({"thinking", "reasoning", "reasoning_text"})
OPENING_TAG = re.compile(r"^\s*<(think|thought|thinking)>", re.I)
CLOSING_TAG = re.compile(r"</(think|thought|thinking)>", re.I)


def split_thinking(text: str) -> tuple[str, str]:
    """The thinking and the answer of a text with tags; ("", text) where there are none.

    >>> split_thinking("<think>2 and 2</think>It is 4.")
    ('2 and 2', 'It is 4.')
    """
    opened, closed = OPENING_TAG.search(text), CLOSING_TAG.search(text)
    if closed:
        start = opened.end() if opened and opened.end() <= closed.start() else 0
        return text[start : closed.start()].strip(), text[closed.end() :].strip()
    if opened:
        return text[opened.end() :].strip(), ""  # cut off while thinking
    return "", text.strip()


def message_texts(message: Mapping[str, Any]) -> tuple[str, str]:
    """The thinking and the text of one message or delta, with any tags still in the text."""
    fields = (message.get(name) for name in REASONING_FIELDS)
    thinking = next((value for value in fields if isinstance(value, str) and value), "")
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


async def read_reply(events: AsyncIterator[Event], most: tuple[int, int]) -> ModelReply:
    """The reply that the events of one request make up, without its cost and time.

    most: prompt and completion tokens that the request allows. They stand in for counts that cannot be true.

    Raises RequestFailure where an event has no known shape, the reply is empty, or no event says how it ended.
    """
    thoughts, texts = list[str](), list[str]()
    finish: Any = None
    usage: Any = None
    received = 0
    async for data, received in events:  # noqa: B007
        if not isinstance(data, Mapping) or data.get("error"):
            raise RequestFailure(f"the server sent {str(data)[:200]}", received=received)
        usage = data.get("usage") or usage
        for choice in data.get("choices") or ():
            if isinstance(choice, Mapping):
                message = choice.get("message") or choice.get("delta")
                if isinstance(message, Mapping):
                    thinking, text = message_texts(message)
                    thoughts.append(thinking)
                    texts.append(text)
                finish = choice.get("finish_reason") or finish or ("stop" if "message" in choice else None)
    if finish is None:
        raise RequestFailure("the reply ended early", received=received)
    thinking, answer = (valid_text("".join(parts)).strip() for parts in (thoughts, texts))
    if not thinking:
        thinking, answer = split_thinking(answer)
    if not thinking and not answer and finish not in ("length", "content_filter"):
        raise RequestFailure("the reply is empty", received=received)
    tokens = _counted(usage)
    if tokens is not None and not _possible(tokens, most, 1 if thinking or answer else 0):
        return ModelReply(thinking, answer, str(finish), *most, exact=False)
    if tokens is None:  # a token is at least one byte
        return ModelReply(thinking, answer, str(finish), 0, received, exact=False)
    return ModelReply(thinking, answer, str(finish), *tokens)


def _counted(usage: Any) -> tuple[Any, Any] | None:
    """Prompt and completion tokens as the server counted them, not checked; None where it counted nothing."""
    if not isinstance(usage, Mapping):
        return None
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    tokens_in, tokens_out, total = (usage.get(name) for name in names)
    if tokens_in is None or tokens_out is None:
        return None
    # Some servers leave thinking out of completion_tokens but not out of the total.
    if all(type(n) is int for n in (tokens_in, tokens_out, total)) and tokens_in >= 0 and tokens_out >= 0:
        tokens_out = max(tokens_out, total - tokens_in)
    return (tokens_in, tokens_out) if tokens_in or tokens_out else None


def _possible(tokens: tuple[Any, Any], most: tuple[int, int], fewest_out: int) -> bool:
    """Whether a server's counts are whole numbers within what the request allows."""
    pairs = zip(tokens, (0, fewest_out), most, strict=True)
    return all(type(number) is int and low <= number <= high for number, low, high in pairs)
