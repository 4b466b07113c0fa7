"""A pool of any size from few real rows: real questions and traces repeated, perturbed and joined.

Sources and mean lengths of traces follow the paper's table (59,029 rows, 3.6K tokens). A trace is whole
sentences of real traces, joined up to a length drawn around the mean of its source, its digits exchanged; a
question is a real one with numbers and one word in twelve exchanged, so that most word 8-grams of the pool
are distinct. Shares of failures, defects, solved and right answers are near those the paper reports. Each
shard depends on the seed and its number alone.
"""

from __future__ import annotations

import gzip
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SOURCES = (
    # source column, rows in the paper's pool, mean trace tokens, files of real questions
    ("AI-MO/NuminaMath-CoT/aops_forum", 30660, 4100, "NuminaMath"),
    ("qfq/openaimath/Intermediate Algebra", 11999, 2900, "openaimath math_test"),
    ("GAIR/OlympicArena/Math", 4250, 3200, "OlympicArena NuminaMath"),
    ("KbsdJames/Omni-MATH", 4238, 4400, "Omni-MATH omni_math"),
    ("baber/agieval/aqua_rat", 2385, 1200, "agieval"),
    ("0xharib/xword1", 999, 700, "xword1"),
    ("Hothan/OlympiadBench/Open-ended/Physics", 896, 3900, "OlympiadBench"),
    ("qq8933/AIME_1983_2024", 890, 4700, "AIME aime"),
    ("TIGER-Lab/TheoremQA/float", 747, 2100, "TheoremQA theoremqa"),
    ("codegenning/usacobench_formatted", 519, 3600, "theoremqa"),
    ("daman1209arora/jeebench/phy", 515, 2900, "jeebench"),
    ("Idavidrein/gpqa", 348, 2900, "jeebench theoremqa"),
    ("OpenDFM/SciEval/chemistry/filling/reagent selection", 227, 700, "SciEval jeebench"),
    ("qfq/stats_qual", 182, 4000, "stats_qual theoremqa"),
    ("LiveCodeBench/release_v3", 151, 3500, "theoremqa"),
    ("qfq/quant", 23, 4100, "quant theoremqa"),
)
PAPER_TOKENS = 3600
CHARACTERS_A_TOKEN = 3.9
"""Of the real traces, counted with the Qwen2.5 tokenizer."""
NO_TRACE, OTHER_FEATURE_MISSING = 43 / 59029, 0.082
MARKED = 0.03
"""Questions that get a picture or a part label, besides those that have one."""
SOLVED = {"qwen2.5-7b": 0.25, "qwen2.5-32b": 0.37}
RIGHT = 0.536
COPIED, QUOTED = 0.005, 0.005
"""Rows with the question of an earlier row of the shard; rows with a benchmark question as it is."""
SHARD = 5_000


def write_pool(folder: Path, rows: int, tokens: int, seed: int, data: Path | None) -> Path:
    """`rows` rows with `tokens` trace tokens on average as Parquet shards, and `benchmark.jsonl` beside them.

    Raises nothing where `data` is None: questions and traces are then those of the petri world.
    """
    material = Material(data)
    (folder / "pool").mkdir(parents=True, exist_ok=True)
    for number in range(math.ceil(rows / SHARD)):
        path = folder / "pool" / f"part-{number:05d}.parquet"
        if not path.exists():
            part = path.with_suffix(".part")
            count = min(SHARD, rows - number * SHARD)
            shard(material, number, count, tokens / PAPER_TOKENS, seed).write_parquet(
                part, compression="zstd"
            )
            part.replace(path)
    with (folder / "benchmark.jsonl").open("w") as file:
        for i, text in enumerate(material.benchmark):
            file.write(json.dumps({"id": f"b{i}", "question": text}) + "\n")
    return folder / "pool"


