"""Arguments of a model, as a harness passes them on: the policy, what the harness needs, engine options.

One flat list of names, because that is what `--model_args` and `-M` give. Nothing is dropped: a name that is
none of these is refused with the nearest one that is.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, NamedTuple, TypeVar

from s1.engines import engine_options
from s1.errors import BadConfig, BadInput
from s1.policy import BudgetPolicy
from s1.types import from_json

T = TypeVar("T")

POLICY = tuple(f.name for f in fields(BudgetPolicy))
"""Names that set the policy: max_thinking, min_thinking, waits, wait, max_answer and the rest."""

IN_FLIGHT = 256
"""Requests that walk at once, as in `s1 eval`. All of them at once would think through every question before
the first one answers: nothing would be done until nearly the end, and kept prefixes would be lost."""


class Arguments(NamedTuple):
    """What the arguments of a model said. `own` is the harness's dataclass."""

    own: Any
    policy: BudgetPolicy
    engine: dict[str, Any]


def read_arguments(spec: str, given: Mapping[str, Any], own: type[Any]) -> Arguments:
    """Sort the arguments of the model `spec`. `own` is a dataclass with a default for every field.

    Raises BadConfig for names that nobody knows, all at once, and for values of the wrong type.
    """
    mine = [f.name for f in fields(own)]
    ours = [*POLICY, *mine]
    options = engine_options(spec)
    engine = {name: value for name, value in given.items() if name not in ours}
    unknown = [name for name in engine if name not in options]
    if unknown:
        raise BadConfig(
            f"The model takes no argument {', '.join(map(repr, unknown))}.",
            nearest(unknown, [*ours, *options]),
        )
    policy = change_policy(BudgetPolicy(), {n: v for n, v in given.items() if n in POLICY})
    return Arguments(_read(own, {n: v for n, v in given.items() if n in mine}), policy, engine)


def change_policy(policy: BudgetPolicy, changes: Mapping[str, Any]) -> BudgetPolicy:
    """The policy with some fields changed; `wait` may be one string. Raises BadConfig."""
    changed = dict(changes)
    if isinstance(changed.get("wait"), str):
        changed["wait"] = [changed["wait"]]
    read = _read(BudgetPolicy, changed)
    return replace(policy, **{name: getattr(read, name) for name in changed})


def nearest(names: Iterable[str], known: Iterable[str]) -> str:
    """A hint for names that are not known."""
    listed = sorted(set(known))
    near = dict.fromkeys(
        n for name in names for n in difflib.get_close_matches(name, listed, n=1, cutoff=0.5)
    )
    said = f"Did you mean {' and '.join(map(repr, near))}? " if near else ""
    return f"{said}Known: {', '.join(listed)}."


def _read(kind: type[T], values: Mapping[str, Any]) -> T:
    try:
        return from_json(kind, values)
    except BadInput as error:
        raise BadConfig(error.message.removeprefix(f"{kind.__name__}."), error.hint) from None
