"""The pool of the study: GSM8K's solutions and reasoning-gym's tasks as questions with traces.

    python -m scripts.smollm2.pool --gsm8k gsm8k_train.jsonl.gz --tasks tasks_train.jsonl --out WORK

Writes WORK/pool.jsonl with the pool's columns and `untrained`, and WORK/dev.jsonl: questions kept apart for the choice
of settings. A solution that the program cannot follow step by step is left out and counted.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from s1.engines.model_files import find_model, load_tokenizer
from scripts.smollm2.traces import Step, build_trace, evaluate, gsm8k_steps, show

SEED = 0
DEV_GSM8K, DEV_TASKS = 200, 100


def solved(gsm8k: Path, tasks: Path) -> Iterator[tuple[dict[str, Any], list[Step], Fraction]]:
    """Each question that the program can solve step by step: its row, steps and answer."""
    with gzip.open(gsm8k, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            row = json.loads(line)
            found = gsm8k_steps(row["answer"])
            if found is not None:
                steps, answer = found
                about = {"id": f"gsm8k-{number}", "question": row["question"].strip(), "source": "gsm8k"}
                yield about | {"domain": f"gsm8k, {min(len(steps), 6)} steps"}, steps, answer
    for line in tasks.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        steps = [
            Step(text, expression, evaluate(expression) or Fraction(0)) for text, expression in row["steps"]
        ]
        answer = steps[-1].value
        if show(answer) != row["answer"]:
            raise ValueError(f"{row['id']}: the steps give {show(answer)}, the task says {row['answer']}")
        about = {"id": row["id"], "question": row["question"], "source": row["family"]}
        yield about | {"domain": f"{row['family']}, {len(steps)} steps"}, steps, answer


def make_rows(gsm8k: Path, tasks: Path) -> list[dict[str, Any]]:
    """The rows of the pool. Their traces depend on the seed and the row's id alone."""
    tokenizer = load_tokenizer(find_model("smollm2"))
    rows = []
    for about, steps, answer in solved(gsm8k, tasks):
        trace = build_trace(steps, answer, random.Random(f"{SEED} {about['id']}"))
        rows.append(
            about
            | {
                "answer": show(answer),
                "thinking": trace.thinking,
                "attempt": show(answer),
                "trace_by": "program",
                "trace_tokens": len(tokenizer.encode(trace.thinking, add_special_tokens=False)),
                "untrained": [list(span) for span in trace.untrained],
                "kind": trace.kind,
            }
        )
    return rows


def split(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The pool, and the questions that settings are chosen on: fixed by the seed before any model runs."""
    order = random.Random(SEED).sample(rows, len(rows))
    gsm8k = [row["id"] for row in order if row["source"] == "gsm8k"][:DEV_GSM8K]
    tasks = [row["id"] for row in order if row["source"] != "gsm8k"][:DEV_TASKS]
    apart = {*gsm8k, *tasks}
    return [row for row in rows if row["id"] not in apart], [row for row in rows if row["id"] in apart]


def write_rows(rows: list[Mapping[str, Any]] | list[dict[str, Any]], file: Path) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gsm8k", type=Path, required=True)
    parser.add_argument("--tasks", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    pool, dev = split(make_rows(arguments.gsm8k, arguments.tasks))
    write_rows(pool, arguments.out / "pool.jsonl")
    write_rows(
        [{k: row[k] for k in ("id", "question", "answer")} for row in dev], arguments.out / "dev.jsonl"
    )
    tokens = sorted(row["trace_tokens"] for row in pool)
    print(f"{len(pool)} rows, {len(dev)} apart; {dict(Counter(row['source'] for row in pool))}")
    print(f"kinds {dict(Counter(row['kind'] for row in pool))}")
    print(f"median trace {tokens[len(tokens) // 2]} tokens, longest {tokens[-1]}")


if __name__ == "__main__":
    main()
