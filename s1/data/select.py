"""Diversity and selection: the thousand (section 2.2, Algorithm 1; SEMANTICS 3.8, filter 4 and 5).

Preselected rows first; then, until n are chosen, a domain at random and within it a row by its rank in
trace length, with weight 2^-rank (rank 0 is the longest). The draw depends on the seed and on the rows, not
on their order: rows are sorted by id, ties in length are broken by id, and the random numbers are the raw
output of PCG64, which NumPy keeps stable between versions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from s1.errors import BadConfig

if TYPE_CHECKING:
    import polars as pl

Strategy = Literal["s1k", "random", "longest", "diverse", "full"]
NO_DOMAIN = "(no domain)"


@dataclass(frozen=True, slots=True)
class Preselect:
    """Rows taken before the draw: the teacher is right, the source matches, the trace is long enough."""

    source: str
    """Regular expression, looked for in the source without regard to case."""
    more_tokens_than: int = -1


PAPER_PRESELECT = (Preselect("aime"), Preselect("gpqa"), Preselect(r"openaimath|hendrycks_math|^math$", 5600))


class Selection(NamedTuple):
    """Chosen rows in the order of choice with a column `chosen` (why), and remarks for the ledger."""

    rows: pl.DataFrame
    notes: tuple[str, ...]


class _Draw:
    """Uniform numbers in [0, 1) from a seed, the same on any machine and NumPy version."""

    def __init__(self, seed: int) -> None:
        import numpy as np

        self._bits = np.random.PCG64(seed)

    def uniform(self) -> float:
        return float(int(self._bits.random_raw()) >> 11) / 9007199254740992.0

    def below(self, count: int) -> int:
        return min(int(self.uniform() * count), count - 1)


def select(
    pool: pl.DataFrame,
    n: int,
    *,
    seed: int = 0,
    preselect: tuple[Preselect, ...] = PAPER_PRESELECT,
    domain_weights: Mapping[str, float] | None = None,
    weighted_after: int | None = None,
    profile: Literal["strict", "official"] = "strict",
) -> Selection:
    """`n` rows by the paper's rule; all of them, with a note, when there are no more than n.

    `domain_weights` with `weighted_after`: once so many are chosen, domains are drawn by weight (700 in the
    authors' code; the paper's Algorithm 1 is uniform). Under "official" preselected rows stay in their
    domains, so that a draw can come to nothing; under "strict" they leave them.
    """
    import polars as pl

    if n < 1:
        raise BadConfig(f"Selection: n is {n}.", "Ask for at least 1 row.")
    rows = _prepared(pool)
    notes = [_few(rows.height, n)] if rows.height < n else []
    missing = int((rows["domain"] == NO_DOMAIN).sum())
    if missing:
        notes.append(f"{missing} rows have no domain and were drawn as one domain.")
    draw = _Draw(seed)
    chosen = {i: "preselected" for i in _preselected(rows, preselect)}
    if len(chosen) > n:
        notes.append(
            f"{len(chosen)} rows were preselected, more than the {n} asked for: {n} of them were drawn."
        )
        order = list(chosen)
        chosen = {order.pop(draw.below(len(order))): "preselected" for _ in range(n)}
    # Longest last, so that taking a low rank moves little. Rows are sorted by id, so their numbers are too.
    ranked = rows.select("domain", "length").with_row_index()
    if profile != "official":
        ranked = ranked.filter(~pl.col("index").is_in([*chosen]))
    ranked = ranked.sort(["length", "index"], descending=[False, True])
    groups = ranked.group_by("domain", maintain_order=True).agg("index")
    domains: dict[str, list[int]] = dict(groups.iter_rows())
    names = sorted(domains)
    empty: list[str] = []
    while len(chosen) < n and names:
        weighted = domain_weights is not None and weighted_after is not None and len(chosen) >= weighted_after
        at = _weighted(names, domain_weights or {}, draw) if weighted else draw.below(len(names))
        members = domains[names[at]]
        index = members.pop(-1 - _rank(draw.uniform(), len(members)))
        chosen.setdefault(index, "drawn")
        if not members:
            empty.append(names.pop(at))
    if empty and names:
        notes.append(f"{len(empty)} domains ran out of rows: {', '.join(sorted(empty)[:10])}.")
    picked = (
        rows[list(chosen)]
        .drop("length")
        .with_columns(pl.Series("chosen", list(chosen.values()), dtype=pl.String))
    )
    return Selection(_without_placeholder(picked), tuple(notes))


def ablation(pool: pl.DataFrame, strategy: Strategy, n: int, *, seed: int = 0) -> Selection:
    """The paper's other sets: "random", "longest", "diverse" (a random domain, a random row), "full"."""
    import polars as pl

    rows = _prepared(pool)
    notes = (_few(rows.height, n),) if rows.height < n and strategy != "full" else ()
    draw = _Draw(seed)
    if strategy == "full":
        chosen = list(range(rows.height))
    elif strategy == "longest":
        chosen = rows.with_row_index().sort(["length", "id"], descending=[True, False])["index"].to_list()[:n]
    elif strategy in ("random", "diverse"):
        groups: dict[str, list[int]] = {}
        for index, domain in enumerate(rows["domain"]):
            groups.setdefault(domain if strategy == "diverse" else "", []).append(index)
        names, chosen = sorted(groups), []
        while len(chosen) < n and names:
            at = draw.below(len(names))
            members = groups[names[at]]
            chosen.append(members.pop(draw.below(len(members))))
            if not members:
                names.pop(at)
    else:
        raise BadConfig(
            f"Selection: strategy {strategy!r} is unknown.", "Use s1k, random, longest, diverse or full."
        )
    picked = rows[chosen].drop("length").with_columns(chosen=pl.lit(strategy))
    return Selection(_without_placeholder(picked), notes)


