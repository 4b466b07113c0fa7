"""A trained model stops, whatever its tokenizer calls pad and EOS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
trl = pytest.importorskip("trl")

from tiny_models import tiny  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402

from s1.doctor.checks import check_ends  # noqa: E402
from s1.doctor.model_facts import gather  # noqa: E402
from s1.engines import load_engine  # noqa: E402
from s1.errors import BadInput  # noqa: E402
from s1.formats import FORMATS, open_prompt  # noqa: E402
from s1.train.render import IGNORED, end_of_turn  # noqa: E402
from s1.train.settings import TrainSettings  # noqa: E402
from s1.train.sft import train  # noqa: E402
from s1.types import Question, Trace  # noqa: E402

pytestmark = pytest.mark.slow
LLAMA_TOKENS = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
]
LLAMA = (
    "{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
QWEN_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
QWEN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TRACES = [
    Trace(Question(f"q{n}", question, answer), thinking, answer)
    for n, (question, thinking, answer) in enumerate(
        [
            ("What is 2 + 2?", "Two and two.", "4"),
            ("What is 3 + 4?", "I count on from three: four, five, six, seven.", "The sum is 7"),
            (
                "Is 9 prime?",
                "Nine is three times three. So it has a divisor. Wait, one more look: yes.",
                "no",
            ),
            ("Say hello.", "Hello.", "Hello to you and to all the others who read this"),
            ("What is 10 - 1?", "Ten less one. Nine.", "9"),
        ]
    )
]
FORMAT = FORMATS["s1"]


@dataclass(frozen=True)
class Case:
    kind: str
    tokens: list[str]
    template: str
    end: str
    eos: str
    pad: str | None = None


CASES = {
    "llama without a pad": Case("llama", LLAMA_TOKENS, LLAMA, "<|eot_id|>", "<|eot_id|>"),
    "llama whose EOS ends the text": Case("llama", LLAMA_TOKENS, LLAMA, "<|eot_id|>", "<|end_of_text|>"),
    "qwen without a pad": Case("qwen2", QWEN_TOKENS, QWEN, "<|im_end|>", "<|im_end|>"),
    "qwen whose pad is its end": Case("qwen2", QWEN_TOKENS, QWEN, "<|im_end|>", "<|im_end|>", "<|im_end|>"),
    "qwen with a pad": Case("qwen2", QWEN_TOKENS, QWEN, "<|im_end|>", "<|im_end|>", "<|endoftext|>"),
}


@dataclass(frozen=True)
class Trained:
    case: Case
    base: Path
    out: Path
    batches: list[dict[str, Any]]
    """The batches that the loss was computed on."""


def make_tokenizer(case: Case) -> Any:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=case.tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(
        [f"{t.question.text} {t.thinking} {t.answer} user assistant" for t in TRACES] * 9, trainer
    )
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token=case.tokens[0], eos_token=case.eos, pad_token=case.pad
    )
    made.chat_template = case.template
    return made


def make_base(case: Case, folder: Path) -> Path:
    tokenizer = make_tokenizer(case)
    model = tiny(case.kind, vocab=400, eos=tokenizer.eos_token_id, pad=None, initializer_range=0.05)
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Trains the base of a case, once."""
    made: dict[str, Trained] = {}

    def get(name: str) -> Trained:
        if name not in made:
            folder = tmp_path_factory.mktemp("case")
            base = make_base(CASES[name], folder / "base")
            batches: list[dict[str, Any]] = []

            class Watched(trl.SFTTrainer):
                def training_step(self, model, inputs, *args, **kwargs):
                    batches.append({k: inputs[k].clone() for k in ("input_ids", "attention_mask", "labels")})
                    return super().training_step(model, inputs, *args, **kwargs)

            settings = TrainSettings(epochs=4, batch=8, device_batch=4, learning_rate=1e-2, bf16=False)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(trl, "SFTTrainer", Watched)
                out = train(str(base), TRACES * 32, folder / "out", FORMAT, settings)
            made[name] = Trained(CASES[name], base, out, batches)
        return made[name]

    return get


