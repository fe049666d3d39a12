"""Docstrings are written for `help()`; for the site, indices become subscripts and references a list."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import griffe

_SECTION = re.compile(r"[A-Z]\w+:$")
_CODE = re.compile(r"(`[^`]*`)")
_INDEX, _POWER = re.compile(r"_\{([^{}]*)\}"), re.compile(r"\^\{([^{}]*)\}")
_STAR = re.compile(r"(?<=\()\*(?=\w)|(?<=, )\*(?=\w)")  # (*batch, *shape)
_REFERENCE = re.compile(r"^(\s+)\| (.*)$")


class Docstrings(griffe.Extension):
    """What docstrings go through before they are parsed; a method without one has that of the method it overrides."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = mended(obj.docstring.value)

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        for kind in classes(pkg):
            for name, member in kind.members.items():
                if not member.is_alias and not member.is_class and member.docstring is None:
                    above = (base.members[name] for base in kind.mro() if name in base.members)
                    member.docstring = next((found.docstring for found in above if found.docstring), None)


def classes(module: griffe.Module) -> Iterator[griffe.Class]:
    """All classes that are defined in a module or below."""
    for member in module.members.values():
        if isinstance(member, griffe.Module):
            yield from classes(member)
        elif isinstance(member, griffe.Class):
            yield member


def mended(text: str) -> str:
    """Formulas of their own lines and examples stay as they are."""
    lines, section, example = [], False, False
    for line in text.replace("\nExample:\n", "\nExamples:\n").splitlines():  # which griffe would take for a note
        section = bool(_SECTION.match(line)) or (section and (not line or line.startswith(" ")))
        example = line.lstrip().startswith(">>>") or (example and bool(line.strip()))
        displayed = not section and line.startswith("    ")
        lines.append(line if displayed or example else written(_REFERENCE.sub(r"\1- \2", line)))
    return "\n".join(lines)


def written(line: str) -> str:
    """Subscripts, superscripts and stars, but not within code."""
    parts = _CODE.split(line)
    for marks, html in ((_POWER, r"<sup>\1</sup>"), (_INDEX, r"<sub>\1</sub>"), (_STAR, r"\\*")):
        parts[::2] = [marks.sub(html, part) for part in parts[::2]]
    return "".join(parts)
