"""Multi-step tasks from reasoning-gym, which is in an environment of its own because it pins old releases.

    python scripts/smollm2/tasks.py OUT    writes tasks_train.jsonl and tasks_test.jsonl

The seeds were fixed before any model was run. Rows hold the steps of the solution, which `pool.py` turns into traces.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TRAIN_SEED, TEST_SEED = 1, 20_27
TRAIN_ROWS, TEST_ROWS = 1500, 250
"""For each of the two families."""
CHAIN = {"min_terms": 3, "max_terms": 6, "min_digits": 1, "max_digits": 2}
LEGS = {"min_animals": 3, "max_animals": 6, "min_instances": 1, "max_instances": 12}


def rows(family: str, size: int, seed: int) -> list[dict[str, Any]]:
    import reasoning_gym

    made = reasoning_gym.create_dataset(
        family, size=size, seed=seed, **(CHAIN if family == "chain_sum" else LEGS)
    )
    steps = chain_steps if family == "chain_sum" else leg_steps
    return [
        {
            "id": f"{family}-{seed}-{number}",
            "question": item["question"].strip(),
            "answer": item["answer"],
            "family": family,
            "steps": steps(item["metadata"]),
        }
        for number, item in enumerate(made)
    ]


def chain_steps(metadata: dict[str, Any]) -> list[list[str]]:
    """Line and expression of each partial sum; "{}" in a line stands for the result."""
    terms = metadata["expression"].split()
    total, steps = int(terms[0]), []
    for sign, term in zip(terms[1::2], terms[2::2], strict=True):
        steps.append([f"{total} {sign} {term} = {{}}.", f"{total}{sign}{term}"])
        total = total + int(term) if sign == "+" else total - int(term)
    return steps


def leg_steps(metadata: dict[str, Any]) -> list[list[str]]:
    """The legs of each kind of animal, then a running total."""
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    legs = [(animal, count, ANIMALS[animal]) for animal, count in metadata["animals"].items()]
    steps = [
        [f"{count} {animal}s have {count} * {each} = {{}} legs.", f"{count}*{each}"]
        for animal, count, each in legs
    ]
    total = legs[0][1] * legs[0][2]
    for _, count, each in legs[1:]:
        steps.append([f"{total} + {count * each} = {{}}.", f"{total}+{count * each}"])
        total += count * each
    return steps


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name, size, seed in (("train", TRAIN_ROWS, TRAIN_SEED), ("test", TEST_ROWS, TEST_SEED)):
        made = [row for family in ("chain_sum", "leg_counting") for row in rows(family, size, seed)]
        (out / f"tasks_{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in made), encoding="utf-8"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
