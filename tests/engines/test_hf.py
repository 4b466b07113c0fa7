"""The hf engine gives what transformers gives, whatever else is in the batch."""

from __future__ import annotations

import asyncio
import random
import threading
from itertools import pairwise

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tiny_models import tiny  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402

from s1.engines import hf_batch, load_engine  # noqa: E402
from s1.engines.hf import HFEngine  # noqa: E402
from s1.engines.sampling import draw, uniform  # noqa: E402
from s1.errors import BadConfig, BadInput, EngineFailure, S1Error, Unsupported  # noqa: E402
from s1.types import Continuation, Sampling, Stop  # noqa: E402

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant"
)


@pytest.fixture(scope="module")
def tokenizer():
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|im_start|>", "<|im_end|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(
        ["the sum of the numbers is then the answer; wait, let me think again"] * 2, trainer
    )
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|pad|>"
    )
    made.chat_template = TEMPLATE
    made.add_tokens([f"<|more_{n}|>" for n in range(300 - len(made))])
    assert len(made) == 300
    return made


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def model(request, tokenizer):
    return tiny(request.param, vocab=len(tokenizer) + 5)  # five padded ids


@pytest.fixture
def make(model, tokenizer):
    made = []

    def build(**options):
        made.append(HFEngine(model, tokenizer, **{"cache_bytes": 1 << 24, **options}))
        return made[-1]

    yield build
    for engine in made:
        asyncio.run(engine.close())


async def collect(engine, request):
    ids, last = [], None
    async for chunk in engine.stream(request):
        ids.extend(chunk.ids)
        last = chunk
    return tuple(ids), last.finish, last.stop


def run(engine, requests):
    async def together():
        return await asyncio.gather(*(collect(engine, request) for request in requests))

    return asyncio.run(together())


def prompts(count, *, low=1, high=60, seed=0):
    draw_from = random.Random(seed)
    return [
        tuple(draw_from.randrange(3, 300) for _ in range(draw_from.randint(low, high))) for _ in range(count)
    ]


def reference(model, prefix, max_tokens, tokens=300):
    """Greedy `generate()` of transformers, alone, padded ids suppressed.

    Fails where rounding would decide between two tokens: then a test says nothing on another processor.
    """
    out = model.generate(
        torch.tensor([prefix]),
        attention_mask=torch.ones(1, len(prefix), dtype=torch.long),
        max_new_tokens=max_tokens,
        do_sample=False,
        eos_token_id=None,
        suppress_tokens=list(range(tokens, model.config.vocab_size)),
        return_dict_in_generate=True,
        output_scores=True,
    )
    best = torch.cat(out.scores).topk(2).values
    rounding = 1e3 * torch.finfo(model.dtype).eps
    assert (best[:, 0] - best[:, 1]).min() > rounding * best.abs().max(), "too close to a tie"
    return tuple(out.sequences[0, len(prefix) :].tolist())


def test_greedy_equals_generate_for_mixed_lengths_and_fewer_rows_than_requests(make, model):
    requests = [Continuation(p, m) for p, m in zip(prompts(20), [1, 40, 7, 90, 3] * 4, strict=True)]
    results = run(make(max_batch=6, prefill_tokens=100), requests)
    for request, (ids, finish, _) in zip(requests, results, strict=True):
        assert finish == "length"
        assert ids == reference(model, request.prefix, request.max_tokens)


def test_a_long_prefix_in_pieces_equals_generate_while_others_decode(make, model):
    long = prompts(1, low=300, high=300)[0]
    requests = [Continuation(p, 60) for p in prompts(3, seed=5)] + [Continuation(long, 20)]
    engine = make(prefill_tokens=64)
    for request, (ids, _, _) in zip(requests, run(engine, requests), strict=True):
        assert ids == reference(model, request.prefix, request.max_tokens)
    assert engine.counts.prefills > 4


