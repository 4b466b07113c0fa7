"""What can be read of a model without decoding."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from s1.formats import ThinkingFormat, as_stops, find_format, open_prompt
from s1.types import Engine, Stop

QUESTION = "What is 2 + 2?"
THOUGHT, REPLY = "We add them.", "It is four."
"""A past turn, to see how the template renders it."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known of a model before it decodes. None or empty: not visible through this engine."""

    format: ThinkingFormat
    why: str
    """Where the format comes from."""
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
    """None: the engine shows no tokenizer."""
    logits: int | None = None
    eos: str | None = None
    pad: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """The settings of generation_config."""


def gather(engine: Engine, format: str | None = None, question: str = QUESTION) -> ModelFacts:
    """The facts of `engine`. Raises BadConfig or BadInput where there is no format or no chat template."""
    found = find_format(engine, format)
    fmt = found.format
    prompt = engine.render([{"role": "user", "content": question}])
    past = f"{fmt.open}{THOUGHT}{fmt.close}{REPLY}"
    turns = [("user", question), ("assistant", past), ("user", "And then?")]
    try:
        history: str | None = engine.render([{"role": r, "content": c} for r, c in turns])
    except Exception:  # templates refuse with errors of their own types
        history = None
    marks = [m for m in (fmt.open.strip(), fmt.close.strip(), *fmt.stops, fmt.cue) if m]
    tokenizer: Any = getattr(engine, "tokenizer", None)
    model: Any = getattr(engine, "model", None)
    if hasattr(model, "config"):
        config, defaults = model.config.to_dict(), model.generation_config.to_diff_dict()
    else:
        config, defaults = _json(engine, "config.json"), _json(engine, "generation_config.json")
    return ModelFacts(
        format=fmt,
        why=found.why,
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
        defaults={k: v for k, v in defaults.items() if v is not None},
    )


def _json(engine: Engine, name: str) -> dict[str, Any]:
    file = engine.folder / name if engine.folder else None
    return json.loads(file.read_text(encoding="utf-8")) if file and file.is_file() else {}
