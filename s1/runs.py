"""The run folder: everything a run produced, readable without the model that made it.

    config.json         what was asked for: schema, config, questions, versions        written first
    questions.jsonl     the questions with their reference answers, in order
    generations.jsonl   one receipt a line, appended as they come                      the only costly file
    grades.jsonl        one grade a line            } recomputed at will,
    metrics.json        what the report shows       } replaced in one step

A run that was killed is opened again with the same call. docs/formats.md describes every field.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from s1.errors import BadConfig, BadInput, S1Error
from s1.jsonl import (
    dump_line,
    parse_line,
    parse_object,
    whole_lines,
    write_all,
    write_bytes,
    write_json,
)
from s1.types import Generation, Grade, Question, from_json, to_json
from s1.version import installed

SCHEMA = 2
CONFIG, QUESTIONS, GENERATIONS = "config.json", "questions.jsonl", "generations.jsonl"
GRADES, METRICS, LOCK = "grades.jsonl", "metrics.json", ".lock"

FREE = frozenset({"concurrency", "out", "name", "progress"})
"""Fields of the config, dotted, that change no result: a resumed run may have other values there."""

SYNC_SECONDS = 5.0
"""A kill loses nothing that was appended; a power cut loses at most this much."""

LIBRARIES = ("s1", "torch", "transformers", "tokenizers", "trl", "datasets", "vllm", "math-verify", "numpy")


T = TypeVar("T")


class Key(NamedTuple):
    """What names one receipt within a run."""

    question_id: str
    sample: int
    policy: str


class _Line(NamedTuple):
    offset: int
    length: int
    failed: bool


class Run:
    """A run that this process writes. Use as a context manager, or call `close`."""

    def __init__(
        self, path: Path, config: Mapping[str, Any], questions: tuple[Question, ...], lock: int
    ) -> None:
        self.path = path
        self.config = config
        self.questions = questions
        self._lock = lock
        self._ids = {q.id for q in questions}
        self._lines: dict[Key, _Line] = {}
        self._file = -1
        self._size = 0
        self._synced = time.monotonic()

    def append(self, generation: Generation) -> None:
        """Store one receipt. It survives a kill of this process as soon as the call returns.

        Raises ValueError for a question that is not in the run or a receipt that is there already
        (one that failed may be replaced), and S1Error when the disk refuses.
        """
        key = key_of(generation)
        if key.question_id not in self._ids:
            raise ValueError(f"{key.question_id!r} is no question of {self.path}")
        stored = self._lines.get(key)
        if stored is not None and not stored.failed:
            raise ValueError(f"{key} is stored already in {self.path}")
        line = dump_line(to_json(generation))
        try:
            write_all(self._file, line)
        except OSError as error:
            os.ftruncate(self._file, self._size)
            raise S1Error(
                f"{self.path / GENERATIONS} cannot be written: {error.strerror}.",
                "Mend that and run the same command again; what was stored is kept.",
            ) from error
        self._lines[key] = _Line(self._size, len(line), generation.error is not None)
        self._size += len(line)
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self._sync()

    def done(self) -> set[Key]:
        """The keys of the stored receipts that did not fail; what failed is tried again."""
        return {key for key, line in self._lines.items() if not line.failed}

    def close(self) -> None:
        """Flush to disk and let other processes write this run. Closing twice is allowed."""
        if self._file >= 0:
            self._sync()
            os.close(self._file)
            self._file = -1
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> None:
        """Index what is stored, cut a torn last line off and make ready to append."""
        path = self.path / GENERATIONS
        self._lines.clear()
        end = 0
        if path.exists():
            for number, offset, line in whole_lines(path):
                end = offset + len(line)
                generation = parse_line(Generation, line, path, number)
                key = key_of(generation)
                if key.question_id not in self._ids:
                    raise BadInput(
                        f"{path}, line {number}: question_id {key.question_id!r} is not in {QUESTIONS}.",
                        "The line belongs to another run: remove it, or start a new folder.",
                    )
                if key in self._lines and not self._lines[key].failed:
                    raise BadInput(f"{path}, line {number}: {key} is there twice.", "Remove one of the two.")
                self._lines[key] = _Line(offset, len(line), generation.error is not None)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        os.ftruncate(self._file, end)
        self._size = end

    def _sync(self) -> None:
        os.fsync(self._file)
        self._synced = time.monotonic()


def open_run(
    path: str | Path,
    config: Mapping[str, Any],
    questions: Iterable[Question],
    *,
    free: Collection[str] = FREE,
) -> Run:
    """Create the run folder `path`, or go on with it when it holds the same run.

    `config` is the resolved config; its `policies` (a list of mappings with `key`) give the order in
    which `finish` sorts, its `benchmark` the name of the questions. `free` lists dotted fields that may
    differ from the stored ones. Raises BadConfig when anything else differs, and BadInput for a folder
    that is no run, a damaged file, or a run that another process is writing.
    """
    path, kept = Path(path), tuple(questions)
    wanted = _plain(config)
    _check_ids(kept)
    text = b"".join(dump_line(to_json(q)) for q in kept)
    about = {"n": len(kept), "sha256": hashlib.sha256(text).hexdigest()}
    if path.exists() and not path.is_dir():
        raise BadInput(f"{path} is a file.", "Name a folder for the run.")
    _refuse_other_folder(path)
    path.mkdir(parents=True, exist_ok=True)
    lock = _take_lock(path)
    try:
        if (path / CONFIG).exists():
            stored = read_config(path)
            _compare(path, stored, wanted, about, kept, free)
            if versions() not in stored["versions"]:
                stored["versions"].append(versions())
                write_json(path / CONFIG, stored)
        else:
            write_bytes(path / QUESTIONS, text)
            stored = {
                "schema": SCHEMA,
                "benchmark": wanted.get("benchmark"),
                "questions": about,
                "config": wanted,
                "versions": [versions()],
            }
            write_json(path / CONFIG, stored)
        run = Run(path, stored["config"], kept, lock)
        run._open()
    except BaseException:
        os.close(lock)
        raise
    return run


def finish(run: Run) -> None:
    """Sort generations.jsonl by question, policy, sample, in one step; superseded failures are dropped.

    Lines are moved, never rewritten, so `seconds` stay as measured. Two runs of one config agree in
    every byte but the digits of `seconds`; `digest` compares without them.
    """
    keys = [str(p.get("key")) for p in run.config.get("policies") or () if isinstance(p, Mapping)]
    questions = {q.id: i for i, q in enumerate(run.questions)}
    policies = {key: i for i, key in enumerate(keys)}

    def place(key: Key) -> tuple[int, int, str, int]:
        return questions[key.question_id], policies.get(key.policy, len(policies)), key.policy, key.sample

    def lines() -> Iterator[bytes]:
        for key in sorted(run._lines, key=place):
            yield os.pread(run._file, run._lines[key].length, run._lines[key].offset)

    write_bytes(run.path / GENERATIONS, lines())
    os.close(run._file)
    run._open()


def digest(path: str | Path) -> str:
    """SHA-256 over the receipts in any order with the measured seconds left out: equal for equal results."""
    latest: dict[Key, bytes] = {}
    for generation in iter_generations(path):
        fields = to_json(generation)
        del fields["seconds"], fields["first_token_seconds"]
        latest[key_of(generation)] = hashlib.sha256(dump_line(fields)).digest()
    return hashlib.sha256(b"".join(sorted(latest.values()))).hexdigest()


def key_of(generation: Generation) -> Key:
    """(question_id, sample, policy) of a receipt."""
    return Key(generation.question_id, generation.sample, generation.policy)


def read_config(path: str | Path) -> dict[str, Any]:
    """config.json of a run. Raises BadInput when `path` is no run or of a newer schema."""
    file = Path(path) / CONFIG
    data = _read_json(file, "Name the folder that a run was written to.")
    fields = {"schema": int, "questions": dict, "config": dict, "versions": list}
    for name, kind in fields.items():
        if not isinstance(data.get(name), kind):
            raise BadInput(f"{file}: the field {name!r} is missing or no {kind.__name__}.", "It is no run.")
    if data["schema"] != SCHEMA:
        raise BadInput(
            f"{file}: schema {data['schema']}, this version reads {SCHEMA}.",
            "Run it again, or use the version of s1 that wrote it.",
        )
    return data


def read_questions(path: str | Path) -> list[Question]:
    """The questions of a run, in order."""
    return list(_read_lines(Question, Path(path) / QUESTIONS, path))


def iter_generations(path: str | Path) -> Iterator[Generation]:
    """The receipts of a run one by one. A torn last line is left out; nothing is written.

    Raises BadInput with file and line for any other line that is no receipt.
    """
    file = Path(path) / GENERATIONS
    if not file.exists():
        read_config(path)
        return
    yield from _read_lines(Generation, file, path)


def read_generations(path: str | Path) -> list[Generation]:
    """The receipts of a run, one for each key: the later one where the first had failed."""
    latest: dict[Key, Generation] = {}
    for generation in iter_generations(path):
        latest[key_of(generation)] = generation
    return list(latest.values())


def write_grades(path: str | Path, grades: Mapping[Key, Grade]) -> None:
    """Replace grades.jsonl: one grade a line with the key of its receipt, in the order given."""
    lines = (dump_line({**Key(*key)._asdict(), **to_json(grade)}) for key, grade in grades.items())
    write_bytes(Path(path) / GRADES, lines)


def read_grades(path: str | Path) -> dict[Key, Grade]:
    """The grades of a run by the key of their receipt. Raises BadInput when it was not graded yet."""
    file = Path(path) / GRADES
    grades = {}
    for number, _, line in whole_lines(_existing(file, path, "Grade the run first.")):
        data = parse_object(line, file, number)
        try:
            key = Key(*(data.pop(name) for name in Key._fields))
            grades[key] = from_json(Grade, data)
        except KeyError as error:
            raise BadInput(f"{file}, line {number}: the field {error} is missing.") from error
        except BadInput as error:
            raise BadInput(f"{file}, line {number}: {error.message}", error.hint) from error
    return grades


def write_metrics(path: str | Path, metrics: Mapping[str, Any]) -> None:
    """Replace metrics.json."""
    write_json(Path(path) / METRICS, metrics)


def read_metrics(path: str | Path) -> dict[str, Any]:
    """metrics.json of a run. Raises BadInput when there is none yet."""
    return _read_json(_existing(Path(path) / METRICS, path, "Compute the metrics of the run first."), "")


def versions() -> dict[str, str]:
    """Python and the libraries that can change a result, as installed here."""
    return installed(LIBRARIES)


def _compare(
    path: Path,
    stored: Mapping[str, Any],
    wanted: Mapping[str, Any],
    about: Mapping[str, Any],
    questions: Sequence[Question],
    free: Collection[str],
) -> None:
    """Refuse to go on with a run that was asked for differently, naming every difference."""
    old, new = _flat(stored["config"]), _flat(wanted)
    differences = [
        f"{name} was {old.get(name, 'absent')}, now {new.get(name, 'absent')}"
        for name in [*old, *(n for n in new if n not in old)]
        if name not in free and old.get(name, "absent") != new.get(name, "absent")
    ]
    if stored["questions"] != about:
        before, after = [q.id for q in read_questions(path)], [q.id for q in questions]
        first = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), None)
        where = f", the first difference is at row {first + 1}" if first is not None else ""
        differences.append(
            f"questions were {stored['questions']['n']} with SHA-256 {stored['questions']['sha256'][:12]}, "
            f"now {about['n']} with {about['sha256'][:12]}{where}"
        )
    elif hashlib.sha256(_existing(path / QUESTIONS, path, "").read_bytes()).hexdigest() != about["sha256"]:
        raise BadInput(f"{path / QUESTIONS} was changed after the run began.", "Restore it or start anew.")
    if differences:
        more = f"; and {len(differences) - 6} more" if len(differences) > 6 else ""
        raise BadConfig(
            f"{path} holds another run: {'; '.join(differences[:6])}{more}.",
            "Set it back to go on with that run, or name another folder.",
        )


def _flat(value: Any, name: str = "") -> dict[str, str]:
    """Dotted field -> its JSON text, for comparing and for telling."""
    if isinstance(value, Mapping) and value:
        pairs = [(f"{name}.{key}" if name else str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and value:
        pairs = [(f"{name}[{i}]", item) for i, item in enumerate(value)]
    else:
        return {name: json.dumps(value, ensure_ascii=False)}
    return {key: text for field, item in pairs for key, text in _flat(item, field).items()}


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as it comes back from its JSON file."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(to_json(config), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise BadConfig(f"The config cannot be written as JSON: {error}.") from error
    return plain


def _check_ids(questions: Sequence[Question]) -> None:
    if not questions:
        raise BadInput("A run needs at least one question.", "Look at the file or the filter they come from.")
    seen: dict[str, int] = {}
    for row, question in enumerate(questions, 1):
        if question.id in seen:
            raise BadInput(
                f"Questions {seen[question.id]} and {row} have the same id {question.id!r}.",
                "Remove one of them: receipts and grades are kept by id.",
            )
        seen[question.id] = row


def _refuse_other_folder(path: Path) -> None:
    """A folder with files that no run made is not written to. One whose creation was killed is.

    Folders inside are no matter: the demo keeps its data and model there.
    """
    if path.exists() and not (path / CONFIG).exists():
        ours = {LOCK, QUESTIONS, f"{QUESTIONS}.part", f"{CONFIG}.part"}
        foreign = sorted(p.name for p in path.iterdir() if p.name not in ours and not p.is_dir())
        if foreign:
            raise BadInput(
                f"{path} is no run: it has no {CONFIG} but holds {foreign[0]!r}.",
                "Name a new or an empty folder.",
            )


def _take_lock(path: Path) -> int:
    """The open lock file; the system lets go of it when the process ends, however it ends."""
    import fcntl

    lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(lock, 32, 0).decode(errors="replace").strip()
        os.close(lock)
        raise BadInput(
            f"{path} is being written by another process ({owner or 'unknown'}).",
            "Wait for it, or name another folder.",
        ) from error
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def _read_lines(kind: type[T], file: Path, folder: str | Path) -> Iterator[T]:
    for number, _, line in whole_lines(_existing(file, folder, "")):
        yield parse_line(kind, line, file, number)


def _read_json(file: Path, hint: str) -> dict[str, Any]:
    try:
        return parse_object(file.read_bytes(), file, 1)
    except FileNotFoundError as error:
        raise BadInput(f"{file.parent} is no run: it has no {file.name}.", hint) from error


def _existing(file: Path, folder: str | Path, hint: str) -> Path:
    if not file.exists():
        read_config(folder)
        raise BadInput(f"{file} is missing.", hint)
    return file
