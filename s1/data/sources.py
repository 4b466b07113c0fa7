"""Sources of questions, each a few lines of YAML: where it is, which columns, which rows, whose licence.

    NAME:
      hub: OWNER/SET            Hub id; configs, splits ([train]), revision and files say which part
      columns:                  pool column: a column of the source, or text with {columns} in braces
        question: "problem|Question"      the first of several names that has a value
        answer: "{other.solution}"        a dot reaches inside a value; a list becomes one line for each entry
      source: OWNER/SET/{subject}         value of the pool column `source` (default: the name)
      cot_type: math
      where: {language: EN}     rows to keep: a value, a list of values (null: absent), or
                                {at_most: N}, {at_least: N}, {matches: regex}
      sample: 250               this many rows, by the seed; stratify: [columns] spreads them evenly over groups
      keep: {file: ids.txt}     rows to have besides, whatever `where` and `sample` say (sample: 0, no others): the
                                file lists them, one a line or in a column of a data file, by question hash
                                (first 16 hex digits of its SHA-256, as in s1K) or by: COLUMN of the source
      without: {hub, configs, column}     leaves out rows whose question is in that set
      prepare: scieval          a function of `source_rows` that changes each row first
      licence: MIT
      access: how to get it, where it is gated

`sources.yaml` beside this file holds the sixteen of the paper. The same seed gives the same rows in any order.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from s1.config import read_yaml
from s1.data.pool import Pool, pool_of_rows
from s1.data.read_files import KINDS, BadRow, data_files, raw_rows, rows_of
from s1.data.source_rows import PREPARE, SourceRow, seeded_key
from s1.errors import BadConfig, BadInput, first_line, require
from s1.types import from_json

PARQUET_COPY = "refs/convert/parquet"
"""Revision with the Hub's own Parquet copy of a set: CONFIG/SPLIT/0000.parquet."""
BUILT_IN = Path(__file__).with_name("sources.yaml")
BRACES = re.compile(r"\{([^{}]+)\}")
POOL_FIELDS = ("id", "question", "answer", "domain", "thinking", "attempt", "trace_by", "correct")
CONDITIONS = ("at_most", "at_least", "matches")


@dataclass(frozen=True, slots=True)
class Source:
    """One source; the module's docstring shows it as YAML."""

    name: str
    columns: Mapping[str, str]
    hub: str = ""
    configs: tuple[str, ...] = ()
    splits: tuple[str, ...] = ("train",)
    revision: str | None = None
    files: tuple[str, ...] = ()
    """JSONL files in the repository, for sets whose own loading script no longer runs."""
    source: str = ""
    cot_type: str = ""
    where: Mapping[str, Any] = field(default_factory=dict)
    without: Mapping[str, Any] = field(default_factory=dict)
    keep: Mapping[str, str] = field(default_factory=dict)
    sample: int | None = None
    stratify: tuple[str, ...] = ()
    licence: str = "not stated"
    access: str = ""
    paper: int | None = None
    """Rows of it in the paper's pool."""
    prepare: str = ""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.columns) - set(POOL_FIELDS))
        if "question" not in self.columns or unknown:
            wrong = f"unknown column {unknown[0]!r}" if unknown else "no question column"
            raise self.mistake(wrong, f"Columns are: {', '.join(POOL_FIELDS)}.")
        for column, wanted in self.where.items():
            if isinstance(wanted, Mapping) and (len(wanted) != 1 or next(iter(wanted)) not in CONDITIONS):
                known = f"Use a value, a list, or one of: {', '.join(CONDITIONS)}."
                raise self.mistake(f"the condition on {column} is unknown", known)
        if self.sample is not None and self.sample < (0 if self.keep else 1):
            raise self.mistake(f"sample is {self.sample}", "Use at least 1, or leave it out.")
        if self.prepare and self.prepare not in PREPARE:
            raise self.mistake(f"no function is named {self.prepare!r}", f"Known: {', '.join(PREPARE)}.")
        is_text = all(isinstance(v, str) for v in self.keep.values())
        if self.keep and not ({"file"} <= set(self.keep) <= {"file", "by"} and is_text):
            raise self.mistake(f"keep is {dict(self.keep)}", "Write {file: PATH, by: COLUMN}.")

    def mistake(self, wrong: str, hint: str) -> BadConfig:
        """An error in the description."""
        return BadConfig(f"Source {self.name}: {wrong}.", hint)


