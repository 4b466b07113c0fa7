"""Text to ids and back for engines that hold no tokenizer of their own: the one of a folder or Hub id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from s1.engines.stops import Vocabulary, vocabulary_of
from s1.errors import BadInput, first_line


class Text(Protocol):
    """What an engine needs to know of a tokenizer, wherever that runs."""

    eos_texts: tuple[str, ...]
    """The end-of-turn tokens as text."""
    template: str | None
    folder: Path | None
    tokenizer: Any
    """The one of transformers, where it is here; for looking at, as `s1 doctor` does."""
    tokens: int | None
    """Size of the vocabulary, padding of the embedding not counted; None when unknown."""
    vocabulary: Vocabulary | None
    """For matching stops by text; None where single tokens can be matched by id only."""

    def encode(self, text: str) -> tuple[int, ...]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def render(self, messages: Sequence[Mapping[str, str]]) -> str: ...


class LocalText:
    """The tokenizer of a folder or Hub id. Raises BadInput when there is none that transformers can read."""

    def __init__(self, path: str) -> None:
        from transformers import AutoTokenizer

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(
                f"{path}: the tokenizer cannot be loaded ({first_line(error)}).",
                "Give a folder with tokenizer files or a Hub id (org/name).",
            ) from error
        self._path = path
        self.tokens: int | None = len(self.tokenizer)
        ends = _end_ids(path) or _listed(self.tokenizer.eos_token_id)
        self.eos_texts = tuple(str(t) for t in self.tokenizer.convert_ids_to_tokens(list(ends)))
        self.template: str | None = self.tokenizer.chat_template
        self.folder: Path | None = Path(path) if Path(path).is_dir() else None
        self.vocabulary: Vocabulary | None = vocabulary_of(self.tokenizer)

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        return str(
            self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        if not self.tokenizer.chat_template:
            raise BadInput(
                f"{self._path}: the tokenizer has no chat template.",
                "Set tokenizer.chat_template and save the tokenizer, or give the prompt as text.",
            )
        return apply_template(self.tokenizer, messages, self._path)


def apply_template(tokenizer: Any, messages: Sequence[Mapping[str, str]], name: str) -> str:
    """The chat template applied, up to where the assistant begins.

    Raises BadInput with the template's own words where it takes no such messages, as a system message.
    """
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(
            [dict(m) for m in messages], add_generation_prompt=True, tokenize=False
        )
    except TemplateError as error:
        raise BadInput(
            f"{name}: the chat template refuses these messages ({first_line(error)}).",
            "Send the roles that it knows, or another checkpoint.",
        ) from error
    return str(text)


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds the files of a tokenizer."""
    names = ("tokenizer.json", "tokenizer.model", "vocab.json")
    return any((folder / name).is_file() for name in names)


def _end_ids(path: str) -> tuple[int, ...]:
    """The end-of-turn ids that the checkpoint names for generation; often more than the tokenizer's one."""
    from transformers import AutoConfig, GenerationConfig

    def from_config(path: str) -> Any:
        return GenerationConfig.from_model_config(AutoConfig.from_pretrained(path))

    for read in (GenerationConfig.from_pretrained, from_config):
        try:
            ids = _listed(read(path).eos_token_id)
        except (OSError, ValueError):  # a tokenizer alone has neither file
            continue
        if ids:
            return ids
    return ()


def _listed(ids: Any) -> tuple[int, ...]:
    return () if ids is None else tuple(ids) if isinstance(ids, (list, tuple)) else (int(ids),)
