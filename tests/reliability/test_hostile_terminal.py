"""Hostile text from models, servers and files, through whole commands: on a terminal and in a pipe."""

from __future__ import annotations

import json
import os
import pty
import select
from pathlib import Path

import forked
import pytest
from faulty_server import REFUSAL, FaultyServer

ROOT = Path(__file__).parents[2]
EVIL = "\x1b]0;owned\x07\x1b]52;c;b3du\x07\x1b]8;;http://x\x1b\\\x1b[2J\x9b2J\x9d0;owned\x9c\x90q\r\x08\x05"
"""Window title, clipboard, link, clear screen, the same in C1, a query that a terminal would answer."""
SIGNS = ("\x1b]", "\x1b[2J", "\x07", "\x05", "\x08", *map(chr, range(0x80, 0xA0)))
"""What no command may print, whatever its own colours and bars are."""
LONE = "lone \ud83d here"

pytestmark = pytest.mark.slow


def printed(arguments: list[str], on_terminal: bool) -> tuple[int, str]:
    """The exit code of a command, and all that it wrote."""
    if not on_terminal:
        done = forked.s1(*arguments, folder=ROOT)
        return done.returncode, done.stdout + done.stderr
    master, slave = pty.openpty()
    terminal, pieces, ended = Path(os.ttyname(slave)), [b""], False
    process = forked.start(arguments, ROOT, terminal, terminal)
    while pieces[-1] or not ended:
        ended = process.exitcode is not None
        pieces.append(os.read(master, 1 << 16) if select.select([master], [], [], 0.02)[0] else b"")
    os.close(slave)
    os.close(master)
    assert process.exitcode is not None
    return process.exitcode, b"".join(pieces).decode()


def files(folder: Path) -> dict[str, str]:
    """A script, a benchmark, a pool, and a file with hostile columns; a word of each command's arguments."""
    thinking, answer = f"I add {EVIL}.</think>", f"Answer: 5 {EVIL}<|end|>"
    (folder / "script.json").write_text(json.dumps([thinking, answer] * 8))
    rows = [
        {"id": f"q{n}{EVIL}", "problem": f"{n}+2? {EVIL}", "answer": "4", "source": EVIL} for n in range(2)
    ]
    (folder / "bench.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    pool = [
        {"id": f"p{n}{EVIL}", "question": f"Why {n}? {EVIL}", "thinking": f"Because {EVIL}.", "attempt": EVIL + "4",
         "source": f"s{EVIL}", "domain": f"d{EVIL}", f"solved_{EVIL}": float(n)} for n in range(2)
    ]  # fmt: skip
    pool += [
        {"question": LONE},
        {"question": "2+2?", "thinking": LONE},
        {"question": "2+2?", "answer": EVIL + LONE},
    ]
    (folder / "pool.jsonl").write_text("".join(json.dumps(r) + "\n" for r in pool))
    (folder / "columns.jsonl").write_text(json.dumps({f"q{EVIL}": "1"}) + "\n")
    return {
        name: str(folder / name) for name in ("bench.jsonl", "pool.jsonl", "columns.jsonl", "script.json")
    }


@pytest.mark.parametrize("on_terminal", [True, False], ids=["terminal", "pipe"])
def test_no_command_prints_what_steers_a_terminal(on_terminal: bool, tmp_path: Path) -> None:
    named = files(tmp_path)
    model = ["--model", f"scripted:{named['script.json']}"]
    run, again = str(tmp_path / "run"), str(tmp_path / "again")
    evaluate = ["eval", "--benchmark", named["bench.jsonl"], *model, "--waits", "1", "--wait", f"Wait{EVIL}"]
    commands = [
        (["think", f"2+2? {EVIL}", *model], 0),
        ([*evaluate, "--out", run], 0),
        ([*evaluate, "--out", again], 0),
        (["report", run], 0),
        (["report", run, "--compare-graders"], 0),
        (["report", run, "--against", again], 0),
        (["eval", "--benchmark", named["columns.jsonl"], *model], 2),
        (["curate", named["pool.jsonl"], "--n", "1", "--out", str(tmp_path / "curated")], None),
        (["curate", "clean", named["pool.jsonl"], "--out", str(tmp_path / "clean")], 0),
        (["curate", "difficulty", named["pool.jsonl"], "--out", str(tmp_path / "hard")], 0),
        (["curate", "clean", named["columns.jsonl"], "--out", str(tmp_path / "none")], 2),
        (["train", named["pool.jsonl"], "--base", "petri", "--out", str(tmp_path / "model")], 2),
    ]
    replies = {f"<think>It {EVIL} {LONE}.</think>{EVIL}": {}, "never": {REFUSAL: 1.0}}
    shown = 0
    for number, (reply, rates) in enumerate(replies.items()):
        with FaultyServer(rates, reply=reply, words=EVIL) as server:
            out = str(tmp_path / f"taught{number}")
            asked = ["--model", "m", "--url", server.url, "--set", "max_tokens=30", "--out", out]
            code, text = printed(["curate", "teach", named["pool.jsonl"], *asked], on_terminal)
        assert code == (2 if rates else 0), text
        assert not [sign for sign in SIGNS if sign in text] and "Traceback" not in text, ascii(text)
        shown += "^[]0;owned^G" in text
    for command, expected in commands:
        code, text = printed(command, on_terminal)
        assert expected is None or code == expected, (command, text)
        assert not [sign for sign in SIGNS if sign in text] and "Traceback" not in text, (
            command,
            ascii(text),
        )
        shown += "^[]0;owned^G" in text
    assert shown >= 5, "the hostile text was never shown, so nothing was tested"
