"""The reward model of petri: its measures, its marks, and a small one that is really trained."""

import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s1.errors import BadConfig, BadInput, EngineFailure
from s1.methods import load_reward
from s1.petri import world
from s1.petri.reward import (
    RECORD,
    RewardSettings,
    _apply,
    _fit,
    load,
    marked,
    train_reward,
)
from s1.petri.reward_report import auc, auc_within, calibration, report
from s1.types import Generation, Segment

PAIRS = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]), st.booleans()), max_size=30)


@given(PAIRS)
def test_auc_is_the_chance_that_a_right_one_scores_above_a_wrong_one(pairs):
    rights = [score for score, right in pairs if right]
    wrongs = [score for score, right in pairs if not right]
    if not rights or not wrongs:
        assert auc(pairs) is None
        return
    won = sum((r > w) + (r == w) / 2 for r in rights for w in wrongs)
    assert auc(pairs) == pytest.approx(won / (len(rights) * len(wrongs)), abs=1e-4)


def test_within_groups_only_rollouts_of_one_group_are_compared():
    easy, hard = [(0.9, True), (0.8, False)], [(0.1, True), (0.2, False)]
    assert auc_within([easy, hard]) == 0.5 and auc(easy + hard) == 0.5
    assert auc_within([easy, [(0.1, True)]]) == 1.0 and auc_within([[(0.1, True)], [(0.2, False)]]) is None


def test_calibration_sets_scores_beside_what_came_of_them():
    pairs = [(0.1, False), (0.1, False), (0.15, True), (0.9, True), (1.0, False)]
    assert calibration(pairs, bins=2) == {
        "bins": [{"n": 3, "score": 0.117, "right": 0.333}, {"n": 2, "score": 0.95, "right": 0.5}],
        "error": round((3 * abs(0.35 / 3 - 1 / 3) + 2 * 0.45) / 5, 4),
    }


def rollout(said: tuple[int, ...], right: bool, question: int = 5):
    segments = (
        Segment((90, 91), "", "prompt", "forced"),
        Segment(said[:-1], "", "thinking", "model"),
        Segment(said[-1:], "", "answer", "model"),
    )
    one = Generation("q", 0, "natural", segments, len(said) - 1, 1, 0, 0, False, "stop")
    return marked(one, question, {1, 2}, 1, right)


def test_marks_are_the_ends_of_lines_and_attempts_and_the_last_token():
    found = rollout((7, 2, 7, 1, 7, 1, 8), True)
    assert found.ids == (90, 91, 7, 2, 7, 1, 7, 1, 8)
    assert found.places == (3, 5, 7, 8) and found.depths == (None, 1, 2, None)
    assert (found.question, found.right) == (5, True)


def test_the_report_goes_by_attempts_and_by_the_end():
    rollouts = [rollout((7, 1, 7, 1, 8), True), rollout((7, 1, 8), False)]
    found = report(rollouts, [0.2, 0.9, 0.8, 0.6, 0.1])
    assert found["auc_by_attempt"] == {"1": {"n": 2, "auc": 0.0}, "2": {"n": 1, "auc": None}}
    assert (found["auc_at_the_end"], found["right"]) == (1.0, 50.0)
    assert found["auc_at_the_end_within_questions"] == 1.0
    apart = report([rollouts[0], rollout((7, 1, 8), False, question=6)], [0.2, 0.9, 0.8, 0.6, 0.1])
    assert apart["auc_at_the_end_within_questions"] is None


