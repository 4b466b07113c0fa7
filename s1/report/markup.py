"""What the pages share: a template with its style and scripts in one file that needs no network, tables, numbers."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from s1.types import to_json


def rendered(template: str, scripts: Sequence[str], **fields: str) -> bytes:
    """A page from assets: `fields` are markup; a security policy admits these scripts and nothing else."""
    script, style = "\n".join(map(asset, scripts)), asset("page.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    csp = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"
    return Template(asset(template)).substitute(csp=csp, style=style, script=script, **fields).encode()


def asset(name: str) -> str:
    return files("s1.report").joinpath("assets", name).read_text(encoding="utf-8")


def table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """An HTML table; a row is its opening tag and its cells."""
    top = "".join(f"<th scope=col>{name}</th>" for name in head)
    body = "".join(f"{tag}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for tag, cells in rows)
    return f"<table class=sortable><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def pairs(named: Sequence[tuple[str, str]], name: str) -> str:
    """A definition list of text."""
    body = "".join(f"<div><dt>{escape(a)}</dt><dd>{escape(b)}</dd></div>" for a, b in named)
    return f'<dl class="{name}">{body}</dl>'


def number(value: float | None, digits: int = 1, unit: str = "") -> str:
    return "none" if value is None else f"{value:,.{digits}f}{unit}"


def tokens(value: float | None) -> str:
    return number(value, 0 if (value or 0) >= 1000 else 1)


def json_text(value: Any) -> str:
    """JSON that cannot end the script element around it."""
    text = json.dumps(to_json(value), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
