"""Seeds that depend only on their parts: the same on every machine and in any order of work."""

from __future__ import annotations

import hashlib


def seed_of(*parts: object) -> int:
    """A seed of 56 bits from the parts, joined as text."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:7])
