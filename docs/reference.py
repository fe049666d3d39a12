"""The reference, from the package itself: mkdocs calls this file, which adds a page for each part of the library.

Every public name has an entry, at the shortest path by which it is imported. A package that `PAGES` does not name has a
page of its own; systems of the literature are on the page of families.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import lineardiffusion as ld
from lineardiffusion.families import Family

# page: (title, the modules whose names are on it, names beside these: what functions take and return)
PAGES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "operators": ("Operators", ("operators",), ()),
    "bases": ("Bases", ("operators.bases", "operators.svd"), ()),
    "distributions": (
        "Distributions",
        ("covariance", "gaussian", "posterior", "lanczos", "convergence"),
        ("kernels.MarkovKernel", "shared_noise.SharedNoiseKernel"),
    ),
    "processes": ("Processes and paths", ("processes", "paths", "config", "information"), ()),
    "families": (
        "Families: their parts",
        ("families.base", "families.jumps", "families.stages", "families.multiresolution", "families.stacks"),
        (),
    ),
    "schedules": (
        "Schedules and grids",
        ("schedules", "schedules.grids"),
        ("schedules.NoiseSchedule", "schedules.ResolutionSchedule", "schedules.grids.Steps"),
    ),
    "learning": (
        "Denoisers and losses",
        ("denoiser", "guidance", "losses", "times", "alike"),
        (
            *("losses.Weighting", "time_inputs.TimeInput", "predictions.Prediction", "predictions.ProcessPrediction"),
            *(f"predictions.{name}" for name in ("Clean", "Data", "Noise", "Velocity", "Flow", "ColouredNoise")),
            "EDMPrediction",
        ),
    ),
    "samplers": ("Samplers", ("samplers", "calibration", "residual"), ("samplers.markov.MarkovSampler",)),
    "laboratory": ("Laboratory", ("lab",), ()),
    "training": ("Training", ("training",), ()),
    "flexi_unet": ("Flexi-UNet", ("flexi_unet",), ("flexi_unet.SETTINGS",)),
    "testing": ("Testing", ("testing", "testing.strategies"), ()),
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The pages are listed below the first one of the section."""
    section = next(entry["Reference"] for entry in config.nav if "Reference" in entry)
    section += [{title: f"reference/{page}.md"} for page, (title, _) in pages().items()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for page, (title, paths) in pages().items():
        entries = [f"::: {path}\n    options:\n      heading: {shown(path)}\n      heading_level: 2" for path in paths]
        content = "\n\n".join([f"# {title}", *entries]) + "\n"
        files.append(File.generated(config, f"reference/{page}.md", content=content))
    return files


def pages() -> dict[str, tuple[str, list[str]]]:
    """The title of each page, and the paths of its entries.

    Raises:
        ValueError: a name of `ld` that is on no page.
    """
    listed = {page: (title, [*names(modules), *map(full, extra)]) for page, (title, modules, extra) in PAGES.items()}
    known = {module.partition(".")[0] for _, modules, _ in PAGES.values() for module in modules}
    for package in pkgutil.iter_modules(ld.__path__):
        if package.ispkg and package.name not in known:
            listed[package.name] = (package.name.capitalize(), list(names(with_modules(package.name))))
    covered = {path for _, paths in listed.values() for path in paths}
    missing = [path for _, path in public(ld, "") if path not in covered and not is_family(path)]
    if missing:
        raise ValueError(f"docs/reference.py: expected the modules of {missing} in PAGES, which has none of them")
    return listed


def names(modules: tuple[str, ...]) -> Iterator[str]:
    """The shortest paths of all public classes and functions of modules, in their order."""
    seen = set()
    for module in modules:
        for name, path in public(import_module(full(module)), module):
            if path not in seen and not is_family(path):
                seen.add(path)
                yield path


def public(module: ModuleType, path: str) -> Iterator[tuple[str, str]]:
    """Names and paths of the public classes and functions that a package exports, or a module defines."""
    within = module.__name__ if hasattr(module, "__path__") else None
    for name, value in vars(module).items():
        if name.startswith("_") or not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        if value.__module__ == module.__name__ or (within and value.__module__.startswith(within + ".")):
            yield name, full(name if getattr(ld, name, None) is value else shortest(path, name))


def shortest(path: str, name: str) -> str:
    """`bases.Cosine` for `operators.bases.Cosine`, as `ld` has the module."""
    last = path.rpartition(".")[2]
    return f"{last if getattr(ld, last, None) is import_module(full(path)) else path}.{name}"


def with_modules(package: str) -> tuple[str, ...]:
    """A package, and those of its modules from which it exports nothing."""
    exported = {value.__module__ for value in vars(import_module(full(package))).values() if hasattr(value, "__module__")}
    inside = pkgutil.iter_modules(import_module(full(package)).__path__, f"{package}.")
    return (package, *(m.name for m in inside if full(m.name) not in exported and "._" not in m.name))


def is_family(path: str) -> bool:
    """Whether the page of families has it: a system of the literature, or what its file holds beside."""
    value = getattr(ld, path.rpartition(".")[2], None) or getattr(ld.families, path.rpartition(".")[2], None)
    if value is None or not getattr(value, "__module__", "").startswith("lineardiffusion.families."):
        return False
    kinds = vars(import_module(value.__module__)).values()
    own = (k for k in kinds if inspect.isclass(k) and k.__module__ == value.__module__)
    return any(issubclass(kind, Family) and kind is not Family for kind in own)


def full(path: str) -> str:
    return f"{ld.__name__}.{path}" if path else ld.__name__


def shown(path: str) -> str:
    """As it is called: ld.DDIMSampler."""
    return path.replace(ld.__name__, "ld", 1)
