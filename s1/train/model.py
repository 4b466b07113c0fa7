"""The model to train: loaded in the right precision, with an adapter if asked, and saved again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from s1.engines.model_files import find_model, load_tokenizer, load_weights
from s1.errors import BadConfig, require
from s1.train.settings import TrainSettings

MERGED = "merged"
"""Folder inside that of an adapter for the whole model, adapter included."""


def load_base(base: str, settings: TrainSettings) -> Any:
    """The model at `base`, ready for the trainer. Raises BadInput when it cannot be loaded."""

    dtype = "bfloat16" if settings.weights == "bfloat16" and fast_bfloat16() else "float32"
    options: dict[str, Any] = {}
    if settings.quantize:
        options |= {
            "quantization_config": _four_bits(),
            "device_map": {"": int(os.environ.get("LOCAL_RANK", "0"))},
        }
    return load_weights(find_model(base), dtype, **options)


def adapter_of(settings: TrainSettings) -> Any:
    """PEFT's description of the adapter, or None. TRL adds it to the model after setting the seed."""
    if not settings.lora_rank:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=0.0,
        target_modules="all-linear",  # PEFT leaves the output layer out
        task_type="CAUSAL_LM",
    )


def fast_bfloat16() -> bool:
    """Whether the GPU computes in bfloat16. On a processor, weights in bfloat16 save no time."""
    import torch

    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def require_gpu(what: str) -> None:
    """Raise BadConfig where there is no GPU."""
    import torch

    if not torch.cuda.is_available():
        raise BadConfig(f"{what} needs a GPU, and there is none.", "Use the recipe laptop, or leave it out.")


def prepare_end(model: Any, end: int) -> None:
    """Let `end` be learnt like any other token, even if it is the pad token, and let it stop decoding."""
    model.get_input_embeddings().padding_idx = None  # the embedding of the pad token would get no gradient
    stops = model.generation_config.eos_token_id
    stops = stops if isinstance(stops, list) else [] if stops is None else [stops]
    if end not in stops:
        model.generation_config.eos_token_id = [*stops, end]


def save_merged(adapter: Path, base: str) -> Path:
    """Write the base with the adapter added to its weights into the folder `merged` of the adapter.

    A merge that is already there is left alone; an interrupted one is begun again.
    """
    out, part = adapter / MERGED, adapter / f"{MERGED}.part"
    if out.is_dir():
        return out
    shutil.rmtree(part, ignore_errors=True)
    files = find_model(str(adapter), base)
    load_weights(files, "bfloat16" if fast_bfloat16() else "float32").save_pretrained(part)
    load_tokenizer(files).save_pretrained(part)
    shutil.copy(adapter / "thinking.json", part)
    part.rename(out)
    return out


def _four_bits() -> Any:
    import torch

    require_gpu("quantize")
    require("qlora")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
