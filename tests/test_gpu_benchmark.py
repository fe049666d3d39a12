"""benchmarks/gpu.py, rehearsed on a CPU: what it writes, and what becomes of it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from benchmarks import gpu
from benchmarks.gpu_bench import TINY, Bench, Cell, weighted
from benchmarks.gpu_report import table
from benchmarks.gpu_training import PAPER_SAMPLING, PAPER_TRAINING, Levels
from benchmarks.gpu_waits import counts
from benchmarks.runs import write_table
from benchmarks.timing import median_interval, turns

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {"processor", "cores", "python", "system", "versions", "commit", "command"}
DEVICE = {"type", "tf32_matmul", "tf32_convolutions", "cudnn_benchmark", "threads"}
TIMES = {"ours_ms", "theirs_ms", "ratio", "interval"}
CASE = {"size", "precision", "levels", "batch"}
ROWS = {
    "waits": {"family", "work", "times", "scalars"},
    "samplers": {"what", "network", "shape", "name", *TIMES},
    "learning": {
        "data", "model", "batch", "steps", "seconds", "images_per_second", "loss", "samples", "sampling_seconds",
        "picture",
    },
    "training": {
        *CASE, "mode", "ddpm_ms", "ratio", "interval", "operations", "paper", "ddpm_peak_gib", "ssd_peak_gib",
        "compile_s", "steps",
    },
    "sampling": {*CASE, "ddpm_s", "ratio", "interval", "over_ddpm", "over_ddpm_interval", "paper"},
}  # fmt: skip
ROWS["compiled"] = ROWS["training"]
WHOLE = {"calls", "network_ms", "ours_overhead_ms", "theirs_overhead_ms", "difference"}


@pytest.mark.long
def test_rehearsal(tmp_path):
    """All sections, as the command line runs them; in one test, as they take their time."""
    output = tmp_path / "gpu.json"
    command = [sys.executable, "benchmarks/gpu.py", "--device", "cpu", "--tiny", "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "s left] compiled: " in done.stdout
    assert (output.parent / "gpu_samples.png").read_bytes().startswith(b"\x89PNG")
    report = json.loads(output.read_text(encoding="utf-8"), parse_constant=pytest.fail)  # of NaN and infinities
    measures_everything(report)
    compares_like_with_like(report)
    is_shown(report, tmp_path / "page.md")


def measures_everything(report):
    assert set(report) == {"environment", "device", "seed", "tiny", "sections"}
    assert set(report["environment"]) == ENVIRONMENT
    assert set(report["device"]) == DEVICE
    assert list(report["sections"]) == list(gpu.SECTIONS)
    for name, section in report["sections"].items():
        assert set(section) == {"commit", "seconds", "rows"}
        for row in section["rows"]:
            assert set(row) - WHOLE == ROWS[name]
            assert WHOLE.isdisjoint(row) or (set(row) >= WHOLE and row["what"] == "sampler")
            if "ratio" in row:
                assert 0 < row["interval"][0] <= row["ratio"] <= row["interval"][1]


def compares_like_with_like(report):
    """Both make the same images of the same noise, and every step of training is weighted by its share."""
    samplers = [row for row in report["sections"]["samplers"]["rows"] if row["what"] == "sampler"]
    found = [(row["name"], row["difference"]) for row in samplers if row["name"] != "DDPM"]  # which draws noise
    assert len(found) == 4 * 3
    # Sums of float32 numbers of order one; Heun's slopes are of x/a, which is 150 times as large at first.
    assert all(difference < (1e-4 if name == "Heun" else 2e-6) for name, difference in found)
    for row in report["sections"]["training"]["rows"]:
        assert sum(step["share"] for step in row["steps"]) == pytest.approx(1)
        assert 0.5 < row["operations"] < 1
    (learnt,) = report["sections"]["learning"]["rows"]
    assert learnt["loss"][-1][0] == learnt["steps"]
    counted = {(row["family"], row["work"]): row["scalars"] for row in report["sections"]["waits"]["rows"]}
    assert counted["none", "a control"] == 1
    assert counted["BlurringDiffusion", "step"] == 0


def is_shown(report, page):
    page.write_text("Above.\n<!-- gpu: begin -->\nold\n<!-- gpu: end -->\nBelow.\n", encoding="utf-8")
    write_table(page, "gpu", table(report))
    text = page.read_text(encoding="utf-8")
    assert text.startswith("Above.\n<!-- gpu: begin -->\n**A rehearsal")
    assert text.endswith("<!-- gpu: end -->\nBelow.\n")
    assert "old" not in text
    assert "| sampler: UniPC | rehearsal | (1, 3, 16, 16) |" in text
    assert "| 16 pixels, 2 levels, compiled | bfloat16 | 2 |" in text
    widths = [line.count(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert len(set(widths)) <= 5  # a table's rows are as wide as its head


def test_what_is_not_measured_is_named(tmp_path, monkeypatch):
    """Out of memory or of time, or of order: the rest goes on, and what there is of it is kept."""

    def short(bench):
        yield Cell({"size": 1}, lambda: bench.fitting(2, memory))
        yield Cell({"size": 2}, lambda: (_ for _ in ()).throw(KeyError("weights")))
        yield Cell({"size": 3}, lambda: bench.fitting(8, lambda batch: memory(batch, needed=4)))
        time.sleep(0.02)
        bench.deadline = time.monotonic() - 1
        yield Cell({"size": 4}, lambda: [{"batch": 0}])

    def memory(batch, needed=0):
        if batch > needed:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return [{"batch": batch}]

    monkeypatch.setattr(gpu, "SECTIONS", {"short": (short, 1)})
    kept = []
    bench = Bench(torch.device("cpu"), TINY, tmp_path)
    failures = gpu.measure(bench, ["short"], 1e6, lambda name, section: kept.append([*section["rows"]]))
    assert [len(rows) for rows in kept] == [1, 2, 3, 4]
    assert kept[-1] == [
        {"size": 1, "note": "out of memory"},
        {"size": 2, "note": "KeyError: 'weights'"},
        {"size": 3, "batch": 4},
        {"size": 4, "note": "not reached in the time there was"},
    ]
    assert failures == ["short, {'size': 2}: KeyError: 'weights'"]


def test_numbers_that_are_looked_at_are_counted(tmp_path):
    bench = Bench(torch.device("cpu"), TINY, tmp_path)
    x = torch.ones(3)
    assert counts(bench, lambda: (x.sum().item(), bool(x[0] > 0), float(x[1]))) == {"scalars": 3}
    assert counts(bench, lambda: x * 2) == {"scalars": 0}


@pytest.mark.parametrize("size", [64, 256])
def test_shares_are_those_of_the_papers_rule(size):
    """The mean of any function of the resolutions over drawn batches is that of the shares."""
    levels = tuple(count for side, count in PAPER_TRAINING if side == size)
    found = Levels(size, levels)
    generator = torch.Generator().manual_seed(0)
    for count in levels:
        process = gpu_process(size, count)
        areas = {pair: pair[0][1] / size for pair in found.shares[count]}
        drawn = [float(process.sample_timesteps(1, generator)) for _ in range(1500)]
        mean = sum(process.shape(t)[1] / size for t in drawn) / len(drawn)
        assert sum(found.shares[count].values()) == pytest.approx(1)
        assert sum(share * areas[pair] for pair, share in found.shares[count].items()) == pytest.approx(mean, abs=0.03)
    for pair, t in found.times.items():
        assert pair == (found.process.shape(t), found.process.shape(t - 1))
    assert {(side, count) for side, count in PAPER_SAMPLING if side == size} == {(size, 2), (size, 4)}


def gpu_process(size, levels):
    import lineardiffusion as ld

    return ld.ScaleSpaceDiffusion((3, size, size), levels)


def test_weighted_times():
    times = {"a": [1.0, 2.0], "b": [10.0, 20.0]}
    assert weighted(times, {"a": 0.75, "b": 0.25}, lambda name: name) == [3.25, 6.5]


def test_turns_begin_with_another_each_round_and_wait():
    order, waited = [], []
    functions = {name: (lambda name=name: order.append(name)) for name in "abc"}
    times = turns(functions, rounds=3, chunk=0.0, finish=lambda: waited.append(len(order)))
    assert order[-9:] == list("abcbcacab")
    assert [len(values) for values in times.values()] == [3, 3, 3]
    assert waited[-2:] == [len(order) - 1, len(order)]  # before the last turn, and after it


def test_intervals_of_medians_hold_what_they_promise():
    """1 − 2 P(at most k of n values on one side), for the largest k with at least 95 %: of nine values two are out."""
    assert median_interval(list(range(9))) == (4, 1, 7)
    assert median_interval([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)
    assert median_interval(list(range(6)))[1:] == (0, 5)
    generator = torch.Generator().manual_seed(0)
    held = 0
    for values in torch.rand(2000, 9, generator=generator).tolist():
        _, low, high = median_interval(values)
        held += low <= 0.5 <= high
    assert 0.95 < held / 2000 < 0.975
