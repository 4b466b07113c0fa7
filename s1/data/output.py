"""The output folder of a curation, and the files of single stages.

    OUT/dataset.parquet   the chosen rows, columns as below
    OUT/rejected.jsonl    every other row: id, source, stage, reason, question (file, row, field from reading)
    OUT/hits.jsonl        decontamination hits: both ids, both texts, the shared n-gram
    OUT/ledger.json       counts, below; written last, so a folder that has it is whole
    OUT/near.jsonl        near duplicates within the pool: both ids, both texts, the Jaccard index
    OUT/report.md         the same, to read
    OUT/funnel.png        the same, to see (where matplotlib is installed)
    OUT/README.md         dataset card

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
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from s1.data.funnel_figure import funnel_figure
from s1.data.ledger import Ledger, card, report
from s1.data.partitions import Shards, gather
from s1.errors import BadInput, MissingExtra

if TYPE_CHECKING:
    import polars as pl

FILES = (
    "dataset.parquet", "rejected.jsonl", "hits.jsonl", "near.jsonl", "report.md", "funnel.png", "README.md",
    "ledger.json",
)  # fmt: skip
ROW_GROUP = 1_000
"""Rows that a reader of a written file must decode at once."""


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
