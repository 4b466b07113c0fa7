"""Engines by name. An engine continues a prefix; see `Engine` in `s1.types`."""

from __future__ import annotations

import importlib
import inspect
import os
import typing
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any, cast

from s1.errors import BadConfig, MissingExtra, nearest
from s1.types import Engine
from s1.version import warn_untested

ENGINES = ("hf", "openai", "scripted", "vllm")
"""Each is a module here with `load(rest, *, option=default, ...)`; `rest` is what follows the colon of a spec."""
TEMPLATE = "template."
"""Before the name of an option in a spec: an argument of the chat template, such as template.enable_thinking=true."""
BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def load_engine(spec: str, **options: Any) -> Engine:
    """Load the engine that `spec` names.

    spec: "NAME:REST", or a model folder or Hub id, which means "hf:SPEC". It may end with options, as in
    "vllm:FOLDER?tensor_parallel_size=2&eager=true" or "hf:FOLDER?template.enable_thinking=true".
    options: keyword arguments of the engine's `load`. An option in the spec overrides the same one here.
    Raises BadConfig for an unknown engine or option (with the nearest name) or a value of the wrong type, and
    MissingExtra when the engine's library is not installed.
    """
    warn_untested()
    engine, rest, query, load = _parse(spec)
    known = _option_types(load)
    written = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
    template = {name: written.pop(name) for name in list(written) if name.startswith(TEMPLATE)}
    if template:
        given = {name.removeprefix(TEMPLATE): _template_value(text) for name, text in template.items()}
        options["template"] = dict(options.get("template") or {}) | given
    for option in options | written:
        if option not in known or (option == "template" and option in written):
            raise BadConfig(
                f"The engine {engine!r} has no option {option!r}.",
                f"{nearest(option, known)} An argument of the chat template is written {TEMPLATE}NAME=VALUE.",
            )
    options |= {option: _read_option(option, text, known[option]) for option, text in written.items()}
    return cast(Engine, load(rest, **options))


def engine_options(spec: str) -> list[str]:
    """The options that `load_engine` takes for `spec`. Raises BadConfig when there is no such engine."""
    return list(_option_types(_parse(spec)[3]))


def _parse(spec: str) -> tuple[str, str, str, Callable[..., Any]]:
    """The engine's name, what it loads, the options as written, and its `load`."""
    name, colon, rest = spec.partition(":")
    if os.path.isdir(spec) or (not colon and name not in ENGINES):
        name, rest = "hf", spec
    elif name not in ENGINES:
        raise BadConfig(f"Unknown engine {name!r} in {spec!r}.", nearest(name, ENGINES))
    query = ""
    if not os.path.exists(rest):  # a path may contain a question mark
        rest, _, query = rest.partition("?")
    try:
        return name, rest, query, importlib.import_module(f"s1.engines.{name}").load
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "s1":
            raise
        raise MissingExtra(error.name, name) from error


def _option_types(load: Callable[..., Any]) -> Mapping[str, tuple[Any, ...]]:
    """The keyword-only parameters of `load`, each with the types that it accepts."""
    hints = typing.get_type_hints(load)
    parameters = inspect.signature(load).parameters.values()
    options = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    return {name: typing.get_args(hints[name]) or (hints[name],) for name in options}


def _template_value(text: str) -> bool | int | str:
    if text.lower() in ("true", "false"):
        return BOOLEANS[text.lower()]
    return int(text) if text.isascii() and text.isdigit() else text


def _read_option(name: str, text: str, types: tuple[Any, ...]) -> Any:
    """The value of an option written in a spec."""
    try:
        if bool in types:
            return BOOLEANS[text.lower()]
        return int(text) if int in types else float(text) if float in types else text
    except KeyError as error:
        raise BadConfig(f"{name}={text!r} is not true or false.", "Use true or false.") from error
    except ValueError as error:
        kind = "a whole number" if int in types else "a number"
        raise BadConfig(f"{name}={text!r} is not {kind}.", f"Use {kind}.") from error
