"""The rounds of the paper's code as plain lists and loops: an oracle for the `official` profile.

Written from a description of that code and of nothing else, to be compared with `Forcing` token for token.
Where the description is silent, the oracle assumes:
- A newline is missing before the delimiter when the text of all rounds, as it was before the cut to the
  limit, does not end with one; an empty text does not end with one (the paper's code breaks on it).
- The context is large enough.
- In the answer the end of turn alone is a stop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Ids = list[int]
Generate = Callable[[Ids, int, Sequence[str], int], tuple[Ids, str]]
"""(prefix, max_tokens, stops, min_tokens) -> (ids without the stop, "stop" or "length")"""


def official_ids(
    generate: Generate,
    encode: Callable[[str], Sequence[int]],
    decode: Callable[[Sequence[int]], str],
    *,
    prompt: str,
    thinking_start: str,
    thinking_end: str,
    until_thinking: str,
    end_of_turn: str,
    max_tokens_thinking: int,
    max_gen_toks: int,
    n_ignore: int = 0,
    ignore_str: str = "",
) -> Ids:
    """Prompt, thinking, end delimiter and answer in ids."""
    start = list(encode(prompt)) + list(encode(thinking_start))
    stops = [until_thinking, end_of_turn]
    thinking: Ids = []
    reason = ""
    if n_ignore == 0:
        thinking, reason = generate(start, max_tokens_thinking, stops, 0)
    for number in range(n_ignore + 1 if n_ignore else 0):
        more, reason = generate(start + thinking, max_tokens_thinking, stops, 1)
        thinking = thinking + more
        if reason == "length":
            break
        if number == n_ignore:
            break
        thinking = thinking + list(encode(ignore_str))
    text = decode(thinking)
    if len(thinking) > max_tokens_thinking:
        thinking = thinking[:max_tokens_thinking]
    if reason == "length":
        newline = "" if text.endswith("\n") else "\n"
        closing = newline + thinking_end + "\nFinal Answer:"
    else:
        closing = thinking_end
    so_far = start + thinking + list(encode(closing))
    answer, _ = generate(so_far, max_gen_toks, [end_of_turn], 0)
    return so_far + answer
