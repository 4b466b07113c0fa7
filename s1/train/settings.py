"""How to train: the settings, and the recipes that ship as sets of them (`recipes.yaml`)."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Literal

from s1.errors import BadConfig, nearest
from s1.train.conditional_data import BLANK_LINES, KINDS
from s1.types import from_json, to_json


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
    """Compute in bfloat16. The weights that the optimiser changes stay in `weights`."""
    weights: Literal["float32", "bfloat16"] = "float32"
    """How weights are held. bfloat16 is for adapters: it is too coarse for the small steps of full training."""
    lora_rank: int = 0
    """Rank of the LoRA adapter on all linear layers but the output; 0 trains all weights."""
    lora_alpha: int = 32
    """What the adapter adds is scaled by lora_alpha / lora_rank."""
    quantize: bool = False
    """Hold the weights under the adapter in 4 bits (QLoRA). Needs bitsandbytes and a GPU."""
    checkpoint_activations: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, a third more time."""
    offload: bool = False
    """Keep weights, gradients and optimiser in main memory, a layer at a time on the GPU."""
    save_steps: int = 0
    """Keep a checkpoint every so many steps; 0: after each epoch."""
    save_minutes: float = 0
    """Also keep one whenever this many minutes have passed."""
    max_steps: int = -1
    """Stop after this many optimiser steps; -1 runs all epochs."""
    seed: int = 0
    answer_prefix: str = "Answer: "
    profile: Literal["strict", "official"] = "strict"
    """"official" also trains what the authors' code does: the opening delimiter and what follows the end of turn."""
    cut_share: float = 0.0
    """Share of the rows whose thinking is cut at a random token, so that the model learns to answer there. What
    forcing writes after a cut follows without loss: the model learns to answer then, not to stop."""
    conditional: str = ""
    """"token" or "step": prompts that state the length of the trace, for conditional control (section 4.1)."""
    between_steps: str = BLANK_LINES
    """Regular expression for what separates the steps of a trace, when `conditional` is "step"."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "device_batch", "max_length", "lora_alpha"):
            if getattr(self, name) < 1:
                raise BadConfig(f"{name} is {getattr(self, name)}.", "Use 1 or more.")
        if self.conditional and self.conditional not in KINDS:
            raise BadConfig(f"conditional is {self.conditional!r}.", f"Use one of: {', '.join(KINDS)}.")
        if self.max_steps == 0 or self.learning_rate <= 0 or not 0 <= self.warmup < 1:
            raise BadConfig(
                f"max_steps {self.max_steps}, learning_rate {self.learning_rate}, warmup {self.warmup}.",
                "Use max_steps -1 or above 0, a learning rate above 0 and a warmup from 0 to below 1.",
            )
        for name in ("lora_rank", "save_steps", "save_minutes"):
            if getattr(self, name) < 0:
                raise BadConfig(f"{name} is {getattr(self, name)}.", "Use 0 or more.")
        if not 0 <= self.cut_share < 1:
            raise BadConfig(
                f"cut_share is {self.cut_share}.", "Use 0 to below 1, so that ends are learnt too."
            )
        if self.cut_share and (self.conditional or self.profile == "official"):
            raise BadConfig(
                "cut_share goes neither with conditional, whose prompts state lengths, nor with the official profile, "
                "which cuts nothing.",
                "Leave one of them out.",
            )
        if self.quantize and not self.lora_rank:
            raise BadConfig(
                "quantize needs an adapter: weights in 4 bits cannot be trained.", "Set lora_rank."
            )

    def steps(self, rows: int) -> int:
        """Optimiser steps on a dataset of `rows` rows."""
        return self.max_steps if self.max_steps > 0 else self.epochs * -(-rows // self.batch)


@dataclass(frozen=True, slots=True)
class TrainRecipe:
    """A named set of settings, and the GPUs that it was planned for (0: none needed)."""

    name: str
    gpus: int
    settings: TrainSettings


def train_recipe(name: str) -> TrainRecipe:
    """The recipe of that name. Raises BadConfig with the nearest name and all others."""
    import yaml

    found = yaml.safe_load((resources.files("s1.train") / "recipes.yaml").read_text(encoding="utf-8"))
    if name not in found:
        raise BadConfig(f"Unknown training recipe {name!r}.", nearest(name, found))
    settings = from_json(TrainSettings, to_json(TrainSettings()) | found[name]["settings"])
    return TrainRecipe(name, found[name]["gpus"], settings)
