"""The house keeps to its plan: imports go one way, and nothing heavy is loaded before it is needed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "s1").rglob("*.py"))

LAYERS = {
    room: layer
    for layer, rooms in enumerate(
        (
            ("version", "errors", "seeds", "terminal", "loops"),
            ("types",),
            ("jsonl", "policy", "span_text"),
            ("run_commands",),
            ("formats", "grading", "runs", "clients"),
            ("engines", "prompt"),
            ("budget",),
            ("config", "drive", "replay"),
            ("methods", "logits_processor", "doctor", "vllm_plugin"),
            ("data", "train"),
            ("evals",),
            ("report",),
            ("petri",),
            ("harness",),
            ("serve",),
            ("cli",),
            ("__init__", "__main__"),
        )
    )
    for room in rooms
}
"""A room may import from lower layers and from itself. `s1` itself opens the house, so it sees every room."""

HEAVY = {
    "accelerate", "datasets", "fastapi", "inspect_ai", "lm_eval", "math_verify", "matplotlib", "numpy",
    "openai", "pandas", "peft", "polars", "prometheus_client", "pyarrow", "pydantic", "ray", "rich", "sympy",
    "tokenizers", "torch", "transformers", "trl", "uvicorn", "vllm",
}  # fmt: skip
HF_ENGINE = {
    f"engines/{name}.py" for name in ("hf", "hf_batch", "hf_row", "hf_kv_cache", "hf_checkpoint", "sampling")
}
"""The engine that runs torch in process, and its private helpers; imported when a model is loaded."""
NO_FRAMES = {
    f"data/{name}.py"
    for name in ("read_files", "executor", "attempts", "answer_judge", "domains", "source_rows")
}
"""Curation works on frames throughout, so its files import polars and numpy at the top: all but these, which are also
used where no pool is read."""
SERVER = ("fastapi", "prometheus_client", "pydantic", "uvicorn")
"""The server's files are imported when it starts."""
HARNESSES = {"lm_eval": "harness/lm_eval.py", "inspect_ai": "harness/inspect.py"}
"""The model of a harness subclasses it, so that file imports it at its top; nothing imports that file."""
SEND_POLICIES = ("engines/one_request.py", "engines/openai.py", "engines/vllm.py")
"""They hand a whole policy to a server that forces it itself, so they know what a policy is, but not the rules."""
VLLM_PLUGIN = "vllm_plugin/processor.py"
"""Subclasses interfaces of vLLM, and is loaded by vLLM alone."""


class Import(NamedTuple):
    file: str
    line: int
    module: str
    at_top: bool
    """Whether importing the file runs it."""

    def __str__(self) -> str:
        return f"s1/{self.file}:{self.line} imports {self.module}"


def imports_of(path: Path) -> Iterator[Import]:
    file = path.relative_to(ROOT / "s1").as_posix()

    def walk(node: ast.AST, at_top: bool) -> Iterator[Import]:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for child in node.orelse:
                yield from walk(child, at_top)
            return
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name, at_top)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: write the import out"
            base = node.module or ""
            for alias in node.names if base == "s1" else ():
                yield Import(file, node.lineno, f"s1.{alias.name}", at_top)
            if base != "s1":
                yield Import(file, node.lineno, base, at_top)
        inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            yield from walk(child, at_top and not inside)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), True)


IMPORTS = [each for path in FILES for each in imports_of(path)]


def room_of(file: str) -> str:
    return file.split("/")[0].removesuffix(".py")


def own_room(module: str) -> str | None:
    """The room of an `s1` module, None for a module from elsewhere or a name of `s1` itself."""
    parts = module.split(".")
    return parts[1] if parts[0] == "s1" and len(parts) > 1 and parts[1] in LAYERS else None


def listed(found: list[Import]) -> str:
    return "\n".join(map(str, found))


def test_every_room_has_its_layer() -> None:
    assert {room_of(path.relative_to(ROOT / "s1").as_posix()) for path in FILES} <= set(LAYERS)


def test_imports_go_one_way() -> None:
    wrong = [
        each
        for each in IMPORTS
        if (room := own_room(each.module)) is not None
        and room != room_of(each.file)
        and LAYERS[room] >= LAYERS[room_of(each.file)]
    ]
    assert not wrong, listed(wrong)


