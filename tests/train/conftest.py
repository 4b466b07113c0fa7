"""Runs of `s1 train` in processes of their own, on 42 small rows of the petri world."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import forked
import pytest

NOWHERE = Path(os.devnull)

ROWS = [
    {
        "id": f"q{n}",
        "question": f"solve {n} x",
        "thinking": " ".join(["x 0 : 1 no ."] * (1 + n % 7)),
        "attempt": "5",
    }
    for n in range(42)
]


@pytest.fixture
def command(tmp_path) -> Callable[..., list[str]]:
    """The words after `s1` that train the petri base on the rows into the folder of that name.

    Words of the form "name=value" are settings, others are options.
    """
    return partial(words_of, tmp_path)


def words_of(folder: Path, name: str, *words: str) -> list[str]:
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    more = [part for word in words for part in (("--set", word) if "=" in word else (word,))]
    return ["train", str(rows), "--base", "petri", "--out", str(folder / name), *more]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Callable[..., Path]:
    """The folder of a run with these words that nothing interrupts, made once for a file."""
    made: dict[tuple[str, ...], Path] = {}

    def train(*words: str) -> Path:
        if words not in made:
            folder = tmp_path_factory.mktemp("trained")
            done = forked.s1(*words_of(folder, "whole", *words), folder=folder)
            assert done.returncode == 0, done.stderr
            made[words] = folder / "whole"
        return made[words]

    return train


@pytest.fixture
def killed_at_a_checkpoint(command, tmp_path) -> Callable[..., Path]:
    """The folder of a run that was killed after its next checkpoint and `seconds` more, before its end."""

    def run(name: str, *words: str, seconds: float = 0.0) -> Path:
        out = tmp_path / name
        for _ in range(5):  # on a busy machine it may be done before it is killed
            before = tmp_path / "before"
            shutil.rmtree(before, ignore_errors=True)
            if out.exists():
                shutil.copytree(out, before)
            process = forked.start(command(name, *words), tmp_path, NOWHERE, NOWHERE)
            seen = complete_checkpoints(out)
            while complete_checkpoints(out) <= seen and process.exitcode is None:
                time.sleep(0.005)
            process.join(seconds)
            if process.exitcode is None:
                process.kill()
                process.join()
            if process.exitcode == -signal.SIGKILL:
                return out
            assert process.exitcode == 0
            shutil.rmtree(out)
            if before.exists():
                shutil.copytree(before, out)
        raise AssertionError("it was over each time before it was killed")

    return run


def complete_checkpoints(out: Path) -> set[str]:
    return {p.parent.name for p in out.glob("checkpoints/checkpoint-*/trainer_state.json")}


@pytest.fixture
def record_of() -> Callable[[Path], dict]:
    """Reads what a finished run wrote, without times."""

    def read(folder: Path) -> dict:
        found = json.loads((folder / "train.json").read_text())
        for entry in (found, *found["log"]):
            del entry["seconds"]
        return found

    return read
