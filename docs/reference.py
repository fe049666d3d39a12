"""The reference, from the package itself: mkdocs calls this file, which adds a page for each part of the library.

Every public name has an entry, at the shortest path by which it is imported. A package, or a module of which `ld` has a
name, that is not among `PAGES` has a page of its own. Files of families are shown whole: each explains what its paper
does.
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
        "Families",
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
        content = "\n\n".join([f"# {title}", *map(entry, paths)]) + "\n"
        files.append(File.generated(config, f"reference/{page}.md", content=content))
    return files


def entry(path: str) -> str:
    """What mkdocstrings makes an entry of. Families do not repeat what all of them inherit."""
    options: dict[str, object] = {"heading": shown(path), "heading_level": 2}
    if path in family_files():
        options["inherited_members"] = "false"
    return f"::: {path}\n    options:\n" + "\n".join(f"      {name}: {value}" for name, value in options.items())


def pages() -> dict[str, tuple[str, list[str]]]:
    """The title of each page, and the paths of its entries."""
    listed = {page: (title, [*names(modules), *map(full, extra)]) for page, (title, modules, extra) in PAGES.items()}
    title, parts = listed["families"]
    listed["families"] = (title, [*family_files(), *parts])
    known = {module.partition(".")[0] for _, modules, _ in PAGES.values() for module in modules}
    exported = {
        value.__module__.split(".")[1]
        for value in vars(ld).values()
        if inspect.isclass(value) or inspect.isfunction(value)
    }
    for module in pkgutil.iter_modules(ld.__path__):
        if module.name not in known and (module.ispkg or module.name in exported):
            listed[module.name] = (module.name.capitalize(), list(names(with_modules(module.name))))
    return listed


def names(modules: tuple[str, ...]) -> Iterator[str]:
    """The shortest paths of all public classes and functions of modules, in their order."""
    seen = set()
    for module in modules:
        for path in public(import_module(full(module)), module):
            if path not in seen and not is_family(path):
                seen.add(path)
                yield path


def public(module: ModuleType, path: str) -> Iterator[str]:
    """Paths of the public classes and functions that a package exports, or a module defines."""
    within = module.__name__ if hasattr(module, "__path__") else None
    for name, value in vars(module).items():
        if name.startswith("_") or not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        if value.__module__ == module.__name__ or (within and value.__module__.startswith(within + ".")):
            yield full(name if getattr(ld, name, None) is value else shortest(path, name))


def shortest(path: str, name: str) -> str:
    """`bases.Cosine` for `operators.bases.Cosine`, as `ld` has the module."""
    last = path.rpartition(".")[2]
    return f"{last if getattr(ld, last, None) is import_module(full(path)) else path}.{name}"


def with_modules(package: str) -> tuple[str, ...]:
    """A package, and those of its modules from which it exports nothing; or a module."""
    if not hasattr(import_module(full(package)), "__path__"):
        return (package,)
    exported = {
        value.__module__ for value in vars(import_module(full(package))).values() if hasattr(value, "__module__")
    }
    inside = pkgutil.iter_modules(import_module(full(package)).__path__, f"{package}.")
    return (package, *(m.name for m in inside if full(m.name) not in exported and "._" not in m.name))


def family_files() -> list[str]:
    """The modules that hold a system of the literature, in the order of their names."""
    kinds = (kind for kind in vars(ld.families).values() if inspect.isclass(kind) and issubclass(kind, Family))
    return list(dict.fromkeys(kind.__module__ for kind in kinds if kind is not Family))


def is_family(path: str) -> bool:
    """Whether a file of a family has it."""
    name = path.rpartition(".")[2]
    value = getattr(ld, name, None) or getattr(ld.families, name, None)
    return getattr(value, "__module__", None) in family_files()


def full(path: str) -> str:
    return f"{ld.__name__}.{path}" if path else ld.__name__


def shown(path: str) -> str:
    """As it is called: ld.DDIMSampler."""
    return path.replace(ld.__name__, "ld", 1)
