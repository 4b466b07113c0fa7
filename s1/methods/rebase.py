"""REBASE: a tree search over steps of the thinking, balanced by a process reward model.

After Wu et al. (arXiv 2408.00724, the section on reward balanced search), with the rounding of the code that
the s1 paper ran for its comparison with parallel scaling (section 6.2; SEMANTICS 3.10):

    width first steps -> score all -> share the remaining leaves among them -> their next steps -> ...
                             `-- a branch that has answered leaves, and takes its leaf with it

A step ends with the token that completes its delimiter, whatever tokens the model spells it with. Each branch is
a `Forcing` (section 3.1) whose request is broken off there, so budgets and waits work as in every other method and
the model goes on from the tokens that it drew. The seed of a fork follows from its path, and a first child draws on
as its parent did; the last branch runs to its end, so that a search of width 1 is the plain sample.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from s1.budget import Forcing
from s1.drive import drive
from s1.errors import BadConfig, EngineFailure
from s1.methods import Method, Task, label_with
from s1.methods.budget_forcing import begin
from s1.methods.rollouts import check_count, combined, completed, scores_of, side_by_side
from s1.methods.voting import pick_winner
from s1.policy import BudgetPolicy
from s1.seeds import seed_of
from s1.types import Chunk, Generation, Sampling, Spent, texts_of

STEPS = {"petri": " ."}
"""What ends a step, by the name of the format: an attempt in petri, a paragraph elsewhere."""
PARAGRAPH = "\n\n"


@dataclass(frozen=True, slots=True)
class Rebase(Method):
    """A search with `width` leaves. The defaults of width, balance and step_tokens are those of the s1 run."""

    kind = "rebase"
    needs_reward = True
    width: int = 16
    balance: float = 0.2
    """Temperature of the softmax that shares the leaves; near 0 the best node gets all."""
    step: str = ""
    """What ends a step; "" takes that of the format (`STEPS`)."""
    step_tokens: int = 256
    """A step without its delimiter ends after this many tokens."""
    max_steps: int = 50
    """After this many steps a branch runs to its end without forks."""
    by: Literal["weighted", "majority", "best"] = "weighted"
    """What decides among the leaves: the sum of scores for an answer, their number, or the best single score."""
    policy: BudgetPolicy = BudgetPolicy()
    """The policy of every branch."""

    def __post_init__(self) -> None:
        for name in ("width", "step_tokens", "max_steps"):
            check_count(name, getattr(self, name))
        if not (self.balance > 0 and math.isfinite(self.balance)):
            raise BadConfig(f"balance is {self.balance}.", "Use a number above 0; the paper's code has 0.2.")
        if self.by not in ("weighted", "majority", "best"):
            raise BadConfig(f"by is {self.by!r}.", "Choose one of: weighted, majority, best.")
        if self.policy.profile == "official":
            raise BadConfig("REBASE has no official profile.", "Use profile strict.")

    @property
    def label(self) -> str:
        parts = [f"rebase {self.width}"]
        for name, usual in (("balance", 0.2), ("step", ""), ("step_tokens", 256), ("max_steps", 50)):
            if (value := getattr(self, name)) != usual:
                parts.append(f"{name} {value!r}")
        if self.by != "weighted":
            parts.append(self.by)
        return label_with(", ".join(parts), self.policy)

    @property
    def draws(self) -> int:
        return self.width

    @property
    def votes(self) -> bool:
        return self.by != "best"

    async def answer(self, task: Task) -> Generation:
        """The winning leaf, with what the whole tree spent. Branches that the engine broke off do not vote."""
        self.check(task.sampling, task.reward)
        began = time.perf_counter()
        step = self.step or STEPS.get(task.fmt.name, PARAGRAPH)
        tree, error = _Tree(self, task, step), None
        try:
            chosen = await tree.search(begin(task, self.policy))
        except EngineFailure as failure:
            chosen, error = None, str(failure)
        rolled = [*tree.leaves, *tree.frontier]
        found = combined(self, rolled, chosen, began, error=error, spent=tree.spent())
        return replace(found, seed=task.sampling.seed, first_token_seconds=None)


def shares(scores: Sequence[float], budget: int, balance: float) -> tuple[int, ...]:
    """How many children each node gets; they add up to `budget`.

    From the best node to the worst (ties in order), each takes its share of the remaining softmax mass, as a
    part of the remaining leaves, rounded up. (The paper rounds to the nearest, which need not add up.)
    """
    best = max(scores)
    masses = [math.exp((score - best) / balance) for score in scores]
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    counts, left = [0] * len(scores), budget
    for place, i in enumerate(order):
        if left == 0:
            break
        share = masses[i] / math.fsum(masses[j] for j in order[place:])
        counts[i] = math.ceil(left * share - 1e-9)  # a rounding error of floats is not a leaf
        left -= counts[i]
    return tuple(counts)


def fork_sampling(task: Task, path: Sequence[int]) -> Sampling:
    """The sampling of the branch at `path` (the number of each child on the way).

    A first child draws on as its parent does, so the seed follows from the path without trailing zeros.
    """
    kept = list(path)
    while len(kept) > 1 and kept[-1] == 0:
        kept.pop()
    if len(kept) == 1:
        return task.member(kept[0])
    return replace(task.sampling, seed=seed_of(task.sampling.seed, ".".join(map(str, kept))))


class _Branch(NamedTuple):
    path: tuple[int, ...]
    """The number of each child on the way to it."""
    forcing: Forcing


@dataclass
class _Tree:
    """One search, with its rollouts and costs."""

    method: Rebase
    task: Task
    step: str
    """What ends a step."""
    leaves: list[Generation] = field(default_factory=list)
    frontier: list[Generation] = field(default_factory=list)
    """The branches that have not ended, as far as they are."""
    thinking_tokens: int = 0
    reward_tokens: int = 0

    def spent(self) -> Spent:
        """Each step once, however many branches share it, the answers, and what the reward model read."""
        return Spent(
            self.thinking_tokens,
            sum(leaf.answer_tokens for leaf in self.leaves),
            self.reward_tokens,
            self.method.width,
            sum(leaf.error is not None for leaf in self.leaves),
        )

    async def search(self, root: Forcing) -> Generation | None:
        """The leaf that wins; None when every branch failed. Raises EngineFailure when the reward model fails."""
        branches = [self._fork(_Branch((), root), i) for i in range(self.method.width)]
        for depth in range(self.method.max_steps + 1):
            to_end = depth == self.method.max_steps or len(branches) == 1
            grown = await side_by_side(self._grow(branch.forcing, to_end) for branch in branches)
            self.leaves += filter(_has_ended, grown)
            branches = [b for b, so_far in zip(branches, grown, strict=True) if not _has_ended(so_far)]
            self.frontier = [so_far for so_far in grown if not _has_ended(so_far)]
            if not branches:
                break
            # As many children as branches, because each branch is one leaf.
            counts = [1]
            if len(branches) > 1:
                counts = list(shares(await self._scores(self.frontier), len(branches), self.method.balance))
            branches = [
                self._fork(b, k) for b, count in zip(branches, counts, strict=True) for k in range(count)
            ]
        voters, by = completed(self.leaves), self.method.by
        if len(voters) < 2:
            return voters[0] if voters else None
        scores = [] if by == "majority" else await self._scores(voters)
        return await pick_winner(self.task, voters, by, scores)

    def _fork(self, branch: _Branch, child: int) -> _Branch:
        """A child of the branch, with a machine of its own and the sampling of its path."""
        path, encoded = (*branch.path, child), branch.forcing.encoded
        forcing = copy.deepcopy(branch.forcing, {id(encoded): encoded})  # all but the prompt
        forcing.sampling = fork_sampling(self.task, path)
        return _Branch(path, forcing)

    async def _scores(self, rolled: Sequence[Generation]) -> list[float]:
        scores, read = await scores_of(self.task, rolled)
        self.reward_tokens += read
        return scores

    async def _grow(self, forcing: Forcing, to_end: bool) -> Generation:
        """The branch one step further, or to its end. The answer belongs to the step in which thinking ends."""
        names, before, error = (self.task.question.id, self.task.sample), len(forcing.thinking), None
        if not to_end:
            try:
                await self._think_step(forcing)
            except EngineFailure as failure:
                error = str(failure)
        if error is None and (to_end or forcing.phase != "thinking"):
            so_far = await drive(forcing, self.task.engine, *names)
        else:
            so_far = forcing.result(*names, error=error)
        self.thinking_tokens += len(forcing.thinking) - before
        return so_far

    async def _think_step(self, forcing: Forcing) -> None:
        """Think to the end of the step, of the thinking or of its budget."""
        left = self.method.step_tokens
        while left > 0 and (request := forcing.ask()) is not None and forcing.phase == "thinking":
            ids, finished = list(request.prefix[-4:]), False
            begin = len(ids)
            async with aclosing(self.task.engine.stream(request)) as chunks:
                async for chunk in chunks:
                    ids += chunk.ids
                    new = range(len(ids) - len(chunk.ids) + 1, len(ids) + 1)
                    end = next((n for n in new if n - begin == left or self._ends_step(ids, begin, n)), None)
                    if (
                        end is not None
                    ):  # a finish in the same chunk comes again, however the engine divides its chunks
                        forcing.feed(Chunk(chunk.ids[: end - new.start + 1], exact=chunk.exact))
                        return
                    finished = not forcing.feed(chunk)
                    if finished:
                        break
            if not finished:
                raise EngineFailure("The engine ended a continuation without a finish.")
            if chunk.finish == "stop":
                return
            left -= len(ids) - begin

    def _ends_step(self, ids: Sequence[int], begin: int, end: int) -> bool:
        """Whether token `end - 1` completes the delimiter; before `begin` is only context for the decoder."""
        begin = max(begin, end - len(self.step.encode()))
        parts = [ids[max(0, begin - 4) : begin], ids[begin:end]]
        return self.step in texts_of(parts, self.task.engine.decode)[-1]


def _has_ended(so_far: Generation) -> bool:
    return so_far.finish is not None or so_far.error is not None
