"""The front page is shown in places that know nothing of this repository's files: its links and pictures are absolute,
and lead to what there is."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
FILES = URLS["Repository"] + "/blob/main/"
RAW = FILES.replace("github.com", "raw.githubusercontent.com").replace("/blob/", "/")
LINKS = re.findall(r"\]\((.*?)\)", README) + re.findall(r"(?:src|href)=\"(.*?)\"", README)


def test_there_are_links():
    assert len(LINKS) > 10
    assert "](https://arxiv.org/abs/2603.08709)" in README


@pytest.mark.parametrize("link", sorted(set(LINKS)))
def test_links_are_absolute_and_lead_somewhere(link):
    assert link.startswith("https://")
    link = link.split("#")[0]
    if link.startswith(URLS["Documentation"]):
        page = link.removeprefix(URLS["Documentation"]).strip("/") or "index"
        assert (ROOT / "docs" / f"{page}.md").exists()
    for base in (FILES, RAW):
        assert not link.startswith(base) or (ROOT / link.removeprefix(base)).is_file()


def test_the_site_is_where_the_package_says():
    assert f"\nsite_url: {URLS['Documentation']}\n" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


def test_pictures_are_raw_files():
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", README)
    assert len(pictures) == 3
    assert all(picture.startswith(RAW) for picture in pictures)


def test_formulas_are_text():
    """PyPI renders no mathematics."""
    assert "$" not in README
