"""The run folder: everything a run produced, readable without the model that made it.

    config.json         schema, questions, settings of the run, versions               written first
    questions.jsonl     the questions with their reference answers, in order
    generations.jsonl   one generation a line, appended as they come                   the only expensive file
    commands.jsonl      the commands that made them, and when they ran
    grades.jsonl        one grade a line            } computed from the files above,
    metrics.json        what the report shows       } replaced in one step

A run that was killed is resumed by the same call. docs/formats.md describes every field.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from s1.errors import BadConfig, BadInput
from s1.jsonl import LOCK, AppendLog, dump_line, parse_line, parse_object, read_lines, write_bytes, write_json
from s1.run_commands import read_commands, write_commands
from s1.types import Generation, Grade, Outcome, Question, Sampling, from_json, to_json
from s1.version import installed

SCHEMA = 3
CONFIG, QUESTIONS, GENERATIONS = "config.json", "questions.jsonl", "generations.jsonl"
GRADES, METRICS = "grades.jsonl", "metrics.json"
LIBRARIES = ("s1", "torch", "transformers", "tokenizers", "trl", "datasets", "vllm", "math-verify", "numpy")
"""What can change a result; config.json holds their versions."""


class Key(NamedTuple):
    """What names one generation, and its grade, within a run."""

    question_id: str
    sample: int
    policy: str


@dataclass(frozen=True, slots=True)
class PolicyRecord:
    """A policy or other method as config.json stores it."""

    key: str
    """Names its generations and grades."""
    label: str
    """For tables and plots only."""
    kind: str
    """What plots group by: "budget", "natural", "wait", or the kind of another method."""
    min_thinking: int | None = None
    """The bounds that Control measures, in thinking tokens, both included."""
    max_thinking: int | None = None
    votes: bool = False
    """Whether a vote chose its answers, so that they hold under the grading of the run alone."""
    amount: Literal["short", "long"] | None = None
    """Below or above the natural end of the same run, instead of the bounds."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Every setting, so that a resumed run can be compared with the stored one."""

    @property
    def waits(self) -> int:
        """How often the end of thinking is suppressed."""
        return int(self.settings.get("waits", 0))

    @property
    def wait(self) -> tuple[str, ...]:
        """What is appended at a suppressed end, in turn; empty for methods that do not wait."""
        return tuple(self.settings.get("wait", ()))


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Everything that decides the result of a run, besides its questions."""

    benchmark: str
    kind: str
    """How answers are compared, one of s1.grading.KINDS."""
    model: str
    """As tables name it."""
    policies: tuple[PolicyRecord, ...]
    """In the order of every table."""
    model_id: str = ""
    """What the model is (`s1.engines.model_id`), so that no run is resumed with another one."""
    benchmark_version: str = ""
    format: Mapping[str, Any] = field(default_factory=dict)
    samples: int = 1
    sampling: Sampling = Sampling()
    grading: str = "strict"
    reward: str | None = None
    """Name of the reward model, where a method uses one."""


@dataclass(frozen=True, slots=True)
class QuestionsFile:
    """What config.json says of questions.jsonl."""

    n: int
    sha256: str
    """As `sha256sum` prints it."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The content of config.json."""

    schema: int
    questions: QuestionsFile
    config: RunConfig
    versions: tuple[Mapping[str, str], ...]
    """Of Python and the libraries; a run that was resumed with other versions has several entries."""


@dataclass(frozen=True, slots=True)
class GradeLine:
    """One line of grades.jsonl."""

    question_id: str
    sample: int
    policy: str
    outcome: Outcome
    extracted: str | None
    how: str


