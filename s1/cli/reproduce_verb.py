"""A table or figure of the paper on any model: its recipe's runs, the table with intervals, the figure.

Without --model the recipe runs on the petri world, and what it needs is trained first. On other models name
each model that the recipe uses: --model main=FOLDER --model random=FOLDER. `s1 reproduce list` lists them.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s1.cli.common import Line, open_benchmark, open_engine, quiet, run_progress, train_progress

if TYPE_CHECKING:
    from s1.evals.benchmarks import Benchmark
    from s1.evals.recipes import Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="+", help="names of recipes, YAML files, `all`, or `list`")
    parser.add_argument("--model", action="append", default=[], metavar="[NAME=]MODEL",
                        help="checkpoint folder, Hub id or engine spec; without NAME it is main")  # fmt: skip
    parser.add_argument("--benchmark", help="name or file; needed with --model (default: petri)")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N questions")
    parser.add_argument("--reward", metavar="NAME:REST", help="reward model of the methods that need one")
    parser.add_argument("--seed", type=int, default=0, help="of sampling and, on petri, of training")
    parser.add_argument("--config", type=Path, help="YAML with changes to the recipe")
    parser.add_argument("--out", type=Path, default=Path("runs/reproduce"), help="folder for all runs")
    parser.add_argument("--report", type=Path, help="markdown file for all tables (default: OUT/report.md)")
    parser.add_argument(
        "--train-rows", type=int, default=1000, metavar="N", help="petri: rows of each training set"
    )
    parser.add_argument("--train-pool", type=int, default=10_000, metavar="N", help="petri: rows of the pool")
    parser.add_argument("--reward-questions", type=int, default=800, metavar="N",
                        help="petri: questions that the reward model learns from")  # fmt: skip
    parser.add_argument("--train-steps", type=int, default=-1, metavar="N", help="petri: stop training there")


def run(arguments: argparse.Namespace) -> int:
    from s1.errors import BadConfig
    from s1.evals.recipes import load_recipe, recipe_names

    if arguments.recipe == ["list"]:
        for name in recipe_names():
            recipe = load_recipe(name)
            print(f"{name:<12} {recipe.title} ({recipe.section}); models: {', '.join(recipe.needs)}")
        return 0
    petri = not arguments.model
    small = (arguments.benchmark or "petri") == "petri"
    changes = _changes(arguments.config)
    names = recipe_names() if arguments.recipe == ["all"] else arguments.recipe
    recipes = [load_recipe(name, petri=small, changes=changes) for name in names]
    if not petri and not arguments.benchmark:
        raise BadConfig("No benchmark is named.", "Give --benchmark math500, aime24, or a file.")
    quiet()
    benchmark = open_benchmark(arguments.benchmark or "petri", arguments.limit)
    models = _petri_models(recipes, arguments) if petri else _named(arguments.model)
    reward = _reward(recipes, arguments, models)
    sections = []
    for recipe in recipes:
        sections += _one(recipe, models, benchmark, reward, arguments)
    report = arguments.report or arguments.out / "report.md"
    _write(report, sections, benchmark, arguments)
    print("\n".join(sections))
    print(f"Written to {report}")
    return 0


def _one(
    recipe: Recipe, models: dict[str, str], benchmark: Benchmark, reward: Any, arguments: argparse.Namespace
) -> list[str]:
    """The runs of one recipe, and its section of the report."""
    from s1.evals.recipe_tables import recipe_table
    from s1.evals.recipes import run_recipe
    from s1.report.figures import scaling_figure

    out = arguments.out / recipe.name
    found = run_recipe(
        recipe, models, benchmark, out, open_engine=open_engine, reward=reward, seed=arguments.seed,
        progress=lambda name: run_progress(Line(), name),
    )  # fmt: skip
    if recipe.table in ("points", "parallel"):
        first = next(iter(found.values()))
        together = replace(first, points=tuple(p for m in found.values() for p in m.points))
        scaling_figure(together, out, name=recipe.name, title=recipe.title)
    about = [recipe.about.strip(), ""] if recipe.about else []
    return ["", f"## {recipe.title}", "", f"{recipe.section} of the paper.", "", *about,
            *recipe_table(recipe, found, out)]  # fmt: skip


def _changes(file: Path | None) -> dict[str, Any]:
    from s1.config import read_yaml

    return dict(read_yaml(file)) if file else {}


def _named(specs: list[str]) -> dict[str, str]:
    """ "NAME=MODEL" by name; a path may hold "=", so a name has no slash."""
    models = {}
    for spec in specs:
        name, equals, model = spec.partition("=")
        models.update({name: model} if equals and "/" not in name else {"main": spec})
    return models


def _petri_models(recipes: list[Recipe], arguments: argparse.Namespace) -> dict[str, str]:
    from s1.evals.recipes import ModelPlan
    from s1.petri.models import make_models

    wanted = {"main": ModelPlan()}
    for recipe in recipes:
        wanted |= recipe.models
    line = Line()
    return make_models(
        wanted, arguments.out / "models", n=arguments.train_rows, pool=arguments.train_pool,
        seed=arguments.seed, max_steps=arguments.train_steps,
        count=lambda name, done, total: line.show(f"{name} {done}/{total}", final=done == total),
        steps=lambda name: train_progress(Line(), f"train {name}"),
    )  # fmt: skip


def _reward(recipes: list[Recipe], arguments: argparse.Namespace, models: dict[str, str]) -> Any:
    """The reward model that was named; on petri one is trained where a run needs it."""
    from s1.methods import load_reward

    if arguments.reward:
        return load_reward(arguments.reward)
    if arguments.model or not any(r.reward for recipe in recipes for r in recipe.runs.values()):
        return None
    from s1.petri.reward import RECORD, RewardSettings, train_reward

    folder = arguments.out / "models" / "reward"
    if not (folder / RECORD).is_file():  # written last
        settings = RewardSettings(questions=arguments.reward_questions, seed=arguments.seed)
        train_reward(
            models["main"], folder, settings, progress=run_progress(Line(), "rollouts for the reward")
        )
    return load_reward(f"petri:{folder}")


def _write(report: Path, sections: list[str], benchmark: Benchmark, arguments: argparse.Namespace) -> None:
    from s1.jsonl import write_bytes

    head = [
        "# The paper's tables and figures, run again",
        "",
        f"Benchmark {benchmark.name} ({benchmark.version}), {len(benchmark.questions)} questions, "
        f"seed {arguments.seed}. "
        f"Models: {', '.join(arguments.model) or 'trained on the petri world'}. Intervals are 95 %, bootstrapped over "
        "questions; differences are paired on the same questions.",
    ]  # fmt: skip
    report.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(report, ("\n".join([*head, *sections]) + "\n").encode())