def benchmark_domain_weights(aime: Mapping[str, int], gpqa: Mapping[str, int]) -> dict[str, float]:
    """The authors' weights for the last 300 rows: domain counts of the benchmarks, cut to whole numbers."""
    factor = 0.5 * sum(aime.values()) / sum(gpqa.values()) if gpqa else 0.0
    names = sorted({*aime, *gpqa})
    return {d: float(int(aime.get(d, 0) + gpqa.get(d, 0) * factor)) for d in names}


def _prepared(pool: pl.DataFrame) -> pl.DataFrame:
    import polars as pl

    characters = (
        pl.col("_characters") if "_characters" in pool.columns else pl.col("thinking").str.len_chars()
    )
    length = pl.coalesce("trace_tokens", characters, pl.lit(0)).cast(pl.Int64)
    rows = pool.with_columns(pl.col("domain").fill_null(NO_DOMAIN), length=length)
    return rows if rows["id"].is_sorted() else rows.sort("id")  # an index of shards is


def _without_placeholder(rows: pl.DataFrame) -> pl.DataFrame:
    import polars as pl

    return rows.with_columns(pl.when(pl.col("domain") != NO_DOMAIN).then("domain").alias("domain"))


def _few(have: int, n: int) -> str:
    return f"Only {have} rows reached the selection; {n} were asked for. All were taken."


def _preselected(rows: pl.DataFrame, rules: tuple[Preselect, ...]) -> list[int]:
    import polars as pl

    if not rules:
        return []
    match = pl.any_horizontal(
        pl.col("source").str.contains(f"(?i){r.source}") & (pl.col("length") > r.more_tokens_than)
        for r in rules
    )
    return rows.with_row_index().filter(match & pl.col("correct").fill_null(False))["index"].to_list()


def _rank(uniform: float, count: int) -> int:
    """Rank with probability proportional to 2^-rank among `count`, by the inverse of its distribution."""
    return min(int(-math.log2(1.0 - uniform * (1.0 - 2.0 ** -min(count, 60)))), count - 1)


def _weighted(names: list[str], weights: Mapping[str, float], draw: _Draw) -> int:
    """A domain by weight; uniform when none of those left has any."""
    totals, total = [], 0.0
    for name in names:
        total += weights.get(name, 0.0)
        totals.append(total)
    if total <= 0:
        return draw.below(len(names))
    point = draw.uniform() * total
    return next(i for i, t in enumerate(totals) if t > point)
