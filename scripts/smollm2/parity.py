"""Where three engines part on SmolLM2: greedy tokens after GSM8K questions, compared pair by pair.

    python -m scripts.smollm2.parity convert FOLDER           the GGUF file as float32 safetensors, which vLLM reads
    python -m scripts.smollm2.parity ask ENGINE OUT --gsm8k FILE    ENGINE: hf:FOLDER, vllm:FOLDER, or llamacpp
    python -m scripts.smollm2.parity compare FOLDER OUT OUT ...     the table

`ask vllm:FOLDER` runs in vLLM's own environment (make test-vllm creates it), the others in that of s1 with xllamacpp.
Gaps are differences of the hf engine's logits. docs/smollm2.md has the result.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
from pathlib import Path

from s1.engines import load_engine
from s1.engines.model_files import find_model, load_tokenizer, load_weights
from s1.types import Continuation, Engine, Stop

QUESTIONS, TOKENS, CONTEXT = 20, 128, 1024


def convert(folder: Path) -> None:
    """Write what the hf engine has in memory."""
    files = find_model("smollm2")
    load_weights(files, "float32").save_pretrained(folder)
    load_tokenizer(files).save_pretrained(folder)


def ask(name: str, out: Path, gsm8k: Path) -> None:
    """Write the prompt and the greedy tokens of each question."""
    if name == "llamacpp":
        import xllamacpp

        files = find_model("smollm2")
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(Path(files.source) / str(files.gguf))
        parameters.n_ctx, parameters.n_parallel = CONTEXT, 1
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = (
            1  # more wait for each other, spinning
        )
        parameters.hostnames, parameters.port = ["127.0.0.1"], 0
        server = xllamacpp.Server(parameters)
        engine = load_engine(f"openai:{server.listening_address}/v1")
    else:
        more = {"eager": True, "max_batch": QUESTIONS} if name.startswith("vllm:") else {}
        engine = load_engine(name, context=CONTEXT, **more)
    questions = [json.loads(line)["question"] for line in gsm8k.read_text().splitlines()[:QUESTIONS]]
    rows = asyncio.run(_greedy(engine, questions, at_once=1 if name == "llamacpp" else QUESTIONS))
    out.write_text(json.dumps({"engine": name.partition(":")[0], "rows": rows}))


async def _greedy(engine: Engine, questions: list[str], at_once: int) -> list[dict[str, list[int]]]:
    stops = tuple(Stop(end, engine.encode(end)) for end in engine.eos_texts)

    places = asyncio.Semaphore(at_once)

    async def one(question: str) -> dict[str, list[int]]:
        prompt = engine.encode(engine.render([{"role": "user", "content": question}]))
        async with places:
            chunks = engine.stream(Continuation(prompt, TOKENS, stops))
            return {"prompt": list(prompt), "ids": [i async for chunk in chunks for i in chunk.ids]}

    rows = await asyncio.gather(*(one(question) for question in questions))
    await engine.close()
    return list(rows)


def compare(folder: Path, outs: list[Path]) -> None:
    """Print a row for each pair of engines."""
    import torch

    model = load_weights(find_model(str(folder)), "float32").eval()
    found = [json.loads(out.read_text()) for out in outs]
    print("| engines | identical | tokens before they part, median | logit gap there, median | largest |")
    print("|---|---|---|---|---|")
    for one, other in itertools.combinations(found, 2):
        places, gaps, same = [], [], 0
        for a, b in zip(one["rows"], other["rows"], strict=True):
            assert a["prompt"] == b["prompt"], "the engines have other prompts"
            pairs = itertools.zip_longest(a["ids"], b["ids"])
            at = next((n for n, (x, y) in enumerate(pairs) if x != y), None)
            if at is None:
                same += 1
                continue
            with torch.inference_mode():
                logits = model(torch.tensor([a["prompt"] + a["ids"][:at]])).logits[0, -1]
            ends = find_end(model)
            x, y = (row["ids"][at] if at < len(row["ids"]) else ends for row in (a, b))
            places.append(at)
            gaps.append(abs(float(logits[x] - logits[y])))
        shown = (
            f"{statistics.median(places):.0f} | {statistics.median(gaps):.4f} | {max(gaps):.4f}"
            if gaps
            else "- | - | -"
        )
        print(f"| {one['engine']}, {other['engine']} | {same} of {len(one['rows'])} | {shown} |")


def find_end(model: object) -> int:
    """The token that ends a turn: what an engine drew where its tokens end before the other's."""
    ends = model.generation_config.eos_token_id  # type: ignore[attr-defined]
    return int(ends[0] if isinstance(ends, list) else ends)


def main() -> None:
    """One of the three commands."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("convert").add_argument("folder", type=Path)
    one = commands.add_parser("ask")
    one.add_argument("engine")
    one.add_argument("out", type=Path)
    one.add_argument("--gsm8k", type=Path, required=True)
    pairs = commands.add_parser("compare")
    pairs.add_argument("folder", type=Path)
    pairs.add_argument("outs", type=Path, nargs="+")
    options = parser.parse_args()
    if options.command == "convert":
        convert(options.folder)
    elif options.command == "ask":
        ask(options.engine, options.out, options.gsm8k)
    else:
        compare(options.folder, options.outs)


if __name__ == "__main__":
    main()
