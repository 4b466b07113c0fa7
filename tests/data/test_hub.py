"""Every source from a Hub: `datasets` itself, in a process of its own, against an imitation on this machine."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from imitation_hub import ImitationHub
from test_sources import DOCUMENTED, GPQA, SOURCES

from s1.data.sources import PARQUET_COPY, Source

OTHER = {"question": "Q", "passage": None, "options": ["(A)a", "(B)b"], "label": "A", "answer": None}
ROWS: dict[str, list[dict[str, Any]]] = {
    **{name: [row] for name, (row, *_) in DOCUMENTED.items()},
    "math": [
        {"problem": "P", "solution": "S", "answer": "1", "subject": "Algebra", "level": 3, "unique_id": "x"}
    ],
    "aime": [
        {"ID": f"{y}-1", "Year": y, "Question": f"Q{y}", "Answer": "7", "Part": None} for y in (2021, 2022)
    ],
    "omnimath": [
        {"problem": "P", "solution": "S", "answer": "A", "domain": ["x"], "difficulty": 4.5, "source": "s"}
    ],
    "theoremqa": [
        {
            "Question": "seen",
            "Answer": "1",
            "Answer_type": "float",
            "Picture": {"bytes": b"no image", "path": None},
        },
        {"Question": "read", "Answer": "2", "Answer_type": "float", "Picture": None},
    ],
    "jeebench": [{"subject": "phy", "question": "Q", "gold": "AB", "type": "MCQ(multiple)", "index": 1}],
    "agieval": [OTHER],
    "gpqa": [GPQA],
}
"""What each set holds, in the columns of the Hub; every part of a set gets the same rows."""


def parquet(rows: list[dict[str, Any]]) -> bytes:
    from datasets import Dataset, Features, Image

    made = Dataset.from_list(rows)
    if "Picture" in made.features:
        made = made.cast(Features({**made.features, "Picture": Image(decode=False)})).cast_column(
            "Picture", Image()
        )
    out = io.BytesIO()
    made.to_parquet(out)
    return out.getvalue()


def repository(source: Source, rows: list[dict[str, Any]]) -> dict[tuple[str, str], Mapping[str, bytes]]:
    """The set as the Hub has it: configs in the card, files of a set with a script, or the Parquet copy."""
    if source.files:
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        files = {name: lines for name in source.files}
        return {(source.hub, "main"): {**files, f"{source.hub.split('/')[1]}.py": b"raise SystemExit"}}
    data, configs = parquet(rows), source.configs or ("default",)
    if source.revision:
        copied = {f"{c}/{s}/0000.parquet": data for c in configs for s in source.splits}
        return {(source.hub, "main"): {"README.md": b"---\n---\n"}, (source.hub, source.revision): copied}
    card = ["---", "configs:"]
    for config in (*configs, *(("gpqa_diamond",) if "gpqa_extended" in configs else ())):
        card += [f"- config_name: {config}", "  data_files:"]
        card += [f"  - {{split: {s}, path: {config}/{s}.parquet}}" for s in source.splits]
    found = {f"{c}/{s}.parquet": data for c in configs for s in source.splits}
    if "gpqa_extended" in configs:
        found["gpqa_diamond/train.parquet"] = parquet([{**GPQA, "Question": "Diamond?"}])
    return {(source.hub, "main"): {"README.md": "\n".join([*card, "---", ""]).encode(), **found}}


@pytest.fixture(scope="module")
def hub() -> Iterator[ImitationHub]:
    repos: dict[tuple[str, str], Mapping[str, bytes]] = {}
    for name, source in SOURCES.items():
        repos |= repository(source, ROWS[name])
    server = ImitationHub(repos)
    yield server
    server.close()


LOAD = """
import json, sys
from s1.data.sources import load_source, read_sources
from s1.errors import S1Error
known = read_sources()
for name in sys.argv[1:]:
    try:
        rows = load_source(known[name]).rows.select("question", "answer", "source").rows()
        print(json.dumps([name, sorted(set(rows)), ""]))
    except S1Error as error:
        print(json.dumps([name, [], str(error)]))
"""


def load(hub: ImitationHub, home: Path, *names: str, **changes: str) -> dict[str, tuple[list[Any], str]]:
    """Rows (without copies) or the error of each source."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    environment = {
        **kept,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        **changes,
    }
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *names], capture_output=True, text=True, env=environment, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: (rows, error) for name, rows, error in map(json.loads, done.stdout.splitlines())}


def test_every_source_is_read_from_the_hub_by_datasets_itself(hub: ImitationHub, tmp_path: Path) -> None:
    found = load(hub, tmp_path, *SOURCES)
    assert {name: error for name, (_, error) in found.items() if error} == {}
    for name, (_, question, answer, source, _) in DOCUMENTED.items():
        assert found[name][0] == [[question, answer, source]], name
    assert found["aime"][0] == [["Q2021", "7", "qq8933/AIME_1983_2024"]]
    assert found["theoremqa"][0] == [["read", "2", "TIGER-Lab/TheoremQA/float"]]
    assert [row[:2] for row in found["agieval"][0]] == [["Q\n(A)a\n(B)b", "A"]] * 8
    assert {row[2] for row in found["agieval"][0]} == {
        f"baber/agieval/{c}" for c in SOURCES["agieval"].configs
    }
    (gpqa,) = found["gpqa"][0]
    assert gpqa[0].startswith("Which?\n\n(A) ")
    # What was fetched once is read again without a connection.
    assert load(hub, tmp_path, "math", HF_HUB_OFFLINE="1") == {"math": found["math"]}


def test_what_cannot_be_had_says_how_to_get_it(hub: ImitationHub, tmp_path: Path) -> None:
    hub.gated = frozenset({SOURCES[n].hub for n in ("gpqa", "math", "livecodebench", "scieval")})
    try:
        found = load(hub, tmp_path / "a", "gpqa", "math", "livecodebench", "scieval")
    finally:
        hub.gated = frozenset()
    assert all("hf auth login" in error and "NAME=PATH" not in error for _, error in found.values())
    assert "gated" in found["gpqa"][1] and "Accept its terms at" in found["gpqa"][1]
    assert "simplescaling/openaimath" in found["math"][1] and "math=PATH" in found["math"][1]
    without = load(hub, tmp_path / "b", "math", "livecodebench", "agieval", HF_HUB_OFFLINE="1")
    assert all("ffline" in error and "=PATH" in error for _, error in without.values())


def test_a_copy_or_file_that_is_not_there_is_named(hub: ImitationHub, tmp_path: Path) -> None:
    agieval, files = SOURCES["agieval"].hub, SOURCES["livecodebench"].hub
    before = hub.repos
    kept = {k: v for k, v in before.items() if k not in ((agieval, PARQUET_COPY), (files, "main"))}
    hub.repos = {**kept, (files, "main"): {}}
    try:
        found = load(hub, tmp_path, "agieval", "livecodebench")
    finally:
        hub.repos = before
    assert agieval in found["agieval"][1] and files in found["livecodebench"][1]
    assert all("cannot be read from the Hub" in error and "=PATH" in error for _, error in found.values())
