"""Fine-tune an instruct model on traces with TRL: one process on CPU or GPU, or several under torchrun.

TRL because it is the trainer that researchers of this field use and keep up with transformers. The rows
come to it tokenised, with labels, so that what is learnt is decided in `render` alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s1.errors import BadConfig, BadInput, MissingExtra
from s1.formats import ThinkingFormat, write_format
from s1.train.conditional_data import BLANK_LINES, KINDS, conditioned
from s1.train.render import IGNORED, Rendered, render_trace
from s1.types import Trace, to_json

RECORD = "record.json"
"""The file in the checkpoint folder that names their run."""


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """The paper's recipe (section 4.1, appendix C) unless changed."""

    epochs: int = 5
    batch: int = 16
    """Rows per optimiser step over all processes; the accumulation follows from it."""
    device_batch: int = 1
    """Rows per forward pass on one device."""
    learning_rate: float = 1e-5
    warmup: float = 0.05
    """Share of the steps with a rising learning rate; a cosine to zero follows."""
    beta2: float = 0.95
    weight_decay: float = 1e-4
    max_length: int = 32_768
    """Longest row, tokens. Longer rows are refused, never cut: cut traces teach the model not to stop."""
    bf16: bool = True
    max_steps: int = -1
    """Stop after this many optimiser steps; -1 runs all epochs."""
    seed: int = 0
    answer_prefix: str = "Answer: "
    conditional: str = ""
    """"token" or "step": prompts that say how long the trace is, for conditional control (section 4.1)."""
    between_steps: str = BLANK_LINES
    """Regular expression of what separates the steps of a trace; for conditional "step"."""

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


