"""The command `s1-lm-eval`: says what to install where lm-evaluation-harness is missing, then runs it."""

from __future__ import annotations

import sys

from s1.errors import MissingExtra, require
from s1.terminal import visible


def main() -> int:
    try:
        require("lm-eval")
    except MissingExtra as error:
        print(visible(f"s1-lm-eval: {error}"), file=sys.stderr)
        return 2
    from s1.harness.lm_eval import main as run

    return run()
