"""What the `hf` engine must know of a checkpoint, and what it refuses: shapes, context, stops, text."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerFast
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from s1.engines.kv import LayerShape
from s1.errors import BadInput, Unsupported


class Facts(NamedTuple):
    shapes: list[LayerShape]
    bytes_per_token: int
    context: int
    logits: int


def examine(model: Any, context: int | None) -> Facts:
    """What the batch must know of a model, from its configuration and one token through it."""
    kind = type(model).__name__
    accepted = inspect.signature(type(model).forward).parameters
    for needed in ("position_ids", "past_key_values", "attention_mask"):
        if needed not in accepted:
            raise Unsupported(f"{kind} takes no {needed}.", "Use the vllm or openai engine for this model.")
    config = model.config.get_text_config(decoder=True)
    own = getattr(config, "max_position_embeddings", None)
    if own is None and context is None:
        raise Unsupported(f"{kind} states no max_position_embeddings.", "Pass the option context.")
    limit = min(n for n in (own, context) if n is not None)
    if config._attn_implementation not in ("sdpa", "eager"):
        model.set_attn_implementation("sdpa")
    cache = DynamicCache(config=model.config)
    ids = torch.zeros((1, 1), dtype=torch.long, device=model.device)
    try:
        with torch.inference_mode():
            out = model(input_ids=ids, past_key_values=cache, use_cache=True)
    except (ValueError, TypeError, AttributeError, NotImplementedError) as error:
        raise Unsupported(
            f"{kind} does not decode one token with an ordinary cache ({first_line(error)}).",
            "Use the vllm or openai engine for recurrent and hybrid models.",
        ) from error
    for layer in cache.layers:
        if type(layer) is DynamicSlidingWindowLayer:
            if limit > layer.sliding_window:
                raise Unsupported(
                    f"{kind} has a sliding window of {layer.sliding_window} tokens, "
                    f"shorter than the context of {limit}.",
                    f"Pass context={layer.sliding_window}, or use the vllm or openai engine.",
                )
        elif type(layer) is not DynamicLayer or layer.keys is None or layer.keys.ndim != 4:
            raise Unsupported(
                f"{kind} has a {type(layer).__name__} cache; "
                "only models that attend to all earlier tokens are served.",
                "Use the vllm or openai engine for recurrent and hybrid models.",
            )
    shapes = [LayerShape(c.keys.shape[1], c.keys.shape[3], c.values.shape[3]) for c in cache.layers]
    size = sum(s.heads * (s.key_dim + s.value_dim) for s in shapes) * cache.layers[0].keys.dtype.itemsize
    return Facts(shapes, size, limit, out.logits.shape[-1])


def decoder_of(tokenizer: Any) -> Callable[[list[int]], str]:
    """Ids to text, special tokens shown, spaces left alone.

    Straight to the Rust tokenizer where transformers would do nothing else: it takes four times as long.
    """
    if getattr(type(tokenizer), "_decode", None) is PreTrainedTokenizerFast._decode:
        return partial(tokenizer.backend_tokenizer.decode, skip_special_tokens=False)
    return partial(tokenizer.decode, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def eos_of(model: Any, tokenizer: Any) -> tuple[int, ...]:
    eos = getattr(model.generation_config, "eos_token_id", None)
    if eos is None:
        eos = tokenizer.eos_token_id
    return () if eos is None else tuple(eos) if isinstance(eos, (list, tuple)) else (int(eos),)


def default_cache_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free * 4 // 5
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


def check_folder(path: str) -> None:
    if not path:
        raise BadInput("The hf engine needs a model.", "Name it: hf:FOLDER or hf:org/name.")
    folder = Path(path).expanduser()
    if not folder.exists():
        if path.startswith((".", "/", "~")) or path.count("/") > 1:
            raise BadInput(f"{path}: no such folder.", "Check the path, or give a Hub id such as org/name.")
        return
    if not (folder / "config.json").is_file():
        raise BadInput(
            f"{path}: not a model folder (no config.json).",
            "Give the folder that model.save_pretrained wrote.",
        )
    names = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
    if not any((folder / name).is_file() for name in names):
        raise BadInput(
            f"{path}: no tokenizer beside the model.", "Save it there: tokenizer.save_pretrained(folder)."
        )


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
