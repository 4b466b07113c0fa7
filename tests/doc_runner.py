"""Runs every code block of one document, in order, in the current folder: python doc_runner.py FILE.md

The process is one of `forked.py`.

    python      one state for the whole document; `value  # 50.0` must give 50.0
    commands    `s1` through its own `main`, other programs as processes
    files       a block whose first line is a comment with a file name is that file
    other text  what a command printed; a block that begins like a command is no such text

`stand_ins` in the folder's `stand_ins.json` replaces what a reader would have: an address, a larger number. A program
that has run with the same words is not run again.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import io
import json
import os
import re
import shlex
import sys
import textwrap
import time
import tokenize
import tomllib
import urllib.request
from collections.abc import Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NamedTuple

import forked

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ("s1", "s1-lm-eval", "inspect", "python", "pip", "make", "hf", "export", "git", "vllm")
ENTRIES = {"s1-lm-eval": ["-m", "s1.harness.lm_eval"], "inspect": ["-m", "inspect_ai"], "python": []}
NOT_HERE = {
    "vllm.entrypoints.openai.api_server": "vLLM has an environment of its own, which `make test-vllm` tests",
    "vllm": "likewise",
    "hf": "the Hub cannot be reached from a test",
    "git": "it would fetch the project itself",
}
"""What is not run, and why."""
PARSED_ONLY = re.compile(
    r"s1 serve -|curate (collect|teach|clean|difficulty|diversity|5-domains)\b|--executor ray"
)
"""Needs the Hub, teachers, or a cluster, or never ends: tests/data and tests/serve run these."""
SERVERS: list[ForkServerProcess] = []
"""What `s1 serve` started; it runs until the end of the document."""
RAN: set[str] = set()
"""The programs that have run, with their words."""


class Block(NamedTuple):
    """A code block: its kind (python, commands, file or text), its text, and its first line in the document."""

    kind: str
    text: str
    line: int
    name: str = ""


def blocks_of(document: str) -> list[Block]:
    """The fenced and indented code blocks of a Markdown document."""
    return [_block(language, text, line) for language, text, line in _code(document)]


def _code(document: str) -> Iterator[tuple[str, str, int]]:
    lines = document.splitlines()
    i = 0
    while i < len(lines):
        fence = re.match(r"(\s*)```(\w*)", lines[i])
        is_indented = re.match(r" {4,}\S", lines[i])
        inside = is_indented and (not i or not lines[i - 1].strip() or lines[i - 1].startswith(("#", "```")))
        start = i
        i += 1
        if fence:
            while not lines[i].strip().startswith("```"):
                i += 1
            yield fence[2], textwrap.dedent("\n".join(lines[start + 1 : i])), start + 2
            i += 1
        elif inside:
            while i < len(lines) and (not lines[i].strip() or lines[i].startswith("    ")):
                i += 1
            yield "", textwrap.dedent("\n".join(lines[start:i])).strip(), start + 1


def _block(language: str, text: str, line: int) -> Block:
    named = re.match(r"# ([\w./-]+\.(?:py|ya?ml|jsonl?))\n", text)
    if named:
        return Block("file", text + "\n", line, named[1])
    first = text.removeprefix("$ ").split(maxsplit=1)[0]
    if language == "python" or first in ("import", "from"):
        return Block("python", text, line)
    if first in PROGRAMS or first == "#":
        return Block("commands", text, line)
    return Block("text", text, line)


def commands_of(text: str) -> list[list[str]]:
    """The commands of a block, split as a shell does. In a session only the lines after `$ ` are commands."""
    joined = re.sub(r"\\\n\s*", " ", text).splitlines()
    if text.startswith("$ "):
        joined = [line[2:] for line in joined if line.startswith("$ ")]
    return [words for line in joined if (words := shlex.split(line, comments=True))]


def run(file: Path, stand_ins: dict[str, Any]) -> None:
    """Run the document. Raises RuntimeError naming the line of the block that failed."""
    state: dict[str, Any] = {"__name__": "document"}
    for block in blocks_of(file.read_text(encoding="utf-8")):
        try:
            text = block.text
            for old, new in stand_ins.get("text", {}).items():
                text = text.replace(old, new)
            if block.kind == "file":
                Path(block.name).parent.mkdir(parents=True, exist_ok=True)
                Path(block.name).write_text(text, encoding="utf-8")
            elif block.kind == "python":
                _python(text, state)
            elif block.kind == "commands":
                for words in commands_of(text):
                    print("$", shlex.join(words), flush=True)
                    more = _shorter(words, stand_ins.get("shorter", {}))
                    _command([*words, *more], stand_ins.get("port", 8765))
        except (Exception, SystemExit) as error:
            raise RuntimeError(f"{file.name}, line {block.line}: {error!r}\n{block.text}") from error


def _shorter(words: list[str], table: dict[str, list[str]]) -> list[str]:
    """Options that make a long command short; the last one of a name counts."""
    line = shlex.join(words)
    found = [options for pattern, options in table.items() if re.search(pattern, line)]
    return [option for options in found if not set(options) <= set(words) for option in options]


def _python(text: str, state: dict[str, Any]) -> None:
    """Run statements one by one; where a comment after an expression is a value, the expression must have it."""
    said = {
        token.start[0]: token.string.removeprefix("#").strip()
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    }
    for node in ast.parse(text).body:
        if not isinstance(node, ast.Expr):
            code = compile(ast.Module([node], []), "document", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            value: Any = eval(code, state)
        else:
            value = eval(compile(ast.Expression(node.value), "document", "eval"), state)
        if inspect.iscoroutine(value):
            asyncio.run(value)
        elif isinstance(node, ast.Expr) and (comment := said.get(node.end_lineno or 0)):
            try:
                wanted = ast.literal_eval(re.split(r"[:;]", comment)[0])
            except (ValueError, SyntaxError):
                continue
            if value != wanted:
                raise AssertionError(f"{ast.unparse(node)} is {value!r}, not {wanted!r}")


def _command(words: list[str], port: int) -> None:
    """Run one command. Raises RuntimeError when it fails."""
    program, *rest = words
    module = rest[1] if program == "python" and rest[:1] == ["-m"] else program
    if module in NOT_HERE or any(word.startswith("vllm:") for word in words):
        return
    if program == "s1":
        from s1.cli import build_parser, main

        if rest == ["serve"]:
            _serve(port)
        elif PARSED_ONLY.search(shlex.join(words)):
            build_parser().parse_args(rest)
        elif code := main(rest):
            raise RuntimeError(f"exit code {code}")
    elif program == "export":
        os.environ.update(word.split("=", 1) for word in rest)
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
        if not set(rest) <= set(targets):
            raise RuntimeError(f"no such target: {rest}")
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        wanted = {e for word in rest for found in re.findall(r"^\.\[(.*)\]$", word) for e in found.split(",")}
        if not wanted <= set(extras):
            raise RuntimeError(f"no such extra: {wanted - set(extras)}")
    else:
        if rest[0].startswith(("benchmarks/", "scripts/")):
            rest[0] = str(ROOT / rest[0])
        if shlex.join(words) in RAN:
            return
        RAN.add(shlex.join(words))
        done = forked.python([*ENTRIES[program], *rest], Path.cwd())
        print(done.stdout, flush=True)
        if done.returncode:
            raise RuntimeError(f"exit code {done.returncode}\n{done.stderr[-3000:]}")


def _serve(port: int) -> None:
    """`s1 serve`, on another port than its own, which something else may have."""
    server = forked.start(["serve", "--port", str(port)], Path.cwd(), Path("serve.out"), Path("serve.err"))
    SERVERS.append(server)
    while server.exitcode is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).read()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"s1 serve ended: {Path('serve.err').read_text()}")


if __name__ == "__main__":
    found = Path("stand_ins.json")
    try:
        run(Path(sys.argv[1]), json.loads(found.read_text()) if found.is_file() else {})
    finally:
        for server in SERVERS:
            server.terminate()
            server.join()
