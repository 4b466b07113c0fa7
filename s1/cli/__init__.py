"""The command `s1`, with one small module per verb.

It uses argparse, which is in the standard library: help is printed before any other parser would be imported.
Only the module of the verb that is run is imported. It imports nothing heavy at its top: the libraries of an extra are
imported by the functions that need them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from s1 import __version__
from s1.errors import EXTRAS, MissingExtra, S1Error
from s1.terminal import valid_text, visible
from s1.version import warn_untested


class Verb(NamedTuple):
    """What the help says about a verb; its module is `s1.cli.NAME_verb`."""

    summary: str
    example: str
    resumes: bool = False
    """Whether the same command continues what was interrupted."""


VERBS = {
    "demo": Verb("run the whole path on the small world that ships", "s1 demo --quick", resumes=True),
    "curate": Verb(
        "choose about 1,000 questions with traces from a pool",
        "s1 curate traces.parquet --tokenizer Qwen2.5-7B-Instruct --against math500.jsonl --out data/s1k",
        resumes=True,
    ),
    "train": Verb(
        "fine-tune a model on traces",
        "s1 train data/s1k --base Qwen/Qwen2.5-7B-Instruct --out models/s1",
        resumes=True,
    ),
    "think": Verb(
        "think about one question within a budget",
        's1 think "How many r are in raspberry?" --model models/s1 --max-thinking 2000 --waits 2',
    ),
    "serve": Verb(
        "serve a model with a thinking dial, for any client and in the browser",
        "s1 serve --model models/s1 --max-thinking 2000",
    ),
    "doctor": Verb("check whether it is safe to force a model's budget", "s1 doctor models/s1"),
    "eval": Verb(
        "run one policy on a benchmark",
        "s1 eval --benchmark math500 --model models/s1 --max-thinking 4096",
        resumes=True,
    ),
    "sweep": Verb(
        "run a grid of budgets and waits on a benchmark",
        "s1 sweep --benchmark math500 --model models/s1 --budgets 512,1024,2048 --waits 1,2 --out runs/curve",
        resumes=True,
    ),
    "report": Verb("grade a run again; write its figure and page", "s1 report runs/curve"),
    "reproduce": Verb(
        "repeat a table or figure of the paper",
        "s1 reproduce figure1 --model models/s1 --benchmark math500",
        resumes=True,
    ),
}


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The parser of all verbs. With `only`, the other verbs have no options, so their modules are not imported."""
    parser = argparse.ArgumentParser(
        prog="s1",
        description="Simple test-time scaling: make a model think shorter or longer, and measure it.",
    )
    parser.add_argument("--version", action="version", version=f"s1 {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, verb in VERBS.items():
        sub = verbs.add_parser(
            name, help=verb.summary, epilog=f"example:\n  {verb.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
        )  # fmt: skip
        if only in (None, name):
            module = import_module(f"s1.cli.{name}_verb")
            sub.description = module.__doc__
            module.add_arguments(sub)
            sub.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code: 0, 2 for an error that the user can fix, 130 after Ctrl-C."""
    given = sys.argv[1:] if argv is None else argv
    parser = build_parser(given[0] if given else "")
    for argument in given:
        if valid_text(argument) != argument:
            parser.error(
                visible(f"The argument {argument} is not valid UTF-8. Give texts and names in UTF-8.")
            )
    arguments = parser.parse_args(given)
    verb = arguments.verb
    try:
        warn_untested()
        code: int = arguments.run(arguments) or 0
        sys.stdout.flush()
        return code
    except S1Error as error:
        print(visible(f"s1 {verb}: {error}"), file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        module = (error.name or "").split(".")[0]
        extra = next((extra for extra, modules in EXTRAS.items() if module in modules), None)
        if extra is None:
            raise
        print(visible(f"s1 {verb}: {MissingExtra(module, extra)}"), file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of a pipe has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(visible(f"s1 {verb}: {error.strerror or error}: {error.filename or ''}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        hint = " Rerun the command to resume." if VERBS[verb].resumes else ""
        print(visible(f"s1 {verb}: interrupted.{hint}"), file=sys.stderr)
        return 130