def held(engine, monkeypatch, decoded):
    """Blocks the model after that many tokens until the returned event is set, so that tests do not race it.

    Its `reached` is set when the model is blocked.
    """
    forward, released = engine.model.forward, threading.Event()
    released.reached = threading.Event()

    def waiting(*args, **given):
        if engine.counts.decoded >= decoded:
            released.reached.set()
            released.wait(20)
        return forward(*args, **given)

    monkeypatch.setattr(engine.model, "forward", waiting)
    return released


def test_a_request_that_joins_midway_gets_and_leaves_the_same_result(make, model, monkeypatch):
    engine = make()
    first, second = prompts(2, seed=1)
    joined = held(engine, monkeypatch, 20)

    async def together():
        early = asyncio.create_task(collect(engine, Continuation(first, 100)))
        while engine.counts.decoded < 20:
            await asyncio.sleep(0.001)
        late = asyncio.create_task(collect(engine, Continuation(second, 30)))
        await asyncio.sleep(0.001)
        joined.set()
        return await late, await early

    late, early = asyncio.run(together())
    assert engine.counts.steps < 130  # not one after the other
    assert late[0] == reference(model, second, 30)
    assert early[0] == reference(model, first, 100)


def test_a_continuation_after_forced_tokens_equals_a_fresh_request_and_computes_only_the_new(make, model):
    engine = make()
    prefix = prompts(1, low=100, high=100)[0]
    ((ids, _, _),) = run(engine, [Continuation(prefix, 50)])
    before = engine.counts.prefilled
    longer = (*prefix, *ids, 20, 30, 40)
    ((more, _, _),) = run(engine, [Continuation(longer, 25)])
    assert more == reference(model, longer, 25)
    assert engine.counts.prefilled - before == 3  # the last sampled token and all but the last forced one
    assert engine.counts.reused == 149


def test_a_chain_of_continuations_computes_every_position_once(make, model):
    engine = make()
    ids = known = prompts(1, low=30, high=30)[0]
    for forced in ((7,), (), (7, 8, 9), (11,) * 8):  # from none to as many as decoding steps may feed
        ids += forced
        ids += run(engine, [Continuation(ids, 12)])[0][0]
        known += forced
        known += reference(model, known, 12)
    assert ids == known
    assert engine.counts.prefills == 1
    assert engine.counts.prefilled + engine.counts.decoded == len(ids) - 1


def test_requests_that_share_a_prefix_equal_separate_runs_and_share_its_prefill(make, model):
    engine = make()
    prefix = prompts(1, low=80, high=80)[0]
    ((ids, _, _),) = run(engine, [Continuation(prefix, 100)])
    before = engine.counts.prefilled
    forks = [Continuation((*prefix, *ids[:cut], 7, 8), 12) for cut in (0, 1, 17, 50, 99)]
    for request, (found, _, _) in zip(forks, run(engine, forks), strict=True):
        assert found == reference(model, request.prefix, 12)
    assert engine.counts.prefilled - before <= 2 * len(forks)


def test_many_requests_with_one_new_prefix_prefill_it_once(make):
    engine = make()
    prefix = prompts(1, low=200, high=200)[0]
    results = run(engine, [Continuation(prefix, 10)] * 16)
    assert len(set(results)) == 1
    assert engine.counts.prefilled == 199


def test_a_seed_gives_the_same_sample_alone_in_company_and_in_pieces(make):
    engine = make()
    prefix = prompts(1, low=50, high=50)[0]
    sampling = Sampling(temperature=0.8, top_p=0.9, top_k=40, seed=11)
    ((alone, _, _),) = run(engine, [Continuation(prefix, 40, sampling=sampling)])
    others = [Continuation(p, 30, sampling=Sampling(temperature=1.0)) for p in prompts(7, seed=3)]
    company = run(engine, [*others, Continuation(prefix, 40, sampling=sampling), Continuation(prefix, 9)])
    assert company[7][0] == alone
    ((rest, _, _),) = run(engine, [Continuation((*prefix, *alone[:15]), 25, sampling=sampling)])
    assert alone[:15] + rest == alone
    seeds = {run(engine, [Continuation(prefix, 40, sampling=Sampling(1.0, seed=s))])[0][0] for s in range(4)}
    assert len(seeds) == 4


