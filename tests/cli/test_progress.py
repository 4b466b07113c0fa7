"""Progress is a live bar on a terminal and one plain line a minute elsewhere."""

from __future__ import annotations

import os
import re

import pytest

from s1.cli import progress
from s1.cli.progress import ProgressBar, duration


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still; set its only element to move it."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_elsewhere_there_is_one_line_a_minute_and_one_at_the_end(clock, capsys) -> None:
    with ProgressBar("math500") as bar:
        for done in range(1, 201):
            clock[0] += 1.0
            bar.update(done, 200, f"loss {done}")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"math500: {n}/200" for n in (60, 120, 180, 200)]
    assert all("loss" in line for line in lines)


def test_the_time_left_follows_the_recent_rate(clock, capsys) -> None:
    """100 items at one a second, then one in ten seconds: 100 more take 1,000 s and not 200 s."""
    with ProgressBar("train") as bar:
        for done in range(1, 131):
            clock[0] += 1.0 if done <= 100 else 10.0
            bar.update(done, 230)
        last = capsys.readouterr().err.splitlines()[-1]
    assert "10 s each" in last and "17 min left" in last


def test_items_done_by_an_earlier_call_do_not_count_for_the_rate(clock, capsys) -> None:
    with ProgressBar("math500") as bar:
        bar.update(9000, 10_000)
        clock[0] += 60.0
        bar.update(9001, 10_000)
        clock[0] += 60.0
        bar.update(9002, 10_000)
        assert "60 s each" in capsys.readouterr().err.splitlines()[-1]


def test_a_job_that_fails_ends_its_line_and_one_without_work_shows_nothing(capsys) -> None:
    with pytest.raises(RuntimeError), ProgressBar("train") as bar:
        bar.update(1, 9)
        raise RuntimeError
    assert "train: 1/9" in capsys.readouterr().err
    with ProgressBar("train"):
        pass
    assert capsys.readouterr().err == ""


def test_several_jobs_one_after_another_each_have_their_name(capsys) -> None:
    with ProgressBar("train main") as bar:
        bar.show_training(2, 2, 0.5)
        bar.restart("train random")
        bar.show_training(2, 2, None)
    first, second = capsys.readouterr().err.splitlines()
    assert "train main: 2/2" in first and "loss 0.500" in first and "train random: 2/2" in second


def test_on_a_terminal_a_bar_is_drawn_and_stdout_stays_clean(monkeypatch, capsys) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    reader, terminal = os.openpty()
    with os.fdopen(terminal, "w") as stderr, monkeypatch.context() as patched:
        patched.setattr("sys.stderr", stderr)
        with ProgressBar("math500") as bar:
            bar.update(1, 2, "7 tokens/s")
            print("a line of the command")
            bar.update(2, 2, "8 tokens/s")
        stderr.flush()
        output = b""
        while b"8 tokens/s" not in output:  # a terminal gives its output in pieces
            output += os.read(reader, 100_000)
    os.close(reader)
    shown = output.decode()
    assert "━" in shown and "math500" in shown and "2/2" in shown and "8 tokens/s" in shown
    assert not re.search(r"math500: \d", shown), "no plain line on a terminal"
    assert capsys.readouterr().out == "a line of the command\n"


def test_durations_are_rounded_for_people() -> None:
    assert [duration(s) for s in (0.25, 5, 59, 99.4, 150, 7500)] == [
        "0.2 s", "5.0 s", "59 s", "99 s", "2 min", "2 h 05 min",
    ]  # fmt: skip
