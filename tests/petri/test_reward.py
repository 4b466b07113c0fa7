"""The reward model of petri: its labels, and a small one that is really trained."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from s1.errors import BadConfig, BadInput, EngineFailure
from s1.methods import load_reward
from s1.petri import world
from s1.petri.reward import RECORD, ROLLOUTS, fit_head, label_rollout, load, read_rollouts, train_reward
from s1.types import Generation, Segment
from scripts.petri.reward_report import auc
from scripts.petri.train_reward import main, measure


def test_positions_are_the_ends_of_lines_and_the_last_token():
    segments = (
        Segment((90, 91), "", "prompt", "format"),
        Segment((7, 2, 7, 1, 7, 1), "", "thinking", "model"),
        Segment((8,), "", "answer", "model"),
    )
    generation = Generation("q", 0, "natural", segments, 6, 1, 0, 0, False, "stop")
    found = label_rollout(generation, 5, {1, 2}, True)
    assert found == (5, (90, 91, 7, 2, 7, 1, 7, 1, 8), (3, 5, 7, 8), True)


@pytest.mark.parametrize("questions", [0, 1, 2])
def test_too_few_questions_to_hold_some_out_are_refused(questions, tmp_path):
    with pytest.raises(BadConfig, match="questions"):
        train_reward(world.base_model(), tmp_path / "out", questions)
    assert not (tmp_path / "out").exists()


def test_a_head_learns_what_the_features_tell_and_keeps_it_when_scaled_back(monkeypatch):
    torch = pytest.importorskip("torch")
    for name, value in {"HIDDEN": 16, "EPOCHS": 40, "BATCH": 64, "LEARNING_RATE": 1e-2}.items():
        monkeypatch.setattr(f"s1.petri.reward.{name}", value)
    features_ND = torch.randn(600, 8, generator=torch.Generator().manual_seed(1)) * 3 + 5
    right = [x > 5 for x in features_ND[:, 2].tolist()]
    head, loss = fit_head(features_ND, right, seed=0)
    assert loss < 0.2, "guessing has 0.69"
    scores = head(features_ND)[:, 0].sigmoid().tolist()
    assert auc(list(zip(scores, right, strict=True))) > 0.95
    assert sum((score > 0.5) == truth for score, truth in zip(scores, right, strict=True)) > 540


# --- a small one, trained on the shipped base -------------------------------------------------------------

QUESTIONS = 10


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A head on the base model, which cannot think: good enough for everything but its quality."""
    out = tmp_path_factory.mktemp("small") / "reward"
    train_reward(world.base_model(), out, QUESTIONS)
    return out


def scored(reward, rollouts):
    return asyncio.run(reward.score(world.questions(1)[0], rollouts))


def test_a_trained_reward_scores_rollouts_of_any_length_between_0_and_1(small):
    reward = load_reward(f"petri:{small}")
    texts = ["", " quick so 3 .", " quick so 3 . Wait , slowly", " quick so 3 .</think> Answer : 3"]
    found = scored(reward, texts)
    assert len(set(found.scores)) == 4 and all(0 < score < 1 for score in found.scores)
    question = world.questions(1)[0]
    assert found.tokens == sum(len(reward.encode(question, text)) for text in texts)


def test_scores_do_not_depend_on_what_else_is_scored_and_equal_rollouts_are_read_once(small):
    reward = load(str(small))
    texts = [" quick so 3 .", " quick so 4 . Wait , slowly start 3 ;", " x 0 : 1 no"]
    together = scored(reward, [*texts, texts[0]])
    alone = [scored(reward, [text]) for text in texts]
    assert together.scores == pytest.approx([*(one.scores[0] for one in alone), alone[0].scores[0]], abs=1e-5)
    assert together.tokens == sum(one.tokens for one in alone)


def test_a_reward_reads_the_tokens_of_the_generation(small):
    from s1 import runs

    reward = load(str(small))
    questions = {q.id: q for q in runs.read_questions(small / ROLLOUTS)}
    for one in runs.read_generations(small / ROLLOUTS):
        text = "".join(s.text for s in one.segments if s.phase != "prompt")
        ids = tuple(i for s in one.segments for i in s.token_ids)
        assert reward.encode(questions[one.question_id], text) == ids


