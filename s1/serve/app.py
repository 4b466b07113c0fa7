"""The routes of the server. FastAPI publishes their description at /openapi.json."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from s1.errors import EngineFailure, S1Error, nearest
from s1.serve.body import (
    BudgetBody,
    ChatBody,
    CompletionBody,
    DialBody,
    Served,
    TurnBody,
    check_texts,
    forcings,
)
from s1.serve.guard import Guard, error_body, log_mistake
from s1.serve.live import Busy, ClientLeft, Desk, LiveRequest, TimedOut
from s1.serve.replies import ReplyShape
from s1.serve.responses import ResponsesBody, ResponseShape
from s1.serve.server_metrics import ServerMetrics
from s1.serve.tools import chat_prompt
from s1.types import to_json
from s1.version import VERSION

ASSETS = {"playground.js": "text/javascript", "mathml.js": "text/javascript", "playground.css": "text/css"}
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every refusal."""

    error: ErrorDetail


class Turned(BaseModel):
    """What a turn has changed."""

    id: str
    thinking_tokens: int


REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": text}
    for status, text in {
        400: "The request cannot be followed.",
        401: "The key is missing or wrong.",
        403: "A page of another origin.",
        404: "No such model or request.",
        408: "The body came too slowly.",
        409: "The thinking is over.",
        413: "The body is too large.",
        415: "The body is not JSON.",
        429: "Too many requests wait; see Retry-After.",
        500: "The server made a mistake.",
        502: "The engine failed.",
        504: "The request took too long.",
    }.items()
}


REFUSED = {
    "prompt_logprobs": "the engines give them for the answer alone.",
    **dict.fromkeys(("functions", "function_call"), "they are called tools and tool_choice now."),
    "store": "this server stores nothing. Send the whole conversation.",
    "previous_response_id": "this server stores nothing. Send the whole conversation.",
    "summary": "the reasoning is given in full.",
}
"""Fields of the OpenAI API that clients send and that no engine can follow, with the reason."""
REPLIES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The reply, or its events.",
        "content": {"application/json": {}, "text/event-stream": {}},
    }
}


