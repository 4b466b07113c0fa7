"""Write a run in the layout of another harness, for the tools that read its results."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="a graded run folder")
    parser.add_argument(
        "--to",
        choices=("lm-eval", "inspect"),
        required=True,
        help="lm-evaluation-harness (results_*.json, samples_*.jsonl) or Inspect AI (*.eval)",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")


def run(arguments: argparse.Namespace) -> int:
    from s1.harness.results import write_inspect, write_lm_eval

    write = write_lm_eval if arguments.to == "lm-eval" else write_inspect
    for file in write(arguments.folder, arguments.out):
        print(file)
    return 0
