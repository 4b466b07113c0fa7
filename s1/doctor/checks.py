"""One check for each trap that can be seen without decoding. Every check is a function of facts alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from s1.doctor.model_facts import REPLY, THOUGHT, ModelFacts

Level = Literal["ok", "note", "problem"]
"""Fine, worth knowing, or not safe."""
SAMPLING_DEFAULTS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


class Finding(NamedTuple):
    """The result of one check: what was found, and what to do."""

    level: Level
    found: str
    todo: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report: a finding with the name of its check."""

    name: str
    level: Level
    found: str
    todo: str = ""


def ok(found: str) -> Finding:
    return Finding("ok", found)


def note(found: str, todo: str = "") -> Finding:
    return Finding("note", found, todo)


def problem(found: str, todo: str) -> Finding:
    return Finding("problem", found, todo)


def check_format(f: ModelFacts) -> Finding:
    return ok(f"{f.format.name}: {f.format.open!r} to {f.format.close!r} ({f.why})")


def check_opening(f: ModelFacts) -> Finding:
    """Who opens the block (trap: a missing think prefix), and whether the template closes it at once."""
    marker, close = f.format.open.strip(), f.format.close.strip()
    tail = f.prompt[f.prompt.rfind(f.question) + len(f.question) :] if f.question in f.prompt else f.prompt
    if close in tail:
        found = f"the chat template ends with {tail[-60:]!r}: it closes the block before the model begins"
        return problem(found, "Use the template's thinking mode, or another template.")
    if marker and f.prompt.rstrip().endswith(marker):
        return ok("the chat template opens the block in the prompt")
    if not marker:
        found = f"the format opens nothing and the prompt ends with {f.prompt[-40:]!r}"
        return note(found, "Make sure that thinking begins there.")
    return ok(f"the template stops before the block; s1 puts {f.format.open!r} into the prompt")


def check_delimiters(f: ModelFacts) -> Finding:
    if f.lost:
        found = f"{', '.join(map(repr, f.lost))} cannot be written with this vocabulary"
        return problem(found, "Name the right format with --format, or add the tokens and train them.")
    several = ", ".join(f"{s.text!r} is {len(s.ids)} tokens" for s in f.stops if len(s.ids) > 1)
    if several:
        found = f"{several}: found by ids and by text, and taken back before a minimum"
        return note(found, "Use a wait string to force a minimum; s1.budget_processor refuses this format.")
    return ok("each end of thinking is one token: " + ", ".join(repr(s.text) for s in f.stops))


def check_ends(f: ModelFacts) -> Finding:
    """Trap: the token that ends a turn in the template is not the one at which decoding stops."""
    texts = [s.text for s in f.eos_texts]
    stopping = f"decoding stops at {', '.join(texts)}"
    if not texts:
        found = "no end-of-turn token is known: answers run to their limit"
        return problem(found, "Set eos_token_id in generation_config.json.")
    if f.history and REPLY in f.history:
        after = f.history.rsplit(REPLY, 1)[1].strip()
        if not after.startswith(tuple(texts)):
            todo = "If answers run on, add the template's token to eos_token_id in generation_config.json."
            return note(f"the template ends a turn with {after[:30]!r}, {stopping}", todo)
    if f.eos is not None and f.eos not in texts:
        todo = "If answers run on, put both into eos_token_id of generation_config.json."
        return note(f"{stopping} (generation_config), but the tokenizer's EOS is {f.eos}", todo)
    return ok(stopping)


def check_close(f: ModelFacts) -> Finding:
    """Trap: the delimiter contains the end of turn, at which other programs stop."""
    inside = [s.text for s in f.eos_texts if len(s.ids) == 1 and s.ids[0] in f.close]
    if inside:
        found = f"the end delimiter contains the end of turn {inside[0]}"
        return note(found, "s1 continues after it; a plain generate() or server stops there.")
    return ok(f"the end delimiter, {f.format.close!r}, contains no end of turn")


def check_vocabulary(f: ModelFacts) -> Finding:
    """Trap: logits wider than the tokenizer give ids that crash when they are fed back."""
    size, logits = f.tokenizer_size, f.logits
    if size is None:
        return note("the sizes of tokenizer and logits are not visible through this engine")
    if logits is None:
        return note(f"{size} tokens; the number of logits is not visible, and ids beyond are never sent")
    if size > logits:
        todo = "Resize the embedding (model.resize_token_embeddings) and train the new tokens."
        return problem(f"the tokenizer has {size} tokens, the model only {logits}", todo)
    if logits > size:
        found = (
            f"{logits} logits for {size} tokens: {logits - size} padded ids, which s1 never draws or sends"
        )
        return note(found, "Mask them where you decode by other means.")
    return ok(f"{size} tokens, and as many logits")


def check_pad(f: ModelFacts) -> Finding:
    """Trap: a trainer that finds padding by its id never teaches an end of turn that is the same token."""
    if f.tokenizer_size is None:
        return note("not visible through this engine")
    if f.pad is None:
        todo = "Set one that is not the EOS before training with another program."
        return note("none; s1 needs none", todo)
    if f.pad == f.eos or f.pad in {s.text for s in f.eos_texts}:
        return note(
            f"{f.pad} is also an end of turn; s1 is not affected",
            "Set another before training with another program: one that masks padding by its id never "
            "teaches the model to stop.",
        )
    return ok(f"{f.pad}, not an end of turn")


def check_history(f: ModelFacts) -> Finding:
    """Trap: a template that drops past thinking changes the prefix under a continued request."""
    if f.history is None:
        return note("the chat template refuses a past turn of the assistant")
    if THOUGHT in f.history:
        return ok("the chat template keeps the thinking of past turns")
    todo = "Continue a request by token ids as s1 does; do not render its thinking again."
    return note("the chat template drops the thinking of past turns", todo)


def check_context(f: ModelFacts) -> Finding:
    room = f.context - f.prompt_tokens - len(f.close)
    if room < 64:
        found = f"{f.context} tokens, of which a short prompt leaves {room}"
        return problem(found, "Raise the engine's context.")
    found = f"{f.context} tokens; a prompt of {f.prompt_tokens} leaves {room} to think and answer"
    return note(found, "Keep budgets below that.") if room < 2048 else ok(found)


def check_defaults(f: ModelFacts) -> Finding:
    """Trap: generate() and servers apply the model's own sampling, so their results differ."""
    if given := ", ".join(f"{k} {f.defaults[k]}" for k in SAMPLING_DEFAULTS if k in f.defaults):
        found = f"generation_config sets {given}; s1 decodes greedily by default"
        return note(found, "Pass the model's own temperature where its card advises it.")
    return ok("generation_config sets no sampling")


CHECKS: Mapping[str, Callable[[ModelFacts], Finding]] = {
    "format": check_format,
    "opening": check_opening,
    "delimiters": check_delimiters,
    "end of turn": check_ends,
    "close": check_close,
    "vocabulary": check_vocabulary,
    "pad token": check_pad,
    "history": check_history,
    "context": check_context,
    "sampling": check_defaults,
}
BLOCKING = {"delimiters", "end of turn", "context"}
"""A problem with one of these makes probes impossible."""
