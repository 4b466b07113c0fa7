"""The plan: what it counts, what it refuses, and what it tells before the first step."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("trl")

from transformers import Qwen2Config  # noqa: E402

from s1.errors import BadConfig, BadInput  # noqa: E402
from s1.formats import FORMATS  # noqa: E402
from s1.petri import world  # noqa: E402
from s1.train.plan import (  # noqa: E402
    GPUS,
    Gpu,
    changes,
    devices_named,
    make_plan,
    model_flops,
    plan_text,
    shape_of,
)
from s1.train.settings import TrainSettings, train_recipe  # noqa: E402
from s1.train.sft import train  # noqa: E402
from s1.types import Question, Trace  # noqa: E402

SEVEN = shape_of(
    Qwen2Config(
        hidden_size=3584, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4,
        intermediate_size=18_944, vocab_size=152_064, tie_word_embeddings=False,
    )
)  # fmt: skip
PAPER = TrainSettings()
RECIPES = yaml.safe_load((resources.files("s1.train") / "recipes.yaml").read_text())
TRACES = [Trace(Question(f"q{n}", f"solve {n} x", "5"), f"x {n} : 1 no .", "5") for n in range(4)]


def test_the_paper_s_recipe_takes_315_steps_on_a_thousand_rows():
    recipe = train_recipe("s1-32b").settings
    plan = make_plan(SEVEN, [9_000] * 1000, recipe, 8, GPUS["H100"])
    assert plan.steps == 315 and plan.tokens == 315 * 16 * 9_000
    assert (recipe.batch, recipe.learning_rate, recipe.warmup, recipe.beta2) == (16, 1e-5, 0.05, 0.95)
    assert (recipe.weight_decay, recipe.epochs, recipe.bf16) == (1e-4, 5, True)


def test_the_weights_of_qwen_7b_and_their_flops_are_counted():
    assert SEVEN.weights == pytest.approx(7.62e9, rel=0.01)
    assert model_flops(SEVEN, 0, PAPER) == pytest.approx(6 * 7.07e9, rel=0.01)
    assert model_flops(SEVEN, 32_768, PAPER) > 1.4 * model_flops(SEVEN, 0, PAPER)


def test_a_7b_model_on_one_gpu_is_told_what_would_fit():
    plan = make_plan(SEVEN, [16_000], PAPER, 1, GPUS["H100"])
    assert not plan.fits
    found = " ".join(changes(plan))
    assert "lora-1gpu" in found and "--gpus" in found and "offload" in found


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("7b")])
def test_the_7b_recipes_fit_the_gpus_that_they_name(name):
    recipe = train_recipe(name)
    assert make_plan(SEVEN, [32_768], recipe.settings, recipe.gpus, GPUS["H100"]).fits


def test_the_adapter_recipes_fit_one_gpu():
    assert make_plan(SEVEN, [16_384], train_recipe("lora-1gpu").settings, 1, GPUS["A100-40"]).fits
    assert make_plan(SEVEN, [16_384], train_recipe("qlora-24gb").settings, 1, GPUS["RTX 4090"]).fits


@given(st.integers(1, 64), st.integers(100, 32_768), st.booleans(), st.sampled_from([0, 8, 64]))
def test_more_gpus_shorter_rows_and_checkpoints_never_take_more_memory(gpus, longest, checkpoint, rank):
    settings = replace(PAPER, checkpoint_activations=checkpoint, lora_rank=rank, weights="bfloat16")
    plan = make_plan(SEVEN, [longest], settings, 2 * gpus, GPUS["H100"])
    assert plan.total <= make_plan(SEVEN, [longest + 100], settings, 2 * gpus, GPUS["H100"]).total
    assert make_plan(SEVEN, [longest], settings, 4 * gpus, GPUS["H100"]).total <= plan.total
    without = make_plan(
        SEVEN, [longest], replace(settings, checkpoint_activations=False), 2 * gpus, GPUS["H100"]
    )
    assert plan.total <= without.total * 1.05
    assert "GiB" in plan_text(plan)


def test_gpus_are_named_with_their_number():
    assert devices_named("8xH100") == (8, GPUS["H100"])
    assert devices_named("4090") == (1, GPUS["RTX 4090"])
    for wrong in ("", "8x", "H9000", "x"):
        with pytest.raises(BadConfig, match="Unknown GPU"):
            devices_named(wrong)


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(BadConfig, match="lora-1gpu"):
        train_recipe("lora")


def test_a_run_that_cannot_fit_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("s1.train.sft.devices_here", lambda gpus: Gpu("small", 1e6, 0.0))
    with pytest.raises(BadConfig, match="does not fit"):
        train("petri", TRACES, tmp_path / "out", FORMATS["petri"], world.train_settings())
    assert not (tmp_path / "out").exists()


def test_rows_above_the_limit_are_refused_with_their_number_and_the_size_that_keeps_all(tmp_path):
    long = Trace(Question("long", "solve 3 x", "5"), "x 0 : 1 no . " * 20, "5")
    with pytest.raises(BadInput, match=r"1 of 5 rows.*long.*max_length=\d+ keeps all"):
        train("petri", [*TRACES, long], tmp_path, FORMATS["petri"], world.train_settings(max_length=50))


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    from s1.errors import Interrupted

    settings = world.train_settings(batch=4, device_batch=4, max_steps=40, learning_rate=1e30, bf16=False)
    with pytest.raises(Interrupted, match="loss of step"):
        train("petri", TRACES, tmp_path / "out", FORMATS["petri"], settings)
    assert not (tmp_path / "out" / "train.json").exists()


def test_a_base_without_the_weights_of_its_architecture_is_refused(tmp_path):
    base = Path(shutil.copytree(world.base_model(), tmp_path / "base"))
    config = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    (base / "config.json").write_text(json.dumps(config | {"intermediate_size": 64, "vocab_size": 576}))
    with pytest.raises(BadInput, match="weights are missing"):
        train(str(base), TRACES, tmp_path / "out", FORMATS["petri"], world.train_settings())
