"""Benchmarks: questions with reference answers, from a file, a YAML description or the Hub.

    load_benchmark("aime24")       known name, from the Hub
    load_benchmark("my.parquet")   any JSONL, JSON, CSV or Parquet file (.gz as well)
    load_benchmark("my.yaml")      a file or Hub set, described (see benchmark_sources)

A row that cannot be used is an error: no benchmark ever loses questions silently.
"""

from __future__ import annotations

import hashlib
import pkgutil
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from s1.data.read_files import file_kind, rows_of
from s1.errors import BadConfig, BadInput, MissingExtra
from s1.evals.benchmark_sources import KNOWN, BenchmarkSource, filtered, read_source
from s1.evals.choices import numbering
from s1.evals.question_rows import question_of, refuse_surrogates, unwrapped
from s1.grading import KINDS
from s1.types import Question


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Questions in file order."""

    name: str
    kind: str
    """How answers are graded, one of s1.grading.KINDS."""
    questions: tuple[Question, ...]
    version: str
    """File name and hash of the content, or Hub set, split and revision."""


LOADERS: dict[str, str] = {"petri": "s1.petri.world:benchmark"}
"""Benchmarks that are made rather than read: name to the `module:function` that returns a Benchmark."""


def load_benchmark(name_or_path: str | Path, limit: int | None = None) -> Benchmark:
    """The benchmark of this name, or of this file; the first `limit` questions of it.

    Raises BadInput naming file, row and field; BadConfig for an unknown name or kind;
    MissingExtra where the Hub or Parquet needs a library.
    """
    if limit is not None and limit < 1:
        raise BadConfig(f"A limit of {limit} questions leaves nothing.", "Give a limit of 1 or more.")
    name = str(name_or_path)
    if name in LOADERS:
        made: Benchmark = pkgutil.resolve_name(LOADERS[name])()
        return replace(made, questions=made.questions[:limit])
    source = _source(name)
    if source.kind and source.kind not in KINDS:
        raise BadConfig(
            f"{name}: unknown kind of answer {source.kind!r}.", f"Use one of: {', '.join(KINDS)}."
        )
    where = source.path or source.hub
    rows, version = _rows_of_file(Path(source.path)) if source.path else _rows_of_hub(source)
    kept = list(filtered(rows, source.filter, where))[-source.last :]
    numbered = [(number, unwrapped(row)) for number, row in kept]
    for number, row in numbered:
        refuse_surrogates(row, f"{where}, row {number}")
    names = source.columns
    if names.numbered_from is None and not names.correct:
        names = replace(names, numbered_from=numbering(numbered, names, where))
    questions = tuple(
        _with_unique_ids(
            question_of(row, names, source.name, f"{where}, row {number}") for number, row in numbered
        )
    )
    if not questions:
        found = f"no row passes the filter {dict(source.filter)}" if source.filter else "the file has no rows"
        raise BadInput(f"{where}: there are no questions: {found}.", "Give one question per row.")
    if source.version:
        version = f"{source.version}, {version}"
    kind = source.kind or _guess_kind(questions)
    return Benchmark(source.name, kind, questions[:limit], version)


def _source(name: str) -> BenchmarkSource:
    if name in KNOWN:
        return KNOWN[name]
    file = Path(name)
    if file.suffix in (".yaml", ".yml"):
        source = read_source(file)
        return replace(source, path=str(file.parent / source.path)) if source.path else source
    if file.exists() or file.suffix or "/" in name:
        return BenchmarkSource(
            re.sub(r"\.(jsonl?|csv|parquet)$", "", file.name.removesuffix(".gz")), path=name
        )
    names = ", ".join(sorted({*KNOWN, *LOADERS}))
    raise BadConfig(f"Unknown benchmark {name!r}.", f"Give a file, or one of: {names}.")


def _rows_of_file(path: Path) -> tuple[Iterable[tuple[int, Mapping[str, Any]]], str]:
    file_kind(path)
    with path.open("rb") as file:
        version = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    return rows_of(path), f"{path.name}@{version}"


def _rows_of_hub(source: BenchmarkSource) -> tuple[Iterable[tuple[int, Mapping[str, Any]]], str]:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("datasets", "data") from error
    where = f"{source.hub} ({source.config or 'default'}, {source.split})"
    try:
        data = datasets.load_dataset(
            source.hub, source.config or None, split=source.split, revision=source.revision or None
        )
    except Exception as error:  # the Hub client raises errors of many libraries; all mean "not loaded"
        reason = " ".join(str(error).split())[:200]
        hint = source.access or "Check the name and the network, or describe a file of it in YAML."
        raise BadInput(f"{where} could not be loaded: {type(error).__name__}: {reason}", hint) from error
    if "image" in data.column_names:  # decoding figures needs another library, and no model here reads them
        data = data.remove_columns("image")
    version = f"{source.hub}:{source.config or 'default'}:{source.split}@{source.revision or 'main'}"
    return enumerate(data, 1), version


def _with_unique_ids(questions: Iterable[Question]) -> Iterator[Question]:
    """A question that is there again gets the id ID-2, then ID-3: same file, same ids."""
    seen: dict[str, int] = {}
    for question in questions:
        seen[question.id] = seen.get(question.id, 0) + 1
        times = seen[question.id]
        yield question if times == 1 else replace(question, id=f"{question.id}-{times}")


def _guess_kind(questions: Sequence[Question]) -> str:
    if all(q.choices or re.fullmatch("[A-J]", q.answer or "") for q in questions):
        return "choice"
    if all(re.fullmatch(r"[+-]?(?:\d+|\d{1,3}(?:,\d{3})+)", q.answer or "") for q in questions):
        return "integer"
    return "math"
