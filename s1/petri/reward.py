"""A process reward model for petri: how likely a partial rollout is to end in the right answer.

`train_reward` samples rollouts on training questions and labels the end of each line and attempt with
whether the rollout's final answer came out right. That is one Monte-Carlo sample of the value of the prefix,
without annotators (the idea of Math-Shepherd, arXiv 2312.08935, which draws several). A small head learns
the labels from the hidden states of the model, whose own weights stay frozen. The output folder holds

    reward.json         the settings and the model that the head belongs to
    head.safetensors    the head
    rollouts/           the rollouts as a run folder, from which interrupted training resumes

`python -m scripts.petri.train_reward` also measures the head on held-out questions (docs/guides/rebase.md).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from s1.engines.model_id import model_id
from s1.errors import BadConfig, BadInput, EngineFailure
from s1.formats import FORMATS, open_prompt
from s1.methods import Scored
from s1.petri import world
from s1.types import Generation, Question, Sampling

if TYPE_CHECKING:
    import torch

    from s1.engines.hf import HFEngine
    from s1.evals.run import RunProgress

RECORD, HEAD, ROLLOUTS = "reward.json", "head.safetensors", "rollouts"
ATTEMPT_END = " ."
"""Ends an attempt; REBASE takes it as the end of a step (`s1.methods.rebase`)."""
LINE_ENDS = (ATTEMPT_END, " ;", " no", " yes", "</think>")
"""Tokens at which the head is trained, besides the last token of a rollout."""
PADDED_TOKENS = 4096
"""Most tokens in one forward pass, padding included."""


SAMPLES, TEMPERATURE = 4, 0.8
"""Rollouts per question."""
HELD_OUT = 0.2
"""Share of the questions that the head is not trained on."""
HIDDEN, EPOCHS, BATCH, LEARNING_RATE = 128, 6, 512, 1e-3
"""Width and training of the head."""


class LabelledRollout(NamedTuple):
    """A rollout and the outcome that every one of its positions is labelled with."""

    question: int
    """Index in the list of questions."""
    ids: tuple[int, ...]
    """Tokens of prompt, thinking and answer."""
    positions: tuple[int, ...]
    """Indices into `ids` at which the head reads; the last one is the end of the rollout."""
    right: bool


def train_reward(
    model: str | Path,
    out: Path,
    questions: int = 800,
    seed: int = 0,
    *,
    progress: Callable[[RunProgress], None] = lambda state: None,
) -> dict[str, Any]:
    """Sample rollouts of `model`, train the head, write the folder `out`; returns the record in reward.json.

    `seed` decides the list of questions and the head. Takes about three minutes on one core for 800 questions.
    Raises BadInput for a model folder that cannot be used, BadConfig when there are too few questions or `out`
    holds rollouts of another call.
    """
    from safetensors.torch import save_file

    from s1.engines.hf import load as load_engine

    folder, began = Path(model), time.perf_counter()
    weights = model_id(f"hf:{folder}")
    if not 0 < first_held_out(questions) < questions:
        raise BadConfig(f"{questions} questions are too few to hold some out.", "Use 10 or more.")
    engine = load_engine(str(folder), max_batch=128)
    try:
        sample_rollouts(engine, out / ROLLOUTS, questions, seed, progress)
        rollouts = read_rollouts(engine, out / ROLLOUTS)
        seen = [r for r in rollouts if r.question < first_held_out(questions)]
        labels = [r.right for r in seen for _ in r.positions]
        head, loss = fit_head(_features(engine, seen), labels, seed)
    finally:
        asyncio.run(engine.close())
    record = {
        "model": Path(os.path.relpath(folder, out)).as_posix(),
        "weights": weights,
        "questions": questions,
        "seed": seed,
        "rollouts": len(rollouts),
        "loss": round(loss, 4),
        "seconds": round(time.perf_counter() - began, 1),
    }
    save_file({k: v.contiguous() for k, v in head.state_dict().items()}, out / HEAD)
    (out / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def first_held_out(questions: int) -> int:
    """Index of the first question that the head is not trained on."""
    return round(questions * (1 - HELD_OUT))


def sample_rollouts(
    engine: HFEngine, folder: Path, questions: int, seed: int, progress: Callable[[RunProgress], None]
) -> None:
    """Sample and grade rollouts on questions of the training split into a run folder."""
    from s1.evals.run import Plan, evaluate
    from s1.policy import BudgetPolicy

    sampling = Sampling(temperature=TEMPERATURE, seed=0)
    plan = Plan((BudgetPolicy(max_answer=12),), samples=SAMPLES, sampling=sampling)
    benchmark = world.benchmark(questions, "train", seed)
    evaluate(benchmark, engine, FORMATS["petri"], plan, folder, model=engine.name, progress=progress)


def read_rollouts(engine: HFEngine, folder: Path) -> list[LabelledRollout]:
    """The rollouts in a graded run folder, in the order of its questions."""
    from s1 import runs

    order = {q.id: i for i, q in enumerate(runs.read_questions(folder))}
    grades = runs.read_grades(folder)
    line_ends = {engine.encode(end)[-1] for end in LINE_ENDS}
    generations = sorted(runs.read_generations(folder), key=lambda g: (order[g.question_id], g.sample))
    return [
        label_rollout(g, order[g.question_id], line_ends, grades[runs.key_of(g)].outcome == "right")
        for g in generations
        if g.error is None
    ]


def label_rollout(generation: Generation, question: int, line_ends: set[int], right: bool) -> LabelledRollout:
    """A generation with the positions of its line ends and of its last token."""
    prompt = [i for s in generation.segments if s.phase == "prompt" for i in s.token_ids]
    decoded = [i for s in generation.segments if s.phase != "prompt" for i in s.token_ids]
    last = len(prompt) + len(decoded) - 1
    positions = [p for p, token in enumerate(decoded, len(prompt)) if token in line_ends or p == last]
    return LabelledRollout(question, (*prompt, *decoded), tuple(positions), right)


# --- the head -------------------------------------------------------------------------------------------
# Shapes: B rollouts, T tokens, N positions, D features (the last two hidden states side by side).


def _features(engine: HFEngine, rollouts: Sequence[LabelledRollout]) -> torch.Tensor:
    """Features at every position of every rollout in order, ND."""
    import torch

    found: list[Any] = [None] * len(rollouts)
    with torch.inference_mode():
        for rows in _batches([len(r.ids) for r in rollouts]):
            hidden_BTD = _hidden_states(engine, [rollouts[i].ids for i in rows])
            for row, i in enumerate(rows):
                found[i] = hidden_BTD[row, list(rollouts[i].positions)].cpu()
    return torch.cat(found).clone()


def _hidden_states(engine: HFEngine, batch: Sequence[Sequence[int]]) -> torch.Tensor:
    """Features of every token, BTD. Padding is on the right, where causal attention never sees it."""
    import torch

    longest = max(map(len, batch))
    ids_BT = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in batch], device=engine.model.device)
    out = engine.model.base_model(input_ids=ids_BT, use_cache=False, output_hidden_states=True)
    return torch.cat(out.hidden_states[-2:], dim=-1).float()


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of `lengths` in groups of similar length, each within PADDED_TOKENS."""
    rows: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if rows and (len(rows) + 1) * lengths[i] > PADDED_TOKENS:
            yield rows
            rows = []
        rows.append(i)
    if rows:
        yield rows


