"""Near duplicates within a pool: questions whose sets of word n-grams overlap, found by MinHash.

Candidates come from locality-sensitive hashing: 128 minima of hashed n-grams for each question, cut into
bands; two questions that agree in one whole band are compared exactly, so every reported similarity is the
true Jaccard index, and only a pair may be missed (under 1 in 100 at the threshold, far fewer above it).
NumPy over whole columns rather than a library: the libraries keep an object for each question, and their
hashes would have to stay the same between versions for equal input to give equal bytes.
"""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from s1.data.partitions import normalised
from s1.data.pool import Pool

NEAR_COLUMNS: dict[str, Any] = {
    "id": pl.String, "other_id": pl.String, "similarity": pl.Float64,
    "question": pl.String, "other_question": pl.String,
}  # fmt: skip
MINIMA = 128
MISS = 0.01
"""Largest chance that a pair exactly at the threshold shares no band."""
LARGE_GROUP = 50
"""In a larger band group each member is paired only with better ones that stay: templates would square it."""


def near_pairs(pool: Pool, rows: pl.DataFrame, threshold: float, *, n: int = 3) -> pl.DataFrame:
    """Pairs of different questions with a Jaccard index of at least `threshold` (NEAR_COLUMNS), sorted.

    `rows` are the rows of the index to compare. Words are compared in lower case with marks at their ends
    removed; a question under n words is one n-gram. Of several rows with the same question the one with the
    smallest id appears.
    """
    ranked = best_first(rows.select("id", "_key", "correct", "trace_tokens"))
    rows = rows.sort("id").unique("_key", keep="first", maintain_order=True)
    if rows.height < 2:
        return pl.DataFrame(schema=NEAR_COLUMNS)
    work = partial(_band_keys, threshold=threshold, n=n)
    bands = pool.map_rows(rows, ["question"], work, name="near", key=repr((threshold, n)))
    candidates, large = _candidates(bands.sort("id"))
    if large:
        everything = pool.gather_all(rows, ["question"]).select(_words()).to_series()
        grams, docs = _grams(everything, n)
        every = np.split(grams, np.searchsorted(docs, np.arange(1, rows.height)))
        small = np.array(candidates, dtype=np.int64).reshape(-1, 2)
        close: Any = _similarities(grams, docs, small[:, 0], small[:, 1]) >= threshold if len(small) else []
        near = {pair for pair, is_near in zip(candidates, close, strict=True) if is_near}
        number = {key: i for i, key in enumerate(rows["_key"])}
        best = [number[key] for key in dict.fromkeys(ranked["_key"])]
        candidates = sorted(near | _with_keepers(every, near, large, best, threshold))
    pairs = pl.DataFrame(candidates, schema=["a", "b"], orient="row")
    if not pairs.height:
        return pl.DataFrame(schema=NEAR_COLUMNS)
    # From here on only rows that are in a pair, renumbered.
    named = pl.concat([pairs["a"], pairs["b"]]).unique().sort()
    questions = pool.gather_all(rows[named], ["question"])
    ids, texts = questions["id"], questions["question"]
    first, second = (named.search_sorted(pairs[c]).to_numpy() for c in ("a", "b"))
    similarity = _similarities(*_grams(questions.select(_words()).to_series(), n), first, second)
    found = pl.DataFrame(
        {
            "id": ids[first], "other_id": ids[second], "similarity": similarity,
            "question": texts[first], "other_question": texts[second],
        }, schema=NEAR_COLUMNS
    )  # fmt: skip
    return found.filter(pl.col("similarity") >= threshold).sort("id", "other_id")


