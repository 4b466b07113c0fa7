"""The command `s1-lm-eval` where the harness is not installed."""

import sys

from s1.harness.command import main


def test_the_command_says_how_to_install_the_harness(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "s1.harness.lm_eval", raising=False)
    assert main() == 2
    assert ".[lm-eval]" in capsys.readouterr().err
