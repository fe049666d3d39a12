"""The code on the front page and in the documentation runs."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import lineardiffusion as ld

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = {
    page: re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    for page in ("README.md", "docs/index.md", "docs/laboratory.md")
}


def surroundings():
    """What the pages take for given: a process, a network and its optimizer, and images."""
    process = ld.ScaleSpaceDiffusion((1, 8, 8), 2)
    weight = torch.zeros(1, requires_grad=True)
    denoiser = ld.Denoiser(lambda x, t_index, size: weight * x.new_ones(len(x), 1, *size), process)
    images = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return {
        "process": process,
        "denoiser": denoiser,
        "optimizer": torch.optim.SGD([weight]),
        "images": images,
        "held_out_images": images,
        "generator": torch.Generator().manual_seed(0),
        "save_file": save_file,
        "ld": ld,
    }


@pytest.mark.parametrize(
    ("page", "number"), [(page, number) for page, blocks in BLOCKS.items() for number in range(len(blocks))]
)
def test_block(page, number, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    block = BLOCKS[page][number]
    own = {} if block.startswith(("import ", "from ")) else surroundings()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(compile(block, page, "exec"), {"__name__": "page", **own})
    if "evaluate" in block:  # whose comment has the figures it prints, each after its number of levels
        assert ", ".join(line.split()[1] for line in capsys.readouterr().out.splitlines()) in block


def test_there_is_code_and_every_picture_exists():
    assert [len(blocks) for blocks in BLOCKS.values()] == [2, 1, 4]
    for page in BLOCKS:
        folder, text = (ROOT / page).parent, (ROOT / page).read_text(encoding="utf-8")
        pictures = re.findall(r"!\[.*?\]\((.*?)\)", text)
        assert pictures or page != "README.md"
        assert all((folder / picture).exists() for picture in pictures)
