"""The examples run."""

from __future__ import annotations

import sys

import pytest
from examples import new_degradation, quickstart


@pytest.mark.long
def test_the_program_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["new_degradation.py", "--steps", "2", "--output", str(tmp_path)])
    new_degradation.main()
    assert {path.name for path in tmp_path.iterdir()} == {"degraded.png", "samples.png"}


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("levels", "9", "levels: expected .*: at most 4 for shape"),
        ("out", __file__, "File exists"),
        ("seed", str(2**70), ""),
    ],
)
def test_what_the_quickstart_cannot_do_is_said_in_a_line(argument, value, message, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["quickstart.py", "--out", str(tmp_path), f"--{argument}={value}"])
    with pytest.raises(SystemExit, match=rf"quickstart.py: .*{message}"):
        quickstart.main()
