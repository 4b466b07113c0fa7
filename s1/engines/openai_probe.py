"""What one OpenAI-compatible server is and can do, found out before anything is decoded.

Servers silently ignore fields that they do not know. So an option is sent only where the server is known to support
it (vLLM names itself), where a probe has shown it, or where the user says so with `assume`.

    token ids in and out    shown by a probe             else text, marked inexact
    min_tokens              vLLM, assumed                else bans by logit_bias, shown by a probe, else refused
    seed, top_k             vLLM, llama.cpp, SGLang, assumed    else refused
    own endpoint            llama.cpp, SGLang: token ids in and out (openai_native)
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from s1.clients.http import RequestFailure, ServerClient
from s1.engines.model_files import has_tokenizer
from s1.engines.openai_native import PATHS, native_body, native_piece
from s1.engines.stops import Vocabulary
from s1.engines.tokenizer import EngineTokenizer, LocalTokenizer, tokenizer_at
from s1.errors import BadConfig, BadInput, EngineFailure, Unsupported
from s1.types import Continuation, Sampling

EXTENSIONS = ("ignore_eos", "min_tokens", "seed", "stop_token_ids", "top_k")
"""Extensions of the completions endpoint that `assume` may name. vLLM supports them all."""
NATIVE_EXTENSIONS = {
    "llamacpp": frozenset(("seed", "top_k")),
    "sglang": frozenset(("seed", "top_k", "stop_token_ids", "ignore_eos")),
}
BIAS = 100
"""The largest logit_bias that the interface allows; beyond the range of the logits of ordinary models."""


@dataclass(frozen=True, slots=True)
class Server:
    """What was found out. `ids_in`, `ids_out`: token ids as prompt and in replies."""

    model: str
    context: int
    is_vllm: bool
    supported: frozenset[str]
    ids_in: bool = False
    ids_out: bool = False
    logit_bias: bool = False
    native: str = ""
    """Whose own endpoint is used (a key of PATHS), or "" for the OpenAI one."""
    root: str = ""
    """The address without /v1."""
    plugin: bool = False
    """Whether s1 forces inside it (docs/guides/vllm.md)."""
    drops_beam_budgets: bool = False
    """Whether it does so, and yet takes a budget with a request for beam search, where it has no effect."""

    @property
    def features(self) -> frozenset[str]:
        """See `Engine.features`."""
        grammar = {"json_schema"} if self.is_vllm or self.native else set()
        reported = {"logprobs"} if (self.is_vllm and self.exact) or self.native == "llamacpp" else set()
        return frozenset(grammar | reported)

    @property
    def exact(self) -> bool:
        return self.ids_in and self.ids_out


class ServerText:
    """The tokenizer behind /tokenize and /detokenize (vLLM). Each new text costs a request."""

    def __init__(
        self,
        client: ServerClient,
        model: str,
        eos: tuple[str, ...],
        template: Mapping[str, Any] | None = None,
    ) -> None:
        self._client, self._model = client, model
        self._arguments = dict(template or {})
        self._ids: dict[str, tuple[int, ...]] = {}
        self._texts: dict[tuple[int, ...], str] = {}
        self.template: str | None = None
        self.folder: Path | None = None
        self.tokenizer: Any = None
        self.vocab_size: int | None = None
        self.vocabulary: Vocabulary | None = None
        self.eos_texts = eos or self._find_eos()

    def encode(self, text: str) -> tuple[int, ...]:
        if text not in self._ids:
            self._ids[text] = tokenize(
                self._client, self._model, {"prompt": text, "add_special_tokens": False}
            )
        return self._ids[text]

    def decode(self, ids: Sequence[int]) -> str:
        key = tuple(ids)
        if not key:
            return ""
        if key not in self._texts:
            if len(self._texts) >= 4096:  # long prefixes, mostly seen once
                self._texts.clear()
            body = {"model": self._model, "tokens": list(key)}
            self._texts[key] = _field(self._client, self._client.root + "/detokenize", body, "prompt", str)
        return self._texts[key]

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        more = {"tools": [dict(tool) for tool in tools]} if tools else {}
        return self._render([dict(m) for m in messages], add_generation_prompt=True, **more)

    def _render(self, messages: list[dict[str, Any]], *, add_generation_prompt: bool, **more: Any) -> str:
        body: dict[str, Any] = {"messages": messages, "add_generation_prompt": add_generation_prompt}
        body |= more
        if self._arguments:
            body["chat_template_kwargs"] = self._arguments
        return self.decode(tokenize(self._client, self._model, body))

    def _find_eos(self) -> tuple[str, ...]:
        """The token that the chat template puts after an assistant's turn."""
        mark = "answer"
        turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": mark}]
        try:
            tail = self._render(turns, add_generation_prompt=False).rpartition(mark)[2]
        except RequestFailure as error:
            if error.status is None:
                raise
            raise BadConfig(
                f"The end of turn cannot be found from the server's chat template: {error.message}",
                "Name it: eos=<|im_end|>, or give the tokenizer.",
            ) from error
        first = self.encode(tail.lstrip())[:1] if tail.strip() else ()
        if not first:
            raise BadConfig(
                "The server's chat template puts no token after an assistant's turn.",
                "Name the end of turn: eos=<|im_end|>, or give the tokenizer.",
            )
        return (self.decode(first),)


