"""The authors' curation in plain Python, as a baseline: what section 3.8 of the semantics describes, row by row.

Written from the description of the algorithm, not from its code. It reads and writes what our stages read
and write, so that a whole process can be set beside a whole process.

Run: python official.py STAGE POOL OUT [--against FILE] [--n N] [--seed S] [--earlier-sources]
STAGE: decontaminate, clean, difficulty, select. Prints one JSON line: seconds of reading, of the work, of writing.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
LABELS = [f"p{i}." for i in range(1, 1000)]
BOLD = re.compile(r"\*\*(?=.*\d)[^\s\]]*\*\*")


def ngrams(text: str, n: int = 8) -> set[str]:
    """The word n-grams of a text in lower case, whitespace collapsed."""
    words = re.sub(r"\s+", " ", text.lower()).strip().split()
    return {" ".join(words[i : i + n]) for i in range(len(words) - n + 1)}


def decontaminate(rows: list[Row], blocklist: list[str], earlier_sources: bool) -> list[Row]:
    """Rows that share no 8-gram with the blocklist; with `earlier_sources` accepted questions join it by source."""
    blocked: set[str] = set()
    for text in blocklist:
        blocked |= ngrams(text)
    if not earlier_sources:
        return [row for row in rows if not ngrams(row["question"]) & blocked]
    kept: list[Row] = []
    for source in sorted({row["source"] for row in rows}):
        accepted = [r for r in rows if r["source"] == source and not ngrams(r["question"]) & blocked]
        for row in accepted:
            blocked |= ngrams(row["question"])
        kept += accepted
    return kept


def without_copies(rows: list[Row]) -> list[Row]:
    """The first row of each question, whatever its case and spaces, as s1 counts copies."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(" ".join(row["question"].lower().split()), row)
    return list(first.values())


def is_complete(row: Row) -> bool:
    return all(value is not None for name, value in row.items() if name not in ("cot_type", "trace_by"))


def is_well_formed(row: Row) -> bool:
    question = row["question"]
    if "[asy]" in question and "aime" not in row["source"].lower():
        return False
    if "![Image]" in question or any(label in question for label in LABELS):
        return False
    return not BOLD.search(question)


def clean(rows: list[Row]) -> list[Row]:
    complete = [row for row in rows if is_complete(row)]
    return [row for row in complete if is_well_formed(row)]


def difficulty(rows: list[Row]) -> list[Row]:
    return [row for row in rows if not any(v for c, v in row.items() if c.startswith("solved_"))]


def is_preselected(row: Row) -> bool:
    source = row["source"].lower()
    if not row["correct"]:
        return False
    return "aime" in source or "gpqa" in source or ("openaimath" in source and row["trace_tokens"] > 5600)


def select(rows: list[Row], n: int, seed: int) -> list[Row]:
    """Preselected rows, then a domain at random and in it a row with probability 2^-rank of trace length."""
    draw = random.Random(seed)
    chosen = {row["id"]: row for row in rows if is_preselected(row)}
    domains: dict[str, list[Row]] = {}
    for row in rows:
        domains.setdefault(row["domain"], []).append(row)
    while len(chosen) < n and domains:
        name = draw.choice(sorted(domains))
        members = domains[name]
        members.sort(key=lambda row: row["trace_tokens"], reverse=True)
        at = draw.choices(range(len(members)), [2.0**-rank for rank in range(len(members))])[0]
        row = members.pop(at)
        chosen[row["id"]] = row
        if not members:
            del domains[name]
    return list(chosen.values())


def main() -> None:
    import polars as pl

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=["decontaminate", "clean", "difficulty", "select"])
    parser.add_argument("pool", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--earlier-sources", action="store_true")
    args = parser.parse_args()

    began = time.perf_counter()
    files = [args.pool] if args.pool.is_file() else sorted(args.pool.glob("*.parquet"))
    rows: list[Row] = []
    for file in files:
        rows += pl.read_parquet(file).to_dicts()
    blocklist: list[str] = []
    if args.against:
        blocklist = [json.loads(line)["question"] for line in args.against.open()]
    read = time.perf_counter()
    stages: dict[str, Callable[[], list[Row]]] = {
        "decontaminate": lambda: decontaminate(rows, blocklist, args.earlier_sources),
        "clean": lambda: clean(rows),
        "difficulty": lambda: difficulty(rows),
        "select": lambda: select(rows, args.n, args.seed),
    }
    kept = stages[args.stage]()
    clean_ids = {row["id"] for row in kept}
    if args.stage == "decontaminate":
        kept = without_copies(kept)
    worked = time.perf_counter()
    args.out.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(kept, schema=pl.read_parquet_schema(files[0])).write_parquet(args.out / "pool.parquet")
    wrote = time.perf_counter()
    if args.stage == "decontaminate":
        hits = sorted(row["id"] for row in rows if row["id"] not in clean_ids)
        (args.out / "hits.txt").write_text("\n".join(hits))
    print(
        json.dumps({"read": read - began, "work": worked - read, "write": wrote - worked, "kept": len(kept)})
    )


if __name__ == "__main__":
    main()
