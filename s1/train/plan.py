"""What a training run will take, before it starts: steps, tokens, FLOPs, memory by part, hours.

The estimate follows from the shape of the model. docs/guides/train.md compares it with measured peaks.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from s1.errors import BadConfig
from s1.train.settings import TrainSettings

GIB = 2**30
MFU = 0.4
"""Share of a GPU's peak that training is assumed to reach, for the hours."""
SLACK = 0.85
"""A run is refused when this share of the estimate is above the memory: the estimate may be that much too high."""
TILE = (4096, 32_768)
"""Tokens and vocabulary of the piece of logits that TRL holds at once."""
LOGITS_AT_ONCE = TILE[0] * TILE[1]
"""Without a GPU, up to so many logits are not computed in pieces."""


class Gpu(NamedTuple):
    """A kind of GPU: memory in bytes, and dense bfloat16 FLOPs per second by its data sheet."""

    name: str
    memory: float
    flops: float


GPUS = {
    g.name: g
    for g in (
        Gpu("B200", 180 * GIB, 2250e12),
        Gpu("H200", 139 * GIB, 989e12),
        Gpu("H100", 79 * GIB, 989e12),
        Gpu("A100", 79 * GIB, 312e12),
        Gpu("A100-40", 39 * GIB, 312e12),
        Gpu("L40S", 44 * GIB, 362e12),
        Gpu("A6000", 47 * GIB, 155e12),
        Gpu("RTX 5090", 31 * GIB, 210e12),
        Gpu("RTX 4090", 23.5 * GIB, 165e12),
        Gpu("RTX 3090", 23.5 * GIB, 71e12),
        Gpu("L4", 22 * GIB, 121e12),
    )
}


class Shape(NamedTuple):
    """What of a model decides its cost. Counts of weights, and widths."""

    weights: int
    matrices: int
    """Weights that each token is multiplied with: all linear layers, the output layer included."""
    head: int
    """Weights of the output layer."""
    layers: int
    hidden: int
    queries: int
    """Width of the queries: heads x head size."""
    keys: int
    intermediate: int
    vocabulary: int
    adapter: int
    """Weights of an adapter of rank 1."""


def shape_of(config: Any) -> Shape:
    """The shape of the model that a transformers configuration describes; no memory is taken for its weights."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config))
    head = model.get_output_embeddings()
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    inner = config.get_text_config(decoder=True)
    heads = inner.num_attention_heads
    size = getattr(inner, "head_dim", None) or inner.hidden_size // heads
    kv_heads = getattr(inner, "num_key_value_heads", None) or heads
    return Shape(
        weights=sum(p.numel() for p in model.parameters()),
        matrices=sum(m.weight.numel() for m in (*linear, head)),
        head=head.weight.numel(),
        layers=inner.num_hidden_layers,
        hidden=inner.hidden_size,
        queries=heads * size,
        keys=kv_heads * size,
        intermediate=getattr(inner, "intermediate_size", None) or 4 * inner.hidden_size,
        vocabulary=head.weight.shape[0],
        adapter=sum(m.in_features + m.out_features for m in linear),
    )


def model_flops(shape: Shape, length: float, settings: TrainSettings) -> float:
    """FLOPs per token of one step on rows of `length` tokens, without what is computed twice.

    Two per weight forward, two more for the gradient of the activations and two for that of the weights, which
    an adapter does without. Causal attention takes half of the full square.
    """
    passes = 4 if settings.lora_rank else 6
    attention = 3 * 2 * shape.layers * shape.queries * length
    return passes * shape.matrices + attention


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """What a run on rows of these `lengths` takes on each of `gpus` devices (memory in bytes)."""

    shape: Shape
    lengths: Sequence[int]
    settings: TrainSettings
    gpus: int
    device: Gpu
    steps: int
    tokens: int
    flops: float
    memory: dict[str, float]
    host: float
    """Main memory that offloaded weights, gradients and optimiser take on one machine."""

    @property
    def total(self) -> float:
        return sum(self.memory.values())

    @property
    def hours(self) -> float:
        return self.flops / (self.gpus * self.device.flops * MFU) / 3600 if self.device.flops else 0.0

    @property
    def fits(self) -> bool:
        return self.total * SLACK <= self.device.memory


def make_plan(
    shape: Shape, lengths: Sequence[int], settings: TrainSettings, gpus: int, device: Gpu
) -> TrainPlan:
    """The plan for rows of these lengths. The longest row decides the memory."""
    steps = settings.steps(len(lengths))
    rows = steps * settings.batch
    tokens = round(rows * (sum(lengths) / len(lengths)))
    flops = sum(n * model_flops(shape, n, settings) for n in lengths) * rows / len(lengths)
    memory = step_memory(shape, max(lengths), settings, gpus, on_gpu=bool(device.flops))
    host = 0.0
    if settings.offload:
        host = sum(memory.pop(part) for part in ("weights", "gradients", "optimiser")) * gpus
    return TrainPlan(shape, lengths, settings, gpus, device, steps, tokens, flops, memory, host)


def step_memory(
    shape: Shape, longest: int, settings: TrainSettings, gpus: int, on_gpu: bool
) -> dict[str, float]:
    """Bytes on each device at the peak of a step, by part."""
    held = 2 if settings.weights == "bfloat16" and on_gpu else 4
    computed = 2 if settings.bf16 else 4
    adapter = settings.lora_rank * shape.adapter
    trained, size = (adapter, 4) if adapter else (shape.weights, held)
    frozen = shape.weights if adapter else 0
    weights: float = (frozen * (0.6 if settings.quantize else held) + trained * size) / gpus
    sharded = gpus > 1 or settings.offload
    layer = (shape.matrices - shape.head) / max(shape.layers, 1)
    if sharded:
        weights += 2 * layer * computed + shape.head * computed
    elif computed < held:
        weights += shape.matrices * computed  # the copies that autocast keeps
    tokens = settings.device_batch * longest
    h, q, kv, wide = shape.hidden, shape.queries, shape.keys, shape.intermediate
    # Inputs of the two norms in float32 and in the computed precision, of the linear layers, of attention.
    per_layer = 2 * (8 * h + computed * h) + computed * (2 * h + 3 * q + 4 * kv + 4 * wide)
    if settings.checkpoint_activations:
        activations = tokens * (shape.layers * computed * h + per_layer + computed * 2 * wide)
    else:
        activations = tokens * shape.layers * per_layer
    tile = min(tokens, TILE[0]) * min(shape.vocabulary, TILE[1])
    logits = 4 * (2 * tile + (0 if adapter else shape.head) + 2 * tokens * h)
    return {
        "weights": weights,
        "gradients": trained * size / gpus,
        "optimiser": 2 * trained * size / gpus,
        "activations": float(activations),
        "logits": float(logits),
    }


def devices_named(text: str) -> tuple[int, Gpu]:
    """ "8xH100" or "H100" as number and kind. Raises BadConfig with the known kinds."""
    found = re.fullmatch(r"(?:(\d+)\s*x\s*)?(.+)", text.strip())
    name = found[2].lower() if found else ""
    for gpu in GPUS.values():
        if name and name in (gpu.name.lower(), gpu.name.lower().removeprefix("rtx ")):
            return max(1, int((found and found[1]) or 1)), gpu
    raise BadConfig(f"Unknown GPU {text!r}.", f"Write NUMBERxKIND, with one of: {', '.join(GPUS)}.")


def gpu_of(name: str) -> Gpu | None:
    """The kind of GPU that a device's name contains."""
    return next((gpu for gpu in GPUS.values() if gpu.name.lower() in name.lower()), None)


