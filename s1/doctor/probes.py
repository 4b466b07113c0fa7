"""Short greedy requests whose generations show whether a maximum, a wait and a minimum bind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from s1.budget import Forcing
from s1.doctor.checks import Check, Finding, note, ok, problem
from s1.doctor.model_facts import ModelFacts
from s1.drive import drive
from s1.errors import S1Error, Unsupported
from s1.formats import ThinkingFormat
from s1.policy import BudgetPolicy
from s1.prompt import encode_prompt
from s1.types import Chunk, Continuation, Engine, Generation, Stop


@dataclass(frozen=True, slots=True)
class Probe:
    """One short request and its generation."""

    name: str
    generation: Generation


class _RecordedForcing(Forcing):
    """A request that records which stop ended its thinking."""

    by_rounds = True  # in one request the stop is not seen
    thinking_stop: Stop | None = None

    def feed(self, chunk: Chunk) -> bool:
        if chunk.finish and self.phase == "thinking":
            self.thinking_stop = chunk.stop
        return super().feed(chunk)


async def probe(engine: Engine, facts: ModelFacts, tokens: int = 64) -> tuple[list[Check], tuple[Probe, ...]]:
    """Checks from short greedy requests, and their generations.

    Where the model does not end its thinking within `tokens` tokens, the wait and the minimum are shown on a
    word that the model writes, in place of its delimiter.
    """
    probes: list[Probe] = []
    checks: list[Check] = []
    stopped: list[Stop | None] = []

    def add(name: str, finding: Finding) -> None:
        checks.append(Check(name, *finding))

    async def think(name: str, policy: BudgetPolicy, fmt: ThinkingFormat = facts.format) -> Generation | None:
        """The generation, or None and a check where it failed."""
        try:
            machine = _RecordedForcing(encode_prompt(engine, fmt, policy, facts.prompt))
            found = await drive(machine, engine, name)
        except S1Error as error:
            is_optional = name == "minimum" and isinstance(error, Unsupported)
            add(name, Finding("note" if is_optional else "problem", error.message, error.hint))
            return None
        probes.append(Probe(name, found))
        stopped.append(machine.thinking_stop)
        if found.error:
            add(name, problem(found.error, "Fix the engine, then rerun the command."))
            return None
        return found

    ends = ", ".join(s.text for s in facts.eos_texts)
    add("end in thinking", ok(f"{ends} inside thinking ends the thinking, and an answer follows"))
    if not facts.prompt.rstrip().endswith(facts.format.open.strip()):
        add("bare prompt", await _continue_bare_prompt(engine, facts))
    tokens = max(8, min(tokens, facts.context - facts.prompt_tokens - 64))
    natural = await think("natural", BudgetPolicy(max_thinking=tokens, max_answer=16))
    if natural is None:
        return checks, tuple(probes)
    ids = _thought(natural)
    add("natural", judge_natural(natural, stopped[0], facts))

    # A model that ends at once is held in its thinking up to the limit, so that the limit has something to cut.
    limit, least = (min(16, len(ids) // 2), 0) if len(ids) >= 4 else (8, 8)
    policy = BudgetPolicy(max_thinking=limit, min_thinking=least, wait=("",), max_answer=16)
    if (found := await think("maximum", policy)) is not None:
        add("maximum", judge_maximum(found, limit))
        add("answer", judge_answer(found))
        if not least:
            add("repeatable", judge_repeat(found, ids[:limit]))

    fmt, end, shown = facts.format, len(ids), ""
    if natural.cut:
        stand_in = find_stand_in(ids, engine.encode, engine.decode)
        if stand_in is None:
            found_nothing = (
                f"the model did not end in {tokens} tokens and wrote no word to use as its delimiter"
            )
            add("wait", problem(found_nothing, "Give another --question or a higher --max-thinking."))
            return checks, tuple(probes)
        end, word = stand_in
        fmt = replace(facts.format, stops=(word,))
        shown = f", shown on the word {word!r} in place of the delimiter"
    wait = engine.encode("Wait")
    policy = BudgetPolicy(max_thinking=end + len(wait) + 8, waits=1, max_answer=4)
    if (found := await think("wait", policy, fmt)) is not None:
        add("wait", judge_wait(found, end, wait, shown))
    least = end + 4
    policy = BudgetPolicy(max_thinking=least + 8, min_thinking=least, wait=("",), max_answer=4)
    if (found := await think("minimum", policy, fmt)) is not None:
        add("minimum", judge_minimum(found, end, least, shown))
    return checks, tuple(probes)


async def _continue_bare_prompt(engine: Engine, facts: ModelFacts) -> Finding:
    """What the model does with the bare prompt: some open the block themselves, others never think."""
    ids: list[int] = []
    request = Continuation(engine.encode(facts.prompt), 8, facts.eos_texts)  # some servers end there anyway
    try:
        async with aclosing(engine.stream(request)) as chunks:
            async for chunk in chunks:
                ids += chunk.ids
    except S1Error as error:
        return problem(error.message, error.hint)
    begins = engine.decode(ids)
    if begins.lstrip().startswith(facts.format.open.strip()):
        return ok("the model opens the block itself; s1 opens it in the prompt, so that it is never skipped")
    found = f"without {facts.format.open!r} the model does not open the block (it begins {begins[:24]!r})"
    return note(found, "s1 puts it there; elsewhere append it to every prompt.")


def find_stand_in(
    ids: Sequence[int], encode: Callable[[str], tuple[int, ...]], decode: Callable[[Sequence[int]], str]
) -> tuple[int, str] | None:
    """A word of `ids` to use as a delimiter: how many tokens come before it, and its text."""
    for at in range(2, len(ids)):
        word = decode(ids[at : at + 1])
        if word.strip() and encode(word) == (ids[at],) and word.strip() not in decode(ids[:at]):
            return at, word
    return None


def _thought(found: Generation) -> tuple[int, ...]:
    """The thinking that the model wrote, in ids."""
    return tuple(i for s in found.segments if s.phase == "thinking" and s.by == "model" for i in s.token_ids)


def judge_natural(found: Generation, stop: Stop | None, facts: ModelFacts) -> Finding:
    text = found.text_of("thinking")
    if passed := [s for s in facts.format.stops if s in text]:
        return problem(
            f"the model wrote {passed[0]!r} and its thinking continued: the engine does not stop there",
            "Check that the server supports stop strings and shows special tokens.",
        )
    if found.cut:
        return ok(f"thinks past {found.thinking_tokens} tokens without a budget")
    ended = f"ends its thinking by itself after {found.thinking_tokens} tokens"
    if stop is not None and stop.text in {s.text for s in facts.eos_texts} - set(facts.format.stops):
        todo = "s1 closes the block and gets an answer; elsewhere the answer is empty."
        return note(f"{ended}, by {stop.text} and not by the delimiter", todo)
    if found.thinking_tokens == 0:
        return note(ended, "Perhaps this model was not trained to think; try another --question.")
    return ok(ended)


def judge_maximum(found: Generation, limit: int) -> Finding:
    """The cut must be at the limit, with the delimiter forced right after it."""
    after = next((s for s in found.segments if s.phase == "delimiter"), None)
    if found.cut and found.thinking_tokens == limit and after is not None and after.by == "forced":
        return ok(f"a limit of {limit} cut the thinking at {found.thinking_tokens} tokens")
    gave = f"a limit of {limit} gave {found.thinking_tokens} thinking tokens (cut: {found.cut})"
    return problem(gave, "Do not use this engine for budgets; report it with --json.")


def judge_repeat(found: Generation, wanted: tuple[int, ...]) -> Finding:
    """Greedy decoding must think the same under a smaller limit."""
    thought = _thought(found)
    if thought == wanted:
        return ok("the same tokens again under another limit")
    at = next((n for n, (a, b) in enumerate(zip(thought, wanted, strict=False)) if a != b), len(thought))
    differed = f"a repeated greedy request gave other tokens from token {at}"
    return note(differed, "Do not compare policies of this engine question by question.")


def judge_answer(found: Generation) -> Finding:
    """Trap: an empty answer after a forced cut."""
    if found.answer:
        return ok(f"after the cut an answer follows: {' '.join(found.answer.split())[:40]!r}")
    return note("the answer after the cut was empty", "Try cue always, or another cue.")


def judge_wait(found: Generation, end: int, wait: tuple[int, ...], shown: str) -> Finding:
    """The wait must be forced where the model wanted to end, and the thinking must continue after it."""
    thinking = [s for s in found.segments if s.phase == "thinking"]
    before = sum(len(s.token_ids) for s in thinking[:1] if s.by == "model")
    at = next((n for n, s in enumerate(thinking) if s.by == "forced"), None)
    more = 0 if at is None else sum(len(s.token_ids) for s in thinking[at + 1 :])
    if found.waits == 1 and at is not None and thinking[at].token_ids == wait and more:
        where = "" if before == end else f" (at {before}, not {end})"
        return ok(f"a wait was appended after {before} tokens{where}, {more} more followed{shown}")
    gave = f"{found.waits} of 1 waits were appended, {found.thinking_tokens} thinking tokens in all{shown}"
    return problem(gave, "The engine does not stop at the delimiter or does not continue: check the format.")


def judge_minimum(found: Generation, end: int, least: int, shown: str) -> Finding:
    tokens = found.thinking_tokens
    if tokens >= least:
        return ok(f"an end after {end} tokens was held back to {tokens} (minimum {least}){shown}")
    gave = f"a minimum of {least} gave {tokens} thinking tokens{shown}"
    return problem(gave, "The engine ignores min_tokens: set a minimum with a wait string only.")
