"""The whole path on the petri world: pool, curate, train, sweep, report, in about five minutes on two cores.

Everything really runs: the base weights ship with the package, the rest is made here. A demo that was
stopped goes on where it was. docs/petri.md says what this small world can and cannot show.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from s1.cli.common import DEMO

WHOLE = {"questions": 400, "n": 1000, "pool": 10_000}
QUICK = {"questions": 60, "n": 240, "pool": 700}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=DEMO, help=f"run folder (default: {DEMO})")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a small demo in about a minute: --pool 700 --n 240 --questions 60",
    )
    parser.add_argument("--questions", type=int, metavar="N", help="test questions (default: 400)")
    parser.add_argument("--seed", type=int, default=0, help="seed of pool, selection and training")
    parser.add_argument("--pool", type=int, metavar="N", help="traces in the pool (default: 10000)")
    parser.add_argument("--n", type=int, help="traces to select (default: 1000)")


def run(arguments: argparse.Namespace) -> int:
    from s1.cli.common import Line, quiet, run_progress, train_progress
    from s1.cli.report_verb import write_report
    from s1.petri.demo import Demo
    from s1.report.text import metrics_text

    quiet()
    sizes = QUICK if arguments.quick else WHOLE
    given = {name: getattr(arguments, name) for name in sizes if getattr(arguments, name) is not None}
    demo = Demo(arguments.out, arguments.seed, **sizes | given)
    line = Line()
    metrics = demo.run(
        say=print,
        stage=lambda s: print("  " + s.line),
        count=lambda name, done, total: line.show(f"  {name}: {done}/{total}", final=done == total),
        steps=train_progress(line, "  train"),
        progress=run_progress(line, "  sweep"),
    )
    written = write_report(arguments.out)
    print(metrics_text(metrics))
    for path in written:
        print(f"Written: {path}")
    print('Try it: s1 think "solve 5 x + 14 = 7 mod 23" --waits 4')
    return 0
