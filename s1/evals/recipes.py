"""A result of the paper as a recipe: which runs, on which models, and which table comes of them.

A recipe is YAML (those of the paper lie in `s1/recipes`):

    title: what it shows                      section: where in the paper
    table: points | metrics | difference | parallel
    baseline: RUN / POLICY                    difference: what every other row is compared with
    runs:
      NAME: {model, budgets, waits, wait, natural, methods, samples, temperature, reward}
    models:                                   those besides `main` that the runs name
      NAME: {strategy, conditional}           how the small world makes it
    paper: [[row, control, scaling, performance]]   what the paper has, for the report
    petri: {...}                              what is other on the small world; same keys, merged

Every run is a folder of `s1.runs`, so a recipe that was stopped goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s1.errors import BadConfig, BadInput, nearest
from s1.evals.benchmarks import Benchmark
from s1.evals.run import Plan, Progress, evaluate, policies_of
from s1.formats import choose_format
from s1.methods import Reward, load_method
from s1.policy import BudgetPolicy
from s1.types import Engine, Sampling, from_json

FOLDER = Path(__file__).parent.parent / "recipes"
TABLES = ("points", "metrics", "difference", "parallel")


@dataclass(frozen=True, slots=True)
class RunPlan:
    """One run of a recipe: the policies and methods of one model."""

    model: str = "main"
    budgets: tuple[int, ...] = ()
    waits: tuple[int, ...] = ()
    wait: tuple[str, ...] = ("Wait",)
    natural: bool = True
    """Whether the natural end is among the policies."""
    methods: tuple[str, ...] = ()
    """As in `s1 eval --method`."""
    samples: int = 1
    temperature: float = 0.0
    reward: bool = False
    """Whether a method of it needs the reward model."""


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """How the small world makes a model that a recipe names."""

    strategy: str = "s1k"
    """The training set: s1k, random, longest, diverse or full."""
    conditional: str = ""
    """"token" or "step": what its prompts say of the length (section 3.2)."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """See the module's text for each field."""

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
        """The models that its runs name."""
        return tuple(dict.fromkeys(run.model for run in self.runs.values()))


def recipe_names() -> list[str]:
    """The recipes that ship."""
    return sorted(f.stem for f in FOLDER.glob("*.yaml"))


def load_recipe(name: str, *, petri: bool = False, changes: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe that ships, by name, or a YAML file. `petri` merges what is other on the small world.

    Raises BadConfig for an unknown recipe or field, naming the nearest one.
    """
    import yaml

    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise BadConfig(f"Unknown recipe {name!r}.", nearest(name, recipe_names()))
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadConfig(f"{path} is no YAML: {error}".replace("\n", " "), "Mend it there.") from error
    if not isinstance(data, dict):
        raise BadConfig(f"{path} is no mapping.", "See the module s1.evals.recipes.")
    small = data.pop("petri", {})
    data = _merged(data, small) if petri else data
    data = _merged(data, changes or {})
    try:
        runs = {key: from_json(RunPlan, value or {}) for key, value in data.pop("runs", {}).items()}
        models = {key: from_json(ModelPlan, value or {}) for key, value in data.pop("models", {}).items()}
        recipe = from_json(Recipe, {"name": path.stem, "runs": {}, **data, "models": {}})
    except BadInput as error:
        raise BadConfig(f"{path}: {error.message}", "See the module s1.evals.recipes.") from error
    recipe = Recipe(**{f: getattr(recipe, f) for f in Recipe.__slots__} | {"runs": runs, "models": models})
    if recipe.table not in TABLES or not runs:
        raise BadConfig(
            f"{path}: table is {recipe.table!r}, {len(runs)} runs.", f"Tables: {', '.join(TABLES)}."
        )
    return recipe


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


def plan_of(run: RunPlan, max_answer: int | None = None, seed: int = 0) -> Plan:
    """Policies and methods of one run."""
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
    progress: Callable[[str], Callable[[Progress], None]] = lambda name: lambda p: None,
) -> dict[str, dict[str, Any]]:
    """Every run of the recipe into its folder below `out`; returns their metrics by name.

    `models` maps the names that the recipe uses to checkpoint folders, Hub ids or engine specs. Raises
    BadConfig for a model or reward model that is missing, before anything is decoded.
    """
    missing = [name for name in recipe.needs if name not in models]
    if missing:
        raise BadConfig(
            f"{recipe.name} needs the model {missing[0]!r} ({', '.join(recipe.needs)} in all).",
            f"Name it: --model {missing[0]}=FOLDER.",
        )
    if reward is None and (rewarded := [n for n, r in recipe.runs.items() if r.reward]):
        raise BadConfig(f"{recipe.name}: the run {rewarded[0]} needs a reward model.", "Give --reward.")
    plans = {name: plan_of(run, recipe.max_answer, seed) for name, run in recipe.runs.items()}
    found: dict[str, dict[str, Any]] = {}
    for model in recipe.needs:  # each model is loaded once
        engine = open_engine(models[model])
        try:
            fmt = choose_format(engine)
            for name, plan in plans.items():
                run = recipe.runs[name]
                if run.model == model:
                    found[name] = evaluate(
                        benchmark, engine, fmt, plan, out / name, model=f"{model}: {Path(models[model]).name}",
                        reward=reward if run.reward else None, progress=progress(f"{recipe.name} {name}"),
                    )  # fmt: skip
        finally:
            asyncio.run(engine.close())
    return {name: found[name] for name in recipe.runs}


def folders(recipe: Recipe, out: Path) -> dict[str, Path]:
    """The run folder of each run."""
    return {name: out / name for name in recipe.runs}
