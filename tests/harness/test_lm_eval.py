"""The model of lm-evaluation-harness, called as the harness calls it; the real command is in test_real.py."""

import asyncio
import json
import os
import signal
import threading

import pytest

pytest.importorskip("lm_eval", reason='needs lm-evaluation-harness: pip install -e ".[lm-eval]"')

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.api.model import CachingLM  # noqa: E402
from lm_eval.api.registry import get_model  # noqa: E402
from lm_eval.utils import hash_string  # noqa: E402

from s1.errors import BadConfig, EngineFailure, S1Error, Unsupported  # noqa: E402
from s1.harness.generation_kwargs import read_request  # noqa: E402
from s1.harness.lm_eval import S1LM, main  # noqa: E402
from s1.policy import BudgetPolicy  # noqa: E402
from s1.types import Chunk, Generation, Sampling, from_json  # noqa: E402

ASKED = "<|user|>q{}<|assistant|>"


def lm(**given):
    return S1LM(**{"model": "scripted:x", "format": "petri", **given})


def requests(n=3, repeats=1, **kwargs):
    kwargs = {"until": ["\n\n"], "max_gen_toks": 40, **kwargs}
    made = [
        Instance("generate_until", {}, (ASKED.format(i), dict(kwargs)), 0, ("toy", i, repeats))
        for i in range(n)
    ]
    return [request for request in made for _ in range(repeats)]


def test_the_harness_finds_it_by_name():
    assert get_model("s1") is S1LM


def test_the_policy_forces_and_the_answer_alone_comes_back(engines):
    assert lm().generate_until(requests()) == ["Answer: 4"] * 3
    assert lm(waits=1).generate_until(requests()) == ["Answer: 5"] * 3
    assert lm(max_thinking=4).generate_until(requests(1)) == ["Answer : Answer: 4"]  # the forced cue shows


def test_thinking_is_shown_where_a_task_wants_it(engines):
    text = lm(show_thinking=True, waits=1).generate_until(requests(1))[0]
    assert text.startswith("<think> try more and moreWait") and text.endswith("</think> Answer: 5")


def test_a_request_may_bring_its_own_policy_and_limit(engines):
    assert lm().generate_until(requests(1, waits=1)) == ["Answer: 5"]
    assert lm().generate_until(requests(1, max_gen_toks=4)) == ["Ans"]


def test_a_stop_of_the_task_ends_the_answer(engines):
    assert lm().generate_until(requests(1, until="swer")) == ["An"]
    assert lm().generate_until(requests(1, until=[])) == ["Answer: 4\n\nNext question"]


@pytest.mark.parametrize(
    ("given", "sampling"),
    [
        ({}, Sampling()),
        ({"do_sample": False, "temperature": 0.0}, Sampling()),
        ({"do_sample": False, "temperature": 0.7}, Sampling()),
        ({"temperature": 0.7, "top_p": 0.9, "top_k": 20}, Sampling(0.7, 0.9, 20)),
        ({"do_sample": True, "temperature": 1, "top_k": -1}, Sampling(1.0)),
    ],
)
def test_sampling_is_read_as_the_harness_reads_it(given, sampling):
    assert read_request(given, BudgetPolicy()).sampling == sampling


@pytest.mark.parametrize("name", ["max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"])
def test_each_name_of_the_limit_is_known(name):
    assert read_request({name: 9}, BudgetPolicy()).answer_limit == 9


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"repetition_penalty": 1.1}, "repetition_penalty=1.1"),
        ({"num_beams": 4}, "num_beams=4"),
        ({"temprature": 1}, "'temprature'.*Did you mean 'temperature'"),
        ({"max_thinkin": 1}, "Did you mean 'max_thinking'"),
        ({"do_sample": True}, "without a temperature"),
        ({"max_gen_toks": 5, "max_tokens": 6}, "differ"),
        ({"max_gen_toks": "many"}, "max_gen_toks is 'many'"),
        ({"waits": "two"}, "waits"),
    ],
)
def test_what_is_not_supported_is_refused(given, said):
    with pytest.raises(S1Error, match=said):
        read_request(given, BudgetPolicy())


def test_arguments_at_their_neutral_value_are_accepted():
    read = read_request({"repetition_penalty": 1.0, "num_beams": 1, "min_p": None}, BudgetPolicy())
    assert read.policy == BudgetPolicy()


