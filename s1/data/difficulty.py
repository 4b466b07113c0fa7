"""Difficulty: drop what models already solve, and measure traces in tokens (section 2.2 of the paper).

The attempts are made elsewhere (`attempts`) and joined in as columns `solved_MODEL`: the share, 0 to 1, of that
model's attempts that were right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from s1.data.partitions import no_reasons
from s1.errors import BadInput

TokenCounter = Callable[[Sequence[str]], Sequence[int]]


def join_attempts(pool: pl.DataFrame, attempts: pl.DataFrame) -> pl.DataFrame:
    """`pool` with a column `solved_MODEL` for each model in `attempts`.

    attempts: a row for each attempt, with the columns id, model and correct. An attempt that nobody could grade
    (`correct` is null) does not count; a question without a graded attempt stays null.
    Raises BadInput when a column is missing or no id belongs to the pool.
    """
    missing = [c for c in ("id", "model", "correct") if c not in attempts.columns]
    if missing:
        raise BadInput(
            f"The attempts have no column {missing[0]!r}; they have: {', '.join(attempts.columns)}."
        )
    ours = attempts.join(pool.select("id"), on="id", how="semi")
    if attempts.height and not ours.height:
        raise BadInput("No attempt belongs to a question of the pool.", "Compare the ids of the two files.")
    models = sorted(ours["model"].unique())
    shares = ours.group_by("id").agg(
        pl.col("correct").cast(pl.Float64).filter(pl.col("model") == m).mean().alias(f"solved_{m}")
        for m in models
    )
    return pool.drop([f"solved_{m}" for m in models], strict=False).join(shares, on="id", how="left")


def difficulty_reasons(pool: pl.DataFrame, *, most_solved: float = 0.0) -> pl.Series:
    """ "solved by MODEL" where a model solved more than the share `most_solved` of its attempts at the row's question.

    `pool` is the index or a part of it. Rows with the same question share one verdict, so that a solved question does
    not stay through a copy that nobody could grade. Null for the other rows, ungraded ones included. The paper drops
    a question that either of two models solved (`most_solved` 0).
    """
    models = [c for c in pool.columns if c.startswith("solved_")]
    if not models:
        return no_reasons(pool)
    reasons = [
        pl.when(share_of_question(c) > most_solved).then(pl.lit(f"solved by {c.removeprefix('solved_')}"))
        for c in models
    ]
    return pool.select(pl.coalesce(reasons).alias("reason"))["reason"]


def share_of_question(column: str) -> pl.Expr:
    """The mean of a `solved_` column over the rows with the same question; null where none of them was graded."""
    return pl.col(column).mean().over("_key")


def with_trace_tokens(pool: pl.DataFrame, tokenizer: str | Path | TokenCounter) -> pl.DataFrame:
    """`pool` with `trace_tokens`, counted by a function from texts to counts or by a `tokenizer.json`.

    A row without a trace has no count.
    """
    count = tokenizer if callable(tokenizer) else token_counter(tokenizer)
    if "thinking" not in pool.columns:
        pool = pool.with_columns(thinking=pl.lit(None, pl.String))
    counts: list[int] = []
    for start in range(0, pool.height, 256):
        counts += count(pool["thinking"][start : start + 256].fill_null("").to_list())
    measured = pl.Series("trace_tokens", counts, dtype=pl.Int64)
    return pool.with_columns(trace_tokens=pl.when(pl.col("thinking").is_not_null()).then(measured))


def require_trace_tokens(rows: pl.DataFrame) -> None:
    """Raises BadInput when some of `rows` (of the index) have a trace but no `trace_tokens`."""
    unmeasured = rows.filter((pl.col("_characters") > 0) & pl.col("trace_tokens").is_null())
    if unmeasured.height:
        raise BadInput(
            f"{unmeasured.height} of {rows.height} rows have a trace but no trace_tokens (first id: "
            f"{unmeasured['id'][0]}).",
            "Measure the traces with --tokenizer (a tokenizer.json or its folder).",
        )


def token_counter(path: str | Path) -> TokenCounter:
    """Counts tokens with the `tokenizer.json` of a file or folder. Special tokens are not added."""
    from tokenizers import Tokenizer

    file = tokenizer_file(path)
    if not file.is_file():
        raise BadInput(f"{file}: no such tokenizer file.", "Name a tokenizer.json, or a folder that has one.")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise BadInput(f"{file}: not a tokenizer ({error}).") from None

    def count(texts: Sequence[str]) -> list[int]:
        return [len(e.ids) for e in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    return count


def tokenizer_file(path: str | Path) -> Path:
    """The `tokenizer.json` of a file or folder."""
    return Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
