"""REBASE: a tree search over steps of the thinking, balanced by a process reward model.

After Wu et al. (arXiv 2408.00724, the section on reward balanced search), with the rounding of the code that
the paper of s1 ran for its comparison with parallel scaling (section 6.2; SEMANTICS 3.10):

    width first steps -> score all -> share the leaves that are left among them -> their next steps -> ...
                             `-- a branch that has answered leaves, and takes its leaf with it

A step is what comes up to a delimiter. Each branch is a `Forcing` (section 3.1), so budgets and waits mean
what they mean elsewhere. The seed of a fork follows from its path, and a first child goes on drawing as its
parent did: a search of width 1 is the plain sample.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Literal

from s1.budget import Forcing, drive
from s1.errors import BadConfig, EngineFailure
from s1.formats import as_stops
from s1.methods import Reward, Task, method_key
from s1.methods.budget_forcing import begin
from s1.methods.rollouts import (
    broken,
    check_count,
    check_draws,
    check_reward,
    check_seed,
    receipt,
    scores_of,
    side_by_side,
    whole,
)
from s1.methods.voting import majority, named, vote, weighted
from s1.policy import BudgetPolicy
from s1.prompt import EncodedPrompt
from s1.seeds import seed_of
from s1.types import Chunk, Continuation, Engine, Generation, Sampling, Spent, Stop

STEPS = {"petri": " ."}
"""What ends a step, by the format's name: in petri an attempt, elsewhere a paragraph."""
PARAGRAPH = "\n\n"


@dataclass(frozen=True, slots=True)
class Rebase:
    """`width` leaves for each question. Width, balance and step_tokens are those of s1's run unless changed."""

    width: int = 16
    balance: float = 0.2
    """Temperature of the softmax that shares the leaves: near 0 the best node takes all."""
    step: str = ""
    """What ends a step; "" takes the format's own (`STEPS`)."""
    step_tokens: int = 256
    """A step without its delimiter ends here."""
    max_steps: int = 50
    """After so many steps a branch goes on to its end without forks."""
    by: Literal["weighted", "majority", "best"] = "weighted"
    """What decides among the leaves: the sum of scores for an answer, their number, or the best score alone."""
    policy: BudgetPolicy = BudgetPolicy()
    """Of every branch."""

    def __post_init__(self) -> None:
        for name in ("width", "step_tokens", "max_steps"):
            check_count(name, getattr(self, name))
        if not (self.balance > 0 and math.isfinite(self.balance)):
            raise BadConfig(f"balance is {self.balance}.", "Use a number above 0; 0.2 is the published one.")
        if self.by not in ("weighted", "majority", "best"):
            raise BadConfig(f"by is {self.by!r}.", "Choose one of: weighted, majority, best.")
        if self.policy.profile == "official":
            raise BadConfig("REBASE has no official profile.", "Use profile strict.")

    @property
    def key(self) -> str:
        return method_key(self)

    @property
    def label(self) -> str:
        parts = [f"rebase {self.width}"]
        for name, usual in (("balance", 0.2), ("step", ""), ("step_tokens", 256), ("max_steps", 50)):
            if (value := getattr(self, name)) != usual:
                parts.append(f"{name} {value!r}")
        if self.by != "weighted":
            parts.append(self.by)
        return named(", ".join(parts), self.policy)

    @property
    def kind(self) -> str:
        return "rebase"

    def check(self, sampling: Sampling, reward: Reward | None) -> None:
        check_draws(self.width, sampling)
        check_reward(self.label, reward)

    async def answer(self, task: Task) -> Generation:
        """The leaf that won, with what the whole tree spent.

        Branches that the engine broke off do not vote. Raises BadConfig without a reward model, and where
        all branches would draw the same.
        """
        self.check(task.sampling, task.reward)
        check_seed(self.width, task.sampling)
        began = time.perf_counter()
        first = begin(task, self.policy, self.key)
        if isinstance(first, Generation):
            return first
        tree = _Tree(self, task, check_reward(self.label, task.reward), first.encoded)
        try:
            chosen, why = await tree.search(), ""
        except EngineFailure as failure:
            chosen, why = None, str(failure)
        spent = tree.spent()
        if chosen is None:
            found = broken(task, self.key, tree.rolled, began, why)
        else:
            found = receipt(task, self.key, chosen, tree.rolled, began)
        return replace(found, spent=spent, seed=task.sampling.seed, first_token_seconds=None)


