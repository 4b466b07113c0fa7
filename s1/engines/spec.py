"""Options that stand in the spec of an engine, after a question mark: `vllm:FOLDER?tensor_parallel_size=2`."""

from __future__ import annotations

import difflib
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from s1.errors import BadConfig

SAID = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def options_in(query: str, known: Sequence[str], kinds: Mapping[str, type]) -> dict[str, Any]:
    """The options of `query` by name. `kinds`: those that are int, float or bool; the others are texts.

    Raises BadConfig for a name that is not `known`, naming the nearest, and for a value of another kind.
    """
    given: dict[str, Any] = {}
    for name, value in urllib.parse.parse_qsl(query, keep_blank_values=True):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0)
            hint = f"Did you mean {near[0]!r}?" if near else "It takes none here."
            raise BadConfig(f"The address has an unknown option {name!r}.", hint)
        kind = kinds.get(name, str)
        try:
            given[name] = SAID[value.lower()] if kind is bool else kind(value)
        except KeyError as error:
            raise BadConfig(
                f"{name}={value} in the address is neither true nor false.", "Say one."
            ) from error
        except ValueError as error:
            raise BadConfig(f"{name}={value} in the address is not a number.", "Give a number.") from error
    return given


def split_address(
    address: str, known: Sequence[str] = (), kinds: Mapping[str, type] | None = None
) -> tuple[str, dict[str, Any]]:
    """The address of a server without its query, and the query as options. Raises BadConfig."""
    try:
        parts = urllib.parse.urlsplit(address)
        _ = parts.port  # checked as it is read
    except ValueError as error:
        raise BadConfig(
            f"{address!r} is not the address of a server: {error}.",
            "Write openai:http://127.0.0.1:8000/v1?model=NAME.",
        ) from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadConfig(
            f"{address!r} is not the address of a server.",
            "Write openai:http://127.0.0.1:8000/v1?model=NAME.",
        )
    if parts.username or parts.password:
        raise BadConfig(
            "The address holds a password.", "Put the key in an environment variable; see api_key_env."
        )
    given = options_in(parts.query, known, kinds or {})
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", "")), given
