import json
import shlex
import subprocess
import sys

import pytest

from s1.cli import VERBS, build_parser, main
from s1.cli.reference import reference
from s1.petri.world import WEIGHTS


def s1(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "s1", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


def test_every_verb_is_in_the_reference():
    text = reference()
    for verb in VERBS:
        assert f"## s1 {verb}" in text


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_ends_with_an_example_that_parses(verb, capsys):
    with pytest.raises(SystemExit):
        build_parser().parse_args([verb, "--help"])
    assert capsys.readouterr().out.rstrip().endswith(f"example:\n  {VERBS[verb].example}")
    program, *arguments = shlex.split(VERBS[verb].example)
    assert program == "s1" and build_parser().parse_args(arguments).verb == verb


@pytest.mark.parametrize(
    ("text", "strings"),
    [
        ("Wait,Hmm", ("Wait", "Hmm")),
        ("Wait, let me see", ("Wait, let me see",)),
        ("", ("",)),
        (" Wait", (" Wait",)),
    ],
)
@pytest.mark.parametrize(
    "verb", [["think", "q"], ["eval", "--benchmark", "b"], ["sweep", "--benchmark", "b"]]
)
def test_one_wait_option_is_one_cycle_of_strings_in_every_verb(verb, text, strings):
    assert build_parser().parse_args([*verb, "--wait", text]).wait == [strings]


CASES = {
    "an unknown model folder": ["think", "q", "--model", "no/such/folder"],
    "an unknown engine": ["think", "q", "--model", "hff:x"],
    "an unknown format": ["think", "q", "--model", "scripted:", "--format", "s9"],
    "a negative budget": ["think", "q", "--model", "scripted:", "--max-thinking", "-4"],
    "a minimum above the maximum": [
        "think",
        "q",
        "--model",
        "scripted:",
        "--max-thinking",
        "4",
        "--min-thinking",
        "9",
    ],
    "a missing benchmark": ["eval", "--benchmark", "none.jsonl", "--model", "scripted:"],
    "a report on nothing": ["report", "nowhere"],
    "a missing pool": ["curate", "none.parquet", "--out", "out"],
    "a missing dataset": ["train", "none.parquet", "--base", "petri", "--out", "out"],
    "a budget beyond the context": [
        "eval",
        "--benchmark",
        "petri",
        "--model",
        str(WEIGHTS),
        "--max-thinking",
        "99999",
        "--limit",
        "2",
        "--format",
        "petri",
    ],
    "a seed without a temperature": ["eval", "--benchmark", "petri", "--model", "scripted:", "--seed", "5"],
    "a base that is not a model": ["train", "rows.jsonl", "--base", "empty", "--out", "out"],
    "an output folder that holds something else": [
        "train",
        "rows.jsonl",
        "--base",
        "petri",
        "--out",
        "empty",
    ],
    "two wait options in think": ["think", "q", "--model", "scripted:", "--wait", "Wait", "--wait", "Hmm"],
    "two wait options in eval": [
        "eval",
        "--benchmark",
        "petri",
        "--model",
        "scripted:",
        "--wait",
        "a",
        "--wait",
        "b",
    ],
    "a quick reproduction of a model that is not petri": [
        "reproduce",
        "figure1",
        "--model",
        "m",
        "--benchmark",
        "petri",
        "--quick",
        "--out",
        "out",
    ],
    "a setting out of range": ["train", "rows.jsonl", "--base", "petri", "--out", "out", "--set", "epochs=0"],
    "a misspelt setting": ["curate", "petri", "--out", "out", "--set", "strategi=random"],
    "an unknown base": ["train", "rows.jsonl", "--base", "no/such/base", "--out", "out"],
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_gives_one_line_and_exit_code_2(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    row = {"id": "a", "question": "solve 3 x", "answer": "1", "thinking": "x 1 .", "attempt": "1"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("mine")
    assert main(CASES[case]) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.strip()]
    assert len(lines) == 1, captured.err
    assert lines[0].startswith(f"s1 {CASES[case][0]}: ")
    assert "Traceback" not in captured.err
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "empty" / "notes.txt").read_text() == "mine"


def test_without_a_model_the_one_that_ships_answers_and_a_wait_helps_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    answers = []
    for waits in ("0", "1"):
        assert main(["think", "solve 4 x + 11 = 16 mod 23", "--waits", waits]) == 0
        answers.append(capsys.readouterr().out)
    assert answers == ["Answer : 16\n", "Answer : 7\n"]


def test_a_truncated_pool_file_is_named_with_its_row(tmp_path, capsys):
    file = tmp_path / "pool.jsonl"
    file.write_text('{"question": "q1", "thin')
    assert main(["curate", str(file), "--out", str(tmp_path / "out")]) == 2
    assert "pool.jsonl" in capsys.readouterr().err


def test_an_unknown_verb_lists_the_known_ones():
    done = s1("thinkk")
    assert done.returncode == 2 and "sweep" in done.stderr


@pytest.mark.parametrize(
    ("module", "extra", "command"),
    [
        ("math_verify", "grading", ["eval", "--benchmark", "sums.jsonl", "--out", "out"]),
        ("math_verify", "grading", ["sweep", "--benchmark", "sums.jsonl", "--out", "out"]),
        ("matplotlib", "report", ["sweep", "--benchmark", "petri", "--out", "out"]),
        ("matplotlib", "report", ["report", "run"]),
        ("matplotlib", "train", ["demo", "--quick", "--out", "out"]),
        ("trl", "train", ["demo", "--quick", "--out", "out"]),
        ("matplotlib", "report", ["reproduce", "figure1", "--quick", "--out", "out"]),
        ("trl", "train", ["reproduce", "figure1", "--quick", "--out", "out"]),
        ("trl", "train", ["train", "none.jsonl", "--base", "petri", "--out", "out"]),
        ("accelerate", "train", ["train", "none.jsonl", "--base", "petri", "--out", "out"]),
    ],
)
def test_a_missing_extra_is_named_before_the_work_begins(
    module, extra, command, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sums.jsonl").write_text('{"question": "1/3 + 1/3?", "answer": "2/3"}\n')
    monkeypatch.setitem(sys.modules, module, None)
    if command[0] in ("eval", "sweep"):
        command = [*command, "--model", "no/such/model"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert f".[{extra}]" in error and module.replace("_", "-") in error, error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--method", "majority:n=4"], "temperature 0"),
        (["--format", "s9"], "s9"),
        (["--out", "empty"], "notes.txt"),
        (["--out", "empty/notes.txt/run"], "is a file"),
    ],
)
def test_options_are_checked_before_the_model_is_loaded(options, word, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("mine")
    assert main(["eval", "--benchmark", "petri", "--model", "no/such/model", *options]) == 2
    assert word in capsys.readouterr().err
