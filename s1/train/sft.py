"""Fine-tune an instruct model on traces with TRL: one process on CPU or GPU, or several under torchrun.

TRL is the trainer that researchers in this field use, and it keeps up with transformers. It is given
tokenised rows with labels, so that `render` alone decides what is learnt.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s1.errors import BadConfig, BadInput, require
from s1.formats import ThinkingFormat, write_format
from s1.train.conditional_data import BLANK_LINES, KINDS, conditional_traces
from s1.train.render import IGNORED, Rendered, end_of_turn, render_dataset
from s1.types import Trace, to_json

RECORD, CHECKPOINTS = "train.json", "checkpoints"
"""The record of a finished run, and the folder of an unfinished one, which has a record of its own."""


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How to train; the defaults are the paper's recipe (section 4.1, appendix C)."""

    epochs: int = 5
    batch: int = 16
    """Rows per optimiser step over all processes; gradient accumulation follows from it."""
    device_batch: int = 1
    """Rows per forward pass on one device."""
    learning_rate: float = 1e-5
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises; then it follows a cosine to zero."""
    beta2: float = 0.95
    weight_decay: float = 1e-4
    max_length: int = 32_768
    """Longest row, tokens. Longer rows are refused, not cut: cut traces teach the model not to stop."""
    bf16: bool = True
    max_steps: int = -1
    """Stop after this many optimiser steps; -1 runs all epochs."""
    seed: int = 0
    answer_prefix: str = "Answer: "
    conditional: str = ""
    """"token" or "step": prompts that state the length of the trace, for conditional control (section 4.1)."""
    between_steps: str = BLANK_LINES
    """Regular expression for what separates the steps of a trace, when `conditional` is "step"."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "device_batch", "max_length"):
            if getattr(self, name) < 1:
                raise BadConfig(f"{name} is {getattr(self, name)}.", "Use 1 or more.")
        if self.conditional and self.conditional not in KINDS:
            raise BadConfig(f"conditional is {self.conditional!r}.", f"Use one of: {', '.join(KINDS)}.")
        if self.max_steps == 0 or self.learning_rate <= 0 or not 0 <= self.warmup < 1:
            raise BadConfig(
                f"max_steps {self.max_steps}, learning_rate {self.learning_rate}, warmup {self.warmup}.",
                "Use max_steps -1 or above 0, a learning rate above 0 and a warmup from 0 to below 1.",
            )

    def steps(self, rows: int) -> int:
        """Optimiser steps on a dataset of `rows` rows."""
        return self.max_steps if self.max_steps > 0 else self.epochs * -(-rows // self.batch)


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
    from transformers import AutoTokenizer

    tokenizer = _load(base, "tokenizer", lambda: AutoTokenizer.from_pretrained(base, trust_remote_code=False))
    end = end_of_turn(tokenizer)
    rows = _render(traces, fmt, tokenizer, end, settings)
    digest = hashlib.sha256(repr([(r.input_ids, r.labels) for r in rows]).encode()).hexdigest()
    record = {"base": str(base), "format": to_json(fmt), "settings": to_json(settings), "rows_sha256": digest}
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
        _save(trainer.model, tokenizer, out, fmt, record)
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
    from transformers import AutoModelForCausalLM, PrinterCallback, TrainerCallback
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
        activation_checkpointing=False,
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
    )
    exact = {"dtype": torch.float32, "use_safetensors": True, "trust_remote_code": False}
    model = _load(base, "weights", lambda: AutoModelForCausalLM.from_pretrained(base, **exact))
    _prepare_end(model, tokenizer.convert_tokens_to_ids(end))
    data = Dataset.from_dict(
        {"input_ids": [list(r.input_ids) for r in rows], "labels": [list(r.labels) for r in rows]}
    )
    trainer = SFTTrainer(model=model, args=config, train_dataset=data, processing_class=tokenizer,
                         data_collator=_pad_batch, callbacks=[ShowProgress()])  # fmt: skip
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


def _load(base: str, part: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(
            f"{base}: the {part} cannot be loaded ({reason}).",
            "Give --base a folder with config, tokenizer and safetensors weights, or a Hub id.",
        ) from error


def _prepare_end(model: Any, end: int) -> None:
    """Let `end` be learnt like any other token, even if it is the pad token, and let it stop decoding."""
    model.get_input_embeddings().padding_idx = None  # the embedding of the pad token would get no gradient
    stops = model.generation_config.eos_token_id
    stops = stops if isinstance(stops, list) else [] if stops is None else [stops]
    if end not in stops:
        model.generation_config.eos_token_id = [*stops, end]


# --- the output folder ----------------------------------------------------------------------------------


def is_finished(out: Path, record: dict[str, Any]) -> bool:
    """Whether `out` holds the result of this run. Raises BadConfig when it holds anything else."""
    if out.is_file():
        raise BadConfig(f"{out} is a file.", "Name a folder with --out.")
    if not out.is_dir() or not any(out.iterdir()):
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
    raise BadConfig(f"{out} is not empty and holds no run of s1 train.", "Choose another --out.")


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written completely."""

    def is_complete(checkpoint: Path) -> bool:
        try:
            json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            return False
        return _has_weights(checkpoint)

    complete = [c for c in folder.glob("checkpoint-*") if is_complete(c)]
    return str(max(complete, key=lambda c: int(c.name.rsplit("-", 1)[1]))) if complete else None


def _has_weights(checkpoint: Path) -> bool:
    """Whether the weights are there: in one file, or in every shard that the index names."""
    if (checkpoint / "model.safetensors").is_file():
        return True
    try:
        index = json.loads((checkpoint / "model.safetensors.index.json").read_text(encoding="utf-8"))
        shards = set(index["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return bool(shards) and all((checkpoint / shard).is_file() for shard in shards)


def _save(model: Any, tokenizer: Any, out: Path, fmt: ThinkingFormat, record: dict[str, Any]) -> None:
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    write_format(fmt, out)
    part = (
        out / f"{RECORD}.part"
    )  # the record is written last and in one step: a folder that has it is complete
    part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(part, out / RECORD)
    shutil.rmtree(out / CHECKPOINTS)
