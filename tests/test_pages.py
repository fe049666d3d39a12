"""The code on the front page and in the documentation runs as it is printed, and prints what its comments say."""

from __future__ import annotations

import ast
import importlib.util
import re
import warnings
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from examples import train
from examples.experiment.config import Config
from examples.experiment.program import parse

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = {"README.md": ROOT / "README.md", **{str(page.relative_to(DOCS)): page for page in sorted(DOCS.rglob("*.md"))}}
TEXTS = {name: page.read_text(encoding="utf-8") for name, page in PAGES.items()}
_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
BLOCKS = {name: [m for m in _FENCE.finditer(text) if m[2] == "python"] for name, text in TEXTS.items()}
START = "index.md"
FRONT = BLOCKS["README.md"].pop(0)  # which the start page shows and runs, piece by piece
AFTER_START = ["howto/few_steps.md", "howto/img2img.md", "howto/fast.md"]  # they load the model that it keeps
ALONE = [name for name, blocks in BLOCKS.items() if blocks and name not in (START, *AFTER_START)]
UNCERTAIN = {"known_problems.md"}  # what is printed depends on the processor
OPTIONAL = (
    "accelerate",
    "azula",
    "deepinv",
    "diffusers",
    "huggingface_hub",
    "hypothesis",
    "PIL",
    "safetensors",
    "scipy",
)
_IMPORTED = re.compile(
    rf"^ *(?:import|from) (?:lineardiffusion\.integrations\.)?({'|'.join(OPTIONAL)})\b", re.MULTILINE
)


def run(name, capsys):
    """The blocks of a page, one after the other, with nothing but what they define."""
    for library in sorted(set(_IMPORTED.findall("\n".join(match[3] for match in BLOCKS[name])))):
        pytest.importorskip(library, reason=f"{name} shows what is done with {library}")
    namespace = {"__name__": "__main__"}
    for match in BLOCKS[name]:
        block, line = match[3], TEXTS[name].count("\n", 0, match.start(3))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            exec(compile("\n" * line + block, PAGES[name], "exec"), namespace)
        comments = re.findall(r"#\s*(.*)", block)
        printed = capsys.readouterr().out.splitlines()  # each in a comment, or all of a loop in one
        assert name in UNCERTAIN or ", ".join(printed) in comments or set(printed) <= set(comments)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    AcceleratorState._reset_state(reset_partial_state=True)  # accelerate keeps the settings of a process's first


@pytest.mark.parametrize("name", ALONE)
def test_blocks(name, capsys):
    if name == "training.md":  # its commands, for a step
        settings = ["--config", str(ROOT / "examples" / "configs" / "digits.yaml"), "--run.steps=1"]
        train.train(parse(Config, None, [*settings, "--run.progress=false", "--optimization.batch_size=8"]))
        capsys.readouterr()
    run(name, capsys)


@pytest.mark.long
def test_the_start_page_and_what_goes_on_from_it(capsys, tmp_path):
    """Under a minute: the start page trains what it shows."""
    run(START, capsys)
    assert (tmp_path / "samples.png").read_bytes().startswith(b"\x89PNG")
    for name in AFTER_START:
        run(name, capsys)


def test_the_first_example_of_the_front_page_is_that_of_the_start_page():
    front, start = (
        [ast.dump(statement) for block in blocks for statement in ast.parse(block[3]).body]
        for blocks in ([FRONT], BLOCKS[START])
    )
    assert [statement for statement in start if statement in front] == front


@pytest.mark.parametrize("name", PAGES)
def test_what_is_not_run_says_what_it_is(name):
    """Every fence has a language, and code is in fences; what an interpreter does not run is a command or an output."""
    assert {match[2] for match in _FENCE.finditer(TEXTS[name])} <= {"python", "sh", "text", "yaml"}
    outside = _FENCE.sub("", TEXTS[name])
    assert "```" not in outside
    if name != "README.md":  # where a formula is, for sites that render none
        assert re.findall(r"(?:\A|\n)\n    \S.*", outside) == []


@pytest.mark.parametrize("name", PAGES)
def test_every_picture_and_page_that_is_linked_exists(name):
    linked = re.findall(r"\]\(([^)#:\s]+)[^):]*\)", _FENCE.sub("", TEXTS[name]))
    assert [path for path in linked if not (PAGES[name].parent / path).exists()] == []


def test_there_is_code_and_every_page_is_in_the_menu():
    least = {"README.md": 1, "index.md": 5, "frontier.md": 1, "laboratory.md": 3, "processes.md": 17, "training.md": 1}
    assert {name: len(BLOCKS[name]) for name in least if len(BLOCKS[name]) < least[name]} == {}
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [name for name in PAGES if name != "README.md" and not re.search(rf"[:-] {name}( |$)", menu, re.M)] == []


def test_the_page_of_families_is_that_of_their_files():
    spec = importlib.util.spec_from_file_location("families_page", DOCS / "families.py")
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    assert f"{page.BEGIN}\n{page.text()}\n{page.END}" in TEXTS["families.md"], "run python docs/families.py"
