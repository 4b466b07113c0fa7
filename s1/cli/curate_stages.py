"""What `s1 curate` runs: the whole pipeline, or one stage of it.

It imports what curation needs at its top, so only a command that was understood imports it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s1.cli.judges import open_caller
from s1.cli.progress import ProgressBar
from s1.clients.call_cache import CallCache
from s1.clients.chat import ApiSettings
from s1.clients.map_calls import Caller
from s1.config import load_settings, split_pairs
from s1.data.curate_settings import CurateSettings
from s1.data.decontaminate import read_benchmarks
from s1.data.difficulty import with_trace_tokens
from s1.data.domains import read_domains
from s1.data.executor import open_executor, processors
from s1.data.ledger import Ledger, Stage
from s1.data.model_stages import attempt_questions, name_domains
from s1.data.output import refuse_existing, write_stage
from s1.data.pipeline import Prepared, curate, run_stages
from s1.data.pool import Pool, join_pools, pool_of_frame, read_pool
from s1.data.read_files import data_files
from s1.data.sources import load_source, read_sources
from s1.data.teach import teach as ask_teacher
from s1.errors import BadConfig, Interrupted
from s1.petri import world
from s1.petri.training import curate_settings
from s1.terminal import visible

if TYPE_CHECKING:
    import polars as pl


def whole_pipeline(arguments: argparse.Namespace) -> None:
    refuse_existing(arguments.out)
    settings = _curate_settings(arguments)
    with _open_pool(arguments) as pool:
        ledger = curate(
            pool, settings, arguments.out, benchmarks=_benchmarks(arguments), progress=_show_stage
        )
    _show_notes(ledger)
    print(visible(f"{ledger.kept.height} rows selected. Written to {arguments.out}"))


def one_stage(arguments: argparse.Namespace) -> None:
    """clean, decontaminate or select."""
    settings = _curate_settings(arguments)
    with _open_pool(arguments) as pool:
        _finish(arguments, Prepared(pool), settings, settings)


def collect(arguments: argparse.Namespace) -> None:
    known = read_sources()
    if arguments.sources:
        known |= read_sources(arguments.sources)
    if not arguments.pool:
        for name, source in known.items():
            print(visible(f"{name:15} {source.paper or '':>6}  {source.hub:38} {source.licence}"))
        return
    pools = []
    for spec in known if arguments.pool == ["all"] else arguments.pool:
        name, _, path = spec.partition("=")
        if name not in known:
            raise BadConfig(
                f"No source is named {name!r}.", f"Known: {', '.join(known)}; add yours with --sources."
            )
        pool = load_source(known[name], path or None, seed=arguments.seed)
        print(
            visible(f"{name}: {pool.index.height:,} questions, {pool.rejects.height} rejected"),
            file=sys.stderr,
        )
        pools.append(pool)
    _finish(arguments, Prepared(join_pools(pools)))


def teach(arguments: argparse.Namespace) -> None:
    if len(arguments.model) != 1:
        raise BadConfig("curate teach needs one teacher.", "Name it with --model.")
    settings = _api_settings(arguments)
    with (
        _open_pool(arguments) as pool,
        _open_models(arguments, settings) as (models, _, cache),
        ProgressBar("teach") as bar,
    ):
        taught = ask_teacher(pool, models[0], cache, samples=arguments.samples, progress=bar.show_calls)
    if not taught.pool.index.height:
        raise Interrupted(f"No trace came back: {taught.pool.rejects['reason'][-1]}.")
    notes = [f"{taught.tokens_in:,} tokens in, {taught.tokens_out:,} out, {taught.usd:.2f} dollars."]
    silent = taught.pool.index.filter(_characters=0).height
    if silent:
        notes.append(
            f"{silent} replies show no thinking; the clean stage drops them. A vLLM server shows it with "
            "--reasoning-parser, or where the tags are special tokens with --set body='{skip_special_tokens: false}'."
        )
    _finish(arguments, Prepared(taught.pool, notes), settings)


def difficulty(arguments: argparse.Namespace) -> None:
    settings = _api_settings(arguments)
    rule = CurateSettings(most_solved=arguments.most_solved)
    with _open_pool(arguments) as pool:
        with _open_models(arguments, settings) as (models, judge, cache), ProgressBar("difficulty") as bar:
            prepared = attempt_questions(
                pool, models, judge, cache, samples=arguments.samples, progress=bar.show_calls
            )
        _finish(arguments, prepared, settings, rule)


def diversity(arguments: argparse.Namespace) -> None:
    if len(arguments.model) > 1:
        raise BadConfig("curate diversity takes one classifier.", "Name one --model.")
    settings = _api_settings(arguments)
    domains = read_domains(arguments.domains) if arguments.domains else None
    with _open_pool(arguments) as pool:
        with _open_models(arguments, settings) as (models, _, cache), ProgressBar("diversity") as bar:
            classifier = models[0] if models else None
            prepared = name_domains(pool, classifier, cache, domains=domains, progress=bar.show_calls)
        _finish(arguments, prepared, settings)


WORKER_BYTES = 16 << 20
"""Below it, starting a process takes longer than what it saves."""

COMMANDS: Mapping[str, Callable[[argparse.Namespace], None]] = {
    "": whole_pipeline,
    "collect": collect,
    "teach": teach,
    "clean": one_stage,
    "difficulty": difficulty,
    "diversity": diversity,
    "decontaminate": one_stage,
    "select": one_stage,
}


@contextmanager
def _open_pool(arguments: argparse.Namespace) -> Iterator[Pool]:
    """The pool that was named, on disk; its traces measured where a tokenizer is given."""
    tokenizer = arguments.tokenizer
    if arguments.pool == ["petri"]:
        pool = world.pool()
        if tokenizer:
            pool = pool_of_frame(with_trace_tokens(pool.rows, tokenizer), files=pool.files)
        yield pool
        return
    columns = dict(split_pairs(arguments.column))
    workers = arguments.workers
    if workers is None and arguments.executor != "ray":
        workers = _workers_for(arguments.pool)
    with open_executor(arguments.executor, workers=workers, address=arguments.ray_address) as executor:
        yield read_pool(arguments.pool, columns, tokenizer=tokenizer, work=arguments.work, executor=executor)


def _workers_for(paths: Sequence[str]) -> int:
    """One process for every WORKER_BYTES of files, and at most one for each processor."""
    files = [file for path in paths for file in data_files(Path(path)) if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    return max(1, min(processors(), size // WORKER_BYTES))


def _curate_settings(arguments: argparse.Namespace) -> CurateSettings:
    n, seed = arguments.n, arguments.seed
    defaults = curate_settings(n, seed) if arguments.pool == ["petri"] else CurateSettings(n=n, seed=seed)
    return load_settings(defaults, arguments.config, arguments.set)


def _benchmarks(arguments: argparse.Namespace) -> pl.DataFrame | None:
    return read_benchmarks(arguments.against) if arguments.against else None


def _finish(
    arguments: argparse.Namespace,
    prepared: Prepared,
    recorded: Any = None,
    settings: CurateSettings | None = None,
) -> None:
    """Runs the stage on the prepared pool and writes its folder, with `recorded` as its settings."""
    ledger = run_stages(
        prepared.pool,
        [arguments.stage],
        settings or CurateSettings(),
        benchmarks=_benchmarks(arguments),
        notes=prepared.notes,
        tables=prepared.tables,
        progress=_show_stage,
    )
    _show_notes(ledger)
    if arguments.out is not None:
        write_stage(ledger, arguments.out, recorded)
        print(visible(f"{ledger.kept.height} rows kept. Written to {arguments.out}"))
    if arguments.stage == "decontaminate":
        _print_hits(ledger)


def _show_stage(stage: Stage) -> None:
    print(visible(stage.line), file=sys.stderr)


def _show_notes(ledger: Ledger) -> None:
    for note in ledger.notes:
        print(visible(f"Note: {note}"), file=sys.stderr)


def _print_hits(ledger: Ledger) -> None:
    for hit in ledger.tables["hits.jsonl"].iter_rows(named=True):
        how = hit["how"] + (f", {hit['count']} in common" if hit["count"] > 1 else "")
        print(visible(f"{hit['id']} = {hit['benchmark']} {hit['benchmark_id']} ({how})"))
        print(visible(f"  shared: {hit['shared']}"))
        print(visible(f"  ours:   {' '.join(hit['question'].split())}"))
        print(visible(f"  theirs: {' '.join(hit['benchmark_question'].split())}\n"))
    for pair in ledger.tables["near.jsonl"].iter_rows(named=True):
        print(visible(f"{pair['id']} ~ {pair['other_id']} (near duplicate, {pair['similarity']:.2f})"))
        print(visible(f"  one:   {' '.join(pair['question'].split())}"))
        print(visible(f"  other: {' '.join(pair['other_question'].split())}\n"))


def _api_settings(arguments: argparse.Namespace) -> ApiSettings:
    settings = load_settings(ApiSettings(), arguments.config, arguments.set)
    given = {"url": arguments.url, "max_usd": arguments.max_usd}
    return replace(settings, **{k: v for k, v in given.items() if v is not None})


@contextmanager
def _open_models(
    arguments: argparse.Namespace, settings: ApiSettings
) -> Iterator[tuple[list[Caller], Caller | None, CallCache]]:
    """The models, the judge and the call cache of the output folder; engines are closed at the end."""
    with ExitStack() as stack:
        specs = [*arguments.model, *filter(None, [arguments.judge])]
        callers = [stack.enter_context(open_caller(spec, arguments.url, settings)) for spec in specs]
        judge = callers.pop() if arguments.judge else None
        yield callers, judge, stack.enter_context(CallCache(arguments.out / "journal.jsonl"))
