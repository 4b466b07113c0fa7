"""Choose about 1,000 questions with traces from a pool: quality, difficulty, diversity, with a ledger.

  s1 curate POOL --out DIR                            the whole funnel: dataset.parquet, ledger.json, report.md
  s1 curate collect SOURCE[=PATH] ... --out DIR       questions of the paper's sources, or your own
  s1 curate teach POOL --model M --url URL --out DIR  traces from a teacher
  s1 curate clean POOL --out DIR                      drop cut, empty, looping, badly formatted rows
  s1 curate difficulty POOL --model A --model B ...   attempts of models, graded; drop what they solve
  s1 curate diversity POOL --model M ...              the domain of each question
  s1 curate decontaminate POOL --against FILE ...     benchmark hits and copies; prints every hit
  s1 curate select POOL --n N --out DIR               only the draw

POOL is a file, a folder, or what another stage wrote. A file named like a stage: ./clean. The same command
after a kill goes on; model calls are kept in OUT/journal.jsonl, parts that are done in .OUT.work beside OUT.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from s1.errors import BadConfig

WHERE = ("executor", "workers", "ray_address")
STAGES = {
    "collect": ("out", "seed", "sources"),
    "teach": ("out", "column", "set", "config", "model", "url", "samples", "max_usd"),
    "clean": ("out", "column", "set", "config", "tokenizer", *WHERE),
    "difficulty": (
        "out", "column", "set", "config", "tokenizer", "model", "url", "samples", "max_usd", "judge",
        "most_solved", *WHERE,
    ),
    "diversity": ("out", "column", "set", "config", "model", "url", "max_usd", "domains", *WHERE),
    "decontaminate": ("out", "column", "set", "config", "against", *WHERE),
    "select": ("out", "column", "set", "config", "tokenizer", "n", "seed", *WHERE),
    "": ("out", "column", "set", "config", "tokenizer", "n", "seed", "against", *WHERE),
}  # fmt: skip
"""Which options each stage takes; "" is the whole funnel. Any other is an error, not ignored."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "pool",
        nargs="+",
        metavar="[STAGE] POOL",
        help="files or folders (Parquet, JSONL, JSON, CSV); petri is the small world",
    )
    parser.add_argument("--out", type=Path, help="output folder")
    parser.add_argument("--n", type=int, help="how many to select (default: 1000)")
    parser.add_argument("--seed", type=int, help="of the draw (default: 0)")
    parser.add_argument("--against", nargs="+", metavar="FILE", help="benchmarks to decontaminate against")
    parser.add_argument("--tokenizer", metavar="PATH", help="tokenizer.json or its folder, to measure traces")
    parser.add_argument(
        "--column", action="append", metavar="FIELD=NAME", help="where a pool column is found"
    )
    parser.add_argument("--set", action="append", metavar="NAME=VALUE", help="change one setting")
    parser.add_argument(
        "--config",
        type=Path,
        help="YAML with CurateSettings (s1.data.pipeline), or ApiSettings (s1.clients.chat) where models are asked",
    )
    models = parser.add_argument_group("stages that ask models")
    models.add_argument(
        "--model",
        action="append",
        metavar="NAME",
        help="model on the server of --url, NAME@URL[@KEY_ENV] on another, or an engine spec where there is no --url",
    )
    models.add_argument(
        "--url",
        help="OpenAI-compatible server, such as http://localhost:8000/v1; its key is taken from OPENAI_API_KEY",
    )
    models.add_argument("--judge", metavar="NAME", help="model that grades what symbols cannot decide")
    models.add_argument(
        "--samples", type=int, metavar="K", help="traces or attempts for each question (default: 1)"
    )
    models.add_argument(
        "--most-solved",
        type=float,
        metavar="X",
        help="drop what a model solves in more than this share (default: 0)",
    )
    models.add_argument(
        "--max-usd",
        type=float,
        metavar="X",
        help="spending cap; needs usd_per_million_in and usd_per_million_out",
    )
    models.add_argument("--domains", type=Path, metavar="YAML", help="other subjects than the MSC list")
    where = parser.add_argument_group("where the work is done")
    where.add_argument("--executor", choices=("local", "ray"), help="this machine (default) or a Ray cluster")
    where.add_argument(
        "--workers", type=int, help="processes of this machine (default: one for each processor)"
    )
    where.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="cluster to join (default: RAY_ADDRESS, else one is started here)",
    )
    parser.add_argument(
        "--sources", type=Path, metavar="YAML", help="your own sources, beside those of the paper"
    )


def run(arguments: argparse.Namespace) -> int:
    from s1.cli import curate_stages

    stage = arguments.pool[0] if arguments.pool[0] in STAGES else ""
    if stage:
        arguments.pool = arguments.pool[1:]
    name = f"curate {stage}".strip()
    for option, value in vars(arguments).items():
        if value is not None and option not in (*STAGES[stage], "pool", "verb", "run"):
            raise BadConfig(
                f"{name} takes no --{option.replace('_', '-')}.",
                "It takes: " + ", ".join(f"--{o.replace('_', '-')}" for o in STAGES[stage]) + ".",
            )
    if not arguments.pool and stage != "collect":
        raise BadConfig(f"{name}: no pool was named.", "Name a file or folder.")
    if arguments.out is None and stage != "decontaminate" and (arguments.pool or stage != "collect"):
        raise BadConfig(f"{name} needs --out.", "Name an output folder.")
    if stage:
        return int(getattr(curate_stages, stage)(arguments))
    return whole_funnel(arguments)


def whole_funnel(arguments: argparse.Namespace) -> int:
    from dataclasses import replace

    from s1.cli.curate_stages import open_pool
    from s1.config import load_settings
    from s1.data.decontaminate import read_benchmarks
    from s1.data.ledger import Stage
    from s1.data.output import refuse_existing
    from s1.data.pipeline import CurateSettings, curate

    refuse_existing(arguments.out, False)
    defaults = CurateSettings(n=1000 if arguments.n is None else arguments.n, seed=arguments.seed or 0)
    if arguments.pool == ["petri"]:
        from s1.data.quality import PETRI

        defaults = replace(defaults, quality=PETRI, ngram=0)
    settings = load_settings(defaults, arguments.config, arguments.set or ())
    benchmarks = read_benchmarks(arguments.against) if arguments.against else None

    def show(stage: Stage) -> None:
        print(stage.line, file=sys.stderr)

    with open_pool(arguments) as pool:
        ledger = curate(pool, settings, arguments.out, benchmarks=benchmarks, progress=show)
    for note in ledger.notes:
        print(f"Note: {note}", file=sys.stderr)
    print(f"{ledger.chosen.height} rows selected. Written to {arguments.out}")
    return 0
