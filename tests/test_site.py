"""The site that `make docs` has built: every public name has an entry, nothing is fetched from elsewhere."""

from __future__ import annotations

import inspect
import os
import pkgutil
import re
import zlib
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import lineardiffusion as ld

ROOT = Path(__file__).resolve().parents[1]
SHOWN = {"bases", "grids", "losses", "times"}  # modules that are written ld.name; packages all are


@pytest.fixture(scope="module")
def site() -> Path:
    folder = os.environ.get("LINEARDIFFUSION_SITE")
    if not folder:
        pytest.skip("the site is tested by make docs, which builds it")
    return ROOT / folder


@pytest.fixture(scope="module")
def inventory(site) -> set[str]:
    """All names of the inventory that other sites link by."""
    lines = (site / "objects.inv").read_bytes().split(b"\n", 4)
    return {line.split(" ")[0] for line in zlib.decompress(lines[4]).decode().splitlines()}


def modules() -> list[ModuleType]:
    """The public packages, and the modules that `ld` shows."""
    shown = [module for name, module in vars(ld).items() if inspect.ismodule(module) and name in SHOWN]
    packages = [
        import_module(f"{ld.__name__}.{found.name}") for found in pkgutil.iter_modules(ld.__path__) if found.ispkg
    ]
    return list({module.__name__: module for module in [ld, *shown, *packages]}.values())


def public(module: ModuleType) -> dict[str, object]:
    """The classes and functions of a module: those it exports, or defines."""
    within = module.__name__ + "." if hasattr(module, "__path__") else module.__name__
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and (inspect.isclass(value) or inspect.isfunction(value))
        if value.__module__.startswith(within)
    }


def ours(value: object) -> bool:
    return value.__module__.startswith(f"{ld.__name__}.")


def path_of(value: object) -> str:
    return f"{value.__module__}.{value.__qualname__}"


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.__name__)
def test_every_public_name_has_an_entry(inventory, module):
    exported = getattr(module, "__all__", public(module))
    missing = [
        name for name in exported if not {f"{module.__name__}.{name}", path_of(getattr(module, name))} & inventory
    ]
    assert missing == []


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.__name__)
def test_every_public_member_has_an_entry_where_it_is_defined(inventory, module):
    """Inherited ones too, at the class of ours that defines them; those of PyTorch and Python are theirs."""
    missing = []
    for kind in filter(inspect.isclass, public(module).values()):
        for name, _ in inspect.getmembers(kind, lambda m: inspect.isfunction(m) or isinstance(m, property)):
            having = [above for above in kind.__mro__ if name in vars(above) and ours(above)]
            explained = any(vars(above)[name].__doc__ for above in having)
            if explained and not name.startswith("_") and not having[0].__name__.startswith("_"):
                missing += [path for path in [f"{path_of(having[0])}.{name}"] if path not in inventory]
    assert sorted(set(missing)) == []


class _Resources(HTMLParser):
    """What a page loads, and its text outside of code and equations."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.text: list[str] = []
        self.code = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag in ("script", "img", "iframe") or (tag == "link" and named.get("rel") in ("stylesheet", "icon")):
            self.loaded.append(named.get("src") or named.get("href") or "")
        self.code += tag in ("code", "pre", "script", "style") or "arithmatex" in (named.get("class") or "")

    def handle_endtag(self, tag: str) -> None:
        self.code -= tag in ("code", "pre", "script", "style")

    def handle_data(self, data: str) -> None:
        if not self.code:
            self.text.append(data)


def test_nothing_is_fetched_from_elsewhere_and_no_markup_is_left(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        parsed = _Resources()
        parsed.feed(
            re.sub(r'<(span|div) class="arithmatex">.*?</\1>', "", page.read_text(encoding="utf-8"), flags=re.S)
        )
        assert [url for url in parsed.loaded if re.match(r"(https?:)?//", url)] == [], page
        assert re.findall(r"\$[^$\n]+\$|[_^]\{|^\s*>>> |:::|```", "".join(parsed.text), re.M) == [], page
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?https?:|@import", style.read_text(encoding="utf-8")), style


def test_examples_are_code(site):
    """Of all docstrings with an example, none is a quotation."""
    pages = [page.read_text(encoding="utf-8") for page in (site / "reference").rglob("*.html")]
    assert sum(page.count('<p><span class="doc-section-title">Examples:</span></p>') for page in pages) > 100
    assert not any(re.search(r"<summary>Examples?</summary>", page) for page in pages)
