"""The fields of a request to vLLM that carry a budget, checked and turned into a plan in token ids."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from s1.engines.tokenizer import LocalTokenizer, tokenizer_at
from s1.errors import BadInput, S1Error
from s1.formats import ThinkingFormat, as_stops, choose_format, format_of_folder, get_format
from s1.policy import BudgetPolicy
from s1.prompt import EncodedPrompt, room_for
from s1.types import Engine, from_json

FIELDS = ("max_thinking", "min_thinking", "waits", "wait", "cue", "thinking_format")
"""What a request may say in `vllm_xargs` (over HTTP) or `extra_args` (in Python)."""
PLAN = "s1_plan"
"""Where the front end puts the plan for the workers."""
OPTION = "s1_format"
"""The server's option for the format: --additional-config '{"s1_format": "think"}'."""
MOST_WAITS, MOST_FORCED, MOST_ENDS = 8, 64, 16
"""Most wait strings of a cycle, tokens of one forced string, and tokens that end the thinking."""
MOST_TOKENS = 1 << 31
SPACES = ("", "\n", "\n\n", " ")
"""What a chat template may put after the mark that opens the thinking."""


@dataclass(frozen=True, slots=True)
class ForcingPlan:
    """All that the rules need of one request. `most`: how many waits; `cues`: after a cut, after a natural end."""

    key: str
    max_thinking: int | None
    max_tokens: int
    least: int
    most: int
    waits: tuple[tuple[int, ...], ...]
    open: tuple[int, ...]
    opened: tuple[tuple[int, ...], ...]
    """Endings of a prompt in which the thinking is already open; none: it always is."""
    close: tuple[int, ...]
    cue: tuple[int, ...]
    cues: tuple[bool, bool]
    newline: tuple[int, ...]
    ends: tuple[int, ...]
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int

    def limit(self, prompt: int, context: int) -> int:
        """Where the thinking of a prompt of so many tokens ends, at most what `context` leaves."""
        policy = BudgetPolicy(max_thinking=self.max_thinking, min_thinking=self.least)
        room = room_for(
            EncodedPrompt(
                policy, (0,) * prompt, self.close, self.cue, self.newline, self.waits,
                transition=(), stops=(), answer_stops=(), context=context, decode=lambda ids: "",
            )
        )  # fmt: skip
        return max(0, min(room.limit, room.thinking))

    def is_opened(self, tail: Sequence[int]) -> bool:
        """Whether a prompt that ends in `tail` has its thinking open."""
        return not self.opened or any(tuple(tail[len(tail) - len(ids) :]) == ids for ids in self.opened)

    @property
    def longest_opening(self) -> int:
        return max(map(len, self.opened), default=0)


def plan_request(params: Any, config: Any) -> ForcingPlan:
    """The plan of a request. `params`: vLLM's SamplingParams; `config`: its VllmConfig.

    Raises S1Error, naming the field, for what cannot be honoured.
    """
    given = params.extra_args
    policy = _policy(given)
    _refuse_beside(params, config)
    text = tokenizer_of_server(config)
    fmt = _format(given.get("thinking_format"), config, text)
    if fmt.newline and _hides_last_token(config):
        raise BadInput(
            f"thinking_format is {fmt.name!r}, which needs the last token; this server shows it only to plug-ins "
            "that its command line names.",
            "Start it with --logits-processors s1.vllm_plugin.processor:VLLMBudgetProcessor or --no-async-scheduling.",
        )
    ends = _single_ends(fmt, text)
    close, cue = text.encode(fmt.close), text.encode(fmt.cue) if fmt.cue else ()
    newline = text.encode("\n") if fmt.newline else ()
    waits = tuple(text.encode(w) if w else () for w in policy.wait)
    for word, ids in zip(policy.wait, waits, strict=True):
        if set(ids) & set(ends):
            raise BadInput(f"wait is {word!r}, which holds an end of thinking.", "Use other words.")
    _check_lengths(waits, (*newline, *close, *cue), ends)
    stopping = {
        *(params.stop_token_ids or ()),
        *(i for s in as_stops(text.eos_texts, text.encode) for i in s.ids),
    }
    if stopping & {*close, *cue, *newline, *(i for w in waits for i in w)} and not params.ignore_eos:
        raise BadInput(
            f"thinking_format is {fmt.name!r}, whose forced tokens hold a token that ends the request.",
            "Send ignore_eos, or use s1.think.",
        )
    most = int(config.model_config.max_model_len)
    total = min(params.max_tokens or most, most)
    least = len(newline) + len(close) + len(cue) + 1
    for name in ("max_thinking", "min_thinking"):
        value = getattr(policy, name) or 0
        if value and value + least > total:
            raise BadInput(
                f"{name} is {value}, and the end of thinking and an answer need {least} more, but the request has "
                f"only {total} tokens.",
                f"Lower {name} or raise max_tokens.",
            )
    mark = fmt.open.strip()
    is_sampled = params.temperature >= 1e-5
    if is_sampled and params.seed is None:
        params.seed = secrets.randbits(31)  # each of n samples gets another one, and with it other coins
    return ForcingPlan(
        key=secrets.token_hex(8),
        max_thinking=policy.max_thinking,
        max_tokens=total,
        least=policy.min_thinking,
        most=policy.waits,
        waits=waits,
        open=text.encode(fmt.open) if mark else (),
        opened=tuple(dict.fromkeys(text.encode(mark + space) for space in SPACES)) if mark else (),
        close=close,
        cue=cue,
        cues=(policy.cue != "never", policy.cue == "always"),
        newline=newline,
        ends=ends,
        temperature=float(params.temperature) if is_sampled else 0.0,
        top_k=max(0, int(params.top_k)),
        top_p=float(params.top_p),
        min_p=float(params.min_p),
        seed=int(params.seed or 0),
    )