def test_stops_end_a_request_and_are_not_among_its_ids(make, model, tokenizer):
    engine = make()
    for prefix in prompts(4, seed=8):
        ids = reference(model, prefix, 60)
        single = Stop(tokenizer.convert_ids_to_tokens(ids[20]), (ids[20],))
        several = Stop(engine.decode(ids[9:12]), ids[9:12])
        first = ids.index(ids[20])
        ((out, finish, stop),) = run(engine, [Continuation(prefix, 60, (Stop("<|im_end|>", (1,)), single))])
        if 1 not in ids[:first]:
            assert (finish, stop) == ("stop", single)
            assert out == ids[: len(out)]
        ((out, finish, stop),) = run(engine, [Continuation(prefix, 60, (several,))])
        assert (finish, stop) == ("stop", several)
        assert len(out) <= 9


def test_single_token_stops_and_eos_are_not_drawn_before_min_tokens(make, model):
    engine = make()
    prefix = prompts(1, seed=4)[0]
    ids = reference(model, prefix, 40)
    stops = tuple(Stop("<|im_start|>", (i,)) for i in range(0, 300) if i != 50)
    # Every id but one is a stop: before min_tokens only that one is left (and never the padded ids).
    ((out, finish, stop),) = run(engine, [Continuation(prefix, 40, stops, min_tokens=12)])
    assert out[:12] == (50,) * 12
    assert finish == "length" or stop in stops
    ((out, finish, _),) = run(engine, [Continuation(prefix, 40, (Stop("x", (ids[0],)),), min_tokens=0)])
    assert (out, finish) == ((), "stop")


def test_padded_ids_are_never_sampled(make):
    engine = make()
    requests = [
        Continuation(p, 60, sampling=Sampling(temperature=50.0, seed=s)) for s, p in enumerate(prompts(8))
    ]
    found = {i for ids, _, _ in run(engine, requests) for i in ids}
    assert len(found) > 150
    assert max(found) < 300


def test_leaving_a_stream_frees_its_row(make, monkeypatch):
    engine = make(max_batch=1)
    gone = held(engine, monkeypatch, 5)
    first, second = prompts(2, seed=6)

    async def leave():
        task = asyncio.create_task(collect(engine, Continuation(first, 450)))
        while not gone.reached.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gone.set()
        return await collect(engine, Continuation(second, 5))

    assert len(asyncio.run(leave())[0]) == 5
    assert engine.counts.decoded == 5 + 1 + 5  # one step was already running


def test_memory_stays_within_the_bound_and_every_request_ends_right(make, model, monkeypatch):
    bound = 2 * 2 * 2 * 8 * model.dtype.itemsize * 600  # 600 tokens
    engine = make(cache_bytes=bound)
    worst = 0
    forward = model.forward

    def watched(*args, **given):
        nonlocal worst
        worst = max(worst, engine.bytes_held)
        return forward(*args, **given)

    monkeypatch.setattr(model, "forward", watched)
    requests = [Continuation(p, 200) for p in prompts(12, low=20, high=60, seed=2)]
    for request, (ids, _, _) in zip(requests, run(engine, requests), strict=True):
        assert ids == reference(model, request.prefix, 200)
    assert 0 < worst <= bound
    assert engine.counts.preempted > 0


def test_what_finished_requests_leave_does_not_grow_without_end(make, monkeypatch):
    monkeypatch.setattr(hf_batch, "KEPT_BYTES", 0)
    engine = make(cache_bytes=1 << 26, max_batch=4)
    for seed in range(4):
        run(engine, [Continuation(p, 40) for p in prompts(12, low=40, high=60, seed=seed)])
        assert engine.batch.slots.bytes < engine.bytes_held <= 3 * engine.batch.slots.bytes


