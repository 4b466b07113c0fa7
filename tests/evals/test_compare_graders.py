"""Graders side by side on one run, and a judge that is asked once."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from s1 import runs
from s1.cli import main
from s1.evals.compare_graders import agreement, compare_graders
from s1.evals.metrics import read_metrics
from s1.evals.run import grade_run
from s1.grading.judge import Attempt
from s1.runs import PolicyRecord, RunConfig
from s1.types import Generation, Question, Segment

ANSWERS = {
    # question: gold, what the model wrote, how it ended
    "plain": ("12", r"So \boxed{12}.", "stop"),
    "last number": ("12", "first 3, then 12", "stop"),
    "words": (r"\text{the empty set}", "There is none.", "stop"),
    "symbolic": ("x^2+1", r"\boxed{1+x^2}", "stop"),
    "wrong": ("12", r"\boxed{13}", "stop"),
    "unfinished": ("12", "we add 3 and", "length"),
    "broken": ("12", "", "stop"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    questions = [Question(name, f"What is {name}?", gold) for name, (gold, *_) in ANSWERS.items()]
    config = RunConfig("toy", "math", "m", (PolicyRecord("natural", "natural", "natural"),))
    with runs.open_run(path, config, questions) as run:
        for name, (_, text, finish) in ANSWERS.items():
            segments = (
                Segment((1,), "hm", "thinking", "model"),
                Segment((2,), text, "answer", "model"),
            )
            error = "server gone" if name == "broken" else None
            ended = None if error else finish
            run.append(Generation(name, 0, "natural", segments, 1, 1, 0, 0, False, ended, error=error))
        run.finish()
    grade_run(path)
    return path


def asked(attempts: Mapping[str, Attempt]) -> dict[str, bool]:
    asked.names = [name.split("/")[0] for name in attempts]  # type: ignore[attr-defined]
    return {name: "none" in attempt.text for name, attempt in attempts.items()}


def test_only_answers_on_which_graders_differ_are_disagreements(folder: Path) -> None:
    compared = compare_graders(folder)
    differ = [c.question_id for c in compared if c.disagree]
    assert differ == ["last number"], "the official extraction takes the whole text where there is no box"
    counts = {"generations": 6, "strict": 3, "official": 2, "judged": 0, "judge": 0, "disagree": 1}
    assert agreement(compared) == counts
    found = next(c for c in compared if c.disagree)
    assert found.strict.extracted == "12" and found.official.extracted == "first 3, then 12"


def test_a_judge_is_asked_only_what_had_to_be_interpreted(folder: Path) -> None:
    compared = {c.question_id: c for c in compare_graders(folder, asked)}
    assert asked.names == ["words", "symbolic", "unfinished"]  # type: ignore[attr-defined]
    assert compared["words"].judge is True and compared["words"].disagree
    assert compared["symbolic"].judge is False and compared["symbolic"].disagree
    assert compared["plain"].judge is None and not compared["plain"].disagree


def test_a_judge_makes_answers_right_and_never_wrong(folder: Path) -> None:
    before = grade_run(folder)
    after = grade_run(folder, judge=asked, judged_by="oracle")
    grades = {key.question_id: g for key, g in runs.read_grades(folder).items()}
    assert (grades["words"].outcome, grades["words"].how) == ("right", "judge")
    assert grades["symbolic"].outcome == "right" and grades["broken"].outcome == "error"
    assert after.grading == "strict, judged by oracle" and before.grading == "strict"
    assert after.points[0].outcomes["right"] == before.points[0].outcomes["right"] + 1
    assert grade_run(folder) == before


class Oracle(ThreadingHTTPServer):
    """Says Yes to every attempt with "none" in it; counts what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                text = body["messages"][-1]["content"]
                outer.asked.append(text)
                said = "As the reference.\nYes" if "none" in text else "Not the same.\nNo"
                events = [
                    {"choices": [{"delta": {"content": said}, "finish_reason": None}]},
                    {"choices": [{"delta": {}, "finish_reason": "stop"}]},
                ]
                reply = "".join(f"data: {json.dumps(e)}\n\n" for e in events) + "data: [DONE]\n\n"
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                self.wfile.write(reply.encode())

            def log_message(self, *arguments: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


@pytest.fixture
def oracle() -> Iterator[Oracle]:
    server = Oracle()
    yield server
    server.shutdown()
    server.server_close()


def test_verdicts_are_kept_in_the_run_folder_and_never_asked_for_twice(
    folder: Path, oracle: Oracle, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["report", str(folder), "--compare-graders", "--judge", "oracle", "--url", oracle.url]
    assert main(command) == 0
    first = capsys.readouterr().out
    assert len(oracle.asked) == 3 and "## Reference answer" in oracle.asked[0]
    assert "words  sample 0  natural" in first and "judge     right" in first
    assert first.splitlines()[-1] == (
        "6 answers: strict calls 3 right, official 2, judge 1 of the 3 it was asked; they disagree on 3."
    )
    assert main(command) == 0 and capsys.readouterr().out == first
    assert main(["report", str(folder), "--judge", "oracle", "--url", oracle.url]) == 0
    assert len(oracle.asked) == 3, "the report reads the same journal"
    assert "66.7" not in capsys.readouterr().out.split("Control")[0]
    assert read_metrics(folder).points[0].outcomes["right"] == 4


def test_the_listing_for_machines_is_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(folder), "--compare-graders", "--json"]) == 0
    listing = json.loads(capsys.readouterr().out)
    assert listing["disagree"] == 1 and listing["disagreements"][0]["question_id"] == "last number"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["report", "nowhere", "--compare-graders"], "not a run folder"),
        (["report", "nowhere", "--judge", "x"], "not a run folder"),
        (["report", "nowhere", "--compare-graders", "--grading", "official"], "--compare-graders"),
        (["report", "nowhere", "--compare-graders", "--against", "nowhere"], "--against"),
    ],
)
def test_a_judge_or_a_listing_without_its_run_is_refused(
    command: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_judge_without_a_system_role_gets_its_instructions_before_the_question(tmp_path: Path) -> None:
    import asyncio

    from s1.clients.call_cache import CallCache
    from s1.data.answer_judge import ask_judge
    from s1.data.attempts import EngineCaller
    from s1.engines.scripted import ScriptedEngine
    from s1.errors import BadInput

    class NoSystem(ScriptedEngine):
        def render(self, messages):  # type: ignore[no-untyped-def]
            if messages[0]["role"] == "system":
                raise BadInput("The chat template refuses these messages.")
            return super().render(messages)

    engine = NoSystem(lambda prefix: "It is.\nYes" if "## Reference answer" in prefix else "No")
    with CallCache(tmp_path / "journal.jsonl") as journal:
        caller = EngineCaller(engine, "judge")
        found = asyncio.run(ask_judge({"a": Attempt("q", "none", "nothing")}, caller, journal))
    assert found == {"a": True}
    assert "You compare a student's attempt" in engine.decode(engine.asked[0].prefix)
