"""Store a fine-tuned petri model as the one that ships: half the bytes, and no path of this machine.

s1 demo --out runs/demo
python -m scripts.petri.ship runs/demo/model s1/petri/tuned
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

KEPT = ("chat_template.jinja", "generation_config.json", "thinking.json", "tokenizer.json")


def ship(model: Path, out: Path) -> None:
    """Write the weights of `model` in bfloat16 and what an engine needs besides them into the new folder `out`."""
    import torch
    from safetensors.torch import load_file, save_file

    out.mkdir(parents=True)
    weights = {name: w.to(torch.bfloat16) for name, w in load_file(model / "model.safetensors").items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    for name in KEPT:
        shutil.copyfile(model / name, out / name)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    _write(out / "config.json", {**config, "dtype": "bfloat16"})
    tokenizer = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
    _write(out / "tokenizer_config.json", {k: v for k, v in tokenizer.items() if "local" not in k})
    record = json.loads((model / "train.json").read_text(encoding="utf-8"))
    del record["log"]
    _write(out / "train.json", {**record, "base": "petri"})
    (out / "model.safetensors").chmod(0o644)


def _write(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a folder that s1 train or s1 demo wrote")
    parser.add_argument("out", type=Path, help="a folder that does not exist")
    arguments = parser.parse_args()
    ship(arguments.model, arguments.out)


if __name__ == "__main__":
    main()
