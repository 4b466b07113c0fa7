"""vLLM's new model runner with the plug-in, run for real on a CPU: Triton's interpreter stands in for a GPU.

vLLM's CPU build takes Triton only with a backend for CPUs, which Triton's own package does not have. The interpreter
runs the same kernels without any, so an entry that says there is one is all that it takes. The server has so few
blocks of keys and values that requests are preempted and come back, in other slots.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

if importlib.util.find_spec("vllm") is None or importlib.util.find_spec("triton") is None:
    pytest.skip("needs vLLM in its own environment: make test-vllm", allow_module_level=True)

from forced_runs import PETRI, POLICIES, SHORT, Rounds, run_all, without_times  # noqa: E402
from serve_vllm import environment, serve  # noqa: E402

from s1.budget import Forcing  # noqa: E402
from s1.drive import drive  # noqa: E402
from s1.engines import load_engine  # noqa: E402
from s1.petri.world import base_model  # noqa: E402
from s1.policy import BudgetPolicy  # noqa: E402
from s1.prompt import encode_prompt  # noqa: E402
from s1.types import Engine, Generation, Sampling  # noqa: E402

BACKEND = """
from types import SimpleNamespace
from triton.backends import backends
backends["cpu"] = SimpleNamespace(driver=SimpleNamespace(is_active=lambda: True), compiler=None)
"""
BLOCKS = ["--max-model-len", "512", "--block-size", "32", "--num-gpu-blocks-override", "18"]
"""Room for 576 tokens. The requests below need twice as many, together."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("vllm")


@pytest.fixture(scope="module")
def server(folder) -> Iterator[str]:
    (folder / "sitecustomize.py").write_text(BACKEND)
    new = {"TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1", "VLLM_LOGGING_LEVEL": "INFO"}
    options = ["--additional-config", json.dumps({"s1_format": "petri"}), *BLOCKS]
    with serve(base_model(), folder, *options, env=environment(folder) | new) as running:
        yield running.url


@pytest.fixture(scope="module")
def engine(server) -> Iterator[Engine]:
    made = load_engine(f"openai:{server}")
    yield made
    asyncio.run(made.close())


def preemptions(server: str) -> float:
    with urllib.request.urlopen(server.removesuffix("/v1") + "/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return sum(
        float(line.rpartition(" ")[2]) for line in lines if line.startswith("vllm:num_preemptions_total")
    )


def test_one_request_has_the_record_of_forcing_from_outside_also_after_preemption(
    engine, server, folder
) -> None:
    assert "Using V2 Model Runner" in (folder / "log.txt").read_text()
    names = [name for name in POLICIES if name != "all of the context"]  # a thousand tokens each
    wanted, before = run_all(engine, Rounds, names), preemptions(server)
    found = run_all(engine, Forcing, names)
    assert engine.plugin is True and preemptions(server) > before
    different = [name for name in wanted if without_times(wanted[name]) != without_times(found[name])]
    assert not different
    assert all(g.error is None and g.exact for g in found.values())


def test_samples_are_repeated_by_their_seeds(engine) -> None:
    """Without filters: Triton's interpreter cannot run vLLM's kernel for top-k and top-p."""
    prompt = engine.render([{"role": "user", "content": SHORT}])
    encoded = encode_prompt(engine, PETRI, BudgetPolicy(max_thinking=60, waits=3, max_answer=12), prompt)

    async def every() -> list[Generation]:
        requests = (Forcing(encoded, Sampling(0.9, seed=seed)) for seed in (5, 5, 6, 7, 8))
        return list(await asyncio.gather(*(drive(request, engine) for request in requests)))

    samples = [without_times(each) for each in asyncio.run(every())]
    assert not [each.error for each in samples if each.error]
    assert samples[0] == samples[1] and len({each.segments for each in samples}) == 4
    assert any(each.waits for each in samples)
