"""Where benchmarks come from: those known by name, and those of a YAML file.

name: my-set
path: my.parquet           # or hub: owner/name, with config, split and revision
version: "2026-03"         # stored with every result, before the hash of the file
kind: math                 # math, integer, choice, text or exact; guessed when left out
filter: {Level: [4, 5]}    # only rows with these values
columns: {question: Prompt, answer: Gold, choices: Options}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from s1.config import read_yaml
from s1.errors import BadConfig, BadInput
from s1.types import from_json


@dataclass(frozen=True, slots=True)
class BenchmarkColumns:
    """Which column holds what. Empty: found by its usual names."""

    question: str = ""
    answer: str = ""
    context: str = ""
    """Text that goes before the question."""
    choices: str = ""
    """A column with the choices (`s1.evals.choices`); `answer` is then a letter, an index or a choice itself."""
    numbered_from: int | None = None
    """The number of the first choice, where answers are numbers. None: found from all rows."""
    correct: str = ""
    """The column of the right choice, for sets with one column per choice (GPQA)."""
    incorrect: tuple[str, ...] = ()
    tolerance: str = ""
    """A column with the absolute error that is allowed in a number."""
    id: str = ""


@dataclass(frozen=True, slots=True)
class BenchmarkSource:
    """Where the rows of a benchmark come from and what they hold; the keys of the YAML file."""

    name: str
    kind: str = ""
    columns: BenchmarkColumns = field(default_factory=BenchmarkColumns)
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
    """A name for this state of the questions."""
    access: str = ""
    """How to get a gated set."""


GPQA = BenchmarkColumns(
    question="Question",
    correct="Correct Answer",
    incorrect=("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"),
    id="Record ID",
)
KNOWN: dict[str, BenchmarkSource] = {
    s.name: s
    for s in (
        BenchmarkSource("aime24", "integer", hub="simplescaling/aime24_nofigures", split="train"),
        # The set with figures has 90 problems; AIME 2024 is the last 30 of them (section 3.7).
        BenchmarkSource("aime24_figures", "integer", hub="simplescaling/aime24_figures", split="train", last=30),
        BenchmarkSource("aime25", "integer", hub="simplescaling/aime25_nofigures", split="train"),
        BenchmarkSource("math500", "math", hub="simplescaling/openaimath"),
        BenchmarkSource(
            "gpqa_diamond", "choice", GPQA, hub="Idavidrein/gpqa", config="gpqa_diamond", split="train",
            access="GPQA is gated. Accept its terms at https://huggingface.co/datasets/Idavidrein/gpqa, "
            "then run: hf auth login",
        ),
        BenchmarkSource("gsm8k", "integer", hub="openai/gsm8k", config="main"),
        BenchmarkSource(
            "olympiadbench", "math", hub="Hothan/OlympiadBench", config="OE_TO_maths_en_COMP", split="train"
        ),
        BenchmarkSource("amc23", "math", hub="math-ai/amc23"),
    )
}  # fmt: skip


def read_source(file: Path) -> BenchmarkSource:
    """The source that a YAML file describes. Raises BadConfig naming the key that is wrong."""
    given = {key: value for key, value in read_yaml(file).items() if value is not None}
    values = {"name": file.stem, **given}
    if isinstance(values.get("version"), (int, float)):
        values["version"] = str(values["version"])
    try:
        source = from_json(BenchmarkSource, values)
    except BadInput as error:
        known = ", ".join(f.name for f in fields(BenchmarkSource))
        raise BadConfig(f"{file}: {error.message}", f"The keys are: {known}.") from None
    if bool(source.path) == bool(source.hub):
        raise BadConfig(f"{file} needs either a path or a hub.", "Add one line: path: FILE.")
    return source


def filtered(
    rows: Iterable[tuple[int, Any]], wanted: Mapping[str, Any], where: str
) -> Iterator[tuple[int, Any]]:
    """The rows with the wanted values. Raises BadInput for a row that lacks the column of the filter."""
    for number, row in rows:
        missing = [column for column in wanted if column not in row]
        if missing:
            raise BadInput(
                f"{where}, row {number}: the column {missing[0]!r} of the filter is missing.",
                f"The columns are: {', '.join(map(str, row))}.",
            )
        if all(row[c] in (value if isinstance(value, list) else [value]) for c, value in wanted.items()):
            yield number, row
