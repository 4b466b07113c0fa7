"""What can be read of a model without decoding, and one check for each trap in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from s1.formats import ThinkingFormat, as_stops, choose_format, detect, format_of_folder, open_prompt
from s1.types import Engine, Stop

Level = Literal["ok", "note", "problem"]
QUESTION = "What is 2 + 2?"
THOUGHT, REPLY = "We add them.", "It is four."
"""A past turn, to see what the template makes of it."""
SAMPLING_DEFAULTS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report."""

    name: str
    level: Level
    found: str
    todo: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What can be known of a model before it decodes. None or empty: not visible from here."""

    format: ThinkingFormat
    why: str
    question: str
    prompt: str
    """The question rendered, up to where the assistant begins."""
    prompt_tokens: int
    stops: tuple[Stop, ...]
    """The delimiters that end thinking."""
    close: tuple[int, ...]
    eos_texts: tuple[Stop, ...]
    """The end-of-turn tokens."""
    context: int
    lost: tuple[str, ...] = ()
    """Delimiters that do not survive encoding and decoding."""
    history: str | None = None
    """A past turn with its thinking and a next question, rendered; None where the template refuses it."""
    tokenizer_size: int | None = None
    logits: int | None = None
    eos: str | None = None
    pad: str | None = None
    has_tokenizer: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """generation_config as far as it is set."""


def gather(engine: Engine, format: str | None = None, question: str = QUESTION) -> Facts:
    """The facts of `engine`. Raises BadConfig or BadInput where there is no format or no chat template."""
    fmt = choose_format(engine, format)
    prompt = engine.render([{"role": "user", "content": question}])
    past = f"{fmt.open}{THOUGHT}{fmt.close}{REPLY}"
    turns = [("user", question), ("assistant", past), ("user", "And then?")]
    try:
        history: str | None = engine.render([{"role": r, "content": c} for r, c in turns])
    except Exception:  # templates refuse with errors of their own kinds
        history = None
    marks = [m for m in (fmt.open.strip(), fmt.close.strip(), *fmt.stops, fmt.cue) if m]
    tokenizer: Any = getattr(engine, "tokenizer", None)
    model: Any = getattr(engine, "model", None)
    if hasattr(model, "config"):
        config, defaults = model.config.to_dict(), model.generation_config.to_diff_dict()
    else:
        config, defaults = _json(engine, "config.json"), _json(engine, "generation_config.json")
    return Facts(
        format=fmt,
        why=_why(engine, fmt, format),
        question=question,
        prompt=prompt,
        prompt_tokens=len(engine.encode(open_prompt(prompt, fmt))),
        stops=as_stops(fmt.stops, engine.encode),
        close=engine.encode(fmt.close),
        eos_texts=as_stops(engine.eos_texts, engine.encode),
        context=engine.context,
        lost=tuple(dict.fromkeys(m for m in marks if engine.decode(engine.encode(m)).strip() != m.strip())),
        history=history,
        tokenizer_size=None if tokenizer is None else len(tokenizer),
        logits=getattr(engine, "logits", None) or (config.get("text_config") or config).get("vocab_size"),
        eos=getattr(tokenizer, "eos_token", None),
        pad=getattr(tokenizer, "pad_token", None),
        has_tokenizer=tokenizer is not None,
        defaults={k: v for k, v in defaults.items() if v is not None},
    )


def _json(engine: Engine, name: str) -> dict[str, Any]:
    file = engine.folder / name if engine.folder else None
    return json.loads(file.read_text(encoding="utf-8")) if file and file.is_file() else {}


def _why(engine: Engine, fmt: ThinkingFormat, named: str | None) -> str:
    if named is not None:
        return "named by you"
    if engine.folder and format_of_folder(engine.folder):
        return "thinking.json in the model's folder"
    return detect(lambda text: len(engine.encode(text)) == 1, engine.template).why


def check_format(f: Facts) -> Check:
    return Check("format", "ok", f"{f.format.name}: {f.format.open!r} to {f.format.close!r} ({f.why})")


def check_opening(f: Facts) -> Check:
    """Who opens the block (trap: a missing think prefix), and whether the template closes it at once."""
    name, marker, close = "opening", f.format.open.strip(), f.format.close.strip()
    tail = f.prompt[f.prompt.rfind(f.question) + len(f.question) :] if f.question in f.prompt else f.prompt
    if close in tail:
        return Check(
            name,
            "problem",
            f"the chat template ends with {tail[-60:]!r}: it closes the block before the model begins",
            "Take the template's thinking mode, or another template.",
        )
    if marker and f.prompt.rstrip().endswith(marker):
        return Check(name, "ok", "the chat template opens the block in the prompt")
    if not marker:
        return Check(
            name,
            "note",
            f"the format opens nothing and the prompt ends with {f.prompt[-40:]!r}",
            "Make sure that this is where thinking begins.",
        )
    return Check(
        name, "ok", f"the template stops before the block; s1 puts {f.format.open!r} into the prompt"
    )


def check_delimiters(f: Facts) -> Check:
    name = "delimiters"
    if f.lost:
        return Check(
            name,
            "problem",
            f"{', '.join(map(repr, f.lost))} cannot be written with this vocabulary",
            "Name the right format with --format, or add the tokens and train them.",
        )
    several = [s for s in f.stops if len(s.ids) > 1]
    if several:
        told = ", ".join(f"{s.text!r} is {len(s.ids)} tokens" for s in several)
        return Check(
            name,
            "note",
            f"{told}: found by ids and by text, but not maskable before a minimum",
            "Force a minimum with a wait string; s1.budget_processor refuses this format.",
        )
    return Check(name, "ok", "each end of thinking is one token: " + ", ".join(repr(s.text) for s in f.stops))


def check_ends(f: Facts) -> Check:
    """Trap: the token that ends a turn in the template is not the one at which decoding stops."""
    name, listed = "end of turn", ", ".join(s.text for s in f.eos_texts)
    if not f.eos_texts:
        return Check(
            name,
            "problem",
            "no end-of-turn token is known: answers run to their limit",
            "Set eos_token_id in generation_config.json.",
        )
    if f.history and REPLY in f.history:
        after = f.history.rsplit(REPLY, 1)[1].strip()
        if not any(after.startswith(s.text) for s in f.eos_texts):
            return Check(
                name,
                "note",
                f"the template ends a turn with {after[:30]!r}, decoding stops at {listed}",
                "If answers run on, add the template's token to eos_token_id in generation_config.json.",
            )
    if f.eos is not None and f.eos not in {s.text for s in f.eos_texts}:
        return Check(
            name,
            "note",
            f"decoding stops at {listed} (generation_config), the tokenizer says {f.eos}",
            "If answers run on, put both into eos_token_id of generation_config.json.",
        )
    return Check(name, "ok", f"decoding stops at {listed}")


def check_close(f: Facts) -> Check:
    """Trap: the delimiter holds the end of turn, at which other programs stop."""
    inside = [s.text for s in f.eos_texts if len(s.ids) == 1 and s.ids[0] in f.close]
    if inside:
        return Check(
            "close",
            "note",
            f"the end delimiter holds the end of turn {inside[0]}",
            "s1 goes on after it; a plain generate() or server stops there.",
        )
    return Check("close", "ok", f"the end delimiter, {f.format.close!r}, holds no end of turn")


def check_vocabulary(f: Facts) -> Check:
    """Trap: logits wider than the tokenizer give ids that crash when they are fed back."""
    name, size, logits = "vocabulary", f.tokenizer_size, f.logits
    if size is None:
        return Check(name, "note", "the sizes of tokenizer and logits cannot be seen through this engine")
    if logits is None:
        return Check(
            name,
            "note",
            f"{size} tokens; how many logits the server has cannot be seen, ids beyond are never sent to it",
        )
    if size > logits:
        return Check(
            name,
            "problem",
            f"the tokenizer has {size} tokens, the model only {logits}",
            "Resize the embedding (model.resize_token_embeddings) and train the new tokens.",
        )
    if logits > size:
        found = (
            f"{logits} logits for {size} tokens: {logits - size} padded ids, which s1 never draws or sends"
        )
        return Check(name, "note", found, "Mask them where you decode by other means.")
    return Check(name, "ok", f"{size} tokens, and as many logits")


def check_pad(f: Facts) -> Check:
    """Trap: a trainer that knows padding by its id teaches no end of turn where the two are one token."""
    if not f.has_tokenizer:
        return Check("pad token", "note", "cannot be seen through this engine")
    if f.pad is None:
        return Check(
            "pad token",
            "note",
            "none; s1 needs none",
            "Set one that is not the EOS before training with another program.",
        )
    if f.pad == f.eos or f.pad in {s.text for s in f.eos_texts}:
        return Check(
            "pad token",
            "note",
            f"{f.pad} is also an end of turn; s1 is not affected",
            "Set another before training with another program: one that leaves out padding by its id never "
            "teaches the model to stop.",
        )
    return Check("pad token", "ok", f"{f.pad}, not an end of turn")


def check_history(f: Facts) -> Check:
    """Trap: a template that drops past thinking changes the prefix under a continued request."""
    if f.history is None:
        return Check("history", "note", "the chat template refuses a past turn of the assistant")
    if THOUGHT in f.history:
        return Check("history", "ok", "the chat template keeps the thinking of past turns")
    return Check(
        "history",
        "note",
        "the chat template drops the thinking of past turns",
        "Continue a request by token ids as s1 does; do not render its thinking again.",
    )


def check_context(f: Facts) -> Check:
    room = f.context - f.prompt_tokens - len(f.close)
    if room < 64:
        return Check(
            "context",
            "problem",
            f"{f.context} tokens, of which a short prompt leaves {room}",
            "Raise the engine's context.",
        )
    found = (
        f"{f.context} tokens; a prompt such as this one ({f.prompt_tokens}) leaves {room} to think and answer"
    )
    return Check(
        "context", "note" if room < 2048 else "ok", found, "" if room >= 2048 else "Keep budgets below."
    )


def check_defaults(f: Facts) -> Check:
    """Trap: results differ from generate() or a server because those apply the model's own sampling."""
    told = ", ".join(f"{k} {f.defaults[k]}" for k in SAMPLING_DEFAULTS if k in f.defaults)
    if told:
        found = f"generation_config asks for {told}; s1 decodes greedily unless told"
        return Check("sampling", "note", found, "Pass the model's own temperature where its card advises it.")
    return Check("sampling", "ok", "generation_config asks for no sampling of its own")


CHECKS: tuple[Callable[[Facts], Check], ...] = (
    check_format,
    check_opening,
    check_delimiters,
    check_ends,
    check_close,
    check_vocabulary,
    check_pad,
    check_history,
    check_context,
    check_defaults,
)
BLOCKING = {"delimiters", "end of turn", "context"}
"""Checks without which a probe cannot run."""