class Run(AbstractContextManager["Run"]):
    """A run that this process writes. Use as a context manager, or call `close`."""

    def __init__(
        self, path: Path, config: RunConfig, questions: tuple[Question, ...], log: AppendLog[Key]
    ) -> None:
        self.path, self.config, self.questions = path, config, questions
        self._log = log
        self._questions = {q.id: i for i, q in enumerate(questions)}
        self._policies = {p.key: i for i, p in enumerate(config.policies)}
        self._failed: set[Key] = set()
        self._began, self._appended, self._earlier = time.time(), 0, read_commands(path)
        log.load(self._stored)

    def append(self, generation: Generation) -> None:
        """Store one generation. It survives a kill of this process as soon as the call returns.

        Raises ValueError for a question, policy or sample of another run and for a generation that is stored already
        (one that failed may be replaced), and S1Error when the disk refuses.
        """
        key = self._checked(generation)
        if not self._appended:
            write_commands(self.path, self._earlier, self._began)
        self._log.append(key, to_json(generation))
        self._appended += 1
        self._note(key, generation)

    def done(self) -> set[Key]:
        """The keys of the stored generations without an error; the others are tried again."""
        return {key for key in self._log if key not in self._failed}

    def finish(self) -> None:
        """Sort generations.jsonl by question, policy and sample, in one step; replaced failures are dropped.

        Lines are moved, never rewritten, so `seconds` stay as measured. Two runs of one config agree in
        every byte but the digits of `seconds`; `digest` compares without them.
        """

        def place(key: Key) -> tuple[int, int, int]:
            return self._questions[key.question_id], self._policies[key.policy], key.sample

        self._log.rewrite(sorted(self._log, key=place))

    def close(self) -> None:
        """Flush to disk and let other processes write this run. Closing twice is allowed."""
        if self._appended:
            write_commands(self.path, self._earlier, self._began, self._appended)
            self._appended = 0
        self._log.close()

    def __exit__(self, *error: object) -> None:
        self.close()

    def _stored(self, number: int, line: bytes) -> Key:
        """The key of a line of generations.jsonl. Raises BadInput naming the line."""
        file = self.path / GENERATIONS
        generation = parse_line(Generation, line, file, number)
        try:
            key = self._checked(generation)
        except ValueError as error:
            raise BadInput(
                f"{file}, line {number}: {error}.", "Remove the line, or start a new folder."
            ) from None
        self._note(key, generation)
        return key

    def _checked(self, generation: Generation) -> Key:
        key = key_of(generation)
        known: Iterable[Container[Any]] = (self._questions, range(self.config.samples), self._policies)
        for what, value, values in zip(("question", "sample", "policy"), key, known, strict=True):
            if value not in values:
                raise ValueError(f"{value!r} is not a {what} of {self.path}")
        if key in self._log and key not in self._failed:
            raise ValueError(f"{tuple(key)} is already stored in {self.path}")
        return key

    def _note(self, key: Key, generation: Generation) -> None:
        if generation.error is None:
            self._failed.discard(key)
        else:
            self._failed.add(key)


def open_run(path: str | Path, config: RunConfig, questions: Iterable[Question]) -> Run:
    """Create the run folder `path`, or resume the run that it holds.

    Raises BadConfig when the stored run differs in any setting or question, and BadInput for a folder that is
    not a run folder, a damaged file, or a run that another process is writing.
    """
    path, asked = Path(path), tuple(questions)
    _check_ids(asked)
    check_folder(path)
    text, here = b"".join(dump_line(to_json(q)) for q in asked), installed(LIBRARIES)
    about = QuestionsFile(len(asked), hashlib.sha256(text).hexdigest())
    path.mkdir(parents=True, exist_ok=True)
    log = AppendLog[Key](path / GENERATIONS, lock=path / LOCK)
    try:
        if (path / CONFIG).exists():
            stored = read_config(path)
            _check_same(path, stored, config, about, asked)
            if here not in stored.versions:
                write_json(path / CONFIG, replace(stored, versions=(*stored.versions, here)))
        else:
            write_bytes(path / QUESTIONS, text)
            write_json(path / CONFIG, RunRecord(SCHEMA, about, config, (here,)))
        return Run(path, config, asked, log)
    except BaseException:
        log.close()
        raise


def digest(path: str | Path) -> str:
    """SHA-256 over the generations in any order without the measured seconds: equal for equal results."""
    lines: list[bytes] = []
    for generation in read_generations(path):
        fields = to_json(generation)
        del fields["seconds"], fields["first_token_seconds"]
        lines.append(hashlib.sha256(dump_line(fields)).digest())
    return hashlib.sha256(b"".join(sorted(lines))).hexdigest()


def key_of(generation: Generation) -> Key:
    """(question_id, sample, policy) of a generation."""
    return Key(generation.question_id, generation.sample, generation.policy)


def read_config(path: str | Path) -> RunRecord:
    """config.json of a run. Raises BadInput when `path` is not a run folder, or was written under another schema."""
    file = Path(path) / CONFIG
    try:
        data = parse_object(file.read_bytes(), file, 1)
    except (FileNotFoundError, NotADirectoryError):
        raise BadInput(
            f"{path} is not a run folder: {CONFIG} is missing.", "Name the folder of a run."
        ) from None
    if data.get("schema") != SCHEMA:
        raise BadInput(
            f"{file}: the run has schema {data.get('schema')!r}; this version of s1 reads schema {SCHEMA}.",
            "Repeat the run in a new folder, or use the version of s1 that wrote it.",
        )
    try:
        return from_json(RunRecord, data)
    except BadInput as error:
        raise BadInput(f"{file}: {error.message}", "Restore the file.") from None


def read_questions(path: str | Path) -> list[Question]:
    """The questions of a run, in order."""
    return list(read_lines(Question, existing(path, QUESTIONS)))


