"""Text to token ids and back, chat templates, and end-of-turn tokens, for every engine with a real tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from s1.engines.adapter import is_adapter
from s1.engines.stops import Vocabulary, vocabulary_of
from s1.errors import BadInput, first_line

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")


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

    def render(self, messages: Sequence[Mapping[str, str]]) -> str: ...


class LocalTokenizer:
    """A transformers tokenizer. `name` is for error messages; `eos` are the end-of-turn ids."""

    def __init__(self, tokenizer: Any, *, name: str, eos: Sequence[int], folder: Path | None) -> None:
        self.tokenizer, self.folder, self._name = tokenizer, folder, name
        self.vocab_size: int | None = len(tokenizer)
        self.eos_texts = tuple(str(t) for t in tokenizer.convert_ids_to_tokens(list(eos)))
        self.template: str | None = tokenizer.chat_template
        self.vocabulary: Vocabulary | None = vocabulary_of(tokenizer)

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
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
                [dict(m) for m in messages], add_generation_prompt=True, tokenize=False
            )
        except TemplateError as error:
            raise BadInput(
                f"{self._name}: the chat template rejects these messages ({first_line(error)}).",
                "Use only the roles that the template supports, or use another checkpoint.",
            ) from error
        return text


class TokenizedEngine:
    """Base of the engines that have a tokenizer: the part of `s1.types.Engine` that is about text."""

    def __init__(self, name: str, context: int, text: EngineTokenizer) -> None:
        self.name, self.context = name, context
        self.eos_texts, self.template, self.folder = text.eos_texts, text.template, text.folder
        self.tokenizer = text.tokenizer
        self._text = text

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of `text`, special tokens recognised, none added."""
        return self._text.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, special tokens shown."""
        return self._text.decode(ids)

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The chat template applied, up to where the assistant's turn begins."""
        return self._text.render(messages)


def read_tokenizer(path: str) -> Any:
    """The transformers tokenizer of a folder or Hub id. Raises BadInput when it cannot be loaded."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(
            f"{path}: the tokenizer cannot be loaded ({first_line(error)}).",
            "Give a folder with tokenizer files (tokenizer.save_pretrained writes them) or a Hub id (org/name).",
        ) from error


def tokenizer_at(path: str) -> LocalTokenizer:
    """The tokenizer of a folder or Hub id, with the end-of-turn tokens of its checkpoint. Raises BadInput."""
    from transformers import AutoConfig, GenerationConfig

    def from_model_config(path: str) -> Any:
        return GenerationConfig.from_model_config(AutoConfig.from_pretrained(path))

    tokenizer = read_tokenizer(path)
    eos: tuple[int, ...] = ()
    for read in (GenerationConfig.from_pretrained, from_model_config):
        try:
            eos = eos or as_ids(read(path).eos_token_id)
        except (OSError, ValueError):  # a tokenizer without a model has neither file
            continue
    folder = Path(path) if Path(path).is_dir() else None
    return LocalTokenizer(tokenizer, name=path, eos=eos or as_ids(tokenizer.eos_token_id), folder=folder)


def tokenizer_of(model: Any, tokenizer: Any, name: str) -> LocalTokenizer:
    """The tokenizer of a loaded model."""
    path = model.name_or_path
    folder = Path(path) if path and Path(path).is_dir() else None
    return LocalTokenizer(tokenizer, name=name, eos=eos_ids(model, tokenizer), folder=folder)


def eos_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """The end-of-turn ids of a loaded model: its generation config often has more than the tokenizer's one."""
    return as_ids(model.generation_config.eos_token_id) or as_ids(tokenizer.eos_token_id)


def as_ids(ids: Any) -> tuple[int, ...]:
    """What transformers stores as None, one id or a list of ids, as a tuple."""
    return () if ids is None else tuple(ids) if isinstance(ids, (list, tuple)) else (int(ids),)


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds the files of a tokenizer."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def model_path(path: str) -> str:
    """`path` with ~ expanded: a folder with a model and a tokenizer, or a Hub id. Raises BadInput otherwise."""
    if not path:
        raise BadInput("The engine needs a model.", "Give a folder or a Hub id: hf:FOLDER or hf:org/name.")
    folder = Path(path).expanduser()
    if not folder.exists():
        if path.startswith((".", "/", "~")) or path.count("/") > 1:
            raise BadInput(f"{path}: no such folder.", "Check the path, or give a Hub id such as org/name.")
        return path
    if is_adapter(folder):
        raise BadInput(
            f"{path}: an adapter, which this engine does not load.",
            "Load it with hf:FOLDER, or write the whole model with s1 train ... --merge.",
        )
    if not (folder / "config.json").is_file():
        raise BadInput(
            f"{path}: not a model folder (config.json is missing).",
            "Give the folder that model.save_pretrained wrote.",
        )
    if not has_tokenizer(folder):
        raise BadInput(
            f"{path}: the model folder has no tokenizer.", "Add it: tokenizer.save_pretrained(folder)."
        )
    return str(folder)