def server_url(address: str) -> str:
    """The address of a server, checked, without a slash at its end. Raises BadConfig."""
    problem = ""
    try:
        parts = urllib.parse.urlsplit(address)
        _ = parts.port  # reading it checks it
    except ValueError as error:
        problem = f": {error}"
    if problem or parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadConfig(
            f"{address!r} is not the address of a server{problem}.",
            "Write openai:http://127.0.0.1:8000/v1?model=NAME.",
        )
    if parts.username or parts.password:
        raise BadConfig(
            "The address contains a password.", "Put the key in an environment variable; see api_key_env."
        )
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))


def probe_server(
    client: ServerClient,
    *,
    model: str | None,
    tokenizer: str | None,
    context: int | None,
    eos: tuple[str, ...],
    assume: frozenset[str],
    template: Mapping[str, Any] | None,
) -> tuple[Server, EngineTokenizer]:
    """The server and its tokenizer, from a few requests. Raises BadConfig, BadInput, Unsupported, EngineFailure."""
    unknown = sorted(assume - set(EXTENSIONS))
    if unknown:
        raise BadConfig(
            f"assume names {unknown[0]!r}, which is unknown.", f"Choose among: {', '.join(EXTENSIONS)}."
        )
    card = _model_card(client, model)
    name = str(card.get("id", model))
    owner = str(card.get("owned_by"))
    native = owner if owner in PATHS else ""
    length = card.get("max_model_len")
    if native == "llamacpp":
        properties = _field(client, client.root + "/props", None, "default_generation_settings", dict)
        length = properties.get("n_ctx")
    if context is None and not isinstance(length, int):
        raise BadConfig(
            f"{client.url} does not report the context length of {name}.", "Give it: context=32768."
        )
    if context is not None and isinstance(length, int) and context > length:
        raise BadConfig(
            f"{client.url} has a context of {length} tokens for each request, and context={context} asks for more.",
            f"Give context={length} or less, or start the server with a larger one.",
        )
    limit = min(n for n in (context, length) if isinstance(n, int))
    is_vllm = owner == "vllm"
    known = frozenset(EXTENSIONS) if is_vllm else assume | NATIVE_EXTENSIONS.get(native, frozenset())
    server = Server(name, limit, is_vllm, known, native=native, root=client.root)
    place = str(card.get("root") or (name if native else ""))
    text = _text_of(client, server, place, tokenizer, eos, template)
    probe = _probe_native if native else _probe_completions
    server = probe(client, server, text)
    plugin = server.is_vllm and server.exact and refuses_budgets(client, server)
    drops = plugin and not refuses_budgets(client, server, use_beam_search=True)
    return replace(server, plugin=plugin, drops_beam_budgets=drops), text


def _probe_native(client: ServerClient, server: Server, text: EngineTokenizer) -> Server:
    """Ask for one token, which shows that ids come back."""
    request = Continuation(text.encode("a"), 1, (), 0, Sampling())
    body = native_body(server.native, request, set()) | {"stream": False}
    url = server.root + PATHS[server.native]
    piece = native_piece(server.native, client.json(url, body), url)
    if len(piece.ids) != 1:
        raise EngineFailure(
            f"{url} gave {len(piece.ids)} token ids where one was asked for.", "Update the server."
        )
    return replace(server, ids_in=True, ids_out=True, logit_bias=True)


def _model_card(client: ServerClient, model: str | None) -> Mapping[str, Any]:
    try:
        cards = _field(client, client.url + "/models", None, "data", list)
    except RequestFailure as error:
        if error.status == 404 and model is not None:
            return {"id": model}
        raise
    if not all(isinstance(card, dict) and "id" in card for card in cards):
        raise EngineFailure(f"{client.url}/models replied without names of models.", "Check the address.")
    if not cards:
        raise BadConfig(
            f"{client.url} serves no model.", "Start the server with one, and try again when it is loaded."
        )
    names = [str(card["id"]) for card in cards]
    listed = ", ".join(names[:8])
    if model is None and len(names) != 1:
        raise BadConfig(f"{client.url} serves {len(names)} models: {listed}.", "Name one: model=...")
    if model is not None and model not in names:
        raise BadConfig(f"{client.url} does not serve {model!r}.", f"It serves: {listed}.")
    return dict(cards[0 if model is None else names.index(model)])


