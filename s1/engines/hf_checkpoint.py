"""What the `hf` engine must know about a model, and which models it refuses."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from s1.engines.hf_kv_cache import WIDTH, KVSlots, LayerShape, SlotCache
from s1.errors import Unsupported, first_line

CACHE_ARGUMENTS = ("cache", "past_key_values")
"""What `forward` calls its cache: the name since transformers 5.24, and the one before."""
OTHER_ENGINES = "Use the vllm or openai engine for this model."
TOLERANCE = 0.1
"""How far logits computed in the KV slots may be from those of a plain call, as a share of their spread.
Rounding in bfloat16 stays well below this, a wrong position or mask does not."""


class CheckpointFacts(NamedTuple):
    """What the batch must know about a model."""

    shapes: list[LayerShape]
    bytes_per_token: int
    context: int
    logits: int
    """Width of the logits: the vocabulary and its padding."""
    cache_argument: str
    """The keyword under which this model takes its cache."""


def checkpoint_facts(model: Any, context: int | None) -> CheckpointFacts:
    """Facts from the model's configuration and from decoding a few tokens. `context` lowers the model's own.

    Raises Unsupported for a model without a stated context, or one that cannot decode in a shared batch.
    """
    kind = type(model).__name__
    limit = context_of(model, context, kind)
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
                "this engine needs layers that attend to all earlier tokens.",
                OTHER_ENGINES,
            )
    shapes = [LayerShape(c.keys.shape[1], c.keys.shape[3], c.values.shape[3]) for c in cache.layers]
    try:
        logits = _decode_in_slots(model, kind, argument, shapes)
    except Unsupported:  # some attention kernels ignore the mask that they get; sdpa uses it
        with suppress(ValueError):  # the model has only one kernel
            model.set_attn_implementation("sdpa")
        logits = _decode_in_slots(model, kind, argument, shapes)
    size = sum(s.heads * (s.key_dim + s.value_dim) for s in shapes) * cache.layers[0].keys.dtype.itemsize
    return CheckpointFacts(shapes, size, limit, logits, argument)


def context_of(model: Any, context: int | None, name: str) -> int:
    """The model's context in tokens, at most `context`. Raises Unsupported when neither is known."""
    own = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if own is None and context is None:
        raise Unsupported(f"{name} states no max_position_embeddings.", "Pass the option context.")
    return min(n for n in (own, context) if n is not None)


def _decode_one(model: Any, kind: str) -> tuple[str, DynamicCache]:
    """Put one token through the model: the name under which it takes a cache, and the cache that it filled.

    A model may ignore an argument that it does not know, so what counts is that the cache was filled. The
    older name is deprecated where both exist, so it is tried only when the newer one is unknown.
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
        except Exception as error:  # each model fails in its own way
            failures.append(f"{argument}: {first_line(error)}")
            if not isinstance(error, TypeError):
                break
        else:
            failures.append(f"{argument}: it was not filled")
    raise Unsupported(
        f"{kind} does not decode one token with an ordinary cache ({'; '.join(failures)}).", OTHER_ENGINES
    )


@torch.inference_mode()
def _decode_in_slots(model: Any, kind: str, argument: str, shapes: list[LayerShape]) -> int:
    """Check that decoding in KV slots gives the logits of a plain call. Returns the width of the logits.

    This finds models that ignore positions or masks passed to `forward`, whatever its signature says.
    """
    vocabulary = model.get_input_embeddings().num_embeddings
    ids = torch.tensor([[n * vocabulary // 5 for n in (3, 1, 4, 2)]], device=model.device)
    last = ids.shape[1] - 1
    slots = KVSlots(shapes, dtype=model.dtype, device=model.device)
    slots.resize(1, WIDTH, used=0)
    slots.show(0, last + 1)
    view = SlotCache(slots)
    row, position = torch.tensor([0], device=model.device), torch.tensor([last], device=model.device)
    try:
        plain = model(input_ids=ids, use_cache=False).logits[0, -1].float()
        view.begin(0, [last])
        positions = torch.arange(last, device=model.device)[None]
        model.base_model(
            input_ids=ids[:, :last],
            attention_mask=None,
            position_ids=positions,
            use_cache=True,
            **{argument: view},
        )
        view.decode(row, position, width=WIDTH)
        stepped = model(
            input_ids=ids[:, last:], attention_mask=slots.mask, position_ids=position[None], use_cache=True,
            **{argument: view},
        ).logits[0, -1].float()  # fmt: skip
    except Exception as error:
        raise Unsupported(
            f"{kind} does not decode in a batch ({first_line(error)}).", OTHER_ENGINES
        ) from error
    spread = (plain.max() - plain.min()).item()
    if not (stepped - plain).abs().max().item() <= TOLERANCE * spread:
        raise Unsupported(
            f"{kind} gives different logits in a batch than alone: it ignores the positions or the mask.",
            OTHER_ENGINES,
        )
    return int(plain.shape[0])


def default_cache_bytes(device: torch.device) -> int:
    """Four fifths of the free memory of a GPU, or a quarter of the machine's memory."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free * 4 // 5
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