def read_sources(path: str | Path = BUILT_IN) -> dict[str, Source]:
    """The sources of a YAML file by name. Raises BadConfig naming source and field."""
    path = Path(path)
    data = read_yaml(path)
    if not all(isinstance(fields, dict) for fields in data.values()):
        raise BadConfig(f"{path}: expected NAME: with fields below it.", "See docs/guides/curate.md.")
    sources = {}
    for name, fields in data.items():
        try:
            found = from_json(Source, {"name": str(name), **fields})
        except (BadInput, BadConfig) as error:
            raise BadConfig(f"{path}, {name}: {error.message}", error.hint) from None
        if found.keep:  # its path starts at this file
            found = replace(found, keep={**found.keep, "file": str(path.parent / found.keep["file"])})
        sources[found.name] = found
    return sources


class _Kept(NamedTuple):
    """A row that passed, its question and group for the sample, and whether the sample must keep it."""

    number: int
    row: dict[str, Any] | BadRow
    is_fixed: bool
    question: str = ""
    group: str = ""


def load_source(source: Source, path: str | Path | None = None, *, seed: int = 0) -> Pool:
    """The questions of a source, from the Hub or from local files in the same columns.

    Rows that the filter or the sample leaves out are not rejects; rows that cannot be used are. Raises
    BadInput when the set is unavailable (with how to get access) or no row is usable.
    """
    label = str(path) if path is not None else source.hub
    rows = _local_rows(Path(path)) if path is not None else _hub_rows(source)
    unwanted = _questions_of(source) if source.without and path is None else frozenset[str]()
    listed = _listed(source)
    kept: list[_Kept] = []
    columns: set[str] = set()
    for number, part, raw in rows:
        if isinstance(raw, BadRow):
            kept.append(_Kept(number, raw, True))
            continue
        columns.update(raw)
        row = {**raw, "_part": part}
        if source.prepare:
            row = PREPARE[source.prepare](row, seed)
            columns.update(name for name in row if name.startswith("_"))
        passes = all(_holds(_get(row, c), wanted) for c, wanted in source.where.items())
        if not passes and not listed:
            continue
        if unwanted and str(_get(row, source.without["column"])).strip() in unwanted:
            continue
        made = _pool_row(row, source)
        is_listed = bool(listed) and _name_in_list(row, made, source) in listed
        if passes or is_listed:
            group = "\n".join(str(_get(row, c)) for c in source.stratify)
            kept.append(_Kept(number, made, is_listed, str(made.get("question")), group))
    _refuse_other_columns(source, columns, label)
    if not kept:
        raise BadInput(f"{label}: no row passes the filter of source {source.name}.", "Check `where`.")
    if listed and not any(k.is_fixed and not isinstance(k.row, BadRow) for k in kept):
        raise BadInput(
            f"{label} has none of the {len(listed)} rows that {source.keep['file']} lists.",
            f"It lists {source.keep.get('by', 'question hashes')}; is it for source {source.name}?",
        )
    pool = pool_of_rows(((k.number, k.row) for k in _sampled(kept, source, seed)), label)
    # Rejected rows carry the name of the source rather than that of a file.
    return replace(pool, rejects=pool.rejects.with_columns(source=pl.lit(source.name)))


def _local_rows(path: Path) -> Iterator[tuple[int, str, dict[str, Any] | BadRow]]:
    for file in data_files(path):
        for number, raw in raw_rows(file):
            yield number, file.name.split(".")[0].replace("-", "_"), raw


def _hub_rows(source: Source) -> Iterator[tuple[int, str, dict[str, Any]]]:
    if not source.hub:
        raise BadConfig(f"Source {source.name} has no Hub id.", "Name local files for it.")
    number = 0
    for config in source.configs or (None,):
        for split in source.splits:
            for row in _hub_split(source, config, split):
                number += 1
                yield number, config or "", dict(row)


def _hub_split(source: Source, config: str | None, split: str) -> Iterable[Mapping[str, Any]]:
    require("data")
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    access = source.access or (
        f"Check the name and the connection. If it is gated, accept its terms at "
        f"https://huggingface.co/datasets/{source.hub} and run: hf auth login. Or give local files: {source.name}=PATH."
    )
    try:
        if source.files:
            files = [f"hf://datasets/{source.hub}/{name}" for name in source.files]
            rows: Any = load_dataset("json", data_files=files, split=split)
        elif source.revision == PARQUET_COPY:
            # The copy has folders instead of configs, so it is read by path.
            folder = f"hf://datasets/{source.hub}@{PARQUET_COPY}/{config or 'default'}/{split}"
            rows = load_dataset("parquet", data_files=f"{folder}/*.parquet", split="train")
        else:
            rows = load_dataset(source.hub, config, split=split, revision=source.revision)
        for name, feature in rows.features.items():
            if getattr(feature, "decode", False):  # pictures are not used
                rows = rows.cast_column(name, type(feature)(decode=False))
    except DatasetNotFoundError as error:
        raise BadInput(f"{source.hub} is unavailable ({first_line(error)}).", access) from None
    except Exception as error:  # of four libraries: datasets, huggingface_hub, the HTTP client, Arrow
        raise BadInput(f"{source.hub} cannot be read from the Hub ({first_line(error)}).", access) from error
    found: Iterable[Mapping[str, Any]] = rows
    return found


