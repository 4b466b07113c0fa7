"""What one OpenAI-compatible server is and can do, found out before anything is decoded.

Servers ignore fields that they do not know, without a word. So an option is passed on only where the server
is known to honour it (vLLM says who it is), where a probe has proved it, or where the user vouches for it.

    token ids in and out    proved by a probe            else text, marked inexact
    min_tokens              vLLM, vouched                 else bans by logit_bias, proved by a probe, else refused
    seed, top_k             vLLM, vouched                 else refused
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from s1.clients.http import Http, Refusal
from s1.engines.stops import Vocabulary
from s1.engines.tokenizer import LocalText, Text, has_tokenizer
from s1.errors import BadConfig, BadInput, EngineFailure, Unsupported

VOUCHABLE = ("ignore_eos", "min_tokens", "seed", "stop_token_ids", "top_k")
"""Extensions of the completions endpoint that a user may vouch for. vLLM has them all."""
BIAS = 100
"""The largest logit_bias that the interface allows; beyond the range of the logits of ordinary models."""


@dataclass(frozen=True, slots=True)
class Server:
    """What was found out. `ids_in`, `ids_out`: token ids as prompt and in answers."""

    model: str
    context: int
    is_vllm: bool
    honours: frozenset[str]
    ids_in: bool = False
    ids_out: bool = False
    logit_bias: bool = False

    @property
    def exact(self) -> bool:
        return self.ids_in and self.ids_out


class ServerText:
    """The tokenizer behind /tokenize and /detokenize (vLLM). Each new text costs a request."""

    def __init__(self, http: Http, model: str, eos: tuple[str, ...]) -> None:
        self._http, self._model = http, model
        self._ids: dict[str, tuple[int, ...]] = {}
        self._texts: dict[tuple[int, ...], str] = {}
        self.template: str | None = None
        self.folder: Path | None = None
        self.tokenizer: Any = None
        self.tokens: int | None = None
        self.vocabulary: Vocabulary | None = None
        self.eos_texts = eos or self._found_end()

    def encode(self, text: str) -> tuple[int, ...]:
        if text not in self._ids:
            body = {"prompt": text, "add_special_tokens": False}
            self._ids[text] = self._tokenized(body)
        return self._ids[text]

    def decode(self, ids: Sequence[int]) -> str:
        key = tuple(ids)
        if not key:
            return ""
        if key not in self._texts:
            if len(self._texts) >= 4096:  # long prefixes, mostly seen once
                self._texts.clear()
            answer = self._http.json(
                "POST", self._http.root + "/detokenize", {"model": self._model, "tokens": list(key)}
            )
            self._texts[key] = _prompt_of(answer, self._http)
        return self._texts[key]

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        body = {"messages": [dict(m) for m in messages], "add_generation_prompt": True}
        return self.decode(self._tokenized(body))

    def _tokenized(self, body: Mapping[str, Any]) -> tuple[int, ...]:
        answer = self._http.json("POST", self._http.root + "/tokenize", {"model": self._model, **body})
        return _tokens_of(answer, self._http)

    def _found_end(self) -> tuple[str, ...]:
        """The token that the chat template puts after an assistant's turn."""
        mark = "answer"
        turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": mark}]
        try:
            ids = self._tokenized({"messages": turns, "add_generation_prompt": False})
        except Refusal as error:
            raise BadConfig(
                f"The end of turn cannot be found from the server's chat template: {error.message}",
                "Name it: eos=<|im_end|>, or give the tokenizer.",
            ) from error
        tail = self.decode(ids).rpartition(mark)[2]
        first = self.encode(tail.lstrip())[:1] if tail.strip() else ()
        if not first:
            raise BadConfig(
                "The server's chat template puts no token after an assistant's turn.",
                "Name the end of turn: eos=<|im_end|>, or give the tokenizer.",
            )
        return (self.decode(first),)


def examine(
    http: Http,
    *,
    model: str | None,
    tokenizer: str | None,
    context: int | None,
    eos: tuple[str, ...],
    honours: frozenset[str],
) -> tuple[Server, Text]:
    """The server and its tokenizer, from a few requests. Raises BadConfig, BadInput, Unsupported, EngineFailure."""
    unknown = sorted(honours - set(VOUCHABLE))
    if unknown:
        raise BadConfig(f"honours names {unknown[0]!r}.", f"Choose among: {', '.join(VOUCHABLE)}.")
    card = _model_card(http, model)
    name = str(card.get("id", model))
    length = card.get("max_model_len")
    if context is None and not isinstance(length, int):
        raise BadConfig(
            f"{http.base} does not say how long the context of {name} is.", "Give it: context=32768."
        )
    limit = min(n for n in (context, length) if isinstance(n, int))
    is_vllm = card.get("owned_by") == "vllm"
    server = Server(name, limit, is_vllm, frozenset(VOUCHABLE) if is_vllm else honours)
    text = _text_of(http, server, card, tokenizer, eos)
    return _probed(http, server, text), text


