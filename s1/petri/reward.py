"""A process reward model for petri: how likely a rollout, as far as it goes, is to end in the right answer.

    python -m s1.petri.reward --model CHECKPOINT --out FOLDER
    s1 eval --benchmark petri --model CHECKPOINT --temperature 0.8 --method rebase:width=8 --reward petri:FOLDER

The script samples rollouts on questions of the training split and labels every line and attempt of each with
whether its final answer came out right: one Monte-Carlo draw of the value of that prefix, without annotators
(the idea of Math-Shepherd, arXiv 2312.08935, which draws several). A small head learns that from the hidden
states of the model itself, whose weights stay as they are. FOLDER then holds

    reward.json         settings, the model it belongs to, and what it shows on held-out questions
    head.safetensors    the head
    rollouts/           the rollouts as a run folder; a script that was killed goes on from there
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s1.errors import BadConfig, BadInput, EngineFailure, S1Error
from s1.formats import FORMATS, open_prompt
from s1.methods import Scored
from s1.methods.budget_forcing import question_text
from s1.petri.reward_report import Marked, percent_right, report
from s1.types import Generation, Question, Sampling, to_json

if TYPE_CHECKING:
    import torch

    from s1.engines.hf import HFEngine
    from s1.evals.run import RunProgress

RECORD, HEAD, ROLLOUTS = "reward.json", "head.safetensors", "rollouts"
ATTEMPT = " ."
"""Ends an attempt; REBASE takes it as the end of a step (`s1.methods.rebase`)."""
MARKS = (ATTEMPT, " ;", " no", " yes", "</think>")
"""Tokens after which the head is trained, besides the last one of a rollout: ends of lines and attempts."""
PADDED_TOKENS = 4096
"""Most tokens of one forward pass, padding included."""


@dataclass(frozen=True, slots=True)
class RewardSettings:
    """About three minutes on one core."""

    questions: int = 800
    samples: int = 4
    """Rollouts for each question."""
    temperature: float = 0.8
    held_out: float = 0.2
    """Share of the questions that only the report sees."""
    hidden: int = 128
    """Width of the head."""
    epochs: int = 6
    batch: int = 512
    learning_rate: float = 1e-3
    seed: int = 0
    """Of the list of questions and of the head."""

    def __post_init__(self) -> None:
        for name in ("questions", "samples", "hidden", "epochs", "batch"):
            if getattr(self, name) < 1:
                raise BadConfig(f"{name} is {getattr(self, name)}.", "Use 1 or more.")
        if self.temperature <= 0 or self.learning_rate <= 0 or not 0 < self.held_out < 1:
            raise BadConfig(
                f"temperature {self.temperature}, learning_rate {self.learning_rate}, held_out {self.held_out}.",
                "Use temperature and learning_rate above 0, and held_out between 0 and 1.",
            )


def train_reward(
    model: str | Path,
    out: Path,
    settings: RewardSettings = RewardSettings(),
    *,
    say: Callable[[str], None] = lambda line: None,
    progress: Callable[[RunProgress], None] = lambda state: None,
) -> dict[str, Any]:
    """Sample, train, report: writes the folder `out` and returns the record.

    Raises BadInput for a model folder that cannot be used, BadConfig where `out` holds rollouts of other
    settings.
    """
    from safetensors.torch import save_file

    from s1.engines.hf import load as load_engine

    folder, began = Path(model), time.perf_counter()
    weights = _hash_of(folder)
    engine = load_engine(str(folder), max_batch=128)
    try:
        rollouts = _rollouts(engine, out, settings, progress)
        sampled = time.perf_counter() - began
        say(
            f"{len(rollouts)} rollouts, {percent_right(r.right for r in rollouts):.1f} % right, {sampled:.0f} s"
        )
        first_held = round(settings.questions * (1 - settings.held_out))
        seen = [r for r in rollouts if r.question < first_held]
        held = [r for r in rollouts if r.question >= first_held]
        if not seen or not held:
            raise BadConfig(f"{settings.questions} questions leave none to hold out.", "Use more questions.")
        features_ND = _features(engine, seen)
        right_N = [float(r.right) for r in seen for _ in r.places]
        head, loss = _fit(features_ND, right_N, settings)
        scores = _apply(head, _features(engine, held))
    finally:
        asyncio.run(engine.close())
    record = {
        "model": Path(os.path.relpath(folder, out)).as_posix(),
        "weights": weights,
        "settings": to_json(settings),
        "rollouts": len(rollouts),
        "loss": round(loss, 4),
        "seconds": {"rollouts": round(sampled, 1), "all": round(time.perf_counter() - began, 1)},
        "held_out": report(held, scores),
    }
    save_file({k: v.contiguous() for k, v in head.state_dict().items()}, out / HEAD)
    (out / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def _rollouts(
    engine: HFEngine, out: Path, settings: RewardSettings, progress: Callable[[RunProgress], None]
) -> list[Marked]:
    from s1 import runs
    from s1.evals.run import Plan, evaluate
    from s1.petri import world
    from s1.policy import BudgetPolicy

    exam = world.benchmark(settings.questions, "train", settings.seed)
    sampling = Sampling(temperature=settings.temperature, seed=0)
    plan = Plan((BudgetPolicy(max_answer=12),), samples=settings.samples, sampling=sampling)
    folder = out / ROLLOUTS
    evaluate(exam, engine, FORMATS["petri"], plan, folder, model=engine.name, progress=progress)
    order = {q.id: i for i, q in enumerate(exam.questions)}
    right = {key: grade.outcome == "right" for key, grade in runs.read_grades(folder).items()}
    marks, attempt = {engine.encode(mark)[-1] for mark in MARKS}, engine.encode(ATTEMPT)[-1]
    found = [
        marked(g, order[g.question_id], marks, attempt, right[runs.key_of(g)])
        for g in sorted(runs.read_generations(folder), key=lambda g: (order[g.question_id], g.sample))
        if g.error is None
    ]
    return found


def marked(generation: Generation, question: int, marks: set[int], attempt: int, right: bool) -> Marked:
    """A receipt with its marks."""
    prompt = [i for s in generation.segments if s.phase == "prompt" for i in s.token_ids]
    said = [i for s in generation.segments if s.phase != "prompt" for i in s.token_ids]
    last = len(prompt) + len(said) - 1
    places, depths, attempts = list[int](), list[int | None](), 0
    for place, token in enumerate(said, len(prompt)):
        if token in marks or place == last:
            attempts += token == attempt
            places.append(place)
            depths.append(attempts if token == attempt else None)
    return Marked(question, (*prompt, *said), tuple(places), tuple(depths), right)


# --- the head -------------------------------------------------------------------------------------------
# Shapes: B rollouts, T positions, N places, D features: the last two hidden states side by side.


def _hidden(engine: HFEngine, batch: Sequence[Sequence[int]]) -> torch.Tensor:
    """Features of every position, BTD. Padding is on the right, where causal attention does not see it."""
    import torch

    longest = max(map(len, batch))
    ids_BT = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in batch], device=engine.model.device)
    out = engine.model.base_model(input_ids=ids_BT, use_cache=False, output_hidden_states=True)
    return torch.cat(out.hidden_states[-2:], dim=-1).float()


def _features(engine: HFEngine, rollouts: Sequence[Marked]) -> torch.Tensor:
    """Features of every place of every rollout, ND, in order."""
    import torch

    found: list[Any] = [None] * len(rollouts)
    with torch.inference_mode():
        for rows in _batches([len(r.ids) for r in rollouts]):
            hidden_BTD = _hidden(engine, [rollouts[i].ids for i in rows])
            for row, i in enumerate(rows):
                found[i] = hidden_BTD[row, list(rollouts[i].places)].cpu()
    return torch.cat(found).clone()


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Positions in `lengths` in groups of like length, each within PADDED_TOKENS."""
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


