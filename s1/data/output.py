"""The folders that curation writes: a dataset of the whole pipeline, or the pool of a single stage.

    OUT/dataset.parquet   the chosen rows, columns as below
    OUT/rejected.jsonl    every other row: id, source, stage, reason, question (file, row, field from reading)
    OUT/hits.jsonl        benchmark hits: both ids, both texts, the shared n-gram
    OUT/near.jsonl        near duplicates within the pool: both ids, both texts, the Jaccard index
    OUT/report.md         the counts, to read
    OUT/funnel.png        the counts as a figure (where matplotlib is installed)
    OUT/README.md         dataset card
    OUT/ledger.json       the counts; written last, so a folder that has it is whole

    OUT/pool.parquet      a single stage: the rows that stay, in pool columns; the next stage reads the folder
    OUT/pool.index        what the next stage needs to know of them without reading the texts (`store_index`)
    OUT/rejected.jsonl, OUT/hits.jsonl, OUT/near.jsonl    as above
    OUT/attempts.jsonl    difficulty: one object for each attempt
    OUT/journal.jsonl     teach, difficulty, diversity: every model call
    OUT/stage.json        {"schema": 1, "stages": [counts of reading and of the stage], "settings", "notes"};
                          written last

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
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from s1.data.funnel_figure import funnel_figure
from s1.data.ingest import store_index
from s1.data.ledger import Ledger, card, report
from s1.data.partitions import disk_errors
from s1.errors import BadInput, MissingExtra
from s1.jsonl import dump_line, parse_object, write_bytes, write_json

FILES = (
    "dataset.parquet", "rejected.jsonl", "hits.jsonl", "near.jsonl", "report.md", "funnel.png", "README.md",
    "ledger.json",
)  # fmt: skip
STAGE_FILES = (
    "pool.parquet", "pool.index", "rejected.jsonl", "stage.json", "hits.jsonl", "near.jsonl", "attempts.jsonl",
    "journal.jsonl",
)  # fmt: skip
ROW_GROUP = 1_000
"""Rows that a reader of a written file must decode at once."""


def dataset_rows(rows: pl.DataFrame, trace_prefix: str = "") -> pl.DataFrame:
    """`rows` in the columns of s1K, or of s1K-1.1 with a prefix (the mapping of the module's docstring)."""
    extra = rows.select(c for c in rows.columns if c.startswith("solved_") or c == "chosen")
    metadata = [json.dumps(row, sort_keys=True) for row in extra.iter_rows(named=True)]
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


def refuse_existing(out: Path) -> None:
    """Raises BadInput when `out` cannot take a dataset."""
    if _names_in(out):
        raise BadInput(f"{out} is not empty.", "Name another output folder.")


def refuse_other_stage(out: Path, name: str) -> None:
    """Raises BadInput when `out` cannot take the result of the stage `name`: it holds something else."""
    if others := sorted(_names_in(out) - {*STAGE_FILES}):
        raise BadInput(f"{out} holds other files ({others[0]}).", "Name another output folder.")
    if (out / "stage.json").is_file():
        data = parse_object((out / "stage.json").read_bytes(), out / "stage.json", 1)
        before = [s.get("name") for s in data.get("stages", ()) if isinstance(s, dict)]
        if before[-1:] != [name]:
            raise BadInput(
                f"{out} holds the result of another stage ({before[-1] if before else 'unknown'}).",
                "Name another output folder.",
            )


def _names_in(out: Path) -> set[str]:
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out} is a file, not a folder.", "Name another output folder.")
    return {file.name for file in out.iterdir()} if out.exists() else set()


