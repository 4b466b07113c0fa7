"""commands.jsonl of a run folder: which commands made the run, and when."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from s1.jsonl import dump_line, read_lines, write_bytes
from s1.types import to_json

COMMANDS = "commands.jsonl"


@dataclass(frozen=True, slots=True)
class CommandRecord:
    """A command that added generations to the run."""

    command: str
    began: str
    """UTC, as 2026-01-31T12:00:00Z."""
    seconds: float | None
    """From then to its end; None for one that was killed, or still runs."""
    generations: int
    """How many it added; 0 until its end."""


def read_commands(path: str | Path) -> list[CommandRecord]:
    """The commands that made a run, in order; none where an older version of s1 made it."""
    file = Path(path) / COMMANDS
    return list(read_lines(CommandRecord, file)) if file.exists() else []


def write_commands(
    path: Path, earlier: Sequence[CommandRecord], began: float, generations: int | None = None
) -> None:
    """Note that this process began to add to the run at `began` (seconds since 1970), and at its end how many."""
    seconds = None if generations is None else round(time.time() - began, 3)
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began))
    this = CommandRecord(this_command(), when, seconds, generations or 0)
    write_bytes(path / COMMANDS, b"".join(dump_line(to_json(each)) for each in (*earlier, this)))


def this_command() -> str:
    """The command line of this process, ready to be pasted into a shell; of a program that is not s1, its name only.

    The arguments of other programs may hold secrets. Those of s1 never do: its keys come from the environment.
    """
    program = Path(sys.argv[0])
    if program.parent.name == "s1" and program.name == "__main__.py":
        return shlex.join(["s1", *sys.argv[1:]])
    return shlex.join([program.name, *sys.argv[1:]] if program.name == "s1" else [program.name])
