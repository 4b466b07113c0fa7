"""The stages of `s1 curate` one by one; each takes the parsed arguments and gives the exit code."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from s1.cli.progress import ProgressBar
from s1.errors import BadConfig, BadInput
from s1.types import to_json

if TYPE_CHECKING:
    from s1.clients.chat import ApiSettings
    from s1.clients.map_calls import Caller
    from s1.data.partitions import Shards
    from s1.data.pipeline import CurateSettings
    from s1.data.stages import StageResult


@contextmanager
def open_pool(arguments: argparse.Namespace) -> Iterator[Shards]:
    """The pool that was named, out of core; its traces measured where a tokenizer is given."""
    from s1.config import split_pairs
    from s1.data.difficulty import measured
    from s1.data.executor import open_executor
    from s1.data.ingest import read_shards, work_folder
    from s1.data.pipeline import as_shards

    if arguments.pool == ["petri"]:
        from s1.petri import world

        shards = as_shards(world.pool())
        yield measured(shards, arguments.tokenizer) if arguments.tokenizer else shards
        return
    with (
        work_folder(arguments.out) as work,
        open_executor(
            arguments.executor or "local", workers=arguments.workers, address=arguments.ray_address
        ) as executor,
    ):
        columns = dict(split_pairs(arguments.column or ()))
        shards = read_shards(arguments.pool, columns, work=work, executor=executor)
        yield measured(shards, arguments.tokenizer) if arguments.tokenizer else shards


def collect(arguments: argparse.Namespace) -> int:
    from s1.data.pool import join_pools
    from s1.data.sources import load_source, read_sources
    from s1.data.stages import finish_stage, open_stage

    known = read_sources()
    if arguments.sources:
        known |= read_sources(arguments.sources)
    if not arguments.pool:
        for name, source in known.items():
            print(f"{name:15} {source.paper or '':>6}  {source.hub:38} {source.licence}")
        return 0
    open_stage(arguments.out, "collect")
    pools = []
    for spec in known if arguments.pool == ["all"] else arguments.pool:
        name, _, path = spec.partition("=")
        if name not in known:
            raise BadConfig(f"No source is named {name!r}.", f"Known: {', '.join(known)}; more by --sources.")
        pools.append(load_source(known[name], path or None, seed=arguments.seed or 0))
        rows = pools[-1].rows
        print(f"{name}: {rows.height:,} questions, {pools[-1].rejects.height} rejected", file=sys.stderr)
    import polars as pl

    pool = join_pools(pools)
    nothing = pl.Series("reason", [None] * pool.rows.height, dtype=pl.String)
    return _done(finish_stage("collect", pool, pool.rows, nothing), arguments)


def teach(arguments: argparse.Namespace) -> int:
    import polars as pl

    from s1.config import split_pairs
    from s1.data.pool import read_pool
    from s1.data.stages import finish_stage, open_stage
    from s1.data.teach import teach as ask_teacher

    if len(arguments.model or ()) != 1:
        raise BadConfig("curate teach needs one teacher.", "Name it with --model.")
    settings = _api_settings(arguments)
    pool = read_pool(arguments.pool, dict(split_pairs(arguments.column or ())))
    open_stage(arguments.out, "teach")
    with _callers(arguments, settings) as (models, _), _journal(arguments) as journal:
        taught = ask_teacher(
            pool, models[0], journal, samples=_samples(arguments), progress=ProgressBar("teach").show_calls
        )
    if not taught.pool.rows.height:
        why = taught.pool.rejects["reason"][-1]
        raise BadInput(f"No trace came: {why}.", "Mend that; the same command goes on from here.")
    nothing = pl.Series("reason", [None] * taught.pool.rows.height, dtype=pl.String)
    silent = taught.pool.rows.filter(pl.col("thinking") == "").height
    notes = [f"{taught.tokens_in:,} tokens in, {taught.tokens_out:,} out, {taught.usd:.2f} dollars."]
    if silent:
        notes.append(
            f"{silent} replies show no thinking; the clean stage drops them. A vLLM server shows it with "
            "--reasoning-parser, or where the tags are special tokens with --set body='{skip_special_tokens: false}'."
        )
    result = finish_stage("teach", taught.pool, taught.pool.rows, nothing, notes=notes)
    return _done(result, arguments, settings)


def clean(arguments: argparse.Namespace) -> int:
    from s1.data import stages

    stages.open_stage(arguments.out, "clean")
    settings = _curate_settings(arguments)
    with open_pool(arguments) as pool:
        return _done(stages.clean(pool, settings.quality), arguments, settings.quality)


def decontaminate(arguments: argparse.Namespace) -> int:
    from s1.data import stages
    from s1.data.decontaminate import read_benchmarks

    stages.open_stage(arguments.out, "decontaminate")
    settings = _curate_settings(arguments)
    with open_pool(arguments) as pool:
        benchmarks = read_benchmarks(arguments.against) if arguments.against else None
        result = stages.decontaminate(
            pool, benchmarks, n=settings.ngram, duplicates=settings.duplicates, near=settings.near
        )
        for hit in result.tables["hits.jsonl"].iter_rows(named=True):
            how = hit["how"] + (f", {hit['count']} in common" if hit["count"] > 1 else "")
            print(f"{hit['id']} = {hit['benchmark']} {hit['benchmark_id']} ({how})")
            print(f"  shared: {hit['shared']}")
            print(f"  ours:   {' '.join(hit['question'].split())}")
            print(f"  theirs: {' '.join(hit['benchmark_question'].split())}\n")
        for pair in result.tables["near.jsonl"].iter_rows(named=True):
            print(f"{pair['id']} ~ {pair['other_id']} (near duplicate, {pair['similarity']:.2f})")
            print(f"  one:   {' '.join(pair['question'].split())}")
            print(f"  other: {' '.join(pair['other_question'].split())}\n")
        chosen = {"ngram": settings.ngram, "duplicates": settings.duplicates, "near": settings.near}
        return _done(result, arguments, chosen)


def difficulty(arguments: argparse.Namespace) -> int:
    from s1.data import stages

    settings = _api_settings(arguments)
    with open_pool(arguments) as pool:
        stages.open_stage(arguments.out, "difficulty")
        with _callers(arguments, settings) as (models, judge), _journal(arguments) as journal:
            result = stages.difficulty(
                pool, models, judge, journal, attempts=_samples(arguments),
                most_solved=arguments.most_solved or 0.0, progress=ProgressBar("difficulty").show_calls,
            )  # fmt: skip
        return _done(result, arguments, settings)


def diversity(arguments: argparse.Namespace) -> int:
    from s1.data import stages
    from s1.data.domains import MSC, read_domains

    if len(arguments.model or ()) > 1:
        raise BadConfig("curate diversity takes one classifier.", "Name one --model.")
    settings = _api_settings(arguments)
    with open_pool(arguments) as pool:
        domains = read_domains(arguments.domains) if arguments.domains else MSC
        stages.open_stage(arguments.out, "diversity")
        with _callers(arguments, settings) as (models, _), _journal(arguments) as journal:
            result = stages.diversity(
                pool,
                models[0] if models else None,
                journal,
                domains=domains,
                progress=ProgressBar("diversity").show_calls,
            )
        return _done(result, arguments, settings)


def select(arguments: argparse.Namespace) -> int:
    import polars as pl

    from s1.data.select import ablation
    from s1.data.select import select as draw
    from s1.data.stages import finish_stage, open_stage

    open_stage(arguments.out, "select")
    settings = _curate_settings(arguments)
    with open_pool(arguments) as pool:
        rows = pool.index
        if settings.strategy == "s1k":
            chosen, notes = draw(
                rows, settings.n, seed=settings.seed, preselect=settings.preselect,
                domain_weights=settings.domain_weights or None, weighted_after=settings.weighted_after,
                profile=settings.quality.profile,
            )  # fmt: skip
        else:
            chosen, notes = ablation(rows, settings.strategy, settings.n, seed=settings.seed)
        taken = rows["id"].is_in(chosen["id"].implode())
        reasons = pl.select(pl.when(~taken).then(pl.lit("not drawn")).alias("reason")).to_series()
        return _done(finish_stage("select", pool, rows, reasons, notes=notes), arguments, settings)


def _done(result: StageResult, arguments: argparse.Namespace, settings: Any = None) -> int:
    from s1.data.stages import write_stage

    for stage in result.stages:
        print(stage.line, file=sys.stderr)
    for note in result.notes:
        print(f"Note: {note}", file=sys.stderr)
    if arguments.out is not None:
        write_stage(result, arguments.out, to_json(settings))
        print(f"{result.kept.height} rows kept. Written to {arguments.out}")
    return 0


def _curate_settings(arguments: argparse.Namespace) -> CurateSettings:
    from s1.config import load_settings
    from s1.data.pipeline import CurateSettings

    defaults = CurateSettings(n=1000 if arguments.n is None else arguments.n, seed=arguments.seed or 0)
    return load_settings(defaults, arguments.config, arguments.set or ())


def _api_settings(arguments: argparse.Namespace) -> ApiSettings:
    from dataclasses import replace

    from s1.clients.chat import ApiSettings
    from s1.config import load_settings

    settings = load_settings(ApiSettings(), arguments.config, arguments.set or ())
    given = {"url": arguments.url, "max_usd": arguments.max_usd}
    return replace(settings, **{k: v for k, v in given.items() if v is not None})


def _samples(arguments: argparse.Namespace) -> int:
    return 1 if arguments.samples is None else int(arguments.samples)


@contextmanager
def _callers(
    arguments: argparse.Namespace, settings: ApiSettings
) -> Iterator[tuple[list[Caller], Caller | None]]:
    """The models and the judge; engines are closed at the end."""
    from s1.cli.judges import open_caller
    from s1.data.attempts import EngineCaller

    made: list[Any] = []
    try:
        for spec in [*(arguments.model or ()), *([arguments.judge] if arguments.judge else ())]:
            made.append(open_caller(spec, arguments.url, settings))
        yield (made[:-1], made[-1]) if arguments.judge else (made, None)
    finally:
        for caller in made:
            if isinstance(caller, EngineCaller):
                asyncio.run(caller.engine.close())


@contextmanager
def _journal(arguments: argparse.Namespace) -> Iterator[Any]:
    from s1.clients.call_cache import CallCache

    with CallCache(arguments.out / "journal.jsonl") as journal:
        yield journal
