"""Fine-tune a model on traces: loss on thinking and answer only, the paper's recipe unless changed."""

from __future__ import annotations

import argparse
from pathlib import Path

from s1.cli.options import add_settings, silence_libraries
from s1.cli.progress import ProgressBar
from s1.terminal import visible


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="output folder of s1 curate, or a file of traces")
    parser.add_argument(
        "--base",
        required=True,
        metavar="MODEL",
        help="checkpoint folder or Hub id; petri: the model that ships",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the trained model")
    parser.add_argument(
        "--recipe",
        metavar="NAME",
        help="s1-32b (the paper's), 7b-8gpu, 7b-1gpu, lora-1gpu, qlora-24gb or laptop (docs/guides/train.md)",
    )
    parser.add_argument(
        "--format", metavar="NAME", help="thinking format to teach (default: s1; petri for --base petri)"
    )
    parser.add_argument(
        "--merge", action="store_true", help="also write base and adapter as one model, to DIR/merged"
    )
    add_settings(parser, "TrainSettings (s1.train.settings)")


def run(arguments: argparse.Namespace) -> int:
    from s1.config import load_settings
    from s1.data.read_traces import read_traces
    from s1.errors import BadConfig, require
    from s1.formats import get_format
    from s1.jsonl import locked
    from s1.train.settings import TrainSettings, train_recipe
    from s1.train.sft import train

    require("train")
    base, fmt, defaults = arguments.base, "s1", TrainSettings()
    if base == "petri":
        from s1.petri import world

        base, fmt, defaults = str(world.base_model()), "petri", world.train_settings()
    if arguments.recipe:
        defaults = train_recipe(arguments.recipe).settings
    settings = load_settings(defaults, arguments.config, arguments.set)
    if arguments.merge and not settings.lora_rank:
        raise BadConfig("--merge needs an adapter, and this run trains all weights.", "Leave --merge out.")
    chosen = get_format(arguments.format or fmt)
    silence_libraries()
    with locked(arguments.out), ProgressBar("train") as bar:
        traces = read_traces(arguments.dataset)
        out = train(base, traces, arguments.out, chosen, settings, progress=bar.show_training)
    if arguments.merge:
        from s1.train.model import save_merged

        out = save_merged(out, base)
    print(visible(f"Written to {out}"))
    return 0