def devices_here(gpus: int) -> Gpu:
    """The kind of device in this machine; a processor has no peak, and all processes share its memory."""
    import os

    import torch

    if torch.cuda.is_available():
        known = gpu_of(torch.cuda.get_device_name())
        memory = float(torch.cuda.get_device_properties(0).total_memory)
        return Gpu(torch.cuda.get_device_name(), memory, known.flops if known else 300e12)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / gpus
    return Gpu("processor", memory, 0.0)


def changes(plan: TrainPlan) -> list[str]:
    """What would make the run fit, the smallest change first."""
    settings = plan.settings
    check: dict[str, Any] = {} if settings.checkpoint_activations else {"checkpoint_activations": True}
    checked = ["--set checkpoint_activations=true"] * bool(check)

    def fits(gpus: int = plan.gpus, **new: Any) -> bool:
        changed = replace(settings, **check | new)
        return make_plan(plan.shape, plan.lengths, changed, gpus, plan.device).fits

    found = []
    if check and fits():
        found += checked
    if not settings.offload and fits(offload=True):
        found.append(" ".join([*checked, "--set offload=true"]))
    if not settings.lora_rank and fits(lora_rank=32, weights="bfloat16"):
        found.append("--recipe lora-1gpu")
    if not settings.quantize and plan.device.flops and fits(lora_rank=32, quantize=True):
        found.append("--recipe qlora-24gb")
    more = next((n for n in (2, 4, 8, 16, 32, 64) if n > plan.gpus and fits(n)), None)
    if more and plan.device.flops:
        found.append(" ".join([f"--gpus {more}", *checked]))
    return found


def refusal(plan: TrainPlan) -> BadConfig:
    """The error of a run that cannot fit."""
    found = changes(plan)
    return BadConfig(
        f"This run does not fit: it takes about {plan.total / GIB:.1f} GiB on each device, which has "
        f"{plan.device.memory / GIB:.1f} GiB.",
        f"What would fit: {'; or '.join(found)}." if found else "Use a smaller model or shorter rows.",
    )


def plan_text(plan: TrainPlan) -> str:
    """The plan for people."""
    where = f"{plan.gpus} x {plan.device.name}"
    longest = max(plan.lengths)
    lines = [
        f"{plan.steps:,} steps, {plan.tokens:,} tokens, {plan.flops:.2e} FLOPs; longest row {longest:,} tokens",
        f"memory on each of {where} ({plan.device.memory / GIB:.1f} GiB): about {plan.total / GIB:.2f} GiB",
        *(f"  {part:<12} {size / GIB:8.2f} GiB" for part, size in plan.memory.items()),
    ]
    if not plan.device.flops:
        lines.append("  the allocator of the C library may take up to twice that; see docs/guides/train.md")
    if plan.host:
        lines.append(f"main memory for what is offloaded: about {plan.host / GIB:.1f} GiB")
    if plan.hours:
        lines.append(f"about {plan.hours:.1f} hours at {MFU:.0%} of the peak of {where}")
    return "\n".join(lines)
