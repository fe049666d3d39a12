"""The worked example: its page shows the program as it is, and the program runs."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from examples import new_degradation, quickstart

import lineardiffusion as ld

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "new_degradation.md").read_text(encoding="utf-8")
PROGRAM = (ROOT / "examples" / "new_degradation.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
def test_the_page_shows_the_program(block):
    assert block in PROGRAM


def test_the_separable_form_of_the_camera():
    mask = torch.linspace(1.0, 0.94, 8)[:, None].expand(new_degradation.SHAPE)
    camera = new_degradation.MovingCamera(new_degradation.SHAPE, leak=0.05, mask=mask)
    column, leak = mask[0, :, 0], 0.95 * torch.eye(8) + 0.05 * torch.eye(8).roll(1, 0).tril()
    separable = ld.Separable([torch.diag(column), leak], new_degradation.SHAPE)
    torch.testing.assert_close(separable.to_dense(), camera.to_dense(), rtol=1e-6, atol=1e-6)


def test_every_picture_of_the_page_exists():
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", PAGE)
    assert len(pictures) == 2
    assert all((ROOT / "docs" / picture).exists() for picture in pictures)


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
