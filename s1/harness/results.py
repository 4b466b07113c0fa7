"""A run folder in the layout of another harness: the tools that read its results then read ours.

    lm-eval      MODEL/results_DATE.json   accuracies and mean counts, one task for each policy
                 MODEL/samples_TASK_DATE.jsonl   one line for each question: prompt, answers, grade, counts
    inspect      DATE_TASK.eval   one log for each policy, with reasoning and answer of every sample

Grades are those of the run (grades.jsonl); nothing is graded again. The date is that of the receipts, so that
a second call replaces the files of the first. The first needs nothing installed, the second needs Inspect AI.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s1 import runs
from s1.errors import BadInput, MissingExtra
from s1.formats import ThinkingFormat
from s1.harness.request import counts, shown_text
from s1.jsonl import dump_line, write_bytes, write_json
from s1.types import Generation, Grade, Question, from_json

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample

NUMBERS = ("thinking_tokens", "answer_tokens", "waits", "cut")
"""What of a receipt becomes a number beside the grade."""


@dataclass(frozen=True)
class Finished:
    """A graded run as it lies on disk."""

    path: Path
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    questions: Sequence[Question]
    policies: Mapping[str, Mapping[str, Any]]
    """Label -> fields, in the order of the run."""
    format: ThinkingFormat
    found: Mapping[str, Mapping[str, Sequence[tuple[Generation, Grade]]]]
    """Label -> question id -> its samples in order."""
    date: datetime

    def task(self, label: str) -> str:
        """The name of a policy as a task: the benchmark, and the policy where there are several."""
        parts = [str(self.config["benchmark"]), *([label] if len(self.policies) > 1 else [])]
        return re.sub(r"[^A-Za-z0-9.]+", "_", "_".join(parts)).strip("_")


def read_run(path: str | Path) -> Finished:
    """Read a run folder. Raises BadInput where it is none, or was not graded yet."""
    path = Path(path)
    stored = runs.read_config(path)
    config = stored["config"]
    try:
        policies = {str(p["label"]): p for p in config["policies"]}
        fmt = from_json(ThinkingFormat, config["format"])
        config["benchmark"], config["model"]
    except (KeyError, TypeError) as error:
        raise BadInput(
            f"{path / runs.CONFIG} names no {error}.", "Give a run that s1 eval or s1 sweep wrote."
        ) from error
    grades = runs.read_grades(path)
    found: dict[str, dict[str, list[tuple[Generation, Grade]]]] = {
        label: defaultdict(list) for label in policies
    }
    for generation in sorted(runs.read_generations(path), key=lambda g: g.sample):
        key = runs.key_of(generation)
        if key not in grades:
            raise BadInput(f"{path}: the receipt {key} has no grade.", "Grade the run again: s1 report.")
        if key.policy in found:
            found[key.policy][key.question_id].append((generation, grades[key]))
    return Finished(
        path=path,
        config=config,
        versions=stored["versions"][-1],
        questions=runs.read_questions(path),
        policies=policies,
        format=fmt,
        found=found,
        date=datetime.fromtimestamp((path / runs.GENERATIONS).stat().st_mtime, UTC),
    )


# --- lm-evaluation-harness ------------------------------------------------------------------------------


def write_lm_eval(path: str | Path, out: str | Path) -> list[Path]:
    """Write a run as lm-evaluation-harness does with `--output_path OUT --log_samples`; returns the files."""
    run = read_run(path)
    model = re.sub(r"[\"<>:/|\\?*\[\]]+", "__", str(run.config["model"]))
    folder = Path(out) / model
    folder.mkdir(parents=True, exist_ok=True)
    date = run.date.replace(tzinfo=None).isoformat(timespec="microseconds").replace(":", "-")
    samples = {label: _lm_eval_samples(run, label) for label in run.policies}
    results = folder / f"results_{date}.json"
    write_json(results, _lm_eval_results(run, model, samples))
    files = [results]
    for label, rows in samples.items():
        files.append(folder / f"samples_{run.task(label)}_{date}.jsonl")
        write_bytes(files[-1], (dump_line(row) for row in rows))
    return files


def _lm_eval_samples(run: Finished, label: str) -> list[dict[str, Any]]:
    rows = []
    policy = {k: v for k, v in run.policies[label].items() if k != "label"}
    for number, question in enumerate(run.questions):
        pairs = run.found[label].get(question.id, ())
        if not pairs:
            continue  # not done yet
        doc = {
            "id": question.id,
            "question": question.text,
            "answer": question.answer,
            "choices": list(question.choices),
            "source": question.source,
        }
        prompt = pairs[0][0].text_of("prompt")
        answers = [shown_text(g, run.format) for g, _ in pairs]
        metrics = {"exact_match": _mean([g.outcome == "right" for _, g in pairs])}
        for name in NUMBERS:
            metrics[name] = _mean([counts(g)[name] for g, _ in pairs])
        rows.append(
            {
                "doc_id": number,
                "doc": doc,
                "target": str(question.answer),
                "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": policy}},
                "resps": [answers],
                "filtered_resps": [pairs[0][1].extracted or answers[0]],
                "filter": "none",
                "metrics": list(metrics),
                "doc_hash": _sha256(json.dumps(doc, indent=2, ensure_ascii=False)),
                "prompt_hash": _sha256(prompt),
                "target_hash": _sha256(str(question.answer)),
                **metrics,
                "outcomes": [g.outcome for _, g in pairs],
            }
        )
    return rows


def _lm_eval_results(
    run: Finished, model: str, samples: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    tasks = {run.task(label): (label, rows) for label, rows in samples.items()}
    names = ("exact_match", *NUMBERS)
    better = {"exact_match": True}
    results: dict[str, dict[str, Any]] = {}
    for task, (_, rows) in tasks.items():
        results[task] = {"name": task, "alias": task, "sample_len": len(rows)}
        for name in names:
            values = [float(row[name]) for row in rows]
            results[task][f"{name},none"] = _mean(values)
            results[task][f"{name}_stderr,none"] = _stderr(values)
    config: dict[str, Any] = {
        "model": "s1",
        "model_args": {"model": run.config["model"], "format": run.format.name},
        "gen_kwargs": run.config.get("sampling"),
        "batch_size": None,
        "batch_sizes": [],
        "device": None,
        "use_cache": None,
        "limit": None,
        "bootstrap_iters": 0,
    }
    return {
        "results": results,
        "group_subtasks": {},
        "configs": {
            task: {
                "task": task,
                "output_type": "generate_until",
                "num_fewshot": 0,
                "repeats": run.config.get("samples", 1),
                "generation_kwargs": {k: v for k, v in run.policies[label].items() if k != "label"},
                "metadata": {
                    "benchmark_version": run.config.get("benchmark_version"),
                    "grading": run.config.get("grading"),
                    "policy": label,
                },
            }
            for task, (label, _) in tasks.items()
        },
        "versions": {task: str(run.config.get("benchmark_version", "")) for task in tasks},
        "n-shot": dict.fromkeys(tasks, 0),
        "higher_is_better": {task: {name: better.get(name) for name in names} for task in tasks},
        "n-samples": {
            task: {"original": len(run.questions), "effective": len(rows)}
            for task, (_, rows) in tasks.items()
        },
        "config": config,
        "git_hash": None,
        "date": run.date.timestamp(),
        "transformers_version": run.versions.get("transformers"),
        "s1_version": run.versions.get("s1"),
        "model_source": "s1",
        "model_name": str(run.config["model"]),
        "model_name_sanitized": model,
        "task_hashes": {
            task: _sha256("".join(r["doc_hash"] + r["prompt_hash"] + r["target_hash"] for r in rows))
            for task, (_, rows) in tasks.items()
        },
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _stderr(values: Sequence[float]) -> float | str:
    """Standard error of the mean; "N/A", as the harness writes it, where there is none."""
    if len(values) < 2:
        return "N/A"
    mean = _mean(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# --- Inspect AI -----------------------------------------------------------------------------------------


def write_inspect(path: str | Path, out: str | Path) -> list[Path]:
    """Write a run as logs of Inspect AI, one for each policy; returns the files. Raises MissingExtra."""
    try:
        from inspect_ai.log import write_eval_log
    except ImportError as error:
        raise MissingExtra("inspect-ai", "inspect") from error
    run = read_run(path)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for label in run.policies:
        file = folder / f"{run.date:%Y-%m-%dT%H-%M-%S}_{run.task(label).replace('_', '-')}.eval"
        write_eval_log(_inspect_log(run, label), file, "eval")
        files.append(file)
    return files


def _inspect_log(run: Finished, label: str) -> EvalLog:
    from inspect_ai import log as logs

    samples = [
        _inspect_sample(run, question, generation, grade)
        for question in run.questions
        for generation, grade in run.found[label].get(question.id, ())
    ]
    done = [q for q in run.questions if run.found[label].get(q.id)]
    rights = [_mean([g.outcome == "right" for _, g in run.found[label][q.id]]) for q in done]
    spread = _stderr(rights)
    metrics = {"accuracy": logs.EvalMetric(name="accuracy", value=_mean(rights))}
    if not isinstance(spread, str):
        metrics["stderr"] = logs.EvalMetric(name="stderr", value=spread)
    number = int(run.config.get("samples", 1))
    task, model, date = run.task(label), f"s1/{run.config['model']}", run.date.isoformat()
    identity = _sha256(f"{date}/{model}/{task}/{run.path.resolve()}")[:22]
    policy = {k: v for k, v in run.policies[label].items() if k != "label"}
    return logs.EvalLog(
        status="success" if len(done) == len(run.questions) else "cancelled",
        eval=logs.EvalSpec(
            eval_id=identity,
            run_id=identity,
            created=date,
            task=task,
            task_id=identity,
            task_version=str(run.config.get("benchmark_version", "0")),
            dataset=logs.EvalDataset(
                name=str(run.config["benchmark"]),
                samples=len(run.questions),
                sample_ids=[q.id for q in run.questions],
            ),
            model=model,
            model_args=policy,
            config=logs.EvalConfig(epochs=number),
            packages={"s1": run.versions.get("s1", "")},
            metadata={
                "policy": label,
                "grading": run.config.get("grading"),
                "sampling": run.config.get("sampling"),
            },
        ),
        results=logs.EvalResults(
            total_samples=len(run.questions) * number,
            completed_samples=len(samples),
            scores=[
                logs.EvalScore(
                    name="s1", scorer="s1", scored_samples=len(samples), unscored_samples=0, metrics=metrics
                )
            ],
        ),
        stats=logs.EvalStats(started_at=date, completed_at=date),
        samples=samples,
    )


def _inspect_sample(run: Finished, question: Question, generation: Generation, grade: Grade) -> EvalSample:
    from inspect_ai import log as logs
    from inspect_ai import model as models
    from inspect_ai.scorer import Score

    model = f"s1/{run.config['model']}"
    content: list[Any] = [models.ContentText(text=shown_text(generation, run.format))]
    if thinking := generation.text_of("thinking"):
        content.insert(0, models.ContentReasoning(reasoning=thinking))
    asked = models.ChatMessageUser(content=question.text, source="input")
    said = models.ChatMessageAssistant(content=content, model=model, source="generate")
    prompt = sum(len(s.token_ids) for s in generation.segments if s.phase == "prompt")
    spent = sum(len(s.token_ids) for s in generation.segments) - prompt
    usage = models.ModelUsage(
        input_tokens=prompt,
        output_tokens=spent,
        total_tokens=prompt + spent,
        reasoning_tokens=generation.thinking_tokens,
    )
    return logs.EvalSample(
        id=question.id,
        epoch=generation.sample + 1,
        input=question.text,
        choices=list(question.choices) or None,
        target=str(question.answer),
        messages=[asked, said],
        output=models.ModelOutput(
            model=model,
            choices=[
                models.ChatCompletionChoice(
                    message=said, stop_reason="max_tokens" if generation.finish == "length" else "stop"
                )
            ],
            usage=usage,
            time=generation.seconds,
            metadata={"s1": counts(generation)},
        ),
        scores={
            "s1": Score(
                value="C" if grade.outcome == "right" else "I",
                answer=grade.extracted,
                explanation=f"{grade.outcome}: {grade.how}",
            )
        },
        metadata={"source": question.source, **counts(generation)},
        model_usage={model: usage},
        total_time=generation.seconds,
        error=logs.EvalError(message=generation.error, traceback="", traceback_ansi="")
        if generation.error
        else None,
    )
