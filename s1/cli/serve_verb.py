"""Serve a model over HTTP with a thinking dial: an OpenAI-compatible API, and a page to try it in the browser.

Without options it serves the fine-tuned model of the small world, which ships with s1. Where other machines can reach
the address, clients need the key in the environment variable S1_API_KEY.
"""

from __future__ import annotations

import argparse
import os

from s1.cli.options import add_budget, add_format, add_settings, budget_policy, open_engine
from s1.config import load_settings
from s1.errors import require
from s1.formats import choose_format
from s1.terminal import visible

KEY = "S1_API_KEY"
QUESTIONS = (
    "How many prime numbers are there between 20 and 40?",
    "What is $\\frac{3}{4} + \\frac{5}{6}$?",
    "A train travels 120 km in 1.5 hours. What is its average speed?",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    source = group.add_mutually_exclusive_group()
    source.add_argument("--model", help="checkpoint folder, Hub id or engine spec (default: petri)")
    source.add_argument("--upstream", metavar="URL", help="stand in front of a server with /v1/completions")
    add_format(group)
    group.add_argument("--name", help="name of the model for clients (default: the last part of the spec)")
    group = parser.add_argument_group("server")
    group.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: this machine only)"
    )
    group.add_argument("--port", type=int, default=8765, metavar="N", help="0 chooses a free one")
    group.add_argument(
        "--log-requests", action="store_true", help="log route, status and time of each request"
    )
    add_settings(group, "limits and reasoning efforts")
    add_budget(parser)


def run(arguments: argparse.Namespace) -> int:
    require("serve")
    from s1.serve.body import Served
    from s1.serve.listen import bind, make_server
    from s1.serve.server_settings import ServeSettings

    policy, key = budget_policy(arguments), os.environ.get(KEY, "").strip()
    settings = load_settings(ServeSettings(), arguments.config, arguments.set)
    with bind(arguments.host, arguments.port, key) as listener:
        upstream = arguments.upstream and f"openai:{arguments.upstream}"
        engine = open_engine(upstream or arguments.model or "petri", arguments.format)
        fmt = choose_format(engine, arguments.format)
        name = arguments.name or _name(engine.name)
        served = Served(engine, fmt, name, policy, settings, _examples(fmt.name))
        host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        address = f"http://{host}:{listener.getsockname()[1]}"
        print(visible(f"{name} at {address} (API: {address}/v1). Ctrl-C stops it."), flush=True)
        try:
            server = make_server(served, listener, key=key, log_requests=arguments.log_requests)
            server.run(sockets=[listener])
        except KeyboardInterrupt:  # after the shutdown
            pass
    return 0


def _name(engine: str) -> str:
    """The name for clients: of "hf:models/s1" it is s1, of "openai:URL?model=org/name" it is org/name."""
    spec, _, query = engine.partition("?")
    return query.removeprefix("model=") if query else spec.rstrip("/").rpartition("/")[2].rpartition(":")[2]


def _examples(fmt: str) -> tuple[str, ...]:
    if fmt != "petri":
        return QUESTIONS
    from s1.petri.world import questions

    return tuple(q.text for q in questions(4))