def _fit(
    features_ND: torch.Tensor, right: Sequence[float], settings: RewardSettings
) -> tuple[torch.nn.Sequential, float]:
    """The trained head and the mean loss of its last epoch."""
    import torch

    torch.manual_seed(settings.seed)
    right_N = torch.tensor(right)
    mean_D, std_D = features_ND.mean(0), features_ND.std(0) + 1e-5
    head = _build_head(features_ND.shape[1], settings.hidden)
    optimizer = torch.optim.AdamW(head.parameters(), lr=settings.learning_rate, weight_decay=0.01)
    steps = settings.epochs * -(-len(right_N) // settings.batch)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=steps + 1, pct_start=0.1
    )
    losses: list[float] = []
    for _ in range(settings.epochs):
        losses.clear()
        for rows in torch.split(torch.randperm(len(right_N)), settings.batch):
            logits_N = head((features_ND[rows] - mean_D) / std_D)[:, 0]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits_N, right_N[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            rate.step()
            losses.append(loss.item())
    with torch.no_grad():  # the scaling of the features becomes part of the first layer
        first: Any = head[0]
        first.weight /= std_D
        first.bias -= first.weight @ mean_D
    return head, sum(losses) / len(losses)


def _apply(head: torch.nn.Sequential, features_ND: torch.Tensor) -> list[float]:
    import torch

    with torch.inference_mode():
        return [float(p) for p in head(features_ND)[:, 0].sigmoid()]


# --- as a reward ----------------------------------------------------------------------------------------


class PetriReward:
    """Scores rollouts of any length by the trained head. Every call reads its rollouts from their beginning."""

    def __init__(self, engine: HFEngine, head: torch.nn.Sequential, name: str) -> None:
        self.name = name
        self._engine, self._head = engine, head
        self._lock = threading.Lock()

    async def score(self, question: Question, rollouts: Sequence[str]) -> Scored:
        """The chance, as the head sees it, that each rollout ends right. Equal rollouts are read once.

        Raises EngineFailure when the model fails.
        """
        return await asyncio.to_thread(self._score, question, rollouts)

    def encoded(self, question: Question, rollout: str) -> tuple[int, ...]:
        """The ids that the model read and wrote: the prompt with its thinking opened, and the rollout."""
        prompt = self._engine.render([{"role": "user", "content": question_text(question)}])
        return self._engine.encode(open_prompt(prompt, FORMATS["petri"]) + rollout)

    def _score(self, question: Question, rollouts: Sequence[str]) -> Scored:
        import torch

        texts = list(dict.fromkeys(rollouts))
        every = [self.encoded(question, text) for text in texts]
        ends = [Marked(0, ids, (len(ids) - 1,), (None,), False) for ids in every]
        try:
            with self._lock:  # one forward pass at a time is what the cores can do
                found = _apply(self._head, _features(self._engine, ends))
        except (RuntimeError, torch.OutOfMemoryError) as error:
            raise EngineFailure(f"The reward model {self.name} failed: {error}") from error
        scores = dict(zip(texts, found, strict=True))
        return Scored(tuple(scores[text] for text in rollouts), sum(map(len, every)))


def load(spec: str) -> PetriReward:
    """The reward model in the folder `spec`. Raises BadInput where it, or the model it was trained on, is not."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from s1.engines.hf import load as load_engine

    folder = Path(spec)
    hint = "Train one: python -m s1.petri.reward --model CHECKPOINT --out FOLDER"
    if not spec or not (folder / RECORD).is_file():
        raise BadInput(f"There is no petri reward model in {spec!r}.", hint)
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        model, weights = folder / str(record["model"]), str(record["weights"])
        hidden = int(record["settings"]["hidden"])
        state = load_file(folder / HEAD)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise BadInput(f"{folder} is no petri reward model: {error!r}.", hint) from error
    if _hash_of(model) != weights:
        raise BadInput(f"{folder} was trained on other weights than {model} holds.", "Train it again.")
    engine = load_engine(str(model))
    head = _build_head(state["0.weight"].shape[1], hidden)
    try:
        head.load_state_dict(state)
    except RuntimeError as error:
        raise BadInput(f"{folder / HEAD} does not fit {RECORD}: {error}", hint) from error
    return PetriReward(engine, head.eval(), f"petri:{spec}")


def _hash_of(model: Path) -> str:
    """First 16 hex digits of SHA-256 of a checkpoint's weights."""
    try:
        return hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise BadInput(
            f"{model} holds no model.safetensors: {error.strerror}.",
            "Give the folder of a trained petri model.",
        ) from error


def main(arguments: Sequence[str] | None = None) -> int:
    plain = RewardSettings()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, required=True, help="folder of a fine-tuned petri model")
    parser.add_argument("--out", type=Path, required=True, help="folder for the reward model")
    parser.add_argument("--questions", type=int, default=plain.questions)
    parser.add_argument("--samples", type=int, default=plain.samples, help="rollouts for each question")
    parser.add_argument("--temperature", type=float, default=plain.temperature)
    parser.add_argument("--seed", type=int, default=plain.seed)
    given = parser.parse_args(arguments)
    try:
        settings = RewardSettings(
            questions=given.questions, samples=given.samples, temperature=given.temperature, seed=given.seed
        )
        record = train_reward(given.model, given.out, settings, say=lambda line: print(line, flush=True))
    except S1Error as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(record["held_out"], indent=1))
    print(f"{record['seconds']['all']:.0f} s. Written to {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
