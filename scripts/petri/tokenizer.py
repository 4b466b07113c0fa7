"""The petri tokenizer: every known word and every integer from 0 to 159 is one token, other text is bytes.

It is a byte-level BPE without merges. A word, with the space before it, is one token if it is in the
vocabulary and is spelled in bytes otherwise, so every text survives encoding and decoding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, USER, ASSISTANT, END, OPEN, CLOSE = (
    "<|pad|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
    "<think>",
    "</think>",
)
SPECIALS = (PAD, USER, ASSISTANT, END, OPEN, CLOSE)
LARGEST = 159
"""Largest integer with a token of its own; the tasks use no larger number."""

WORDS = tuple(
    "+ - * / = ^ : ; , . > ? ( ) mod start solve find smallest poly at map steps count over in clock h pick two "
    "with sum quick slowly so yes no maybe check Wait nothing new same not problem search after claim for fact "
    "Answer Final is the to of and or then done from".split()
)
VOCABULARY_SIZE = 576

TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'user' %}<|user|>{{ ' ' + m['content'].strip() }}"
    "{% elif m['role'] == 'assistant' %}<|assistant|>{{ m['content'] }}<|end|>"
    "{% else %}{{ raise_exception('The petri model knows only the roles user and assistant.') }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, built from the word list above, with the same ids on every machine."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    pieces = [str(n) for n in range(LARGEST + 1)] + letters + [w for w in WORDS if w not in letters]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(SPECIALS)}
    for token in [f"Ġ{p}" for p in pieces] + alphabet:
        vocabulary[token] = len(vocabulary)
    if len(vocabulary) > VOCABULARY_SIZE:
        raise ValueError(f"{len(vocabulary)} tokens do not fit in {VOCABULARY_SIZE}")
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" \S+|\S+|\s"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(list(SPECIALS))
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        chat_template=TEMPLATE,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def word_ids() -> dict[str, int]:
    """The ids of single words and special tokens, to encode pre-training text without the tokenizer."""
    tokenizer = build_tokenizer()
    table = {w: tokenizer.convert_tokens_to_ids(f"Ġ{w}") for w in WORDS}
    table |= {str(n): tokenizer.convert_tokens_to_ids(f"Ġ{n}") for n in range(LARGEST + 1)}
    table |= {chr(c): tokenizer.convert_tokens_to_ids(f"Ġ{chr(c)}") for c in range(97, 123)}
    return table | {s: tokenizer.convert_tokens_to_ids(s) for s in SPECIALS}
