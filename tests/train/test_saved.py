"""What a run leaves beside the weights: a card, a figure, versions, and a tracker's files."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("trl")
pytest.importorskip("matplotlib")

from huggingface_hub import ModelCard  # noqa: E402

from s1.errors import BadConfig  # noqa: E402
from s1.formats import FORMATS  # noqa: E402
from s1.petri import world  # noqa: E402
from s1.train.sft import train  # noqa: E402
from s1.types import Question, Trace  # noqa: E402

TRACES = [Trace(Question(f"q{n}", f"solve {n} x", "5"), f"x {n} : 1 no .", "5") for n in range(4)]


@pytest.mark.parametrize(
    ("rank", "library", "weights"),
    [(0, "transformers", "model.safetensors"), (4, "peft", "adapter_model.safetensors")],
    ids=["full", "adapter"],
)
def test_a_model_is_saved_with_its_card_its_losses_and_the_versions(tmp_path, rank, library, weights):
    settings = world.train_settings(batch=4, device_batch=4, max_steps=3, lora_rank=rank)
    shown = []
    out = train(
        str(world.base_model()), TRACES, tmp_path / "out", FORMATS["petri"], settings,
        progress=lambda step, steps, loss, detail: shown.append((step, steps, loss, detail)),
    )  # fmt: skip
    record = json.loads((out / "train.json").read_text())
    assert {"s1", "torch", "trl", "python"} <= set(record["versions"])
    card = ModelCard.load(out / "README.md")
    assert card.data.library_name == library and "s1" in card.data.tags
    for fact in (record["rows_sha256"], record["base_id"], "batch=4", record["versions"]["trl"],
                 f"{record['log'][-1]['loss']:.4f}"):  # fmt: skip
        assert fact in card.text
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert {p.name for p in out.iterdir() if p.suffix in (".safetensors", ".bin", ".pt")} == {weights}
    assert [(step, steps) for step, steps, *_ in shown] == [(1, 3), (2, 3), (3, 3)]
    assert all("lr " in d and "tokens/s" in d and "GiB" in d for *_, d in shown)


@pytest.mark.parametrize("rank", [0, 4], ids=["full", "adapter"])
def test_the_losses_are_the_same_with_logits_at_once_and_in_pieces(tmp_path, monkeypatch, rank):
    settings = world.train_settings(batch=4, device_batch=2, max_steps=3, lora_rank=rank, bf16=False)
    traces = [replace(t, thinking=t.thinking + " x 1 : 2 no ." * n) for n, t in enumerate(TRACES)]

    def losses(name: str) -> list[float]:
        out = train("petri", traces, tmp_path / name, FORMATS["petri"], settings)
        return [step["loss"] for step in json.loads((out / "train.json").read_text())["log"]]

    whole = losses("whole")
    monkeypatch.setattr("s1.train.trainer.LOGITS_AT_ONCE", 0)
    pieces = losses("pieces")
    assert whole == pytest.approx(pieces, rel=1e-4) and whole[0] > whole[-1] + 0.01


def test_the_card_takes_the_licence_of_the_base_from_the_base_s_own_card(tmp_path):
    from s1.train.model_card import license_of

    assert license_of(str(tmp_path)) is None
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A base\n")
    assert license_of(str(tmp_path)) == "apache-2.0"
    (tmp_path / "README.md").write_text("---\nlicense: [\n---\n")
    assert license_of(str(tmp_path)) is None


def test_tensorboard_gets_the_loss_of_every_step(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = world.train_settings(batch=4, device_batch=4, max_steps=3)
    out = train("petri", TRACES, tmp_path / "out", FORMATS["petri"], settings, track="tensorboard")
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    losses = [event.value for event in events.Scalars("train/loss")]
    log = json.loads((out / "train.json").read_text())["log"]
    assert losses == pytest.approx([entry["loss"] for entry in log])


def test_a_tracker_that_is_not_there_is_refused_before_any_work(tmp_path):
    missing = [name for name in ("trackio", "wandb", "tensorboard") if importlib.util.find_spec(name) is None]
    if not missing:
        pytest.skip("all trackers are installed")
    for track, word in ((missing[0], "pip install"), ("mlflow", "Use one of")):
        with pytest.raises(BadConfig, match=word):
            train(str(Path("no/such/model")), [], tmp_path / "out", FORMATS["petri"], track=track)
        assert not (tmp_path / "out").exists()
