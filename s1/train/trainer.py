"""TRL's trainer with our rows and nothing left to its defaults that matters.

Its output layer computes the loss in pieces, so that the logits of a long row never exist at once. Without a GPU that
is slow, so fewer logits than one piece has are computed whole. Added here: rows in an order that depends on the seed
alone, whatever the number of processes and the moment of a resume, and a loss that is checked.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from s1.errors import BadConfig, Interrupted, first_line
from s1.train.plan import LOGITS_AT_ONCE, model_flops, shape_of
from s1.train.render import IGNORED, Rendered
from s1.train.settings import TrainSettings

TrainProgress = Callable[[int, int, float | None, str], None]
"""Called after each optimiser step with its number, the number of steps, the loss, and what else to show."""
TRACKERS = ("tensorboard", "wandb", "trackio")
LOGGED = ("step", "epoch", "loss", "learning_rate", "grad_norm", "seconds")
"""What is kept of each step."""


def processes() -> int:
    """How many processes train together: what torchrun or accelerate says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Whether this is the process that writes files."""
    return os.environ.get("RANK", "0") == "0"


def use_one_gpu() -> None:
    """Show this process the first of its GPUs only, unless a launcher gave it one. Before torch looks for GPUs."""
    if "WORLD_SIZE" not in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]


@contextmanager
def joined() -> Iterator[None]:
    """Turn what torch raises in one process when another has ended into Interrupted."""
    try:
        yield
    except RuntimeError as error:
        import torch.distributed as group

        if not isinstance(error, getattr(group, "DistError", ())) and "gloo" not in str(error):
            raise
        raise Interrupted(
            f"Another of the {processes()} processes ended or cannot be reached ({first_line(error)}).",
            "Its message is on its machine. The same commands resume from the last checkpoint.",
        ) from error


def check_tracker(track: str) -> None:
    """Raise BadConfig where the tracker of that name is unknown or not installed; "" is none."""
    if track and track not in TRACKERS:
        raise BadConfig(f"Unknown tracker {track!r}.", f"Use one of: {', '.join(TRACKERS)}.")
    if track and importlib.util.find_spec(track) is None:
        raise BadConfig(
            f"The tracker needs the package {track}, which is not installed.", f"pip install {track}"
        )


def make_trainer(
    model: Any,
    rows: Sequence[Rendered],
    tokenizer: Any,
    settings: TrainSettings,
    checkpoints: Path,
    *,
    progress: TrainProgress = lambda step, steps, loss, detail: None,
    adapter: Any = None,
    track: str = "",
) -> Any:
    """The trainer; `adapter` is PEFT's description."""
    import torch
    from datasets import Dataset
    from datasets.utils.logging import disable_progress_bar
    from torch.utils.data import DataLoader
    from transformers import PrinterCallback, TrainerCallback
    from transformers.utils import logging
    from trl import SFTConfig, SFTTrainer

    together = settings.device_batch * processes()
    order = Order([len(row.input_ids) for row in rows], settings.batch, settings.seed,
                  filler=-len(rows) % together if processes() > 1 else 0)  # fmt: skip
    steps_per_epoch = -(-len(rows) // settings.batch)

    class Watch(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.began = self.saved = time.monotonic()
            self.tokens = 0
            """Read in the current step, padding left out; on several processes, as if all had as many."""

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            order.epoch = state.global_step // steps_per_epoch

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.began, self.tokens = time.monotonic(), 0

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if settings.save_minutes and _any_process(
                time.monotonic() - self.saved >= 60 * settings.save_minutes
            ):
                control.should_save = True

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.saved = time.monotonic()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            entry = state.log_history[-1]
            if "loss" not in entry:
                return
            if not math.isfinite(entry["loss"]):
                raise Interrupted(
                    f"The loss of step {state.global_step} is {entry['loss']}.",
                    "Lower learning_rate or check the rows; the last checkpoint is kept.",
                )
            entry["seconds"] = seconds = time.monotonic() - self.began
            if is_first_process():
                detail = _detail(entry["learning_rate"], self.tokens / seconds, speed)
                progress(state.global_step, state.max_steps, float(entry["loss"]), detail)

    class Trainer(SFTTrainer):  # type: ignore[misc]
        def get_train_dataloader(self) -> Any:
            loader = DataLoader(self.train_dataset, settings.device_batch, sampler=order, collate_fn=pad_batch,
                                pin_memory=torch.cuda.is_available())  # fmt: skip
            return self.accelerator.prepare(loader)

        def create_model_card(self, *args: Any, **kwargs: Any) -> None:
            """A checkpoint needs none; the finished model gets ours."""

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            watch.tokens += int(inputs["attention_mask"].sum()) * processes()
            logits = inputs["input_ids"].numel() * facts.vocabulary
            if torch.cuda.is_available() or logits > LOGITS_AT_ONCE or num_items_in_batch is None:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            # The gradients are averaged over the processes.
            return loss_sum(model, inputs) * processes() / num_items_in_batch

        def create_accelerator_and_postprocess(self) -> None:
            super().create_accelerator_and_postprocess()
            if processes() > 1 and not self.is_fsdp_enabled:
                _shard_on_processors(self)

    mean_length = sum(len(row.input_ids) for row in rows) / len(rows)
    facts = shape_of(model.config)
    speed = model_flops(facts, mean_length, settings)
    disable_progress_bar()
    logging.disable_progress_bar()
    os.environ.setdefault("WANDB_PROJECT", "s1")
    sharded = processes() > 1 or settings.offload
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
        seed=settings.seed,
        data_seed=settings.seed,
        save_strategy="steps" if settings.save_steps else "epoch",
        save_steps=settings.save_steps or 500,
        save_total_limit=1,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to=track if track in ("wandb", "trackio") else "none",
        run_name=checkpoints.parent.name,
        project="s1",
        disable_tqdm=True,
        fsdp=True if sharded else None,
        fsdp_config=_fsdp(settings) if sharded else None,
        **{_checkpointing_name(SFTConfig): settings.checkpoint_activations and not sharded},
    )
    if config.n_gpu > 1:
        raise BadConfig(
            f"This process sees {config.n_gpu} GPUs and trains on one.",
            f"Set CUDA_VISIBLE_DEVICES=0, or use all with s1 train --gpus {config.n_gpu}.",
        )
    empty = Rendered(rows[0].input_ids[:2], (IGNORED, IGNORED))
    data = Dataset.from_list([{"input_ids": r.input_ids, "labels": r.labels} for r in (*rows, empty)])
    watch = Watch()
    watching: list[Any] = [watch]
    if track == "tensorboard" and is_first_process():
        from torch.utils.tensorboard import SummaryWriter
        from transformers.integrations import TensorBoardCallback

        # Not where transformers would write: the folder of the checkpoints does not outlive the run.
        watching.append(TensorBoardCallback(SummaryWriter(str(checkpoints.parent / "tensorboard"))))
    trainer = Trainer(model=model, args=config, train_dataset=data, processing_class=tokenizer,
                      data_collator=pad_batch, callbacks=watching, peft_config=adapter)  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    if adapter is not None:  # or PEFT looks for the base on the Hub, to see whether its vocabulary grew
        model = trainer.model
        model.save_pretrained = partial(model.save_pretrained, save_embedding_layers=False)
    return trainer


class Order:
    """The order of the rows in `epoch`: rows of similar length side by side, decided by seed and batch alone.

    At its end it names `filler` times the row after the last, which carries no loss, so that all processes have as
    many. Left to accelerate, the first rows of the epoch would be trained once more.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int, filler: int = 0) -> None:
        self.lengths, self.batch, self.seed, self.filler, self.epoch = lengths, batch, seed, filler, 0

    def __len__(self) -> int:
        return len(self.lengths) + self.filler

    def __iter__(self) -> Iterator[int]:
        import torch
        from transformers.trainer_pt_utils import LengthGroupedSampler

        chance = torch.Generator().manual_seed(self.seed)
        found: list[int] = []
        for _ in range(self.epoch + 1):
            # Torch's loader draws this number too; without it a seed would give another order than before.
            torch.empty((), dtype=torch.int64).random_(generator=chance)
            found = list(LengthGroupedSampler(self.batch, lengths=list(self.lengths), generator=chance))
        return iter(found + [len(self.lengths)] * self.filler)


def loss_sum(model: Any, inputs: Mapping[str, Any]) -> Any:
    """The cross-entropy of all labels together, from logits that exist at once."""
    import torch

    read = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    logits = model(**read, use_cache=False).logits
    labels = inputs["labels"][:, 1:]
    chosen = labels != IGNORED
    return torch.nn.functional.cross_entropy(logits[:, :-1][chosen].float(), labels[chosen], reduction="sum")


def pad_batch(rows: Sequence[Mapping[str, list[int]]]) -> dict[str, Any]:
    """A batch of rows padded on the right. Mask and labels exclude the padding, so its id does not matter."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    ids, labels = ([torch.tensor(row[name]) for row in rows] for name in ("input_ids", "labels"))
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=0),
        "attention_mask": pad_sequence([torch.ones_like(i) for i in ids], batch_first=True, padding_value=0),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    }


