"""The command `s1`: one small module per verb.

argparse because it is in the standard library: help answers before any other parser would be imported.
A verb's module imports nothing heavy at its top; what it needs is imported when it runs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from s1 import __version__
from s1.errors import MissingExtra, S1Error
from s1.version import warn_untested

VERBS = {
    "demo": "the whole path on the small world that ships: curate, train, force, measure",
    "curate": "choose about 1,000 questions with traces from a pool",
    "train": "fine-tune a model on traces",
    "think": "think about one question, within a budget",
    "doctor": "is it safe to force the budget of this model: checks and short probes",
    "eval": "one policy on a benchmark",
    "sweep": "a grid of budgets and waits on a benchmark, from one trunk",
    "report": "grade a run again; write its figure and page",
    "reproduce": "a table or figure of the paper, on any model or on the small world",
    "export": "write a run in the layout of lm-evaluation-harness or Inspect AI",
}


EXTRAS = {"torch": "hf", "transformers": "hf", "trl": "train", "polars": "data", "tokenizers": "data",
          "datasets": "data", "matplotlib": "report", "openai": "openai"}  # fmt: skip
"""Which extra brings a library that a verb did not find."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="s1",
        description="Simple test-time scaling: make a model think shorter or longer, and measure it.",
    )
    parser.add_argument("--version", action="version", version=f"s1 {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb, summary in VERBS.items():
        module = import_module(f"s1.cli.{verb}_verb")
        sub = verbs.add_parser(verb, help=summary, description=module.__doc__,
                               formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0, 2 for what the user can mend, 130 after Ctrl-C."""
    arguments = build_parser().parse_args(argv)
    try:
        warn_untested()
        code: int = arguments.run(arguments) or 0
        sys.stdout.flush()
        return code
    except S1Error as error:
        print(f"s1 {arguments.verb}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        print(f"s1 {arguments.verb}: {MissingExtra(str(error.name), extra)}", file=sys.stderr)
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # the reader of a pipe has left
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        print(f"s1 {arguments.verb}: {error.strerror or error}: {error.filename or ''}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        again = arguments.verb in ("demo", "train", "eval", "sweep", "reproduce")
        print(
            f"s1 {arguments.verb}: stopped{'; the same command goes on from here' * again}.", file=sys.stderr
        )
        return 130
