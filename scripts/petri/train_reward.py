"""Train a reward model for petri and measure it on held-out questions: AUC and calibration, into reward.json.

python -m scripts.petri.train_reward --out FOLDER
s1 eval --benchmark petri --temperature 0.8 --method rebase:width=8 --reward petri:FOLDER
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s1.cli.options import silence_libraries
from s1.cli.progress import ProgressBar
from s1.engines.model_files import PETRI
from s1.errors import S1Error
from s1.petri.reward import (
    ATTEMPT_END,
    RECORD,
    ROLLOUTS,
    first_held_out,
    load,
    read_rollouts,
    train_reward,
)
from scripts.petri.reward_report import report


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default="petri", help="folder of a fine-tuned petri model (default: the one that ships)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the reward model")
    parser.add_argument(
        "--questions", type=int, default=800, help="a fifth of them is held out (default: 800)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the questions and the head")
    given = parser.parse_args(arguments)
    silence_libraries()
    try:
        with ProgressBar("rollouts") as bar:
            model = PETRI if given.model == "petri" else Path(given.model)
            record = train_reward(model, given.out, given.questions, given.seed, progress=bar.show_run)
        record["held_out"] = measure(given.out, given.questions)
    except S1Error as error:
        print(error, file=sys.stderr)
        return 2
    (given.out / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record["held_out"], indent=1))
    print(f"{record['seconds']:.0f} s. Written to {given.out}")
    return 0


def measure(folder: Path, questions: int) -> dict[str, Any]:
    """How well the reward model in `folder` predicts the outcome of the held-out rollouts."""
    reward = load(str(folder))
    rollouts = read_rollouts(reward.engine, folder / ROLLOUTS)
    held_out = [r for r in rollouts if r.question >= first_held_out(questions)]
    return report(held_out, reward.probabilities(held_out), reward.engine.encode(ATTEMPT_END)[-1])


if __name__ == "__main__":
    sys.exit(main())
