"""What the engines that decode elsewhere check and derive before they pass an ask on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from s1.errors import BadInput
from s1.types import Continuation


def check_request(ask: Continuation, *, context: int, tokens: int | None) -> None:
    """Raises BadInput for an ask that no engine could serve. `tokens`: size of the vocabulary, if known."""
    if not ask.prefix:
        raise BadInput("The prefix is empty.", "Give at least one token.")
    stop_ids = [i for stop in ask.stops for i in stop.ids]
    for what, ids in (("the prefix", ask.prefix), ("a stop", stop_ids)):
        if ids and (min(ids) < 0 or (tokens is not None and max(ids) >= tokens)):
            wrong = next(i for i in ids if i < 0 or (tokens is not None and i >= tokens))
            raise BadInput(
                f"Token id {wrong} of {what} is not in the vocabulary of {tokens}.",
                "Ids beyond it are padding of the embedding, which servers refuse.",
            )
    if ask.max_tokens < 0 or not 0 <= ask.min_tokens <= ask.max_tokens:
        raise BadInput(
            f"max_tokens {ask.max_tokens} and min_tokens {ask.min_tokens} contradict each other.",
            "Use 0 <= min_tokens <= max_tokens.",
        )
    if len(ask.prefix) + ask.max_tokens > context:
        raise BadInput(
            f"A prefix of {len(ask.prefix)} tokens and {ask.max_tokens} more exceed the context of {context}.",
            f"Ask for at most {max(0, context - len(ask.prefix))} tokens or shorten the prefix.",
        )


def seed_at(seed: int | None, position: int) -> int | None:
    """The seed for a continuation that begins at `position`, below 2**31.

    A server starts its random numbers anew with each request. With one seed for every continuation of a
    sample, what follows a wait would be drawn with the numbers that drew the beginning.
    """
    if seed is None:
        return None
    return int.from_bytes(hashlib.sha256(f"{seed} {position}".encode()).digest()[:4]) >> 1


def single_ids(ask: Continuation) -> list[int]:
    """The stops that are one token."""
    return sorted({stop.ids[0] for stop in ask.stops if len(stop.ids) == 1})


def valid_count(ids: Sequence[int], tokens: int | None) -> int:
    """How many of `ids` come before the first that only pads the embedding."""
    if tokens is None:
        return len(ids)
    return next((n for n, i in enumerate(ids) if not 0 <= i < tokens), len(ids))
