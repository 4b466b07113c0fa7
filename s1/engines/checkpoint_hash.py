"""A hash of the files of a checkpoint.

Times and paths do not count, so that a copy is the same model. A file of weights above WHOLE bytes is sampled: its
size, its header, and about 0.4 % of its content, in every tensor. Training changes nearly all values of a tensor and
is always noticed; a change of a few values between the samples is not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

CONFIGURATION = (
    "config.json", "generation_config.json", "thinking.json", "adapter_config.json", "tokenizer.json",
    "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "chat_template.jinja",
)  # fmt: skip
"""The files besides the weights that can change what a model says."""
WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf")
WHOLE = 1 << 28
"""Weights of at most so many bytes are read whole."""
EVERY, BLOCK = 1 << 20, 1 << 12
"""Of a larger file, so many bytes are read at each multiple of EVERY, and at the start of each tensor."""


def checkpoint_hash(folder: Path, gguf: str | None = None) -> str:
    """SHA-256 over the configuration, the tokenizer and the weights in a folder, or over the one file `gguf`."""
    if gguf is not None:
        return _hash_of([folder / gguf])
    return _hash_of([f for f in folder.iterdir() if f.name in CONFIGURATION or f.suffix in WEIGHTS])


def weights_hash(folder: Path) -> str:
    """SHA-256 over the safetensors in a folder; "" where there are none, as for a Hub id."""
    return _hash_of(files) if (files := list(folder.glob("*.safetensors"))) else ""


def _hash_of(files: Iterable[Path]) -> str:
    total = hashlib.sha256()
    for file in sorted(f for f in files if f.is_file()):
        size = file.stat().st_size
        total.update(f"{file.name}\n{size}\n".encode())
        with file.open("rb") as opened:
            for start, length in _read_of(opened, size):
                opened.seek(start)
                total.update(opened.read(length))
    return total.hexdigest()


def _read_of(file: BinaryIO, size: int) -> Iterator[tuple[int, int]]:
    """Start and length of the parts of a file that count."""
    if size <= WHOLE:
        yield from ((start, EVERY) for start in range(0, size, EVERY))
        return
    length = int.from_bytes(file.read(8), "little")  # of the header of safetensors
    starts = set(range(0, size, EVERY))
    if length < WHOLE:
        yield 0, 8 + length
        try:
            file.seek(8)
            header = json.loads(file.read(length))
            starts |= {
                8 + length + tensor["data_offsets"][0] for tensor in header.values() if "dtype" in tensor
            }
        except (ValueError, TypeError, LookupError, AttributeError):
            pass  # another kind of file
    yield from ((start, BLOCK) for start in sorted(starts))
