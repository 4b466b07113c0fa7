"""What the docs name exists: files, modules, commands with their options, links, and names to import."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path

import pytest

from s1.cli.reference import reference

ROOT = Path(__file__).resolve().parents[1]
DOCS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks" / "results").glob("*.md")),
]
FOLDERS = ("s1", "tests", "scripts", "benchmarks", "docs")


HELP = dict(part.split("\n", 1) for part in reference().split("## s1 ")[1:])
OPTIONS = {verb: set(re.findall(r"--[a-z-]+", text)) for verb, text in HELP.items()}
"""Verb -> every option that its help names."""


@pytest.fixture(params=DOCS, ids=lambda path: path.relative_to(ROOT).as_posix())
def doc(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_every_file_that_is_named_exists(doc: Path) -> None:
    found = re.findall(
        rf"(?<![\w./-])((?:{'|'.join(FOLDERS)})/[\w./-]+\.(?:py|yaml|tsv|md))\b", doc.read_text()
    )
    assert not [name for name in found if not (ROOT / name).is_file() and not (doc.parent / name).is_file()]


def test_a_file_named_without_its_folder_is_in_the_package() -> None:
    text = (ROOT / "docs" / "paper_map.md").read_text()
    files = {path.name for path in (ROOT / "s1").rglob("*.py")}
    assert not set(re.findall(r"`(\w+\.py)`", text)) - files


def test_every_link_leads_somewhere(doc: Path) -> None:
    links = re.findall(r"\]\(([^)#:\s]+)\)", doc.read_text())
    assert not [link for link in links if not (doc.parent / link).exists()]


def test_every_module_and_name_can_be_imported(doc: Path) -> None:
    text = doc.read_text()
    for module, names in re.findall(r"^\s*from (s1[\w.]*) import (.+?)(?:\s*#.*)?$", text, re.M):
        for name in names.split(","):
            found = hasattr(importlib.import_module(module), name.strip())
            assert found or importlib.util.find_spec(f"{module}.{name.strip()}"), f"{module}.{name}"
    for module in re.findall(r"python -m (s1[\w.]+)", text):
        assert importlib.util.find_spec(module), module
    for module in re.findall(r"python -m (scripts[\w.]+)", text):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module
    for dotted in re.findall(r"`(s1(?:\.\w+)+)", text):
        value = importlib.import_module("s1")
        for part in dotted.split(".")[1:]:
            if not hasattr(value, part):
                importlib.import_module(f"{value.__name__}.{part}")
            value = getattr(value, part)


def test_every_command_has_the_options_it_is_shown_with(doc: Path) -> None:
    text = re.sub(r"\\\n\s*", "", doc.read_text())
    commands = re.findall(r"(?<![\w./-])s1 ([a-z]+)\b([^\n`|#]*)", text)
    wrong = []
    for verb, rest in commands:
        if verb not in OPTIONS:
            continue
        wrong += [f"s1 {verb} {o}" for o in re.findall(r"(?<!\S)(--[a-z-]+)", rest) if o not in OPTIONS[verb]]
    assert not wrong


def test_every_verb_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    assert not [verb for verb in OPTIONS if f"s1 {verb}" not in text and f"make {verb}" not in text]


def test_commands_in_code_are_verbs(doc: Path) -> None:
    text = doc.read_text()
    shown = re.findall(r"^\s{4,}(?:\$ )?s1 ([a-z][a-z-]+)", text, re.M) + re.findall(
        r"`s1 ([a-z][a-z-]+)", text
    )
    assert not set(shown) - set(OPTIONS)
