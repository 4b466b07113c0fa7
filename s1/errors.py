"""Errors for users: one sentence about what was wrong and where, one about what to do.

The command line prints an `S1Error` without a traceback and exits with code 2. A programming mistake stays
a plain Python exception.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable
from typing import Any


class S1Error(Exception):
    """Something the user can fix. `message` says what was wrong and where, `hint` what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def __reduce__(self) -> tuple[Any, ...]:
        # Lets errors of other processes be unpickled, including those of subclasses with other parameters.
        return _rebuild, (type(self), self.message, self.hint), self.__dict__


def _rebuild(kind: type[S1Error], message: str, hint: str) -> S1Error:
    error = kind.__new__(kind)
    S1Error.__init__(error, message, hint)
    return error


class BadInput(S1Error):
    """A file, row or field that cannot be used."""


class BadConfig(S1Error):
    """A setting that is unknown, out of range, or contradicts another."""


class Unsupported(S1Error):
    """An option that this engine, format or method does not support; raised before any decoding."""


class MissingExtra(S1Error):
    """An optional library that is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"This needs the package {package}, which is not installed.",
            f'Install it in the checkout of s1: pip install -e ".[{extra}]"',
        )


EXTRAS = {
    "hf": ("torch", "transformers", "peft", "gguf"),
    "openai": ("openai",),
    "data": ("polars", "pyarrow", "tokenizers", "datasets"),
    "train": ("torch", "transformers", "trl", "accelerate", "datasets", "matplotlib"),
    "qlora": ("bitsandbytes",),
    "grading": ("math_verify",),
    "report": ("matplotlib",),
    "serve": ("fastapi", "uvicorn", "prometheus_client"),
    "lm-eval": ("lm_eval",),
}
"""The modules that an extra of pyproject.toml brings, as far as s1 imports them."""


def require(*extras: str) -> None:
    """Raise MissingExtra, before any work is done, where a module of these extras is not installed."""
    for extra in extras:
        for module in EXTRAS[extra]:
            if importlib.util.find_spec(module) is None:
                raise MissingExtra(module.replace("_", "-"), extra)


class EngineFailure(S1Error):
    """The engine failed while decoding a request; recorded on that request's generation."""


class Interrupted(S1Error):
    """The run stopped, what is finished is kept, and the same command resumes from there."""

    def __init__(self, message: str, hint: str = "Fix this, then rerun the command to resume.") -> None:
        super().__init__(message, hint)


def first_line(error: BaseException) -> str:
    """The first line of another library's error, short enough for a message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a name that does not exist: the nearest name and all known ones."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0)
    listed = ", ".join(names)
    return f"Did you mean {near[0]!r}? Known: {listed}." if near else f"Known: {listed}."


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error to raise for a group of failed tasks: its first S1Error, or the group if it has none.

    Use it with a plain `except BaseExceptionGroup`: before Python 3.11.4, `except*` wraps what it raises in
    another group.
    """
    mine: BaseException | None = group.subgroup(S1Error)
    while isinstance(mine, BaseExceptionGroup):
        mine = mine.exceptions[0]
    return mine or group
