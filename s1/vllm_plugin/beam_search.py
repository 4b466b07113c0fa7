"""Refuses a budget for beam search, where the server was started with

    vllm serve MODEL --middleware s1.vllm_plugin.beam_search.RefuseBeamSearch

A logits processor cannot: vLLM runs beam search as requests for one token each, which it makes anew without the
fields of the user's request.
"""

from __future__ import annotations

import json

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from s1.vllm_plugin.request import FIELDS


class RefuseBeamSearch:
    """ASGI middleware: HTTP 400 for a request with a budget and `use_beam_search`. All others pass unchanged."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body of a POST, judge it, and hand it on."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        message, body = await receive(), b""
        while message["type"] == "http.request":
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
            message = await receive()
        if fields := budget_of_beam_search(body):
            why = f"A thinking budget ({', '.join(fields)}) cannot be combined with use_beam_search."
            text = f"{why} Leave one of them out."
            error = {"message": text, "type": "BadRequestError", "param": "use_beam_search", "code": 400}
            await JSONResponse({"error": error}, 400)(scope, receive, send)
            return
        first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        if message["type"] != "http.request":  # the client has left
            first = [message]

        async def again() -> Message:
            return first.pop() if first else await receive()

        await self.app(scope, again, send)


def budget_of_beam_search(body: bytes) -> list[str]:
    """The fields of a budget in the JSON of a request for beam search; none for any other request."""
    if b"use_beam_search" not in body or b"vllm_xargs" not in body:
        return []
    try:
        request = json.loads(body)
    except ValueError:  # vLLM says what is wrong with it
        return []
    if not isinstance(request, dict) or not request.get("use_beam_search"):
        return []
    given = request.get("vllm_xargs")
    return [name for name in FIELDS if name in given] if isinstance(given, dict) else []
