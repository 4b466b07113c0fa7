"""What s1's plug-in costs requests without a budget, in one vLLM engine.

    VLLM_CPU_KVCACHE_SPACE=1 .venv-vllm/bin/python benchmarks/plugin_cost.py [--model FOLDER] [--pairs 40]

64 requests of 100 tokens are decoded by one engine in this process, again and again: once with the plug-in, once with
the plug-in taken out of the running engine, in turn. Two servers cannot show a difference of 1 %, because two of the
same differ by more. Without it the engine has vLLM's own logits processors only, as where no plug-in is installed.
This needs private names of vLLM, so the script is for the release in constraints-vllm.txt. Prints the mean ratio of the
pairs with its 95 % interval, in processor time and in wall time; in the control both rounds of a pair have the plug-in.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "auto")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from s1.evals.benchmarks import load_benchmark  # noqa: E402
from s1.petri.world import base_model  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=str(base_model()))
    parser.add_argument("--pairs", type=int, default=40)
    options = parser.parse_args()
    from vllm import LLM, SamplingParams

    llm = LLM(
        options.model,
        dtype="float32",
        max_num_seqs=64,
        enable_prefix_caching=False,
        seed=0,
        additional_config={"s1_format": "petri"},
    )
    plugin = Plugin(llm)
    prompts = [q.text for q in load_benchmark("petri").questions[:64]]
    sampling = SamplingParams(temperature=0.0, max_tokens=100, ignore_eos=True)

    def measured(present: bool) -> tuple[float, float]:
        """Processor and wall seconds of one round."""
        plugin.put(present)
        processor, wall = time.process_time(), time.perf_counter()
        done = llm.generate(prompts, sampling, use_tqdm=False)
        assert all(len(one.outputs[0].token_ids) == 100 for one in done)
        return time.process_time() - processor, time.perf_counter() - wall

    for present in (True, False):  # warm up
        measured(present)
    for name, rival in (("with / without", False), ("with / with (control)", True)):
        ratios: list[tuple[float, float]] = []
        for pair in range(options.pairs):
            order = (True, rival) if pair % 2 else (rival, True)
            first, second = (measured(present) for present in order)
            ours, theirs = (first, second) if pair % 2 else (second, first)
            ratios.append((ours[0] / theirs[0], ours[1] / theirs[1]))
        shown = [interval(list(values)) for values in zip(*ratios, strict=True)]
        print(f"{name}, {options.pairs} pairs: processor time {shown[0]}, wall time {shown[1]}", flush=True)
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")


class Plugin:
    """s1's processor in the engine of `llm`, which can be taken out and put back."""

    def __init__(self, llm: Any) -> None:
        runner = llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner
        self.processors = runner.input_batch.logitsprocs.non_argmax_invariant
        self.own = [p for p in self.processors if type(p).__module__.startswith("s1.")]
        assert len(self.own) == 1, "vLLM did not find the plug-in of s1 in this environment"

    def put(self, present: bool) -> None:
        rest = [p for p in self.processors if p not in self.own]
        self.processors[:] = [*rest, *self.own] if present else rest


def interval(values: list[float]) -> str:
    """The mean with its 95 % interval (normal approximation)."""
    mean, error = statistics.mean(values), statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.4f} ({mean - 1.96 * error:.4f} to {mean + 1.96 * error:.4f})"


if __name__ == "__main__":
    main()
