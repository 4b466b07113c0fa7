"""A folder has one writer; a second one is told so, and a disk that refuses is named by its file."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from s1.cli import main
from s1.errors import BadInput, S1Error
from s1.jsonl import AppendLog, locked, write_bytes

EVAL = ["eval", "--model", "petri", "--benchmark", "petri", "--limit", "2", "--max-answer", "8"]


@contextmanager
def in_use(lock: Path) -> Iterator[None]:
    """What another process does that writes the folder of this lock."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(file, fcntl.LOCK_EX)
    yield
    os.close(file)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("locks") / "run"
    assert main([*EVAL, "--out", str(folder)]) == 0
    return folder


def test_the_lock_of_a_folder_may_be_nested_and_is_released(tmp_path: Path) -> None:
    with locked(tmp_path), locked(tmp_path):
        log: AppendLog[str] = AppendLog(tmp_path / "log.jsonl", lock=tmp_path / ".lock")
        log.close()
        with pytest.raises(BlockingIOError), (tmp_path / ".lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with in_use(tmp_path / ".lock"), pytest.raises(BadInput, match="in use"), locked(tmp_path):
        pass


@pytest.mark.parametrize(
    "command",
    [
        [*EVAL, "--out", "OUT"],
        ["sweep", *EVAL[1:], "--budgets", "8", "--out", "OUT"],
        ["train", "OUT", "--base", "petri", "--out", "OUT"],
        ["demo", "--quick", "--out", "OUT"],
        ["reproduce", "figure1", "--quick", "--out", "OUT"],
    ],
    ids=lambda command: command[0],
)
def test_a_second_writer_is_refused_in_one_line(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with in_use(out / ".lock"):
        assert main([word.replace("OUT", str(out)) for word in command]) == 2
    error = capsys.readouterr().err
    assert str(out) in error and "in use" in error and "Traceback" not in error
    assert os.listdir(out) == [".lock"]


def test_a_second_report_is_refused_and_a_later_one_is_not(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run_folder / "grades.jsonl").read_bytes()
    with in_use(run_folder / ".lock"):
        assert main(["report", str(run_folder)]) == 2
    assert str(run_folder) in capsys.readouterr().err
    assert main(["report", str(run_folder)]) == 0
    assert (run_folder / "grades.jsonl").read_bytes() == before


@pytest.mark.parametrize("stage", ["", "collect", "teach", "clean", "select"])
def test_a_second_curation_is_refused(stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [stage] if stage else []
    with in_use(tmp_path / ".out.work" / "lock"):
        assert main(["curate", *words, "petri", "--out", str(tmp_path / "out")]) == 2
    assert "Another process" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_four_reports_at_once_end_well_or_are_refused(run_folder: Path) -> None:
    command = [sys.executable, "-m", "s1", "report", str(run_folder)]
    root = Path(__file__).parents[2]
    started = [
        subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    ended = [(process.communicate()[1], process.returncode) for process in started]
    assert any(code == 0 for _, code in ended)
    assert all(code == 0 or (code == 2 and "in use" in error) for error, code in ended)
    assert not list(run_folder.glob("*.part"))


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: writing then fails as on a full disk."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_refuses_is_named_by_its_file_and_nothing_is_torn(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    write_bytes(target, b"old")
    log: AppendLog[str] = AppendLog(tmp_path / "log.jsonl")
    log.load(lambda number, line: str(number))
    log.append("a", {"text": "kept"})
    with small_disk(1000):
        with pytest.raises(S1Error, match="result.json"):
            write_bytes(target, b"x" * 5000)
        with pytest.raises(S1Error, match="log.jsonl"):
            log.append("b", {"text": "x" * 5000})
    assert target.read_bytes() == b"old"
    log.append("c", {"text": "after"})
    log.close()
    assert (tmp_path / "log.jsonl").read_bytes() == b'{"text":"kept"}\n{"text":"after"}\n'


@pytest.mark.parametrize("command", [[*EVAL, "--out", "OUT"], ["report", "RUN"]], ids=["eval", "report"])
def test_a_command_on_a_full_disk_names_the_file(
    command: list[str], run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"OUT": str(tmp_path / "out"), "RUN": str(run_folder)}
    with small_disk(300):
        assert main([names.get(word, word) for word in command]) == 2
    assert "cannot be written" in capsys.readouterr().err