def _questions_of(source: Source) -> frozenset[str]:
    other, column = source.without, source.without["column"]
    rows = _hub_rows(replace(source, hub=other["hub"], configs=tuple(other.get("configs", ()))))
    return frozenset(str(raw.get(column)).strip() for _, _, raw in rows)


def _refuse_other_columns(source: Source, columns: set[str], label: str) -> None:
    """Raises BadInput when the data has none of the columns that make up the question."""
    named = source.columns["question"]
    wanted = [name for names in BRACES.findall(named) or [named] for name in names.split("|")]
    if columns and not any(name in columns or name.split(".")[0] in columns for name in wanted):
        raise BadInput(
            f"{label} has no column {' or '.join(wanted)}; it has: {', '.join(sorted(columns))}.",
            f"Is it the data of source {source.name}?",
        )


def _get(row: Mapping[str, Any], names: str) -> Any:
    """The first value that is there: "a|b.c" looks for `a`, then for `c` inside `b`."""
    for name in names.split("|"):
        value: Any = row
        for part in [name] if name in row else name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None and value != "" and value != []:
            return value
    return None


def _holds(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return any(_holds(value, w) for w in wanted)
    if value is None or wanted is None:
        return value is wanted
    if not isinstance(wanted, Mapping):
        return bool(value == wanted) or str(value) == str(wanted)
    kind, bound = next(iter(wanted.items()))
    if kind == "matches":
        return re.search(str(bound), str(value)) is not None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return False
    return number <= float(bound) if kind == "at_most" else number >= float(bound)


def _pool_row(row: SourceRow, source: Source) -> dict[str, Any]:
    made = {
        column: _filled(named, row) if BRACES.search(named) else _get(row, named)
        for column, named in source.columns.items()
    }
    made["source"] = _filled(source.source, row) if source.source else source.name
    made["cot_type"] = _filled(source.cot_type, row)
    return made


def _filled(template: str, row: SourceRow) -> str:
    def value(match: re.Match[str]) -> str:
        found = _get(row, match.group(1))
        if isinstance(found, list):
            return "\n".join(map(str, found))
        return "" if found is None else str(found)

    return BRACES.sub(value, template).strip()


def _sampled(kept: list[_Kept], source: Source, seed: int) -> list[_Kept]:
    """`source.sample` rows by the seed besides the fixed ones, the groups taking turns; else all of them."""
    rows = [k for k in kept if not k.is_fixed]
    if source.sample is None or len(rows) <= source.sample:
        return kept
    # Of rows with the same question the last comes first.
    rows = sorted(reversed(rows), key=lambda k: seeded_key(seed, k.question))
    turns = Counter[str]()
    ranked = []
    for entry in rows:
        ranked.append((turns[entry.group], entry.group, entry))
        turns[entry.group] += 1
    ranked.sort(key=lambda each: each[:2])
    return [*(k for k in kept if k.is_fixed), *(entry for _, _, entry in ranked[: source.sample])]


def _listed(source: Source) -> frozenset[str]:
    """What the keep file of the source lists. Raises BadConfig or BadInput."""
    if not source.keep:
        return frozenset()
    path = Path(source.keep["file"])
    if not path.is_file():
        raise source.mistake(f"the keep file {path} is missing", "Paths start at the YAML file.")
    if not path.name.endswith(KINDS):
        found = {line.strip() for line in path.read_text(encoding="utf-8").splitlines()}
    else:
        column = source.keep.get("by", "question_hash")
        rows = [row for _, row in rows_of(path)]
        if not any(column in row for row in rows):
            raise source.mistake(f"{path} has no column {column!r}", "Name it with `by`.")
        found = {str(row[column]).strip() for row in rows if row.get(column) is not None}
    if not found - {""}:
        raise source.mistake(f"{path} lists nothing", "Write one id a line.")
    return frozenset(found - {""})


def _name_in_list(row: SourceRow, made: Mapping[str, Any], source: Source) -> str:
    if "by" in source.keep:
        return str(_get(row, source.keep["by"])).strip()
    text = str(made.get("question"))
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def licences(names: Iterable[str], sources: Mapping[str, Source] | None = None) -> dict[str, str]:
    """The licence of each value of the pool column `source`, by the source whose rows carry it."""
    known = read_sources() if sources is None else sources
    rules = [
        (re.compile(".*".join(map(re.escape, BRACES.sub("\n", s.source or s.name).split("\n")))), s.licence)
        for s in known.values()
    ]
    return {name: next((lic for rule, lic in rules if rule.fullmatch(name)), "not stated") for name in names}
