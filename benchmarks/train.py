"""How fast `s1 train` trains and how much memory it takes, and how well `s1 train --plan` foretells the memory.

    python benchmarks/train.py --out DIR                  # here: a GPU if there is one, else the processor
    python benchmarks/train.py --out DIR --quick          # both parts with a tiny shape: does everything run?

On a GPU: random weights of the shapes of Qwen2.5 1.5B and 7B in bfloat16, one row of 4K, 16K and 32K tokens per step,
full training and LoRA, each memory option on and off. MFU is against the rate of a large matrix product, measured
here; FLOPs computed twice do not count. On a processor: the shapes of petri and of SmolLM2-135M in float32, against a
bare PyTorch loop on the same batches, and in bfloat16, against TRL's defaults on the same rows, each in a process of
its own, in turn. Wall time is that of the whole loop; processor time says more on a busy machine.

A line is printed for each cell as it ends, and DIR/train.json is written again after each. A cell that needs more
memory than there is says so and the next one begins.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

SHAPES = {
    # hidden, layers, heads, key/value heads, intermediate, vocabulary, tied
    "tiny": (64, 2, 4, 2, 128, 512, True),
    "petri": (256, 4, 4, 4, 704, 576, True),
    "smollm2": (576, 30, 9, 3, 1536, 49_152, True),
    "1.5b": (1536, 28, 12, 2, 8960, 151_936, True),
    "7b": (3584, 28, 28, 4, 18_944, 152_064, False),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "full": {},
    "full, checkpoints": {"checkpoint_activations": True},
    "lora": {"lora_rank": 32},
    "lora, checkpoints": {"lora_rank": 32, "checkpoint_activations": True},
}
GPU_CELLS = [
    # shape, tokens in a row, option
    ("1.5b", 4096, "full"),
    ("1.5b", 4096, "full, checkpoints"),
    ("1.5b", 4096, "lora"),
    ("7b", 4096, "full, checkpoints"),
    ("7b", 4096, "lora"),
    ("7b", 4096, "lora, checkpoints"),
    ("1.5b", 16_384, "full"),
    ("1.5b", 16_384, "full, checkpoints"),
    ("7b", 16_384, "full, checkpoints"),
    ("7b", 16_384, "lora, checkpoints"),
    ("7b", 4096, "full"),
    ("1.5b", 32_768, "full, checkpoints"),
    ("7b", 32_768, "lora, checkpoints"),
    ("7b", 32_768, "full, checkpoints"),
    ("1.5b", 32_768, "full"),
    ("7b", 16_384, "lora"),
]
QUICK_CELLS = [("tiny", 256, option) for option in OPTIONS]
CPU_SHAPES = {"tiny": (8, 20, 100, 8), "petri": (16, 60, 400, 16), "smollm2": (4, 60, 400, 4)}
"""Rows per step, shortest and longest row, rows per forward pass."""
SIDES = ("s1", "s1-bf16", "trl", "bare")


def random_model(shape: str, dtype: str, device: str) -> Any:
    """A Qwen2 model (Llama's layers with biases) of that shape with random weights."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    hidden, layers, heads, kv, wide, vocabulary, tied = SHAPES[shape]
    config = Qwen2Config(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv,
        intermediate_size=wide, vocab_size=vocabulary, tie_word_embeddings=tied, max_position_embeddings=32_768,
        use_cache=False,
    )  # fmt: skip
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.device(device):
            return Qwen2ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)


def random_rows(count: int, shortest: int, longest: int, vocabulary: int) -> list[Any]:
    from s1.train.render import IGNORED, Rendered

    chance, rows = random.Random(0), []
    for _ in range(count):
        ids = tuple(chance.randrange(1, vocabulary) for _ in range(chance.randint(shortest, longest)))
        prompt = len(ids) // 5
        rows.append(Rendered(ids, (*[IGNORED] * prompt, *ids[prompt:])))
    return rows


def matrix_rate(size: int = 8192) -> float:
    """FLOPs per second of a large bfloat16 product on the GPU: the median of ten."""
    import torch

    a = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    times = []
    for _ in range(13):
        torch.cuda.synchronize()
        began = time.perf_counter()
        a @ a
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return 2 * size**3 / sorted(times[3:])[5]


def tokenizer() -> Any:
    """TRL wants one, though the rows are tokenised; the small world's ships with s1."""
    from transformers import AutoTokenizer

    from s1.petri import world

    return AutoTokenizer.from_pretrained(world.base_model())


