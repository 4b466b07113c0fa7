"""Pre-train the petri base: `python -m scripts.petri.pretrain --out DIR --seed 0`.

Writes safetensors (bfloat16), the tokenizer, and pretrain.json with the command, seed, token count and loss
log. Resumes from DIR/state.pt when interrupted. Matrices are trained with Muon and the rest with AdamW; the
learning rate is warmed up, constant, and decays linearly over the second half.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import time
from pathlib import Path
from typing import Any

from s1.errors import BadConfig
from scripts.petri.documents import windows
from scripts.petri.tokenizer import END, PAD, VOCABULARY_SIZE, build_tokenizer, word_ids

STAGES = ((0.75, 256, 48), (1.0, 512, 24))
"""Parts of the first stage: share of its tokens at which the part ends, window length, windows per step."""
MATRIX_RATE, OTHER_RATE = 4e-3, 2e-3


def build_model(seed: int) -> Any:
    """A randomly initialised Llama of 3.4 million parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    ids = word_ids()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=ids[PAD],
        bos_token_id=None,
        eos_token_id=ids[END],
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config)


def rate_at(seen: int, tokens: int, late: int) -> float:
    """Learning-rate factor after `seen` tokens: warm-up, constant, linear decay; the second stage restarts at half."""
    if seen >= tokens:
        share = (seen - tokens) / late
        return 0.5 * min(share / 0.03, max(0.02, 1.0 - 0.98 * share))
    share = seen / tokens
    if share < 0.015:
        return share / 0.015
    return 1.0 if share < 0.5 else max(0.02, 1.0 - 0.98 * (share - 0.5) / 0.5)


def pretrain(out: Path, seed: int, tokens: int, late: int, compiled: bool) -> None:
    """Train on `tokens` tokens of the first stage of documents and `late` of the second; write the folder `out`."""
    import torch
    import torch.nn.functional as F

    out.mkdir(parents=True, exist_ok=True)
    model = build_model(seed)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = [
        torch.optim.Muon(matrices, lr=MATRIX_RATE, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=OTHER_RATE, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    seen, step, log, spent = 0, 0, [], 0.0
    state_file = out / "state.pt"
    run = {"seed": seed, "tokens": tokens, "late": late}
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        if state.get("run", run) != run:
            raise BadConfig(f"{state_file} belongs to another run: {state['run']}.", "Choose another --out.")
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        seen, step, log, spent = state["seen"], state["step"], state["log"], state["seconds"]
    forward = torch.compile(model.model, dynamic=False) if compiled else model.model
    head = model.lm_head.weight
    ids = word_ids()
    began = time.perf_counter() - spent
    stream, part = None, (0, False)
    while seen < tokens + late:
        second = seen >= tokens
        _, length, rows = STAGES[-1] if second else next(s for s in STAGES if seen < s[0] * tokens)
        if (
            length,
            second,
        ) != part:  # a new stream for each part and each start, so that resuming repeats nothing
            part = length, second
            stream = windows(random.Random(f"{seed}/{seen}"), length, ids, second)
        assert stream is not None
        batch = [next(stream) for _ in range(rows)]
        tokens_BT = torch.tensor([w for w, _ in batch])
        mask_BT = torch.tensor([m for _, m in batch])
        for optimizer, rate in zip(optimizers, (MATRIX_RATE, OTHER_RATE), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * rate_at(seen, tokens, late)
        with torch.autocast("cpu", torch.bfloat16):
            hidden_BTD = forward(input_ids=tokens_BT[:, :-1], use_cache=False).last_hidden_state
            logits_NV = hidden_BTD[mask_BT[:, 1:]] @ head.T
        loss = F.cross_entropy(logits_NV.float(), tokens_BT[:, 1:][mask_BT[:, 1:]])
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        seen += rows * length
        step += 1
        if step % 50 == 0:
            log.append([step, seen, round(loss.item(), 4), round(time.perf_counter() - began, 1)])
            speed = seen / (time.perf_counter() - began)
            left = (tokens + late - seen) / speed / 60
            done = f"step {step}  {seen / 1e6:.1f}M tokens  loss {loss.item():.4f}"
            print(f"{done}  {speed:.0f} tok/s  {left:.0f} min left", flush=True)
        if step % 250 == 0 or seen >= tokens + late:
            state = {"run": run, "model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers],
                     "seen": seen, "step": step, "log": log, "seconds": time.perf_counter() - began}  # fmt: skip
            torch.save(state, out / "state.new")
            os.replace(out / "state.new", state_file)
    flags = f"--seed {seed} --tokens {tokens / 1e6:g} --late {late / 1e6:g}{' --compile' * compiled}"
    save(model, out, flags, seed, seen, log)
    state_file.unlink()


def save(model: Any, out: Path, flags: str, seed: int, seen: int, log: list[Any]) -> None:
    import torch
    import transformers

    model.generation_config.eos_token_id = word_ids()[END]
    model.to(torch.bfloat16).save_pretrained(out)
    build_tokenizer().save_pretrained(out)
    record = {
        "command": f"python -m scripts.petri.pretrain --out s1/petri/weights {flags}",
        "seed": seed,
        "tokens": seen,
        "seconds": log[-1][3] if log else 0,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "log": {"columns": ["step", "tokens", "loss", "seconds"], "rows": log[::4]},
    }
    (out / "pretrain.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokens", type=float, default=50, help="millions of the first stage")
    parser.add_argument("--late", type=float, default=10, help="millions of the second stage")
    parser.add_argument("--compile", action="store_true", help="use torch.compile (needs a C++ compiler)")
    arguments = parser.parse_args()
    pretrain(
        arguments.out,
        arguments.seed,
        int(arguments.tokens * 1e6),
        int(arguments.late * 1e6),
        arguments.compile,
    )


if __name__ == "__main__":
    main()
