"""Killed at random moments and run again, every command ends with what an uninterrupted run gives."""

from __future__ import annotations

import json
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import forked
import pytest

from s1.runs import digest

ROOT = Path(__file__).parents[2]
SEED = 2026
KILLS = 4
"""Of each of the five commands."""
USD_PER_WORD = 1.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # it depends on how busy the machine is


class Teacher(ThreadingHTTPServer):
    """A paid model: a dollar for each word of prompt and reply, counted when the call comes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Replies)
        self.daemon_threads = True
        self.words = 0
        self.lock = threading.Lock()


class _Replies(BaseHTTPRequestHandler):
    server: Teacher

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = body["messages"][-1]["content"]
        message = {
            "role": "assistant",
            "reasoning_content": f"about {question}",
            "content": f"answer {question}",
        }
        used = {"prompt_tokens": len(question.split()), "completion_tokens": 2 * len(question.split()) + 2}
        with self.server.lock:
            self.server.words += sum(used.values())
        time.sleep(0.15)
        data = json.dumps(
            {"choices": [{"message": message, "finish_reason": "stop"}], "usage": used}
        ).encode()
        try:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            pass  # the client was killed

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """Has the libraries imported, so that the seconds of the first command do not hold it."""
    forked.s1("--version", folder=ROOT)


@pytest.fixture(scope="module")
def teacher() -> Iterator[Teacher]:
    server = Teacher()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool of 400 rows, one of 40 questions, and a dataset."""
    import yaml

    from s1.petri import world
    from s1.petri.training import curate_settings
    from s1.types import to_json

    folder = tmp_path_factory.mktemp("inputs")
    rows = world.pool().rows.head(400)
    rows.write_parquet(folder / "pool.parquet")
    (folder / "petri.yaml").write_text(yaml.safe_dump(to_json(curate_settings(32, 0))))
    lines = [json.dumps({"question": f"what is {n} plus {n}", "answer": str(2 * n)}) for n in range(40)]
    (folder / "questions.jsonl").write_text("\n".join(lines) + "\n")
    finish(
        [
            "curate",
            str(folder / "pool.parquet"),
            "--n",
            "32",
            "--workers",
            "1",
            "--config",
            str(folder / "petri.yaml"),
        ],
        folder / "dataset",
    )
    return folder


def start(command: list[str], out: Path) -> ForkServerProcess:
    errors = out.with_name(f"{out.name}.errors")
    return forked.start([*command, "--out", str(out)], ROOT, Path("/dev/null"), errors)


def finish(command: list[str], out: Path) -> float:
    """Run to the end; returns the seconds."""
    before = time.monotonic()
    done = forked.s1(*command, "--out", out, folder=ROOT)
    assert done.returncode == 0, done.stderr
    return time.monotonic() - before


def check_kills(name: str, command: list[str], folder: Path, result: Callable[[Path], Any]) -> None:
    """Kill `command` KILLS times; whenever it ends, and at last, its result must be that of a run without kills."""
    seconds = finish(command, folder / "whole")
    expected = result(folder / "whole")
    draw, out, kills, rounds = random.Random(f"{SEED} {name}"), folder / "killed", 0, 0
    while kills < KILLS:
        moment = draw.uniform(0.25, 1.0) * seconds
        process, began = start(command, out), time.monotonic()
        process.join(moment)
        if process.exitcode is None:
            process.kill()
            process.join()
            kills += 1
            print(f"{name}: kill {kills} after {moment:.2f} of {seconds:.2f} s")
            if not (out / "ledger.json").is_file():
                continue  # a curation writes it last, and then refuses the folder
        else:
            assert process.exitcode == 0, out.with_name(f"{out.name}.errors").read_text()
            seconds = min(seconds, time.monotonic() - began)  # the machine was busier before
        assert result(out) == expected
        rounds += 1
        out = folder / f"killed-{rounds}"
    finish(command, out)
    assert result(out) == expected
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)


def run_result(out: Path) -> Any:
    return digest(out), (out / "grades.jsonl").read_bytes()


def test_eval(tmp_path: Path) -> None:
    command = [
        "eval",
        "--model",
        "petri",
        "--benchmark",
        "petri",
        "--limit",
        "20",
        "--temperature",
        "0.8",
        "--samples",
        "2",
    ]
    check_kills("eval", command, tmp_path, run_result)


def test_sweep(tmp_path: Path) -> None:
    command = [
        "sweep",
        "--model",
        "petri",
        "--benchmark",
        "petri",
        "--limit",
        "8",
        "--budgets",
        "8,16,32",
        "--waits",
        "1,2",
    ]
    check_kills("sweep", command, tmp_path, run_result)


def test_curate(inputs: Path, tmp_path: Path) -> None:
    command = [
        "curate",
        str(inputs / "pool.parquet"),
        "--n",
        "20",
        "--workers",
        "1",
        "--config",
        str(inputs / "petri.yaml"),
    ]
    names = ("dataset.parquet", "ledger.json", "rejected.jsonl")
    check_kills("curate", command, tmp_path, lambda out: [(out / name).read_bytes() for name in names])


def test_teach_and_its_spending_cap(inputs: Path, tmp_path: Path, teacher: Teacher) -> None:
    """The cap holds over all kills: what the server was paid is never more."""
    cap = 2500.0
    config = tmp_path / "teacher.yaml"
    config.write_text(
        f"usd_per_million_in: {1e6 * USD_PER_WORD}\nusd_per_million_out: {1e6 * USD_PER_WORD}\n"
        f"max_tokens: 16\nconcurrency: 4\nstream: false\nmax_usd: {100 * cap}\n"
    )
    url = f"http://127.0.0.1:{teacher.server_port}/v1"
    command = [
        "curate",
        "teach",
        str(inputs / "questions.jsonl"),
        "--model",
        "m",
        "--url",
        url,
        "--config",
        str(config),
    ]
    check_kills("teach", command, tmp_path, lambda out: (out / "pool.parquet").read_bytes())

    config.write_text(config.read_text().replace(str(100 * cap), str(cap)))
    teacher.words, draw = 0, random.Random(SEED)
    for _ in range(4):
        process = start(command, tmp_path / "capped")
        process.join(draw.uniform(0.2, 1.5))
        process.kill()
        process.join()
    start(command, tmp_path / "capped").join(300)
    assert 0 < teacher.words * USD_PER_WORD <= cap


def test_train(inputs: Path, tmp_path: Path) -> None:
    command = [
        "train",
        str(inputs / "dataset"),
        "--base",
        "petri",
        "--set",
        "epochs=4",
        "--set",
        "batch=8",
        "--set",
        "device_batch=8",
    ]

    def trained(out: Path) -> Any:
        """The weights, and the record of the whole run without the time that it took."""
        record = json.loads((out / "train.json").read_text())
        assert len(record["log"]) == record["steps"] > 0 and record["loss"] > 0
        for entry in (record, *record["log"]):
            del entry["seconds"]
        return (out / "model.safetensors").read_bytes(), record

    check_kills("train", command, tmp_path, trained)