def steps_of(trainer: Any) -> list[dict[str, float]]:
    """What was logged of each step of the whole run, those before a resume included."""
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    return [{name: entry[name] for name in LOGGED if name in entry} for entry in history]


def _accumulation(settings: TrainSettings) -> int:
    """Forward passes per optimiser step on each device."""
    devices = processes()
    if settings.batch % (settings.device_batch * devices):
        raise BadConfig(
            f"batch {settings.batch} is not a multiple of device_batch {settings.device_batch} x {devices} devices.",
            "Change device_batch or the number of devices: the batch is part of the recipe.",
        )
    return settings.batch // (settings.device_batch * devices)


def _fsdp(settings: TrainSettings) -> dict[str, Any]:
    return {
        "version": 2,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "activation_checkpointing": settings.checkpoint_activations,
        "cpu_offload": settings.offload,
        "reshard_after_forward": True,
        "state_dict_type": "FULL_STATE_DICT",
    }


def _shard_on_processors(trainer: Any) -> None:
    """Turn FSDP2 on where accelerate leaves it out: it knows kinds of GPU only, though torch shards with gloo too."""
    from accelerate import PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    state = trainer.accelerator.state
    state.fsdp_plugin = FullyShardedDataParallelPlugin(**trainer.args.fsdp_plugin_args)
    state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
    if trainer.args.bf16:
        state.fsdp_plugin.set_mixed_precision("bf16")
    trainer.is_fsdp_enabled = True


def _any_process(flag: bool) -> bool:
    """Whether the flag is set in the first process; all must decide alike."""
    import torch.distributed as group

    if processes() == 1:
        return flag
    flags = [flag]
    group.broadcast_object_list(flags, src=0)
    return flags[0]


def _detail(rate: float, tokens_per_second: float, flops_per_token: float) -> str:
    """The rest of the live line: learning rate, tokens per second, share of the GPU's peak, most memory so far."""
    import torch

    parts = [f"lr {rate:.1e}", f"{tokens_per_second:,.0f} tokens/s"]
    if torch.cuda.is_available():
        from s1.train.plan import gpu_of

        gpu = gpu_of(torch.cuda.get_device_name())
        if gpu is not None:
            share = tokens_per_second * flops_per_token / (gpu.flops * processes())
            parts.append(f"{share:.0%} of peak")
        parts.append(f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    elif sys.platform == "linux":  # others count it in other units, or not at all
        import resource

        parts.append(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")
    return ", ".join(parts)


def _checkpointing_name(config: Any) -> str:
    """What this version of transformers calls activation checkpointing."""
    names = {field.name for field in dataclasses.fields(config)}
    return next(n for n in ("activation_checkpointing", "gradient_checkpointing") if n in names)
