"""Decontamination: questions that share words with a benchmark, and copies within the pool (section 2.2).

The paper's rule: lower-case, collapse whitespace, split on it; one shared run of 8 words is a hit. Questions
under eight words can never match that way, so an exact match of the normalised text counts as well. The work is
a join of two tables of word n-grams, which Polars does in columns.

"official" is that rule and nothing else. "strict" compares the words without the marks around them and the whole
text without spacing and punctuation, and a phrase that many different questions of the pool share is no hit.

Differs: the official code also drops a question that shares 8 words with one accepted before, which depends on
the order of the sources and drops most of a templated family; here only equal questions are copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from s1.data.curate_settings import Duplicates, Profile
from s1.data.near_duplicates import best_first
from s1.data.partitions import hash_of, index_part, no_reasons, normalised, spaces_only
from s1.data.pool import Pool
from s1.data.read_files import data_files, splits
from s1.data.validate_rows import ALIASES, Reader, Seen, file_stem, split_frames
from s1.errors import BadConfig, BadInput

COMMON_SHARE = 0.01
"""An n-gram in more than this share of the pool's questions is a stock phrase ("strict"): "where m and n are
relatively prime positive integers" is in 6 % of s1K's, while copies of one problem stay far below 1 %."""
COMMON_QUESTIONS = 3
"""A stock phrase is in at least so many different questions: in a small pool 1 % is less than one of them."""
COPY_SHARE = 0.75
"""A pair that shares so much of the benchmark question's n-grams is a hit even if each of them is common, so
that several versions of one problem do not hide each other."""
MARKS = r"[^\p{L}\p{N}\p{M}]"
"""A character that is part of no word."""
HIT_COLUMNS: dict[str, Any] = {
    "id": pl.String, "benchmark": pl.String, "benchmark_id": pl.String, "how": pl.String, "shared": pl.String,
    "count": pl.Int64, "question": pl.String, "benchmark_question": pl.String,
}  # fmt: skip


def read_benchmarks(paths: str | Path | Sequence[str | Path]) -> pl.DataFrame:
    """Questions to keep out of training: columns benchmark (file stem), benchmark_id, benchmark_question.

    Every row of every file counts, whatever its id; files with the same stem are told apart by their folder.
    Raises BadInput naming the file and row when a row has no readable question.
    """
    named = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not named:
        raise BadConfig("Decontamination: no benchmark was named.", "Name at least one file of questions.")
    files = list(dict.fromkeys(f for path in named for f in data_files(Path(path))))
    stems = [file_stem(f) for f in files]
    frames = []
    for file, stem in zip(files, stems, strict=True):
        name = stem if stems.count(stem) == 1 else f"{file.resolve().parent.name}/{stem}"
        rows = _benchmark_rows(file)
        frames.append(benchmark_frame(name, rows["id"], rows["question"]))
    return pl.concat(frames)


def _benchmark_rows(file: Path) -> pl.DataFrame:
    """Id (derived where the file has none) and question of every row of a file. Raises BadInput."""
    reader = Reader({c: "" for c in ALIASES if c not in ("id", "question")})
    seen, found = Seen(), []
    for split in splits(file):
        for rows in split_frames(split, reader, seen):
            found.append(rows.select("question").with_columns(index_part(rows, 0)["id"]))
        if seen.rejects:
            bad = seen.rejects[0]
            raise BadInput(
                f"{file}, row {bad['row']}: {bad['reason']}.",
                "Each row of a benchmark must be readable, or its question would not be kept out. "
                f"Correct or remove it; the question is looked for under {', '.join(ALIASES['question'])}.",
            )
    if not found:
        raise BadInput(f"{file}: no question in it.", "Name a file of benchmark questions.")
    return pl.concat(found)


def benchmark_frame(
    name: str, ids: Sequence[str] | pl.Series, questions: Sequence[str] | pl.Series
) -> pl.DataFrame:
    """Benchmark questions in the columns that `find_hits` and `curate` take."""
    columns = {"benchmark_id": pl.Series(ids).cast(pl.String), "benchmark_question": pl.Series(questions)}
    return pl.DataFrame(columns).select(pl.lit(name).alias("benchmark"), pl.all())


