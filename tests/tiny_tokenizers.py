"""Tokenizers of a few hundred ids, made in milliseconds, that split and merge text as published ones do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>"
ADDED = ("<|end|>", "<|user|>", "<|assistant|>")
PIECES = ("</", "think", ".\n\n", "\n\n", " so", "Wait", " a")


def _merges(pieces: Sequence[str]) -> list[tuple[str, str]]:
    """Merges that build each piece from its characters, from the left."""
    return list(dict.fromkeys((piece[:n], piece[n]) for piece in pieces for n in range(1, len(piece))))


def _wrapped(raw: Any, **options: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    raw.add_special_tokens(list(ADDED))
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token=ADDED[0], pad_token=ADDED[0], chat_template=TEMPLATE, **options
    )


def byte_level(pieces: Sequence[str] = PIECES) -> Any:
    """Byte-level BPE: `</think>` is three tokens, as for SmolLM2, and ".\\n\\n" is one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    names = {c: c.replace(" ", "Ġ").replace("\n", "Ċ") for c in pieces}
    merges = _merges(list(names.values()))
    vocab = dict.fromkeys([*sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in merges)])
    raw = Tokenizer(models.BPE(vocab={piece: n for n, piece in enumerate(vocab)}, merges=merges))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    return _wrapped(raw)


def sentencepiece(scheme: str, pieces: Sequence[str] = PIECES) -> Any:
    """SentencePiece style with bytes for unknown characters: scheme "always", "first" or "never" for the space before a
    text, or "legacy", which puts it there as the first Llama did."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    merges = _merges([piece.replace(" ", "▁") for piece in (*pieces, " Wait")])
    letters = [chr(n) for n in range(33, 127)] + ["▁"]
    known = dict.fromkeys(["<unk>", *(f"<0x{n:02X}>" for n in range(256)), *letters])
    known |= dict.fromkeys([c for pair in merges for c in pair] + [a + b for a, b in merges])
    vocab = {piece: n for n, piece in enumerate(known)}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True))
    strip = [] if scheme == "never" else [decoders.Strip(" ", 1, 0)]
    if scheme == "legacy":
        raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return _wrapped(raw)


def model_with(tokenizer: Any, chances: dict[str, float], seed: int = 0) -> Any:
    """A tiny Llama that writes mostly the tokens that `chances` names, each about that often."""
    import math

    import torch
    from tiny_models import tiny

    model = tiny(
        "llama", vocab=len(tokenizer), eos=tokenizer.eos_token_id, pad=tokenizer.eos_token_id, seed=seed
    )
    head = torch.nn.Linear(model.config.hidden_size, len(tokenizer), dtype=model.dtype)
    with torch.no_grad():
        head.weight.copy_(model.lm_head.weight)
        head.bias.fill_(-30.0)
        for piece, chance in chances.items():
            token = tokenizer(piece, add_special_tokens=False)["input_ids"][
                -1
            ]  # after a space before the text
            head.bias[token] = math.log(chance)
    model.lm_head = head
    return model
