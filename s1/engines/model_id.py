"""Which model this is: a hash of the files of a folder, the commit of a Hub model, or what a server calls its model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from s1.engines.model_files import ModelFiles, find_model
from s1.errors import S1Error

IN_PROCESS = ("hf", "vllm")
"""Engines that load the model themselves, from what their name says."""
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


def model_id(reference: str) -> str:
    """The identity of the model that an engine's name stands for.

    "sha256:..." for files on this machine, "org/name@COMMIT" for a model in the Hub's cache; otherwise `reference`
    itself, which for a server holds its address and the name that it reports for its model. A server that serves
    other weights under the same name is not noticed.
    """
    kind, _, name = reference.partition(":")
    if kind not in IN_PROCESS or not name:
        return reference
    try:
        return files_id(find_model(name))
    except S1Error:  # loaded with options, such as another base for an adapter, that its name does not hold
        return f"sha256:{checkpoint_hash(Path(name))}" if Path(name).is_dir() else reference


def files_id(files: ModelFiles) -> str:
    """The identity of a model, as `model_id`; that of an adapter has the hashes of its base and of itself."""
    source = Path(files.source)
    if not source.is_dir():
        own = _with_commit(files.source)
    else:
        own = f"sha256:{checkpoint_hash(source, files.gguf)}"
    return f"{own}+{checkpoint_hash(files.adapter)}" if files.adapter else own


def checkpoint_hash(folder: Path, gguf: str | None = None) -> str:
    """SHA-256 over the configuration, the tokenizer and the weights in a folder, or over the one file `gguf`.

    Times and paths do not count, so that a copy is the same model. A file of weights above WHOLE bytes is sampled:
    its size, its header, and about 0.4 % of its content, in every tensor. Training changes nearly all values of
    a tensor and is always noticed; a change of a few values between the samples is not.
    """
    total = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        counts = file.name in CONFIGURATION or file.suffix in WEIGHTS if gguf is None else file.name == gguf
        if counts and file.is_file():
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


def _with_commit(name: str) -> str:
    """ "NAME@COMMIT" of a model in the Hub's cache, else the name."""
    try:
        from huggingface_hub import try_to_load_from_cache

        for file in ("config.json", "tokenizer_config.json"):
            found = try_to_load_from_cache(name, file)
            if isinstance(found, str):
                return f"{name}@{Path(found).parent.name}"
    except (ImportError, ValueError):  # not installed, or not the form of a Hub id
        pass
    return name
