"""s1 as a user installs it: the built wheel in an empty environment, with each extra, away from the checkout.

pip installs the wheel once with what it requires, and once alone. What an extra brings is read from the metadata of
the wheel, as pip reads it, and linked from the environment that runs the tests, where pip has installed all extras.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[1]

PETRI = "from s1.petri.world import base_model; import s1; "
USES = {
    "hf": PETRI + "g = s1.think('solve 3 x = 1 mod 7', str(base_model()), max_thinking=20, format='petri'); "
    "assert 0 < g.thinking_tokens <= 20 and g.error is None",
    "openai": "import openai, s1.engines.openai",
    "train": "from pathlib import Path; from s1.petri.world import base_model, pool; from s1.formats import FORMATS; "
    "from s1.train.settings import TrainSettings; from s1.train.sft import train; "
    "from s1.types import Question, Trace; "
    "settings = TrainSettings(max_steps=1, batch=1, bf16=False); "
    "out = train(str(base_model()), [Trace(Question('q', 'solve 3 x'), ' x 0 : 1 no .', '5')], Path('out'), "
    "FORMATS['petri'], settings); assert (out / 'model.safetensors').is_file()",
    "data": ["s1", "curate", "petri", "--n", "20", "--out", "curated"],
    "grading": "from s1.grading.equivalence import equivalent; assert equivalent('1/2', '0.5')",
    "report": "import s1.report.figures, matplotlib",
    "serve": "import s1.serve.app, uvicorn",
    "ray": "import ray.data",
    "lm-eval": ["s1-lm-eval", "--help"],
    "inspect": "import s1.harness.inspect",
    "all": "from s1.cli import main\n"
    "for command in ('curate petri --n 20 --out data', "
    "'train data --base petri --out model --set max_steps=1 --set batch=2 --set device_batch=2', "
    "'sweep --model model --benchmark petri --limit 2 --budgets 4,8 --max-answer 8 --out run', 'report run'):\n"
    "    assert main(command.split()) == 0, command",
}
"""What each extra is for: a program, or a command. vllm has an environment of its own (`make test-vllm`)."""


def run(command: list[str], folder: Path, **variables: str) -> str:
    """The output of a command that must succeed, in a folder that has nothing to do with the checkout."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    done = subprocess.run(
        command, cwd=folder, env=kept | variables, capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def pip(*arguments: str, folder: Path) -> None:
    run([sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments], folder)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built from a copy so that nothing is written into it."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(
        ROOT / "s1", folder / "source" / "s1", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), "./source", folder=folder)
    return next(folder.glob("*.whl"))


def environment(folder: Path, wheel: Path, *options: str) -> Path:
    """An empty environment with the wheel; its folder of commands."""
    run([sys.executable, "-m", "venv", "--without-pip", str(folder)], folder.parent)
    pip("--python", str(folder / "bin" / "python"), "install", "--quiet", "--no-compile", *options,
        str(wheel), folder=folder.parent)  # fmt: skip
    return folder / "bin"


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of an environment with s1 and not even what it requires."""
    return environment(tmp_path_factory.mktemp("bare") / "environment", wheel, "--no-deps")


def required(s1: Distribution, extra: str) -> dict[str, Distribution]:
    """What `s1[extra]` brings by name, in the versions installed here, which its ranges must allow."""
    here = {canonicalize_name(d.name): d for d in distributions()} | {"s1": s1}
    found: dict[str, Distribution] = {}
    seen, todo = set[tuple[str, str]](), [Requirement(f"s1[{extra}]")]
    while todo:
        wanted = todo.pop()
        name = canonicalize_name(wanted.name)
        found[name] = here[name]
        assert here[name].version in wanted.specifier, f"{wanted}, but {here[name].version} is installed"
        for each in {"", *wanted.extras}:
            if (name, each) not in seen:
                seen.add((name, each))
                asked = map(Requirement, here[name].requires or ())
                todo += [r for r in asked if r.marker is None or r.marker.evaluate({"extra": each})]
    del found["s1"]
    return found


def link(found: dict[str, Distribution], folder: Path) -> None:
    """Links in `folder` to every file of these packages that Python imports or reads."""
    for distribution in found.values():
        for file in distribution.files or ():
            if ".." not in file.parts:
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).symlink_to(Path(str(file.locate())))


def test_without_extras_s1_is_imported_and_helps(wheel: Path, tmp_path: Path) -> None:
    commands = environment(tmp_path / "environment", wheel, "--constraint", str(ROOT / "constraints.txt"))
    assert "demo" in run([str(commands / "s1"), "--help"], tmp_path)
    run([str(commands / "python"), "-c", "import s1; s1.BudgetPolicy(waits=1)"], tmp_path)


@pytest.mark.parametrize("extra", USES)
def test_an_extra_brings_what_its_part_of_s1_needs(extra: str, bare: Path, tmp_path: Path) -> None:
    (metadata,) = bare.parent.glob("lib/python*/site-packages/s1-*.dist-info")
    packages = tmp_path / "site-packages"
    link(required(Distribution.at(metadata), extra), packages)
    use = USES[extra]
    command = [str(bare / "python"), "-c", use] if isinstance(use, str) else [str(bare / use[0]), *use[1:]]
    run(command, tmp_path, PYTHONPATH=str(packages))
