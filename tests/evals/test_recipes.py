"""Recipes on the scripted engine: what each names is run, and the tables show the results."""

import random

import pytest

from s1.engines.scripted import ScriptedEngine
from s1.errors import BadConfig
from s1.evals.benchmarks import Benchmark
from s1.evals.compare_runs import right_shares
from s1.evals.recipe_tables import chosen_elsewhere, difference_table, parallel_table, recipe_table
from s1.evals.recipes import ModelPlan, Recipe, RunPlan, load_recipe, plan_of, recipe_names, run_recipe
from s1.methods import load_method
from s1.types import Question, question_id


def benchmark(n: int = 6) -> Benchmark:
    questions = tuple(Question(question_id(f"q{i}"), f"q{i}", "5") for i in range(n))
    return Benchmark("toy", "exact", questions, "1")


def waits_help(prefix: str) -> str:
    if "</think>" in prefix:
        return (" 5" if "Wait" in prefix else " 4") + "<|end|>"
    return " try more and more</think>"


def never_right(prefix: str) -> str:
    return " 4<|end|>" if "</think>" in prefix else " no</think>"


def silent(prefix: str) -> str:
    return "<|end|>" if "</think>" in prefix else "</think>"


def endless(prefix: str) -> str:
    return " and so on" * 300


ENGINES = {"good": waits_help, "bad": never_right, "silent": silent, "endless": endless}


def opened(name: str) -> ScriptedEngine:
    return ScriptedEngine(ENGINES[name])


def recipe(table: str, baseline: str = "") -> Recipe:
    runs = {
        "first": RunPlan(budgets=(4,), waits=(1,)),
        "second": RunPlan(model="other", waits=(1,)),
    }
    return Recipe("toy", "A toy", "section 0", table, runs, baseline, {"other": ModelPlan("random")})


@pytest.fixture
def run(tmp_path, monkeypatch):
    from s1.formats import FORMATS

    monkeypatch.setattr("s1.evals.recipes.choose_format", lambda engine: FORMATS["petri"])

    def go(made: Recipe, main: str = "good", other: str = "bad"):
        models = {"main": main, "other": other}
        return run_recipe(made, models, benchmark(), tmp_path, open_engine=opened), tmp_path

    return go


def test_runs_named_like_paths_stay_below_the_folder(run, tmp_path, monkeypatch):
    runs = {name: RunPlan(waits=(1,)) for name in ("../../up", "a/../b", "plain")}
    made = Recipe("..", "A toy", "section 0", "difference", runs, "plain / natural")
    written = []
    monkeypatch.setattr(
        "s1.evals.recipes.evaluate", lambda b, e, f, p, folder, **_: written.append(folder) or None
    )
    run(made)
    assert len(set(written)) == 3 and all(f.resolve().parent == tmp_path.resolve() for f in written)


@pytest.mark.parametrize("names", [["a b", "a/b"], ["..", "run"]])
def test_two_runs_that_would_share_a_folder_are_refused(tmp_path, names):
    file = tmp_path / "mine.yaml"
    runs = "".join(f"  {name!r}: {{waits: [1]}}\n" for name in names)
    file.write_text(f"title: t\nsection: s\ntable: points\nruns:\n{runs}")
    with pytest.raises(BadConfig, match="would share a folder"):
        load_recipe(str(file))


@pytest.mark.parametrize("name", recipe_names())
@pytest.mark.parametrize("petri", [False, True])
def test_every_recipe_that_ships_can_be_planned(name, petri):
    found = load_recipe(name, petri=petri)
    for each in found.runs.values():
        plan = plan_of(each, found.max_answer)
        assert plan.policies or plan.methods
    assert set(found.needs) - {"main"} == set(found.models)
    if petri:
        assert found.max_answer == 12


def test_the_small_world_changes_only_what_it_names(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "title: t\nsection: s\ntable: points\nruns:\n  a: {budgets: [512], waits: [1]}\n"
        "petri:\n  runs:\n    a: {budgets: [16]}\n"
    )
    assert load_recipe(str(file)).runs["a"].budgets == (512,)
    small = load_recipe(str(file), petri=True, changes={"max_answer": 7})
    assert (small.runs["a"].budgets, small.runs["a"].waits, small.max_answer) == ((16,), (1,), 7)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("title: [", "YAML"),
        ("- a", "found list"),
        ("title: t\nsection: s\ntable: pie\nruns: {a: {}}", "'pie'"),
        ("title: t\nsection: s\ntable: points\nruns: {a: {budget: [1]}}", "unknown field 'budget'"),
        ("title: t\nsection: s\ntable: points\nrun: {}", "unknown field 'run'"),
        ("section: s\ntable: points\nruns: {a: {}}", "'title' is missing"),
    ],
)
def test_a_recipe_that_cannot_be_read_says_where(tmp_path, text, problem):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(BadConfig, match=problem) as caught:
        load_recipe(str(file))
    assert "mine.yaml" in str(caught.value)


def test_an_unknown_recipe_gets_the_nearest_name():
    with pytest.raises(BadConfig, match="Did you mean 'figure1'"):
        load_recipe("figur1")


