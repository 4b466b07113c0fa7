"""Which model this is: a hash of the files of a folder, the commit of a Hub model, or what a server calls its model."""

from __future__ import annotations

from pathlib import Path

from s1.engines.checkpoint_hash import checkpoint_hash
from s1.engines.model_files import ModelFiles, find_model
from s1.errors import S1Error

IN_PROCESS = ("hf", "vllm")
"""Engines that load the model themselves, from what their name says."""


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