def stepped(engine, requests):
    """The ids of each request when the batch is stepped here, and how many rows each step decoded."""
    rows, decoded = [engine.row_of(request) for request in requests], [0]
    for row in rows:
        engine.batch.add(row)
    while engine.batch.busy:
        engine.batch.step()
        decoded.append(engine.counts.decoded)
    return [tuple(row.out) for row in rows], [b - a for a, b in pairwise(decoded)]


def test_finished_rows_take_no_part_and_their_places_are_filled_at_once(make, model):
    engine = make(max_batch=3)
    requests = [Continuation(p, m) for p, m in zip(prompts(6, low=40), [4, 30, 2, 9, 1, 12], strict=True)]
    found, running = stepped(engine, requests)
    assert found == [reference(model, request.prefix, request.max_tokens) for request in requests]
    # 9 follows 2 at step 3, 1 follows 4 at step 5, 12 follows 1 at step 6
    assert running == [3] * 11 + [2] * 6 + [1] * 13


def test_waiting_requests_are_prefilled_by_length_but_the_oldest_is_never_passed_over(
    make, model, monkeypatch
):
    engine = make(prefill_tokens=128)
    shapes = []
    forward = model.base_model.forward

    def watched(*args, **given):
        shapes.append(tuple(given["input_ids"].shape))
        return forward(*args, **given)

    monkeypatch.setattr(model.base_model, "forward", watched)
    lengths = (50, 100, 12, 90, 10, 11, 95)
    stepped(engine, [Continuation(prompts(1, low=n, high=n, seed=n)[0], 20) for n in lengths])
    prefills = [shape for shape in shapes if shape[1] > 1]
    assert prefills[0] == (2, 49)  # the prefixes of 50 and 10; a third row would exceed 128
    assert prefills[1] == (1, 99)  # now the oldest
    assert prefills[2:] == [(2, 11), (1, 89), (1, 94)]


@pytest.mark.parametrize(
    "kind", ["qwen2", "phi3", "olmo2", "gemma2", "gpt_neox", "opt", "qwen3_moe", "deepseek_v3"]
)
def test_other_architectures_with_an_ordinary_cache_are_served_alike(kind, tokenizer):
    model = tiny(kind, vocab=305)
    engine = HFEngine(model, tokenizer, cache_bytes=1 << 24, max_batch=3, prefill_tokens=80)
    prefixes = prompts(5, low=20)
    first = run(engine, [Continuation(p, 12) for p in prefixes])
    assert [ids for ids, _, _ in first] == [reference(model, p, 12) for p in prefixes]
    longer = [(*p, *ids[:7], 7, 8) for p, (ids, _, _) in zip(prefixes, first, strict=True)]
    assert [ids for ids, _, _ in run(engine, [Continuation(p, 6) for p in longer])] == [
        reference(model, p, 6) for p in longer
    ]
    asyncio.run(engine.close())


def test_one_engine_serves_several_event_loops_one_after_the_other(make):
    engine = make()
    request = Continuation(prompts(1)[0], 5)
    assert run(engine, [request]) == run(engine, [request])


def test_requests_that_cannot_be_served_are_refused_with_the_numbers(make):
    engine = make(context=100)
    for request, message in [
        (Continuation((5,) * 60, 50), "60 tokens and 50 more exceed the context of 100"),
        (Continuation((), 5), "empty"),
        (Continuation((5, 301), 5), "id 301 of the prefix"),
        (Continuation((5,), 5, min_tokens=6), "min_tokens 6"),
        (Continuation((5,), 5, (Stop("x", (999,)),)), "id 999 of a stop"),
    ]:
        with pytest.raises(BadInput, match=message):
            run(engine, [request])
    assert run(engine, [Continuation((5,), 0)]) == [((), "length", None)]


