"""Repeat a table or figure of the paper on any model: the recipe's runs, the table with intervals, the figure.

Without --model the recipe runs on the petri world, and what it needs is trained first. For other models name
each model that the recipe uses: --model main=FOLDER --model random=FOLDER. `s1 reproduce list` lists them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from s1.cli.evaluation import add_limit, add_reward
from s1.cli.options import open_engine, silence_libraries
from s1.cli.progress import ProgressBar
from s1.config import read_yaml
from s1.errors import BadConfig, require
from s1.evals.benchmarks import Benchmark, load_benchmark
from s1.evals.recipe_tables import recipe_table
from s1.evals.recipes import ModelPlan, Recipe, load_recipe, recipe_names, run_recipe
from s1.evals.run import RunProgress
from s1.grading.equivalence import require_for
from s1.jsonl import locked, write_bytes
from s1.methods import Reward, load_reward
from s1.report.figures import scaling_figure
from s1.terminal import file_name, visible


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="+", help="names of recipes, YAML files, `all`, or `list`")
    parser.add_argument(
        "--model", action="append", default=[], metavar="[NAME=]MODEL",
        help="checkpoint folder, Hub id or engine spec; NAME is main if left out",
    )  # fmt: skip
    parser.add_argument(
        "--benchmark", metavar="NAME", help="name or file; needed with --model (default: petri)"
    )
    add_limit(parser)
    add_reward(parser)
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file with changes to the recipes")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of sampling, and of training on petri (default: 0)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/reproduce"), metavar="DIR",
        help="folder for all runs (default: runs/reproduce)",
    )  # fmt: skip
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="Markdown file for all tables (default: OUT/report.md)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="petri: train on little data, to see that everything runs"
    )


def run(arguments: argparse.Namespace) -> int:
    if arguments.recipe == ["list"]:
        for name in recipe_names():
            recipe = load_recipe(name)
            print(visible(f"{name:<12} {recipe.title} ({recipe.section}); models: {', '.join(recipe.needs)}"))
        return 0
    if arguments.model and not arguments.benchmark:
        raise BadConfig("No benchmark is named.", "Give --benchmark math500, aime24, or a file.")
    if arguments.model and arguments.quick:
        raise BadConfig("--quick is for models trained on the petri world.", "Leave out --quick or --model.")
    require("report", *[] if arguments.model else ["data", "train"])
    benchmark = load_benchmark(arguments.benchmark or "petri", arguments.limit)
    require_for(benchmark.kind)
    changes = read_yaml(arguments.config) if arguments.config else {}
    names = recipe_names() if arguments.recipe == ["all"] else arguments.recipe
    recipes = [load_recipe(name, petri=benchmark.name == "petri", changes=changes) for name in names]
    reward = load_reward(arguments.reward) if arguments.reward else None
    silence_libraries()
    with locked(arguments.out):
        if arguments.model:
            models = _named_models(arguments.model)
        else:
            models, reward = _petri_models(recipes, reward, arguments)
        sections = []
        for recipe in recipes:
            sections += _run(recipe, models, benchmark, reward, arguments)
        report = arguments.report or arguments.out / "report.md"
        _write(report, sections, benchmark, arguments)
        print(visible("\n".join(sections)))
        print(visible(f"Written to {report}"))
    return 0


def _run(
    recipe: Recipe,
    models: dict[str, str],
    benchmark: Benchmark,
    reward: Reward | None,
    arguments: argparse.Namespace,
) -> list[str]:
    """Run one recipe; returns its section of the report, in lines."""
    out = arguments.out / file_name(recipe.name)
    with ProgressBar(recipe.name) as bar:

        def next_run(name: str) -> Callable[[RunProgress], None]:
            bar.restart(name)
            return bar.show_run

        found = run_recipe(
            recipe, models, benchmark, out, open_engine=open_engine, reward=reward, seed=arguments.seed,
            progress=next_run,
        )  # fmt: skip
    if recipe.table in ("points", "parallel"):
        first = next(iter(found.values()))
        together = replace(first, points=tuple(p for m in found.values() for p in m.points))
        scaling_figure(together, out, name=file_name(recipe.name), title=recipe.title)
    about = [recipe.about.strip(), ""] if recipe.about else []
    return ["", f"## {recipe.title}", "", f"{recipe.section} of the paper.", "", *about,
            *recipe_table(recipe, found, out)]  # fmt: skip


def _named_models(specs: list[str]) -> dict[str, str]:
    """ "NAME=MODEL" by name. A path may contain "=", so a name has no slash."""
    models = {}
    for spec in specs:
        name, equals, model = spec.partition("=")
        models.update({name: model} if equals and "/" not in name else {"main": spec})
    return models


def _petri_models(
    recipes: list[Recipe], reward: Reward | None, arguments: argparse.Namespace
) -> tuple[dict[str, str], Reward | None]:
    """Train every model that the recipes use, and a reward model if a run needs one and none was named."""
    from s1.petri.reward import RECORD, train_reward
    from s1.petri.training import PetriSizes, make_model, stored_pool
    from s1.train.trainer import use_one_gpu

    use_one_gpu()
    sizes = (
        PetriSizes(rows=64, pool=600, max_steps=5, reward_questions=24) if arguments.quick else PetriSizes()
    )
    out, seed = arguments.out / "models", arguments.seed
    plans = {"main": ModelPlan()}
    for recipe in recipes:
        plans |= recipe.models
    models = {}
    with ProgressBar("attempts of the base model") as bar:
        pool = stored_pool(out / "pool", sizes.pool, seed, bar.update)
        for name, plan in plans.items():
            bar.restart(f"train {name}")
            models[name] = str(make_model(plan, out / file_name(name), pool, sizes, seed, bar.show_training))
        if reward is None and any(r.reward for recipe in recipes for r in recipe.runs.values()):
            if not (out / "reward" / RECORD).is_file():  # written last
                bar.restart("rollouts for the reward model")
                questions = sizes.reward_questions
                train_reward(models["main"], out / "reward", questions, seed, progress=bar.show_run)
            reward = load_reward(f"petri:{out / 'reward'}")
    return models, reward


def _write(report: Path, sections: list[str], benchmark: Benchmark, arguments: argparse.Namespace) -> None:
    head = [
        "# The paper's tables and figures, run again",
        "",
        f"Benchmark {benchmark.name} ({benchmark.version}), {len(benchmark.questions)} questions, "
        f"seed {arguments.seed}. "
        f"Models: {', '.join(arguments.model) or 'trained on the petri world'}. Intervals are 95 %, over "
        "questions; differences are paired on the same questions.",
    ]
    report.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(report, ("\n".join([*head, *sections]) + "\n").encode())
