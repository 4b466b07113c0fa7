"""A result of the paper as a recipe: which runs, on which models, and which table they give.

A recipe is YAML (those of the paper are in `s1/recipes`):

    title: what it shows                      section: where in the paper
    table: points | metrics | difference | parallel
    baseline: RUN / POLICY                    for difference: the row that every other row is compared with
    runs:
      NAME: {model, budgets, waits, wait, natural, methods, samples, temperature, reward}
    models:                                   the models besides `main` that the runs name
      NAME: {strategy, conditional}           how to train it on the petri world
    paper: [[row, control, scaling, performance]]   the paper's values, for the report
    petri: {...}                              changes for the petri world; same keys, merged

Every run is a folder of `s1.runs`, so a recipe that was stopped can be resumed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from s1.config import read_yaml
from s1.errors import BadConfig, BadInput, nearest
from s1.evals.benchmarks import Benchmark
from s1.evals.metrics import Metrics
from s1.evals.run import Plan, RunProgress, evaluate, policies_of
from s1.formats import choose_format
from s1.methods import Reward, load_method
from s1.policy import BudgetPolicy
from s1.terminal import file_name
from s1.types import Engine, Sampling, from_json

FOLDER = Path(__file__).parent.parent / "recipes"
TABLES = ("points", "metrics", "difference", "parallel")
SEE = "The module s1.evals.recipes describes the fields."


@dataclass(frozen=True, slots=True)
class RunPlan:
    """One run of a recipe: the policies and methods of one model."""

    model: str = "main"
    budgets: tuple[int, ...] = ()
    waits: tuple[int, ...] = ()
    wait: tuple[str, ...] = ("Wait",)
    natural: bool = True
    """Whether the natural end is one of the policies."""
    methods: tuple[str, ...] = ()
    """As in `s1 eval --method`."""
    samples: int = 1
    temperature: float = 0.0
    reward: bool = False
    """Whether one of its methods needs the reward model."""


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """How to train a model of a recipe on the petri world."""

    strategy: str = "s1k"
    """The training set: s1k, random, longest, diverse or full."""
    conditional: str = ""
    """"token" or "step": the unit in which its prompts name a length (section 3.2); empty: not at all."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """The fields are those of the YAML file above."""

    name: str
    title: str
    section: str
    table: str
    runs: Mapping[str, RunPlan]
    baseline: str = ""
    models: Mapping[str, ModelPlan] = field(default_factory=dict)
    paper: tuple[tuple[Any, ...], ...] = ()
    max_answer: int | None = None
    about: str = ""

    @property
    def needs(self) -> tuple[str, ...]:
        """The names of the models that its runs use."""
        return tuple(dict.fromkeys(run.model for run in self.runs.values()))


def recipe_names() -> list[str]:
    """The recipes that ship with s1."""
    return sorted(f.stem for f in FOLDER.glob("*.yaml"))


def load_recipe(name: str, *, petri: bool = False, changes: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe that ships, by name, or a YAML file. `petri` merges its changes for the petri world.

    Raises BadConfig for an unknown recipe or field.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise BadConfig(f"Unknown recipe {name!r}.", nearest(name, recipe_names()))
    data = dict(read_yaml(path))
    small = data.pop("petri", {})
    data = _merged(_merged(data, small if petri else {}), changes or {})
    try:
        runs = {key: from_json(RunPlan, value or {}) for key, value in data.pop("runs", {}).items()}
        models = {key: from_json(ModelPlan, value or {}) for key, value in data.pop("models", {}).items()}
        recipe = from_json(Recipe, {"name": path.stem, **data, "runs": {}})
    except BadInput as error:
        raise BadConfig(f"{path}: {error.message}", SEE) from error
    if recipe.table not in TABLES or not runs:
        raise BadConfig(
            f"{path}: the table is {recipe.table!r} and there are {len(runs)} runs.",
            f"Name a run, and one of these tables: {', '.join(TABLES)}.",
        )
    for names in (runs, models):
        if len(set(map(file_name, names))) < len(names):
            raise BadConfig(f"{path}: two of {', '.join(names)} would share a folder.", "Rename one.")
    return replace(recipe, runs=runs, models=models)


def plan_of(run: RunPlan, max_answer: int | None = None, seed: int = 0) -> Plan:
    """The policies and methods of one run."""
    base = BudgetPolicy(max_answer=max_answer, wait=run.wait)
    natural = BudgetPolicy(max_answer=max_answer)
    policies = [natural if p == base else p for p in policies_of(run.budgets, run.waits, base=base)]
    if not run.natural:
        policies.remove(natural)
    return Plan(
        tuple(policies),
        samples=run.samples,
        sampling=Sampling(temperature=run.temperature, seed=seed if run.temperature else None),
        methods=tuple(load_method(spec, policy=natural) for spec in run.methods),
    )


def run_recipe(
    recipe: Recipe,
    models: Mapping[str, str],
    benchmark: Benchmark,
    out: Path,
    *,
    open_engine: Callable[[str], Engine],
    reward: Reward | None = None,
    seed: int = 0,
    progress: Callable[[str], Callable[[RunProgress], None]] = lambda name: lambda p: None,
) -> dict[str, Metrics]:
    """Every run of the recipe, each in a folder of its name below `out`; returns their metrics by name.

    `models` maps the names that the recipe uses to checkpoint folders, Hub ids or engine specs. Raises
    BadConfig for a missing model or reward model, before anything is decoded.
    """
    missing = [name for name in recipe.needs if name not in models]
    if missing:
        raise BadConfig(
            f"{recipe.name} needs the model {missing[0]!r} (it uses {', '.join(recipe.needs)}).",
            f"Name it: --model {missing[0]}=FOLDER.",
        )
    if reward is None and (rewarded := [n for n, r in recipe.runs.items() if r.reward]):
        raise BadConfig(f"{recipe.name}: the run {rewarded[0]} needs a reward model.", "Add --reward.")
    plans = {name: plan_of(run, recipe.max_answer, seed) for name, run in recipe.runs.items()}
    found: dict[str, Metrics] = {}
    for model in recipe.needs:  # each model is loaded once
        engine = open_engine(models[model])
        try:
            fmt = choose_format(engine)
            for name, plan in plans.items():
                run = recipe.runs[name]
                if run.model == model:
                    found[name] = evaluate(
                        benchmark, engine, fmt, plan, out / file_name(name), model=f"{model}: {models[model]}",
                        reward=reward if run.reward else None, progress=progress(f"{recipe.name} {name}"),
                    )  # fmt: skip
        finally:
            asyncio.run(engine.close())
    return {name: found[name] for name in recipe.runs}


def _merged(data: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`data` with `changes`, mapping by mapping; None removes a key."""
    merged = dict(data)
    for key, value in changes.items():
        old = merged.get(key)
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(old, Mapping):
            merged[key] = _merged(old, value)
        else:
            merged[key] = value
    return merged