def test_a_failing_model_fails_the_request_and_not_the_engine(make, monkeypatch):
    engine = make()
    request = Continuation(prompts(1)[0], 5)

    def broken(*_, **__):
        raise ValueError("the weights are gone")

    with monkeypatch.context() as patched:
        patched.setattr(engine.model, "forward", broken)  # the first decoding step
        with pytest.raises(EngineFailure, match="the weights are gone"):
            run(engine, [request])
        patched.setattr(type(engine.model.base_model), "forward", broken)  # already the prefill
        with pytest.raises(EngineFailure, match="the weights are gone"):
            run(engine, [request])
    assert len(run(engine, [request])[0][0]) == 5


def test_a_closed_engine_refuses(model, tokenizer):
    engine = HFEngine(model, tokenizer, cache_bytes=1 << 24)
    asyncio.run(engine.close())
    with pytest.raises(EngineFailure, match="closed"):
        run(engine, [Continuation((5,), 5)])


def test_a_saved_model_loads_and_speaks_text(tmp_path, model, tokenizer):
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    engine = load_engine(f"hf:{tmp_path}", device="cpu", context=200)
    text = "<|im_start|>the answer é<|im_end|>"
    assert engine.context == 200
    assert engine.encode(text)[0] == 0 and engine.encode(text)[-1] == 1
    assert engine.decode(engine.encode(text)) == text
    assert engine.render([{"role": "user", "content": "hi"}]).endswith("<|im_end|>\n<|im_start|>assistant")
    prefix = engine.encode(text)
    assert run(engine, [Continuation(prefix, 7)])[0][0] == reference(engine.model, prefix, 7)
    asyncio.run(engine.close())


def test_models_whose_cache_forgets_are_refused_unless_the_context_fits(tokenizer):
    model = tiny("mistral", vocab=300, sliding_window=64)
    with pytest.raises(Unsupported, match="sliding window of 64"):
        HFEngine(model, tokenizer)
    engine = HFEngine(model, tokenizer, context=64, cache_bytes=1 << 22)
    prefix = prompts(1, low=30, high=30)[0]
    assert run(engine, [Continuation(prefix, 30)])[0][0] == reference(model, prefix, 30)
    asyncio.run(engine.close())


@pytest.mark.parametrize("layers", [2, 4])  # every fourth layer attends; two of them have none that does
def test_models_with_recurrent_layers_are_refused_with_what_to_do(layers, tokenizer):
    model = tiny("qwen3_next", vocab=305, num_hidden_layers=layers)
    with pytest.raises(Unsupported, match="Qwen3NextForCausalLM") as caught:
        HFEngine(model, tokenizer, cache_bytes=1 << 24)
    assert "vllm or openai" in caught.value.hint


def without(model, *names):
    """The model, whose layers never get these arguments, whatever its signature says."""
    forward = model.base_model.forward
    model.base_model.forward = lambda **given: forward(**{k: v for k, v in given.items() if k not in names})
    return model


@pytest.mark.parametrize(
    ("dropped", "message"),
    [
        (("position_ids",), "different logits in a batch"),
        (("attention_mask",), "different logits in a batch"),
        pytest.param(
            ("cache", "past_key_values"),
            "ordinary cache .*it was not filled",
            marks=pytest.mark.filterwarnings("ignore::FutureWarning"),  # of the older name, tried last
        ),
    ],
    ids=["positions", "mask", "cache"],
)
def test_a_model_that_ignores_an_argument_of_the_batch_is_refused_at_load(dropped, message, tokenizer):
    HFEngine(without(tiny("llama", vocab=305)), tokenizer, cache_bytes=1 << 22)
    with pytest.raises(Unsupported, match=f"LlamaForCausalLM.*{message}") as caught:
        HFEngine(without(tiny("llama", vocab=305), *dropped), tokenizer, cache_bytes=1 << 22)
    assert "vllm or openai" in caught.value.hint