def _policy(given: Mapping[str, Any]) -> BudgetPolicy:
    settings = {name: given[name] for name in FIELDS[:-1] if name in given}
    for name in ("max_thinking", "min_thinking", "waits"):
        value = settings.get(name)
        if isinstance(value, int) and value >= MOST_TOKENS:
            raise BadInput(f"{name} is {value}, far beyond any context.", "Lower it.")
    wait = settings.get("wait")
    if isinstance(wait, (str, list)):
        settings["wait"] = (wait,) if isinstance(wait, str) else tuple(wait)
    return BudgetPolicy(**settings)


def _refuse_beside(params: Any, config: Any) -> None:
    """Raises BadInput for what cannot be combined with a budget."""
    penalties = ("presence_penalty", "frequency_penalty", "repetition_penalty")
    beside = {
        "structured_outputs": params.structured_outputs is not None,
        "thinking_token_budget": params.thinking_token_budget is not None,
        "speculative decoding": config.speculative_config is not None,
    }
    if not config.use_v2_model_runner:  # the older runner applies these after all plug-ins
        beside |= {name: getattr(params, name) != float(name == "repetition_penalty") for name in penalties}
    for name, found in beside.items():
        if found:
            raise BadInput(
                f"A thinking budget ({', '.join(n for n in FIELDS if n in params.extra_args)}) cannot be combined "
                f"with {name} on this server.",
                f"Leave one of them out{'; repetition_penalty=1 and 0 for the others' if 'penalty' in name else ''}.",
            )


def _hides_last_token(config: Any) -> bool:
    """The older runner with asynchronous scheduling fills in the last token only for plug-ins that were named."""
    named = config.model_config.logits_processors
    return not config.use_v2_model_runner and config.scheduler_config.async_scheduling and not named


def _format(given: Any, config: Any, text: LocalTokenizer) -> ThinkingFormat:
    """The request's format, else the server's option, else the checkpoint's own or what `formats` detects."""
    name = given
    if name is None:
        name = (config.additional_config or {}).get(OPTION)
    try:
        if isinstance(name, str) and name.lstrip().startswith("{"):
            return from_json(ThinkingFormat, json.loads(name))
        if name is not None:
            return get_format(name if isinstance(name, str) else repr(name))
        own = format_of_folder(Path(config.model_config.model))
        return own or choose_format(cast(Engine, text))  # it reads nothing but the tokenizer
    except (S1Error, ValueError) as error:
        message = getattr(error, "message", str(error))
        raise BadInput(
            f"thinking_format is not known for this model: {message}",
            "Name it in the request (thinking_format) or start the server with "
            f'--additional-config \'{{"{OPTION}": "think"}}\'.',
        ) from error


def _single_ends(fmt: ThinkingFormat, text: LocalTokenizer) -> tuple[int, ...]:
    """The tokens that end the thinking. Raises BadInput for one that is not a single token."""
    stops = [*as_stops(fmt.stops, text.encode), *as_stops(text.eos_texts, text.encode)]
    for stop in stops:
        if len(stop.ids) != 1:
            raise BadInput(
                f"thinking_format is {fmt.name!r}, whose end {stop.text!r} is {len(stop.ids)} tokens of this model: "
                "a plug-in sees it only after its first token is out.",
                "Use s1.think or another s1 engine, which hold such tokens back.",
            )
    return tuple(dict.fromkeys(stop.ids[0] for stop in stops))


def _check_lengths(waits: Sequence[Sequence[int]], after: Sequence[int], ends: Sequence[int]) -> None:
    """Raises BadInput for what is longer than the tables of the rules."""
    for name, what, size, most in (
        ("wait", "strings", len(waits), MOST_WAITS),
        ("wait", "tokens", max(map(len, waits)), MOST_FORCED),
        ("thinking_format", "tokens", len(after), MOST_FORCED),
        ("thinking_format", "tokens", len(ends), MOST_ENDS),
    ):
        if size > most:
            raise BadInput(f"{name} has {size} {what}, more than {most}.", "Shorten it.")


def tokenizer_of_server(config: Any) -> LocalTokenizer:
    """The tokenizer that the server was started with, loaded once."""
    return _tokenizer(str(config.model_config.tokenizer), str(config.model_config.model))


@lru_cache(maxsize=8)
def _tokenizer(path: str, model: str) -> LocalTokenizer:
    text = tokenizer_at(path)
    if not text.eos_texts and path != model:
        text.eos_texts = tokenizer_at(model).eos_texts
    return text
