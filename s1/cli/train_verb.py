"""Fine-tune a model on traces: loss on thinking and answer only, the paper's recipe unless changed."""

from __future__ import annotations

import argparse
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

from s1.cli.options import add_settings, silence_libraries
from s1.cli.progress import ProgressBar
from s1.config import load_settings
from s1.errors import BadConfig, Interrupted, require
from s1.formats import get_format
from s1.jsonl import locked
from s1.petri import world
from s1.terminal import visible
from s1.train.model import require_gpu, save_merged
from s1.train.plan import devices_named
from s1.train.settings import TrainSettings, train_recipe
from s1.train.sft import plan_train, train
from s1.train.trainer import check_tracker, is_first_process, processes, use_one_gpu


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="output folder of s1 curate, or a file of traces")
    parser.add_argument(
        "--base", required=True, metavar="MODEL",
        help="checkpoint folder or Hub id; petri: the model that ships",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the trained model")
    parser.add_argument(
        "--plan", action="store_true", help="only say what the run takes: steps, tokens, FLOPs, memory, hours"
    )
    parser.add_argument(
        "--on", metavar="GPUS", help="the GPUs to plan for, as in 8xH100 (default: what is here)"
    )
    parser.add_argument(
        "--recipe", metavar="NAME",
        help="s1-32b (the paper's), 7b-8gpu, 7b-1gpu, lora-1gpu, qlora-24gb or laptop (docs/guides/train.md)",
    )  # fmt: skip
    parser.add_argument(
        "--gpus", type=int, default=1, metavar="N",
        help="processes to start here, one for each GPU (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--format", metavar="NAME", help="thinking format to teach (default: s1; petri for --base petri)"
    )
    parser.add_argument(
        "--merge", action="store_true", help="also write base and adapter as one model, to DIR/merged"
    )
    parser.add_argument(
        "--track", choices=("tensorboard", "wandb", "trackio"), default="", metavar="NAME",
        help="tensorboard, wandb or trackio: also log every step there",
    )  # fmt: skip
    add_settings(parser, "TrainSettings (s1.train.settings)")


def run(arguments: argparse.Namespace) -> int:
    from s1.data.read_traces import read_traces

    if arguments.gpus == 1:
        use_one_gpu()
    require("train")
    check_tracker(arguments.track)
    base, fmt, defaults = arguments.base, "s1", TrainSettings()
    if base == "petri":
        base, fmt, defaults = str(world.base_model()), "petri", world.train_settings()
    if arguments.recipe:
        recipe = train_recipe(arguments.recipe)
        defaults = recipe.settings
        if recipe.gpus and not arguments.plan:
            require_gpu(f"The recipe {recipe.name}")
    settings = load_settings(defaults, arguments.config, arguments.set)
    if arguments.merge and not settings.lora_rank:
        raise BadConfig("--merge needs an adapter, and this run trains all weights.", "Leave --merge out.")
    chosen = get_format(arguments.format or fmt)
    silence_libraries()
    if arguments.plan:
        gpus, device = devices_named(arguments.on) if arguments.on else (arguments.gpus, None)
        traces = read_traces(arguments.dataset)
        print(visible(plan_train(base, traces, chosen, settings, gpus, device)))
        return 0
    if arguments.out is None or arguments.on:
        raise BadConfig("A run needs --out, and --on is for --plan only.", "Add --out DIR, or --plan.")
    if arguments.gpus < 1:
        raise BadConfig(f"--gpus is {arguments.gpus}.", "Use 1 or more; one process needs no GPU.")
    if arguments.gpus > 1 and processes() == 1:
        _launch(arguments.gpus)
        return 0
    alone = locked(arguments.out) if is_first_process() else nullcontext()
    with alone, ProgressBar("train") as bar:
        traces = read_traces(arguments.dataset)
        out = train(base, traces, arguments.out, chosen, settings, notify=_note, progress=bar.show_training,
                    track=arguments.track)  # fmt: skip
    if not is_first_process():
        return 0
    if arguments.merge:
        out = save_merged(out, base)
    print(visible(f"Written to {out}"))
    return 0


def _note(text: str) -> None:
    if is_first_process():
        print(visible(text), file=sys.stderr)


def _launch(processes: int) -> None:
    """Run this command in several processes with torchrun. Raises Interrupted when one of them fails."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    done = subprocess.run([sys.executable, *launcher, "-m", "s1", *sys.argv[1:]], check=False)
    if done.returncode:
        raise Interrupted(
            f"One of the {processes} processes ended before the run was finished; the others were stopped.",
            "Its message is above. The same command resumes from the last checkpoint.",
        )
