"""A library outside the tested range is named in one line, and the command still runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def report(folder: Path, **packages: str) -> subprocess.CompletedProcess[str]:
    """`s1 report` on no run, where these versions of packages seem to be installed."""
    for name, version in packages.items():
        metadata = folder / f"{name}-{version}.dist-info" / "METADATA"
        metadata.parent.mkdir(parents=True)
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return subprocess.run(
        [sys.executable, "-m", "s1", "report", "no-run"], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(folder)}, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("version", ["0.0.1", "99.0"])
def test_a_version_outside_the_range_is_named_once_and_the_command_goes_on(tmp_path, version):
    done = report(tmp_path, transformers=version)
    told = [line for line in done.stderr.splitlines() if version in line]
    assert len(told) == 1 and "transformers" in told[0] and ">=5.16.1" in told[0]
    assert done.returncode == 2 and "no-run" in done.stderr


def test_versions_within_the_range_are_not_spoken_of(tmp_path):
    done = report(tmp_path, transformers="5.20.0", trl="1.16.0")
    assert "was tested with" not in "".join(line for line in done.stderr.splitlines() if "tr" in line[:3])
    assert done.returncode == 2


def test_the_tools_of_the_tests_are_no_concern_of_a_user(tmp_path):
    assert "hypothesis" not in report(tmp_path, hypothesis="0.1").stderr
