"""Text to token ids and back, chat templates, and end-of-turn tokens, for every engine with a real tokenizer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from s1.engines.model_files import load_tokenizer, tokenizer_files
from s1.engines.stops import Vocabulary, vocabulary_of
from s1.errors import BadConfig, BadInput, first_line
from s1.terminal import valid_text


class EngineTokenizer(Protocol):
    """What an engine needs from a tokenizer, wherever that tokenizer runs."""

    eos_texts: tuple[str, ...]
    """The end-of-turn tokens as text."""
    template: str | None
    folder: Path | None
    tokenizer: Any
    """The transformers tokenizer, or None when it runs on a server. `s1 doctor` reads it."""
    vocab_size: int | None
    """Number of tokens, without the padding of the embedding; None when unknown."""
    vocabulary: Vocabulary | None
    """For matching stops by text; None when only single tokens can be matched, by id."""

    def encode(self, text: str) -> tuple[int, ...]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()
    ) -> str: ...


class LocalTokenizer:
    """A transformers tokenizer. `name` is for error messages; `eos` are the end-of-turn ids.

    arguments: what the chat template gets beside the messages, such as {"enable_thinking": True}. Raises BadConfig
    for a name that the template does not mention, because it would change nothing.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        name: str,
        eos: Sequence[int],
        folder: Path | None,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self.tokenizer, self.folder, self._name = tokenizer, folder, name
        self._arguments = dict(arguments or {})
        for argument in self._arguments:
            if not re.search(rf"\b{re.escape(argument)}\b", tokenizer.chat_template or ""):
                raise BadConfig(
                    f"{name}: the chat template has no argument {argument!r}.",
                    "Read the model's card for its names.",
                )
        self.vocab_size: int | None = len(tokenizer)
        self.eos_texts = tuple(str(t) for t in tokenizer.convert_ids_to_tokens(list(eos)))
        self.template: str | None = tokenizer.chat_template
        self.vocabulary: Vocabulary | None = vocabulary_of(tokenizer, self.encode, self.decode)

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(valid_text(text), add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """The chat template applied, up to where the assistant's turn begins.

        Raises BadInput when there is no template, or when it rejects the messages (a system message, say).
        """
        from jinja2 import TemplateError

        if not self.tokenizer.chat_template:
            raise BadInput(
                f"{self._name}: the tokenizer has no chat template.",
                "Set tokenizer.chat_template and save the tokenizer, or give the prompt as text.",
            )
        try:
            text: str = self.tokenizer.apply_chat_template(
                [dict(m) for m in messages],
                tools=[dict(tool) for tool in tools] or None,
                add_generation_prompt=True,
                tokenize=False,
                **self._arguments,
            )
        except TemplateError as error:
            raise BadInput(
                f"{self._name}: the chat template rejects these messages ({first_line(error)}).",
                "Use only the roles that the template supports, or use another checkpoint.",
            ) from error
        return text


class TokenizedEngine:
    """Base of the engines that have a tokenizer: the part of `s1.types.Engine` that is about text."""

    features: frozenset[str] = frozenset()

    def __init__(self, name: str, context: int, text: EngineTokenizer) -> None:
        self.name, self.context = name, context
        self.eos_texts, self.template, self.folder = text.eos_texts, text.template, text.folder
        self.tokenizer = text.tokenizer
        self.encode, self.decode, self.render = text.encode, text.decode, text.render
        self._text = text


def tokenizer_at(path: str, template: Mapping[str, Any] | None = None) -> LocalTokenizer:
    """The tokenizer of what `find_model` finds, with the end-of-turn tokens of its checkpoint. Raises BadInput.

    template: arguments of the chat template.
    """
    from transformers import AutoConfig, GenerationConfig

    files = tokenizer_files(path)

    def from_model_config(source: str) -> Any:
        return GenerationConfig.from_model_config(AutoConfig.from_pretrained(source, **files.options))

    tokenizer = load_tokenizer(files)
    eos: tuple[int, ...] = ()
    for read in (GenerationConfig.from_pretrained, from_model_config):
        try:
            eos = eos or as_ids(read(files.source).eos_token_id)
        except (OSError, ValueError):  # a tokenizer without a model has neither file
            continue
    eos = eos or as_ids(tokenizer.eos_token_id)
    return LocalTokenizer(tokenizer, name=path, eos=eos, folder=files.format_folder, arguments=template)


def tokenizer_of(
    model: Any, tokenizer: Any, name: str, template: Mapping[str, Any] | None = None
) -> LocalTokenizer:
    """The tokenizer of a loaded model."""
    path = model.name_or_path
    folder = Path(path) if path and Path(path).is_dir() else None
    return LocalTokenizer(
        tokenizer, name=name, eos=eos_ids(model, tokenizer), folder=folder, arguments=template
    )


def eos_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """The end-of-turn ids of a loaded model: its generation config often has more than the tokenizer's one."""
    return as_ids(model.generation_config.eos_token_id) or as_ids(tokenizer.eos_token_id)


def as_ids(ids: Any) -> tuple[int, ...]:
    """What transformers stores as None, one id or a list of ids, as a tuple."""
    return () if ids is None else tuple(ids) if isinstance(ids, (list, tuple)) else (int(ids),)
