"""Curation at the paper's size: time and peak memory of each stage, against the official algorithm in plain Python.

Theory: reading and writing a pool is bound by (de)compression of its traces, the same bytes for both sides.
Decontamination looks at questions only: a plain program builds a Python string for each of the pool's word
8-grams, a columnar one hashes them. Selection needs ids, domains and lengths, 1/1000 of the bytes of a pool.
Memory should not grow with the pool: the traces need never be in memory at once.

Each stage is a separate command, from files to files, on the output of our stage before it, in the official order
with the official rules (the plain side exempts no source from decontamination). Seconds and peak memory are those of
the whole command with the processes it starts (sampled every 0.05 s, and the peak of the largest from the system).
"Alone" repeats decontamination and selection on columns that are already in memory.

Run: python benchmarks/curation.py [--rows 59000] [--tokens 3600] [--ours-only] [--pipeline-only] [--work DIR]
[--data DIR]; --data is a folder of real questions and traces; without it they are those of the petri world. Prints a
table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from curation_parts.large_pool import write_pool

HERE = Path(__file__).resolve().parent
STAGES = ("decontaminate", "clean", "difficulty", "select")
LIMIT_BYTES = 4 << 30
LAUNCHER = """
import os, resource, subprocess, sys, time

def memory(root):  # of a process and all below it, pages that they share counted in each
    parents, sizes = {}, {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as stat, open(f"/proc/{name}/statm") as statm:
                parents[int(name)] = int(stat.read().rsplit(")", 1)[1].split()[1])
                sizes[int(name)] = int(statm.read().split()[1]) * resource.getpagesize()
        except OSError:
            pass  # it has ended
    total, found = 0, {root}
    for process in sorted(parents):
        if process in found or parents[process] in found:
            found.add(process)
            total += sizes[process]
    return total

child, most = subprocess.Popen(sys.argv[1:]), 0
while child.poll() is None:
    if os.path.isdir("/proc"):
        most = max(most, memory(child.pid))
    time.sleep(0.05)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
largest = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(used.ru_utime + used.ru_stime, max(most, largest))
sys.exit(child.returncode)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=59_000)
    parser.add_argument("--tokens", type=int, default=3_600, help="mean length of a trace")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n", type=int, default=1_000)
    parser.add_argument("--work", type=Path, help="kept there; by default a temporary folder")
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared" / "data")
    parser.add_argument("--ours-only", action="store_true")
    parser.add_argument("--pipeline-only", action="store_true", help="only the whole pipeline of ours")
    parser.add_argument("--alone", choices=("decontaminate", "select"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        alone(args)
    elif args.work:
        measure(args, args.work.resolve())
    else:
        with tempfile.TemporaryDirectory() as work:
            measure(args, Path(work))


def measure(args: argparse.Namespace, work: Path) -> None:
    data = args.data if args.data.is_dir() else None
    folder = work / f"{args.rows}-{args.tokens}-{args.seed}-{'real' if data else 'petri'}"
    began = time.perf_counter()
    pool = write_pool(folder, args.rows, args.tokens, args.seed, data)
    size = sum(f.stat().st_size for f in pool.iterdir())
    print(
        f"{args.rows:,} rows, about {args.tokens:,} tokens each, {size / 1e6:,.0f} MB of Parquet "
        f"(written or found in {time.perf_counter() - began:.0f} s); {platform.machine()}, {os.cpu_count()} cores"
    )
    benchmark = folder / "benchmark.jsonl"
    out = {side: folder / side for side in ("ours", "official")}
    for side in out.values():
        shutil.rmtree(side, ignore_errors=True)
    options = {"decontaminate": ["--against", str(benchmark)], "select": ["--n", str(args.n)]}
    results: dict[str, Any] = {}
    source = pool
    print(f"{'stage':24} {'ours s':>8} {'MB':>6}   {'plain s':>8} {'MB':>6}   ratio   rows kept")
    for stage in () if args.pipeline_only else STAGES:
        here = out["ours"] / stage
        more = ["--set", "profile=official"] if stage != "difficulty" else []
        more += ["--set", "exempt_sources=^$"] if stage == "decontaminate" else []  # as the plain side
        command = [
            "-m",
            "s1",
            "curate",
            stage,
            str(source),
            "--out",
            str(here),
            *options.get(stage, []),
            *more,
        ]
        ours = run(command)
        plain = None
        if not args.ours_only:
            there = out["official"] / stage
            script = HERE / "curation_parts" / "official.py"
            plain = run([str(script), stage, str(source), str(there), *options.get(stage, [])])
            check(stage, here, there)
        show(stage, ours, plain, len(ids(here)))
        results[stage] = {"ours": ours, "official": plain, "kept": len(ids(here))}
        source = here
    for stage in () if args.pipeline_only else ("decontaminate", "select"):
        at = pool if stage == "decontaminate" else out["ours"] / "difficulty"
        command = [str(Path(__file__)), "--alone", stage, "--work", str(folder), "--n", str(args.n)]
        process = run([*command, *(["--ours-only"] if args.ours_only else [])], {"S1_BENCH_POOL": str(at)})
        both = json.loads(process["last"])
        for name, time_of in both.items():
            ratio = f"{time_of / both['ours']:7.1f} times ours" if name != "ours" else ""
            print(f"{stage}, alone, {name}: {time_of:.3f} s {ratio}")
        results[f"{stage} alone"] = both
    whole = ["-m", "s1", "curate", str(pool), "--out", str(out["ours"] / "whole"), "--n", str(args.n)]
    results["pipeline"] = run([*whole, "--against", str(benchmark)])
    show("whole pipeline, strict", results["pipeline"], None, args.n)
    peaks = [r["ours"]["peak"] for r in results.values() if isinstance(r.get("ours"), dict)]
    peak = max([*peaks, results["pipeline"]["peak"]])
    print(f"most memory of a command of ours: {peak / 1e6:,.0f} MB (bound {LIMIT_BYTES / 1e6:,.0f})")
    print(json.dumps({"rows": args.rows, "tokens": args.tokens, "seed": args.seed, "bytes": size,
                      "real": data is not None, "versions": versions(), "results": results}))  # fmt: skip


def run(command: list[str], environment: dict[str, str] | None = None) -> dict[str, Any]:
    """Wall seconds, CPU seconds and peak memory (bytes) of a Python process. Ends the benchmark when it fails."""
    paths = [os.environ.get("PYTHONPATH", ""), str(HERE.parent)]
    changed = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **(environment or {})}
    began = time.perf_counter()
    # A process counts the memory of the one that started it as its own, so a small one starts it.
    # It runs elsewhere: -m looks in the current folder before PYTHONPATH, which may name another version.
    process = subprocess.run(
        [sys.executable, "-S", "-c", LAUNCHER, sys.executable, *command],
        capture_output=True,
        text=True,
        env=changed,
        cwd=tempfile.gettempdir(),
    )
    seconds = time.perf_counter() - began
    if process.returncode:
        sys.exit(f"{' '.join(command)}\n{process.stderr[-3000:]}")
    *printed, used = process.stdout.strip().splitlines()
    cpu, peak = map(float, used.split())
    return {"seconds": seconds, "cpu": cpu, "peak": peak, "last": printed[-1] if printed else ""}


def alone(args: argparse.Namespace) -> None:
    """The two stages on columns in memory, ours and the plain one, one after the other; median of three."""
    import polars as pl
    from curation_parts import official

    from s1.data.curate_settings import CurateSettings
    from s1.data.decontaminate import find_hits, read_benchmarks
    from s1.data.pool import pool_of_frame
    from s1.data.select import select

    files = sorted(Path(os.environ["S1_BENCH_POOL"]).rglob("*.parquet"))
    rows = pl.scan_parquet(files).select(pl.all().exclude("thinking", "attempt", "answer")).collect()
    rows = rows.with_columns(
        pl.lit(None, dtype=pl.String).alias(c) for c in ("thinking", "attempt", "answer")
    )
    pool = pool_of_frame(rows)
    benchmark = read_benchmarks(args.work / "benchmark.jsonl")
    plain_rows = [] if args.ours_only else rows.to_dicts()
    blocklist = benchmark["benchmark_question"].to_list()
    jobs: dict[str, Callable[[], Any]]
    if args.alone == "decontaminate":
        jobs = {
            "ours": lambda: find_hits(pool, pool.index, benchmark, profile="official"),
            "official": lambda: official.decontaminate(plain_rows, blocklist, False),
            "official, earlier sources blocked": lambda: official.decontaminate(plain_rows, blocklist, True),
        }
    else:
        jobs = {
            "ours": lambda: select(pool.index, CurateSettings(n=args.n, profile="official")),
            "official": lambda: official.select(plain_rows, args.n, 0),
        }
    found = {name: seconds(job) for name, job in jobs.items() if name == "ours" or not args.ours_only}
    print(json.dumps(found))


def seconds(job: Callable[[], Any]) -> float:
    times = []
    for _ in range(3):
        began = time.perf_counter()
        job()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def check(stage: str, ours: Path, plain: Path) -> None:
    """Both sides must keep the same rows; copies and draws may differ in which row they take."""
    kept, theirs = ids(ours), ids(plain)
    if stage == "decontaminate":
        found = [json.loads(line) for line in (ours / "hits.jsonl").read_text().splitlines()]
        hits = {h["id"] for h in found if h["count"]}
        assert hits == set((plain / "hits.txt").read_text().split()), "other decontamination hits"
        exact = {h["id"] for h in found if not h["count"]}  # too short for an 8-gram; only s1 looks for them
        assert not hits & kept and 0 <= len(theirs) - len(kept) <= len(exact), (
            f"{len(kept)} and {len(theirs)} rows kept, {len(exact)} exact matches"
        )
        print(f"  {len(hits):,} rows hit a benchmark question, the same in both")
    elif stage == "select":
        assert len(kept) == len(theirs), f"{len(kept)} and {len(theirs)} rows selected"
    else:
        assert kept == theirs, f"{stage}: other survivors ({len(kept)} and {len(theirs)})"


def ids(folder: Path) -> set[str]:
    return set(column(folder, "id"))


def column(folder: Path, name: str) -> list[str]:
    import polars as pl

    values: list[str] = pl.read_parquet(sorted(folder.rglob("*.parquet")), columns=[name])[name].to_list()
    return values


def show(stage: str, ours: dict[str, Any], plain: dict[str, Any] | None, kept: int) -> None:
    line = f"{stage:24} {ours['seconds']:8.1f} {ours['peak'] / 1e6:6,.0f}   "
    if plain:
        line += (
            f"{plain['seconds']:8.1f} {plain['peak'] / 1e6:6,.0f}   {plain['seconds'] / ours['seconds']:5.1f}"
        )
    print(f"{line:60} {kept:9,}", flush=True)


def versions() -> dict[str, str]:
    from importlib.metadata import version

    return {"python": platform.python_version(), "polars": version("polars"), "numpy": version("numpy")}


if __name__ == "__main__":
    main()
