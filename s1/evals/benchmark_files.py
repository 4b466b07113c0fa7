"""How a benchmark is described: the ones that are known by name, and those of a YAML file.

name: my-set
path: my.parquet           # or hub: owner/name, with config, split and revision
version: "2026-03"         # kept with every result, beside the hash of the file
kind: math                 # math, integer, choice, text or exact; guessed where left out
filter: {Level: [4, 5]}    # only rows with these values
columns: {question: Prompt, answer: Gold, choices: Options}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from s1.errors import BadConfig, BadInput
from s1.grading import KINDS


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column holds what. Empty: found by its usual names."""

    question: str = ""
    answer: str = ""
    context: str = ""
    """Text that goes before the question."""
    choices: str = ""
    """A column with a list of choices; `answer` is then a letter or an index."""
    correct: str = ""
    """The column of the right choice, for sets with one column per choice (GPQA)."""
    incorrect: tuple[str, ...] = ()
    tolerance: str = ""
    """A column with the absolute error that is allowed in a number."""
    id: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """A benchmark as it is described: by the table below or by a YAML file."""

    name: str
    kind: str = ""
    columns: Columns = field(default_factory=Columns)
    path: str = ""
    hub: str = ""
    config: str = ""
    split: str = "test"
    revision: str = ""
    last: int = 0
    """Only the last so many rows count; 0 for all."""
    filter: Mapping[str, Any] = field(default_factory=dict)
    """Column to value, or to a list of values: only rows that have these count."""
    version: str = ""
    """A name for this state of the questions; stands before the hash of the file."""
    access: str = ""
    """How to get a gated set."""


KNOWN: dict[str, Source] = {
    s.name: s
    for s in (
        Source("aime24", "integer", hub="simplescaling/aime24_nofigures", split="train"),
        # The set with figures holds 90 problems, of which AIME 2024 is the last 30 (section 3.7).
        Source("aime24_figures", "integer", hub="simplescaling/aime24_figures", split="train", last=30),
        Source("aime25", "integer", hub="simplescaling/aime25_nofigures", split="train"),
        Source("math500", "math", hub="simplescaling/openaimath"),
        Source(
            "gpqa_diamond",
            "choice",
            Columns(
                question="Question",
                correct="Correct Answer",
                incorrect=("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"),
                id="Record ID",
            ),
            hub="Idavidrein/gpqa",
            config="gpqa_diamond",
            split="train",
            access="GPQA is gated. Accept its terms at https://huggingface.co/datasets/Idavidrein/gpqa, "
            "then run: hf auth login",
        ),
        Source("gsm8k", "integer", hub="openai/gsm8k", config="main"),
        Source(
            "olympiadbench", "math", hub="Hothan/OlympiadBench", config="OE_TO_maths_en_COMP", split="train"
        ),
        Source("amc23", "math", hub="math-ai/amc23"),
    )
}


_WANTED = {
    Columns: "a mapping",
    int: "a whole number",
    dict: "COLUMN: VALUE or COLUMN: [VALUE, VALUE]",
    str: "text",
}


def described(file: Path) -> Source:
    """The set that a YAML file describes. Raises BadInput, or BadConfig naming the key that is wrong."""
    import yaml

    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}.", "Give a file that exists.") from error
    except yaml.YAMLError as error:
        raise BadInput(
            f"{file} is not valid YAML: {error}.", "Mend it, or give the data file itself."
        ) from error
    if not isinstance(data, Mapping):
        raise BadInput(f"{file} does not hold a description.", "Give at least path or hub.")
    known = {f.name for f in fields(Source)}
    if unknown := sorted(set(data) - known):
        raise BadConfig(f"{file}: unknown key {unknown[0]!r}.", f"Use: {', '.join(sorted(known))}.")
    values = {key: value for key, value in data.items() if value is not None}
    values["columns"] = columns_of(values.get("columns", {}), str(file))
    for key, value in values.items():
        if key == "version" and isinstance(value, (int, float)):
            values[key] = value = str(value)
        wanted = {"columns": Columns, "last": int, "filter": dict}.get(key, str)
        if not isinstance(value, wanted):
            raise BadConfig(f"{file}: {key} is {value!r}.", f"Give {_WANTED[wanted]}.")
    if bool(values.get("path")) == bool(values.get("hub")):
        raise BadConfig(f"{file} needs a path or a hub, and not both.", "Add one line: path: FILE.")
    if "path" in values:
        values["path"] = str(file.parent / values["path"])
    if values.get("kind"):
        checked_kind(values["kind"], str(file))
    return Source(**{"name": file.stem, **values})


def selected(rows: Iterable[tuple[int, Any]], source: Source, where: str) -> Iterator[tuple[int, Any]]:
    """The rows that the filter of `source` lets through. Raises BadInput where a row lacks its column."""
    for number, row in rows:
        if not isinstance(row, Mapping):
            yield number, row
            continue
        for column, value in source.filter.items():
            if column not in row:
                raise BadInput(
                    f"{where}, row {number}: the column {column!r} of the filter is missing.",
                    f"There are: {', '.join(map(str, row))}.",
                )
            if row[column] not in (value if isinstance(value, list) else [value]):
                break
        else:
            yield number, row


def columns_of(given: Any, where: str) -> Columns:
    names = {f.name for f in fields(Columns)}
    if not isinstance(given, Mapping) or set(given) - names:
        raise BadConfig(
            f"{where}: columns {given!r} are not understood.", f"Map some of: {', '.join(sorted(names))}."
        )
    values = dict(given)
    if "incorrect" in values:
        values["incorrect"] = tuple(values["incorrect"])
    return Columns(**values)


def checked_kind(kind: str, where: str) -> str:
    if kind not in KINDS:
        raise BadConfig(f"{where}: unknown kind of answer {kind!r}.", f"Use one of: {', '.join(KINDS)}.")
    return kind
