"""What models and files hold can neither steer the terminal nor end a command with a traceback."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s1.cli import main
from s1.cli.doctor_verb import line_of
from s1.cli.progress import ProgressBar
from s1.doctor.checks import Check
from s1.report.text import columns
from s1.terminal import file_name, visible

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b2J\r"
SHOWN = "^[]0;owned^G^[[2JM-^[2J^M"
LONE = "lone \ud83d here"


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s1.cli.options.silence_libraries", lambda: None)


def scripted(folder: Path, *texts: str) -> str:
    file = folder / "script.json"
    file.write_text(json.dumps(texts))
    return f"scripted:{file}"


def test_control_characters_are_shown_as_cat_does() -> None:
    assert visible(EVIL + "\t\n é") == SHOWN + "\t\n é"
    assert visible("\0\x7f\x80\x9f") == "^@^?M-^@M-^_"
    assert visible(visible(EVIL)) == SHOWN
    assert visible(LONE) == "lone \ufffd here" and visible("\ud83d" + "\ude00") == "\U0001f600"


def test_the_text_of_a_model_is_shown_without_effect(tmp_path: Path, capsys) -> None:
    model = scripted(tmp_path, f"I add {EVIL}.</think>", f"Four {EVIL}!<|end|>")
    assert main(["think", "2+2?", "--model", model]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"Four {SHOWN}!\n" and f"I add {SHOWN}." in captured.err


def test_json_keeps_the_text_of_a_model(tmp_path: Path, capsys) -> None:
    model = scripted(tmp_path, "I add.</think>", f"Four {EVIL}!<|end|>")
    assert main(["think", "2+2?", "--model", model, "--json"]) == 0
    out = capsys.readouterr().out
    assert EVIL in json.loads(out)["segments"][-1]["text"] and "\x1b" not in out


def test_an_error_shows_the_columns_of_a_file_without_effect(tmp_path: Path, capsys) -> None:
    file = tmp_path / "set.jsonl"
    file.write_text(json.dumps({f"q{EVIL}": "1"}) + "\n")
    assert main(["eval", "--benchmark", str(file), "--model", "scripted:"]) == 2
    assert f"q{SHOWN}" in capsys.readouterr().err


def test_tables_checks_and_progress_are_shown_without_effect(capsys) -> None:
    assert columns([[EVIL, "1"], ["b", "2"]]) == [f"{SHOWN}  1", f"b{' ' * (len(SHOWN) - 1)}  2"]
    check = Check("name", "ok", EVIL, EVIL)
    assert line_of(check, colour=True).count("\x1b") == 2 and "\x07" not in line_of(check, colour=True)
    with ProgressBar(EVIL) as bar:
        bar.update(1, 1, EVIL)
    assert capsys.readouterr().err.count(SHOWN) == 2


def test_a_progress_bar_reads_no_markup(monkeypatch, capsys) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_INTERACTIVE", "1")
    with ProgressBar("[bold]run[/bold]") as bar:
        bar.update(1, 1, "[/x]")
    assert "[bold]run" in capsys.readouterr().err


def refused(capsys, *arguments: object) -> str:
    """The message of a command that must end with exit code 2."""
    try:
        assert main(list(map(str, arguments))) == 2
    except SystemExit as ended:
        assert ended.code == 2
    return str(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"problem": LONE, "answer": "4"}, "'problem'"),
        ({"problem": "2+2?", "answer": LONE}, "'answer'"),
        ({"problem": "2+2?", "answer": ["4", LONE]}, "'answer'"),
        ({"problem": "2+2?", "answer": "A", "choices": [LONE, "5"]}, "'choices'"),
        ({"problem": "2+2?", "answer": "4", "id": LONE}, "'id'"),
    ],
)
def test_a_lone_surrogate_in_a_benchmark_is_refused_with_its_row(tmp_path: Path, capsys, row, field) -> None:
    file = tmp_path / "set.jsonl"
    file.write_text(json.dumps({"problem": "1+1?", "answer": "2"}) + "\n" + json.dumps(row) + "\n")
    error = refused(capsys, "eval", "--benchmark", file, "--model", "scripted:", "--out", tmp_path / "run")
    assert "set.jsonl" in error and f"row 2, field {field}: not valid UTF-8" in error


def test_a_lone_surrogate_in_a_script_is_refused_with_its_place(tmp_path: Path, capsys) -> None:
    error = refused(capsys, "think", "2+2?", "--model", scripted(tmp_path, "I add.</think>", LONE))
    assert "script.json, text 2: not valid UTF-8" in error


def test_a_lone_surrogate_in_an_argument_is_refused(tmp_path: Path, capsys, monkeypatch) -> None:
    model = scripted(tmp_path, "I add.</think>", "Four.<|end|>")
    for more in ([LONE], ["2+2?", "--system", LONE], ["2+2?", "--waits", "1", "--wait", LONE]):
        assert "not valid UTF-8" in refused(capsys, "think", "--model", model, *more)
    assert "not valid UTF-8" in refused(capsys, "doctor", model, "--question", LONE)
    for errors in ("strict", "surrogateescape"):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"lone \xed here"), "utf-8", errors))
        assert "Standard input is not valid UTF-8" in refused(capsys, "think", "-", "--model", model)


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_a_column_whose_name_is_not_valid_costs_no_row(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("polars")
    from s1.data.pool import read_pool

    good, bad = {"id": "1", "question": "1+1?", "solved_\ud83d": 0.5}, {"id": "2", "q\ud83d": "2+2?"}
    file = tmp_path / f"pool.{kind}"
    if kind == "csv":
        file.write_bytes(b"id,question,x\xed\n1,1+1?,y\n2,,y\n")
    else:
        file.write_text(
            json.dumps([good, bad]) if kind == "json" else f"{json.dumps(good)}\n{json.dumps(bad)}\n"
        )
    pool = read_pool(file)
    assert pool.rows["id"].to_list() == ["1"] and pool.rejects["id"].to_list() == ["2"]


def test_a_file_whose_name_is_not_valid_is_refused(tmp_path: Path, capsys) -> None:
    pytest.importorskip("polars")
    (tmp_path / "pool").mkdir()
    try:
        (tmp_path / "pool" / "a\udced.jsonl").write_text(json.dumps({"question": "1+1?"}) + "\n")
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    error = refused(capsys, "curate", "clean", tmp_path / "pool", "--out", tmp_path / "out")
    assert "a\ufffd.jsonl: the name is not valid UTF-8" in error


@given(st.text(st.characters(), max_size=300) | st.text("./\\-~ a", max_size=300))
def test_a_file_name_never_leaves_its_folder(text: str) -> None:
    name = file_name(text)
    folder = Path("/runs")
    assert (folder / name).resolve().parent == folder
    assert name[0] not in ".-" and len(name.encode()) <= 200 and file_name(name) == name


def test_long_names_that_differ_stay_different() -> None:
    assert file_name("a" * 500 + "b") != file_name("a" * 500 + "c")