def shares(scores: Sequence[float], budget: int, balance: float) -> tuple[int, ...]:
    """How many children each node gets; they add up to `budget`.

    From the best node to the worst (ties in order), each takes its share of the softmax mass that is left,
    rounded up, of the leaves that are left. (The paper rounds to the nearest, which need not add up.)
    """
    best = max(scores)
    masses = [math.exp((score - best) / balance) for score in scores]
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    counts, left = [0] * len(scores), budget
    for place, i in enumerate(order):
        if left == 0:
            break
        share = masses[i] / math.fsum(masses[j] for j in order[place:])
        counts[i] = math.ceil(left * share - 1e-9)  # the rounding of a float is no leaf
        left -= counts[i]
    return tuple(counts)


def fork_sampling(task: Task, path: Sequence[int]) -> Sampling:
    """The sampling of the branch at `path` (the number of each child on the way), from the task's seed.

    A first child draws on as its parent does, so the path without the zeros at its end names the seed.
    """
    kept = list(path)
    while len(kept) > 1 and kept[-1] == 0:
        kept.pop()
    if len(kept) == 1 or task.sampling.seed is None:
        return task.member(kept[0])
    return replace(task.sampling, seed=seed_of(task.sampling.seed, ".".join(map(str, kept))))


@dataclass(frozen=True, slots=True)
class _Node:
    """A branch so far: the number of each child on its way, and all that its machine was told."""

    path: tuple[int, ...]
    told: tuple[Chunk, ...] = ()
    """One chunk for each ask."""
    so_far: Generation | None = None
    has_ended: bool = False


