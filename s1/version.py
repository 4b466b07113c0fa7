"""The version, and those of what it runs on. Imports nothing until asked."""

from __future__ import annotations

from collections.abc import Iterable

VERSION = "0.1.0"


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
