"""The run folder: what is stored survives, what differs is refused."""

import dataclasses
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from s1.errors import BadConfig, BadInput, S1Error
from s1.evals.metrics import read_metrics
from s1.jsonl import AppendLog
from s1.runs import (
    Key,
    PolicyRecord,
    RunConfig,
    digest,
    key_of,
    open_run,
    read_config,
    read_generations,
    read_grades,
    read_questions,
    write_grades,
)
from s1.types import Generation, Grade, Question, Segment

POLICIES = (
    PolicyRecord(
        "budget 16", "16 tokens", "budget", max_thinking=16, settings={"max_thinking": 16, "wait": ["Wait"]}
    ),
    PolicyRecord("natural", "natural", "natural", settings={"max_thinking": None}),
)
CONFIG = RunConfig("sums", "exact", "m", POLICIES, samples=2, format={"name": "petri", "cue": None})
QUESTIONS = [Question(id=f"q{i}", text=f"What is {i} + {i}?", answer=str(2 * i)) for i in range(6)]


def generation(question: str, policy: str = "natural", sample: int = 0, **change) -> Generation:
    segments = (
        Segment((1, 2), "Q: é \u2028 \ud800", "prompt", "format"),
        Segment((3, 4), f"so {question}\n", "thinking", "model"),
        Segment((5,), "Wait", "thinking", "forced"),
        Segment((6,), "4", "answer", "model"),
    )
    fields = {"thinking_tokens": 3, "answer_tokens": 1, "forced_tokens": 1, "waits": 1, "cut": False}
    fields |= {"finish": "stop", "seconds": time.perf_counter(), **change}
    return Generation(question_id=question, sample=sample, policy=policy, segments=segments, **fields)


ALL = [(q.id, p, s) for s in range(2) for p in ("natural", "budget 16") for q in reversed(QUESTIONS)]


def fill(path: Path, keys=ALL, **change) -> None:
    with open_run(path, CONFIG, QUESTIONS) as run:
        done = run.done()
        for question, policy, sample in keys:
            if (question, sample, policy) not in done:
                run.append(generation(question, policy, sample, **change))
        run.finish()


def lines(path: Path) -> list[bytes]:
    return (path / "generations.jsonl").read_bytes().splitlines(keepends=True)


def test_what_is_appended_is_read_back_equal(tmp_path):
    stored = [generation(q.id) for q in QUESTIONS]
    with open_run(tmp_path / "r", CONFIG, QUESTIONS) as run:
        for each in stored:
            run.append(each)
        assert read_generations(tmp_path / "r") == stored, "readable while it is being written"
    assert read_questions(tmp_path / "r") == QUESTIONS
    record = read_config(tmp_path / "r")
    assert record.config == CONFIG, "tuples and nulls come back as they were"
    assert record.questions.n == 6 and record.versions[0]["python"]


def test_the_stored_hash_is_that_of_the_questions_file(tmp_path):
    open_run(tmp_path, CONFIG, QUESTIONS).close()
    content = (tmp_path / "questions.jsonl").read_bytes()
    assert read_config(tmp_path).questions.sha256 == hashlib.sha256(content).hexdigest()


def test_finish_sorts_by_question_policy_sample_and_keeps_seconds(tmp_path):
    with open_run(tmp_path, CONFIG, QUESTIONS) as run:
        for question, policy, sample in ALL:
            run.append(generation(question, policy, sample))
        before = lines(tmp_path)
        run.finish()
        assert sorted(before) == sorted(lines(tmp_path)) and before != lines(tmp_path)
        assert len(run.done()) == len(ALL), "the run can be continued after finish"
    keys = [key_of(g) for g in read_generations(tmp_path)]
    assert keys == [Key(q.id, s, p) for q in QUESTIONS for p in ("budget 16", "natural") for s in range(2)]