def test_models_and_reward_models_that_are_missing_are_named_before_anything_runs(tmp_path):
    with pytest.raises(BadConfig, match="needs the model 'other'"):
        run_recipe(recipe("points"), {"main": "good"}, benchmark(), tmp_path, open_engine=opened)
    needy = Recipe("toy", "", "", "points", {"a": RunPlan(reward=True)})
    with pytest.raises(BadConfig, match="a needs a reward model"):
        run_recipe(needy, {"main": "good"}, benchmark(), tmp_path, open_engine=opened)
    assert not list(tmp_path.iterdir())


def test_waits_without_the_natural_end_and_with_another_string():
    plan = plan_of(RunPlan(waits=(2,), wait=("Hmm",), natural=False))
    assert [p.label for p in plan.policies] == ["wait 2, with 'Hmm'"]
    assert [p.label for p in plan_of(RunPlan(wait=("Hmm",))).policies] == ["natural"]


def test_a_recipe_that_ran_is_not_run_again(run):
    first, out = run(recipe("points"))
    again = {p: p.stat().st_mtime_ns for p in out.rglob("questions.jsonl")}
    second, _ = run(recipe("points"))
    assert first == second and again == {p: p.stat().st_mtime_ns for p in out.rglob("questions.jsonl")}


def test_the_points_table_has_every_policy_with_its_interval(run):
    made = recipe("points")
    found, out = run(made)
    lines = recipe_table(made, found, out)
    assert len(lines) == 2 + 3 + 2
    assert any(line.startswith("| first: wait 1 | 100.0 (") and line.endswith("| 6 |") for line in lines)
    assert any(line.startswith("| second: wait 1 | 0.0 (0.0 to ") for line in lines)


def test_the_metrics_table_has_a_run_a_row(run):
    made = recipe("metrics")
    found, out = run(made)
    rows = recipe_table(made, found, out)[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| first", "| second"]
    assert " 100.0 " in rows[0] and " 0.0 " in rows[1]


def test_differences_are_paired_with_the_baseline(run):
    found, out = run(recipe("difference"))
    rows = difference_table(found, out, "first / natural")
    assert any(r.startswith("| first: wait 1 |") and "+100.0 (" in r for r in rows)
    assert sum("+0.0 (" in r for r in rows) == 3  # max 4 of the first run, both rows of the second
    with pytest.raises(BadConfig, match="'first / nothing'.*first / wait 1"):
        difference_table(found, out, "first / nothing")


def test_a_parallel_row_is_compared_with_the_best_sequential_one_that_spends_no_more(run):
    found, out = run(recipe("parallel"))
    rows = [r for r in parallel_table(found, out) if r.startswith(("| natural | 0.0", "| wait 1 | 0.0"))][-2:]
    assert "none spends so little" in rows[0]  # " no" is shorter than every sequential policy
    assert right_shares(out / "first")["waits=1"] == dict.fromkeys((q.id for q in benchmark().questions), 1.0)


@pytest.mark.parametrize("table", ["points", "metrics", "difference", "parallel"])
@pytest.mark.parametrize("models", [("silent", "silent"), ("endless", "silent"), ("silent", "endless")])
def test_a_table_is_made_of_whatever_models_say(run, table, models):
    made = recipe(table, "first / natural" if table == "difference" else "")
    found, out = run(made, *models)
    assert len(recipe_table(made, found, out)) > 3


def test_methods_within_a_recipe_take_the_answer_limit():
    method = plan_of(RunPlan(methods=("forcing",), natural=False), max_answer=9).methods[0]
    assert method == load_method("forcing", policy=plan_of(RunPlan(), 9).policies[0])


class OtherFolder(ScriptedEngine):
    """A scripted engine that says it loaded a folder."""

    def __init__(self, folder: str) -> None:
        super().__init__(never_right if folder.startswith("b") else waits_help)
        self.name = f"hf:{folder}"


def test_another_model_of_the_same_base_name_or_path_does_not_get_the_scores_of_the_first(
    tmp_path, monkeypatch
):
    from s1.formats import FORMATS

    monkeypatch.setattr("s1.evals.recipes.choose_format", lambda engine: FORMATS["petri"])
    made = Recipe("toy", "A toy", "section 0", "points", {"one": RunPlan()})
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name / "model").mkdir(parents=True)
        (tmp_path / name / "model" / "config.json").write_text(name)

    def go(model: str):
        return run_recipe(made, {"main": model}, benchmark(), tmp_path / "out", open_engine=OtherFolder)

    first = go("a/model")
    assert first == go("a/model")
    with pytest.raises(BadConfig, match="model_id was"):
        go("b/model")
    (tmp_path / "a" / "model" / "config.json").write_text("trained again in place")
    with pytest.raises(BadConfig, match="model_id was"):
        go("a/model")


def test_the_best_of_equal_policies_is_no_better_than_one_of_them():
    """The best on the same questions would be 6 points better; 400 trials of 40 questions vary by 0.4 points."""
    rng, means, naive = random.Random(1), [], []
    for _ in range(400):
        policies = [{f"q{i}": float(rng.random() < 0.5) for i in range(40)} for _ in range(4)]
        chosen = chosen_elsewhere(policies)
        assert chosen.keys() == policies[0].keys()
        means.append(sum(chosen.values()) / 40)
        naive.append(max(sum(p.values()) / 40 for p in policies))
    assert sum(naive) / 400 > 0.55 and abs(sum(means) / 400 - 0.5) < 0.02
    assert chosen_elsewhere([{"only": 1.0}, {"only": 0.0}]) == {"only": 1.0}
