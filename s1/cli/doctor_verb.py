"""Check whether it is safe to force the budget of a model. One line per check, then short probes that prove it.

Exit code 0: safe. 1: not safe. 2: the model or format could not be used at all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys

from s1.cli.options import add_format, open_engine
from s1.doctor import Diagnosis, diagnose
from s1.doctor.checks import Check
from s1.errors import BadInput
from s1.terminal import visible
from s1.types import to_json

COLOURS = {"ok": "32", "note": "33", "problem": "1;31"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="checkpoint folder, Hub id or engine spec")
    add_format(parser)
    parser.add_argument("--question", default="What is 2 + 2?", help="what the probes ask")
    parser.add_argument(
        "--max-thinking", type=int, default=64, metavar="N", help="longest thinking of a probe (default: 64)"
    )
    parser.add_argument("--json", action="store_true", help="print the report and the probes as JSON")


def run(arguments: argparse.Namespace) -> int:
    tokens = arguments.max_thinking
    if tokens < 8:
        raise BadInput(f"--max-thinking is {tokens}.", "Give at least 8.")
    engine = open_engine(arguments.model, arguments.format)

    async def probe() -> Diagnosis:
        try:
            return await diagnose(engine, arguments.format, question=arguments.question, tokens=tokens)
        finally:
            await engine.close()

    report = asyncio.run(probe())
    if arguments.json:
        print(json.dumps(to_json(report)))
    else:
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        print("\n".join(line_of(check, colour) for check in report.checks))
        problems = sum(c.level == "problem" for c in report.checks)
        verdict = f"Not safe to use: {problems} problem{'s' * (problems > 1)}."
        print(f"{'Safe to use.' if report.safe else verdict} {len(report.probes)} probes.")
    return 0 if report.safe else 1


def line_of(check: Check, colour: bool) -> str:
    """A check in one line: level, name, what was found, what to do."""
    level = check.level.ljust(8)
    if colour:
        level = f"\x1b[{COLOURS[check.level]}m{level}\x1b[0m"
    todo = f" {check.todo}" if check.todo else ""
    return level + visible(f" {check.name.ljust(16)} {check.found.rstrip('.')}.{todo}")