def test_order_of_arrival_does_not_change_the_bytes(tmp_path):
    fill(tmp_path / "a", ALL, seconds=0.5)
    fill(tmp_path / "b", sorted(ALL), seconds=0.5)
    assert lines(tmp_path / "a") == lines(tmp_path / "b")
    fill(tmp_path / "c", ALL)
    assert lines(tmp_path / "a") != lines(tmp_path / "c"), "seconds are as measured"
    assert digest(tmp_path / "a") == digest(tmp_path / "c"), "and the digest leaves them out"
    fill(tmp_path / "d", ALL, seconds=0.5, thinking_tokens=4)
    assert digest(tmp_path / "a") != digest(tmp_path / "d")


WRITER = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
from test_runs import ALL, CONFIG, QUESTIONS, generation
from s1.runs import open_run
with open_run({path!r}, CONFIG, QUESTIONS) as run:
    left = [key for key in ALL if (key[0], key[2], key[1]) not in run.done()]
    for question, policy, sample in left[:{most}]:
        run.append(generation(question, policy, sample, seconds=0.5))
        print("stored", flush=True)
    if {most} < len(left):
        sys.stdin.read()  # until it is killed
    run.finish()
"""


def start(path: Path, most: int) -> subprocess.Popen:
    here = Path(__file__).parent
    code = WRITER.format(root=str(here.parent), tests=str(here), path=str(path), most=most)
    return subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_a_killed_run_is_resumed_and_ends_with_the_same_bytes(tmp_path):
    fill(tmp_path / "whole", seconds=0.5)
    path, counts = tmp_path / "killed", []
    for stop_after in (3, 4):
        process = start(path, most=10)
        for _ in range(stop_after):
            assert process.stdout.readline() == "stored\n"
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        counts.append(len(read_generations(path)))
    assert counts[0] >= 3 and counts[1] >= counts[0] + 4, "every generation that was reported is there"
    with (path / "generations.jsonl").open("ab") as file:
        file.write(b'{"question_id":"q1","sam')
    process = start(path, most=len(ALL))
    out, _ = process.communicate()
    assert process.returncode == 0
    assert out.count("stored") == len(ALL) - counts[1], "nothing is done twice"
    assert lines(path) == lines(tmp_path / "whole")


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_line_torn_anywhere_is_cut_and_nothing_else_is(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("run") / "r"
    fill(path, ALL[:4], seconds=0.5)
    whole = lines(path)
    kept = data.draw(st.integers(0, 3), label="whole lines")
    torn = data.draw(st.integers(0, len(whole[kept]) - 1), label="bytes of the torn line")
    (path / "generations.jsonl").write_bytes(b"".join(whole[:kept]) + whole[kept][:torn])
    assert len(read_generations(path)) == kept, "a reader leaves the torn line out"
    with open_run(path, CONFIG, QUESTIONS) as run:
        assert len(run.done()) == kept and lines(path) == whole[:kept]
    fill(path, ALL[:4], seconds=0.5)
    assert lines(path) == whole


@pytest.mark.parametrize("bad", [b"{}\n", b"nonsense\n", b"[1]\n", b'{"question_id": 3}\n'])
def test_a_bad_line_elsewhere_is_named(tmp_path, bad):
    fill(tmp_path, ALL[:4])
    good = lines(tmp_path)
    (tmp_path / "generations.jsonl").write_bytes(good[0] + bad + good[1])
    for read in (lambda: open_run(tmp_path, CONFIG, QUESTIONS), lambda: read_generations(tmp_path)):
        with pytest.raises(BadInput, match=r"generations\.jsonl, line 2"):
            read()
    assert len(lines(tmp_path)) == 3, "and the file is left as it is"


def test_a_generation_twice_or_of_another_run_in_the_file_is_refused(tmp_path):
    fill(tmp_path, ALL[:2])
    good = lines(tmp_path)
    (tmp_path / "generations.jsonl").write_bytes(good[0] + good[0])
    with pytest.raises(BadInput, match="line 2.*already stored"):
        open_run(tmp_path, CONFIG, QUESTIONS)
    (tmp_path / "generations.jsonl").write_bytes(good[0].replace(b'"q4"', b'"other"'))
    with pytest.raises(BadInput, match="line 1.*'other'"):
        open_run(tmp_path, CONFIG, QUESTIONS)


def test_appending_twice_or_a_foreign_question_is_a_programmers_mistake(tmp_path):
    with open_run(tmp_path, CONFIG, QUESTIONS) as run:
        run.append(generation("q1"))
        with pytest.raises(ValueError, match="already stored"):
            run.append(generation("q1"))
        with pytest.raises(ValueError, match="not a question"):
            run.append(generation("other"))
        with pytest.raises(ValueError, match="not a policy"):
            run.append(generation("q2", "budget 17"))
    assert len(lines(tmp_path)) == 1


def test_a_failed_generation_is_tried_again_and_replaced(tmp_path):
    with open_run(tmp_path, CONFIG, QUESTIONS) as run:
        run.append(generation("q1", error="server gone", finish=None))
        run.append(generation("q2"))
        assert {key.question_id for key in run.done()} == {"q2"}
    with open_run(tmp_path, CONFIG, QUESTIONS) as run:
        run.append(generation("q1"))
        assert [g.error for g in read_generations(tmp_path)] == [None, None]
        run.finish()
    assert len(lines(tmp_path)) == 2


def test_another_config_is_refused_naming_field_and_both_values(tmp_path):
    fill(tmp_path, ALL[:1])
    longer = dataclasses.replace(POLICIES[0], settings={"max_thinking": 17})
    with pytest.raises(BadConfig) as error:
        open_run(tmp_path, dataclasses.replace(CONFIG, model="n", policies=(longer,)), QUESTIONS)
    assert 'model was "m", now "n"' in str(error.value)
    assert re.search(r"policy 'budget 16' was .*16.*, now .*17", str(error.value))
    assert re.search("policy 'natural' was .*, now absent", str(error.value))


def test_another_label_or_kind_does_not_stop_a_run_from_being_resumed(tmp_path):
    fill(tmp_path, ALL[:1])
    renamed = tuple(dataclasses.replace(p, label=f"new {p.label}", kind="new") for p in POLICIES)
    with open_run(tmp_path, dataclasses.replace(CONFIG, policies=renamed), QUESTIONS) as run:
        assert len(run.done()) == 1


def test_other_questions_are_refused(tmp_path):
    fill(tmp_path, ALL[:1])
    changed = [*QUESTIONS[:2], Question("q2", "Else?", "1"), *QUESTIONS[3:]]
    with pytest.raises(BadConfig, match="questions were 6 .* now 6 .*"):
        open_run(tmp_path, CONFIG, changed)
    with pytest.raises(BadConfig, match="first difference is at row 1"):
        open_run(tmp_path, CONFIG, QUESTIONS[::-1])
    with pytest.raises(BadInput, match="same id 'q0'"):
        open_run(tmp_path / "new", CONFIG, QUESTIONS + QUESTIONS[:1])
    with pytest.raises(BadInput, match="at least one"):
        open_run(tmp_path / "new", CONFIG, [])
    with (tmp_path / "questions.jsonl").open("ab") as file:
        file.write(b"\n")
    with pytest.raises(BadInput, match="changed"):
        open_run(tmp_path, CONFIG, QUESTIONS)


def test_a_folder_that_is_no_run_is_refused_and_untouched(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(BadInput, match=r"not a run folder.*thesis\.tex"):
        open_run(tmp_path, CONFIG, QUESTIONS)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(BadInput, match="is a file"):
        open_run(tmp_path / "thesis.tex", CONFIG, QUESTIONS)
    for read in (read_config, read_questions, read_generations, read_grades, read_metrics):
        with pytest.raises(BadInput, match="not a run folder"):
            read(tmp_path)


def test_a_creation_that_was_killed_is_made_good(tmp_path):
    (tmp_path / "questions.jsonl").write_text('{"id": "q0"')
    (tmp_path / "config.json.part").write_text("{")
    fill(tmp_path)
    assert len(read_generations(tmp_path)) == len(ALL)


OLD = {
    "schema": 1, "benchmark": "sums", "questions": {"n": 6, "sha256": "ab"}, "versions": [{"python": "3.12"}],
    "config": {"benchmark": "sums", "kind": "exact", "model": "m", "policies": [{"label": "natural", "waits": 0}]},
}  # fmt: skip


@pytest.mark.parametrize(
    "read", [read_config, read_questions, read_generations, read_grades, read_metrics, digest]
)
def test_a_run_folder_of_another_schema_is_refused_and_left_as_it_is(tmp_path, read):
    fill(tmp_path, ALL[:1])
    for schema in (2, 4):
        (tmp_path / "config.json").write_text(json.dumps({**OLD, "schema": schema}))
        before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
        with pytest.raises(BadInput, match=f"schema {schema}.*reads schema 3") as error:
            read(tmp_path)
        assert "new folder" in error.value.hint
        with pytest.raises(BadInput, match=f"schema {schema}"):
            open_run(tmp_path, CONFIG, QUESTIONS)
        assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir()}


def test_two_processes_do_not_write_one_run(tmp_path):
    process = start(tmp_path / "r", most=1)
    assert process.stdout.readline() == "stored\n"
    try:
        with pytest.raises(BadInput, match="another process"):
            open_run(tmp_path / "r", CONFIG, QUESTIONS)
    finally:
        process.kill()
        process.wait()
    open_run(tmp_path / "r", CONFIG, QUESTIONS).close()


def test_a_full_disk_leaves_whole_lines_only(tmp_path, monkeypatch):
    written = os.write

    def refuse(file, content):
        if len(content) < 60:
            raise OSError(28, "No space left on device")
        return written(file, content[:50])

    with open_run(tmp_path, CONFIG, QUESTIONS) as run:
        run.append(generation("q1"))
        monkeypatch.setattr(os, "write", refuse)
        with pytest.raises(S1Error, match="No space left"):
            run.append(generation("q2"))
        monkeypatch.undo()
        run.append(generation("q2"))
    assert len(read_generations(tmp_path)) == 2


def test_grades_round_trip(tmp_path):
    fill(tmp_path, ALL[:1])
    grades = {
        Key("q1", 0, "natural"): Grade("right", "4", "integer"),
        Key("q2", 1, "a"): Grade("cut", None, ""),
    }
    write_grades(tmp_path, grades)
    assert read_grades(tmp_path) == grades
    with (tmp_path / "grades.jsonl").open("ab") as file:
        file.write(
            b'{"question_id":"q1","sample":0,"policy":"p","outcome":"maybe","extracted":null,"how":""}\n'
        )
    with pytest.raises(BadInput, match=r"grades\.jsonl, line 3.*outcome"):
        read_grades(tmp_path)


def test_a_log_keeps_the_last_line_of_a_key_and_can_be_put_in_order(tmp_path):
    log = AppendLog[str](tmp_path / "log.jsonl")
    log.load(lambda number, line: json.loads(line)["key"])
    assert log.is_empty
    log.append(None, {"head": True})
    for key, value in (("b", 1), ("a", 2), ("b", 3)):
        log.append(key, {"key": key, "value": value})
    assert len(log) == 2 and "a" in log and json.loads(log.line("b"))["value"] == 3
    log.rewrite(["a", "b"])
    log.append("c", {"key": "c", "value": 4})
    log.close()
    stored = [json.loads(line)["value"] for line in (tmp_path / "log.jsonl").read_bytes().splitlines()]
    assert stored == [2, 3, 4]


def test_a_generation_that_is_stored_twice_is_refused_by_readers_too(tmp_path):
    fill(tmp_path / "r")
    file = tmp_path / "r" / "generations.jsonl"
    file.write_bytes(file.read_bytes() + lines(tmp_path / "r")[0])
    with pytest.raises(BadInput, match="stored twice"):
        read_generations(tmp_path / "r")