def _build_head(width: int, hidden: int) -> torch.nn.Sequential:
    import torch

    return torch.nn.Sequential(torch.nn.Linear(width, hidden), torch.nn.GELU(), torch.nn.Linear(hidden, 1))


def fit_head(
    features_ND: torch.Tensor, labels: Sequence[bool], seed: int
) -> tuple[torch.nn.Sequential, float]:
    """The trained head and the mean loss of its last epoch."""
    import torch

    torch.manual_seed(seed)
    labels_N = torch.tensor(labels, dtype=torch.float32)
    mean_D, std_D = features_ND.mean(0), features_ND.std(0) + 1e-5
    head = _build_head(features_ND.shape[1], HIDDEN)
    optimizer = torch.optim.AdamW(head.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    steps = EPOCHS * -(-len(labels_N) // BATCH)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps + 1, pct_start=0.1)
    losses: list[float] = []
    for _ in range(EPOCHS):
        losses.clear()
        for rows in torch.split(torch.randperm(len(labels_N)), BATCH):
            logits_N = head((features_ND[rows] - mean_D) / std_D)[:, 0]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits_N, labels_N[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            rate.step()
            losses.append(loss.item())
    with torch.no_grad():  # fold the scaling of the features into the first layer
        first: Any = head[0]
        first.weight /= std_D
        first.bias -= first.weight @ mean_D
    return head, sum(losses) / len(losses)


# --- scoring --------------------------------------------------------------------------------------------


class PetriReward:
    """Scores rollouts of any length with the trained head. Each call reads its rollouts from the beginning."""

    def __init__(self, engine: HFEngine, head: torch.nn.Sequential, name: str) -> None:
        self.name = name
        self.engine = engine
        self._head = head
        self._lock = threading.Lock()

    async def score(self, question: Question, rollouts: Sequence[str]) -> Scored:
        """The predicted probability that each rollout ends right. Equal rollouts are read once.

        Raises EngineFailure when the model fails.
        """
        return await asyncio.to_thread(self._score, question, rollouts)

    def encode(self, question: Question, rollout: str) -> tuple[int, ...]:
        """The token ids of a rollout as the model saw them, with its prompt and the opened thinking."""
        prompt = self.engine.render([{"role": "user", "content": question.text}])
        return self.engine.encode(open_prompt(prompt, FORMATS["petri"]) + rollout)

    def probabilities(self, rollouts: Sequence[LabelledRollout]) -> list[float]:
        """The predicted probability at every position of every rollout, in order."""
        import torch

        with torch.inference_mode():
            logits_N = self._head(_features(self.engine, rollouts))[:, 0]
            return [float(p) for p in logits_N.sigmoid()]

    def _score(self, question: Question, rollouts: Sequence[str]) -> Scored:
        import torch

        texts = list(dict.fromkeys(rollouts))
        encoded = [self.encode(question, text) for text in texts]
        ends = [LabelledRollout(0, ids, (len(ids) - 1,), False) for ids in encoded]
        try:
            with self._lock:  # the cores are busy with one forward pass at a time
                found = self.probabilities(ends)
        except (RuntimeError, torch.OutOfMemoryError) as error:
            raise EngineFailure(f"The reward model {self.name} failed: {error}") from error
        scores = dict(zip(texts, found, strict=True))
        return Scored(tuple(scores[text] for text in rollouts), sum(map(len, encoded)))


def load(spec: str) -> PetriReward:
    """The reward model in the folder `spec`. Raises BadInput when it, or the model it belongs to, is unusable."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from s1.engines.hf import load as load_engine

    folder = Path(spec)
    hint = "Train one: python -m scripts.petri.train_reward --out FOLDER"
    if not spec or not (folder / RECORD).is_file():
        raise BadInput(f"There is no petri reward model in {spec!r}.", hint)
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        model, weights = folder / str(record["model"]), str(record["weights"])
        state = load_file(folder / HEAD)
        hidden, width = state["0.weight"].shape
        head = _build_head(width, hidden)
        head.load_state_dict(state)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise BadInput(f"{folder} is not a petri reward model: {error!r}.", hint) from error
    if model_id(f"hf:{model}") != weights:
        raise BadInput(f"{folder} was trained on other weights than {model} holds.", "Train it again.")
    version = hashlib.sha256((folder / HEAD).read_bytes()).hexdigest()[:12]
    return PetriReward(load_engine(str(model)), head.eval(), f"petri:{spec}@{version}")
