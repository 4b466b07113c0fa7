"""The funnel: a pool through quality, difficulty, decontamination and selection, every fate written down.

Order under "strict": quality, difficulty, decontamination (every row, whatever its source), selection.
Under "official" decontamination comes first and leaves the sources in `decontamination_exempt` out, as the
authors' code added AIME after it. The ablation strategies skip difficulty, as in the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from s1.data.decontaminate import contamination
from s1.data.difficulty import difficulty_reasons
from s1.data.ledger import Ledger, Stage, count_stage, rejects_of
from s1.data.output import refuse_existing, write_ledger
from s1.data.partitions import Shards, hash_index, memory_shards
from s1.data.pool import Pool, conform, rejects_frame
from s1.data.quality import QualitySettings, shards_quality
from s1.data.select import PAPER_PRESELECT, Preselect, Strategy, ablation, select
from s1.errors import BadConfig, BadInput
from s1.types import to_json

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, slots=True)
class CurateSettings:
    """Everything that decides the outcome, besides the pool and the benchmarks."""

    n: int = 1000
    seed: int = 0
    strategy: Strategy = "s1k"
    """The paper's set, or one of its ablations: random, longest, diverse (n rows each), full."""
    quality: QualitySettings = QualitySettings()
    """Its `profile` also sets the order of stages and the fate of preselected rows."""
    most_solved: float = 0.0
    """Drop a question when some model solved more than this share of its attempts."""
    ngram: int = 8
    """Words in common with a benchmark question that count as a hit; 0 for exact matches only."""
    duplicates: Literal["question", "trace", "off"] = "question"
    """Which rows are copies: the same question, or the same question and trace."""
    near: float = 0.0
    """Drop questions whose word 3-grams have this Jaccard index or more with those of one that stays
    (0.8 finds reworded copies); 0: off, since templated questions would go too."""
    decontamination_exempt: str = "(?i)aime"
    """Sources that "official" leaves out of decontamination (a regular expression). "strict" exempts none."""
    preselect: tuple[Preselect, ...] = PAPER_PRESELECT
    domain_weights: Mapping[str, float] = field(default_factory=dict)
    weighted_after: int | None = None
    """Draw domains by weight once so many rows are chosen. None: never, or 7 of 10 under "official"."""
    trace_prefix: str = ""
    """ "deepseek" or "gemini" names the trace columns as s1K-1.1 does."""

    def __post_init__(self) -> None:
        if self.n < 1 or self.ngram < 0 or not 0 <= self.most_solved <= 1 or not 0 <= self.near <= 1:
            raise BadConfig(
                f"Curation out of range: n {self.n}, ngram {self.ngram}, most_solved {self.most_solved}, "
                f"near {self.near}.",
                "Use n >= 1, ngram >= 0 and shares between 0 and 1.",
            )


def curate(
    pool: Pool | pl.DataFrame | Shards,
    settings: CurateSettings = CurateSettings(),
    out: str | Path | None = None,
    *,
    benchmarks: pl.DataFrame | None = None,
    overwrite: bool = False,
    progress: Callable[[Stage], None] = lambda stage: None,
) -> Ledger:
    """Runs the whole funnel; writes the folder `out` (see `ledger`) when one is named.

    A pool in memory (`read_pool`) and one out of core (`reading.read_shards`) give the same bytes.
    `benchmarks` is what `read_benchmarks` gives; without it only copies within the pool are dropped, and the
    ledger says so. Raises BadInput when the output folder is taken or no row survives.
    """
    if out is not None:
        refuse_existing(Path(out), overwrite)
    official = settings.quality.profile == "official"
    run = _Run(as_shards(pool), settings, benchmarks, progress)
    order = ("quality", "difficulty", "decontamination")
    for name in (order[2], *order[:2]) if official else order:
        getattr(run, name)()
        if not run.rows.height:
            last = run.stages[-1]
            raise BadInput(
                f"No row is left after {last.name}: {dict(last.dropped)}.",
                "Loosen that stage, or check the pool.",
            )
    run.selection()
    return run.finish(out, overwrite)


def as_shards(pool: Pool | pl.DataFrame | Shards) -> Shards:
    """Any pool as shards: one in memory stays there."""
    if isinstance(pool, Shards):
        return pool
    if not isinstance(pool, Pool):
        pool = Pool(pool, rejects_frame())
    return memory_shards(conform(pool.rows), pool.rejects, pool.files)


