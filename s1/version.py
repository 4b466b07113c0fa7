"""The version of s1 and of the libraries it runs on."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

VERSION = "0.1.0"
TOOLS = ("test", "check")
"""Extras for working on s1 itself; users are not warned about them."""


def installed(packages: Iterable[str]) -> dict[str, str]:
    """The versions of Python and of those `packages` that are installed."""
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
    """Log one line, once, for each installed library whose version is outside the range tested with s1."""
    import importlib.metadata
    import logging

    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires("s1") or []
    except importlib.metadata.PackageNotFoundError:  # a checkout that was never installed has no metadata
        return
    warnings: dict[str, None] = {}
    for requirement in map(Requirement, lines):
        marker = str(requirement.marker or "")
        if requirement.name == "s1" or any(f'extra == "{extra}"' in marker for extra in TOOLS):
            continue
        version = installed([requirement.name]).get(requirement.name)
        if version is not None and not requirement.specifier.contains(version, prereleases=True):
            tested = f"s1 was tested with {requirement.specifier}."
            warnings[f"{requirement.name} {version} is installed; {tested}"] = None
    for line in warnings:
        logging.getLogger("s1").warning(line)
