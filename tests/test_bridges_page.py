"""The code on the page of bridges runs and prints what it says, where the library that it needs is installed."""

from __future__ import annotations

import importlib
import re

import pytest

from test_pages import BLOCKS, PAGES, TEXTS

PAGE = "bridges.md"


@pytest.mark.parametrize("match", BLOCKS[PAGE], ids=lambda match: str(TEXTS[PAGE].count("\n", 0, match.start(1))))
def test_block(match, capsys):
    block = match[1]
    for name in re.findall(r"^import (\w+)", block, re.MULTILINE):
        try:
            importlib.import_module(name)
        except (ImportError, RuntimeError) as error:
            pytest.skip(f"{name} does not import: {error}")
    exec(compile(block, PAGES[PAGE], "exec"), {})
    assert capsys.readouterr().out.splitlines() == re.findall(r"print\(.*  # (.*)", block)
