"""The code on the front page and in the documentation runs, and prints what its comments say."""

from __future__ import annotations

import importlib.util
import inspect
import re
import warnings
from pathlib import Path

import pytest
import torch
from examples.experiment import runs
from safetensors.torch import save_file

import lineardiffusion as ld

ROOT = Path(__file__).resolve().parents[1]
PAGES = {page.name: page for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
TEXTS = {name: page.read_text(encoding="utf-8") for name, page in PAGES.items()}
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
BLOCKS = {name: list(_BLOCK.finditer(text)) for name, text in TEXTS.items()}
# Parts of a program, which tests/test_examples.py compares and runs; what needs libraries that may be absent.
SHOWN = {"new_degradation.md", "bridges.md"}
UNCERTAIN = {"known_problems.md"}  # what is printed depends on the processor
NEEDS = {"diffusers.md": ["diffusers", "huggingface_hub"]}  # more than the rest


class Network(torch.nn.Module):
    """Returns nothing but zeros, which can be learned."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, time, size=None, y=None):
        return self.weight * x.new_ones(*x.shape[:2], *(size or x.shape[2:]))


def surroundings():
    """What the pages take for given: a process, a network and its optimizer, images, and an autoencoder."""
    process, network = ld.ScaleSpaceDiffusion((1, 8, 8), 2), Network()
    return {
        "process": process,
        "network": network,
        "labelled_network": network,
        "denoiser": ld.Denoiser(network, process),
        "optimizer": torch.optim.SGD(network.parameters()),
        "images": torch.rand(64, *process.shape(0), generator=torch.Generator().manual_seed(0)),
        "held_out_images": torch.rand(64, *process.shape(0), generator=torch.Generator().manual_seed(1)),
        "generator": torch.Generator().manual_seed(0),
        "encode": lambda x: torch.nn.functional.avg_pool2d(x, x.shape[-1] // 8).expand(-1, 4, -1, -1),
        "decode": lambda z: z[:, :1],
        "save_file": save_file,
        "torch": torch,
        "ld": ld,
    }


@pytest.mark.parametrize("name", [name for name, blocks in BLOCKS.items() if blocks and name not in SHOWN])
def test_blocks(name, tmp_path, monkeypatch, capsys):
    """One after the other; those that import what they need have nothing else."""
    for package in NEEDS.get(name, []):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    given = surroundings()
    monkeypatch.setattr(runs, "find_checkpoint", lambda folder: folder)  # there is no run
    monkeypatch.setattr(runs, "load_denoiser", lambda checkpoint: (given["denoiser"], {}))
    for match in BLOCKS[name]:
        block, line = match[1], TEXTS[name].count("\n", 0, match.start(1))
        namespace = {} if block.startswith(("import ", "from ")) else given
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            exec(compile("\n" * line + block, PAGES[name], "exec"), namespace)
        given.update(namespace)
        comments = re.findall(r"#\s*(.*)", block)
        printed = capsys.readouterr().out.splitlines()  # each in a comment, or all of a loop in one
        assert name in UNCERTAIN or ", ".join(printed) in comments or set(printed) <= set(comments)


def test_there_is_code_and_every_picture_and_page_exists():
    least = {"README.md": 2, "index.md": 1, "laboratory.md": 3, "processes.md": 18, "training.md": 1}
    assert {name: len(BLOCKS[name]) for name in least if len(BLOCKS[name]) < least[name]} == {}
    for name, page in PAGES.items():
        linked = re.findall(r"\]\(([^)#:]+)[^):]*\)", TEXTS[name])
        assert [path for path in linked if not (page.parent / path).exists()] == []
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [name for name in PAGES if name != "README.md" and f": {name}\n" not in menu] == []


def test_the_page_of_families_is_that_of_their_files():
    spec = importlib.util.spec_from_file_location("families_page", ROOT / "docs" / "families.py")
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    assert f"{page.BEGIN}\n{page.text()}\n{page.END}" in TEXTS["families.md"], "run python docs/families.py"


@pytest.mark.parametrize(
    "module",
    [ld, ld.families, ld.inverse, ld.paths, ld.schedules, ld.grids, ld.times, ld.losses, ld.bases, ld.lab, ld.testing],
)
def test_the_reference_has_every_public_name(module):
    pattern = r"^::: (\S+)(?:\n    options:\n      members: \[(.*)\])?"
    pages = TEXTS["reference.md"] + TEXTS["families.md"]
    listed = {found[1]: found[2] for found in re.finditer(pattern, pages, re.MULTILINE)}
    within = "lineardiffusion" if hasattr(module, "__path__") else module.__name__  # a module imports for itself
    names = {
        name: value.__module__
        for name, value in vars(module).items()
        if not name.startswith("_") and (inspect.isclass(value) or inspect.isfunction(value))
        if value.__module__.startswith(within)
    }
    named = {of: None if members is None else members.split(", ") for of, members in listed.items()}
    shown = {name for name, of in names.items() if of in named and (named[of] is None or name in named[of])}
    assert names
    assert names.keys() - shown == set()
