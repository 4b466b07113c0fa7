"""The provider of Inspect AI, through its own get_model and eval; the real command is in test_real.py."""

import asyncio

import pytest

pytest.importorskip("inspect_ai", reason='needs Inspect AI: pip install -e ".[inspect]"')

from inspect_ai import Task, eval  # noqa: E402
from inspect_ai.dataset import Sample  # noqa: E402
from inspect_ai.model import (  # noqa: E402
    ChatMessageAssistant,
    ChatMessageTool,
    ChatMessageUser,
    ContentImage,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    get_model,
)
from inspect_ai.scorer import match  # noqa: E402
from inspect_ai.solver import generate  # noqa: E402
from inspect_ai.tool import ToolCall, ToolInfo, ToolParams  # noqa: E402

import s1.harness.inspect as provider  # noqa: E402
from s1.errors import BadConfig, EngineFailure, S1Error, Unsupported  # noqa: E402
from s1.policy import BudgetPolicy  # noqa: E402


def model(**given):
    return get_model("s1/scripted:x", memoize=False, **{"format": "petri", **given})


def ask(api_model, messages="q", tools=(), **config):
    if isinstance(messages, str):
        messages = [ChatMessageUser(content=messages)]
    output, call = asyncio.run(
        api_model.api.generate(messages, list(tools), "none", GenerateConfig(**config))
    )
    assert call.response is not None
    return output


def test_thinking_comes_as_reasoning_and_the_answer_as_text(engines):
    output = ask(model(waits=1))
    reasoning, text = output.message.content
    assert isinstance(reasoning, ContentReasoning) and reasoning.reasoning.count("Wait") == 1
    assert isinstance(text, ContentText) and text.text == output.completion == "Answer: 5\n\nNext question"
    assert output.stop_reason == "stop"


def test_usage_counts_what_was_written_and_how_much_of_it_was_thinking(engines):
    output = ask(model(max_thinking=9))
    counted = output.metadata["s1"]
    assert output.usage.reasoning_tokens == counted["thinking_tokens"] == 9
    assert output.usage.output_tokens == 9 + counted["forced_tokens"] + counted["answer_tokens"]
    assert output.usage.total_tokens == output.usage.input_tokens + output.usage.output_tokens
    assert counted["cut"] is True


def test_no_thinking_leaves_no_reasoning(engines):
    assert [c.type for c in ask(model(max_thinking=0)).message.content] == ["text"]


def test_reasoning_tokens_are_the_budget_unless_there_is_one(engines):
    assert ask(model(), reasoning_tokens=7).usage.reasoning_tokens == 7
    assert ask(model(max_thinking=7), reasoning_tokens=7).usage.reasoning_tokens == 7
    with pytest.raises(BadConfig, match="reasoning_tokens is 7 and max_thinking is 9"):
        ask(model(max_thinking=9), reasoning_tokens=7)


def test_a_request_may_bring_its_own_policy(engines):
    assert ask(model(), extra_body={"waits": 1}).completion.startswith("Answer: 5")
    with pytest.raises(Unsupported, match="'guided_json' in extra_body"):
        ask(model(), extra_body={"guided_json": {}})


def test_max_tokens_bound_thinking_and_answer_together(engines):
    output = ask(model(max_thinking=10), max_tokens=25)
    assert output.usage.output_tokens == 25 and output.stop_reason == "max_tokens"
    with pytest.raises(BadConfig, match="max_thinking 100 .*limit"):
        ask(model(max_thinking=100), max_tokens=25)


def test_the_end_of_the_context_is_told_apart_from_a_limit(engines):
    assert ask(model(context=30, max_thinking=10)).stop_reason == "model_length"


def test_stop_sequences_end_the_answer(engines):
    assert ask(model(), stop_seqs=["\n\n", "try"]).completion == "Answer: 4"


def test_sampling_reaches_the_engine_and_a_seed_repeats_it(engines):
    drawn = model()
    for _ in range(2):
        ask(drawn, temperature=0.7, top_p=0.9, top_k=5, seed=3)
    samplings = {a.sampling for a in engines[-1].asked}
    assert len(samplings) == 1
    only = samplings.pop()
    assert (only.temperature, only.top_p, only.top_k) == (0.7, 0.9, 5) and only.seed is not None
    ask(drawn, "another", temperature=0.7, seed=3)
    assert engines[-1].asked[-1].sampling.seed != only.seed


def test_several_choices_need_a_temperature(engines):
    output = ask(model(), num_choices=3, temperature=1.0, seed=1)
    assert len(output.choices) == len(output.metadata["s1"]) == 3
    assert len({a.sampling.seed for a in engines[-1].asked}) == 3
    with pytest.raises(BadConfig, match="num_choices is 3"):
        ask(model(), num_choices=3)