def word_ngrams(rows: pl.LazyFrame, text: str, n: int) -> pl.LazyFrame:
    """One line per word n-gram of column `text`: the other columns of `rows`, its place `at`, `ngram`."""
    keys = [c for c in rows.collect_schema().names() if c != text]
    words = (
        rows.with_row_index("_row")
        .with_columns(normalised(pl.col(text)).str.split(" "))
        .explode(text)
        .filter(pl.col(text) != "")
        .with_columns(at=pl.int_range(pl.len()).over("_row"))
    )
    window = pl.concat_str([pl.col(text).shift(-i) for i in range(n)], separator=" ")
    whole = pl.col("_row") == pl.col("_row").shift(-(n - 1))
    return (
        words.with_columns(window.alias("ngram"), whole.alias("_whole"))
        .filter("_whole")
        .select(*keys, "at", "ngram")
    )


def find_hits(
    pool: Pool, rows: pl.DataFrame, benchmarks: pl.DataFrame, *, n: int = 8, profile: Profile = "strict"
) -> pl.DataFrame:
    """Every pair of a pool question (of `rows` of the index) and a benchmark question that match, sorted.

    `how` is "exact" or "8-gram"; `shared` is the first shared n-gram in the pool question, under "strict" the
    first that is no stock phrase, and `count` how many distinct ones there are (0 for an exact match of short
    texts). n = 0 leaves only the exact match. Raises BadInput for a benchmark question that is null.
    """
    benchmarks = _own_ids(benchmarks)
    work = partial(_matches, benchmarks=benchmarks, n=n, profile=profile)
    found = pool.map_rows(rows, ["question"], work, name="hits", key=hash_of(n, profile, benchmarks))
    pairs = _pairs(found, benchmarks, n=n, profile=profile, questions=rows["_key"].n_unique())
    matched = rows.join(pairs.select("id").unique(), on="id", how="semi", maintain_order="left")
    return (
        pairs.join(pool.gather_all(matched, ["question"]), on="id")
        .join(benchmarks, on=["benchmark", "benchmark_id"])
        .select(list(HIT_COLUMNS))
        .sort("id", "benchmark", "benchmark_id")
    )


def _own_ids(benchmarks: pl.DataFrame) -> pl.DataFrame:
    """The questions, each with its own id: a second one with id "7" becomes "7 (2)".

    Raises BadInput for a question that is null.
    """
    blank = benchmarks["benchmark_question"].is_null()
    if blank.any():
        raise BadInput(
            f"The benchmark frame has no question in row {blank.arg_max() + 1}.",  # type: ignore[operator]
            "Correct or remove this row.",
        )
    named = benchmarks.with_columns(
        pl.col("benchmark").fill_null(""),
        pl.col("benchmark_id").fill_null(pl.concat_str(pl.lit("row "), pl.int_range(1, pl.len() + 1))),
    ).unique(maintain_order=True)
    time = pl.int_range(1, pl.len() + 1).over("benchmark", "benchmark_id")
    again = pl.concat_str("benchmark_id", pl.lit(" ("), time, pl.lit(")"))
    return named.with_columns(benchmark_id=pl.when(time > 1).then(again).otherwise("benchmark_id"))


def _words(text: pl.Expr, profile: Profile) -> pl.Expr:
    """The text whose words are compared: "strict" leaves out the marks at the ends of each word."""
    if profile == "official":
        return text
    ends = rf"{MARKS}*[\s\x1c-\x1f]{MARKS}*|^{MARKS}+|{MARKS}+$"
    return text.str.to_lowercase().str.replace_all(ends, " ")


