"""Fine-tune a model on traces: loss on thinking and answer only, the paper's recipe unless changed."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="output folder of s1 curate, or a file of traces")
    parser.add_argument(
        "--base", required=True, help="model to start from: folder or Hub id; petri is the shipped one"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--format", help="thinking format to teach (default: s1; petri for the petri base)")
    parser.add_argument("--config", type=Path, help="YAML with settings of s1.train.sft.TrainSettings")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change one setting")


def run(arguments: argparse.Namespace) -> int:
    from s1.cli.common import Line, quiet, train_progress
    from s1.config import load_settings
    from s1.data.read_traces import read_traces
    from s1.formats import get_format
    from s1.train.sft import TrainSettings, train

    petri = arguments.base == "petri"
    defaults = TrainSettings()
    base = arguments.base
    if petri:
        from s1.petri.world import base_model, train_settings

        base, defaults = str(base_model()), train_settings()
    settings = load_settings(defaults, arguments.config, arguments.set)
    fmt = get_format(arguments.format or ("petri" if petri else "s1"))
    quiet()
    out = train(base, read_traces(arguments.dataset), arguments.out, fmt, settings,
                progress=train_progress(Line(), "train"))  # fmt: skip
    print(f"Written to {out}")
    return 0