@pytest.mark.parametrize(
    "config",
    [
        {"frequency_penalty": 0.5},
        {"logprobs": True},
        {"best_of": 2},
        {"logit_bias": {1: 5.0}},
        {"reasoning_effort": "high"},
        {"batch": True},
        {"extra_headers": {"a": "b"}},
    ],
)
def test_options_that_no_engine_supports_are_refused_by_name(engines, config):
    with pytest.raises(Unsupported, match=next(iter(config))):
        ask(model(), **config)
    assert engines[-1].asked == []


def test_every_field_of_the_config_is_supported_left_to_inspect_or_refused():
    known = provider.SUPPORTED | provider.OF_INSPECT
    assert known <= set(GenerateConfig.model_fields)
    for name in set(GenerateConfig.model_fields) - known:
        with pytest.raises(Unsupported, match=name):
            provider.check_config(GenerateConfig.model_construct(**{name: "something"}))


def test_tools_and_media_are_refused(engines):
    tool = ToolInfo(name="search", description="", parameters=ToolParams())
    with pytest.raises(Unsupported, match=r"tools \(search\)"):
        ask(model(), tools=[tool])
    picture = ChatMessageUser(content=[ContentImage(image="data:image/png;base64,AAAA")])
    with pytest.raises(Unsupported, match="image in a message"):
        ask(model(), [picture])
    call = ToolCall(id="1", function="search", arguments={})
    for message in (ChatMessageTool(content="3"), ChatMessageAssistant(content="", tool_calls=[call])):
        with pytest.raises(Unsupported, match="tool calls"):
            ask(model(), [message])


def test_earlier_thinking_is_not_put_before_the_model_again(engines):
    talker = model()
    before = ChatMessageAssistant(content=[ContentReasoning(reasoning="SECRET"), ContentText(text="four")])
    asyncio.run(talker.generate([ChatMessageUser(content="2+2"), before, ChatMessageUser(content="again")]))
    prompt = engines[-1].decode(engines[-1].asked[0].prefix)
    assert prompt.startswith("<|user|>2+2<|assistant|>four<|user|>again<|assistant|>")


def test_a_broken_engine_fails_the_sample(engines):
    talker = model()

    def broken(prefix):
        raise EngineFailure("the server is gone")

    engines[-1].script = broken
    with pytest.raises(EngineFailure, match="the server is gone"):
        ask(talker)


def test_a_misspelt_argument_gets_the_nearest_name_without_a_traceback(engines):
    from inspect_ai._util.error import PrerequisiteError

    with pytest.raises(PrerequisiteError) as error:
        model(max_thinkin=3)
    assert "Did you mean 'max_thinking'" in str(error.value.message)
    assert isinstance(error.value.__cause__, S1Error)
    for wrong in ({"base_url": "http://127.0.0.1:1/v1"}, {"api_key": "k"}):
        with pytest.raises(PrerequisiteError):
            model(**wrong)


def test_requests_run_side_by_side_and_a_closed_model_opens_again(engines):
    talker = model()
    assert talker.config.max_connections == provider.IN_FLIGHT
    assert (
        get_model(
            "s1/scripted:x", memoize=False, config=GenerateConfig(max_connections=2)
        ).config.max_connections
        == 2
    )
    asyncio.run(talker.api.aclose())
    assert ask(talker).completion and len(engines) == 3


def test_tokens_are_counted_by_the_models_own_tokenizer(engines):
    assert asyncio.run(model().api.count_text_tokens("<think>abc")) == 4
    assert len(asyncio.run(model().api.tokenize("abc"))) == 3


def test_a_task_runs_and_its_log_keeps_thinking_and_counts(engines, tmp_path):
    samples = [Sample(input=f"q{i}", target="5") for i in range(4)]
    task = Task(dataset=samples, solver=generate(), scorer=match(location="any"))
    accuracy = {}
    for waits in (0, 1):
        log = eval(task, model=model(waits=waits), log_dir=str(tmp_path), display="none")[0]
        assert log.status == "success", log.error
        accuracy[waits] = log.results.scores[0].metrics["accuracy"].value
        output = log.samples[0].output
        assert output.metadata["s1"]["waits"] == waits
        assert output.usage.reasoning_tokens == output.metadata["s1"]["thinking_tokens"]
    assert accuracy == {0: 0.0, 1: 1.0}


def test_a_task_with_tools_fails_with_a_clear_message(engines, tmp_path):
    from inspect_ai.solver import use_tools
    from inspect_ai.tool import think

    task = Task(
        dataset=[Sample(input="q", target="5")], solver=[use_tools(think()), generate()], scorer=match()
    )
    log = eval(task, model=model(), log_dir=str(tmp_path), display="none")[0]
    assert log.status == "error" and "do not support tools" in log.error.message


def test_the_policy_of_a_request_is_checked_as_a_whole():
    with pytest.raises(BadConfig, match="above max_thinking"):
        provider.request_of(GenerateConfig(reasoning_tokens=10), BudgetPolicy(min_thinking=50))