def iter_generations(path: str | Path) -> Iterator[Generation]:
    """The generations of a run one by one. A torn last line is left out; nothing is written.

    Raises BadInput with file and line for any other line that is not a generation.
    """
    read_config(path)
    file = Path(path) / GENERATIONS
    if file.exists():
        yield from read_lines(Generation, file)


def read_generations(path: str | Path) -> list[Generation]:
    """The generations of a run, one for each key: the later one where the first had failed.

    Raises BadInput for a key that is stored again after it succeeded.
    """
    found: dict[Key, Generation] = {}
    for generation in iter_generations(path):
        key = key_of(generation)
        if key in found and found[key].error is None:
            raise BadInput(
                f"{Path(path) / GENERATIONS}: {tuple(key)} is stored twice.", "Remove one of the lines."
            )
        found[key] = generation
    return list(found.values())


def write_grades(path: str | Path, grades: Mapping[Key, Grade]) -> None:
    """Replace grades.jsonl: one grade a line, in the order given."""
    lines = (GradeLine(*key, grade.outcome, grade.extracted, grade.how) for key, grade in grades.items())
    write_bytes(Path(path) / GRADES, (dump_line(to_json(line)) for line in lines))


def read_grades(path: str | Path) -> dict[Key, Grade]:
    """The grades of a run by the key of their generation. Raises BadInput when it was not graded yet."""
    lines = read_lines(GradeLine, existing(path, GRADES))
    return {Key(g.question_id, g.sample, g.policy): Grade(g.outcome, g.extracted, g.how) for g in lines}


def existing(path: str | Path, name: str) -> Path:
    """A file of a run folder. Raises BadInput when the folder or the file is missing."""
    read_config(path)
    file = Path(path) / name
    if not file.exists():
        raise BadInput(f"{file} is missing.", f"Grade the run first: s1 report {path}.")
    return file


def _check_same(
    path: Path, stored: RunRecord, config: RunConfig, about: QuestionsFile, asked: Sequence[Question]
) -> None:
    """Raise BadConfig naming every difference between the stored run and this one."""
    old, new = _settings(stored.config), _settings(config)
    differences = [
        f"{name} was {old.get(name, 'absent')}, now {new.get(name, 'absent')}"
        for name in dict.fromkeys((*old, *new))
        if old.get(name) != new.get(name)
    ]
    if stored.questions != about:
        pairs = enumerate(zip(read_questions(path), asked, strict=False), 1)
        first = next((row for row, (a, b) in pairs if a.id != b.id), None)
        differences.append(
            f"questions were {stored.questions.n} with SHA-256 {stored.questions.sha256[:12]}, now {about.n} with "
            f"{about.sha256[:12]}" + (f", the first difference is at row {first}" if first else "")
        )
    elif hashlib.sha256(existing(path, QUESTIONS).read_bytes()).hexdigest() != about.sha256:
        raise BadInput(
            f"{path / QUESTIONS} was changed after the run began.", "Restore it or start a new folder."
        )
    if differences:
        raise BadConfig(
            f"{path} holds another run: {'; '.join(differences)}.",
            "Set these back to resume that run, or name another folder.",
        )


def _settings(config: RunConfig) -> dict[str, str]:
    """What decides the result, as JSON by name; labels and kinds only show it."""
    fields = to_json(config)
    policies = {f"policy {p['key']!r}": p["settings"] for p in fields.pop("policies")}
    return {name: json.dumps(value, ensure_ascii=False) for name, value in (fields | policies).items()}


def _check_ids(questions: Sequence[Question]) -> None:
    if not questions:
        raise BadInput("A run needs at least one question.", "Check the file or the filter they come from.")
    repeated = [name for name, count in Counter(q.id for q in questions).items() if count > 1]
    if repeated:
        raise BadInput(
            f"Two questions have the same id {repeated[0]!r}.",
            "Remove one of them: generations and grades are stored by id.",
        )


def check_folder(path: Path) -> None:
    """Refuse a folder that cannot be made, and one with files that a run did not make.

    A run that was killed while it began may have made some. Folders inside are allowed: the demo keeps
    its data and model there.
    """
    nearest = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not nearest.is_dir():
        raise BadInput(f"{nearest} is a file.", "Name a folder for the run.")
    if not os.access(nearest, os.W_OK):
        raise BadInput(f"{nearest} cannot be written to.", "Name another folder for the run.")
    if path.exists() and not (path / CONFIG).exists():
        ours = {LOCK, QUESTIONS, f"{QUESTIONS}.part", f"{CONFIG}.part"}
        foreign = sorted(p.name for p in path.iterdir() if p.name not in ours and not p.is_dir())
        if foreign:
            raise BadInput(
                f"{path} is not a run folder: it holds {foreign[0]!r} but {CONFIG} is missing.",
                "Name a new or an empty folder.",
            )
