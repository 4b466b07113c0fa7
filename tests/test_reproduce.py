"""Every recipe that ships, end to end on the petri world: few rows, few steps, few questions."""

import pytest

from s1.cli import main
from s1.evals.recipes import load_recipe, recipe_names
from s1.terminal import file_name


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_recipe_runs_on_the_small_world_and_a_second_call_changes_nothing(tmp_path, capsys):
    arguments = ["reproduce", "all", "--out", str(tmp_path / "out"), "--quick", "--limit", "3"]
    assert main(arguments) == 0
    report = (tmp_path / "out" / "report.md").read_text()
    for name in recipe_names():
        recipe = load_recipe(name, petri=True)
        assert f"## {recipe.title}" in report
        for run in recipe.runs:
            lines = (tmp_path / "out" / name / file_name(run) / "generations.jsonl").read_text().splitlines()
            assert len(lines) % 3 == 0 and lines
        if recipe.table in ("points", "parallel"):
            assert (tmp_path / "out" / name / f"{name}.svg").stat().st_size > 1000
    assert "3 questions" in report and "The paper has:" in report
    assert "| rejection sampling |" in capsys.readouterr().out
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "models").rglob("*.safetensors")}
    assert main(arguments) == 0
    assert (tmp_path / "out" / "report.md").read_text() == report
    assert stamps == {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "models").rglob("*.safetensors")}


def test_a_missing_model_is_named(capsys, tmp_path):
    code = main(["reproduce", "ablations", "--model", "s1/petri/weights", "--benchmark", "petri", "--limit", "1",
                 "--out", str(tmp_path)])  # fmt: skip
    assert code == 2
    assert "needs the model 'random'" in capsys.readouterr().err


def test_a_benchmark_must_be_named_with_a_model(capsys):
    assert main(["reproduce", "figure1", "--model", "some/model"]) == 2
    assert "--benchmark" in capsys.readouterr().err


def test_the_recipes_are_listed(capsys):
    assert main(["reproduce", "list"]) == 0
    listed = capsys.readouterr().out
    assert [line.split()[0] for line in listed.splitlines()] == recipe_names()
