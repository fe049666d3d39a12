"""The reference, from the package itself: mkdocs calls this file, which adds a page for each part of the library.

Every public name has an entry, at the shortest path by which it is imported. A package, or a module of which `ld` has a
name, that is not among `PAGES` has a page of its own. Files of families are shown whole: each explains what its paper
does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = "lineardiffusion"

# page: (title, the modules whose names are on it, names beside these: what functions take and return)
PAGES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "operators": ("Operators", ("operators",), ()),
    "bases": ("Bases", ("operators.bases",), ()),
    "distributions": (
        "Distributions",
        ("covariance", "gaussian", "posterior", "lanczos", "convergence"),
        ("kernels.MarkovKernel", "shared_noise.SharedNoiseKernel"),
    ),
    "processes": ("Processes and paths", ("processes", "paths", "config", "information"), ("config.Configured",)),
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
        ("denoiser", "guidance", "losses", "times"),
        (
            *("losses.Weighting", "time_inputs.TimeInput", "predictions.Prediction", "predictions.ProcessPrediction"),
            *(f"predictions.{name}" for name in ("Clean", "Data", "Noise", "Velocity", "Flow", "ColouredNoise")),
            *("EDMPrediction", "alike.draw_alike", "alike.group_by_shape"),
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
    for page, (title, entries) in pages().items():
        content = "\n\n".join([f"# {title}", *(entry(name, path) for name, path in entries.items())]) + "\n"
        files.append(File.generated(config, f"reference/{page}.md", content=content))
    return files


def entry(name: str, path: str) -> str:
    """What mkdocstrings makes an entry of. Families do not repeat what all of them inherit."""
    options: dict[str, object] = {"heading": f"ld.{name}", "heading_level": 2}
    if path in family_files():
        options["inherited_members"] = "false"
    return f"::: {path}\n    options:\n" + "\n".join(f"      {key}: {value}" for key, value in options.items())


@cache
def pages() -> dict[str, tuple[str, dict[str, str]]]:
    """The title of each page, and its entries: names as they are called, and where they are found."""
    listed = {
        page: (title, {**names(modules), **{name: f"{ROOT}.{name}" for name in extra}})
        for page, (title, modules, extra) in PAGES.items()
    }
    title, parts = listed["families"]
    listed["families"] = (title, {**{path.partition(".")[2]: path for path in family_files()}, **parts})
    known = {name.partition(".")[0] for _, modules, extra in PAGES.values() for name in (*modules, *extra)}
    exported = {target.module.path.split(".")[1] for _, target in public(package())}
    for name, module in sorted(package().modules.items()):
        if name not in known and not name.startswith("_") and (module.is_init_module or name in exported):
            listed[name] = (name.capitalize(), names([name, *inside(module, name)]))
    return listed


@cache
def package() -> griffe.Module:
    """What the files say; nothing is imported, so that libraries which are optional need not be there."""
    return griffe.load(ROOT, search_paths=["src"], resolve_aliases=True)


def names(modules: Iterable[str]) -> dict[str, str]:
    """All public classes and functions of modules, by the shortest names that they have. Of a module that `ld` does not
    show those that `ld` exports."""
    top = {target.path: name for name, target in public(package())}
    shown = {path: name for name, path in package().imports.items()}
    found: dict[str, str] = {}
    for path in modules:
        module = package()[path]
        for name, target in public(module):
            if target.path in top:
                name = top[target.path]
            elif module.is_init_module or module.path in shown or "." in path:
                name = f"{shown.get(module.path, path)}.{name}"
            else:
                continue
            if target.module.path not in family_files() and target.path not in found.values():
                found[name] = target.path
    # At the path by which they are imported, but for functions whose module has the same name.
    return {name: f"{ROOT}.{name}" if called(name) == path else path for name, path in found.items()}


def public(module: griffe.Module) -> Iterator[tuple[str, griffe.Object]]:
    """Names of the public classes and functions that a package exports, or a module defines, and what they are."""
    for name, member in module.members.items():
        if name.startswith("_"):
            continue
        path = module.imports.get(name, member.path)
        if not path.startswith(f"{ROOT}."):
            continue
        target = package()[path.removeprefix(f"{ROOT}.")]
        target = target.final_target if isinstance(target, griffe.Alias) else target
        own = target.module.path
        ours = own == module.path or (module.is_init_module and own.startswith(f"{module.path}."))
        if ours and (target.is_class or target.is_function):
            yield name, target


def called(name: str) -> str | None:
    """The path of what the package has by that name, if anything."""
    try:
        return str(package()[name].canonical_path)
    except KeyError:
        return None


def inside(module: griffe.Module, path: str) -> list[str]:
    """The public modules of a package that exports nothing itself."""
    parts = [] if any(public(module)) else module.modules
    return [f"{path}.{name}" for name in parts if not name.startswith("_")]


@cache
def family_files() -> list[str]:
    """The modules that hold a system of the literature, in the order of their names."""
    kinds = [kind for _, kind in public(package()["families"]) if kind.is_class]
    base = f"{ROOT}.families.base.Family"
    return list(
        dict.fromkeys(kind.module.path for kind in kinds if base in [above.canonical_path for above in kind.mro()])
    )
