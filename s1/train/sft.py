"""Fine-tune an instruct model on traces with TRL: one process on CPU or GPU, or several under torchrun.

TRL is given tokenised rows with labels, so that `render` alone decides what is learnt.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from s1.engines.checkpoint_hash import weights_hash
from s1.engines.lora_adapter import BASE_WEIGHTS
from s1.engines.model_files import ModelFiles, find_model, load_config, load_tokenizer
from s1.engines.model_id import files_id
from s1.errors import BadInput, require
from s1.formats import ThinkingFormat
from s1.train.conditional_data import conditional_traces
from s1.train.model import adapter_of, load_base, prepare_end
from s1.train.plan import Gpu, TrainPlan, devices_here, make_plan, plan_text, refusal, shape_of
from s1.train.render import Rendered, delimiter_note, end_of_turn, render_dataset
from s1.train.result_folder import CHECKPOINTS, begin, is_finished, save_result, writing_model
from s1.train.settings import TrainSettings
from s1.train.trainer import (
    TrainProgress,
    check_tracker,
    is_first_process,
    joined,
    make_trainer,
    processes,
    steps_of,
)
from s1.types import Trace, to_json
from s1.version import installed

LIBRARIES = ("torch", "transformers", "trl", "accelerate", "peft", "datasets")
"""Those whose versions are kept with a model."""


def train(
    base: str,
    traces: Sequence[Trace],
    out: Path,
    fmt: ThinkingFormat,
    settings: TrainSettings = TrainSettings(),
    *,
    notify: Callable[[str], None] = lambda text: None,
    progress: TrainProgress = lambda step, steps, loss, detail: None,
    track: str = "",
) -> Path:
    """Fine-tune the model at `base` on `traces` and write it to `out` with its thinking format. Returns `out`.

    `track` is tensorboard, wandb or trackio, or "" for none; TensorBoard's files go to `out`/tensorboard.
    `notify` gets the plan as text and what is worth knowing before the first step. A checkpoint is kept after
    each epoch, and an interrupted run resumes from the last one. Raises BadInput for rows that cannot be trained
    on or a base that cannot be loaded, BadConfig for a folder that holds anything but this run or for a run that
    does not fit, Interrupted when the loss is not finite or the disk is full.
    """
    check_tracker(track)
    if not traces:
        raise BadInput("There are no traces to train on.", "Give a dataset folder or file of s1 curate.")
    require("train")
    files = find_model(base)
    tokenizer = load_tokenizer(files)
    end = end_of_turn(tokenizer)
    rows = _render(traces, fmt, tokenizer, end, settings)
    digest = hashlib.sha256(repr([(r.input_ids, r.labels) for r in rows]).encode()).hexdigest()
    record = {"base": str(base), "base_id": files_id(files), "format": to_json(fmt),
              "settings": to_json(settings), "rows_sha256": digest}  # fmt: skip
    if settings.lora_rank:
        record[BASE_WEIGHTS] = weights_hash(Path(files.source))
    if is_finished(out, record):
        return out
    plan = _plan(files, rows, settings, processes())
    notify(plan_text(plan))
    if note := delimiter_note(fmt, tokenizer):
        notify(note)
    if not plan.fits:
        raise refusal(plan)
    model = load_base(base, settings)
    prepare_end(model, tokenizer.convert_tokens_to_ids(end))
    with writing_model(out / CHECKPOINTS), joined():
        trainer = make_trainer(model, rows, tokenizer, settings, out / CHECKPOINTS, progress=progress,
                               adapter=adapter_of(settings), track=track)  # fmt: skip
        with trainer.args.main_process_first(local=False):
            resume = begin(out, record, first=is_first_process())
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        sharded = trainer.is_fsdp_enabled  # then all processes take part in gathering the weights
        weights = trainer.accelerator.get_state_dict(trainer.model) if sharded else None
    if trainer.is_world_process_zero():
        log = steps_of(trainer)
        record |= {
            "rows": len(rows),
            "steps": trainer.state.global_step,
            "tokens": sum(len(r.input_ids) for r in rows),
            "loss": sum(entry["loss"] for entry in log) / len(log),
            "seconds": round(sum(entry["seconds"] for entry in log), 1),
            "processes": processes(),
            "sharded": sharded,
            "log": log,
            "versions": installed(("s1", *LIBRARIES)),
        }
        with writing_model(out):
            save_result(trainer.model, tokenizer, out, fmt, record, files.source, weights)
    return out


def plan_train(
    base: str,
    traces: Sequence[Trace],
    fmt: ThinkingFormat,
    settings: TrainSettings,
    gpus: int = 1,
    device: Gpu | None = None,
) -> str:
    """The plan of a run as text, with what to change where it does not fit. Loads no weights."""
    require("train")
    files = find_model(base)
    tokenizer = load_tokenizer(files)
    rows = _render(traces, fmt, tokenizer, end_of_turn(tokenizer), settings)
    plan = _plan(files, rows, settings, gpus, device)
    return plan_text(plan) + ("" if plan.fits else f"\n{refusal(plan)}")


def _plan(
    files: ModelFiles, rows: Sequence[Rendered], settings: TrainSettings, gpus: int, device: Gpu | None = None
) -> TrainPlan:
    """The plan of a run on the devices found here, or on those named."""
    lengths = [len(row.input_ids) for row in rows]
    here = int(os.environ.get("LOCAL_WORLD_SIZE", gpus))
    return make_plan(shape_of(load_config(files)), lengths, settings, gpus, device or devices_here(here))


def _render(
    traces: Sequence[Trace], fmt: ThinkingFormat, tokenizer: Any, end: str, settings: TrainSettings
) -> list[Rendered]:
    if settings.conditional:
        traces, fmt = conditional_traces(
            traces,
            settings.conditional,
            fmt,
            count=lambda text: len(tokenizer.encode(text, add_special_tokens=False)),
            between_steps=settings.between_steps,
        )
    return render_dataset(
        traces, fmt, tokenizer, end, settings.answer_prefix, settings.max_length, profile=settings.profile,
        cut_share=settings.cut_share, seed=settings.seed,
    )  # fmt: skip
