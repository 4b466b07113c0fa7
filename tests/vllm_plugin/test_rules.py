"""The rules inside an engine are those of `Forcing`: the same tokens greedily, the same law when sampled."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import dataclass, replace

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from token_model import PROMPT, TAGS, TokenModel, force  # noqa: E402

from s1.budget import Forcing  # noqa: E402
from s1.engines.sampling import uniform as one_uniform  # noqa: E402
from s1.formats import ThinkingFormat, open_prompt  # noqa: E402
from s1.policy import BudgetPolicy  # noqa: E402
from s1.prompt import encode_prompt  # noqa: E402
from s1.types import Continuation  # noqa: E402
from s1.vllm_plugin.request import ForcingPlan  # noqa: E402
from s1.vllm_plugin.rules import BatchedForcing, filter_weights, uniform  # noqa: E402

PLAIN = ThinkingFormat("plain", "<think>", "</think>", ("</think>",), " So:")
FALSE_ALARMS = 1e-6


class SmallIds:
    """Token ids of the test model, which are large, to ids below 600 and back."""

    def __init__(self) -> None:
        self.small: dict[int, int] = {i: i for i in range(256)}
        self.large: dict[int, int] = dict(self.small)

    def __call__(self, ids):
        for i in ids:
            if i not in self.small:
                self.small[i] = len(self.small)
                self.large[self.small[i]] = i
        return tuple(self.small[i] for i in ids)


@dataclass
class Request:
    """One request of the simulated engine."""

    model: TokenModel
    encoded: object
    plan: ForcingPlan
    begin: tuple[int, ...]
    opened: bool
    wanted: tuple[int, ...]
    output: list[int]

    def logits(self, ids: SmallIds) -> torch.Tensor:
        everything = [*self.begin, *(ids.large[i] for i in self.output)]
        request = Continuation(tuple(everything), 1)
        masked = frozenset(s.ids[0] for s in self.encoded.stops)
        out = torch.zeros(600)
        out[ids((self.model.next(everything, request, masked),))[0]] = 1.0
        out[ids((self.model.next(everything, request),))[0]] = 2.0
        return out

    @property
    def done(self) -> bool:
        return len(self.output) >= len(self.wanted)


@st.composite
def policies(draw: st.DrawFn) -> BudgetPolicy:
    most = draw(st.none() | st.integers(0, 3) | st.integers(0, 60))
    return BudgetPolicy(
        max_thinking=most,
        min_thinking=draw(st.just(0) | st.integers(0, 60 if most is None else most)),
        waits=draw(st.integers(0, 4)),
        wait=tuple(draw(st.lists(st.sampled_from(("Wait", "", "Hmm é", "W", "\n")), min_size=1, max_size=3))),
        cue=draw(st.sampled_from(("cut", "always", "never"))),
        max_answer=draw(st.none() | st.integers(1, 20)),
    )


def make_request(
    number: int,
    seed: int,
    ends_in: int,
    fmt: ThinkingFormat,
    policy: BudgetPolicy,
    opened: bool,
    ids: SmallIds,
) -> Request:
    """A request for the rules, with the output tokens that `Forcing` gives for it."""
    model = TokenModel(seed, ends_in=ends_in, context=300)
    encoded = encode_prompt(model, fmt, policy, PROMPT)
    generation = force(model, policy, fmt)
    assert generation.error is None
    begin = encoded.prompt if opened else model.encode(PROMPT)
    forcing = Forcing(encoded)
    open_ids = model.encode(open_prompt(PROMPT, fmt))[len(model.encode(PROMPT)) :]
    plan = ForcingPlan(
        key=str(number),
        max_thinking=policy.max_thinking if policy.max_answer is None else forcing.limit,
        max_tokens=300 - len(begin),
        least=policy.min_thinking,
        most=policy.waits,
        waits=tuple(map(ids, encoded.waits)),
        open=ids(open_ids),
        opened=(ids(open_ids),),
        close=ids(encoded.close),
        cue=ids(encoded.cue),
        cues=(policy.cue != "never", policy.cue == "always"),
        newline=ids(encoded.newline),
        ends=tuple(ids(s.ids)[0] for s in encoded.stops),
        temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, seed=0,
    )  # fmt: skip
    out = tuple(i for s in generation.segments if s.phase != "prompt" for i in s.token_ids)
    if generation.finish == "stop":
        out += model.encode(model.eos_texts[0])
    wanted_ids = ids((() if opened else open_ids) + out)
    return Request(model, encoded, plan, begin, opened, wanted_ids, [])


def newline_table() -> torch.Tensor:
    table = torch.zeros(600, dtype=torch.bool)
    table[ord("\n")] = True
    return table


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 99), st.integers(1, 30), st.sampled_from((TAGS, PLAIN)), policies(), st.booleans()
        ),
        min_size=1,
        max_size=5,
    ),
    st.randoms(use_true_random=False),
)
def test_a_batch_gets_the_tokens_of_forcing(made, chance: random.Random) -> None:
    """Whatever the rows: they move, a decision is asked for twice, and requests leave and come back."""
    ids = SmallIds()
    requests = [make_request(n, *each, ids) for n, each in enumerate(made)]
    rules = BatchedForcing(4, "cpu", newline_table())
    waiting, running = list(requests), {}
    for _ in range(20_000):
        free = [slot for slot in range(4) if slot not in running]
        if waiting and free and chance.random() < 0.7:
            slot = chance.choice(free)
            request = running[slot] = waiting.pop(0)
            context = len(request.begin) + request.plan.max_tokens
            rules.add(slot, request.plan, prompt=len(request.begin), context=context, opened=request.opened)
        slots = [slot for slot in running if chance.random() < 0.9]
        chance.shuffle(slots)
        if not running and not waiting:
            break
        if not slots:
            continue
        rows = torch.tensor(chance.sample(range(6), len(slots)))
        logits = torch.zeros(6, 600)
        for row, slot in zip(rows.tolist(), slots, strict=True):
            logits[row] = running[slot].logits(ids)
        last = [([*ids(running[s].begin), *running[s].output])[-1] for s in slots]
        tokens = torch.tensor([len(running[s].output) for s in slots])
        ready = torch.tensor([chance.random() < 0.8 for _ in slots])
        for _again in range(1 + (chance.random() < 0.2)):
            given_logits = logits.clone()
            rules.apply(given_logits, rows, torch.tensor(slots), tokens, torch.tensor(last), ready)
        for row, slot, is_ready in zip(rows.tolist(), slots, ready.tolist(), strict=True):
            if not is_ready:
                assert torch.equal(given_logits[row], logits[row])
                continue
            request = running[slot]
            request.output.append(int(given_logits[row].argmax()))
            if request.done:
                del running[slot]
                rules.release(slot)
            elif chance.random() < 0.02:  # preempted
                waiting.append(running.pop(slot))
    for request in requests:
        assert tuple(request.output) == request.wanted


# --- sampled ------------------------------------------------------------------------------------------------

LOGITS = torch.tensor([1.2, 0.4, 0.1, -0.3, 2.0, 0.9, -0.8, -1.0, 0.0, 0.35])
ENDS = (4, 5)
"""Two tokens that end the thinking; the best one is among them."""
NEVER = float("-inf")


def law(logits: torch.Tensor, temperature: float, top_k: int, top_p: float, min_p: float) -> torch.Tensor:
    """What an engine draws from these logits: one small sort per row, written for this test alone."""
    chances = [math.exp(x / temperature) for x in logits.tolist()]
    total = sum(chances)
    chances = [c / total for c in chances]
    kept = [
        i
        for i in sorted(range(len(chances)), key=lambda i: -chances[i])
        if chances[i] >= min_p * max(chances)
    ]
    kept = kept[: top_k or None]
    total, mass, out = sum(chances[i] for i in kept), 0.0, torch.zeros(len(chances), dtype=torch.double)
    for i in kept:
        if mass < top_p * total:
            out[i] = chances[i]
        mass += chances[i]
    return out / out.sum()


def forced_outside(case: str, filters: tuple[float, int, float, float]) -> torch.Tensor:
    """The law of the token where an end is drawn from outside: the end drawn, then what follows from the rules."""
    first = law(LOGITS, *filters)
    end = first[list(ENDS)].sum()
    masked = LOGITS.clone()
    masked[list(ENDS)] = NEVER
    out = first.clone()
    out[list(ENDS)] = 0.0
    if case == "wait":
        out[7] += end
    elif case == "close":
        out[4] += end
    else:  # drawn again without the end
        out += end * law(masked, *filters)
    return out


CASES = {
    "wait": {"most": 1, "waits": ((7, 8),)},
    "close": {},
    "empty wait": {"most": 1, "waits": ((),)},
    "no room for the wait": {"least": 5, "waits": ((7, 7, 7, 7, 7, 7),), "max_thinking": 6},
}
FILTERS = {
    "plain": (1.0, 0, 1.0, 0.0),
    "warm": (1.7, 0, 1.0, 0.0),
    "top-k": (0.8, 3, 1.0, 0.0),
    "top-p": (1.0, 0, 0.75, 0.0),
    "min-p": (1.0, 0, 1.0, 0.3),
    "all": (1.3, 7, 0.9, 0.05),
}


@pytest.mark.parametrize("filters", FILTERS.values(), ids=FILTERS)
@pytest.mark.parametrize("case", CASES)
def test_the_law_of_a_sampled_token_is_that_of_forcing_from_outside(case, filters) -> None:
    """Chi-squared over 20,000 rows, with one chance in a million of failing for other seeds."""
    rows = 20_000
    temperature, top_k, top_p, min_p = filters
    rules = BatchedForcing(1, "cpu", torch.zeros(10, dtype=torch.bool))
    plan = ForcingPlan(
        key="", max_thinking=90, max_tokens=100, least=0, most=0, waits=((7, 8),), open=(), opened=(),
        close=(4, 9), cue=(), cues=(False, False), newline=(), ends=ENDS,
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=0,
    )  # fmt: skip
    rules.add(0, replace(plan, **CASES[case]), prompt=5, context=105, opened=True)
    for name in (
        "state",
        "decided",
        "fixed",
        "sampling",
        "forced",
        "length",
        "ends",
    ):  # as many slots as rows
        setattr(rules, name, getattr(rules, name).repeat_interleave(rows, dim=0))
    from s1.vllm_plugin.rules import SEED

    rules.fixed[:, SEED] = torch.arange(rows)
    logits = LOGITS.repeat(rows, 1)
    every = torch.arange(rows)
    rules.apply(
        logits, every, every, torch.zeros(rows, dtype=torch.long), torch.zeros(rows, dtype=torch.long)
    )
    generator = torch.Generator().manual_seed(5)
    drawn = Counter[int]()
    for row, count in Counter(map(tuple, logits.tolist())).items():
        chances = law(torch.tensor(row), *filters)
        drawn.update(torch.multinomial(chances, count, replacement=True, generator=generator).tolist())
    wanted = forced_outside(case, filters)
    assert {i for i in drawn} <= {i for i, chance in enumerate(wanted.tolist()) if chance > 0}
    terms = [(drawn[i] - rows * c) ** 2 / (rows * c) for i, c in enumerate(wanted.tolist()) if c > 0]
    assert chance_of_more(sum(terms), len(terms) - 1) > FALSE_ALARMS, (drawn, (wanted * rows).tolist())


def chance_of_more(x: float, freedom: int) -> float:
    """The chance that chi-squared with so many degrees of freedom is more than x."""
    return float(torch.special.gammaincc(torch.tensor(freedom / 2.0).double(), torch.tensor(x / 2).double()))


@given(st.integers(0, 2**64 - 1), st.lists(st.integers(0, 2**40), min_size=1, max_size=5), st.integers(1, 3))
def test_the_numbers_are_those_of_the_hf_engine(seed: int, positions: list[int], stream: int) -> None:
    signed = seed - (1 << 64) if seed >= 1 << 63 else seed
    found = uniform(torch.full((len(positions),), signed), torch.tensor(positions), stream=stream)
    assert found.tolist() == [one_uniform(seed, position, stream) for position in positions]


@given(st.integers(0, 10_000), st.integers(0, 10), st.floats(0.05, 1.0), st.floats(0.0, 0.9))
def test_filters_keep_what_a_loop_keeps(seed: int, top_k: int, top_p: float, min_p: float) -> None:
    logits = torch.randn(10, generator=torch.Generator().manual_seed(seed))
    weight = torch.softmax(logits.double(), -1)[None]
    kept = filter_weights(
        weight,
        top_k=torch.tensor([top_k]),
        top_p=torch.tensor([top_p]).double(),
        min_p=torch.tensor([min_p]).double(),
    )[0]
    assert torch.allclose(kept / kept.sum(), law(logits.double(), 1.0, top_k, top_p, min_p))
