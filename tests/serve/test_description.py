"""Requests made from the published description by a fuzzer: the server answers each with a status that it describes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from serving import PacedModel

pytestmark = pytest.mark.slow


def test_a_schema_fuzzer_finds_no_undescribed_answer(serve, tmp_path) -> None:
    command = shutil.which("schemathesis", path=os.path.dirname(sys.executable))
    if command is None:
        pytest.skip("schemathesis is not installed")
    served = serve(PacedModel(ends_in=3), concurrent=8)
    count = os.environ.get("S1_FUZZ_EXAMPLES", "30")
    done = subprocess.run(
        [command, "run", f"{served.url}/openapi.json", "--phases", "examples,coverage,fuzzing", "--max-examples", count,
         "--seed", "1", "--no-color", "--checks",
         "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
         "--request-timeout", "20", "--continue-on-failure"],
        capture_output=True, text=True, check=False, timeout=280, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]
    assert served.ask(max_thinking=3).status_code == 200
