"""Fine-tune an instruct model on traces with TRL: one process on CPU or GPU, or several under torchrun.

TRL is the trainer that researchers in this field use, and it keeps up with transformers. It is given
tokenised rows with labels, so that `render` alone decides what is learnt.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from s1.engines.adapter import weights_digest
from s1.engines.model_files import find_model, load_tokenizer
from s1.engines.model_id import files_id
from s1.errors import BadConfig, BadInput, require
from s1.formats import ThinkingFormat
from s1.train.conditional_data import conditional_traces
from s1.train.model import adapter_of, load_base, prepare_end
from s1.train.render import IGNORED, Rendered, end_of_turn, render_dataset
from s1.train.result_folder import CHECKPOINTS, RECORD, is_finished, last_checkpoint, save_result
from s1.train.settings import TrainSettings
from s1.types import Trace, to_json

TrainProgress = Callable[[int, int, float | None], None]
"""Called after each optimiser step with its number, the number of steps, and the last loss."""


def train(
    base: str,
    traces: Sequence[Trace],
    out: Path,
    fmt: ThinkingFormat,
    settings: TrainSettings = TrainSettings(),
    *,
    progress: TrainProgress = lambda step, steps, loss: None,
) -> Path:
    """Fine-tune the model at `base` on `traces` and write it to `out` with its thinking format. Returns `out`.

    A checkpoint is kept after each epoch, and an interrupted run resumes from the last one. Raises BadInput
    for rows that cannot be trained on or a base that cannot be loaded, BadConfig for a folder that holds
    anything but this run.
    """
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
        record["base_digest"] = weights_digest(files.source)
    if is_finished(out, record):
        return out
    trainer = _trainer(base, rows, tokenizer, end, settings, out / CHECKPOINTS, progress)
    (out / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    (out / CHECKPOINTS / RECORD).write_text(json.dumps(record), encoding="utf-8")
    done = trainer.train(resume_from_checkpoint=last_checkpoint(out / CHECKPOINTS))
    if trainer.is_world_process_zero():
        record |= {
            "rows": len(rows),
            "steps": done.global_step,
            "tokens": sum(len(r.input_ids) for r in rows),
            "loss": done.training_loss,
            "seconds": round(done.metrics["train_runtime"], 1),
            "log": trainer.state.log_history,
        }
        save_result(trainer.model, tokenizer, out, fmt, record)
    return out


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
    return render_dataset(traces, fmt, tokenizer, end, settings.answer_prefix, settings.max_length)


def _trainer(
    base: str,
    rows: Sequence[Rendered],
    tokenizer: Any,
    end: str,
    settings: TrainSettings,
    checkpoints: Path,
    progress: TrainProgress,
) -> Any:
    """TRL's trainer with the model, the rows and nothing left to its defaults that matters."""
    import torch
    from datasets import Dataset
    from datasets.utils.logging import disable_progress_bar
    from transformers import PrinterCallback, TrainerCallback
    from transformers.utils import logging as transformers_logging
    from trl import SFTConfig, SFTTrainer

    class ShowProgress(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
            progress(state.global_step, state.max_steps, float(losses[-1]) if losses else None)

    disable_progress_bar()
    transformers_logging.disable_progress_bar()
    config = SFTConfig(
        output_dir=str(checkpoints),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps,
        per_device_train_batch_size=settings.device_batch,
        gradient_accumulation_steps=_accumulation(settings),
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, round(settings.warmup * settings.steps(len(rows)))),
        adam_beta1=0.9,
        adam_beta2=settings.beta2,
        weight_decay=settings.weight_decay,
        max_grad_norm=1.0,
        bf16=settings.bf16,
        use_cpu=not torch.cuda.is_available(),
        max_length=None,
        packing=False,
        train_sampling_strategy="group_by_length",
        seed=settings.seed,
        data_seed=settings.seed,
        save_strategy="epoch",
        save_total_limit=1,
        logging_steps=10,
        report_to="none",
        disable_tqdm=True,
        **{_checkpointing_name(SFTConfig): settings.checkpoint_activations},
    )
    if config.n_gpu > 1:  # without a launcher, one GPU: TRL refuses to spread one process over several
        config._n_gpu = 1
    model = load_base(base, settings)
    prepare_end(model, tokenizer.convert_tokens_to_ids(end))
    data = Dataset.from_dict(
        {"input_ids": [list(r.input_ids) for r in rows], "labels": [list(r.labels) for r in rows]}
    )
    trainer = SFTTrainer(model=model, args=config, train_dataset=data, processing_class=tokenizer,
                         data_collator=_pad_batch, callbacks=[ShowProgress()],
                         peft_config=adapter_of(settings))  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    return trainer


def _pad_batch(rows: Sequence[Mapping[str, list[int]]]) -> dict[str, Any]:
    """A batch of rows padded on the right. Mask and labels exclude the padding, so its id does not matter."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    ids, labels = ([torch.tensor(row[name]) for row in rows] for name in ("input_ids", "labels"))
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=0),
        "attention_mask": pad_sequence([torch.ones_like(i) for i in ids], batch_first=True, padding_value=0),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    }


def _accumulation(settings: TrainSettings) -> int:
    """Forward passes per optimiser step on each device."""
    devices = int(os.environ.get("WORLD_SIZE", "1"))
    if settings.batch % (settings.device_batch * devices):
        raise BadConfig(
            f"batch {settings.batch} is not a multiple of device_batch {settings.device_batch} x {devices} devices.",
            "Change device_batch or the number of devices: the batch is part of the recipe.",
        )
    return settings.batch // (settings.device_batch * devices)


def _checkpointing_name(config: Any) -> str:
    """What this version of transformers calls activation checkpointing."""
    names = {field.name for field in dataclasses.fields(config)}
    return next(n for n in ("activation_checkpointing", "gradient_checkpointing") if n in names)
