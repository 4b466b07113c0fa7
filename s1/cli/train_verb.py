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
        "--format", metavar="NAME", help="thinking format to teach (default: s1; petri for --base petri)"
    )
    add_settings(parser, "TrainSettings (s1.train.sft)")


def run(arguments: argparse.Namespace) -> int:
    from s1.config import load_settings
    from s1.data.read_traces import read_traces
    from s1.errors import require
    from s1.formats import get_format
    from s1.train.sft import TrainSettings, train

    require("train")
    base, fmt, defaults = arguments.base, "s1", TrainSettings()
    if base == "petri":
        from s1.petri import world

        base, fmt, defaults = str(world.base_model()), "petri", world.train_settings()
    settings = load_settings(defaults, arguments.config, arguments.set)
    chosen = get_format(arguments.format or fmt)
    silence_libraries()
    with ProgressBar("train") as bar:
        traces = read_traces(arguments.dataset)
        out = train(base, traces, arguments.out, chosen, settings, progress=bar.show_training)
    print(visible(f"Written to {out}"))
    return 0
