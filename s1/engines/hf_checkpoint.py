"""What the `hf` engine must know of a checkpoint, and what it refuses: shapes, context, stops, text."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from s1.engines.hf_kv_cache import WIDTH, KVSlots, LayerShape, SlotCache
from s1.errors import BadInput, Unsupported, first_line

CACHE_ARGUMENTS = ("cache", "past_key_values")
"""What `forward` calls its cache: the name since transformers 5.24, and the one before."""
PROBE_ERRORS = (
    ValueError,
    TypeError,
    AttributeError,
    NotImplementedError,
    RuntimeError,
    IndexError,
    KeyError,
)
ELSEWHERE = "Use the vllm or openai engine for this model."


TOLERANCE = 0.1
"""How far logits over the board may lie from those of a plain call, as a share of their spread: rounding in
bfloat16 stays well below, a wrong position or mask does not."""


class Facts(NamedTuple):
    shapes: list[LayerShape]
    bytes_per_token: int
    context: int
    logits: int
    cache_argument: str
    """The keyword under which this model takes its cache."""


def examine(model: Any, context: int | None) -> Facts:
    """What the batch must know of a model, from its configuration and from decoding a few tokens with it."""
    kind = type(model).__name__
    config = model.config.get_text_config(decoder=True)
    own = getattr(config, "max_position_embeddings", None)
    if own is None and context is None:
        raise Unsupported(f"{kind} states no max_position_embeddings.", "Pass the option context.")
    limit = min(n for n in (own, context) if n is not None)
    argument, cache = _decode_one(model, kind)
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
    try:
        logits = _decode_over_board(model, kind, argument, shapes)
    except Unsupported:  # not every kernel of attention takes a mask of ours; sdpa does
        with suppress(ValueError):  # the model has no other
            model.set_attn_implementation("sdpa")
        logits = _decode_over_board(model, kind, argument, shapes)
    size = sum(s.heads * (s.key_dim + s.value_dim) for s in shapes) * cache.layers[0].keys.dtype.itemsize
    return Facts(shapes, size, limit, logits, argument)


def _decode_one(model: Any, kind: str) -> tuple[str, DynamicCache]:
    """Put one token through the model: the name under which it takes a cache, and the cache it filled.

    A model may ignore an argument that it does not know, so what counts is that the cache was filled. The
    older name is tried only where the newer one is not known: beside it, it is deprecated.
    """
    failures = []
    for argument in CACHE_ARGUMENTS:
        cache = DynamicCache(config=model.config)
        ids = torch.zeros((1, 1), dtype=torch.long, device=model.device)
        try:
            with torch.inference_mode():
                model(input_ids=ids, use_cache=True, **{argument: cache})
            if cache.layers and cache.get_seq_length() == 1:
                return argument, cache
        except PROBE_ERRORS as error:
            failures.append(f"{argument}: {first_line(error)}")
            if not isinstance(error, TypeError):
                break
        else:
            failures.append(f"{argument}: it was not filled")
    raise Unsupported(
        f"{kind} does not decode one token with an ordinary cache ({'; '.join(failures)}).",
        "Use the vllm or openai engine for recurrent and hybrid models.",
    )


@torch.inference_mode()
def _decode_over_board(model: Any, kind: str, argument: str, shapes: list[LayerShape]) -> int:
    """Check that decoding over the board gives the logits of a plain call. Returns the width of the logits.

    This finds models that take no positions or no mask of their own, whatever their `forward` is called with.
    """
    vocabulary = model.get_input_embeddings().num_embeddings
    ids = torch.tensor([[n * vocabulary // 5 for n in (3, 1, 4, 2)]], device=model.device)
    last = ids.shape[1] - 1
    board = KVSlots(shapes, dtype=model.dtype, device=model.device)
    board.resize(1, WIDTH, used=0)
    board.show(0, last + 1)
    cache = SlotCache(board)
    row, position = torch.tensor([0], device=model.device), torch.tensor([last], device=model.device)
    try:
        plain = model(input_ids=ids, use_cache=False).logits[0, -1].float()
        cache.fresh(0, [last])
        positions = torch.arange(last, device=model.device)[None]
        model.base_model(
            input_ids=ids[:, :last],
            attention_mask=None,
            position_ids=positions,
            use_cache=True,
            **{argument: cache},
        )
        cache.decode(row, position, width=WIDTH)
        stepped = model(
            input_ids=ids[:, last:], attention_mask=board.mask, position_ids=position[None], use_cache=True,
            **{argument: cache},
        ).logits[0, -1].float()  # fmt: skip
    except PROBE_ERRORS as error:
        raise Unsupported(f"{kind} does not decode in a batch ({first_line(error)}).", ELSEWHERE) from error
    spread = (plain.max() - plain.min()).item()
    if not (stepped - plain).abs().max().item() <= TOLERANCE * spread:
        raise Unsupported(
            f"{kind} gives other logits in a batch than alone: it takes no positions or no mask of its own.",
            ELSEWHERE,
        )
    return int(plain.shape[0])


def decoder_of(tokenizer: Any) -> Callable[[list[int]], str]:
    """Ids to text, special tokens shown, spaces left alone."""
    return partial(tokenizer.decode, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def eos_of(model: Any, tokenizer: Any) -> tuple[int, ...]:
    eos = model.generation_config.eos_token_id
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
