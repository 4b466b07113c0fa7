"""Quality: each rule looks at a row and gives a reason to drop it, or null (section 2.2 of the paper).

`strict` is the default. `official` holds the rules of the authors' notebook exactly, with their side effects: a
row with any feature missing is dropped, "step1." counts as the label "p1.", and a bold word with a digit later
on its line counts as a label. Rules are Polars expressions, so a part is checked column by column.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import polars as pl

from s1.data.curate_settings import CleanSettings, Profile
from s1.data.difficulty import require_trace_tokens
from s1.data.pool import Pool
from s1.data.repetition import find_loops
from s1.data.validate_rows import pool_types

NOT_FEATURES = ("cot_type", "trace_by")
"""Columns that "official" does not count among the features of a row."""


def clean_pool(pool: Pool, rows: pl.DataFrame, settings: CleanSettings, profile: Profile) -> pl.Series:
    """`clean_reasons` of the rows of the index that are in `rows`, in their order."""
    features: list[str] | None = None
    if profile == "official":
        # Differs: a feature that the whole pool lacks (say, attempts of a second model) is not required.
        has = {
            "question": pl.lit(True),
            "thinking": pl.col("_characters").is_not_null(),
            "answer": pl.col("_answer"),
            "attempt": pl.col("_attempt"),
        }
        names = [c for c in pool_types(rows.columns) if c not in NOT_FEATURES]
        features = [c for c in names if rows.select(has.get(c, pl.col(c).is_not_null()).any()).item()]
    elif settings.token_limit is not None:
        require_trace_tokens(rows)
    columns = {"question", "thinking", "attempt", "answer", "source", "trace_tokens", *(features or ())}
    work = partial(_clean_part, settings=settings, features=features)
    key = repr((settings, profile, features))
    found = pool.map_rows(rows, sorted(columns), work, name="clean", key=key)
    return rows.select("id").join(found, on="id", how="left", maintain_order="left")["reason"]


def _clean_part(rows: pl.DataFrame, settings: CleanSettings, features: Sequence[str] | None) -> pl.DataFrame:
    return rows.select("id", clean_reasons(rows, settings, features).alias("reason"))


def clean_reasons(
    rows: pl.DataFrame, settings: CleanSettings = CleanSettings(), features: Sequence[str] | None = None
) -> pl.Series:
    """Why each of some rows in pool columns is dropped, null where it stays; the first rule that fails decides.

    With `features`, the columns that must have a value, the rules are those of "official".
    """
    rules = _strict_rules(settings) if features is None else _official_rules(features)
    reason = pl.coalesce([pl.when(failed).then(pl.lit(name)) for name, failed in rules.items()])
    found = rows.select(reason.alias("reason"))["reason"]
    if features is not None:
        return found
    still_in = rows.select("thinking").with_columns(found).with_row_index().filter(pl.col("reason").is_null())
    return found.scatter(
        still_in.filter(find_loops(still_in["thinking"], settings))["index"], "repetition loop"
    )


def _official_rules(features: Sequence[str]) -> dict[str, pl.Expr]:
    question, aime = pl.col("question"), pl.col("source").str.contains("(?i)aime")
    return {
        **{f"missing: {c}": pl.col(c).is_null() for c in features},
        "no trace": pl.col("thinking").is_null(),
        "picture in the question": (question.str.contains("[asy]", literal=True) & ~aime)
        | question.str.contains("![Image]", literal=True),
        "numbered parts (p1.)": question.str.contains(r"p[1-9]\d?\d?\."),
        # The notebook's \*\*(?=.*\d)[^\s\]]*\*\* without the look-ahead, which this engine lacks.
        "bold label": question.str.contains(r"\*\*[^\s\]]*\d[^\s\]]*\*\*|\*\*[^\s\]]*\*\*.*\d"),
    }


def _strict_rules(settings: CleanSettings) -> dict[str, pl.Expr]:
    question, thinking, attempt = pl.col("question"), pl.col("thinking"), pl.col("attempt").fill_null("")
    whole = thinking.str.strip_chars_end()
    if settings.ending is not None:
        cut = ~whole.str.contains(settings.ending)
    else:
        cut = whole.str.contains(r"[\p{L},:(\[{]$") & ~whole.str.ends_with(attempt.str.strip_chars())
    if settings.token_limit is not None:
        cut = cut | (pl.col("trace_tokens") >= settings.token_limit).fill_null(False)
    rules = {
        "no trace": thinking.is_null() | (thinking.str.strip_chars() == ""),
        "empty answer": attempt.str.strip_chars() == "",
        "cut trace": cut,
        "garbled characters": pl.any_horizontal(
            pl.col(c).str.contains("\ufffd", literal=True) for c in ("question", "thinking", "attempt")
        ),
        "picture in the question": question.str.contains(
            r"\[asy\]|!\[[^\]]*\]\(|!\[Image\]|\\includegraphics|<img "
        ),
        "numbered parts (p1.)": question.str.contains(r"(?m)^[\s*]*p[1-9]\d?\d?\.(?:\D|$)"),
        "bold label": question.str.contains(r"(?m)^\s*\*\*[^\s\]*]*\d[^\s\]*]*\*\*"),
        "broken LaTeX": question.str.count_matches(r"\\begin\{") != question.str.count_matches(r"\\end\{"),
    }
    if settings.need_reference:
        rules["no reference answer"] = pl.col("answer").fill_null("").str.strip_chars() == ""
    if settings.stated is not None:
        stated = thinking.str.extract("(?s)^.*" + settings.stated, 1)
        rules["no stated answer"] = stated.is_null()
        rules["stated answer differs"] = _squeezed(stated) != _squeezed(attempt)
    if settings.language == "latin":
        letters = thinking.str.count_matches(r"\p{L}")
        foreign = letters - thinking.str.count_matches(r"[\p{Latin}\p{Greek}&&\p{L}]")
        rules["wrong language"] = foreign * 10 > letters
    return rules


def _squeezed(text: pl.Expr) -> pl.Expr:
    return text.str.replace_all(r"\s+", " ").str.strip_chars(" .")
