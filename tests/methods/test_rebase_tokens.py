"""A search keeps the tokens that the model drew, also where its tokenizer merges or splits the delimiter of a step."""

import asyncio
from dataclasses import replace

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_tokenizers import byte_level, model_with  # noqa: E402

from s1.engines.hf import HFEngine  # noqa: E402
from s1.formats import FORMATS  # noqa: E402
from s1.methods import Scored, Task  # noqa: E402
from s1.methods.budget_forcing import BudgetForcing  # noqa: E402
from s1.methods.rebase import Rebase  # noqa: E402
from s1.policy import BudgetPolicy  # noqa: E402
from s1.replay import ReplayCache  # noqa: E402
from s1.types import Question, Sampling  # noqa: E402

CHANCES = {
    "</": 0.1,
    "think": 0.2,
    ">": 0.2,
    "\n\n": 0.1,
    ".\n\n": 0.15,
    "\n": 0.1,
    "a": 0.2,
    ".": 0.1,
    "<|end|>": 0.02,
}
POLICIES = {
    "natural": BudgetPolicy(max_thinking=60, max_answer=8),
    "waits": BudgetPolicy(max_thinking=60, waits=2, max_answer=8),
    "silent waits": BudgetPolicy(max_thinking=60, waits=2, wait=("",), max_answer=8),
    "minimum": BudgetPolicy(max_thinking=60, min_thinking=30, max_answer=8),
    "grace": BudgetPolicy(max_thinking=20, grace=9, max_answer=8),
}


class Even:
    """Likes all rollouts alike, so that each branch has one child."""

    name = "even"

    async def score(self, question, rollouts):
        return Scored((0.5,) * len(rollouts), 1)


@pytest.fixture(scope="module")
def engine():
    tokenizer = byte_level()
    made = HFEngine(model_with(tokenizer, CHANCES), tokenizer, cache_bytes=1 << 26)
    yield made
    asyncio.run(made.close())


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("step", ["\n\n", "a", ".\n"])
@pytest.mark.parametrize("width", [1, 4])
def test_without_preferences_the_leaves_are_the_plain_samples(engine, policy, step, width):
    async def both(seed):
        how = Sampling(1.0, seed=seed)
        task = Task(
            ReplayCache(engine), FORMATS["think"], Question("q", "2+2?", "4"), 0, how, "exact", Even()
        )
        search = Rebase(width, balance=1e9, step=step, step_tokens=11, by="majority", policy=policy)
        found = [await search.answer(task) for _ in range(2)]
        members = [replace(member, engine=engine) for member in task.members(width)]
        return found, await asyncio.gather(*map(BudgetForcing(policy).answer, members))

    async def all_seeds():
        return await asyncio.gather(*map(both, range(4)))

    for (found, again), alone in asyncio.run(all_seeds()):
        assert found.error is None
        assert found.segments in [each.segments for each in alone]
        assert again.segments == found.segments and again.spent == found.spent
        assert found.spent.thinking == sum(each.thinking_tokens for each in alone)
        assert found.spent.answer == sum(each.answer_tokens for each in alone)