def train(
    base: str,
    traces: list[Trace],
    out: Path,
    fmt: ThinkingFormat,
    settings: TrainSettings = TrainSettings(),
    *,
    progress: Callable[[int, int, float | None], None] = lambda step, steps, loss: None,
) -> Path:
    """Fine-tune the model at `base` on `traces` and write it to `out` with its format. Returns `out`.

    A checkpoint is kept each epoch; a run that was killed goes on from the last one. `progress` is told the
    step, how many there are, and the last loss. Raises BadInput for rows that cannot be trained on or a base
    that cannot be loaded, BadConfig for a folder that holds anything else than this very run.
    """
    if not traces:
        raise BadInput("There is no trace to train on.", "Give a dataset folder or file of s1 curate.")
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingExtra(str(error.name), "train") from error
    tokenizer = _loaded(
        base, "tokenizer", lambda: AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    )
    end = end_of_turn(tokenizer)
    rows = render_all(traces, fmt, tokenizer, settings, end)
    digest = hashlib.sha256(repr([(r.input_ids, r.labels) for r in rows]).encode()).hexdigest()
    record = {"base": str(base), "format": to_json(fmt), "settings": to_json(settings), "rows_sha256": digest}
    if _is_finished(out, record):
        return out
    try:
        import torch
        from datasets import Dataset
        from datasets.utils.logging import disable_progress_bar
        from transformers import AutoModelForCausalLM, PrinterCallback, TrainerCallback
        from transformers.utils import logging as transformers_logging
        from trl import SFTConfig, SFTTrainer
    except ImportError as error:
        raise MissingExtra(str(error.name), "train") from error
    disable_progress_bar()
    transformers_logging.disable_progress_bar()
    devices = int(os.environ.get("WORLD_SIZE", "1"))
    if settings.batch % (settings.device_batch * devices):
        raise BadConfig(
            f"batch {settings.batch} is no multiple of device_batch {settings.device_batch} x {devices} devices.",
            "Change the one or the other: the global batch is part of the recipe.",
        )
    on_cpu = not torch.cuda.is_available()
    exact = {"dtype": torch.float32, "use_safetensors": True, "trust_remote_code": False}
    model = _loaded(base, "weights", lambda: AutoModelForCausalLM.from_pretrained(base, **exact))
    _prepare_end(model, tokenizer.convert_tokens_to_ids(end))
    accumulation = settings.batch // (settings.device_batch * devices)
    steps = (
        settings.epochs * -(-len(rows) // settings.batch) if settings.max_steps < 0 else settings.max_steps
    )
    config = SFTConfig(
        output_dir=str(out / "checkpoints"),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps,
        per_device_train_batch_size=settings.device_batch,
        gradient_accumulation_steps=accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, round(settings.warmup * steps)),
        adam_beta1=0.9,
        adam_beta2=settings.beta2,
        weight_decay=settings.weight_decay,
        max_grad_norm=1.0,
        bf16=settings.bf16,
        use_cpu=on_cpu,
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
    data = Dataset.from_dict(
        {"input_ids": [list(r.input_ids) for r in rows], "labels": [list(r.labels) for r in rows]}
    )

    class Told(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
            progress(state.global_step, state.max_steps, float(losses[-1]) if losses else None)

    trainer = SFTTrainer(model=model, args=config, train_dataset=data, processing_class=tokenizer,
                         data_collator=padded, callbacks=[Told()])  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    (out / "checkpoints").mkdir(parents=True, exist_ok=True)
    (out / "checkpoints" / RECORD).write_text(json.dumps(record), encoding="utf-8")
    done = trainer.train(resume_from_checkpoint=_last_checkpoint(out / "checkpoints"))
    if trainer.is_world_process_zero():
        _save(trainer, tokenizer, out, fmt, {**record, "rows": len(rows), "steps": done.global_step,
              "tokens": sum(len(r.input_ids) for r in rows), "loss": done.training_loss,
              "seconds": round(done.metrics["train_runtime"], 1), "log": trainer.state.log_history})  # fmt: skip
    return out


def _loaded(base: str, what: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(
            f"{base}: the {what} cannot be loaded ({reason}).",
            "Give --base a folder with config, tokenizer and safetensors weights, or a Hub id.",
        ) from error


def _is_finished(out: Path, record: dict[str, Any]) -> bool:
    """Whether `out` holds the result of this very run. Raises BadConfig when it holds something else."""
    if out.is_file():
        raise BadConfig(f"{out} is a file.", "Name a folder with --out.")
    if not out.is_dir() or not any(out.iterdir()):
        return False
    for file in (out / "train.json", out / "checkpoints" / RECORD):
        if file.is_file():
            try:
                found = json.loads(file.read_text(encoding="utf-8"))
            except json.JSONDecodeError:
                found = {}
            if {k: found.get(k) for k in record} == record:
                return file.name == "train.json"
            raise BadConfig(
                f"{out} holds a model trained on other data or settings.", "Choose another --out."
            )
    raise BadConfig(f"{out} is not empty and holds no run of s1 train.", "Choose another --out.")


def render_all(
    traces: list[Trace], fmt: ThinkingFormat, tokenizer: Any, settings: TrainSettings, end: str
) -> list[Rendered]:
    """All rows of a dataset, each ended by `end`. Raises BadInput naming the first row that does not fit."""

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    def render(messages: Any) -> str:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    if settings.conditional:
        traces, fmt = conditioned(
            traces,
            settings.conditional,
            fmt,
            count=lambda text: len(encode(text)),
            between_steps=settings.between_steps,
        )
    rows = []
    for trace in traces:
        row = render_trace(trace, fmt, encode=encode, render=render, end=end,
                           answer_prefix=settings.answer_prefix)  # fmt: skip
        if len(row.input_ids) > settings.max_length:
            raise BadInput(
                f"Question {trace.question.id}: the row has {len(row.input_ids)} tokens, above max_length "
                f"{settings.max_length}.",
                "Raise max_length or drop the row: a cut trace teaches the model not to stop.",
            )
        rows.append(row)
    return rows


def end_of_turn(tokenizer: Any) -> str:
    """The token that the chat template writes after an assistant's message; the EOS where it writes none.

    The two may differ: some tokenizers end a text with one token and a turn with another. Raises BadInput
    where there is neither.
    """
    answer = "It is four."
    turns = [{"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": answer}]
    try:
        rendered = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except Exception:  # templates refuse with errors of their own kinds
        rendered = ""
    _, found, after = rendered.rpartition(answer)
    written = [token for token in tokenizer.get_added_vocab() if found and after.lstrip().startswith(token)]
    end = max(written, key=len, default="") or tokenizer.eos_token
    if not end:
        raise BadInput(
            "The chat template writes no token after an assistant's message, and the tokenizer has no EOS token.",
            "Set tokenizer.eos_token and save the tokenizer.",
        )
    return str(end)


def padded(rows: Sequence[Mapping[str, list[int]]]) -> dict[str, Any]:
    """One batch of rows, filled up on the right. Mask and labels leave the filling out, so any id will do."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    ids, labels = ([torch.tensor(row[name]) for row in rows] for name in ("input_ids", "labels"))
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=0),
        "attention_mask": pad_sequence([torch.ones_like(i) for i in ids], batch_first=True, padding_value=0),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    }


def _prepare_end(model: Any, end: int) -> None:
    """Make `end` a token that is learnt like any other, also where it is the pad token, and that stops decoding."""
    model.get_input_embeddings().padding_idx = None  # the embedding of the pad token would get no gradient
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    if end not in ends:
        model.generation_config.eos_token_id = [*ends, end]


def _last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written whole."""

    def is_whole(checkpoint: Path) -> bool:
        try:
            json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            return False
        return (checkpoint / "model.safetensors").is_file()

    whole = [c for c in folder.glob("checkpoint-*") if is_whole(c)]
    return str(max(whole, key=lambda c: int(c.name.rsplit("-", 1)[1]))) if whole else None


def _save(trainer: Any, tokenizer: Any, out: Path, fmt: ThinkingFormat, record: dict[str, Any]) -> None:
    import shutil

    trainer.model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    write_format(fmt, out)
    part = out / "train.json.part"  # written last and in one step: a folder that has it is whole
    part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(part, out / "train.json")
    shutil.rmtree(out / "checkpoints")
