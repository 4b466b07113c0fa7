from __future__ import annotations

import errno
import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s1.cli import main
from s1.data.curate_settings import CleanSettings, CurateSettings
from s1.data.decontaminate import benchmark_frame
from s1.data.executor import open_executor
from s1.data.ingest import work_folder
from s1.data.output import FILES
from s1.data.partitions import Part, hash_index
from s1.data.pipeline import curate, run_stages
from s1.data.pool import conform, pool_of_frame, read_pool
from s1.data.read_files import raw_rows, splits
from s1.data.validate_rows import Reader, Seen, checked_batches, row_frames
from s1.errors import BadConfig, BadInput, Interrupted

WORDS = [f"w{n}" for n in range(5000)]
BENCH = benchmark_frame("b", ["1"], ["the secret test question of this little world here"])


def rows(count: int, seed: int = 0, words: int = 30) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    found = []
    for i in range(count):
        thinking = " ".join(draw.choices(WORDS, k=words)) + " ."
        question = f"question {i} of {draw.randrange(10**6)} in this set of test questions, is it?"
        found.append(
            {
                "id": f"{draw.randrange(10**9):09d}-{i}", "question": question, "source": f"s{i % 3}",
                "thinking": thinking if i % 17 else "it breaks off in the", "attempt": str(i), "answer": str(i),
                "domain": f"d{i % 7}", "correct": i % 2 == 0, "trace_tokens": draw.randrange(1, 99),
                "solved_small": float(i % 5 == 0), "trace_by": "t",
            }
        )  # fmt: skip
    found[3]["question"] = "Here: " + BENCH["benchmark_question"][0]
    found[5]["question"] = found[6]["question"]
    found[8]["question"] = found[9]["question"].replace("question", "question,", 1)
    return found


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """One pool in several files of all kinds, with rows that are rejected."""
    all_rows = rows(400)
    folder = tmp_path / "pool"
    folder.mkdir()
    pl.DataFrame(all_rows[:150]).write_parquet(folder / "a.parquet", row_group_size=40)
    bad = [{"id": "x", "question": None}, {"id": "y", "question": "q", "trace_tokens": "many"}, all_rows[0]]
    lines = [*(json.dumps(r) for r in all_rows[150:300]), "{cut", *(json.dumps(r) for r in bad)]
    (folder / "b.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "c.json.gz").write_bytes(gzip.compress(json.dumps(all_rows[300:350]).encode()))
    pl.DataFrame(all_rows[350:]).write_csv(folder / "d.csv")
    return sorted(folder.iterdir())


def written(pool: Any, out: Path, config: CurateSettings) -> dict[str, bytes]:
    curate(pool, config, out, benchmarks=BENCH)
    return {name: (out / name).read_bytes() for name in FILES}


SETTINGS = {
    "s1k": CurateSettings(n=60, near=0.8),
    "official": CurateSettings(n=60, profile="official"),
    "traces": CurateSettings(n=30, duplicates="trace", trace_prefix="deepseek"),
    **{s: CurateSettings(n=50, strategy=s) for s in ("random", "diverse", "longest", "full")},
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_a_pool_on_disk_gives_the_bytes_of_a_pool_in_memory(
    name: str, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = written(read_pool(files), tmp_path / "memory", SETTINGS[name])
    monkeypatch.setattr("s1.data.partitions.GATHER_BYTES", 3000)  # many pieces
    pool = read_pool(files, work=tmp_path / "work", piece_bytes=8000)
    assert len(pool.parts) > 10
    on_disk = written(pool, tmp_path / "disk", SETTINGS[name])
    for file in FILES:
        if file != "dataset.parquet":
            assert on_disk[file] == memory[file], file
    # Row groups follow the pieces that are gathered; the rows are the same.
    both = [pl.read_parquet(tmp_path / side / "dataset.parquet") for side in ("memory", "disk")]
    assert both[0].equals(both[1])


def test_the_default_pieces_give_the_same_parquet_too(files: list[Path], tmp_path: Path) -> None:
    memory = written(read_pool(files), tmp_path / "memory", SETTINGS["s1k"])
    pool = read_pool(files, work=tmp_path / "work", piece_bytes=8000)
    assert written(pool, tmp_path / "disk", SETTINGS["s1k"]) == memory


def test_rows_rejects_and_their_places_are_those_of_the_pool_in_memory(
    files: list[Path], tmp_path: Path
) -> None:
    pool, on_disk = read_pool(files), read_pool(files, work=tmp_path / "w", piece_bytes=5000)
    assert on_disk.rows.equals(pool.rows) and conform(pool.rows).equals(pool.rows)
    assert on_disk.rejects.equals(pool.rejects) and pool.rejects.height == 4
    assert hash_index(on_disk.index) == hash_index(pool.index)
    places = pool.rejects.select("row", "field").rows()
    assert places == [(151, ""), (152, "question"), (153, "trace_tokens"), (154, "id")]


def test_a_parquet_pool_is_used_where_it_lies(tmp_path: Path) -> None:
    frame = conform(pl.DataFrame(rows(50)))
    frame.write_parquet(tmp_path / "p.parquet", row_group_size=20)
    pool = read_pool(tmp_path / "p.parquet", work=tmp_path / "w", piece_bytes=1000)
    assert {p.path for p in pool.parts if isinstance(p, Part)} == {tmp_path / "p.parquet"}
    assert pool.rows.equals(frame)
    frame.with_columns(answer=pl.lit("")).write_parquet(tmp_path / "q.parquet")  # "" is to become null
    copied = read_pool(tmp_path / "q.parquet", work=tmp_path / "w")
    assert tmp_path / "q.parquet" not in {p.path for p in copied.parts if isinstance(p, Part)}
    assert copied.rows["answer"].null_count() == 50


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 49), unique=True), st.integers(1, 4000))
def test_chosen_rows_come_back_in_the_order_asked_for(order: list[int], size: int) -> None:
    pool = pool_of_frame(pl.DataFrame(rows(50)))
    wanted = pool.index[order]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("s1.data.partitions.GATHER_BYTES", size)
        pieces = list(pool.gather(wanted))
    assert [i for p in pieces for i in p["id"]] == wanted["id"].to_list()


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.floats(), st.text(max_size=8),
    st.lists(st.text(max_size=3), max_size=3),
    st.sampled_from(["yes", " No", "None", "1", "0.5", "", " ", "\x1c", "x" * 40]),
)  # fmt: skip
NAMES = st.sampled_from(
    ["id", "question", "problem", "answer", "solution", "source", "thinking", "trace", "attempt", "score",
     "correct", "trace_tokens", "solved_m", "other", "deepseek_thinking_trajectory", "deepseek_grade"]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(columns=st.dictionaries(NAMES, st.lists(VALUES, min_size=4, max_size=4), min_size=1, max_size=7))
def test_a_batch_is_checked_as_single_rows_are(
    columns: dict[str, list[Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    series = []
    for name, values in columns.items():
        first = next((v for v in values if v is not None), None)
        same = [v if type(v) is type(first) else None for v in values]
        series.append(pl.Series(name, same, dtype=pl.List(pl.String) if isinstance(first, list) else None))
    frame = pl.DataFrame(series)
    path = tmp_path_factory.mktemp("p") / "p.parquet"
    frame.write_parquet(path)
    reader, quick, slow = Reader(), Seen(), Seen()
    (split,) = splits(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("s1.data.validate_rows.MAX_CHARACTERS", 30)
        fast = [f for _, found in checked_batches(split, reader, quick) for f in found]
        one_by_one = iter(enumerate(frame.iter_rows(named=True), 1))
        careful = list(row_frames(one_by_one, str(path), "p", reader, slow))
    assert quick.rejects == slow.rejects
    assert bool(fast) == bool(careful)
    if fast:
        one, other = (pl.concat(f, how="diagonal").sort("_row") for f in (fast, careful))
        assert one.select(sorted(one.columns)).equals(other.select(sorted(other.columns)))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(['{"a": 1}', "", "   ", "{bad", '{"b": "é"}']), max_size=30), st.integers(1, 60)
)
def test_lines_keep_their_numbers_in_pieces_of_any_size(lines: list[str], size: int) -> None:
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"s1-lines-{os.getpid()}.jsonl"
    path.write_text("\n".join(lines))
    try:
        from s1.data.read_files import split_rows

        whole = [(n, repr(r)) for n, r in raw_rows(path)]
        assert [(n, repr(r)) for s in splits(path, size) for n, r in split_rows(s)] == whole
    finally:
        path.unlink()


def test_parquet_text_that_is_not_utf8_rejects_its_row_alone(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    raw = pa.array([b"good one?", b"bad \xff", b"good two?"], pa.binary())
    bad = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    pq.write_table(pa.table({"id": ["1", "2", "3"], "question": bad}), tmp_path / "p.parquet")
    pool = read_pool(tmp_path / "p.parquet")
    assert pool.rows["id"].to_list() == ["1", "3"]
    assert pool.rejects.select("row", "field", "reason").row(0) == (2, "question", "not valid UTF-8")


class Counting:
    """An executor that counts, and stops after so many pieces as a kill would."""

    def __init__(self, most: int = 10**9) -> None:
        self.most, self.done = most, 0

    def __call__(self, function: Any, items: Any) -> Any:
        for item in items:
            if self.done == self.most:
                raise KeyboardInterrupt
            self.done += 1
            yield function(item)


def test_a_full_disk_keeps_the_parts_that_are_done(files: list[Path], tmp_path: Path, monkeypatch) -> None:
    replace, done = os.replace, []

    def replace_two(part: Path, file: Path) -> None:
        if len(done) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        done.append(file)
        replace(part, file)

    monkeypatch.setattr("os.replace", replace_two)
    with pytest.raises(Interrupted, match="No space left"), work_folder(tmp_path / "out") as work:
        read_pool(files, work=work, piece_bytes=8000)
    monkeypatch.undo()
    again, whole = Counting(), Counting()
    with work_folder(tmp_path / "out") as work:
        assert set(work.glob("*.pickle")) == set(done)
        read_pool(files, work=work, executor=again, piece_bytes=8000)
    read_pool(files, work=tmp_path / "other", executor=whole, piece_bytes=8000)
    assert again.done == whole.done - 2 > 0


def test_parts_that_are_done_are_not_done_again(files: list[Path], tmp_path: Path) -> None:
    work, config = tmp_path / "w", CurateSettings(n=50)
    first, again = Counting(), Counting()
    whole = written(read_pool(files, work=work, executor=first, piece_bytes=8000), tmp_path / "a", config)
    pool = read_pool(files, work=work, executor=again, piece_bytes=8000)
    assert written(pool, tmp_path / "b", config) == whole and again.done == 0
    # Another setting of one stage repeats that stage alone; a changed file is read again.
    curate(pool, CurateSettings(n=50, clean=CleanSettings(word_run=7)), benchmarks=BENCH)
    assert 0 < again.done <= 2 * len(pool.parts) < first.done
    parts = again.done
    files[0].touch()
    read_pool(files, work=work, executor=again, piece_bytes=8000)
    assert parts < again.done < parts + len(pool.parts)


def test_what_a_changed_file_gave_before_is_not_reused(tmp_path: Path) -> None:
    path, frame = tmp_path / "p.parquet", conform(pl.DataFrame(rows(20)))
    for thinking in ("so 1 .", "this was cut in the"):
        frame.with_columns(thinking=pl.lit(thinking)).write_parquet(path)
        pool = read_pool(path, work=tmp_path / "w")
        ledger = run_stages(pool, ["clean"])
    assert ledger.kept.height == 0


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_a_stop_at_any_part_resumes_to_the_same_bytes(
    share: float, files: list[Path], tmp_path: Path
) -> None:
    config = CurateSettings(n=50)
    whole = written(read_pool(files), tmp_path / "a", config)
    every = Counting()  # how many parts there are depends on how pyarrow writes the files
    written(read_pool(files, work=tmp_path / "v", executor=every, piece_bytes=8000), tmp_path / "v2", config)
    stopped = Counting(int(every.done * share))
    with pytest.raises(KeyboardInterrupt):
        written(
            read_pool(files, work=tmp_path / "w", executor=stopped, piece_bytes=8000),
            tmp_path / "b",
            config,
        )
    rest = Counting()
    assert (
        written(
            read_pool(files, work=tmp_path / "w", executor=rest, piece_bytes=8000), tmp_path / "b", config
        )
        == whole
    )


def test_processes_give_the_same_bytes_and_the_work_folder_goes(files: list[Path], tmp_path: Path) -> None:
    folder = str(files[0].parent)
    for workers in ("1", "2"):
        out = str(tmp_path / workers)
        assert main(["curate", folder, "--out", out, "--n", "50", "--workers", workers]) == 0
    for name in FILES:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name
    assert not list(tmp_path.glob(".*"))


def test_one_output_folder_has_one_writer(tmp_path: Path) -> None:
    with (
        work_folder(tmp_path / "out"),
        pytest.raises(BadInput, match="process"),
        work_folder(tmp_path / "out"),
    ):
        pass


def test_finished_work_survives_an_interruption_and_nothing_else(tmp_path: Path) -> None:
    for error, stays in (
        (Interrupted("The server is gone.", "Whatever the hint says."), True),
        (RuntimeError("a crash"), True),
        (BadInput("No such column.", "The same command goes on from here."), False),
    ):
        with pytest.raises(type(error)), work_folder(tmp_path / "out") as work:
            (work / "finished").write_text("x")
            raise error
        assert (tmp_path / ".out.work" / "finished").exists() == stays


def test_an_executor_that_cannot_be_is_refused() -> None:
    for options in ({"workers": 0}, {"address": "1.2.3.4:1"}):
        with pytest.raises(BadConfig), open_executor("local", **options):  # type: ignore[arg-type]
            pass
    with pytest.raises(BadConfig), open_executor("ray", workers=2):
        pass
    with open_executor(workers=1) as executor:
        assert executor is map


def test_a_small_pool_starts_no_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from s1.cli.curate_stages import WORKER_BYTES, _workers_for

    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(4), raising=False)
    for name, size in (
        ("a.jsonl", WORKER_BYTES // 2),
        ("b.jsonl", 2 * WORKER_BYTES),
        ("c.jsonl", 9 * WORKER_BYTES),
    ):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)  # takes no room
    a, b, c = (str(tmp_path / f"{name}.jsonl") for name in "abc")
    assert [_workers_for(paths) for paths in ([a], [b], [c], [a, a, b], [str(tmp_path)])] == [1, 2, 4, 3, 4]
    assert _workers_for([str(tmp_path / "missing.jsonl")]) == 1, "the error comes from reading it"


def start(arguments: list[str], **environment: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "s1", "curate", *arguments]
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path, **environment})


def children(pid: int) -> list[str]:
    """The processes that a process has started; none where there is no /proc."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return listed.read_text().split() if listed.exists() else []


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_after_kill_9_the_same_command_resumes(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    for number, frame in enumerate(pl.DataFrame(rows(6000, words=500)).drop("source").iter_slices(400)):
        frame.write_parquet(tmp_path / "pool" / f"{number:02d}.parquet")  # each file is a piece at least
    arguments = [str(tmp_path / "pool"), "--n", "100", "--workers", "2", "--out"]
    assert start([*arguments, str(tmp_path / "whole")]).wait() == 0
    for attempt in range(5):  # on a busy machine a process may be over before it is killed or looked at
        out, done = tmp_path / f"killed-{attempt}", tmp_path / f".killed-{attempt}.work"
        process = start([*arguments, str(out)])
        while process.poll() is None and len(list(done.glob("read-*.pickle"))) < 2:
            time.sleep(0.01)
        workers = children(process.pid)
        process.send_signal(signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            continue
        assert not out.exists()
        limit = time.monotonic() + 60
        while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < limit:
            time.sleep(0.05)
        assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()], "workers outlived their parent"
        time.sleep(0 if workers else 1)
        before = {f: f.stat().st_mtime_ns for f in done.glob("read-*.pickle")}
        assert before
        again = start([*arguments, str(out)])
        kept: dict[Path, int] = {}
        while again.poll() is None:
            for file in before:
                with suppress(FileNotFoundError):  # in the end the folder goes
                    kept[file] = file.stat().st_mtime_ns
            time.sleep(0.01)
        assert again.returncode == 0
        for name in FILES:
            assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
        if kept.keys() == before.keys():
            break
    assert kept == before


# VmHWM and not ru_maxrss, which Linux hands down to a new process from the one that started it: from pytest.
MEASURE = r"""
import re, resource, runpy, sys
sys.argv = ["s1", "curate", *sys.argv[1:]]
try:
    runpy.run_module("s1", run_name="__main__")
finally:
    own = int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])
    print("peak", max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) // 1024)
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of one process is read from /proc")
def test_memory_stays_bounded_where_the_pool_is_several_times_the_bound(tmp_path: Path) -> None:
    bound, folder = 600, tmp_path / "pool"
    folder.mkdir()
    block = pl.DataFrame(rows(2000, words=6000)).drop("solved_small")  # 62 MB
    for number in range(29):
        ids = pl.concat_str(pl.lit(f"{number}-"), "id")
        block.with_columns(id=ids, question=pl.concat_str("question", ids)).write_parquet(
            folder / f"{number:02d}.parquet", row_group_size=500
        )
    assert block.estimated_size("mb") * 29 > 3 * bound
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", MEASURE, str(folder), "--out", str(tmp_path / "out"), "--workers", "1"]
    environment = {**os.environ, "PYTHONPATH": path, "POLARS_MAX_THREADS": "2"}  # each thread holds some
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < bound