class _Run:
    """The rows still in (of the index), and what was noted on the way."""

    def __init__(
        self,
        shards: Shards,
        settings: CurateSettings,
        benchmarks: pl.DataFrame | None,
        progress: Callable[[Stage], None],
    ) -> None:
        import polars as pl

        self.shards, self.settings, self.benchmarks, self.progress = shards, settings, benchmarks, progress
        self.rows = shards.index
        self.stages: list[Stage] = []
        self.notes: list[str] = []
        self.hits = self.near = pl.DataFrame()
        self.dropped: list[tuple[str, pl.DataFrame, pl.Series]] = []
        read = pl.concat([self.rows["source"], shards.rejects["source"]])
        nothing = pl.Series([None] * self.rows.height, dtype=pl.String)
        self._count("reading", read, pl.concat([nothing, shards.rejects["reason"]]))

    def quality(self) -> None:
        self._drop("quality", shards_quality(self.shards, self.rows, self.settings.quality))

    def difficulty(self) -> None:
        import polars as pl

        if self.settings.strategy != "s1k":
            self.notes.append(
                f"Strategy {self.settings.strategy}: no difficulty rule, as in the paper's ablations."
            )
            return
        models = [c for c in self.rows.columns if c.startswith("solved_")]
        if not models:
            self.notes.append("No solved_MODEL column: the difficulty rule had nothing to go by.")
        ungraded = (
            self.rows.filter(pl.any_horizontal(pl.col(m).is_null() for m in models)).height if models else 0
        )
        if ungraded:
            self.notes.append(
                f"{ungraded} rows lack a graded attempt of some model; that model did not count."
            )
        self._drop("difficulty", difficulty_reasons(self.rows, most_solved=self.settings.most_solved))

    def decontamination(self) -> None:
        settings = self.settings
        if self.benchmarks is None:
            self.notes.append("No benchmark was named: nothing was checked against test questions.")
        found = contamination(
            self.shards,
            self.benchmarks,
            rows=self.rows,
            n=settings.ngram,
            duplicates=settings.duplicates,
            near=settings.near,
            exempt=settings.decontamination_exempt if settings.quality.profile == "official" else None,
        )
        self.hits, self.near = found.hits, found.near
        self._drop("decontamination", found.reasons)

    def selection(self) -> None:
        import polars as pl

        settings = self.settings
        profile = settings.quality.profile
        if settings.strategy == "s1k":
            after = settings.weighted_after
            if after is None and profile == "official":
                after = settings.n * 7 // 10
                if not settings.domain_weights:
                    self.notes.append(
                        "No benchmark domain weights were given: domains were drawn uniformly throughout."
                    )
            chosen, notes = select(
                self.rows,
                settings.n,
                seed=settings.seed,
                preselect=settings.preselect,
                domain_weights=settings.domain_weights or None,
                weighted_after=after,
                profile=profile,
            )
        else:
            chosen, notes = ablation(self.rows, settings.strategy, settings.n, seed=settings.seed)
        self.notes += notes
        taken = self.rows["id"].is_in(chosen["id"].to_list())
        self._drop(
            "selection", pl.select(pl.when(~taken).then(pl.lit("not drawn")).alias("reason")).to_series()
        )
        self.rows = chosen

    def finish(self, out: str | Path | None, overwrite: bool) -> Ledger:
        ledger = Ledger(
            chosen=self.rows,
            rejected=rejects_of(self.shards.rejects, self.dropped),
            shards=self.shards,
            hits=self.hits,
            near=self.near,
            stages=tuple(self.stages),
            asked=self.settings.n,
            seed=self.settings.seed,
            profile=self.settings.quality.profile,
            settings=to_json(self.settings),
            input={
                "rows": self.shards.index.height + self.shards.rejects.height,
                "sha256": hash_index(self.shards.index),
                "files": list(self.shards.files),
            },
            notes=tuple(self.notes),
            trace_prefix=self.settings.trace_prefix,
        )
        if out is not None:
            write_ledger(ledger, out, overwrite=overwrite)
        return ledger

    def _drop(self, stage: str, reasons: pl.Series) -> None:
        self._count(stage, self.rows["source"], reasons)
        gone = reasons.is_not_null()
        self.dropped.append((stage, self.rows.filter(gone).select("id", "source"), reasons.filter(gone)))
        self.rows = self.rows.filter(~gone)

    def _count(self, stage: str, sources: pl.Series, reasons: pl.Series) -> None:
        self.stages.append(count_stage(stage, sources, reasons))
        self.progress(self.stages[-1])