def test_a_kernel_of_attention_that_takes_no_mask_is_replaced(tokenizer):
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    def deaf(module, query, key, value, attention_mask, **given):
        return sdpa_attention_forward(module, query, key, value, None, **given)

    transformers.AttentionInterface.register("deaf", deaf)
    model = tiny("llama", vocab=305)
    model.set_attn_implementation("deaf")
    engine = HFEngine(model, tokenizer, cache_bytes=1 << 22)
    requests = [Continuation(p, 12) for p in prompts(3)]
    expected = [reference(tiny("llama", vocab=305), request.prefix, 12) for request in requests]
    assert [ids for ids, _, _ in run(engine, requests)] == expected
    asyncio.run(engine.close())


def test_a_model_that_states_no_context_needs_one_and_where_its_positions_are_its_own_it_is_refused(
    tokenizer,
):
    model = tiny("bloom", vocab=305, max_position_embeddings=None)
    with pytest.raises(Unsupported, match="states no max_position_embeddings.*option context"):
        HFEngine(model, tokenizer, cache_bytes=1 << 22)
    with pytest.raises(Unsupported, match="BloomForCausalLM.* in a batch"):
        HFEngine(model, tokenizer, context=100, cache_bytes=1 << 22)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (transformers.T5Config(vocab_size=300), "encoder-decoder"),
        (transformers.BertConfig(vocab_size=300, architectures=["BertForMaskedLM"]), "an encoder"),
    ],
    ids=["encoder-decoder", "encoder"],
)
def test_a_model_that_does_not_write_from_left_to_right_is_refused(tmp_path, tokenizer, config, kind):
    config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(Unsupported, match=kind):
        load_engine(str(tmp_path))


def test_wrong_paths_names_and_options_say_what_to_do(tmp_path):
    (tmp_path / "model").mkdir()
    for spec, options, kind, message in [
        (str(tmp_path / "nowhere"), {}, BadInput, "no such folder"),
        (f"hf:{tmp_path / 'model'}", {}, BadInput, "config.json"),
        ("hff:x", {}, BadConfig, "'hf'"),
        ("hf:x", {"max_batsch": 3}, BadConfig, "'max_batch'"),
        ("hf:x", {"dtype": "int3"}, BadConfig, "bfloat16"),
        ("hf:", {}, BadInput, "needs a model"),
    ]:
        with pytest.raises(kind, match=message) as caught:
            load_engine(spec, **options)
        assert isinstance(caught.value, S1Error) and caught.value.hint
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(BadInput, match="no tokenizer"):
        load_engine(str(tmp_path / "model"))


def test_draws_follow_the_distribution_and_respect_top_k_and_top_p():
    logits = torch.tensor([0.5, 2.0, 1.0, -1.0, float("-inf")]).log_softmax(-1)
    count = 4000
    u = torch.tensor([uniform(3, n) for n in range(count)], dtype=torch.double)
    rows = logits.expand(count, -1)
    warm = torch.ones(count)
    counts = draw(rows, temperature_B=warm, uniform_B=u).bincount(minlength=5)
    assert torch.allclose(counts / count, logits.exp(), atol=0.03)

    def filtered(k, p):
        return (
            draw(
                rows,
                temperature_B=warm,
                top_k_B=torch.full((count,), k),
                top_p_B=torch.full((count,), p),
                uniform_B=u,
            )
            .unique()
            .tolist()
        )

    assert filtered(2, 1.0) == [1, 2]
    assert filtered(0, 0.5) == [1]
    assert filtered(1, 0.01) == [1]
    assert filtered(0, 1.0) == [0, 1, 2, 3]
    edge = torch.tensor([0.0, 1 - 2**-53], dtype=torch.double)
    assert draw(logits.expand(2, -1), temperature_B=torch.ones(2), uniform_B=edge).tolist() == [0, 3]


def test_closing_gives_the_memory_of_the_cache_back(make):
    engine = make(max_batch=4)
    requests = [Continuation(p, 30) for p in prompts(8, seed=5)]

    async def all_of():
        await asyncio.gather(*(collect(engine, request) for request in requests))
        held_bytes = engine.bytes_held
        await engine.close()
        return held_bytes

    assert asyncio.run(all_of()) > 0
    assert engine.bytes_held == 0
