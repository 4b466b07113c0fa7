"""Choose about 1,000 questions with traces from a pool: quality, difficulty, diversity, with a ledger.

  s1 curate POOL --out DIR                            the whole pipeline: dataset.parquet, ledger.json, report.md
  s1 curate collect SOURCE[=PATH] ... --out DIR       questions of the paper's sources, or your own
  s1 curate teach POOL --model M --url URL --out DIR  traces from a teacher
  s1 curate clean POOL --out DIR                      drop cut, empty, looping, badly formatted rows
  s1 curate difficulty POOL --model A --model B ...   attempts of models, graded; drop what they solve
  s1 curate diversity POOL --model M ...              the domain of each question
  s1 curate decontaminate POOL --against FILE ...     benchmark hits and copies; prints every hit
  s1 curate select POOL --n N --out DIR               only the draw

POOL is a file, a folder, or the output of another stage. To read a file named like a stage, write ./clean. After
an interruption the same command resumes: OUT/journal.jsonl keeps model calls, .OUT.work beside OUT keeps finished
parts.

Example: s1 curate traces.parquet --out curated --tokenizer tokenizer.json --against aime2024.jsonl
"""

from __future__ import annotations

import argparse
from pathlib import Path

from s1.errors import BadConfig

READING = ("out", "column", "set", "config", "executor", "workers", "ray_address")
OPTIONS = {
    "collect": ("out", "seed", "sources"),
    "teach": ("out", "column", "set", "config", "model", "url", "samples", "max_usd"),
    "clean": (*READING, "tokenizer"),
    "difficulty": (
        *READING, "tokenizer", "model", "url", "samples", "max_usd", "judge", "most_solved",
    ),
    "diversity": (*READING, "model", "url", "max_usd", "domains"),
    "decontaminate": (*READING, "against"),
    "select": (*READING, "tokenizer", "n", "seed"),
    "": (*READING, "tokenizer", "n", "seed", "against"),
}  # fmt: skip
"""The options that each stage takes; "" is the whole pipeline. Any other is an error, not ignored."""
DEFAULTS = {
    "n": 1000, "seed": 0, "samples": 1, "most_solved": 0.0, "executor": "local", "column": (), "set": (),
    "model": (),
}  # fmt: skip
"""Set once it is known which options were given."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "pool", nargs="+", metavar="[STAGE] POOL",
        help="files or folders (Parquet, JSONL, JSON, CSV); petri is the small world",
    )  # fmt: skip
    add = parser.add_argument
    add("--out", type=Path, help="output folder")
    add("--n", type=int, help="how many rows to select (default: 1000)")
    add("--seed", type=int, help="seed of the draw (default: 0)")
    add("--against", nargs="+", metavar="FILE", help="benchmarks to decontaminate against")
    add("--tokenizer", metavar="PATH", help="tokenizer.json or its folder, to measure traces in tokens")
    add("--column", action="append", metavar="FIELD=NAME", help="the file's column for a pool column")
    add("--set", action="append", metavar="NAME=VALUE", help="change one setting, such as profile=official")
    add(
        "--config", type=Path,
        help="YAML with CurateSettings (s1.data.curate_settings), or with ApiSettings (s1.clients.chat) for teach, "
        "difficulty and diversity",
    )  # fmt: skip
    add("--sources", type=Path, metavar="YAML", help="your own sources, besides those of the paper")
    add = parser.add_argument_group("stages that call models").add_argument
    add(
        "--model", action="append", metavar="NAME",
        help="model on the server of --url, NAME@URL[@KEY_ENV] on another, or an engine spec without --url",
    )  # fmt: skip
    add(
        "--url",
        help="OpenAI-compatible server, such as http://localhost:8000/v1; its key is read from OPENAI_API_KEY",
    )
    add("--judge", metavar="NAME", help="model that grades what symbols cannot decide")
    add("--samples", type=int, metavar="K", help="traces or attempts for each question (default: 1)")
    add(
        "--most-solved", type=float, metavar="X",
        help="drop what a model solves in more than this share (default: 0)",
    )  # fmt: skip
    add(
        "--max-usd", type=float, metavar="X",
        help="spending cap; needs usd_per_million_in and usd_per_million_out",
    )  # fmt: skip
    add("--domains", type=Path, metavar="YAML", help="another list of subjects than the MSC")
    add = parser.add_argument_group("where the work is done").add_argument
    add("--executor", choices=("local", "ray"), help="this machine (default) or a Ray cluster")
    add(
        "--workers", type=int,
        help="processes on this machine (default: one for 16 MB of files, at most one for each processor)",
    )  # fmt: skip
    add("--ray-address", metavar="ADDRESS", help="cluster to join (default: RAY_ADDRESS, else a local one)")


def run(arguments: argparse.Namespace) -> int:
    stage = arguments.pool[0] if arguments.pool[0] in OPTIONS else ""
    if stage:
        arguments.pool = arguments.pool[1:]
    name = f"curate {stage}".strip()
    for option, value in vars(arguments).items():
        if value is not None and option not in (*OPTIONS[stage], "pool", "verb", "run"):
            raise BadConfig(
                f"{name} takes no --{option.replace('_', '-')}.",
                "It takes: " + ", ".join(f"--{o.replace('_', '-')}" for o in OPTIONS[stage]) + ".",
            )
    if not arguments.pool and stage != "collect":
        raise BadConfig(f"{name}: no pool was named.", "Name a file or folder.")
    if arguments.out is None and stage != "decontaminate" and (arguments.pool or stage != "collect"):
        raise BadConfig(f"{name} needs --out.", "Name an output folder.")
    from s1.cli.curate_stages import COMMANDS
    from s1.data.ingest import work_folder
    from s1.data.output import refuse_other_stage

    vars(arguments).update({o: v for o, v in DEFAULTS.items() if getattr(arguments, o) is None})
    with work_folder(arguments.out) as arguments.work:  # locks the output folder
        if stage and arguments.out is not None:
            refuse_other_stage(arguments.out, stage)
        arguments.stage = stage
        COMMANDS[stage](arguments)
    return 0
