"""Runs of `s1 train` in processes of their own, on 42 small rows of the petri world."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

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
    """The command line that trains the petri base on the rows into the folder of that name.

    Words of the form "name=value" are settings, others are options.
    """
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    def make(name: str, *words: str) -> list[str]:
        more = [part for word in words for part in (("--set", word) if "=" in word else (word,))]
        data, out = str(tmp_path / "rows.jsonl"), str(tmp_path / name)
        return [sys.executable, "-m", "s1", "train", data, "--base", "petri", "--out", out, *more]

    return make


@pytest.fixture
def train_in_process(command) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs that command to its end."""

    def run(name: str, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command(name, *words), capture_output=True, text=True, timeout=300)

    return run


@pytest.fixture
def record_of() -> Callable[[Path], dict]:
    """Reads what a finished run wrote, without times."""

    def read(folder: Path) -> dict:
        found = json.loads((folder / "train.json").read_text())
        for entry in (found, *found["log"]):
            del entry["seconds"]
        return found

    return read
