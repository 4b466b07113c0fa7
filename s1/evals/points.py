"""One dot of the curve: receipts and grades of one policy, averaged."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from s1.errors import BadInput
from s1.evals.at_k import maj_at_k, pass_at_k
from s1.evals.intervals import accuracy_interval
from s1.methods import spent_on
from s1.runs import Key
from s1.types import Generation, Grade, Spent

OUTCOMES = ("right", "wrong", "cut", "no answer", "error")


class Row(NamedTuple):
    """What one receipt and its grade add to the numbers."""

    right: bool
    outcome: str
    extracted: str | None
    failed: bool
    thinking_tokens: int
    answer_tokens: int
    forced: float
    waits: int
    cut: bool
    exact: bool
    seconds: float
    spent: Spent


def table_of(
    generations: Iterable[Generation],
    grades: Mapping[Key, Grade],
    ids: Sequence[str],
    keys: Sequence[str],
) -> dict[tuple[str, str], dict[int, Row]]:
    """(policy, question) -> sample -> row, with an empty entry where nothing was generated."""
    twice = [key for key, count in Counter(keys).items() if count > 1]
    if twice:
        raise BadInput(f"Two policies have the key {twice[0]!r}.", "Remove the copy.")
    table: dict[tuple[str, str], dict[int, Row]] = {(p, q): {} for p in keys for q in ids}
    for g in generations:
        key = Key(g.question_id, g.sample, g.policy)
        if (g.policy, g.question_id) not in table:
            raise BadInput(f"The receipt {tuple(key)} has a policy or question that is not in the run.")
        if key not in grades:
            raise BadInput(f"The receipt {tuple(key)} has no grade.", "Grade the run again.")
        grade = grades[key]
        owned = {
            by: sum(len(s.token_ids) for s in g.segments if s.by == by and s.phase != "prompt")
            for by in ("model", "forced")
        }
        table[g.policy, g.question_id][g.sample] = Row(
            right=grade.outcome == "right",
            outcome=grade.outcome,
            extracted=grade.extracted,
            failed=g.error is not None,
            thinking_tokens=g.thinking_tokens,
            answer_tokens=g.answer_tokens,
            forced=owned["forced"] / (sum(owned.values()) or math.nan),
            waits=g.waits,
            cut=g.cut,
            exact=g.exact,
            seconds=g.seconds,
            spent=spent_on([g]),
        )
    return table


def point_of(
    policy: Mapping[str, Any], rows: Sequence[Row], samples: int, *, seed: int, draws: int
) -> dict[str, Any]:
    """One dot of the curve. What is not right counts as wrong; token means leave failures out."""
    scores = by_question([r.right for r in rows], samples)
    held = accuracy_interval(scores, seed=seed, draws=draws) if rows else None
    whole = [r for r in rows if not r.failed]
    outcomes = Counter(r.outcome for r in rows)
    open_ended = sum(outcomes[o] for o in ("cut", "no answer", "error"))
    return {
        "key": str(policy["key"]),
        "policy": str(policy["label"]),
        "kind": kind_of(policy),
        "max_thinking": policy.get("max_thinking"),
        "min_thinking": policy.get("min_thinking"),
        "waits": policy.get("waits") or 0,
        "wait": policy.get("wait"),
        "n": len(scores),
        "samples": samples,
        "accuracy": 100 * held.mean if held else None,
        "low": 100 * held.low if held else None,
        "high": 100 * held.high if held else None,
        "interval": held.how if held else None,
        "accuracy_worst": 100 * held.mean if held else None,
        "accuracy_best": 100 * (outcomes["right"] + open_ended) / len(rows) if rows else None,
        "thinking_tokens": _mean([r.thinking_tokens for r in whole]),
        "thinking_tokens_median": statistics.median([r.thinking_tokens for r in whole]) if whole else None,
        "thinking_tokens_max": max((r.thinking_tokens for r in whole), default=None),
        "spent": {
            name: _mean([getattr(r.spent, name) for r in whole])
            for name in ("thinking", "answer", "reward", "rollouts", "failed")
        },
        "answer_tokens": _mean([r.answer_tokens for r in whole]),
        "waits_appended": _mean([r.waits for r in whole]),
        "forced_share": _percent([r.forced for r in whole if not math.isnan(r.forced)]),
        "cut_share": _percent([r.cut for r in whole]),
        "outcomes": {outcome: outcomes[outcome] for outcome in OUTCOMES},
        "seconds": _mean([r.seconds for r in whole]),
        "exact": all(r.exact for r in rows),
        **(_at_k(rows, samples) if samples > 1 and rows else {}),
    }


def kind_of(policy: Mapping[str, Any]) -> str:
    """As the policy says; else "wait" with waits, "budget" with a limit, "natural" with neither."""
    if policy.get("kind"):
        return str(policy["kind"])
    if policy.get("waits"):
        return "wait"
    return "natural" if policy.get("max_thinking") is None else "budget"


def by_question(values: Sequence[float], samples: int) -> list[float]:
    """Means over the samples of each question; `values` hold the samples of a question side by side."""
    return [sum(values[i : i + samples]) / samples for i in range(0, len(values), samples)]


def _at_k(rows: Sequence[Row], samples: int) -> dict[str, dict[str, float]]:
    """pass@k and maj@k in percent for k = 1, 2, 4, ... and all samples, averaged over questions."""
    ks = sorted({2**i for i in range(samples.bit_length()) if 2**i <= samples} | {samples})
    groups = [rows[i : i + samples] for i in range(0, len(rows), samples)]
    passed, voted = {}, {}
    for k in ks:
        passed[str(k)] = 100 * statistics.fmean(
            pass_at_k(samples, sum(r.right for r in group), k) for group in groups
        )
        voted[str(k)] = 100 * statistics.fmean(
            maj_at_k([r.extracted for r in group], [r.right for r in group], k) for group in groups
        )
    return {"pass_at_k": passed, "maj_at_k": voted}


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _percent(values: Sequence[float]) -> float | None:
    return 100 * statistics.fmean(values) if values else None
