"""Both harnesses' own commands on the shipped petri weights: the same tokens and accuracy as `s1 eval`."""

import asyncio
import json
import os
import shutil
import signal
import time
import tomllib
from pathlib import Path

import forked
import pytest

from s1 import runs
from s1.engines import load_engine
from s1.evals.metrics import read_metrics
from s1.evals.run import Plan, evaluate
from s1.formats import FORMATS
from s1.petri import world
from s1.policy import BudgetPolicy
from s1.types import Generation, from_json

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # minutes, where others use the machine as well
ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = str(world.WEIGHTS)
QUESTIONS = 64
POLICY = {"max_thinking": 64, "waits": 2, "wait": "quick", "max_answer": 12}
"""With the word "Wait" the base model, which was never fine-tuned, gets none of the questions right."""

TASK = """
task: petri_small
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: [], max_gen_toks: 64}}
filter_list:
  - name: answer
    filter:
      - {{function: regex, regex_pattern: "Answer : (.*)", group_select: -1}}
      - {{function: take_first}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""
INSPECT_TASK = """
from inspect_ai import Task, task
from inspect_ai.dataset import FieldSpec, json_dataset
from inspect_ai.scorer import pattern
from inspect_ai.solver import generate

@task
def petri():
    data = json_dataset("petri.jsonl", FieldSpec(input="question", target="answer", id="id"))
    return Task(dataset=data, solver=generate(), scorer=pattern(r"(?s).*Answer :\\s*([^\\n]*)"))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The questions, a task file for each harness, and the run that the code of `s1 eval` makes of them."""
    folder = tmp_path_factory.mktemp("real")
    rows = [{"id": q.id, "question": q.text, "answer": q.answer} for q in world.questions(QUESTIONS)]
    (folder / "petri.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "tasks").mkdir()
    (folder / "tasks" / "petri.yaml").write_text(TASK.format(file=folder / "petri.jsonl"))
    (folder / "petri_task.py").write_text(INSPECT_TASK)
    engine = load_engine(WEIGHTS, max_batch=64)
    policy = BudgetPolicy(**{**POLICY, "wait": (POLICY["wait"],)})
    try:
        evaluate(world.benchmark(QUESTIONS), engine, FORMATS["petri"], Plan((policy,)), folder / "run")
    finally:
        asyncio.run(engine.close())
    return folder


@pytest.fixture(autouse=True)
def _installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry points of pyproject.toml, as an installed package would show them."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    about = folder / "installed" / "s1-0.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: s1\nVersion: 0\n")
    lines = [f"[{g}]\n" + "".join(f"{n} = {v}\n" for n, v in found.items()) for g, found in declared.items()]
    (about / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.setenv("INSPECT_DISPLAY", "none")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(about.parent), str(ROOT)]))


def ours(folder: Path) -> tuple[float, dict[str, Generation]]:
    """Accuracy of the run of `s1 eval`, and its generations by question."""
    accuracy = read_metrics(folder / "run").points[0].accuracy / 100
    assert 0 < accuracy < 1  # else equal accuracies would say nothing
    return accuracy, {g.question_id: g for g in runs.read_generations(folder / "run")}


def lm_eval(folder: Path, out: str) -> list[str]:
    given = {"model": WEIGHTS, "format": "petri", "max_batch": 8, **POLICY}
    return [
        "-m", "s1.harness.lm_eval", "run", "--model", "s1", "--tasks", "petri_small", "--include_path", "tasks",
        "--model_args", ",".join(f"{name}={value}" for name, value in given.items()),
        "--apply_chat_template", "--log_samples", "--output_path", out,
    ]  # fmt: skip


def test_lm_eval_killed_and_resumed_gives_what_s1_eval_gives(folder):
    pytest.importorskip("lm_eval", reason='needs lm-evaluation-harness: pip install -e ".[lm-eval]"')
    file = folder / "out" / "s1_generations.jsonl"
    for attempt in range(5):  # on a busy machine it may be done before it is killed
        words = [*lm_eval(folder, "out"), "--use_cache", f"cache{attempt}"]
        process = forked.start_python(words, folder, Path("killed.out"), Path("killed.err"))
        while not (file.exists() and file.read_bytes().count(b"\n") >= 10) and process.exitcode is None:
            time.sleep(0.01)
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), (folder / "killed.err").read_text()
        before = file.read_bytes().count(b"\n")
        if process.exitcode and before < QUESTIONS:
            break
        shutil.rmtree(folder / "out")
    assert 10 <= before < QUESTIONS

    done = forked.python(words, folder)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert QUESTIONS <= len(lines) <= QUESTIONS + 8  # at most what was in flight is done twice

    accuracy, generations = ours(folder)
    ids = [q.id for q in world.questions(QUESTIONS)]
    for line in lines:
        theirs, mine = from_json(Generation, line["generation"]), generations[ids[line["doc_id"]]]
        assert theirs.segments == mine.segments and theirs.waits == mine.waits
    results = json.loads(next((folder / "out").glob("*/results_*.json")).read_text())
    assert results["results"]["petri_small"]["exact_match,answer"] == pytest.approx(accuracy)
    assert results["config"]["s1"]["policy"]["waits"] == 2
    assert 0 < results["config"]["s1"]["totals"]["requests"] <= QUESTIONS - before + 8
    samples = next((folder / "out").glob("*/samples_*.jsonl")).read_text().splitlines()
    assert {json.loads(s)["prompt_hash"] for s in samples} == {line["prompt_hash"] for line in lines}


def test_inspect_gives_what_s1_eval_gives(folder):
    pytest.importorskip("inspect_ai", reason='needs Inspect AI: pip install -e ".[inspect]"')
    from inspect_ai.log import read_eval_log

    options = [w for name, value in POLICY.items() for w in ("-M", f"{name}={value}")]
    words = ["-m", "inspect_ai", "eval", "petri_task.py", "--model", f"s1/{WEIGHTS}", "-M", "format=petri"]
    done = forked.python([*words, *options, "--log-dir", "logs"], folder)
    assert done.returncode == 0, done.stdout + done.stderr
    log = read_eval_log(str(next((folder / "logs").glob("*.eval"))))
    accuracy, generations = ours(folder)
    assert log.status == "success" and len(log.samples) == QUESTIONS
    for sample in log.samples:
        mine = generations[sample.id]
        reasoning = "".join(c.reasoning for c in sample.output.message.content if c.type == "reasoning")
        assert reasoning == mine.text_of("thinking")
        assert sample.output.usage.reasoning_tokens == mine.thinking_tokens
        assert sample.output.metadata["s1"]["waits"] == mine.waits
    assert log.results.scores[0].metrics["accuracy"].value == pytest.approx(accuracy)