def shard(material: Material, number: int, count: int, scale: float, seed: int) -> Any:
    """One shard as a Polars frame in the columns of `s1.data.pool`."""
    import numpy as np
    import polars as pl

    random = np.random.Generator(np.random.PCG64([seed, number]))
    weights = np.array([s[1] for s in SOURCES], dtype=float)
    kinds = random.choice(len(SOURCES), size=count, p=weights / weights.sum())
    lengths = random.lognormal(-0.32, 0.8, size=count)  # mean 1, half of the traces under 0.73 of it
    columns: dict[str, list[Any]] = {
        c: []
        for c in ("id", "question", "answer", "source", "domain", "cot_type", "thinking", "attempt",
                  "trace_by", "correct", "trace_tokens", *(f"solved_{m}" for m in SOLVED))
    }  # fmt: skip
    domains = material.domains
    # A few domains hold most rows, as in the paper.
    popular = np.array([1 / (rank + 1) for rank in range(len(domains))])
    for i in range(count):
        source, _, mean, _ = SOURCES[kinds[i]]
        draw = random.random(9)
        if draw[0] < QUOTED:
            question = material.benchmark[int(draw[1] * len(material.benchmark))]
        elif draw[0] < QUOTED + COPIED and i:
            question = columns["question"][int(draw[1] * i)]
        else:
            question = material.question(int(kinds[i]), random)
            if draw[2] < MARKED:
                question += " ![Image](figure.png)" if draw[1] < 0.5 else "\np1. State the steps."
        thinking = material.trace(int(mean * scale * lengths[i] * CHARACTERS_A_TOKEN), random)
        answer = str(int(draw[3] * 1000))
        right = bool(draw[4] < RIGHT)
        missing = draw[5]
        row = {
            "id": f"r{number * SHARD + i:08d}",
            "question": question,
            "answer": None if "usaco" in source or "LiveCode" in source else answer,
            "source": source,
            "domain": domains[random.choice(len(domains), p=popular / popular.sum())],
            "cot_type": "math",
            "thinking": None if missing < NO_TRACE else thinking,
            "attempt": None if missing < NO_TRACE else f"The answer is {answer if right else answer + '1'}.",
            "trace_by": "repeated",
            "correct": None if missing < OTHER_FEATURE_MISSING else right,
            "trace_tokens": None if missing < NO_TRACE else round(len(thinking) / CHARACTERS_A_TOKEN),
        }
        for place, (model, share) in enumerate(SOLVED.items()):
            row[f"solved_{model}"] = float(draw[6 + place] < share)
        for name, value in row.items():
            columns[name].append(value)
    schema = {"correct": pl.Boolean, "trace_tokens": pl.Int64}
    return pl.DataFrame(columns, schema_overrides=schema)


class Material:
    """Real texts at hand: questions by source, traces with the ends of their sentences, benchmark questions."""

    def __init__(self, data: Path | None) -> None:
        from s1.data.domains import domain_name, read_domains

        self.domains = sorted(map(domain_name, read_domains().values()))[:50]
        if data is None:
            named, traces, self.benchmark = _petri()
        else:
            named = list(_questions(data))
            traces = _traces(data)
            self.benchmark = [
                _question(r) for f in ("math500", "aime2024", "aime2025") for r in _rows(data / f"benchmarks/{f}.jsonl")
            ]  # fmt: skip
        self.questions: list[list[list[str]]] = []
        for *_, names in SOURCES:
            own = [q for source, q in named if any(n in source for n in names.split())]
            # Split with the spaces kept, so that joining gives the text back.
            self.questions.append([re.split(r"(\s+)", q) for q in own or [q for _, q in named]])
        self.words = sorted({w for q in self.questions[0] for w in q[::2] if w.isalpha()})
        self.traces = [(t, [m.end() for m in re.finditer(r"[.?!]\s", t)] or [len(t)]) for t in traces]
        figures = "0123456789"
        self.digits = [str.maketrans(figures, figures[k:] + figures[:k]) for k in range(10)]

    def question(self, kind: int, random: Any) -> str:
        known = self.questions[kind]
        pieces = list(known[int(random.integers(len(known)))])
        words = (len(pieces) + 1) // 2
        for at in random.integers(words, size=1 + words // 12):
            pieces[2 * int(at)] = self.words[int(random.integers(len(self.words)))]
        numbers = random.integers(2, 1000, size=words)
        for at, piece in enumerate(pieces[::2]):
            if piece.isdigit():
                pieces[2 * at] = str(numbers[at])
        return "".join(pieces)

    def trace(self, characters: int, random: Any) -> str:
        """Whole sentences of about so many characters."""
        from bisect import bisect_left

        found: list[str] = []
        left = max(characters, 60)
        while left > 0:
            text, ends = self.traces[int(random.integers(len(self.traces)))]
            if len(text) > left:
                text = text[: ends[min(bisect_left(ends, left), len(ends) - 1)]]
            found.append(text)
            left -= len(text) + 2
        return "\n\n".join(found).translate(self.digits[int(random.integers(10))]).rstrip()


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        if path.suffix == ".json":
            yield from json.load(file)
        else:
            yield from map(json.loads, file)


def _question(row: dict[str, Any]) -> str:
    text = next((row[k] for k in ("question", "problem", "Question") if row.get(k)), "") or ""
    return str(text)


def _questions(data: Path) -> Iterator[tuple[str, str]]:
    """(name, question): the source of s1K's own rows, the file's name for samples of sources."""
    for row in _rows(data / "s1k/s1k_questions.jsonl"):
        if row["question"]:
            yield row["source_type"], row["question"]
    for path in sorted((data / "sources").rglob("*.json*")):
        for row in _rows(path):
            if text := _question(row):
                yield "agieval" if path.parent.name == "agieval" else path.name, text


def _traces(data: Path) -> list[str]:
    import polars as pl

    rows = pl.read_parquet(data / "traces/misguided_attention.parquet", columns=["id", "trace"])
    return [t for t in rows.sort("id")["trace"] if t]


def _petri() -> tuple[list[tuple[str, str]], list[str], list[str]]:
    """Where the real data is not there: short traces, joined into long ones."""
    from s1.petri import world

    rows = world.pool(2000).rows
    questions = [("petri", q) for q in rows["question"]]
    return (
        questions,
        [t.replace(" . ", ". ") for t in rows["thinking"] if t],
        [q.text for q in world.questions(100)],
    )
