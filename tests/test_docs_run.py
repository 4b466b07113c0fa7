"""Every code block of the README and the guides runs as it is written, in the order of its document.

What a reader would have is put in the folder: a model `M`, which also stands in for models of the Hub, a benchmark of
four questions, a pool, and a server. Long commands get fewer questions. `doc_runner.py` says what is not run, and why.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import forked
import pytest

sys.path.insert(0, str(Path(__file__).parent / "engines"))

from doc_runner import PROGRAMS, blocks_of, commands_of
from serve_vllm import kept_port

ROOT = Path(__file__).resolve().parents[1]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs" / "guides").glob("*.md"))]
SHORTER = {
    r"train_reward": ["--questions", "12"],
    r"benchmarks/rebase": ["--questions", "4"],
    r"benchmarks/train": ["--quick"],
    r"--max-thinking 2000\b": ["--max-thinking", "200"],
    r"--limit (40|60|300)\b": ["--limit", "6"],
    r"s1 (eval|sweep) .*--benchmark petri(?!.*--limit)": ["--limit", "4"],
    r"lm-eval run": ["--limit", "4"],
    r"s1 train": ["--set", "max_steps=2"],
}
NAMES = {
    "--model Qwen/Qwen3-1.7B": "--model M",  # the small tokenizer cannot write the delimiters of other formats
    '"Qwen/Qwen3-1.7B"': '"M"',
    "--model my/model": "--model M",
    "--format s1": "--format petri",
    "--benchmark math500": "--benchmark math500.jsonl",
    "--benchmark aime25": "--benchmark math500.jsonl",
    "Qwen2.5-7B-Instruct/tokenizer.json": "M/tokenizer.json",
    "--tokenizer T": "--tokenizer M/tokenizer.json",
    "--base M ": "--base petri ",
    "s1 train DATA": "s1 train data.parquet",
    "curate POOL": "curate pool.parquet",
}


@pytest.fixture(params=DOCS, ids=lambda path: path.stem)
def doc(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_no_command_hides_in_a_block_of_text(doc: Path) -> None:
    for block in blocks_of(doc.read_text()):
        if block.kind == "text":
            starts = {line.split(maxsplit=1)[0] for line in block.text.splitlines() if line.strip()}
            assert not starts & {*PROGRAMS, "$"}, f"{doc.name}, line {block.line}"
        elif block.kind == "commands":
            assert {words[0] for words in commands_of(block.text)} <= set(PROGRAMS), (
                f"{doc.name}, {block.line}"
            )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has."""
    import polars as pl

    from s1.engines.model_files import PETRI
    from s1.petri import world

    made = tmp_path_factory.mktemp("reader")
    shutil.copytree(PETRI, made / "M")
    config = json.loads((made / "M" / "config.json").read_text())
    (made / "M" / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 16384}))
    asked = world.questions(4)
    rows = [{"problem": q.text, "answer": q.answer, "unique_id": q.id} for q in asked]
    (made / "math500.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copy(made / "math500.jsonl", made / "aime2024.jsonl")
    pl.DataFrame(
        {"Prompt": [q.text for q in asked], "Gold": [q.answer for q in asked], "Nr": range(4),
         "Level": [4] * 4, "Subject": ["Algebra"] * 4}
    ).write_parquet(made / "my.parquet")  # fmt: skip
    pool = world.pool(300).rows
    pool.write_parquet(made / "pool.parquet")
    whole = pl.all_horizontal(pl.col("thinking", "attempt").str.strip_chars().fill_null("") != "")
    pool.filter(whole & ~pl.col("thinking").str.contains("<")).head(20).write_parquet(made / "data.parquet")
    pool.rename({"id": "question_id"}).write_parquet(made / "traces.parquet")
    return made


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    """The address of a server of completions with the model M."""
    import torch
    from imitation import Imitation
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder / "M", dtype=torch.float32)

    def logits(ids: list[int]) -> list[float]:
        with torch.inference_mode():
            return model(torch.tensor([list(ids)])).logits[0, -1].tolist()

    made = Imitation(
        AutoTokenizer.from_pretrained(folder / "M"),
        logits,
        context=2048,
        root=str(folder / "M"),
        models=("M",),
    )
    yield made.address
    made.stop()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with kept_port() as kept:
        yield kept


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_block_runs(
    doc: Path, folder: Path, server: str, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    shutil.copytree(folder, here, symlinks=True)
    addresses = {f"http://{host}:8000/v1": server for host in ("127.0.0.1", "localhost")}
    addresses |= {"127.0.0.1:8765": f"127.0.0.1:{port}"}
    stand_ins = {"text": {**NAMES, **addresses}, "shorter": SHORTER, "port": port}
    (here / "stand_ins.json").write_text(json.dumps(stand_ins))
    monkeypatch.setenv("INSPECT_DISPLAY", "none")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([installed(here), str(ROOT), str(ROOT / "tests")]))
    done = forked.python([str(ROOT / "tests" / "doc_runner.py"), str(doc)], here)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-5000:]}"


def installed(folder: Path) -> str:
    """A folder with the entry points of pyproject.toml, as an installed package would show them."""
    import tomllib

    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    about = folder / "installed" / "s1-0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: s1\nVersion: 0\n")
    lines = [f"[{g}]\n" + "".join(f"{n} = {v}\n" for n, v in found.items()) for g, found in declared.items()]
    (about / "entry_points.txt").write_text("\n".join(lines))
    return str(about.parent)
