"""Settings from a YAML file and NAME=VALUE pairs; an unknown name is an error that names the nearest one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from s1.errors import BadConfig, BadInput
from s1.types import from_json, to_json

T = TypeVar("T")
EXPONENT = re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+")


def load_settings(defaults: T, file: Path | None = None, pairs: Sequence[str] = ()) -> T:
    """`defaults`, a dataclass, changed by the file and then by the pairs. A dot reaches nested settings, as in
    clean.word_run=7.

    Raises BadConfig listing all unknown names, or naming a value of the wrong type.
    """
    data = to_json(defaults)
    mistakes: list[str] = []
    if file is not None:
        _merge(data, read_yaml(file), f"{file}: ", mistakes)
    for name, value in split_pairs(pairs):
        nested = _pair_value(data, name, value)
        for part in reversed(name.split(".")):
            nested = {part: nested}
        _merge(data, nested, "", mistakes)
    if mistakes:
        raise BadConfig("; ".join(mistakes))
    return settings_of(type(defaults), data)


def _pair_value(data: Mapping[str, Any], name: str, text: str) -> Any:
    """The value that a pair gives. A setting that is text takes everything after "=", unless it is quoted."""
    present: Any = data
    for part in name.split("."):
        present = present.get(part) if isinstance(present, Mapping) else None
    return text if isinstance(present, str) and text[:1] not in ("'", '"') else parse_value(text)


def settings_of(kind: type[T], values: Mapping[str, Any]) -> T:
    """The settings with these values. Raises BadConfig naming one that is unknown, missing or of the wrong type."""
    try:
        return from_json(kind, values)
    except BadInput as error:
        raise BadConfig(error.message.removeprefix(f"{kind.__name__}."), error.hint) from None


def split_pairs(pairs: Sequence[str]) -> list[tuple[str, str]]:
    """ "a=b" as ("a", "b"). Raises BadConfig for text without a name or "="."""
    split = []
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise BadConfig(f"{pair!r} is not NAME=VALUE.", "Write it as name=value.")
        split.append((name, value))
    return split


def _merge(data: dict[str, Any], changes: Mapping[str, Any], where: str, mistakes: list[str]) -> None:
    for name, value in changes.items():
        if name not in data:
            near = difflib.get_close_matches(name, data, n=1)
            mistakes.append(
                f"{where}no setting {name!r}"
                + (f", did you mean {near[0]!r}?" if near else f" among {', '.join(data)}")
            )
        elif isinstance(data[name], dict) and isinstance(value, Mapping) and data[name]:
            _merge(data[name], value, f"{where}{name}.", mistakes)
        else:
            data[name] = value


def read_yaml(file: Path) -> Mapping[str, Any]:
    import yaml

    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadConfig(f"{file}: no such file.", "Check the path.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadConfig(f"{file}: not YAML ({' '.join(str(error).split())[:200]}).") from None
    if data is None:
        return {}
    if not isinstance(data, Mapping):
        raise BadConfig(f"{file}: expected settings as name: value, found {type(data).__name__}.")
    return data


def parse_value(value: str) -> Any:
    import yaml

    try:
        found = yaml.safe_load(value)
    except yaml.YAMLError:
        return value
    if isinstance(found, str) and EXPONENT.fullmatch(found):  # YAML 1.1 reads 3e-4 as text
        return float(found)
    return found
