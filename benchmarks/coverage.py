"""How often the 95 % intervals hold the truth, by simulation: `benchmarks/results/coverage_202611.md` is its output.

    python benchmarks/coverage.py --trials 2000 --out benchmarks/results/coverage_202611.md

Each trial draws the chance of every question to be answered right from a beta distribution with the given mean,
whose spread is the correlation of two samples of one question, and then the samples. Differences: one sample each.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from s1.evals.intervals import DRAWS, accuracy_interval, bounds, paired_difference, weights
from s1.evals.recipe_tables import markdown

QUESTIONS, ACCURACIES, CORRELATIONS = (30, 100, 500), (0.02, 0.05, 0.2, 0.5, 0.95), (0.1, 0.5, 0.9)
CHANGES = ((0.0, 0.0), (0.03, 0.0), (0.1, 0.1), (0.2, 0.05))


def scores_of(
    n: int, samples: int, accuracy: float, correlation: float, trials: int, seed: int
) -> np.ndarray:
    """Shares right, (trials, n)."""
    rng = np.random.default_rng(seed)
    spread = (1 - correlation) / correlation
    each = rng.beta(accuracy * spread, (1 - accuracy) * spread, size=(trials, n))
    return rng.binomial(samples, each) / samples


def accuracy_rows(trials: int) -> Iterator[list[str]]:
    for n in QUESTIONS:
        resampled = np.concatenate(list(weights(n, draws=DRAWS // 10)))
        for samples in (1, 8):
            for accuracy in ACCURACIES:
                for correlation in CORRELATIONS if samples > 1 else CORRELATIONS[:1]:
                    held, old, width = 0, 0, 0.0
                    for row in scores_of(n, samples, accuracy, correlation, trials, seed=n + samples):
                        _, low, high, _ = accuracy_interval(list(row))
                        held += low <= accuracy <= high
                        width += 100 * (high - low)
                        left, right = bounds(resampled @ row)
                        old += left <= accuracy <= right
                    yield [str(n), str(samples), f"{100 * accuracy:.0f}", str(correlation) if samples > 1 else "-",
                           f"{held / trials:.3f}", f"{width / trials:.1f}", f"{old / trials:.3f}"]  # fmt: skip


def difference_rows(trials: int) -> Iterator[list[str]]:
    rng = np.random.default_rng(1)
    for n in QUESTIONS:
        for gained, lost in CHANGES:
            held, width = 0, 0.0
            for draw in rng.random((trials, n)):
                before = [float(u >= gained) for u in draw]
                after = [float(not gained <= u < gained + lost) for u in draw]
                _, low, high, _ = paired_difference(before, after)
                held += low <= gained - lost <= high
                width += 100 * (high - low)
            yield [
                str(n),
                f"{100 * gained:.0f}",
                f"{100 * lost:.0f}",
                f"{held / trials:.3f}",
                f"{width / trials:.1f}",
            ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--out", type=Path, required=True)
    trials = parser.parse_args().trials
    lines = [
        "# Coverage of the 95 % intervals", "",
        f"Written by `python benchmarks/coverage.py --trials {trials} --out FILE`: the share of {trials:,} simulated "
        "runs whose interval holds the true value, and the mean width in percentage points. A coverage of 0.95 "
        f"measured in this way varies by {196 * (0.95 * 0.05 / trials) ** 0.5:.1f} points.", "",
        "## Accuracy", "",
        "The correlation is that of two samples of one question. The last column is the percentile bootstrap over "
        "questions, which s1 used before.", "",
        *markdown(["questions", "samples", "accuracy %", "correlation", "coverage", "width", "bootstrap"],
                  list(accuracy_rows(trials))), "",
        "## Paired difference of two policies, one sample", "",
        *markdown(["questions", "wrong to right %", "right to wrong %", "coverage", "width"],
                  list(difference_rows(trials))),
    ]  # fmt: skip
    parser.parse_args().out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