def _text_of(
    client: ServerClient,
    server: Server,
    root: str,
    tokenizer: str | None,
    eos: tuple[str, ...],
    template: Mapping[str, Any] | None,
) -> EngineTokenizer:
    """The named tokenizer, else that of the server's folder where it is on this machine, else the server's own."""
    place = Path(root)
    if tokenizer is None and place.is_absolute() and (has_tokenizer(place) or place.suffix == ".gguf"):
        tokenizer = root if place.exists() else None
    if tokenizer is None:
        if server.is_vllm:
            return ServerText(client, server.model, eos, template)
        raise BadConfig(
            f"{client.url} needs the model's tokenizer on this machine, to count and cut tokens.",
            "Give its folder, GGUF file or Hub id: tokenizer=org/name.",
        )
    local = tokenizer_at(tokenizer, template)
    local.eos_texts = eos or local.eos_texts
    if not local.eos_texts:
        raise BadConfig("The tokenizer names no end of turn.", "Name it: eos=<|im_end|>.")
    if server.is_vllm:
        _check_same_tokenizer(client, server, local)
    return local


def _check_same_tokenizer(client: ServerClient, server: Server, local: LocalTokenizer) -> None:
    """The tokenizer of another model would silently count, stop at and send back wrong tokens."""
    sample = "Wait, 12 + 34 = 46.\n\nSo the answer is é. " + "".join(local.eos_texts)
    try:
        ids = tokenize(client, server.model, {"prompt": sample, "add_special_tokens": False})
    except RequestFailure as error:
        if error.status == 404:  # the endpoint may be switched off
            return
        raise
    if ids != local.encode(sample):
        raise BadConfig(
            f"The given tokenizer is not that of {server.model}: the same text gives other ids.",
            "Give the tokenizer of the served model.",
        )


def _probe_completions(client: ServerClient, server: Server, text: EngineTokenizer) -> Server:
    """Ask for one token that the bias dictates, which shows ids in, ids out and logit_bias at once."""
    target = text.encode("1")[-1]
    ids = list(text.encode("a"))
    plain: dict[str, Any] = {
        "model": server.model,
        "max_tokens": 1,
        "temperature": 0,
        "logit_bias": {str(target): BIAS},
    }
    for more in ({"prompt": ids, "return_token_ids": True}, {"prompt": ids}, {"prompt": text.decode(ids)}):
        try:
            choices = _field(client, client.url + "/completions", plain | more, "choices", list)
        except RequestFailure as error:
            if error.status in (404, 405):
                raise Unsupported(
                    f"{client.url} has no completions endpoint: {error.message}",
                    "Budget forcing continues what the model has begun, which chat endpoints do not allow. Use a "
                    "server with /v1/completions.",
                ) from error
            if error.status in (400, 422):
                refused = error
                continue
            raise
        if len(choices) != 1 or not isinstance(choices[0], dict):
            raise EngineFailure(
                f"{client.url}/completions replied without exactly one choice.", "Check the address."
            )
        given, shown = choices[0].get("token_ids"), str(choices[0].get("text", ""))
        return replace(
            server,
            ids_in=isinstance(more["prompt"], list),
            ids_out=isinstance(given, list) and len(given) == 1,
            logit_bias=given == [target] or shown.strip() == text.decode((target,)).strip(),
        )
    raise BadInput(f"{client.url} refuses the simplest completion: {refused.message}")


def refuses_budgets(client: ServerClient, server: Server, **more: bool) -> bool:
    """Whether s1's plug-in is in a vLLM server: it refuses a negative budget, which without it means nothing."""
    body = {"model": server.model, "prompt": [0], "max_tokens": 1, "vllm_xargs": {"max_thinking": -1}, **more}
    try:
        client.json(client.url + "/completions", body)
    except RequestFailure as error:
        return error.status == 400 and "max_thinking" in error.message
    return False


def tokenize(client: ServerClient, model: str, body: Mapping[str, Any]) -> tuple[int, ...]:
    """Token ids of a text or of chat messages, from the server."""
    url = client.root + "/tokenize"
    tokens = _field(client, url, {"model": model, **body}, "tokens", list)
    if not all(type(i) is int for i in tokens):
        raise EngineFailure(
            f"{url} replied without token ids.", "Give the tokenizer here: tokenizer=org/name."
        )
    return tuple(tokens)


def _field(client: ServerClient, url: str, body: Mapping[str, Any] | None, name: str, kind: type) -> Any:
    """The field `name` of a JSON reply. Raises EngineFailure where it is missing or not of the type `kind`."""
    reply = client.json(url, body)
    found = reply.get(name) if isinstance(reply, dict) else None
    if not isinstance(found, kind):
        raise EngineFailure(
            f"{url} replied without {name!r}: {str(reply)[:200]}.",
            "Check that the address is that of an OpenAI-compatible server (it usually ends in /v1).",
        )
    return found