@dataclass
class _Tree:
    """One search: what it has rolled and spent."""

    method: Rebase
    task: Task
    reward: Reward
    encoded: EncodedPrompt
    leaves: list[Generation] = field(default_factory=list)
    frontier: list[Generation] = field(default_factory=list)
    """The branches that have not ended, as they stand."""
    thinking_tokens: int = 0
    reward_tokens: int = 0
    stops: tuple[Stop, ...] = field(init=False)

    def __post_init__(self) -> None:
        step = self.method.step or STEPS.get(self.task.fmt.name, PARAGRAPH)
        self.stops = as_stops((step,), self.task.engine.encode)

    @property
    def rolled(self) -> list[Generation]:
        return [*self.leaves, *self.frontier]

    def spent(self) -> Spent:
        """Each step once, however many branches share it; answers, and what the reward model read."""
        return Spent(
            self.thinking_tokens,
            sum(leaf.answer_tokens for leaf in self.leaves),
            self.reward_tokens,
            self.method.width,
            sum(leaf.error is not None for leaf in self.leaves),
        )

    async def search(self) -> Generation | None:
        """The leaf that wins; None when every branch failed. Raises EngineFailure for a reward that breaks."""
        nodes = [_Node((i,)) for i in range(self.method.width)]
        for depth in range(self.method.max_steps + 1):
            to_end = depth == self.method.max_steps
            grown = await side_by_side(self._grow(node, to_end) for node in nodes)
            self.leaves += [node.so_far for node in grown if node.so_far and node.has_ended]
            open_nodes = [node for node in grown if not node.has_ended]
            self.frontier = [node.so_far for node in open_nodes if node.so_far]
            if not open_nodes:
                break
            nodes = await self._forks(open_nodes)
        return await self._winner()

    async def _forks(self, nodes: Sequence[_Node]) -> list[_Node]:
        """The children of the nodes at one depth: as many as there are nodes, since each of those is a leaf."""
        counts: tuple[int, ...] = (1,)
        if len(nodes) > 1:
            counts = shares(await self._scores(self.frontier), len(nodes), self.method.balance)
        return [
            replace(node, path=(*node.path, k))
            for node, count in zip(nodes, counts, strict=True)
            for k in range(count)
        ]

    async def _winner(self) -> Generation | None:
        voters = whole(self.leaves)
        if len(voters) < 2:
            return voters[0] if voters else None
        if self.method.by == "majority":
            return await vote(self.task, voters, majority)
        scores = await self._scores(voters)
        if self.method.by == "weighted":
            return await vote(self.task, voters, weighted, scores)
        best = min(range(len(voters)), key=lambda i: (-scores[i], voters[i].thinking_tokens, i))
        return voters[best]

    async def _scores(self, rolled: Sequence[Generation]) -> list[float]:
        scores, read = await scores_of(self.task, self.reward, rolled)
        self.reward_tokens += read
        return scores

    async def _grow(self, node: _Node, to_end: bool) -> _Node:
        """The branch one step further, or to its end; its answer belongs to the step in which thinking ends."""
        forcing, told = self._replayed(node), list(node.told)
        before, names = len(forcing.thinking), (self.task.question.id, self.task.sample)
        error = None
        if not to_end:
            try:
                await self._think(forcing, told)
            except EngineFailure as failure:
                error = str(failure)
        has_ended = to_end or error is not None or forcing.phase != "thinking"
        if has_ended and error is None:
            so_far = await drive(forcing, self.task.engine, *names)
        else:
            so_far = forcing.result(*names, error=error)
        self.thinking_tokens += len(forcing.thinking) - before
        return _Node(node.path, tuple(told), so_far, has_ended)

    def _replayed(self, node: _Node) -> Forcing:
        """The machine of a branch, told again what was told on its way."""
        forcing = Forcing(self.encoded, fork_sampling(self.task, node.path))
        for chunk in node.told:
            forcing.ask()
            forcing.feed(chunk)
        return forcing

    async def _think(self, forcing: Forcing, told: list[Chunk]) -> None:
        """Think to the end of the step, of the thinking or of its budget; `told` takes what the machine was told."""
        left = self.method.step_tokens
        while left > 0 and (ask := forcing.ask()) is not None and forcing.phase == "thinking":
            whole_stop = max(len(stop.ids) for stop in ask.stops)
            shorter = replace(
                ask, max_tokens=min(ask.max_tokens, max(left, whole_stop)), stops=(*ask.stops, *self.stops)
            )
            if ask.min_tokens:  # an engine would hold back the step's end too: so far without it
                shorter = replace(ask, max_tokens=max(ask.min_tokens, min(ask.max_tokens, whole_stop)))
            came = await _continued(self.task.engine, shorter)
            told.append(self._as_told(came, shorter, ask))
            forcing.feed(told[-1])
            if came.finish == "stop":
                return
            left -= len(told[-1].ids)

    def _as_told(self, came: Chunk, shorter: Continuation, ask: Continuation) -> Chunk:
        """What the machine, which wants `ask`, hears of what came of `shorter`.

        The delimiter of a step is the model's own: it is put back, and the machine goes on after it. Where only
        the step's length is over, tokens that may begin a stop are left for the next ask.
        """
        if came.stop is not None and came.stop in self.stops:
            room = ask.max_tokens - len(came.ids)
            return Chunk(came.ids + came.stop.ids[:room], exact=came.exact)
        if came.finish == "length" and shorter.max_tokens < ask.max_tokens:
            return Chunk(came.ids[: len(came.ids) - _begun(came.ids, ask.stops)], exact=came.exact)
        return came


async def _continued(engine: Engine, ask: Continuation) -> Chunk:
    """All that comes of an ask as one chunk."""
    ids, is_exact = list[int](), True
    async with aclosing(engine.stream(ask)) as chunks:
        async for chunk in chunks:
            ids += chunk.ids
            is_exact = is_exact and chunk.exact
            if chunk.finish is not None:
                return Chunk(tuple(ids), chunk.finish, chunk.stop, is_exact)
    raise EngineFailure("The engine ended a continuation without saying how.")


def _begun(ids: Sequence[int], stops: Sequence[Stop]) -> int:
    """How many tokens at the end of `ids` begin a stop."""
    lengths = (n for stop in stops for n in range(1, len(stop.ids)) if tuple(ids[-n:]) == stop.ids[:n])
    return max(lengths, default=0)
