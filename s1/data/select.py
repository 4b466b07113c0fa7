"""Diversity and selection: the thousand (section 2.2 of the paper, Algorithm 1), and the sets of its ablations.

Preselected rows first; then, until n are chosen, a domain at random and within it a row by its rank in trace
length, with weight 2^-rank (rank 0 is the longest). The draw depends on the seed and on the rows, not on their
order: rows are sorted by id, ties in length are broken by id, and the random numbers are the raw output of
PCG64, which NumPy keeps stable between versions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from s1.data.curate_settings import CurateSettings, Preselect, Strategy
from s1.data.difficulty import require_trace_tokens

NO_DOMAIN = "(no domain)"


class Selection(NamedTuple):
    """Chosen rows in the order of choice with a column `chosen` (why), and remarks for the ledger."""

    rows: pl.DataFrame
    notes: tuple[str, ...]


class _Draw:
    """Uniform numbers in [0, 1) from a seed, the same on any machine and NumPy version."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def uniform(self) -> float:
        return float(int(self._bits.random_raw()) >> 11) / 9007199254740992.0

    def below(self, count: int) -> int:
        return min(int(self.uniform() * count), count - 1)


def select(rows: pl.DataFrame, settings: CurateSettings) -> Selection:
    """`n` rows of the index by the strategy of the settings; all of them, with a note, when there are no more than n.

    For "s1k", once `weighted_after` rows are chosen, domains are drawn by `domain_weights` (700 in the authors' code;
    the paper's Algorithm 1 is uniform). Under "official" preselected rows stay in their domains, so that a draw can
    come to nothing; under "strict" they leave them. Raises BadInput when a strategy that looks at lengths meets a
    trace that is not measured in tokens.
    """
    n, strategy = settings.n, settings.strategy
    if strategy in ("s1k", "longest"):
        require_trace_tokens(rows)
    length = pl.col("trace_tokens").fill_null(0)  # a row without a trace has none
    rows = rows if rows["id"].is_sorted() else rows.sort("id")
    ranked = rows.select("source", "correct", pl.col("domain").fill_null(NO_DOMAIN), length=length)
    ranked = ranked.with_row_index()
    notes: list[str] = []
    is_weighted = strategy == "s1k" and settings.profile == "official" and settings.weighted_after is None
    if is_weighted and not settings.domain_weights:
        notes.append("No benchmark domain weights were given: domains were drawn uniformly throughout.")
    if ranked.height < n and strategy != "full":
        notes.append(f"Only {ranked.height} rows reached the selection; {n} were requested. All were taken.")
    draw = _Draw(settings.seed)
    if strategy == "s1k":
        chosen = _thousand(ranked, settings, draw, notes)
    else:
        chosen = dict.fromkeys(_ablation(ranked, n, draw, strategy), str(strategy))
    why = pl.Series("chosen", list(chosen.values()), dtype=pl.String)
    return Selection(rows[list(chosen)].with_columns(why), tuple(notes))


def _thousand(rows: pl.DataFrame, settings: CurateSettings, draw: _Draw, notes: list[str]) -> dict[int, str]:
    """Why each chosen row was chosen, in the order of choice, by its number."""
    n, weights, weighted_after = settings.n, settings.domain_weights, settings.weighted_after
    if weighted_after is None:
        weighted_after = n * 7 // 10 if settings.profile == "official" else n
    missing = int((rows["domain"] == NO_DOMAIN).sum())
    if missing:
        notes.append(f"{missing} rows have no domain and were drawn as one domain.")
    chosen = dict.fromkeys(_preselected(rows, settings.preselect), "preselected")
    if len(chosen) > n:
        notes.append(
            f"{len(chosen)} rows were preselected, more than the {n} requested: {n} of them were drawn."
        )
        order = list(chosen)
        chosen = {order.pop(draw.below(len(order))): "preselected" for _ in range(n)}
    if settings.profile != "official":
        rows = rows.filter(~pl.col("index").is_in([*chosen]))
    # Longest last, so that taking a low rank moves little. Rows are sorted by id, so their numbers are too.
    rows = rows.sort(["length", "index"], descending=[False, True])
    domains: dict[str, list[int]] = dict(
        rows.group_by("domain", maintain_order=True).agg("index").iter_rows()
    )
    names = sorted(domains)
    empty: list[str] = []
    while len(chosen) < n and names:
        weighted = bool(weights) and len(chosen) >= weighted_after
        at = _weighted(names, weights, draw) if weighted else draw.below(len(names))
        members = domains[names[at]]
        index = members.pop(-1 - _rank(draw.uniform(), len(members)))
        chosen.setdefault(index, "drawn")
        if not members:
            empty.append(names.pop(at))
    if empty and names:
        notes.append(f"{len(empty)} domains ran out of rows: {', '.join(sorted(empty)[:10])}.")
    return chosen


def _ablation(rows: pl.DataFrame, n: int, draw: _Draw, strategy: Strategy) -> list[int]:
    """The paper's other sets: "random", "longest", "diverse" (a random domain, a random row), "full"."""
    if strategy == "full":
        return list(range(rows.height))
    if strategy == "longest":
        return rows.sort(["length", "index"], descending=[True, False])["index"].to_list()[:n]
    groups: dict[str, list[int]] = {}
    for index, domain in enumerate(rows["domain"]):
        groups.setdefault(domain if strategy == "diverse" else "", []).append(index)
    names, chosen = sorted(groups), list[int]()
    while len(chosen) < n and names:
        at = draw.below(len(names))
        members = groups[names[at]]
        chosen.append(members.pop(draw.below(len(members))))
        if not members:
            names.pop(at)
    return chosen


def _preselected(rows: pl.DataFrame, rules: Sequence[Preselect]) -> list[int]:
    if not rules:
        return []
    match = pl.any_horizontal(
        pl.col("source").str.contains(f"(?i){r.source}") & (pl.col("length") > r.more_tokens_than)
        for r in rules
    )
    return rows.filter(match & pl.col("correct").fill_null(False))["index"].to_list()


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
