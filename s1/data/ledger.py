"""The ledger: what became of every row, in counts, in words and as a dataset card. `output.py` writes it.

`ledger.json` (schema 1):
    {"schema": 1, "asked": n, "selected": n, "seed": int, "profile": str, "settings": {...},
     "versions": {...},
     "input": {"rows": int, "sha256": str, "files": [...]},
     "stages": [{"name", "in", "out", "dropped": {reason: rows}, "sources": {source: {"in", "out"}}}, ...],
     "domains": {domain: rows}, "trace_tokens": {"mean", "total"},
     "correct": {"yes", "no", "ungraded"}, "notes": [...]}
`sha256` is over the rows in the order of their ids (`partitions.hash_index`), so it does not depend on the order
of the input. The file holds no clock time: same input, settings and versions give the same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from s1.data.curate_settings import CurateSettings
from s1.data.partitions import hash_index, versions
from s1.data.pool import Pool
from s1.types import to_json


@dataclass(frozen=True, slots=True)
class Stage:
    """Counts of one stage. Reasons that name a row ("duplicate of X") are counted without the name."""

    name: str
    rows_in: int
    rows_out: int
    dropped: Mapping[str, int]
    sources: Mapping[str, Mapping[str, int]]

    @property
    def line(self) -> str:
        """ "clean: 10,000 in, 7,690 out (cut trace 410, ...)"."""
        dropped = ", ".join(f"{reason} {count}" for reason, count in self.dropped.items())
        counts = f"{self.name}: {self.rows_in:,} in, {self.rows_out:,} out"
        return counts + (f" ({dropped})" if dropped else "")

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "in": self.rows_in,
            "out": self.rows_out,
            "dropped": dict(self.dropped),
            "sources": {k: dict(v) for k, v in self.sources.items()},
        }


@dataclass(frozen=True)
class Ledger:
    """The result of a pipeline: the rows that stay, the others with stage and reason, tables, and the counts.

    `kept` and `rejected` are light: rows of the index (in the order of choice with a column `chosen` after a
    selection), and id, source, stage, reason (file, row, field from reading). Their texts are in `pool`; `_question`
    has the text of rows that could not be read.
    """

    pool: Pool
    settings: CurateSettings
    kept: pl.DataFrame
    rejected: pl.DataFrame
    stages: tuple[Stage, ...]
    tables: Mapping[str, pl.DataFrame]
    """By file name: hits.jsonl and near.jsonl of the decontamination, attempts.jsonl of the difficulty stage."""
    notes: tuple[str, ...] = ()

    @property
    def selected(self) -> pl.DataFrame:
        """The rows that stay with all columns of a pool (and `chosen`), in memory."""
        chosen = [self.kept["chosen"]] if "chosen" in self.kept.columns else []
        return self.pool.gather_all(self.kept).with_columns(chosen)

    def stage(self, name: str) -> Stage:
        return next(s for s in self.stages if s.name == name)

    def to_json(self) -> dict[str, Any]:
        """The content of ledger.json."""
        rows = self.kept
        tokens = rows["trace_tokens"].drop_nulls()
        return {
            "schema": 1,
            "asked": self.settings.n,
            "selected": rows.height,
            "seed": self.settings.seed,
            "profile": self.settings.profile,
            "settings": to_json(self.settings),
            "versions": versions(),
            "input": self._input,
            "stages": [s.to_json() for s in self.stages],
            "domains": _counts(rows["domain"].fill_null("(no domain)")),
            "trace_tokens": {
                "mean": round(float(tokens.sum()) / max(len(tokens), 1), 1),
                "total": int(tokens.sum()),
            },
            "correct": {
                "yes": int(rows["correct"].sum() or 0),
                "no": int((~rows["correct"]).sum() or 0),
                "ungraded": rows["correct"].null_count(),
            },
            "notes": list(self.notes),
        }

    @cached_property
    def _input(self) -> dict[str, Any]:
        pool = self.pool
        rows = pool.index.height + pool.rejects.height
        return {"rows": rows, "sha256": hash_index(pool.index), "files": list(pool.files)}


def count_stage(name: str, sources: pl.Series, reasons: pl.Series) -> Stage:
    """The counts of a stage from the sources of its rows and their reasons (null: stays)."""
    rows = pl.DataFrame({"source": sources.fill_null("").cast(pl.String), "reason": reasons.cast(pl.String)})
    counts = rows.group_by("source").agg(
        pl.len().alias("in"), pl.col("reason").null_count().alias("out")
    ).sort("source")  # fmt: skip
    of = {source or "(no source)": {"in": n, "out": out} for source, n, out in counts.iter_rows()}
    kinds = rows["reason"].drop_nulls().str.replace(r"^((?:near )?duplicate) of .*", "$1")
    dropped = _counts(kinds)
    return Stage(name, rows.height, rows.height - len(kinds), dropped, of)


def _counts(names: Iterable[str]) -> dict[str, int]:
    """How often each name occurs, the most frequent first."""
    return dict(sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])))


def report(ledger: Ledger) -> str:
    """The ledger as Markdown."""
    data = ledger.to_json()
    lines = ["# Curation report", ""]
    lines += [
        f"{data['selected']} rows selected of {data['input']['rows']} read ({data['asked']} requested).",
        "",
    ]
    lines += [f"Profile {data['profile']}, seed {data['seed']}, input {data['input']['sha256'][:16]}.", ""]
    lines += ["| stage | in | out | dropped |", "|---|---:|---:|---|"]
    for stage in ledger.stages:
        reasons = "; ".join(f"{reason} {count}" for reason, count in stage.dropped.items()) or "none"
        lines.append(f"| {stage.name} | {stage.rows_in} | {stage.rows_out} | {reasons} |")
    names = [s.name for s in ledger.stages]
    sources = sorted({s for stage in ledger.stages for s in stage.sources})
    lines += ["", "## Rows left after each stage, by source", ""]
    lines += [f"| source | in | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for source in sources:
        entered = next(s.sources[source]["in"] for s in ledger.stages if source in s.sources)
        left = " | ".join(str(s.sources.get(source, {"out": 0})["out"]) for s in ledger.stages)
        lines.append(f"| {source} | {entered} | {left} |")
    lines += ["", "## What was selected", ""]
    tokens, correct = data["trace_tokens"], data["correct"]
    lines.append(f"Trace tokens: {tokens['total']} in all, {tokens['mean']} on average.")
    lines.append(f"Teacher right: {correct['yes']}, wrong: {correct['no']}, ungraded: {correct['ungraded']}.")
    lines += ["", "| domain | rows |", "|---|---:|", *(f"| {d} | {c} |" for d, c in data["domains"].items())]
    hits, near = ledger.tables["hits.jsonl"], ledger.tables["near.jsonl"]
    if hits.height:
        lines += ["", "## Benchmark hits", "", f"{hits.height} pairs, all in hits.jsonl. The first 20:", ""]
        lines += ["| id | benchmark | its id | how | shared |", "|---|---|---|---|---|"]
        for hit in hits.head(20).iter_rows(named=True):
            shared = hit["shared"].replace("|", "\\|")[:120]
            lines.append(
                f"| {hit['id']} | {hit['benchmark']} | {hit['benchmark_id']} | {hit['how']} | {shared} |"
            )
    if near.height:
        lines += ["", "## Near duplicates", "", f"{near.height} pairs, all in near.jsonl."]
    if ledger.notes:
        lines += ["", "## Notes", "", *(f"- {note}" for note in ledger.notes)]
    return "\n".join(lines) + "\n"


def card(ledger: Ledger) -> str:
    """The dataset card; its header tells `datasets` which file holds the data."""
    from s1.data.sources import licences

    sources = _counts(ledger.kept["source"])
    licence = licences(sources)
    teachers = _counts(t for t in ledger.kept["trace_by"] if t)
    return CARD.format(
        count=ledger.kept.height,
        sources="\n".join(f"| {s} | {c} | {licence[s]} |" for s, c in sources.items()),
        teachers=", ".join(f"{t} ({c})" for t, c in teachers.items()) or "not stated",
        tokens=f"{ledger.to_json()['trace_tokens']['mean']:.0f}",
        funnel="\n".join(f"| {s.name} | {s.rows_in} | {s.rows_out} |" for s in ledger.stages),
    )


CARD = """---
license: other
task_categories:
- text-generation
tags:
- reasoning
- s1
configs:
- config_name: default
  data_files: dataset.parquet
---

# {count} questions with traces

Curated by the recipe of s1 (arXiv 2501.19393). What became of each row of the pool: `report.md`, `ledger.json`,
`rejected.jsonl`. Columns follow s1K; `domain`, `trace_by` and `trace_tokens` are added.

| stage | in | out |
|---|---:|---:|
{funnel}

Traces by: {teachers}; {tokens} tokens on average.

| source | rows | licence of the source |
|---|---:|---|
{sources}

Each row keeps the licence of its source, and the traces are also bound by the terms of their teacher. Where
no licence is stated, ask before you publish.
"""
