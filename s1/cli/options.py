"""Options that several verbs share, and what they stand for: a model, a policy, a sampling."""

from __future__ import annotations

import argparse
import os
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from s1.engines import load_engine
from s1.errors import BadConfig
from s1.formats import get_format
from s1.policy import BudgetPolicy, parse_limit
from s1.types import Engine, Sampling

if TYPE_CHECKING:
    from argparse import _ActionsContainer as Options

DEMO = Path("runs/demo")


def add_model(parser: argparse.ArgumentParser) -> None:
    """--model and --format."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model", default="petri",
        help="checkpoint folder, Hub id or engine spec (default: petri, the small model that ships)",
    )  # fmt: skip
    add_format(group)


def add_format(options: Options) -> None:
    options.add_argument("--format", metavar="NAME", help="thinking format, if it cannot be detected")


def add_budget(parser: argparse.ArgumentParser) -> None:
    """One policy; `budget_policy` reads it."""
    group = parser.add_argument_group("thinking budget (tokens)")
    group.add_argument(
        "--max-thinking", type=limit, metavar="N",
        help="end the thinking after N tokens; auto (default): when the context is used up",
    )  # fmt: skip
    group.add_argument(
        "--min-thinking", type=int, default=0, metavar="N", help="suppress an end of thinking before N tokens"
    )
    group.add_argument(
        "--waits", type=int, default=0, metavar="N", help="suppress the end of thinking N times"
    )
    add_wait(group)
    group.add_argument(
        "--grace", type=int, default=0, metavar="N", help="let a cut wait up to N tokens for the end of a sentence"
    )  # fmt: skip
    group.add_argument(
        "--on-loop", choices=("ignore", "end", "wait"), default="ignore",
        help="thinking that repeats itself: nothing (default); cut it; or append the next wait string while waits are "
        "left",
    )  # fmt: skip
    add_max_answer(group)


def add_wait(options: Options, note: str = "") -> None:
    options.add_argument(
        "--wait", type=wait_strings, action="append", default=[], metavar="TEXT",
        help='appended where the end is suppressed (default: Wait); "Wait,Hmm" takes turns, "Wait, then" is one '
        f'string, "" appends nothing{note}',
    )  # fmt: skip


def add_max_answer(options: Options) -> None:
    options.add_argument(
        "--max-answer", type=int, metavar="N",
        help="end the answer after N tokens (default: what the context leaves)",
    )  # fmt: skip


def add_sampling(parser: argparse.ArgumentParser) -> Options:
    """--temperature, --top-p, --top-k and --seed; `sampling` reads them."""
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--temperature", type=float, default=0.0, metavar="T", help="0 (default) decodes greedily"
    )
    group.add_argument(
        "--top-p", type=float, metavar="P", help="draw from the likeliest tokens of this share"
    )
    group.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest tokens")
    group.add_argument("--seed", type=int, metavar="N", help="makes samples repeatable")
    return group


def add_settings(options: Options, settings: str) -> None:
    """--config and --set, which `s1.config.load_settings` reads."""
    options.add_argument("--config", type=Path, metavar="FILE", help=f"YAML file with {settings}")
    options.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="change one setting; may be given several times",
    )  # fmt: skip


def limit(text: str) -> int | None:
    """The value of --max-thinking: a number of tokens, or None for "auto"."""
    try:
        return parse_limit(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of tokens nor auto") from None


def wait_strings(text: str) -> tuple[str, ...]:
    """A cycle of wait strings. Only a comma without a space after it separates two of them.

    >>> wait_strings("Wait,Hmm"), wait_strings("Wait, let me see"), wait_strings("")
    (('Wait', 'Hmm'), ('Wait, let me see',), ('',))
    """
    return tuple(re.split(r",(?=\S)", text))


def budget_policy(arguments: argparse.Namespace) -> BudgetPolicy:
    """The one policy of the options that `add_budget` adds."""
    if len(arguments.wait) > 1:
        raise BadConfig(
            "--wait is given twice.",
            'Name strings that take turns in one: --wait "Wait,Hmm". To compare alternatives, use s1 sweep.',
        )
    return BudgetPolicy(
        max_thinking=arguments.max_thinking,
        min_thinking=arguments.min_thinking,
        waits=arguments.waits,
        wait=arguments.wait[0] if arguments.wait else ("Wait",),
        max_answer=arguments.max_answer,
        grace=arguments.grace,
        on_loop=arguments.on_loop,
    )


def sampling(arguments: argparse.Namespace, default_seed: int | None = None) -> Sampling:
    """How to draw tokens. Raises BadConfig for options that would change nothing without a temperature."""
    given = {name: getattr(arguments, name) for name in ("seed", "top_p", "top_k")}
    given = {name: value for name, value in given.items() if value is not None}
    if not arguments.temperature and given:
        raise BadConfig(
            f"--{next(iter(given)).replace('_', '-')} changes nothing at temperature 0.",
            "Add --temperature, or leave it out.",
        )
    if arguments.temperature and default_seed is not None:
        given.setdefault("seed", default_seed)
    return Sampling(temperature=arguments.temperature, **given)


def open_engine(spec: str, fmt: str | None = None) -> Engine:
    """The engine that `spec` names; one that runs in this process decodes up to 256 requests at once.

    An unknown format is refused before the model is loaded.
    """
    if fmt:
        get_format(fmt)
    if spec.startswith(("openai:", "scripted:", "vllm:")):
        return load_engine(spec)
    silence_libraries()  # before anything imports them
    return load_engine(spec, max_batch=256)


def silence_libraries() -> None:
    """Turn off the progress bars and notices of other libraries; ours is the only bar."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # PEFT asks a model for this name, which transformers has given another.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
