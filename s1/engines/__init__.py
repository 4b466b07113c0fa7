"""Engines by name. An engine continues a prefix; see `Engine` in `s1.types`."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable
from typing import Any, cast

from s1.errors import BadConfig, MissingExtra, nearest
from s1.types import Engine
from s1.version import warn_untested

ENGINES = {
    "hf": "s1.engines.hf:load",
    "openai": "s1.engines.openai:load",
    "scripted": "s1.engines.scripted:load",
    "vllm": "s1.engines.vllm:load",
}
"""Name -> "module:function" that takes what follows the colon of a spec, and options by keyword."""


def load_engine(spec: str, **options: Any) -> Engine:
    """The engine that `spec` names: "NAME:REST", or a model folder or Hub id, which means "hf:SPEC".

    `options` go to the engine's `load`. Raises BadConfig for an unknown name or option, naming the nearest
    one, and MissingExtra where the engine's library is not installed.
    """
    warn_untested()
    name, rest, load = _find(spec)
    known = engine_options(spec)
    for option in options:
        if option not in known:
            raise BadConfig(f"The engine {name!r} has no option {option!r}.", nearest(option, known))
    return cast(Engine, load(rest, **options))


def engine_options(spec: str) -> list[str]:
    """The options that `load_engine` takes for `spec`. Raises as it does where there is no such engine."""
    parameters = inspect.signature(_find(spec)[2]).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def _find(spec: str) -> tuple[str, str, Callable[..., Any]]:
    """The engine's name, what follows it in `spec`, and its `load`."""
    name, colon, rest = spec.partition(":")
    if not colon:
        name, rest = (spec, "") if spec in ENGINES else ("hf", spec)
    elif name not in ENGINES:
        if not os.path.isdir(spec):
            raise BadConfig(f"Unknown engine {name!r} in {spec!r}.", nearest(name, ENGINES))
        name, rest = "hf", spec
    module_name, _, attribute = ENGINES[name].partition(":")
    try:
        return name, rest, getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "s1":
            raise
        raise MissingExtra(error.name, name) from error
