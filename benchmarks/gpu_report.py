"""The results of gpu.py as Markdown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.gpu_bench import Row

COUNTED = ("waits", "to_host", "to_device", "scalars")


def table(report: dict[str, Any]) -> str:
    """All sections that were measured, one after the other."""
    device, machine = report["device"], report["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    name = device.get("name", f"{machine['processor']} ({machine['cores']} cores)")
    switches = {"tf32_convolutions": "TF32 in convolutions", "tf32_matmul": "in matrix products"}
    settings = [f"{text} {_on(device[key])}" for key, text in switches.items()]
    settings.append(f"cudnn.benchmark {_on(device['cudnn_benchmark'])}")
    head = (
        f"Measured on {name}, Python {machine['python']}, {versions}; {', '.join(settings)}; "
        f"{_commits(report['sections'])}."
    )
    if report["tiny"]:
        head = f"**A rehearsal: figures of nothing.** {head}"
    parts = [head]
    for name, write in WRITERS.items():
        rows = report["sections"].get(name, {}).get("rows", [])
        measured = [row for row in rows if "note" not in row]
        parts += [write(measured)] if measured else []
        missing = [f"{_case(row)}: {row['note']}" for row in rows if "note" in row]
        parts += [f"Not measured ({name}): {'; '.join(missing)}."] if missing else []
    return "\n\n".join(parts)


def _commits(sections: dict[str, Any]) -> str:
    """Of which commit each section is, and how long it took."""
    by_commit: dict[str, list[str]] = {}
    for name, section in sections.items():
        by_commit.setdefault(section["commit"], []).append(f"{name} {section['seconds']:.0f} s")
    return "; ".join(f"commit {commit}: {', '.join(names)}" for commit, names in by_commit.items())


def _on(value: bool) -> str:
    return "on" if value else "off"


def _case(row: Row) -> str:
    return ", ".join(str(value) for key, value in row.items() if key != "note")


def _lines(columns: list[str], rows: list[list[str]]) -> str:
    body = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in body)


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}g}"


def _interval(row: Row, value: str = "ratio", interval: str = "interval") -> str:
    low, high = row[interval]
    return f"{row[value]:.3f} [{low:.3f}, {high:.3f}]"


def waits(rows: list[Row]) -> str:
    """Only what is not zero, and how much is."""
    rows = [row for row in rows if row["family"] != "none"]  # a control
    columns = [key for key in COUNTED if any(key in row for row in rows)]
    told = [row for row in rows if any(row.get(key) for key in ("waits", "to_host"))]
    head = f"{len(rows)} counts of {len({row['family'] for row in rows})} families"
    if "waits" in columns:
        head += f"; in {len(rows) - len(told)} nobody waits and nothing comes back from the device"
    shown = told if "waits" in columns else rows
    if not shown:
        return f"{head}."
    cells = [[row["family"], row["work"], str(row["times"]), *(str(row[key]) for key in columns)] for row in shown]
    names = {"waits": "waits", "to_host": "copies back", "to_device": "copies there", "scalars": "numbers looked at"}
    return f"{head}:\n\n" + _lines(["family", "what", "times", *(names[key] for key in columns)], cells)


def samplers(rows: list[Row]) -> str:
    columns = ["what", "network", "shape", "ours, ms a call", "diffusers, ms", "ours / diffusers", "network alone, ms"]
    columns += ["ours beyond it", "diffusers' beyond it", "difference of the images"]
    return _lines(
        columns,
        [
            [
                f"{row['what']}: {row['name']}",
                row["network"],
                str(tuple(row["shape"])),
                _number(row["ours_ms"]),
                _number(row["theirs_ms"]),
                _interval(row),
                *(_number(row.get(key)) for key in ("network_ms", "ours_overhead_ms", "theirs_overhead_ms")),
                _number(row.get("difference"), 2),
            ]
            for row in rows
        ],
    )


def learning(rows: list[Row]) -> str:
    parts = []
    for row in rows:
        curve = ", ".join(f"{loss:.4f} ({step})" for step, loss in row["loss"][:: max(1, len(row["loss"]) // 6)])
        parts.append(
            f"{row['model']}, on {row['data']}: {row['steps']} steps of {row['batch']} images in "
            f"{row['seconds']:.0f} s ({row['images_per_second']:.0f} images a second); {row['samples']} samples in "
            f"{row['sampling_seconds']:.2f} s. Loss (until step): {curve}.\n\n![Samples](images/{row['picture']})"
        )
    return "\n\n".join(parts)


def training(rows: list[Row]) -> str:
    columns = ["training step, SSD / DDPM", "precision", "batch", "time", "operations", "the paper's hours"]
    columns += ["DDPM, ms", "memory, GiB: DDPM", "SSD"]
    return _lines(
        columns,
        [
            [
                f"{row['size']} pixels, {row['levels']} levels, {row['mode']}",
                row["precision"],
                str(row["batch"]),
                _interval(row),
                _number(row["operations"]),
                _number(row["paper"]),
                _number(row["ddpm_ms"]),
                _number(row["ddpm_peak_gib"]),
                _number(row["ssd_peak_gib"]),
            ]
            for row in rows
        ],
    )


def sampling(rows: list[Row]) -> str:
    columns = ["generated images", "precision", "batch", "Flexi-UNet / Full UNet", "the paper's, on an A4000"]
    columns += ["SSD / DDPM", "DDPM, s for 1000 steps"]
    return _lines(
        columns,
        [
            [
                f"{row['size']} pixels, {row['levels']} levels",
                row["precision"],
                str(row["batch"]),
                _interval(row),
                _number(row["paper"]),
                _interval(row, "over_ddpm", "over_ddpm_interval"),
                _number(row["ddpm_s"]),
            ]
            for row in rows
        ],
    )


WRITERS: dict[str, Callable[[list[Row]], str]] = {
    "training": training,
    "compiled": training,
    "sampling": sampling,
    "samplers": samplers,
    "waits": waits,
    "learning": learning,
}