def create_app(served: Served, *, key: str = "", loopback: bool = True) -> Any:
    """The server as an ASGI application. Its lifespan closes the engine. `key`, `loopback`: see `Guard`."""
    metrics = ServerMetrics()
    desk = Desk(served, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await served.engine.close()

    app = FastAPI(
        title="s1 serve",
        version=VERSION,
        lifespan=lifespan,
        docs_url=None,  # both pages load their scripts from another host
        redoc_url=None,
        responses=REFUSALS,
    )
    _add_errors(app)

    async def answer(
        prefix: str,
        body: BudgetBody,
        prompts: list[str],
        request: Request,
        asked: ResponsesBody | None = None,
    ) -> Response:
        made = forcings(body, prompts, served)
        stack = AsyncExitStack()
        live = await stack.enter_async_context(desk.begin(prefix, made, request, body.user))
        shape: ReplyShape | ResponseShape = ReplyShape(live, body, served)
        if asked is not None:
            assert isinstance(body, ChatBody)
            shape = ResponseShape(live, body, served, asked)
        if body.stream:
            try:
                await live.started()  # what goes wrong before the first token has a status of its own
            except BaseException:
                await stack.aclose()
                raise
            return StreamingResponse(
                _streamed(shape, stack), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
            )
        async with stack:
            generations = await live.done()
        for generation in generations:
            if generation.error is not None:
                raise EngineFailure(generation.error)
        return JSONResponse(shape.whole(generations))

    @app.post("/v1/chat/completions", responses=REPLIES)
    async def chat_completions(body: ChatBody, request: Request) -> Response:
        """Think about a conversation and answer it, within a budget."""
        check_texts(body.model_dump(exclude_unset=True))
        _check_model(body, served)
        prompt = chat_prompt(served.engine, body.messages, body.offered)
        return await answer("chatcmpl", body, [prompt], request)

    @app.post("/v1/completions", responses=REPLIES)
    async def completions(body: CompletionBody, request: Request) -> Response:
        """The same for plain text: the thinking follows the prompt."""
        check_texts(body.model_dump(exclude_unset=True))
        _check_model(body, served)
        return await answer(
            "cmpl", body, [body.prompt] if isinstance(body.prompt, str) else body.prompt, request
        )

    @app.post("/v1/responses", responses=REPLIES)
    async def responses(body: ResponsesBody, request: Request) -> Response:
        """The same in the words of OpenAI's newer API. Nothing is stored."""
        check_texts(body.model_dump(exclude_unset=True))
        _check_model(body, served)
        chat = body.as_chat()
        prompt = chat_prompt(served.engine, chat.messages, chat.offered)
        return await answer("resp", chat, [prompt], request, body)

    @app.post("/v1/thinking/{id}")
    async def turn(id: str, body: TurnBody) -> Turned:
        """Turn a request while it thinks. `id` is that of its reply; a stream shows it in every chunk."""
        live = desk.live.get(id)
        if live is None:
            raise HTTPException(404, "No request with this id is running.")
        if not (body.wait or body.answer_now or body.max_thinking is not None):
            raise HTTPException(400, "Nothing to turn: give wait, answer_now or max_thinking.")
        if not live.thinks:
            raise HTTPException(409, "The thinking of this request is over.")
        _turn(live, body, metrics)
        return Turned(id=id, thinking_tokens=sum(len(f.thinking) for f in live.forcings))

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The one model of this server."""
        card = {"id": served.name, "object": "model", "created": 0, "owned_by": "s1"}
        return {"object": "list", "data": [card | {"max_model_len": served.engine.context}]}

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the server lives."""
        return {"status": "ok"}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> Response:
        """Counts for Prometheus."""
        metrics.waiting.set(desk.slots.waiting)
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/settings")
    async def settings() -> dict[str, Any]:
        """What the page shows: the model, its room, the efforts, and questions to try."""
        efforts = to_json(served.settings.efforts)
        return {
            "model": served.name,
            "context": served.engine.context,
            "format": served.fmt.name,
            "policy": to_json(served.policy),
            "efforts": efforts,
            "examples": list(served.examples),
        }

    @app.get("/", include_in_schema=False)
    async def playground() -> Response:
        return Response(
            _asset("index.html"), media_type="text/html", headers={"Content-Security-Policy": CSP}
        )

    @app.get("/assets/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        if name not in ASSETS:
            raise HTTPException(404, "No such file.")
        return Response(_asset(name), media_type=ASSETS[name])

    app.router.redirect_slashes = False
    guarded = Guard(app, key=key, loopback=loopback, settings=served.settings, metrics=metrics)
    guarded.openapi = app.openapi  # type: ignore[attr-defined]
    return guarded


async def _streamed(shape: ReplyShape | ResponseShape, stack: AsyncExitStack) -> AsyncGenerator[str, None]:
    """The events; what goes wrong after the first byte is an event too, as OpenAI's clients expect."""
    async with stack:
        try:
            async for line in shape.events():
                yield line
        except ClientLeft:
            return
        except Exception as error:
            status, body = _refused(error)
            if status == 500:
                log_mistake(error)
            yield f"data: {json.dumps(body)}\n\ndata: [DONE]\n\n"


def _turn(live: LiveRequest, body: TurnBody, metrics: ServerMetrics) -> None:
    for forcing, generation in zip(live.forcings, live.generations, strict=True):
        if generation is None and forcing.phase == "thinking":
            forcing.turn(wait=body.wait, answer_now=body.answer_now, max_thinking=body.max_thinking)
    for what in ("wait", "answer_now", "max_thinking"):
        if getattr(body, what) not in (None, False):
            metrics.turns.labels(what).inc()


def _check_model(body: DialBody, served: Served) -> None:
    if body.model is not None and body.model != served.name:
        raise HTTPException(404, f"The model {body.model!r} is not served here; it is {served.name!r}.")


def _refused(error: Exception) -> tuple[int, dict[str, Any]]:
    """The status and the body for an error."""
    if isinstance(error, HTTPException):
        kind = "not_found_error" if error.status_code == 404 else "invalid_request_error"
        return error.status_code, error_body(str(error.detail), kind)
    if isinstance(error, Busy):
        return 429, error_body(str(error), "rate_limit_error")
    if isinstance(error, TimedOut):
        return 504, error_body(str(error), "timeout_error")
    if isinstance(error, EngineFailure):
        return 502, error_body(str(error), "engine_error")
    if isinstance(error, S1Error):
        return 400, error_body(str(error), param=getattr(error, "field", None))
    return 500, error_body("The server made a mistake.", "server_error")


def _add_errors(app: FastAPI) -> None:
    async def refuse(request: Request, error: Exception) -> Response:
        if isinstance(error, ClientLeft):
            return Response(status_code=499)
        status, body = _refused(error)
        headers = {"Retry-After": str(error.seconds)} if isinstance(error, Busy) else {}
        headers |= dict(error.headers or {}) if isinstance(error, HTTPException) else {}
        return JSONResponse(body, status, headers)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        message, param = _sentence(error.errors(), request)
        return JSONResponse(error_body(message, param=param), 400)

    for kind in (HTTPException, S1Error, ClientLeft):
        app.add_exception_handler(kind, refuse)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, refuse)  # the guard logs it


def _sentence(errors: Any, request: Request) -> tuple[str, str]:
    """The first mistake in a body in one sentence, and the field that it is in."""
    first = errors[0]
    *outer, last = [str(part) for part in first["loc"] if part != "body"] or [""]
    where = [part for part in outer if not re.search(r"[\[-]|^str$", part)]  # without the branches of a union
    if first["type"] == "extra_forbidden" or not re.search(r"[\[-]|^str$", last):
        where.append(last)
    param = ".".join(where)
    if first["type"] == "json_invalid":
        return "The body is not JSON.", ""
    if reason := next((REFUSED[name] for name in where if name in REFUSED), None):
        return f"{param!r} is not supported: {reason}", param
    if first["type"] == "extra_forbidden":
        kinds: dict[str, type[BaseModel]] = {
            "chat": ChatBody,
            "thinking": TurnBody,
            "responses": ResponsesBody,
        }
        kind = kinds.get(request.url.path.split("/")[2], CompletionBody)
        return f"The field {param!r} is not supported. {nearest(last, kind.model_fields)}"[:600], param
    said = first["msg"][:1].lower() + first["msg"][1:]
    return f"{param or 'The body'}: {said}."[:600], param


def _asset(name: str) -> bytes:
    return files("s1.serve").joinpath("assets", name).read_bytes()