def test_samples_have_seeds_of_their_own_that_repeat(engines):
    def seeds(**given):
        lm(**given).generate_until(requests(2, repeats=3, do_sample=True, temperature=1.0))
        return {a.sampling.seed for a in engines[-1].asked}

    assert len(seeds()) == 6
    assert seeds() == seeds(seed=0)
    assert not seeds() & seeds(seed=1)


def test_likelihoods_are_refused(engines):
    for ask in (lm().loglikelihood, lm().loglikelihood_rolling):
        with pytest.raises(Unsupported, match="generate_until"):
            ask([])


def test_prompts_without_the_template_are_refused_unless_asked_for(engines):
    plain = [Instance("generate_until", {}, ("Question: q\nAnswer:", {"until": []}), 0, ("toy", 0, 1))]
    with pytest.raises(BadConfig, match="apply_chat_template"):
        lm().generate_until(plain)
    assert engines[-1].asked == []
    assert lm(raw_prompts=True).generate_until(plain) == ["Answer: 4\n\nNext question"]


def test_the_chat_template_is_the_engines(engines):
    chat = [{"role": "user", "content": "hi"}]
    assert lm().apply_chat_template(chat) == "<|user|>hi<|assistant|>"
    with pytest.raises(Unsupported, match="gen_prefix"):
        lm().apply_chat_template(chat, add_generation_prompt=False)


def test_batch_size_and_device_of_the_harness(engines):
    lm(batch_size=1, device="cuda:0")  # what its command line passes when nobody chose
    with pytest.raises(Unsupported, match="batch size 8"):
        lm(batch_size=8)
    with pytest.raises(BadConfig, match="'device'"):
        lm(device="cpu")
    with pytest.raises(BadConfig, match="No model"):
        S1LM(max_thinking=3)


def broken_after(engine, count):
    def talk(prefix):
        if len(engine.asked) > count:
            raise EngineFailure("the server is gone")
        return (" Answer: 4" if "</think>" in prefix else " try") + "<|end|>"

    engine.script = talk


def test_a_broken_engine_is_reported_after_the_rest_is_done(engines):
    model = lm()
    broken_after(engines[-1], 4)
    with pytest.raises(S1Error, match=r"\d of 6 requests failed; the first: the server is gone"):
        model.generate_until(requests(6))
    quiet = lm(failures="empty")
    broken_after(engines[-1], 4)
    texts = quiet.generate_until(requests(6))
    assert 0 < texts.count("") < 6 and quiet.totals["failed"] == texts.count("")


def test_a_prompt_that_does_not_fit_fails_alone(engines):
    long = [Instance("generate_until", {}, ("x" * 500 + "<|assistant|>", {}), 0, ("toy", 9, 1))]
    model = lm(context=300, failures="empty")
    assert model.generate_until(requests(2) + long) == ["Answer: 4", "Answer: 4", ""]
    with pytest.raises(S1Error, match="1 of 3 requests failed.*does not fit"):
        lm(context=300).generate_until(requests(2) + long)


def test_with_a_cache_nothing_that_succeeded_is_asked_again(engines, tmp_path):
    cache = str(tmp_path / "cache.db")
    first = lm()
    broken_after(engines[-1], 7)
    with pytest.raises(S1Error, match="use_cache"):
        CachingLM(first, cache).generate_until(requests(6))
    second = lm()
    assert CachingLM(second, cache).generate_until(requests(6)) == ["Answer: 4"] * 6
    done_before = 6 - second.totals["requests"]
    assert done_before > 0 and len(engines[-1].asked) == 2 * second.totals["requests"]


def test_a_cache_of_other_settings_is_refused(engines, tmp_path):
    cache = str(tmp_path / "cache.db")
    CachingLM(lm(max_thinking=4), cache).generate_until(requests(1))
    CachingLM(lm(max_thinking=4, generations=str(tmp_path / "g.jsonl")), cache)
    with pytest.raises(BadConfig, match="policy differ"):
        CachingLM(lm(max_thinking=8), cache)


def test_a_cache_that_another_model_filled_is_refused(engines, tmp_path):
    import sqlitedict

    with sqlitedict.SqliteDict(str(tmp_path / "cache.db"), autocommit=True) as rows:
        rows["a hash"] = "an answer"
    with pytest.raises(BadConfig, match="another model"):
        CachingLM(lm(), str(tmp_path / "cache.db"))