def timer() -> Any:
    """A callback with the seconds of each step, and of the whole loop by the wall and by the processor."""
    import torch
    from transformers import TrainerCallback

    class Timer(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.start = time.perf_counter(), time.process_time()

        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            self.loop = time.perf_counter() - self.start[0], time.process_time() - self.start[1]

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.began = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds.append(time.perf_counter() - self.began)

    return Timer()


def quiet() -> None:
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from s1.cli.options import silence_libraries
    from s1.train.trainer import use_one_gpu

    silence_libraries()
    use_one_gpu()


# --- GPU ------------------------------------------------------------------------------------------------


def gpu_cell(shape: str, length: int, option: str, rate: float, steps: int) -> dict[str, Any]:
    """One shape, length and set of options; `steps` are timed after one that is not."""
    import torch

    from s1.train.model import adapter_of
    from s1.train.plan import model_flops, shape_of, step_memory
    from s1.train.settings import TrainSettings
    from s1.train.trainer import make_trainer

    on_gpu = torch.cuda.is_available()
    settings = replace(
        TrainSettings(batch=1, max_steps=steps + 1, weights="bfloat16", bf16=on_gpu, save_steps=1000),
        **OPTIONS[option],
    )
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    model = random_model(shape, "bfloat16" if on_gpu else "float32", "cuda" if on_gpu else "cpu")
    facts = shape_of(model.config)
    found: dict[str, Any] = {"shape": shape, "tokens": length, "option": option}
    planned = step_memory(facts, length, settings, 1, on_gpu=on_gpu)
    found["planned_gib"] = round(sum(planned.values()) / 2**30, 2)
    found["planned"] = {part: round(size / 2**30, 2) for part, size in planned.items()}
    rows = random_rows(steps + 1, length, length, facts.vocabulary)
    watch = timer()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(model, rows, tokenizer(), settings, Path(folder), adapter=adapter_of(settings))
        trainer.add_callback(watch)
        trainer.args.save_strategy = "no"  # the last step would write the whole model
        trainer.train()
    seconds = sorted(watch.seconds[1:])[(len(watch.seconds) - 1) // 2]
    found |= {
        "seconds_per_step": round(seconds, 4),
        "tokens_per_second": round(length / seconds, 1),
        "mfu": round(model_flops(facts, length, settings) * length / seconds / rate, 4) if rate else None,
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if on_gpu else None,
        "loss": round(float(trainer.state.log_history[0]["loss"]), 3),
    }
    return found


def run_cells(arguments: argparse.Namespace, report: dict[str, Any]) -> None:
    """All shapes, lengths and options; the tiny ones run on a processor too."""
    import torch

    rate = matrix_rate() if torch.cuda.is_available() else 0.0
    report |= {"matrix_tflops": round(rate / 1e12, 1)}
    print(json.dumps(report), flush=True)
    began = time.monotonic()
    for shape, length, option in QUICK_CELLS if arguments.quick else GPU_CELLS:
        if time.monotonic() - began > arguments.minutes * 60:
            print(f"{shape} {length} {option}: left out, {arguments.minutes} minutes are over", flush=True)
            continue
        try:
            cell = gpu_cell(shape, length, option, rate, arguments.steps)
        except torch.OutOfMemoryError:
            cell = {"shape": shape, "tokens": length, "option": option, "out_of_memory": True}
        except Exception as error:  # the other cells are worth having
            cell = {"shape": shape, "tokens": length, "option": option, "error": repr(error)[:300]}
        gc.collect()
        report["cells"].append(cell)
        print(json.dumps(cell), flush=True)
        (arguments.out / "train.json").write_text(json.dumps(report, indent=1) + "\n")


# --- processor ------------------------------------------------------------------------------------------


def cpu_side(side: str, shape: str, steps: int, folder: Path) -> dict[str, Any]:
    """Tokens per second and peak memory of one side, in this process."""
    from s1.train.plan import shape_of, step_memory
    from s1.train.settings import TrainSettings

    batch, shortest, longest, device_batch = CPU_SHAPES[shape]
    settings = TrainSettings(
        epochs=1,
        batch=batch,
        device_batch=device_batch,
        bf16=side == "s1-bf16",
        save_steps=100_000,
        learning_rate=1e-4,
    )
    model = random_model(shape, "float32", "cpu")
    rows = random_rows(batch * steps, shortest, longest, SHAPES[shape][5])
    text = tokenizer()
    gc.collect()
    before = _resident() - 4 * sum(p.numel() for p in model.parameters())
    planned = step_memory(shape_of(model.config), longest, settings, 1, on_gpu=False)
    if side == "bare":
        start = time.perf_counter(), time.process_time()
        bare_loop(model, rows, settings)
        loop = time.perf_counter() - start[0], time.process_time() - start[1]
    else:
        watch = timer()
        make = _trl_trainer if side == "trl" else _s1_trainer
        trainer = make(model, rows, text, settings, folder)
        trainer.add_callback(watch)
        trainer.args.save_strategy = "no"
        trainer.train()
        loop = watch.loop
    tokens = sum(len(row.input_ids) for row in rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    return {
        "shape": shape, "side": side, "seconds": round(loop[0], 2), "processor_seconds": round(loop[1], 2),
        "tokens_per_second": round(tokens / loop[0], 1), "load": round(os.getloadavg()[0], 1),
        "peak_gib": round(peak / 2**30, 3), "planned_gib": round(sum(planned.values()) / 2**30, 3),
    }  # fmt: skip


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _s1_trainer(model: Any, rows: list[Any], text: Any, settings: Any, folder: Path) -> Any:
    from s1.train.trainer import make_trainer

    return make_trainer(model, rows, text, settings, folder)


def _trl_trainer(model: Any, rows: list[Any], text: Any, settings: Any, folder: Path) -> Any:
    """TRL with its defaults but for the batch, the length limit, and what would write or report."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    data = Dataset.from_dict(
        {"input_ids": [list(r.input_ids) for r in rows], "labels": [list(r.labels) for r in rows]}
    )
    config = SFTConfig(
        output_dir=str(folder), num_train_epochs=1, per_device_train_batch_size=settings.device_batch,
        gradient_accumulation_steps=settings.batch // settings.device_batch, max_length=None, use_cpu=True,
        report_to="none", save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    return SFTTrainer(model=model, args=config, train_dataset=data, processing_class=text)


def bare_loop(model: Any, rows: list[Any], settings: Any) -> None:
    """Plain PyTorch on the same batches as s1, padded alike; logits only where there is loss."""
    import torch

    from s1.train.render import IGNORED
    from s1.train.trainer import Order, pad_batch

    ordered = [rows[i] for i in Order([len(row.input_ids) for row in rows], settings.batch, settings.seed)]
    batches = [ordered[i : i + settings.batch] for i in range(0, len(rows), settings.batch)]
    rate, decay = settings.learning_rate, settings.weight_decay
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=decay)
    model.train()
    for batch in batches:
        padded = pad_batch([{"input_ids": list(r.input_ids), "labels": list(r.labels)} for r in batch])
        hidden = model.model(input_ids=padded["input_ids"], use_cache=False).last_hidden_state[:, :-1]
        labels = padded["labels"][:, 1:]
        wanted = labels != IGNORED
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[wanted]), labels[wanted])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        loss.item()


def run_sides(arguments: argparse.Namespace, report: dict[str, Any]) -> None:
    """s1, TRL's defaults and a bare loop in turn, then what s1 takes of the bare loop's time."""
    quick = arguments.quick
    for shape in arguments.shapes or (["tiny"] if quick else ["petri", "smollm2"]):
        cells: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
        for turn in range(1 if quick else arguments.repeats):
            for side in (SIDES, SIDES[::-1])[turn % 2]:
                command = [sys.executable, __file__, "--out", str(arguments.out), "--side", side]
                command += ["--shapes", shape, "--steps", str(arguments.steps)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise SystemExit(done.stderr[-3000:])
                cells[side].append(json.loads(done.stdout.strip().splitlines()[-1]))
                report["cells"].append(cells[side][-1])
                print(json.dumps(cells[side][-1]), flush=True)
                (arguments.out / "train.json").write_text(json.dumps(report, indent=1) + "\n")
        for name in ("seconds", "processor_seconds"):
            pairs = zip(cells["s1"], cells["bare"], strict=True)
            found = sorted(s1[name] / max(bare[name], 0.01) for s1, bare in pairs)
            print(f"{shape}: s1 takes {statistics.median(found):.2f} times the {name.replace('_', ' ')} of the bare "
                  f"loop, {found[0]:.2f} to {found[-1]:.2f} in {len(found)} turns")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for train.json")
    parser.add_argument("--quick", action="store_true", help="tiny shapes, on any device")
    parser.add_argument("--steps", type=int, help="timed steps of a cell (default 2 on a GPU, 8 else)")
    parser.add_argument("--minutes", type=float, default=7, help="no new cell is begun after these (GPU)")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each side (processor)")
    parser.add_argument("--shapes", nargs="*", choices=sorted(CPU_SHAPES), help="shapes (processor)")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    quiet()
    import torch

    arguments.out.mkdir(parents=True, exist_ok=True)
    gpu = torch.cuda.is_available()
    arguments.steps = arguments.steps or (2 if gpu or arguments.quick else 8)
    if arguments.side:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(cpu_side(arguments.side, arguments.shapes[0], arguments.steps, Path(folder))))
        return
    device = torch.cuda.get_device_name() if gpu else "processor"
    report: dict[str, Any] = {"device": device, "torch": torch.__version__, "cells": []}
    if gpu or arguments.quick:
        run_cells(arguments, report)
    else:
        print("The cells of 1.5B and 7B are left out: torch finds no GPU here.", flush=True)
    if not gpu:
        run_sides(arguments, report)


if __name__ == "__main__":
    main()