def _whole(text: pl.Expr, profile: Profile) -> pl.Expr:
    """What is the same for two exact matches.

    "strict" leaves out quotes, the signs around formulas, points and commas that are not inside a number, and
    spaces that are not between two digits. Operators, brackets, "!" and primes say something: they stay.
    """
    if profile == "official":
        return normalised(text)
    bare = (
        text.str.replace_many(["\u2019", "\u2212", "\u2013", "\u2014"], ["'", "-", "-", "-"])
        .str.replace_all(r"\\[()\[\],;:! ]|[$\"?~\u201c\u201d\u3001\u3002\uff0c\uff1a\uff1b\uff1f]", " ")
        .str.replace_all(r"\.+(\s|$)", " ")
    )
    for pattern in (r" (\D)", r"(\D) ", r"[.,;:]+(\D|$)", r"(^|\D)[,;:]+"):
        bare = normalised(bare).str.replace_all(pattern, "$1")
    return pl.when(bare == "").then(normalised(text)).otherwise(bare)


def _matches(pool: pl.DataFrame, benchmarks: pl.DataFrame, n: int, profile: Profile) -> pl.DataFrame:
    """What some questions of the pool share with any benchmark question: id, key, text, at, ngram.

    One line for each shared n-gram, and one without an n-gram for an exact match. `key` is the hash of the
    text that an exact match compares; `text` is that text, only where it matches.
    """
    mine, other = pl.col("question"), pl.col("benchmark_question")
    theirs = benchmarks.select(
        words=_words(other, profile), text=_whole(other, profile), letters=_letters(other)
    )
    ours = pool.select("id", "question", words=_words(mine, profile))
    # Cheap tests say which questions can match at all; only those are looked at closely.
    likely = pl.Series([False]).new_from_index(0, ours.height)
    if n:
        likely |= _may_match(ours["words"], theirs["words"], n)
    if not n or profile == "strict":
        likely |= ours.select(_letters(mine).is_in(theirs["letters"].unique().implode())).to_series()
    ours = ours.filter(likely).with_columns(text=_whole(mine, profile))
    ours = ours.select("id", "words", "text", key=pl.col("text").hash())
    exact = ours.join(theirs, on="text", how="semi").select("id", "key", "text", at=None, ngram=None)
    if not n:
        return exact.cast({"at": pl.Int64, "ngram": pl.String})
    grams = word_ngrams(ours.lazy().select("id", "key", "words"), "words", n)
    shared = grams.join(word_ngrams(theirs.lazy().select("words"), "words", n), on="ngram", how="semi")
    lines = shared.select("id", "key", pl.lit(None, pl.String).alias("text"), "at", "ngram").collect()
    return pl.concat([lines, exact.cast({"at": lines["at"].dtype, "ngram": pl.String})])


def _letters(text: pl.Expr) -> pl.Expr:
    """The letters and digits of a text, which are the same for all exact matches."""
    return text.str.to_lowercase().str.replace_all(MARKS, "")


def _pairs(
    found: pl.DataFrame, benchmarks: pl.DataFrame, *, n: int, profile: Profile, questions: int
) -> pl.DataFrame:
    """The matches without the questions: id, benchmark, benchmark_id, how, shared, count.

    `found` is what `_matches` gives for the whole pool, which has so many different `questions`.
    """
    pair = ["id", "benchmark", "benchmark_id"]
    other = pl.col("benchmark_question")
    theirs = benchmarks.select(
        "benchmark", "benchmark_id", text=_whole(other, profile), words=_words(other, profile)
    )
    exact = found.filter(pl.col("ngram").is_null()).join(theirs, on="text").select(*pair, "text", exact=True)
    if n:
        often = pl.col("_in") > COMMON_SHARE * questions
        common = (pl.col("_in") >= COMMON_QUESTIONS) & often & (profile == "strict")
        mine = found.drop_nulls("ngram")
        counts = mine.group_by("ngram").agg(pl.col("key").n_unique().alias("_in"))
        mine = mine.join(counts.select("ngram", common=common), on="ngram")
        grams = word_ngrams(theirs.lazy().select("benchmark", "benchmark_id", "words"), "words", n)
        grams = grams.unique(["benchmark", "benchmark_id", "ngram"])
        grams = grams.with_columns(all=pl.len().over("benchmark", "benchmark_id"))
        shared = (
            mine.lazy()
            .select("id", "at", "ngram", "common")
            .join(grams.select("benchmark", "benchmark_id", "ngram", "all"), on="ngram")
            .group_by(pair)
            .agg(
                pl.col("ngram").sort_by("common", "at").first().alias("shared"),
                pl.col("ngram").n_unique().alias("count"),
                pl.col("common").all(),
                pl.col("all").first(),
            )
            .filter(~pl.col("common") | (pl.col("count") >= COPY_SHARE * pl.col("all")))
            .select(*pair, "shared", "count")
            .collect()
        )
        hits = shared.join(exact, on=pair, how="full", coalesce=True)
    else:
        hits = exact.with_columns(shared=pl.lit(None, dtype=pl.String), count=pl.lit(0))
    return hits.select(
        *pair,
        how=pl.when(pl.col("exact").fill_null(False)).then(pl.lit("exact")).otherwise(pl.lit(f"{n}-gram")),
        shared=pl.coalesce("shared", "text"),
        count=pl.col("count").fill_null(0).cast(pl.Int64),
    )