def _model_card(http: Http, model: str | None) -> Mapping[str, Any]:
    try:
        listed = http.json("GET", http.base + "/models")
    except Refusal as error:
        if error.status == 404 and model is not None:
            return {"id": model}
        raise
    cards = listed.get("data") if isinstance(listed, dict) else None
    if not isinstance(cards, list) or not all(isinstance(c, dict) and "id" in c for c in cards):
        raise EngineFailure(f"{http.base}/models answered without a list of models.", "Check the address.")
    names = [str(c["id"]) for c in cards]
    if model is None and len(names) != 1:
        raise BadConfig(
            f"{http.base} serves {len(names)} models: {', '.join(names[:8])}.", "Name one: model=..."
        )
    chosen = [c for c in cards if model is None or c["id"] == model]
    if not chosen:
        raise BadConfig(f"{http.base} does not serve {model!r}.", f"It serves: {', '.join(names[:8])}.")
    return dict(chosen[0])


def _text_of(
    http: Http, server: Server, card: Mapping[str, Any], tokenizer: str | None, eos: tuple[str, ...]
) -> Text:
    """The named tokenizer, else the server's folder where this machine has it, else the server's own."""
    root = str(card.get("root") or "")
    local: LocalText | None = None
    if tokenizer is not None:
        local = LocalText(tokenizer)
    elif Path(root).is_absolute() and has_tokenizer(Path(root)):
        local = LocalText(root)
    if local is not None:
        local.eos_texts = eos or local.eos_texts
        if not local.eos_texts:
            raise BadConfig("The tokenizer names no end of turn.", "Name it: eos=<|im_end|>.")
        if server.is_vllm:
            _same_tokenizer(http, server, local)
        return local
    if not server.is_vllm:
        raise BadConfig(
            f"{http.base} needs the model's tokenizer here, to count and cut tokens.",
            "Give its folder or Hub id: tokenizer=org/name.",
        )
    return ServerText(http, server.model, eos)


def _same_tokenizer(http: Http, server: Server, local: LocalText) -> None:
    """A tokenizer of another model would count, stop and feed back wrong tokens without a word."""
    sample = "Wait, 12 + 34 = 46.\n\nSo the answer is é. " + "".join(local.eos_texts)
    body = {"model": server.model, "prompt": sample, "add_special_tokens": False}
    try:
        answer = http.json("POST", http.root + "/tokenize", body)
    except Refusal as error:
        if error.status == 404:  # the endpoint may be switched off
            return
        raise
    if _tokens_of(answer, http) != local.encode(sample):
        raise BadConfig(
            f"The tokenizer given is not the one of {server.model}: the same text gives other ids.",
            "Give the tokenizer of the served model.",
        )


def _tokens_of(answer: Any, http: Http) -> tuple[int, ...]:
    tokens = answer.get("tokens") if isinstance(answer, dict) else None
    if not isinstance(tokens, list) or not all(type(i) is int for i in tokens):
        raise EngineFailure(
            f"{http.root}/tokenize answered without tokens: {str(answer)[:200]}.",
            "Give the tokenizer here: tokenizer=org/name.",
        )
    return tuple(tokens)


def _prompt_of(answer: Any, http: Http) -> str:
    text = answer.get("prompt") if isinstance(answer, dict) else None
    if not isinstance(text, str):
        raise EngineFailure(
            f"{http.root}/detokenize answered without a text: {str(answer)[:200]}.",
            "Give the tokenizer here: tokenizer=org/name.",
        )
    return text


def _probed(http: Http, server: Server, text: Text) -> Server:
    """Ask for one token that the bias dictates: shows ids in, ids out and logit_bias at once."""
    target = text.encode("1")[-1]
    ids = list(text.encode("a"))
    plain = {
        "model": server.model,
        "max_tokens": 1,
        "temperature": 0,
        "logit_bias": {str(target): BIAS},
    }
    full = plain | {"prompt": ids, "return_token_ids": True}
    for body in (full, plain | {"prompt": ids}, plain | {"prompt": text.decode(ids)}):
        try:
            choice = _choice_of(http.json("POST", http.base + "/completions", body), http)
        except Refusal as error:
            if error.status in (404, 405):
                raise Unsupported(
                    f"{http.base} offers no completions endpoint: {error.message}",
                    "Forcing continues what the model has begun, which chat endpoints do not allow. Use a "
                    "server with /v1/completions, or s1.engines.hosted for an API that caps thinking itself.",
                ) from error
            if error.status in (400, 422):
                refused = error
                continue
            raise
        given = choice.get("token_ids")
        said = str(choice.get("text", ""))
        return replace(
            server,
            ids_in=isinstance(body["prompt"], list),
            ids_out=isinstance(given, list) and len(given) == 1,
            logit_bias=given == [target] or said.strip() == text.decode((target,)).strip(),
        )
    raise BadInput(f"{http.base} refuses the simplest completion: {refused.message}")


def _choice_of(answer: Any, http: Http) -> Mapping[str, Any]:
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise EngineFailure(
            f"{http.base}/completions answered without exactly one choice.", "Check the address."
        )
    return choices[0]
