"""The budget of one request (section 3.1): how long it may and must think, and what is appended when."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from s1.errors import BadConfig
from s1.types import to_json


@dataclass(frozen=True, slots=True)
class BudgetPolicy:
    """How long one request may and must think. All limits are tokens; forced tokens count as thinking."""

    max_thinking: int | None = None
    """Thinking ends here. None: what the context leaves after a reserve for the answer."""
    min_thinking: int = 0
    """An end before this many tokens is suppressed: `wait` is appended, or the end is masked if `wait` is empty."""
    waits: int = 0
    """How often the end of thinking is suppressed and `wait` appended."""
    wait: tuple[str, ...] = ("Wait",)
    """Strings appended at suppressed ends, in turn; ("",) suppresses without adding text."""
    max_answer: int | None = None
    """Limit of the answer, also reserved for it in the context. None: what the context leaves."""
    cue: Literal["cut", "always", "never"] = "cut"
    """When the format's cue is appended after the end delimiter: after a cut, always or never."""
    transition: str = ""
    """Appended to thinking that is cut, within its budget."""
    grace: int = 0
    """After the limit, at most this many more tokens to finish the sentence or line."""
    on_eos_in_thinking: Literal["delimiter", "answer"] = "delimiter"
    """An end of turn inside thinking either counts as its delimiter, which waits and a minimum suppress (as in
    the authors' code), or starts the answer at once."""
    on_loop: Literal["ignore", "end", "wait"] = "ignore"
    """What happens to thinking that repeats itself (`s1.loops`): nothing; it is cut, though not before
    `min_thinking`; or the next wait string is appended while waits are left, and then it is cut."""
    profile: Literal["strict", "official"] = "strict"
    """`official`: token for token what the paper's code does (docs/paper_map.md)."""

    def __post_init__(self) -> None:
        for name in ("max_thinking", "min_thinking", "waits", "max_answer", "grace"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 0):
                raise BadConfig(f"{name} is {value!r}.", "Use a whole number of 0 or more.")
        if self.max_thinking is not None and self.min_thinking > self.max_thinking:
            raise BadConfig(
                f"min_thinking {self.min_thinking} is above max_thinking {self.max_thinking}.",
                "Lower min_thinking or raise max_thinking.",
            )
        if (
            not isinstance(self.wait, tuple)
            or not self.wait
            or not all(isinstance(w, str) for w in self.wait)
        ):
            raise BadConfig(
                f"wait is {self.wait!r}.",
                'Give a tuple of strings such as ("Wait",); ("",) suppresses the end without adding text.',
            )
        for name, choices in (
            ("cue", ("cut", "always", "never")),
            ("on_eos_in_thinking", ("delimiter", "answer")),
            ("on_loop", ("ignore", "end", "wait")),
            ("profile", ("strict", "official")),
        ):
            if getattr(self, name) not in choices:
                raise BadConfig(
                    f"{name} is {getattr(self, name)!r}.", f"Choose one of: {', '.join(choices)}."
                )
        if self.profile == "official" and (
            (self.min_thinking and (self.waits or self.wait != ("",)))
            or self.grace
            or self.transition
            or self.cue != "cut"
            or self.on_eos_in_thinking != "delimiter"
            or self.on_loop != "ignore"
        ):
            raise BadConfig(
                "The official profile does not have grace, transition, cue, on_eos_in_thinking or on_loop, and "
                'min_thinking only without waits and with wait "", which masks the end.',
                "Use the strict profile, or remove these.",
            )

    @property
    def key(self) -> str:
        """The name of this policy in a run folder: every setting that is not the default, else "natural"."""
        return settings_key(self) or "natural"

    @property
    def kind(self) -> str:
        """What plots group by: "wait" with waits, "budget" with a limit, "natural" with neither."""
        if self.waits:
            return "wait"
        return "natural" if self.max_thinking is None else "budget"

    @property
    def label(self) -> str:
        """A short name for tables and plots."""
        parts = []
        if self.max_thinking is not None:
            parts.append(f"max {self.max_thinking}")
        if self.min_thinking:
            parts.append(f"min {self.min_thinking}")
        if self.waits:
            parts.append(f"wait {self.waits}")
        if (self.waits or self.min_thinking) and self.wait != ("Wait",):
            parts.append("with " + "/".join(map(repr, self.wait)))
        if self.cue != "cut":
            parts.append(f"cue {self.cue}")
        if self.transition:
            parts.append(f"transition {self.transition!r}")
        if self.grace:
            parts.append(f"grace {self.grace}")
        if self.on_eos_in_thinking != "delimiter":
            parts.append(f"end of turn: {self.on_eos_in_thinking}")
        if self.on_loop != "ignore":
            parts.append(f"loop: {self.on_loop}")
        if self.profile != "strict":
            parts.append(self.profile)
        return ", ".join(parts) or "natural"


def parse_limit(text: str) -> int | None:
    """A thinking limit as a person writes it: a number of tokens, or "auto" (None) for what the context leaves.

    Raises ValueError for anything else.
    """
    return None if text == "auto" else int(text)


def settings_key(settings: Any) -> str:
    """The fields of a settings dataclass that differ from their defaults, such as 'max_thinking=32,waits=1'.

    A field that is itself a dataclass gives 'policy.waits=1'. Equal settings have equal keys.
    """

    def parts(value: Any, prefix: str) -> Iterator[str]:
        for field in dataclasses.fields(value):
            inner = getattr(value, field.name)
            if dataclasses.is_dataclass(inner):
                yield from parts(inner, f"{prefix}{field.name}.")
            elif inner != field.default:
                yield f"{prefix}{field.name}={json.dumps(to_json(inner), ensure_ascii=False)}"

    return ",".join(parts(settings, ""))