def _may_match(ours: pl.Series, theirs: pl.Series, n: int) -> pl.Series:
    """Whether each of `ours` has an n-gram whose hash one of `theirs` has, or fewer than n words."""

    def hashes(texts: pl.Series) -> tuple[np.ndarray, np.ndarray]:
        split = spaces_only(texts.str.to_lowercase()).str.split(" ")
        words = split.explode()
        is_word = (words != "").to_numpy()
        rows = np.repeat(np.arange(len(texts), dtype=np.uint32), split.list.len().to_numpy())[is_word]
        numbers = words.hash(seed=0).to_numpy()[is_word]
        grams = np.zeros(max(len(numbers) - n + 1, 0), dtype=np.uint64)
        for at in range(n):
            grams *= np.uint64(0x9E3779B97F4A7C15)
            grams += numbers[at : at + len(grams)]
        return grams, rows

    grams, rows = hashes(ours)
    known, their_rows = hashes(theirs)
    whole = their_rows[: len(known)] == their_rows[n - 1 :]
    hit = pl.Series(grams).is_in(pl.Series(known[whole]).unique().implode()).to_numpy()
    first, last = rows[: len(grams)][hit], rows[n - 1 :][hit]
    found = np.bincount(rows, minlength=len(ours)) < n
    found[first[first == last]] = True
    return pl.Series(found)


def hit_reasons(rows: pl.DataFrame, hits: pl.DataFrame) -> pl.Series:
    """ "8-gram of math500" or "exact match in math500" for each of `rows` with a hit, else null."""
    named = hits.select(
        "id",
        reason=pl.when(pl.col("how") == "exact")
        .then(pl.concat_str(pl.lit("exact match in "), "benchmark"))
        .otherwise(pl.concat_str("how", pl.lit(" of "), "benchmark")),
    )
    first = named.group_by("id").agg(pl.col("reason").sort().last())  # "exact" sorts after the digits
    return rows.select("id").join(first, on="id", how="left", maintain_order="left")["reason"]


def duplicate_reasons(rows: pl.DataFrame, *, by: Duplicates = "question") -> pl.Series:
    """ "duplicate of ID" for each of `rows` (of the index) whose question occurs before, else null.

    Of equal questions the one with a right attempt stays, then the longest trace, then the smallest id.
    `by="trace"` lets several traces of one question stay and drops only equal pairs of question and trace;
    `by="off"` drops nothing.
    """
    if by == "off":
        return no_reasons(rows)
    key = pl.struct("_key", "_trace") if by == "trace" else pl.col("_key")
    ranked = best_first(rows.select("id", "correct", "trace_tokens", key=key))
    ranked = ranked.with_columns(kept=pl.col("id").first().over("key"))
    reasons = ranked.select(
        "id",
        reason=pl.when(pl.col("id") != pl.col("kept")).then(pl.concat_str(pl.lit("duplicate of "), "kept")),
    )
    return rows.select("id").join(reasons, on="id", how="left", maintain_order="left")["reason"]