def test_the_machine_and_the_engines_never_meet() -> None:
    machine = ("policy", "prompt", "budget", "drive", "replay")
    pairs = {pair for room in machine for pair in ((room, "engines"), ("engines", room))}
    wrong = [
        each
        for each in IMPORTS
        if (room_of(each.file), own_room(each.module)) in pairs
        and not (each.file in SEND_POLICIES and own_room(each.module) == "prompt")
    ]
    assert not wrong, listed(wrong)


def test_the_report_reads_run_folders_only() -> None:
    files = {"jsonl", "runs", "run_commands"}
    allowed = {"version", "errors", "terminal", "types", "grading", "report", None} | files
    wrong = [
        i
        for i in IMPORTS
        if room_of(i.file) == "report"
        and own_room(i.module) not in allowed
        and i.module != "s1.evals.metrics"  # the types of metrics.json
    ]
    assert not wrong, listed(wrong)


def test_torch_is_imported_in_its_places_only() -> None:
    wrong = [
        each
        for each in IMPORTS
        if each.module.split(".")[0] == "torch"
        and each.file not in HF_ENGINE
        and room_of(each.file) not in ("petri", "train", "vllm_plugin")
    ]
    assert not wrong, listed(wrong)


def test_vllm_is_imported_in_its_engine_and_the_plug_in_only() -> None:
    wrong = [
        i
        for i in IMPORTS
        if i.module.split(".")[0] == "vllm" and i.file not in ("engines/vllm.py", VLLM_PLUGIN)
    ]
    assert not wrong, listed(wrong)


def test_heavy_imports_happen_inside_the_function_that_needs_them() -> None:
    wrong = [
        i
        for i in IMPORTS
        if i.at_top
        and (package := i.module.split(".")[0]) in HEAVY
        and i.file not in HF_ENGINE
        and i.file not in (HARNESSES.get(package), VLLM_PLUGIN)
        and not (package in SERVER and room_of(i.file) == "serve")
        and not (package in ("polars", "numpy") and room_of(i.file) == "data" and i.file not in NO_FRAMES)
    ]
    assert not wrong, listed(wrong)


def test_nothing_imports_the_models_of_other_harnesses() -> None:
    files = (*HARNESSES.values(), VLLM_PLUGIN)
    models = {f"s1.{file.removesuffix('.py').replace('/', '.')}" for file in files}
    command = "harness/command.py"  # imports its harness after a check that it is installed
    wrong = [i for i in IMPORTS if i.module in models and (i.file != command or i.at_top)]
    assert not wrong, listed(wrong)


def test_the_walk_sees_imports_in_functions_and_skips_those_for_types(tmp_path: Path) -> None:
    assert any(i.module == "torch" and not i.at_top for i in IMPORTS)
    assert any(i.module == "torch" and i.at_top for i in IMPORTS)
    assert not any(i.file == "__init__.py" and i.at_top and i.module == "s1.policy" for i in IMPORTS)


START = """
import contextlib, io, sys
{start}
print(*sorted({heavy!r} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    "start",
    [
        "import s1",
        "import s1; s1.BudgetPolicy, s1.Forcing, s1.detect, s1.Generation, s1.load_engine",
        "import s1.data.read_files, s1.data.executor, s1.evals.benchmarks",
        "import runpy\nsys.argv = ['s1', '--help']\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "    runpy.run_module('s1', run_name='__main__')",
    ],
    ids=["import", "core", "data files", "help"],
)
def test_starting_loads_nothing_heavy(start: str) -> None:
    code = START.format(start=start, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_no_file_uses_except_star():
    """Python before 3.11.4 wraps what it raises into another group, which callers do not expect."""
    starred = [
        p.name for p in FILES if any(isinstance(n, ast.TryStar) for n in ast.walk(ast.parse(p.read_text())))
    ]
    assert not starred


def test_what_is_printed_is_made_visible():
    """Control characters of models and files must not reach the terminal."""
    coloured = {"cli/think_verb.py", "cli/doctor_verb.py"}  # they colour text that was made visible
    wrong = [
        f"s1/{file}:{node.lineno}: {ast.unparse(node)}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
        if (file := path.relative_to(ROOT / "s1").as_posix()) not in coloured
        if node.args and not isinstance(node.args[0], ast.Constant)
        if not re.search(r"\b(visible|json\.dumps)\(", ast.unparse(node.args[0]))
    ]
    assert not wrong, "\n".join(wrong)
