"""Two runs on the same questions, policy by policy, paired."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s1 import runs
from s1.errors import BadConfig, BadInput, nearest
from s1.evals.intervals import flips, paired_difference, smallest_difference
from s1.evals.recipe_tables import right_shares
from s1.types import Question


def compare_runs(
    one: str | Path, other: str | Path, policies: tuple[str, str] | None = None
) -> list[dict[str, Any]]:
    """`one` minus `other` for every policy that both have, or for the one pair of labels named.

    Differences are in percentage points with a paired bootstrap over questions; samples of a question are
    averaged first. Only questions that both have graded count. Raises BadInput when the questions
    are not the same or the runs were graded differently, BadConfig when no policies can be paired.
    """
    one, other = Path(one), Path(other)
    _same_questions(one, other)
    metrics = {folder: runs.read_metrics(folder) for folder in (one, other)}
    gradings = [str(m.get("grading")) for m in metrics.values()]
    if gradings[0] != gradings[1]:
        raise BadInput(
            f"{one} was graded as {gradings[0]!r}, {other} as {gradings[1]!r}.",
            f"Grade them alike: s1 report {other} --grading {gradings[0].split(',')[0]}.",
        )
    scores = {}
    for folder in (one, other):
        shares = right_shares(folder)
        scores[folder] = {
            str(p["policy"]): shares[p["key"]] for p in metrics[folder]["points"] if p["key"] in shares
        }
    pairs = _pairs(one, other, scores, policies)
    return [
        {
            **_paired(scores[one][mine], scores[other][theirs]),
            "policy": mine,
            "against": theirs,
            "thinking_tokens": _tokens(metrics[one], mine),
            "thinking_tokens_against": _tokens(metrics[other], theirs),
        }
        for mine, theirs in pairs
    ]


def _same_questions(one: Path, other: Path) -> None:
    """Raises BadInput with what differs: the questions, or their reference answers."""
    sets: list[dict[str, Question]] = [{q.id: q for q in runs.read_questions(f)} for f in (one, other)]
    odd = [key for key in (*sets[0], *sets[1]) if (key in sets[0]) != (key in sets[1])]
    if odd:
        names = [runs.read_config(folder)["benchmark"] for folder in (one, other)]
        raise BadInput(
            f"The runs have different questions: {len(sets[0])} of {names[0]} in {one}, {len(sets[1])} of "
            f"{names[1]} in {other}; {len(odd)} are in one of them only, the first {odd[0]!r}.",
            "Compare runs on the same benchmark with the same --limit.",
        )
    changed = [key for key, q in sets[0].items() if q.answer != sets[1][key].answer]
    if changed:
        answers = [s[changed[0]].answer for s in sets]
        raise BadInput(
            f"Question {changed[0]!r} has the reference answer {answers[0]!r} in {one}, {answers[1]!r} in {other}.",
            "Compare runs on the same version of a benchmark.",
        )


def _pairs(
    one: Path, other: Path, scores: Mapping[Path, Mapping[str, Any]], named: tuple[str, str] | None
) -> list[tuple[str, str]]:
    if named is not None:
        for folder, label in zip((one, other), named, strict=True):
            if label not in scores[folder]:
                raise BadConfig(f"{folder} has no policy {label!r}.", nearest(label, scores[folder]))
        return [named]
    if shared := [label for label in scores[one] if label in scores[other]]:
        return [(label, label) for label in shared]
    if len(scores[one]) == len(scores[other]) == 1:
        return [(next(iter(scores[one])), next(iter(scores[other])))]
    raise BadConfig(
        f"{one} ({', '.join(scores[one])}) and {other} ({', '.join(scores[other])}) share no policy.",
        "Name one of each: --policies 'LABEL' 'LABEL'.",
    )


def _paired(mine: Mapping[str, float], theirs: Mapping[str, float]) -> dict[str, Any]:
    both = [key for key in mine if key in theirs]
    first, second = ({key: each[key] for key in both} for each in (mine, theirs))
    change = paired_difference(second, first)
    whole = all(share in (0.0, 1.0) for share in (*first.values(), *second.values()))
    found = flips({k: v == 1 for k, v in second.items()}, {k: v == 1 for k, v in first.items()})
    differing = sum(first[key] != second[key] for key in both) / len(both)
    return {
        "n": len(both),
        "accuracy": 100 * sum(first.values()) / len(both),
        "accuracy_against": 100 * sum(second.values()) / len(both),
        "difference": 100 * change.mean,
        "low": 100 * change.low,
        "high": 100 * change.high,
        "interval": change.how,
        "only_this_right": found.wrong_to_right if whole else None,
        "only_against_right": found.right_to_wrong if whole else None,
        "p": found.p if whole else None,
        "smallest_difference": 100 * smallest_difference(len(both), discordant=differing),
    }


def _tokens(metrics: Mapping[str, Any], label: str) -> float | None:
    return next((p["thinking_tokens"] for p in metrics["points"] if p["policy"] == label), None)
