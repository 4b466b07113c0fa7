"""commands.jsonl says how a run was made, and keeps no secrets."""

import runpy
import sys

import pytest

from s1.run_commands import read_commands, this_command

pytest.importorskip("torch")


def test_a_run_names_the_command_that_made_it_and_not_one_that_added_nothing(tmp_path, monkeypatch):
    arguments = ["eval", "--model", "petri", "--benchmark", "petri", "--limit", "2", "--max-thinking", "8",
                 "--max-answer", "4", "--out", str(tmp_path / "a run")]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["", *arguments])
    for _ in range(2):
        with pytest.raises(SystemExit, match="^0$"):
            runpy.run_module("s1", run_name="__main__", alter_sys=True)
    [only] = read_commands(tmp_path / "a run")
    assert only.command == " ".join(["s1", *arguments[:-1], f"'{arguments[-1]}'"])
    assert only.generations == 2 and only.seconds is not None


@pytest.mark.parametrize("program", ["/home/me/study.py", "/home/me/other/__main__.py"])
def test_arguments_of_another_program_are_not_kept(program, monkeypatch):
    monkeypatch.setattr(sys, "argv", [program, "--key", "sk-secret"])
    assert "secret" not in this_command() and this_command() in program