def _similarities(grams: np.ndarray, docs: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The Jaccard index of the n-gram sets of each pair of documents."""
    starts = np.searchsorted(docs, np.arange(max(first.max(), second.max()) + 2))
    found = np.empty(len(first))
    for at, (a, b) in enumerate(zip(first, second, strict=True)):
        one, other = grams[starts[a] : starts[a + 1]], grams[starts[b] : starts[b + 1]]
        shared = np.intersect1d(one, other, assume_unique=True).size
        found[at] = shared / (one.size + other.size - shared)
    return found


def best_first(rows: pl.DataFrame) -> pl.DataFrame:
    """`rows` with the best copy first: a right attempt, then the longest trace, then the smallest id."""
    grade = pl.when("correct").then(0).when(pl.col("correct").is_null()).then(1).otherwise(2)
    ranked = rows.with_columns(_grade=grade).sort(
        ["_grade", "trace_tokens", "id"], descending=[False, True, False], nulls_last=True
    )
    return ranked.drop("_grade")


def near_reasons(rows: pl.DataFrame, pairs: pl.DataFrame) -> pl.Series:
    """ "near duplicate of ID" for each of `rows` (of the index) whose question is near one that stays, else null.

    Questions are taken from the best on (see `best_first`), and one is dropped with all its rows when it is near
    a question that was kept.
    """
    keys = dict(rows.select("id", "_key").iter_rows())
    near: dict[Any, set[tuple[str, Any]]] = {}
    ends = (("id", "other_id", "other_question"), ("other_id", "id", "question"))
    for columns in ends:
        for a, b, text in pairs.select(columns[0], columns[1], normalised(pl.col(columns[2]))).iter_rows():
            near.setdefault(keys[a], set()).add((text, keys[b]))
    kept: dict[Any, str] = {}
    dropped: dict[Any, str] = {}
    ranked = best_first(rows.select("id", "_key", "correct", "trace_tokens"))
    for number, key in ranked.select("id", "_key").iter_rows():
        if key in kept or key in dropped:
            continue
        keeper = next((kept[other] for _, other in sorted(near.get(key, ())) if other in kept), None)
        if keeper is None:
            kept[key] = number
        else:
            dropped[key] = f"near duplicate of {keeper}"
    return pl.Series("reason", [dropped.get(key) for key in rows["_key"]], dtype=pl.String)


def _words() -> pl.Expr:
    bare = pl.element().str.strip_chars(".,;:!?\"'()[]")
    return normalised(pl.col("question")).str.split(" ").list.eval(bare.filter(bare != ""))


def _grams(words: pl.Series, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct n-gram hashes of each document in ascending order, and the document of each."""
    frame = words.alias("word").to_frame().with_row_index("doc")
    # A short question is filled up to one n-gram.
    fill = pl.lit("").repeat_by((n - pl.col("word").list.len().cast(pl.Int64)).clip(lower_bound=0))
    flat = frame.with_columns(pl.col("word").list.concat(fill)).explode("word")
    names = flat["word"].unique(maintain_order=True)
    hashes = [int.from_bytes(hashlib.blake2b(w.encode(), digest_size=8).digest()) for w in names]
    table = pl.DataFrame({"word": names, "hash": pl.Series(hashes, dtype=pl.UInt64)})
    numbers = flat.join(table, on="word", how="left", maintain_order="left")["hash"].to_numpy()
    docs = flat["doc"].to_numpy()
    grams = np.zeros(max(len(numbers) - n + 1, 0), dtype=np.uint64)
    for i in range(n):
        grams = _mixed(grams * np.uint64(0x9E3779B97F4A7C15) + numbers[i : i + len(grams)])
    whole = docs[: len(grams)] == docs[n - 1 :]
    grams, docs = grams[whole], docs[: len(grams)][whole]
    order = np.lexsort((grams, docs))
    grams, docs = grams[order], docs[order]
    new = np.ones(len(grams), dtype=bool)
    new[1:] = (grams[1:] != grams[:-1]) | (docs[1:] != docs[:-1])
    return grams[new], docs[new]


def _mixed(x: np.ndarray) -> np.ndarray:
    """A bijection of 64-bit numbers whose every output bit depends on every input bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed


def _minima(grams: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """For each document the smallest hash of its n-grams under each of MINIMA hash functions."""
    seeds = _mixed(np.arange(1, MINIMA + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    minima = np.empty((len(starts) - 1, MINIMA), dtype=np.uint64)
    for column, seed in enumerate(seeds):
        minima[:, column] = np.minimum.reduceat(_mixed(grams ^ seed), starts[:-1])
    return minima


def _band_keys(rows: pl.DataFrame, threshold: float, n: int) -> pl.DataFrame:
    """For each row its id and a key for each band of minima; equal bands have equal keys."""
    grams, docs = _grams(rows.select(_words()).to_series(), n)
    minima = _minima(grams, np.searchsorted(docs, np.arange(rows.height + 1)))
    sizes = [r for r in (16, 8, 4, 2, 1) if (1 - threshold**r) ** (MINIMA // r) <= MISS]
    size = sizes[0] if sizes else 1
    columns = []
    for band in range(0, MINIMA, size):
        keys = np.zeros(len(minima), dtype=np.uint64)
        for column in range(band, band + size):
            keys = _mixed(keys + minima[:, column])
        columns.append(pl.Series(f"band{band}", keys))
    return pl.DataFrame([rows["id"], *columns])


def _candidates(bands: pl.DataFrame) -> tuple[list[tuple[int, int]], list[list[int]]]:
    """Pairs of rows that agree in one whole band of minima, and the groups too large for all their pairs."""
    pairs: set[tuple[int, int]] = set()
    large: list[list[int]] = []
    for name in bands.columns[1:]:
        keys = bands[name].to_numpy()
        order = np.argsort(keys, kind="stable")
        same = np.flatnonzero(keys[order][1:] == keys[order][:-1])
        for group in np.split(same, np.flatnonzero(np.diff(same) > 1) + 1) if same.size else ():
            members = [int(i) for i in order[group[0] : group[-1] + 2]]
            if len(members) <= LARGE_GROUP:
                pairs.update((a, b) for i, a in enumerate(members) for b in members[i + 1 :])
            else:
                large.append(members)
    return sorted(pairs), large


def _with_keepers(
    grams: list[np.ndarray], near: set[tuple[int, int]], large: list[list[int]], best: list[int], least: float
) -> set[tuple[int, int]]:
    """Pairs of each member of a large group, from the best on, with the members before it that stay."""
    groups: dict[int, list[int]] = {}
    for number, members in enumerate(large):
        for member in members:
            groups.setdefault(member, []).append(number)
    close: dict[int, set[int]] = {}
    for a, b in near:
        close.setdefault(a, set()).add(b)
        close.setdefault(b, set()).add(a)
    kept: set[int] = set()
    staying: list[list[int]] = [[] for _ in large]
    found: set[tuple[int, int]] = set()
    for row in best:
        mine = groups.get(row, [])
        stays = not close.get(row, set()) & kept
        for other in {o for number in mine for o in staying[number]}:
            shared = np.intersect1d(grams[row], grams[other], assume_unique=True).size
            if shared >= least * (grams[row].size + grams[other].size - shared):
                found.add((min(row, other), max(row, other)))
                stays = False
        if stays:
            kept.add(row)
            for number in mine:
                staying[number].append(row)
    return found