def test_repeated_samples_are_not_cached_as_one(engines, tmp_path):
    model = CachingLM(lm(), str(tmp_path / "cache.db"))
    with pytest.raises(BadConfig, match="do_sample"):
        model.generate_until(requests(1, repeats=2, temperature=1.0))
    assert len(model.generate_until(requests(1, repeats=2, temperature=1.0, do_sample=True))) == 2


def test_generations_join_to_the_samples_of_the_harness(engines, tmp_path):
    file = tmp_path / "deep" / "generations.jsonl"
    model = lm(waits=2, generations=str(file))
    model.generate_until(requests(2))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert {(r["task"], r["doc_id"]) for r in lines} == {("toy", 0), ("toy", 1)}
    for line in lines:
        generation = from_json(Generation, line["generation"])
        assert line["prompt_hash"] == hash_string(ASKED.format(line["doc_id"]))
        assert generation.waits == 2 and generation.policy == "waits=2" and generation.thinking_tokens > 40
    info = model.get_model_info()["s1"]
    assert info["totals"]["waits"] == 4 and info["policy"]["waits"] == 2


def test_nothing_is_decoded_when_a_later_request_is_refused(engines):
    with pytest.raises(Unsupported):
        lm().generate_until(requests(2) + requests(1, num_beams=2))
    assert engines[-1].asked == []


def test_it_answers_inside_a_notebook_where_a_loop_runs_already(engines):
    async def cell():
        return lm().generate_until(requests(2))

    assert asyncio.run(cell()) == ["Answer: 4"] * 2


def test_an_interrupt_stops_the_decoding(engines):
    # A shell starts what it runs in the background with this signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    model, left = lm(), threading.Event()

    async def forever(ask):
        try:
            await asyncio.sleep(0.5)  # Python loses a signal that comes just before its main thread waits
            os.kill(os.getpid(), signal.SIGINT)
            while True:
                await asyncio.sleep(0.01)
                yield Chunk((46,))
        finally:
            left.set()

    engines[-1].stream = forever
    try:
        with pytest.raises(KeyboardInterrupt):
            model.generate_until(requests(1))
    finally:
        signal.signal(signal.SIGINT, before)
    assert left.wait(60)


TASK = """
task: toy
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}, cache_dir: {cache}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n\\n"], max_gen_toks: 40}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""


@pytest.mark.slow
def test_the_command_is_that_of_the_harness_and_writes_generations_next_to_its_results(
    engines, tmp_path, monkeypatch, capsys
):
    rows = [{"question": f"q{i}", "answer": "Answer: 5"} for i in range(3)]
    (tmp_path / "toy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "toy.yaml").write_text(TASK.format(file=tmp_path / "toy.jsonl", cache=tmp_path / "cache"))
    command = [
        "s1-lm-eval", "run", "--model", "s1", "--model_args", "model=scripted:x,format=petri,waits=1",
        "--tasks", "toy", "--include_path", tmp_path, "--output_path", tmp_path / "out", "--apply_chat_template",
        "--use_cache", tmp_path / "answers",
    ]  # fmt: skip
    monkeypatch.setattr("sys.argv", [str(word) for word in command])
    assert main() == 0
    results = json.loads(next((tmp_path / "out").rglob("results_*.json")).read_text())
    assert results["results"]["toy"]["exact_match,none"] == 1
    lines = (tmp_path / "out" / "s1_generations.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["doc_id"] for line in lines) == [0, 1, 2]
    other = [str(word).replace("waits=1", "waits=2").replace("/out", "/other") for word in command]
    monkeypatch.setattr("sys.argv", other)
    assert main() == 2
    error = capsys.readouterr().err
    assert "other settings: policy differ" in error and "Traceback" not in error


def test_the_names_of_the_authors_reach_the_decoding(engines):
    asked = requests(1, until=[], thinking_n_ignore=1, thinking_n_ignore_str="Wait", max_tokens_thinking=90)
    assert lm().generate_until(asked) == ["Answer: 5\n\nNext question"]
    other = requests(1, until=[], thinking_start="[t]", thinking_end="[/t]</think>", max_tokens_thinking=90)
    text = lm(show_thinking=True).generate_until(other)[0]
    assert text.startswith("[t] try more") and "[/t]</think> Answer: 4" in text