def write_dataset(ledger: Ledger, out: Path) -> None:
    """Writes the output folder in one step: into a folder beside it that is then renamed."""
    refuse_existing(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)  # of a command that was killed
    temporary.mkdir()
    try:
        with disk_errors(out):
            write_parquet(_dataset(ledger), temporary / "dataset.parquet")
            _write_rejected(ledger, temporary / "rejected.jsonl")
            for name, table in ledger.tables.items():
                table.write_ndjson(temporary / name)
            with contextlib.suppress(MissingExtra):  # the one file that is optional
                funnel_figure(ledger.stages, temporary / "funnel.png")
            counts = json.dumps(ledger.to_json(), indent=2, ensure_ascii=False) + "\n"
            texts = {"report.md": report(ledger), "README.md": card(ledger), "ledger.json": counts}
            for name, text in texts.items():
                (temporary / name).write_text(text, encoding="utf-8")
            os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _dataset(ledger: Ledger) -> Iterator[pl.DataFrame]:
    chosen = ledger.kept.select("id", "chosen")
    for rows in ledger.pool.gather(ledger.kept):
        yield dataset_rows(rows.join(chosen, on="id", maintain_order="left"), ledger.settings.trace_prefix)


def write_stage(ledger: Ledger, out: Path, settings: Any = None) -> None:
    """Writes the folder of a single stage, each file in one step; `settings` is what it ran with."""
    refuse_other_stage(out, ledger.stages[-1].name)
    out.mkdir(parents=True, exist_ok=True)
    (out / "stage.json").unlink(missing_ok=True)
    with disk_errors(out):
        kept = (
            ledger.pool.gather(ledger.kept) if ledger.kept.height else [ledger.pool.gather_all(ledger.kept)]
        )
        part = out / "pool.parquet.part"
        write_parquet(kept, part)
        part.replace(out / "pool.parquet")
        store_index(ledger.kept.select(ledger.pool.index.columns), out / "pool.parquet")
        part = out / "rejected.jsonl.part"
        _write_rejected(ledger, part)
        part.replace(out / "rejected.jsonl")
        for name, table in ledger.tables.items():
            write_bytes(out / name, (dump_line(row) for row in table.iter_rows(named=True)))
        stages = [s.to_json() for s in ledger.stages]
        content = {"schema": 1, "stages": stages, "settings": settings, "notes": list(ledger.notes)}
        write_json(out / "stage.json", content)


def write_parquet(frames: Iterable[pl.DataFrame], path: Path) -> None:
    """Frames of the same columns one after the other into one file. Two at a time are held."""
    import pyarrow.parquet as pq

    with contextlib.ExitStack() as stack:
        writer = None
        for frame in _ahead(frames):
            table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
            if writer is None:
                writer = stack.enter_context(pq.ParquetWriter(path, table.schema, compression="zstd"))
            writer.write_table(table, row_group_size=ROW_GROUP)


def _ahead(frames: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """The frames, each read while the one before it is written."""
    from concurrent.futures import ThreadPoolExecutor

    source = iter(frames)
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, source, None)
        while (frame := coming.result()) is not None:
            coming = thread.submit(next, source, None)
            yield frame


def _write_rejected(ledger: Ledger, path: Path) -> None:
    """One object a line; only rows that could not be read say where they came from."""
    with path.open("w", encoding="utf-8") as file:
        for rows in _rejected(ledger):
            ordered = rows.select("id", "source", "stage", "reason", "question", "file", "row", "field")
            for row in ordered.iter_rows(named=True):
                kept = {k: v for k, v in row.items() if v is not None or k not in ("file", "row", "field")}
                file.write(json.dumps(kept, ensure_ascii=False) + "\n")


def _rejected(ledger: Ledger) -> Iterator[pl.DataFrame]:
    """The rejected rows with their questions: those that could not be read first."""
    yield ledger.rejected.filter(stage="reading").rename({"_question": "question"})
    rows = ledger.rejected.filter(pl.col("stage") != "reading")
    places = ledger.pool.index.select("id", "_part", "_row", "_question_bytes")
    wanted = rows.select("id").join(places, on="id", maintain_order="left")
    for questions in ledger.pool.gather(wanted, ["question"]):
        yield questions.join(rows, on="id", maintain_order="left")
