"""Models in double precision: untrained ones of any architecture, made in milliseconds, and saved ones.

In single precision two logits are soon so close that rounding, and with it the processor, the number of
threads or what else is in the batch, decides what a model says.
"""

from __future__ import annotations

from typing import Any

KINDS = {
    # name in transformers, and settings that it needs besides or instead of the common ones
    "llama": ("Llama", {}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {}),
    "mistral": ("Mistral", {}),
    "phi3": ("Phi3", {}),
    "olmo2": ("Olmo2", {}),
    "gemma2": ("Gemma2", {}),
    "gpt_neox": ("GPTNeoX", {}),
    "bloom": ("Bloom", {"n_layer": 2, "n_head": 4}),
    "opt": ("OPT", {"ffn_dim": 64, "init_std": 0.3, "word_embed_proj_dim": 32}),
    "qwen3_moe": ("Qwen3Moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}),
    "qwen3_next": ("Qwen3Next", {"num_experts": 4, "num_experts_per_tok": 2}),
    "deepseek_v3": (
        "DeepseekV3",
        {
            "num_key_value_heads": 4,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "moe_intermediate_size": 32,
            "first_k_dense_replace": 1,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
        },
    ),
}
SINGLE = {"qwen3_moe", "qwen3_next", "deepseek_v3"}
"""Kinds whose kernels do not support double precision."""


def tiny(kind: str, *, vocab: int, eos: int = 1, pad: int = 2, seed: int = 0, **extra: Any) -> Any:
    """A causal language model of 2 layers, width 32 and context 512 in evaluation mode.

    Its weights are spread widely, so that its output varies.
    """
    import torch
    import transformers

    name, needs = KINDS[kind]
    common = {
        "vocab_size": vocab,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
        "bos_token_id": None,
        "eos_token_id": eos,
        "pad_token_id": pad,
    }
    config = getattr(transformers, f"{name}Config")(**{**common, **needs, **extra})
    torch.manual_seed(seed)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    return model if kind in SINGLE else model.double()


def saved(folder: Any, **options: Any) -> Any:
    """The hf engine over the checkpoint in `folder`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from s1.engines.hf import HFEngine

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    return HFEngine(model, AutoTokenizer.from_pretrained(folder), **options)
