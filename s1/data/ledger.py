"""The ledger: what became of every row, and the output folder that says so.

    OUT/dataset.parquet   the chosen rows, columns as below
    OUT/rejected.jsonl    every other row: id, source, stage, reason, question (file, row, field from reading)
    OUT/hits.jsonl        decontamination hits: both ids, both texts, the shared n-gram
    OUT/ledger.json       counts, below; written last, so a folder that has it is whole
    OUT/near.jsonl        near duplicates within the pool: both ids, both texts, the Jaccard index
    OUT/report.md         the same, to read
    OUT/funnel.png        the same, to see (where matplotlib is installed)
    OUT/README.md         dataset card

`ledger.json` (schema 1):
    {"schema": 1, "asked": n, "selected": n, "seed": int, "profile": str, "settings": {...},
     "versions": {...},
     "input": {"rows": int, "sha256": str, "files": [...]},
     "stages": [{"name", "in", "out", "dropped": {reason: rows}, "sources": {source: {"in", "out"}}}, ...],
     "domains": {domain: rows}, "trace_tokens": {"mean", "total"},
     "correct": {"yes", "no", "ungraded"}, "notes": [...]}
`sha256` is over the rows in the order of their ids (`shards.hash_index`), so it does not depend on the order
of the input. The file holds no clock time: same input, settings and versions give the same bytes.

`dataset.parquet` follows s1K, or s1K-1.1 when a `trace_prefix` such as "deepseek" is given:
    solution = answer, question, cot_type, source_type = source,
    metadata = JSON of the solved_* columns and `chosen`,
    thinking_trajectories = [thinking]  |  PREFIX_thinking_trajectory = thinking
    attempt                             |  PREFIX_attempt
    grade = "Yes", "No" or null         |  PREFIX_grade
and adds id, domain, trace_by, trace_tokens. `read_pool` reads it back.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from s1.data.shards import Shards, gather, gathered
from s1.errors import BadInput, MissingExtra

if TYPE_CHECKING:
    import polars as pl

FILES = (
    "dataset.parquet", "rejected.jsonl", "hits.jsonl", "near.jsonl", "report.md", "funnel.png", "README.md",
    "ledger.json",
)  # fmt: skip
ROW_GROUP = 1_000
"""Rows that a reader of a written file must decode at once."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Counts of one stage. Reasons that name a row ("duplicate of X") are counted without the name."""

    name: str
    rows_in: int
    rows_out: int
    dropped: Mapping[str, int]
    sources: Mapping[str, Mapping[str, int]]

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
    found = {"python": platform.python_version()}
    for package in ("s1", "polars", "numpy", "tokenizers"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def dataset_rows(rows: pl.DataFrame, trace_prefix: str = "") -> pl.DataFrame:
    """`rows` in the columns of s1K, or of s1K-1.1 under a prefix (the mapping of the module's docstring)."""
    import polars as pl

    extra = [c for c in rows.columns if c.startswith("solved_") or c == "chosen"]
    metadata = (
        [json.dumps(r, sort_keys=True) for r in rows.select(extra).iter_rows(named=True)]
        if extra
        else ["{}"] * rows.height
    )
    grade = pl.when("correct").then(pl.lit("Yes")).when(~pl.col("correct")).then(pl.lit("No"))
    prefix = f"{trace_prefix}_" if trace_prefix else ""
    if trace_prefix:
        trace = pl.col("thinking").alias(f"{prefix}thinking_trajectory")
    else:
        trace = pl.concat_list("thinking").alias("thinking_trajectories")
    return rows.select(
        "id",
        pl.col("answer").alias("solution"),
        "question",
        "cot_type",
        pl.col("source").alias("source_type"),
        pl.Series("metadata", metadata, dtype=pl.String),
        trace,
        pl.col("attempt").alias(f"{prefix}attempt"),
        grade.alias(f"{prefix}grade"),
        "domain",
        "trace_by",
        "trace_tokens",
    )


def refuse_existing(out: Path, overwrite: bool) -> None:
    """Raises BadInput when `out` cannot take a result."""
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out} is a file, not a folder.", "Name another output folder.")
    if not overwrite and out.is_dir() and any(out.iterdir()):
        raise BadInput(f"{out} is not empty.", "Name another folder, or allow overwriting.")


