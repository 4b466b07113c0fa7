"""What must be proved: short greedy requests whose receipts show whether a maximum, a wait and a minimum bind."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, cast

from s1.budget import Forcing, drive
from s1.doctor.facts import Check, Facts, Level
from s1.errors import S1Error, Unsupported
from s1.formats import ThinkingFormat
from s1.policy import BudgetPolicy
from s1.prompt import EncodedPrompt, encode_prompt
from s1.types import Chunk, Continuation, Engine, Generation, Stop


@dataclass(frozen=True, slots=True)
class Probe:
    """One short request and its receipt."""

    name: str
    receipt: Generation


class _Listening:
    """An engine around an engine that notes by which stop each continuation ended."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.stopped: list[Stop | None] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def stream(self, ask: Continuation) -> AsyncGenerator[Chunk, None]:
        async with aclosing(self._engine.stream(ask)) as chunks:
            async for chunk in chunks:
                if chunk.finish:
                    self.stopped.append(chunk.stop)
                yield chunk


async def probe(engine: Engine, facts: Facts, tokens: int = 64) -> tuple[list[Check], tuple[Probe, ...]]:
    """Short greedy requests that show whether forcing binds, with their receipts.

    Where the model does not end its thinking in `tokens` tokens, the wait and the minimum are shown on a stand-in:
    a word that the model is seen to say takes the place of its delimiter.
    """
    listening = _Listening(engine)
    probes: list[Probe] = []
    encoded = encode_prompt(engine, facts.format, BudgetPolicy(max_thinking=8, max_answer=8), facts.prompt)
    checks: list[Check] = [check_end_in_thinking(encoded, facts)]

    async def think(name: str, policy: BudgetPolicy, fmt: ThinkingFormat) -> Generation | None:
        """The receipt, or None and a check where it failed."""
        try:
            encoded = encode_prompt(cast(Engine, listening), fmt, policy, facts.prompt)
            receipt = await drive(Forcing(encoded), cast(Engine, listening), name)
        except S1Error as error:
            unasked = name == "minimum" and isinstance(error, Unsupported)
            level: Level = "note" if unasked else "problem"
            checks.append(Check(name, level, error.message, error.hint))
            return None
        probes.append(Probe(name, receipt))
        if receipt.error:
            checks.append(Check(name, "problem", receipt.error, "Mend the engine, then ask again."))
            return None
        return receipt

    if not facts.prompt.rstrip().endswith(facts.format.open.strip()):
        checks.append(await _unopened(engine, facts))
    room = facts.context - facts.prompt_tokens - 64
    tokens = max(8, min(tokens, room))
    natural = await think("natural", BudgetPolicy(max_thinking=tokens, max_answer=16), facts.format)
    if natural is None:
        return checks, tuple(probes)
    ids = _thought(natural)
    checks.append(judge_natural(natural, listening.stopped[0], facts))

    # A model that ends at once is held in its thinking up to the limit, so that the limit has something to cut.
    limit, least = (min(16, len(ids) // 2), 0) if len(ids) >= 4 else (8, 8)
    policy = BudgetPolicy(max_thinking=limit, min_thinking=least, wait=("",), max_answer=16)
    receipt = await think("maximum", policy, facts.format)
    if receipt is not None:
        checks += [judge_maximum(receipt, limit), judge_answer(receipt)]
        if not least:
            checks.append(judge_repeat(receipt, ids[:limit]))

    stand_in = (len(ids), None) if not natural.cut else find_stand_in(ids, engine.encode, engine.decode)
    if stand_in is None:
        said = (
            f"the model did not end in {tokens} tokens and said nothing that could stand in for its delimiter"
        )
        checks.append(Check("wait", "problem", said, "Give another --question or more --tokens."))
        return checks, tuple(probes)
    end, word = stand_in
    fmt = facts.format if word is None else replace(facts.format, stops=(word,))
    shown = "" if word is None else f", shown on the word {word!r} in place of the delimiter"
    wait = engine.encode("Wait")
    policy = BudgetPolicy(max_thinking=end + len(wait) + 8, waits=1, max_answer=4)
    receipt = await think("wait", policy, fmt)
    if receipt is not None:
        checks.append(judge_wait(receipt, end, wait, shown))
    least = end + 4
    policy = BudgetPolicy(max_thinking=least + 8, min_thinking=least, wait=("",), max_answer=4)
    receipt = await think("minimum", policy, fmt)
    if receipt is not None:
        checks.append(judge_minimum(receipt, end, least, shown))
    return checks, tuple(probes)


def check_end_in_thinking(encoded: EncodedPrompt, facts: Facts) -> Check:
    """Trap: an end of turn inside thinking must end the thinking, not the request. Walks the machine by hand."""
    for end in encoded.answer_stops:
        request = Forcing(encoded)
        request.ask()
        request.feed(Chunk((), "stop", end))
        following = request.ask()
        if end not in encoded.stops or request.phase != "answer" or following is None:
            found = f"{end.text} inside thinking ends the request without an answer"
            return Check("end in thinking", "problem", found, "Report it: this is a mistake in s1.")
    told = ", ".join(s.text for s in facts.eos_texts)
    return Check("end in thinking", "ok", f"{told} inside thinking ends the thinking, and an answer follows")


async def _unopened(engine: Engine, facts: Facts) -> Check:
    """What the model does with the bare prompt: some open the block themselves, others never think."""
    ids: list[int] = []
    ask = Continuation(engine.encode(facts.prompt), 8, facts.eos_texts)  # some servers end there anyway
    try:
        async with aclosing(engine.stream(ask)) as chunks:
            async for chunk in chunks:
                ids += chunk.ids
    except S1Error as error:
        return Check("bare prompt", "problem", error.message, error.hint)
    begins = engine.decode(ids)
    if begins.lstrip().startswith(facts.format.open.strip()):
        found = "the model opens the block itself; s1 opens it in the prompt, so that it is never skipped"
        return Check("bare prompt", "ok", found)
    found = f"without {facts.format.open!r} the model does not open the block (it begins {begins[:24]!r})"
    return Check("bare prompt", "note", found, "s1 puts it there; elsewhere append it to every prompt.")


def find_stand_in(
    ids: Sequence[int], encode: Callable[[str], tuple[int, ...]], decode: Callable[[Sequence[int]], str]
) -> tuple[int, str] | None:
    """A token of `ids` that can play a delimiter: how many come before it, and its text. None where none can."""
    for at in range(2, len(ids)):
        word = decode(ids[at : at + 1])
        if word.strip() and encode(word) == (ids[at],) and word.strip() not in decode(ids[:at]):
            return at, word
    return None


def _thought(receipt: Generation) -> tuple[int, ...]:
    """The thinking that the model wrote, in ids."""
    return tuple(
        i for s in receipt.segments if s.phase == "thinking" and s.by == "model" for i in s.token_ids
    )


def judge_natural(receipt: Generation, stop: Stop | None, facts: Facts) -> Check:
    text = "".join(s.text for s in receipt.segments if s.phase == "thinking")
    passed = [s for s in facts.format.stops if s in text]
    if passed:
        return Check(
            "natural",
            "problem",
            f"the model said {passed[0]!r} and its thinking went on: the engine does not stop there",
            "Check that the server honours stop strings and shows special tokens.",
        )
    if receipt.cut:
        return Check("natural", "ok", f"thinks past {receipt.thinking_tokens} tokens when left alone")
    found = f"ends its thinking by itself after {receipt.thinking_tokens} tokens"
    if stop is not None and stop.text in {s.text for s in facts.eos_texts} - set(facts.format.stops):
        return Check(
            "natural",
            "note",
            f"{found}, by {stop.text} and not by the delimiter",
            "s1 closes the block and gets an answer; elsewhere the answer is empty.",
        )
    if receipt.thinking_tokens == 0:
        return Check(
            "natural", "note", found, "Perhaps this model was not trained to think; try another --question."
        )
    return Check("natural", "ok", found)


def judge_maximum(receipt: Generation, limit: int) -> Check:
    """The cut must be where it was set, and the delimiter forced right after it."""
    after = next((s for s in receipt.segments if s.phase == "answer"), None)
    forced = after is not None and after.by == "forced"
    if receipt.cut and receipt.thinking_tokens == limit and forced:
        return Check(
            "maximum", "ok", f"a limit of {limit} cut the thinking at {receipt.thinking_tokens} tokens"
        )
    return Check(
        "maximum",
        "problem",
        f"a limit of {limit} gave {receipt.thinking_tokens} thinking tokens (cut: {receipt.cut})",
        "Do not use this engine for budgets; report it with --json.",
    )


def judge_repeat(receipt: Generation, wanted: tuple[int, ...]) -> Check:
    """Greedy decoding must think the same under a smaller limit."""
    thought = _thought(receipt)
    if thought == wanted:
        return Check("repeatable", "ok", "the same tokens again under another limit")
    at = next((n for n, (a, b) in enumerate(zip(thought, wanted, strict=False)) if a != b), len(thought))
    found = f"greedy decoding gave other tokens from token {at} on when asked again"
    return Check("repeatable", "note", found, "Do not compare policies of this engine question by question.")


def judge_answer(receipt: Generation) -> Check:
    """Trap: an empty answer after a forced cut."""
    text = "".join(s.text for s in receipt.segments if s.phase == "answer" and s.by == "model")
    if text.strip():
        return Check("answer", "ok", f"after the cut an answer follows: {' '.join(text.split())[:40]!r}")
    return Check("answer", "note", "the answer after the cut was empty", "Try cue always, or another cue.")


def judge_wait(receipt: Generation, end: int, wait: tuple[int, ...], shown: str) -> Check:
    """The wait must stand where the model wanted to end, owned by the forcing, and thinking must go on."""
    thinking = [s for s in receipt.segments if s.phase == "thinking"]
    before = sum(len(s.token_ids) for s in thinking[:1] if s.by == "model")
    at = next((n for n, s in enumerate(thinking) if s.by == "forced"), None)
    if receipt.waits == 1 and at is not None and thinking[at].token_ids == wait:
        more = sum(len(s.token_ids) for s in thinking[at + 1 :])
        if more:
            where = "" if before == end else f" (at {before}, not {end})"
            return Check(
                "wait", "ok", f"a wait was appended after {before} tokens{where}, {more} more came{shown}"
            )
    return Check(
        "wait",
        "problem",
        f"{receipt.waits} waits of 1 were appended, {receipt.thinking_tokens} thinking tokens in all{shown}",
        "The engine does not stop at the delimiter or goes no further: check the format.",
    )


def judge_minimum(receipt: Generation, end: int, least: int, shown: str) -> Check:
    if receipt.thinking_tokens >= least:
        found = (
            f"an end after {end} tokens was held back to {receipt.thinking_tokens} (minimum {least}){shown}"
        )
        return Check("minimum", "ok", found)
    return Check(
        "minimum",
        "problem",
        f"a minimum of {least} gave {receipt.thinking_tokens} thinking tokens{shown}",
        "The engine ignores min_tokens: set a minimum with a wait string only.",
    )
