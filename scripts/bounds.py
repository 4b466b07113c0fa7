"""The ends of the ranges in pyproject.toml, for pip: `python scripts/bounds.py lowest|newest EXTRA ...`.

lowest prints NAME==LOWER_BOUND for every dependency of the extras, newest prints NAME alone, so that pip takes
whatever exists, above our upper bounds too. Needs the standard library only.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?P<extras>\[[\w,.-]+\])?\s*(?P<range>[^;]*)")


def requirements(extras: Sequence[str]) -> list[str]:
    """The direct requirements of s1 with these extras; an extra may name other extras of s1."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional: dict[str, list[str]] = project["optional-dependencies"]

    def walk(listed: Sequence[str]) -> Iterator[str]:
        for requirement in listed:
            own = re.fullmatch(rf"{project['name']}\[([\w,-]+)\]", requirement)
            if own is None:
                yield requirement
            else:
                for extra in own[1].split(","):
                    yield from walk(optional[extra])

    return list(dict.fromkeys([*project["dependencies"], *(r for e in extras for r in walk(optional[e]))]))


def lowest(requirement: str) -> str:
    """ "polars>=1.30,<3" as "polars==1.30"."""
    match = REQUIREMENT.fullmatch(requirement)
    bound = re.search(r">=\s*([\w.]+)", match["range"]) if match else None
    if match is None or bound is None:
        raise SystemExit(f"pyproject.toml: {requirement!r} has no lower bound. Write NAME>=VERSION.")
    return f"{match['name']}{match['extras'] or ''}=={bound[1]}"


def newest(requirement: str) -> str:
    """ "polars>=1.30,<3" as "polars"."""
    match = REQUIREMENT.fullmatch(requirement)
    assert match is not None, requirement
    return match["name"] + (match["extras"] or "")


if __name__ == "__main__":
    end = {"lowest": lowest, "newest": newest}[sys.argv[1]]
    print(*map(end, requirements(sys.argv[2:])), sep="\n")
