"""s1 as a user installs it: the built wheel in an empty environment, with each extra, away from the checkout."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
    "ray": "import ray.data",
    "lm-eval": ["s1-lm-eval", "--help"],
    "inspect": "import s1.harness.inspect",
    "all": ["s1", "demo", "--quick"],
}
"""What each extra is for: a program, or a command. vllm has an environment of its own (`make test-vllm`)."""


def run(command: list[str], folder: Path) -> str:
    """The output of a command that must succeed, in a folder that has nothing to do with the checkout."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=folder, env=kept, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def pip(*arguments: str, folder: Path) -> None:
    run([sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments], folder)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this checkout, built from a copy so that nothing is written into it."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(
        ROOT / "s1", folder / "source" / "s1", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), "./source", folder=folder)
    return next(folder.glob("*.whl"))


@pytest.fixture
def install(wheel, tmp_path):
    """Installs the wheel with an extra into an empty environment; gives its folder of commands."""

    def into(extra: str) -> Path:
        environment = tmp_path / "environment"
        run([sys.executable, "-m", "venv", "--without-pip", str(environment)], tmp_path)
        what = f"s1[{extra}] @ {wheel.as_uri()}" if extra else str(wheel)
        pip("--python", str(environment / "bin" / "python"), "install", "--quiet", "--no-compile",
            "--constraint", str(ROOT / "constraints.txt"), what, folder=tmp_path)  # fmt: skip
        return environment / "bin"

    yield into
    shutil.rmtree(tmp_path / "environment", ignore_errors=True)  # an environment with torch takes a gigabyte


def test_without_extras_s1_is_imported_and_helps(install, tmp_path):
    commands = install("")
    assert "demo" in run([str(commands / "s1"), "--help"], tmp_path)
    run([str(commands / "python"), "-c", "import s1; s1.BudgetPolicy(waits=1)"], tmp_path)


@pytest.mark.parametrize("extra", USES)
def test_an_extra_brings_what_its_part_of_s1_needs(extra, install, tmp_path):
    commands = install(extra)
    use = USES[extra]
    if isinstance(use, str):
        run([str(commands / "python"), "-c", use], tmp_path)
    else:
        run([str(commands / use[0]), *use[1:]], tmp_path)