@pytest.mark.parametrize(
    "settings", [{"questions": 0}, {"samples": 0}, {"temperature": 0.0}, {"held_out": 1.0}]
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(BadConfig, match=next(iter(settings))):
        RewardSettings(**settings)


def test_a_head_learns_what_the_features_tell_and_keeps_it_when_scaled_back():
    torch = pytest.importorskip("torch")
    features_ND = torch.randn(600, 8, generator=torch.Generator().manual_seed(1)) * 3 + 5
    right = [float(x > 5) for x in features_ND[:, 2]]
    head, loss = _fit(features_ND, right, RewardSettings(hidden=16, epochs=40, batch=64, learning_rate=1e-2))
    assert loss < 0.2, "a coin has 0.69"
    pairs = list(zip(_apply(head, features_ND), map(bool, right), strict=True))
    assert auc(pairs) > 0.95 and sum((score > 0.5) == truth for score, truth in pairs) > 540


# --- a small one, trained on the shipped base -------------------------------------------------------------

SMALL = RewardSettings(questions=20, samples=2, epochs=2)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A head on the base model, which knows no thinking: enough for all but its worth."""
    out = tmp_path_factory.mktemp("small") / "reward"
    train_reward(world.base_model(), out, SMALL)
    return out


def scored(reward, rollouts):
    return asyncio.run(reward.score(world.exam(1)[0], rollouts))


def test_a_trained_reward_scores_rollouts_of_any_length_between_0_and_1(small):
    reward = load_reward(f"petri:{small}")
    texts = ["", " quick so 3 .", " quick so 3 . Wait , slowly", " quick so 3 .</think> Answer : 3"]
    found = scored(reward, texts)
    assert len(set(found.scores)) == 4 and all(0 < score < 1 for score in found.scores)
    question = world.exam(1)[0]
    assert found.tokens == sum(len(reward.encoded(question, text)) for text in texts)


def test_scores_do_not_depend_on_what_else_is_scored_and_equal_rollouts_are_read_once(small):
    reward = load(str(small))
    texts = [" quick so 3 .", " quick so 4 . Wait , slowly start 3 ;", " x 0 : 1 no"]
    together = scored(reward, [*texts, texts[0]])
    alone = [scored(reward, [text]) for text in texts]
    assert together.scores == pytest.approx([*(one.scores[0] for one in alone), alone[0].scores[0]], abs=1e-5)
    assert together.tokens == sum(one.tokens for one in alone)


def test_a_reward_reads_the_very_tokens_of_a_receipt(small):
    from s1 import runs

    reward = load(str(small))
    questions = {q.id: q for q in runs.read_questions(small / "rollouts")}
    for one in runs.read_generations(small / "rollouts"):
        text = one.text_of("thinking") + one.text_of("answer")
        ids = tuple(i for s in one.segments for i in s.token_ids)
        assert reward.encoded(questions[one.question_id], text) == ids


def test_the_same_seed_trains_the_same_head_and_goes_on_from_its_rollouts(small, tmp_path):
    shutil.copytree(small / "rollouts", tmp_path / "rollouts")
    train_reward(world.base_model(), tmp_path, SMALL)
    assert (tmp_path / "head.safetensors").read_bytes() == (small / "head.safetensors").read_bytes()
    record = json.loads((tmp_path / RECORD).read_text())
    assert record["settings"]["seed"] == 0 and record["held_out"]["rollouts"] == 8
    with pytest.raises(BadConfig):
        train_reward(world.base_model(), tmp_path, RewardSettings(questions=20, samples=2, seed=1))


def test_rollouts_are_of_the_training_split_and_held_out_questions_are_not_trained_on(small):
    from s1 import runs
    from s1.petri.tasks import split_of

    questions = runs.read_questions(small / "rollouts")
    assert len(questions) == 20 and {split_of(q.text) for q in questions} == {"train"}


def test_a_model_that_fails_is_a_failure_of_the_engine_not_a_crash(small):
    reward = load(str(small))

    def broken(*args, **kwargs):
        raise RuntimeError("out of memory")

    reward._engine.model.base_model.forward = broken
    with pytest.raises(EngineFailure, match="out of memory"):
        scored(reward, [" quick"])


def test_a_folder_that_holds_no_reward_or_one_of_another_model_is_refused(small, tmp_path):
    with pytest.raises(BadInput, match="no petri reward model"):
        load(str(tmp_path))
    (tmp_path / RECORD).write_text("{}")
    with pytest.raises(BadInput, match="is no petri reward model"):
        load(str(tmp_path))
    record = json.loads((small / RECORD).read_text())
    other = tmp_path / "other"
    shutil.copytree(small, other)
    (other / RECORD).write_text(json.dumps(record | {"weights": "0" * 16, "model": str(world.base_model())}))
    with pytest.raises(BadInput, match="other weights"):
        load(str(other))
    (other / RECORD).write_text(json.dumps(record | {"model": "nowhere"}))
    with pytest.raises(BadInput, match="no model.safetensors"):
        load(str(other))


def test_the_script_says_in_one_line_what_is_wrong(tmp_path):
    command = [
        sys.executable,
        "-m",
        "s1.petri.reward",
        "--model",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=120)
    assert done.returncode == 2 and "no model.safetensors" in done.stderr and "Traceback" not in done.stderr


# --- a fine-tuned model ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_search_runs_on_the_reward_of_a_fine_tuned_model_which_scores_as_its_record_says(tmp_path):
    """Fine-tunes a model on traces of the teacher first: about two minutes. How good it is, is not asked here."""
    from s1 import runs
    from s1.engines import load_engine
    from s1.evals.runner import Plan, evaluate
    from s1.formats import FORMATS
    from s1.methods import load_method
    from s1.petri.tasks import FAMILIES, make_problem
    from s1.petri.teacher import Patience, write_trace
    from s1.train.sft import train
    from s1.types import Question, Sampling, Trace, question_id

    rng, traces = random.Random(0), []
    for i in range(1000):
        problem = make_problem(rng, list(FAMILIES)[i % 10], i // 10 % 10 + 1, "train")
        written = write_trace(problem, rng, Patience())
        question = Question(question_id(problem.question), problem.question, problem.answer, "petri")
        traces.append(Trace(question, written.thinking, written.answer, "teacher"))
    settings = world.train_settings(epochs=2)
    model = train(str(world.base_model()), traces, tmp_path / "model", FORMATS["petri"], settings)
    record = train_reward(model, tmp_path / "reward", RewardSettings(questions=250))
    reward = load_reward(f"petri:{tmp_path / 'reward'}")
    questions = runs.read_questions(tmp_path / "reward" / "rollouts")
    grades = runs.read_grades(tmp_path / "reward" / "rollouts")
    texts = {question.id: [] for question in questions[200:]}  # what was held out
    outcomes = {name: [] for name in texts}
    for one in runs.read_generations(tmp_path / "reward" / "rollouts"):
        if one.question_id in texts:
            texts[one.question_id].append(one.text_of("thinking") + one.text_of("answer"))
            outcomes[one.question_id].append(grades[runs.key_of(one)].outcome == "right")
    pairs = []
    for question in questions[200:]:
        scores = asyncio.run(reward.score(question, texts[question.id])).scores
        pairs += zip(scores, outcomes[question.id], strict=True)
    assert len(pairs) == record["held_out"]["rollouts"] == 200
    assert auc(pairs) == pytest.approx(record["held_out"]["auc_at_the_end"], abs=1e-3)
    engine = load_engine(str(model), max_batch=128)
    try:
        method = load_method("rebase:width=4")
        plan = Plan(methods=(method,), sampling=Sampling(temperature=0.8, seed=0))
        found = evaluate(
            world.benchmark(20, "dev"), engine, FORMATS["petri"], plan, tmp_path / "run", reward=reward
        )
    finally:
        asyncio.run(engine.close())
    (point,) = found["points"]
    assert point["n"] == 20 and point["outcomes"]["error"] == 0
    assert point["spent"]["rollouts"] == 4 and point["spent"]["reward"] > point["spent"]["thinking"]
