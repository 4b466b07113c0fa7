"""Log-probabilities of the answer's tokens in the words of the OpenAI API, for chat and for plain completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from s1.formats import ThinkingFormat
from s1.types import Engine, TokenLogprob

LEAST = -9999.0
"""What the OpenAI API gives for a probability of zero, because JSON has no infinity."""


class LogprobReport:
    """Reports the tokens of one answer as they come. `top`: how many of the likeliest are shown at each place."""

    def __init__(self, engine: Engine, fmt: ThinkingFormat, top: int) -> None:
        self._engine, self._fmt, self._top = engine, fmt, top
        self._before = engine.encode("a")[-1:]  # some tokenizers drop the space of the first token
        self._given, self._offset = 0, 0

    def new(
        self, found: Sequence[TokenLogprob], delimiter: str, answer: str, *, chat: bool
    ) -> dict[str, Any]:
        """Of `found`, all tokens so far, those that were not given yet.

        delimiter, answer: the text after the thinking so far, which says where the tokens begin in what is shown.
        """
        new, self._given = found[self._given :], len(found)
        if chat:
            return {"content": [self._chat_token(each) for each in new], "refusal": None}
        start = _answer_start(delimiter, answer, self._fmt)
        tokens, offsets = [self._text(each.token) for each in new], list[int]()
        for token in tokens:
            offsets.append(max(0, start + self._offset))
            self._offset += len(token)
        return {
            "tokens": tokens,
            "token_logprobs": [max(each.logprob, LEAST) for each in new],
            "top_logprobs": [{self._text(i): max(p, LEAST) for i, p in each.top[: self._top]} for each in new]
            if self._top
            else None,
            "text_offset": offsets,
        }

    def _chat_token(self, found: TokenLogprob) -> dict[str, Any]:
        top = [self._one(i, p) for i, p in found.top[: self._top]]
        return self._one(found.token, found.logprob) | {"top_logprobs": top}

    def _one(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._text(token)
        whole = "\ufffd" not in text  # else a part of a character
        return {
            "token": text,
            "logprob": max(logprob, LEAST),
            "bytes": list(text.encode()) if whole else None,
        }

    def _text(self, token: int) -> str:
        decode = self._engine.decode
        return decode((*self._before, token)).removeprefix(decode(self._before))


def _answer_start(delimiter: str, answer: str, fmt: ThinkingFormat) -> int:
    """Where the model's answer begins in the text that is shown, which is without the blanks at its ends."""
    before = delimiter.partition(fmt.close.strip())[2]
    shown = before + answer
    return len(before) - (len(shown) - len(shown.lstrip()))
