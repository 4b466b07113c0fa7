"""The output folder of a training run: whose it is, where it resumes, and what is written at the end."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from s1.errors import BadConfig, Interrupted, first_line
from s1.formats import ThinkingFormat, write_format
from s1.jsonl import LOCK
from s1.train.model_card import draw_losses, write_card

RECORD, CHECKPOINTS = "train.json", "checkpoints"
"""The record of a finished run, and the folder of an unfinished one, which has a record of its own."""


def is_finished(out: Path, record: dict[str, Any]) -> bool:
    """Whether `out` holds the result of this run. Raises BadConfig when it holds anything else."""
    if out.is_file():
        raise BadConfig(f"{out} is a file.", "Name a folder with --out.")
    if not out.is_dir() or not any(f.name != LOCK for f in out.iterdir()):
        return False
    for file in (out / RECORD, out / CHECKPOINTS / RECORD):
        if file.is_file():
            try:
                found = json.loads(file.read_text(encoding="utf-8"))
            except json.JSONDecodeError:
                found = {}
            if {k: found.get(k) for k in record} == record:
                return file.parent == out
            raise BadConfig(
                f"{out} holds a model trained on other data or settings.", "Choose another --out."
            )
    if [p.name for p in out.iterdir()] == [CHECKPOINTS] and not list(
        (out / CHECKPOINTS).glob("checkpoint-*")
    ):
        return False  # killed before it began
    raise BadConfig(f"{out} is not empty and holds no run of s1 train.", "Choose another --out.")


def begin(out: Path, record: dict[str, Any], first: bool) -> Path | None:
    """Write the record of a run that begins, in the first process, and return the checkpoint to resume from.

    Raises BadConfig in a process that does not see that record: then `out` is another folder there.
    """
    file = out / CHECKPOINTS / RECORD
    if first:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(record), encoding="utf-8")
    elif not file.is_file() or json.loads(file.read_text(encoding="utf-8")) != record:
        raise BadConfig(
            f"{out} is not the same folder on all machines, or the data or settings differ.",
            "Give all processes the same command, with --out on a disk that they share.",
        )
    return last_checkpoint(out / CHECKPOINTS)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written completely."""

    def is_complete(checkpoint: Path) -> bool:
        try:
            json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            return False
        return _has_weights(checkpoint)

    complete = [c for c in folder.glob("checkpoint-*") if is_complete(c)]
    return max(complete, key=lambda c: int(c.name.rsplit("-", 1)[1])) if complete else None


def _has_weights(checkpoint: Path) -> bool:
    """Whether the weights are there: in one file, or in every shard that the index names."""
    if any((checkpoint / name).is_file() for name in ("model.safetensors", "adapter_model.safetensors")):
        return True
    try:
        index = json.loads((checkpoint / "model.safetensors.index.json").read_text(encoding="utf-8"))
        shards = set(index["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return bool(shards) and all((checkpoint / shard).is_file() for shard in shards)


@contextmanager
def writing_model(folder: Path) -> Iterator[None]:
    """Turn what the libraries raise when a file of `folder` cannot be written (a full disk) into Interrupted."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        why = first_line(error)
        if isinstance(error, RuntimeError):
            if "inline_container" not in str(error):  # where torch writes its files
                raise
            why = "is the disk full?"
        raise Interrupted(
            f"A checkpoint or model cannot be written to {folder} or read from it ({why})."
        ) from error


def save_result(
    model: Any,
    tokenizer: Any,
    out: Path,
    fmt: ThinkingFormat,
    record: dict[str, Any],
    source: str,
    weights: Any = None,
) -> None:
    """Write model, tokenizer, format, figure and card, and last the record: a folder that has it is complete.

    `source` is where the base was loaded from; `weights` are those of a model that is sharded over processes.
    """
    if weights is not None:  # gathered one by one, so that tied ones are there twice
        weights = {n: w for n, w in weights.items() if n not in getattr(model, "all_tied_weights_keys", ())}
    model.save_pretrained(out, **({} if weights is None else {"state_dict": weights}))
    model.generation_config.save_pretrained(out)  # an adapter would be saved without it
    tokenizer.save_pretrained(out)
    write_format(fmt, out)
    draw_losses(out, record["log"])
    write_card(out, record, source)  # in place of PEFT's
    part = out / f"{RECORD}.part"
    part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(part, out / RECORD)
    shutil.rmtree(out / CHECKPOINTS)
