"""The ledger: what became of every row, in counts, in words and as a dataset card. `folder.py` writes it.

`ledger.json` (schema 1):
    {"schema": 1, "asked": n, "selected": n, "seed": int, "profile": str, "settings": {...},
     "versions": {...},
     "input": {"rows": int, "sha256": str, "files": [...]},
     "stages": [{"name", "in", "out", "dropped": {reason: rows}, "sources": {source: {"in", "out"}}}, ...],
     "domains": {domain: rows}, "trace_tokens": {"mean", "total"},
     "correct": {"yes", "no", "ungraded"}, "notes": [...]}
`sha256` is over the rows in the order of their ids (`shards.hash_index`), so it does not depend on the order
of the input. The file holds no clock time: same input, settings and versions give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from s1.data.partitions import Shards, gathered
from s1.version import installed

if TYPE_CHECKING:
    import polars as pl


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
        """ "quality: 10,000 in, 7,690 out (cut trace 410, ...)"."""
        dropped = ", ".join(f"{reason} {count}" for reason, count in self.dropped.items())
        said = f"{self.name}: {self.rows_in:,} in, {self.rows_out:,} out"
        return said + (f" ({dropped})" if dropped else "")

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "in": self.rows_in,
            "out": self.rows_out,
            "dropped": dict(self.dropped),
            "sources": {k: dict(v) for k, v in self.sources.items()},
        }


@dataclass(frozen=True, slots=True)
class Ledger:
    """The result of a funnel: chosen rows, rejected rows with stage and reason, hits, and the counts.

    `chosen` and `rejected` are light: rows of the index in the order of choice with a column `chosen` (why),
    and id, source, stage, reason (file, row, field from reading). Their texts are in `shards`.
    """

    chosen: pl.DataFrame
    rejected: pl.DataFrame
    shards: Shards
    hits: pl.DataFrame
    near: pl.DataFrame
    stages: tuple[Stage, ...]
    asked: int
    seed: int
    profile: str
    settings: Mapping[str, Any]
    input: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    trace_prefix: str = field(default="")

    @property
    def selected(self) -> pl.DataFrame:
        """The chosen rows with all columns of a pool, in memory."""
        return gathered(self.shards, self.chosen).with_columns(self.chosen["chosen"])

    def stage(self, name: str) -> Stage:
        return next(s for s in self.stages if s.name == name)

    def to_json(self) -> dict[str, Any]:
        rows = self.chosen
        tokens = rows["trace_tokens"].drop_nulls()
        return {
            "schema": 1,
            "asked": self.asked,
            "selected": rows.height,
            "seed": self.seed,
            "profile": self.profile,
            "settings": dict(self.settings),
            "versions": versions(),
            "input": dict(self.input),
            "stages": [s.to_json() for s in self.stages],
            "domains": _counts(rows["domain"].fill_null("(no domain)").to_list()),
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


def count_stage(name: str, sources: pl.Series, reasons: pl.Series) -> Stage:
    """The counts of a stage from the sources of its rows and their reasons (null: stays)."""
    import polars as pl

    rows = pl.DataFrame({"source": sources.fill_null("").cast(pl.String), "reason": reasons.cast(pl.String)})
    counts = rows.group_by("source").agg(
        pl.len().alias("in"), pl.col("reason").null_count().alias("out")
    ).sort("source")  # fmt: skip
    of = {source or "(no source)": {"in": n, "out": out} for source, n, out in counts.iter_rows()}
    dropped: dict[str, int] = {}
    for reason, count in rows["reason"].drop_nulls().value_counts().iter_rows():
        dropped[_reason_kind(reason)] = dropped.get(_reason_kind(reason), 0) + count
    ordered = dict(sorted(dropped.items(), key=lambda item: (-item[1], item[0])))
    return Stage(name, rows.height, rows.height - sum(dropped.values()), ordered, of)


def _reason_kind(reason: str) -> str:
    for kind in ("near duplicate", "duplicate"):
        if reason.startswith(f"{kind} of "):
            return kind
    return reason


def _counts(names: Sequence[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def versions() -> dict[str, str]:
    """Python and the packages whose code decides what is chosen."""
    return installed(("s1", "polars", "numpy", "tokenizers"))


def rejects_of(rejects: pl.DataFrame, dropped: Sequence[tuple[str, pl.DataFrame, pl.Series]]) -> pl.DataFrame:
    """Rejected rows of reading and of stages (name, rows of the index, reasons) in the columns of a ledger.

    `_question` has the text of rows that are not in the index.
    """
    import polars as pl

    frames = [rejects.rename({"question": "_question"}).with_columns(stage=pl.lit("reading"))]
    for name, rows, reasons in dropped:
        marked = rows.select("id", "source", reasons.alias("reason"), stage=pl.lit(name))
        frames.append(marked.filter(pl.col("reason").is_not_null()))
    columns = ("id", "source", "stage", "reason", "file", "row", "field", "_question")
    return pl.concat(frames, how="diagonal").select(columns)


def report(ledger: Ledger) -> str:
    """The ledger as Markdown."""
    data = ledger.to_json()
    lines = ["# Curation report", ""]
    lines += [
        f"{data['selected']} rows selected of {data['input']['rows']} read (asked: {data['asked']}).",
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
    if ledger.hits.height:
        lines += [
            "",
            "## Benchmark hits",
            "",
            f"{ledger.hits.height} pairs, all in hits.jsonl. The first 20:",
            "",
        ]
        lines += ["| id | benchmark | its id | how | shared |", "|---|---|---|---|---|"]
        for hit in ledger.hits.head(20).iter_rows(named=True):
            shared = hit["shared"].replace("|", "\\|")[:120]
            lines.append(
                f"| {hit['id']} | {hit['benchmark']} | {hit['benchmark_id']} | {hit['how']} | {shared} |"
            )
    if ledger.near.height:
        lines += ["", "## Near duplicates", "", f"{ledger.near.height} pairs, all in near.jsonl."]
    if ledger.notes:
        lines += ["", "## Notes", "", *(f"- {note}" for note in ledger.notes)]
    return "\n".join(lines) + "\n"


def card(ledger: Ledger) -> str:
    """The dataset card; its header tells `datasets` which file holds the data."""
    from s1.data.sources import licences

    sources = _counts(ledger.chosen["source"].to_list())
    licence = licences(sources)
    teachers = _counts([t for t in ledger.chosen["trace_by"].to_list() if t])
    return CARD.format(
        count=ledger.chosen.height,
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

Curated after the recipe of s1 (arXiv 2501.19393). How each row came in or fell out: `report.md`,
`ledger.json`, `rejected.jsonl`. Columns follow s1K; `domain`, `trace_by` and `trace_tokens` are added.

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