def loaded(folder: Path) -> tuple[Any, Any]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("name", CASES)
def test_the_end_of_turn_has_loss_and_padding_has_none(trained, name):
    run = trained(name)
    end = make_tokenizer(run.case).convert_tokens_to_ids(run.case.end)
    rows = 0
    for batch in run.batches:
        assert batch["labels"][batch["attention_mask"] == 0].eq(IGNORED).all()
        for ids, mask, labels in zip(
            *(batch[k] for k in ("input_ids", "attention_mask", "labels")), strict=True
        ):
            length = int(mask.sum())
            assert mask[:length].all(), "padding is on the right"
            assert ids[length - 1] == labels[length - 1] == end
            learnt = labels != IGNORED
            assert torch.equal(labels[learnt], ids[learnt]) and learnt.sum() < length
            rows += 1
    assert rows == 4 * 32 * len(TRACES)
    assert any((batch["attention_mask"] == 0).any() for batch in run.batches), "no batch had padding"


@pytest.mark.parametrize("name", CASES)
def test_the_trained_model_ends_its_answer_with_the_end_of_turn(trained, name):
    run = trained(name)
    before, _ = loaded(run.base)
    model, tokenizer = loaded(run.out)
    end = tokenizer.convert_tokens_to_ids(run.case.end)
    for trace in TRACES:
        messages = [{"role": "user", "content": trace.question.text}]
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        prompt = tokenizer(
            open_prompt(rendered, FORMAT), add_special_tokens=False, return_tensors="pt"
        ).input_ids
        answer = f"{trace.thinking}\n{FORMAT.close}Answer: {trace.answer}"
        whole = torch.cat(
            [prompt, tokenizer(answer, add_special_tokens=False, return_tensors="pt").input_ids], dim=1
        )
        with torch.inference_mode():
            chances = model(whole).logits[0].softmax(-1)[:, end]
            assert before(whole).logits[0, -1].softmax(-1)[end] < 0.1
        assert chances[-1] > 0.5, f"the answer of {trace.question.text} does not end"
        assert chances[prompt.shape[1] - 1 : -1].max() < 0.5, "the turn ends too early"
        mask = torch.ones_like(prompt)
        made = model.generate(prompt, attention_mask=mask, do_sample=False, max_new_tokens=150)[0]
        assert made[-1] == end and len(made) < prompt.shape[1] + 150


@pytest.mark.parametrize("name", CASES)
def test_decoding_stops_at_the_end_of_turn_and_the_tokenizer_stays_that_of_the_base(trained, name):
    run = trained(name)
    engine = load_engine(f"hf:{run.out}")
    assert run.case.end in engine.eos_texts
    assert check_ends(gather(engine)).level == "ok"
    before, after = (transformers.AutoTokenizer.from_pretrained(folder) for folder in (run.base, run.out))
    assert after.backend_tokenizer.to_str() == before.backend_tokenizer.to_str()
    assert after.special_tokens_map == before.special_tokens_map
    assert (after.pad_token, after.chat_template) == (run.case.pad, run.case.template)


def test_the_pad_token_makes_no_difference_to_the_weights(trained):
    names = ["qwen with a pad", "qwen without a pad", "qwen whose pad is its end"]
    first, *others = (loaded(trained(name).out)[0].state_dict() for name in names)
    for other in others:
        torch.testing.assert_close(other, first, atol=1e-3, rtol=0)


def test_the_end_of_turn_is_what_the_template_writes_and_else_the_eos():
    tokenizer = make_tokenizer(CASES["llama whose EOS ends the text"])
    assert end_of_turn(tokenizer) == "<|eot_id|>"
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    assert end_of_turn(tokenizer) == "<|end_of_text|>"
    tokenizer.chat_template = "{{ raise_exception('Users only.') }}"
    assert end_of_turn(tokenizer) == "<|end_of_text|>"
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} <|end_of_text|>{% endfor %}<|eot_id|>"
    assert end_of_turn(tokenizer) == "<|end_of_text|>"


def test_a_base_without_any_end_is_refused():
    tokenizer = make_tokenizer(CASES["qwen without a pad"])
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer.eos_token = None
    with pytest.raises(BadInput, match="no EOS token"):
        end_of_turn(tokenizer)