def test_the_same_seed_trains_the_same_head_and_resumes_from_its_rollouts(small, tmp_path):
    shutil.copytree(small / ROLLOUTS, tmp_path / ROLLOUTS)
    train_reward(world.base_model(), tmp_path, QUESTIONS)
    assert (tmp_path / "head.safetensors").read_bytes() == (small / "head.safetensors").read_bytes()
    with pytest.raises(BadConfig):
        train_reward(world.base_model(), tmp_path, QUESTIONS, seed=1)


def test_stored_rollouts_are_in_the_order_of_the_questions(small):
    rollouts = read_rollouts(load(str(small)).engine, small / ROLLOUTS)
    assert [r.question for r in rollouts] == [i for i in range(QUESTIONS) for _ in range(4)]


def test_rollouts_are_of_the_training_split(small):
    from s1 import runs
    from s1.petri.tasks import split_of

    questions = runs.read_questions(small / ROLLOUTS)
    assert len(questions) == QUESTIONS and {split_of(q.text) for q in questions} == {"train"}


def test_a_model_that_fails_is_a_failure_of_the_engine_not_a_crash(small):
    reward = load(str(small))

    def broken(*args, **kwargs):
        raise RuntimeError("out of memory")

    reward.engine.model.base_model.forward = broken
    with pytest.raises(EngineFailure, match="out of memory"):
        scored(reward, [" quick"])


def test_a_folder_that_holds_no_reward_or_one_of_another_model_is_refused(small, tmp_path):
    with pytest.raises(BadInput, match="no petri reward model"):
        load(str(tmp_path))
    (tmp_path / RECORD).write_text("{}")
    with pytest.raises(BadInput, match="not a petri reward model"):
        load(str(tmp_path))
    record = json.loads((small / RECORD).read_text())
    other = tmp_path / "other"
    shutil.copytree(small, other)
    (other / RECORD).write_text(json.dumps(record | {"weights": "0" * 16, "model": str(world.base_model())}))
    with pytest.raises(BadInput, match="other weights"):
        load(str(other))
    (other / RECORD).write_text(json.dumps(record | {"model": "nowhere"}))
    with pytest.raises(BadInput, match="other weights"):
        load(str(other))


def test_the_script_reports_bad_input_in_one_line(tmp_path, capsys):
    assert main(["--model", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "config.json is missing" in capsys.readouterr().err


# --- a fine-tuned model ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_search_runs_on_the_reward_of_a_fine_tuned_model_and_the_reward_is_measured(tmp_path):
    """Fine-tunes a model on some traces of the teacher first. Its quality is not tested."""
    import random

    from s1.engines import load_engine
    from s1.evals.run import Plan, evaluate
    from s1.formats import FORMATS
    from s1.methods import load_method
    from s1.petri.tasks import FAMILIES, make_problem
    from s1.petri.teacher import Patience, write_trace
    from s1.train.sft import train
    from s1.types import Question, Sampling, Trace, question_id

    rng, traces = random.Random(0), []
    for i in range(160):
        problem = make_problem(rng, list(FAMILIES)[i % 10], i // 10 % 10 + 1, "train")
        thinking, answer = write_trace(problem, rng, Patience())
        question = Question(question_id(problem.question), problem.question, problem.answer, "petri")
        traces.append(Trace(question, thinking, answer, "teacher"))
    settings = world.train_settings(epochs=1)
    model = train(str(world.base_model()), traces, tmp_path / "model", FORMATS["petri"], settings)
    train_reward(model, tmp_path / "reward", 50)
    held_out = measure(tmp_path / "reward", 50)
    reward = load_reward(f"petri:{tmp_path / 'reward'}")
    assert held_out["rollouts"] == 40
    for name in ("auc_of_attempts", "auc_at_the_end"):
        assert held_out[name] is None or 0 <= held_out[name] <= 1
    engine = load_engine(str(model), max_batch=128)
    try:
        method = load_method("rebase:width=4")
        plan = Plan(methods=(method,), sampling=Sampling(temperature=0.8, seed=0))
        found = evaluate(
            world.benchmark(20, "dev"), engine, FORMATS["petri"], plan, tmp_path / "run", reward=reward
        )
    finally:
        asyncio.run(engine.close())
    (point,) = found.points
    assert point.n == 20 and point.outcomes["error"] == 0
    assert point.spent.rollouts == 4 and point.spent.reward > point.spent.thinking
