"""The version, and those of what it runs on. Imports nothing until asked."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

VERSION = "0.1.0"
TOOLS = ("test", "check")
"""Extras for working on s1 itself; a user need not know what is tested there."""


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Versions of Python and of those of `packages` that are installed here."""
    import importlib.metadata
    import platform

    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@cache
def warn_untested() -> None:
    """Log one line, once, for each library that is installed in a version outside the range tested with s1."""
    import importlib.metadata
    import logging

    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires("s1") or []
    except importlib.metadata.PackageNotFoundError:  # a checkout that was never installed states no ranges
        return
    said: dict[str, None] = {}
    for requirement in map(Requirement, lines):
        marker = str(requirement.marker or "")
        if requirement.name == "s1" or any(f'extra == "{extra}"' in marker for extra in TOOLS):
            continue
        version = installed([requirement.name]).get(requirement.name)
        if version is not None and not requirement.specifier.contains(version, prereleases=True):
            said[
                f"{requirement.name} {version} is installed; s1 was tested with {requirement.specifier}."
            ] = None
    for line in said:
        logging.getLogger("s1").warning(line)
