"""JSON and JSON Lines files: values one a line, files replaced in one step, and a log that survives a kill.

Also here: the lock of a folder, and the error of a disk that refuses.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

from s1.errors import BadInput, Interrupted
from s1.types import from_json, to_json

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

LOCK = ".lock"
"""The file in a folder that the process that writes the folder has locked."""
_HELD: set[Path] = set()
"""Lock files of the folders that this process has locked."""
SYNC_SECONDS = 5.0
"""A kill loses nothing that was appended; a power cut loses at most this much."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file that a full or read-only disk refuses. Raises Interrupted: what was stored stays."""
    try:
        yield
    except OSError as error:
        raise Interrupted(
            f"{path} cannot be written: {error.strerror or error}.",
            "Fix this, then rerun the command; what was stored so far is kept.",
        ) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make this the only process that writes a folder, which is created if need be. May be nested.

    A folder in which nothing was written is removed again.

    Raises BadInput when another process is writing it.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    path = (folder / LOCK).resolve()
    if path in _HELD:
        yield
        return
    lock = _take_lock(path, folder)
    _HELD.add(path)
    try:
        yield
    finally:
        _HELD.discard(path)
        if os.listdir(folder) == [LOCK]:
            path.unlink()
            folder.rmdir()
        os.close(lock)


def _take_lock(path: Path, what: Path) -> int:
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(lock), os.stat(path)):  # another process has just removed its folder
            raise OSError
    except OSError:
        os.close(lock)
        raise BadInput(
            f"{what} is in use by another process, which writes it.",
            "Wait until that process ends, or name another folder.",
        ) from None
    return lock


def dump_line(value: Any) -> bytes:
    """One line of JSON Lines, keys in the order given. Characters that UTF-8 cannot hold are escaped."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file in one step. Nulls are kept."""
    write_bytes(path, (json.dumps(to_json(value), indent=2, allow_nan=False) + "\n").encode())


def read_json(kind: type[T], file: Path) -> T:
    """The value of a JSON file. Raises BadInput naming file and field, and OSError."""
    return parse_line(kind, file.read_bytes(), file, 1)


def write_bytes(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Replace a file in one step: a reader sees the old content or the new, also after a power cut."""
    part = path.with_name(path.name + ".part")
    with writing(path):
        with part.open("wb") as file:
            for piece in (content,) if isinstance(content, bytes) else content:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def whole_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(line number, offset, line with its newline) of every whole line; a torn last line is left out."""
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            yield number, offset, line
            offset += len(line)


def read_lines(kind: type[T], file: Path) -> Iterator[T]:
    """The values of a JSON Lines file. Raises BadInput naming file, line and field."""
    for number, _, line in whole_lines(file):
        yield parse_line(kind, line, file, number)


def parse_line(kind: type[T], line: bytes, file: Path, number: int) -> T:
    """The value of one line. Raises BadInput naming file, line and field."""
    data = parse_object(line, file, number)
    try:
        return from_json(kind, data)
    except BadInput as error:
        raise BadInput(f"{file}, line {number}: {error.message}", error.hint) from error


def parse_object(line: bytes, file: Path, number: int) -> dict[str, Any]:
    """The JSON object of one line. Raises BadInput naming file and line."""
    try:
        data = json.loads(line)
    except ValueError as error:
        message = f"{file}, line {number}: not valid JSON ({error})."
        raise BadInput(message, "Remove the line or restore it.") from error
    if not isinstance(data, dict):
        raise BadInput(f"{file}, line {number}: expected an object.", "Remove the line or restore it.")
    return data


def write_all(file: int, content: bytes) -> None:
    """Write all of `content` to an open file. Raises OSError; then a part may have been written."""
    view = memoryview(content)
    while view:
        view = view[os.write(file, view) :]


class AppendLog(Generic[K]):
    """A JSON Lines file that one process appends to, indexed by key; values stay on disk.

    A line is stored before `append` returns, so a kill loses only what was in flight. A last line without its
    newline is torn: readers leave it out, and `load` cuts it off.
    """

    def __init__(self, path: Path, *, lock: Path | None = None) -> None:
        """Lock the log for this process: the file itself, or `lock` where the file is replaced later on.

        Raises BadInput when another process holds the lock.
        """
        self.path = path
        self._places: dict[K, tuple[int, int]] = {}
        self._file, self._size, self._synced = -1, 0, time.monotonic()
        is_ours = lock is not None and lock.resolve() in _HELD
        self._lock = -1 if is_ours else _take_lock(lock or path, lock.parent if lock else path)

    def load(self, key_of: Callable[[int, bytes], K | None]) -> None:
        """Index the file. `key_of` takes the number and the bytes of a line; None leaves the line unindexed.

        The last of several lines with one key counts. An error of `key_of` closes the log.
        """
        self._places.clear()
        end = 0
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            if self._file >= 0:
                os.close(self._file)
            self._file = file
            for number, offset, line in whole_lines(self.path):
                end = offset + len(line)
                key = key_of(number, line)
                if key is not None:
                    self._places[key] = (offset, len(line))
            os.ftruncate(file, end)
        except BaseException:
            self.close()
            raise
        self._size = end

    @property
    def is_empty(self) -> bool:
        """Whether the file has no line at all."""
        return self._size == 0

    def __contains__(self, key: K) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[K]:
        return iter(self._places)

    def line(self, key: K) -> bytes:
        """The last line with this key. Raises KeyError."""
        offset, length = self._places[key]
        return os.pread(self._file, length, offset)

    def append(self, key: K | None, value: Any) -> None:
        """Store one value under a key, or under none. Raises Interrupted when the disk refuses; nothing is torn."""
        line = dump_line(value)
        with writing(self.path):
            try:
                write_all(self._file, line)
            except OSError:
                os.ftruncate(self._file, self._size)
                raise
        if key is not None:
            self._places[key] = (self._size, len(line))
        self._size += len(line)
        if time.monotonic() - self._synced > SYNC_SECONDS:
            with writing(self.path):
                os.fsync(self._file)
            self._synced = time.monotonic()

    def rewrite(self, keys: Iterable[K]) -> None:
        """Keep the lines of these keys, in this order and byte for byte; the file is replaced in one step."""
        order = iter(kept := list(keys))
        write_bytes(self.path, (self.line(key) for key in kept))
        self.load(lambda number, line: next(order))

    def close(self) -> None:
        """Flush to disk and release the lock. Closing twice is allowed."""
        if self._file >= 0:
            os.fsync(self._file)
            os.close(self._file)
            self._file = -1
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
