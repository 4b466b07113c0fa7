"""What is saved beside a trained model for its readers: a card (README.md) and a figure of the loss (loss.png)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from s1.jsonl import write_bytes
from s1.train.settings import TrainSettings
from s1.types import to_json

CARD, FIGURE = "README.md", "loss.png"


def write_card(out: Path, record: Mapping[str, Any], source: str) -> None:
    """Write the card of the model that `record` describes into `out`. `source` is where the base was loaded from."""
    from huggingface_hub import ModelCard, ModelCardData

    settings = record["settings"]
    adapter = settings["lora_rank"] > 0
    log, versions = record["log"], record["versions"]
    defaults = to_json(TrainSettings())
    license = license_of(source)
    is_folder = Path(record["base"]).expanduser().exists()
    data = ModelCardData(
        base_model=None if is_folder else record["base"],
        base_model_relation=None if is_folder else "adapter" if adapter else "finetune",
        library_name="peft" if adapter else "transformers",
        license=license,
        pipeline_tag="text-generation",
        tags=["s1", "sft", "reasoning"] + ["lora"] * adapter,
    )
    changed = {name: value for name, value in settings.items() if value != defaults[name]}
    rows = [
        ("base", f"`{record['base']}`, SHA-256 of its files {record['base_id']}"),
        ("licence of the base", license or "not stated in its folder"),
        ("data", f"{record['rows']:,} rows, {record['tokens']:,} tokens, SHA-256 {record['rows_sha256']}"),
        ("thinking format", f"`{record['format']['name']}` (`thinking.json`)"),
        ("settings that differ from the paper's",
         ", ".join(f"`{name}={value}`" for name, value in changed.items()) or "none"),
        ("steps", f"{record['steps']:,}, {record['seconds']:,.0f} seconds"),
        ("loss", f"{log[0]['loss']:.4f} at the first step, {log[-1]['loss']:.4f} at the last, "
                 f"{record['loss']:.4f} on average"),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]  # fmt: skip
    cells = [(name, value.replace("|", "\\|")) for name, value in rows]
    table = "\n".join(f"| {name} | {value} |" for name, value in cells)
    kind = f"A LoRA adapter of rank {settings['lora_rank']} on its base" if adapter else "A model"
    text = (
        f"# {out.name}\n\n{kind}, fine-tuned with `s1 train` to think before it answers. `s1 think --model DIR` "
        "loads it and limits or extends its thinking.\n\n"
        f"| | |\n|---|---|\n{table}\n\n![loss of each step]({FIGURE})\n\n"
        "`train.json` holds all settings and the loss, learning rate and gradient norm of every step. "
        "It was not evaluated by this run.\n"
    )
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}").save(out / CARD)


def draw_losses(out: Path, log: Sequence[Mapping[str, float]]) -> None:
    """Draw the loss and the learning rate of each step into `out`."""
    from matplotlib.figure import Figure

    steps, losses = ([entry[name] for entry in log] for name in ("step", "loss"))
    width = max(1, len(log) // 20)
    means = [sum(losses[max(0, i - width + 1) : i + 1]) / min(width, i + 1) for i in range(len(losses))]
    figure = Figure(figsize=(7, 4), layout="constrained")
    left = figure.subplots()
    left.plot(steps, losses, color="#9DB8D9", linewidth=0.8, label="loss of a step")
    left.plot(steps, means, color="#1F4E8C", label=f"mean of {width} steps")
    left.set_xlabel("optimiser step")
    left.set_ylabel("loss")
    right = left.twinx()
    right.plot(
        steps,
        [entry["learning_rate"] for entry in log],
        color="#B0793A",
        linestyle=":",
        label="learning rate",
    )
    right.set_ylabel("learning rate")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
    write_bytes(out / FIGURE, file.getvalue())


def license_of(source: str) -> str | None:
    """The licence that the base's own card names, if the base is a folder that has one."""
    import yaml
    from huggingface_hub import ModelCard

    try:
        found = ModelCard.load(Path(source) / CARD).data.to_dict().get("license")
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return str(found) if found else None