def write_ledger(ledger: Ledger, out: str | Path, *, overwrite: bool = False) -> Path:
    """Writes the output folder whole: into a folder beside it that is then renamed.

    Into a folder that has files (`overwrite`), each file is replaced by a rename, the old ledger.json is
    removed first and the new one comes last; other files there are left alone.
    """
    out = Path(out)
    refuse_existing(out, overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        _write_files(ledger, temporary)
        if out.is_dir() and any(out.iterdir()):
            (out / "ledger.json").unlink(missing_ok=True)
            for name in FILES:
                if (temporary / name).exists():
                    os.replace(temporary / name, out / name)
                else:
                    (out / name).unlink(missing_ok=True)
        else:
            if out.is_dir():
                out.rmdir()
            temporary.chmod(0o755)  # mkdtemp makes it private
            os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def _write_files(ledger: Ledger, folder: Path) -> None:
    from s1.data.figure import funnel_figure

    write_parquet(_dataset(ledger), folder / "dataset.parquet")
    write_rejected(ledger.rejected, ledger.shards, folder / "rejected.jsonl")
    ledger.hits.write_ndjson(folder / "hits.jsonl")
    ledger.near.write_ndjson(folder / "near.jsonl")
    with contextlib.suppress(MissingExtra):  # the one file that can be done without
        funnel_figure(ledger.stages, folder / "funnel.png")
    (folder / "report.md").write_text(report(ledger), encoding="utf-8")
    (folder / "README.md").write_text(card(ledger), encoding="utf-8")
    (folder / "ledger.json").write_text(
        json.dumps(ledger.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def _dataset(ledger: Ledger) -> Iterator[pl.DataFrame]:
    at = 0
    for rows in gather(ledger.shards, ledger.chosen):
        why = ledger.chosen["chosen"][at : at + rows.height]
        yield dataset_rows(rows.with_columns(why), ledger.trace_prefix)
        at += rows.height


def write_parquet(frames: Iterable[pl.DataFrame], path: Path) -> None:
    """Frames of the same columns one after the other into one file, so that one at a time is held."""
    import polars as pl
    import pyarrow.parquet as pq

    with contextlib.ExitStack() as stack:
        writer = None
        for frame in frames:
            table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
            if writer is None:
                writer = stack.enter_context(pq.ParquetWriter(path, table.schema, compression="zstd"))
            writer.write_table(table, row_group_size=ROW_GROUP)


def write_rejected(rejected: pl.DataFrame, shards: Shards, path: Path) -> None:
    """One object a line; where a row came from only for those that could not be read."""
    import polars as pl

    unread = rejected.filter(stage="reading")
    places = shards.index.select("id", "_shard", "_row", "_question_bytes")
    with path.open("w", encoding="utf-8") as file:
        _write_lines(file, unread.drop("_question"), unread["_question"])
        rows = rejected.filter(pl.col("stage") != "reading").drop("_question")
        at = 0
        for texts in gather(
            shards, rows.select("id").join(places, on="id", maintain_order="left"), ["question"]
        ):
            _write_lines(file, rows[at : at + texts.height], texts["question"])
            at += texts.height


def _write_lines(file: IO[str], rows: pl.DataFrame, questions: pl.Series) -> None:
    ordered = rows.select(
        "id", "source", "stage", "reason", questions.alias("question"), "file", "row", "field"
    )
    for row in ordered.iter_rows(named=True):
        kept = {k: v for k, v in row.items() if v is not None or k not in ("file", "row", "field")}
        file.write(json.dumps(kept, ensure_ascii=False) + "\n")


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
