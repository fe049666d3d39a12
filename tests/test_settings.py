"""Settings of a run that are wrong, do not fit each other, or come from the environment."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from examples import train
from examples.experiment import devices
from examples.experiment.config import Config
from examples.experiment.data import loader
from examples.experiment.program import parse

from test_train import make


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """accelerate keeps the settings of a process's first Accelerator."""
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"process": {"prediction": "noise"}}, "process.prediction: expected clean or data with process.family = ssd"),
        ({"process": {"changes": [5]}}, r"process.changes: expected 2 times for process.levels = 3, got \[5\]"),
        ({"process": {"changes": [700, 300]}}, "process.changes: expected ascending times"),
        ({"process": {"changes": [700, 1001]}}, "process.changes: .* from 1 to process.num_steps = 1000"),
        ({"process": {"family": "ddpm", "changes": [5]}}, "process.changes: expected none with process.family = ddpm"),
        ({"run": {"sample_steps": 0}}, "run.sample_steps: expected at least 1, got 0"),
        (
            {"optimization": {"times": "log-normal"}},
            "optimization.times: expected uniform with process.family = ssd and process.levels = 3, got log-normal",
        ),
        (
            {"process": {"family": "flow"}, "optimization": {"times": "logit-normal", "groups": 2}},
            "optimization.groups: expected 1 with optimization.times = logit-normal, got 2",
        ),
        (
            {"process": {"family": "ddpm"}, "optimization": {"shape_change_fraction": 0.5}},
            "optimization.shape_change_fraction: expected none with process.family = ddpm",
        ),
        (
            {"optimization": {"shape_change_fraction": 0.5, "groups": 2}},
            "optimization.groups: expected 1 with optimization.shape_change_fraction = 0.5, got 2",
        ),
        (
            {"optimization": {"shape_change_fraction": 0.5, "shares": [1.0, 1.0, 1.0]}},
            "optimization.shares: expected None with optimization.shape_change_fraction",
        ),
        ({"optimization": {"shares": [1.0, -1.0, 1.0]}}, "optimization.shares: expected numbers from 0 on"),
        (
            {"process": {"levels": 1}, "optimization": {"coarse_from": [5]}},
            "optimization.coarse_from: expected none with process.family = ssd and process.levels = 1",
        ),
        ({"optimization": {"learning_rate": float("inf")}}, "optimization.learning_rate: expected a positive number"),
        ({"optimization": {"weight_decay": float("nan")}}, "optimization.weight_decay: expected a number from 0 on"),
        ({"run": {"max_hours": -1.0}}, "run.max_hours: expected a number from 0 on, got -1.0"),
        ({"run": {"timeout_minutes": 0.0}}, "run.timeout_minutes: expected a positive number"),
        ({"run": {"timeout_minutes": 1e300}}, "run.timeout_minutes: expected at most 1e6, two years, got 1e"),
        (
            {"optimization": {"seed": 2**64}},
            "optimization.seed: expected a number of 64 bits",
        ),
        ({"data": {"size": (8, 0)}}, r"data.size: expected positive numbers of pixels, got \(8, 0\)"),
        ({"run": {"resume_with": ["process.levels"]}}, "run.resume_with: expected some of optimization.batch_size"),
    ],
)
def test_settings_that_do_not_fit_each_other(tmp_path, sections, message):
    with pytest.raises(ValueError, match=message):
        make(tmp_path, **sections)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"process": {"changes": [300, 300]}},
            r"process.changes = \[300, 300\] leads from 2×2 to 8×8 at t = 300, which network.kind = flexi",
        ),
        (
            {"process": {"levels": 4, "num_steps": 3}, "data": {"size": 32}},
            "process.num_steps = 3 leads from .*network",
        ),
        ({"process": {"levels": 4}}, "process.levels = 4 .* network.kind = flexi with network.settings = tiny"),
        (
            {"process": {"prediction": "data"}},
            r"leads from 2×2 to 8×8 at t = 890, which network.kind = flexi .* or process.prediction = data",
        ),
        (
            {"process": {"family": "flow", "prediction": "noise"}},
            "process.prediction: expected 'velocity', 'flow', 'data' or 'clean' for a process that ends without signal",
        ),
        (
            {"process": {"num_steps": 20}, "run": {"sample_every": 5, "sample_steps": 21}},
            "run.sample_steps: expected at most 20, the steps of the process, got 21",
        ),
        (
            {"run": {"sample_every": 5, "sample_steps": 2}},
            "run.sample_steps: expected at least 3, .* those at which the shape changes, got 2",
        ),
        ({"process": {"levels": 9}}, "process.levels: expected .*: at most 4 for shape"),
        ({"process": {"mode": "haar"}, "data": {"size": 9}}, "process.mode: expected even sizes"),
        ({"optimization": {"shares": [0.5, 0.5]}}, "optimization.shares: expected one for each of"),
        ({"optimization": {"coarse_from": [900, 950]}}, "optimization.coarse_from: expected times up to"),
        ({"network": {"overrides": {"widths": 3}}}, "network.overrides: .*widths"),
    ],
)
def test_what_cannot_be_stepped_is_refused_before_the_images_are_opened(tmp_path, monkeypatch, sections, message):
    monkeypatch.setattr(train, "open_images", lambda *_: pytest.fail("opened"))
    sections = {**sections, "data": {"size": 8, **sections.get("data", {})}}
    with pytest.raises(ValueError, match=message):
        train.Trainer(make(tmp_path, **sections))


@pytest.mark.parametrize("process", [{"changes": [300, 300]}, {"prediction": "data"}])
def test_a_full_network_takes_any_levels(tmp_path, process):
    train.Trainer(make(tmp_path, process=process, network={"kind": "full"}))


def test_grids_of_samples_have_no_more_steps_than_there_are(tmp_path):
    assert make(tmp_path).sample_steps == 50
    short = make(tmp_path, process={"num_steps": 20}, run={"sample_every": 5})
    assert short.sample_steps == 20
    assert train.Trainer(short).samples(count=1).shape == (1, 1, 8, 8)


def test_aliases_that_stand_for_more_than_memory_holds(tmp_path, capsys):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    (tmp_path / "bomb.yaml").write_text("network:\n  overrides:\n" + "".join(f"    {line}\n" for line in lines))
    started = time.monotonic()
    with pytest.raises(SystemExit):
        parse(Config, None, ["--config", str(tmp_path / "bomb.yaml")])
    assert "aliases (*name) are not read" in capsys.readouterr().err
    assert time.monotonic() - started < 10
    assert parse(Config, None, ["--data.source", "*.png"]).data.source == "*.png"  # no alias, a name


def test_files_that_are_no_settings_end_it_with_a_message(tmp_path):
    path = tmp_path / "run.yaml"
    for content, message in (
        (b"\xff\xfe", "config: expected a file of UTF-8 text"),
        (b"run: {steps: %s}" % (b"1" * 5000), "digits"),
    ):
        path.write_bytes(content)
        with pytest.raises(SystemExit, match=message):
            parse(Config, None, ["--config", str(path)])


# ---------------------------------------------------------------------- environment


def test_the_environment_does_not_change_what_is_learnt(tmp_path, monkeypatch):
    def weights(folder) -> torch.Tensor:
        AcceleratorState._reset_state(reset_partial_state=True)
        trainer = train.Trainer(make(folder, 1))
        trainer.backward(next(loader(trainer.images, 8, trainer.share(), 0, 0)))
        return torch.cat([p.grad.flatten() for p in trainer.network.parameters() if p.grad is not None])

    expected = weights(tmp_path)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    with pytest.warns(UserWarning, match="is not followed") as warned:
        assert torch.equal(weights(tmp_path), expected)
    told = "\n".join(str(warning.message) for warning in warned)
    assert "ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4 is not followed: run.accumulate = 1 is what counts" in told
    assert "ACCELERATE_MIXED_PRECISION=bf16 is not followed: optimization.precision = no" in told
    assert "ACCELERATE_DYNAMO_BACKEND=inductor is not followed: run.compile = False" in told


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("ACCELERATE_USE_DEEPSPEED", "true", "ACCELERATE_USE_DEEPSPEED: expected plain processes or FSDP 2, got true"),
        ("ACCELERATE_USE_MEGATRON_LM", "1", "ACCELERATE_USE_MEGATRON_LM: expected plain processes"),
        ("ACCELERATE_USE_FSDP", "true", "FSDP_VERSION: expected 2 with ACCELERATE_USE_FSDP"),
    ],
)
def test_other_engines_are_refused(tmp_path, monkeypatch, variable, value, message):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=message):
        train.Trainer(make(tmp_path))


def test_sampling_takes_processes_and_devices_alone(monkeypatch):
    for name, value in (("MIXED_PRECISION", "fp8"), ("GRADIENT_ACCUMULATION_STEPS", "auto"), ("USE_CPU", "true")):
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    processes = devices.make_processes()
    assert (processes.num_processes, processes.device.type) == (1, "cpu")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ValueError, match="ACCELERATE_USE_DEEPSPEED: expected plain processes"):
        devices.make_processes()


def test_an_unknown_tracker_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nonsense"):
        train.Trainer(make(tmp_path, run={"tracker": "nonsense"}))


# ---------------------------------------------------------------------- processes


def test_processes_with_other_images_are_named(monkeypatch):
    everywhere = [{"images": "aa", "settings": {}}, {"images": "aa", "settings": {}}, {"images": "bb", "settings": {}}]
    monkeypatch.setattr(devices, "gather_object", lambda own: everywhere)
    with pytest.raises(ValueError, match="processes 0 and 2 have not the same images: aa and bb"):
        devices.check_alike(None, images="aa", settings={})
    monkeypatch.setattr(devices, "gather_object", lambda own: everywhere[:2])
    devices.check_alike(None, images="aa", settings={})


def test_sizes_are_known_from_arrays_too(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((4, 8, 8), dtype=np.uint8))
    config = make(tmp_path, data={"source": str(tmp_path / "images.npy")}, process={"changes": [300, 300]})
    with pytest.raises(ValueError, match="leads from 2×2 to 8×8"):
        train.Trainer(config)
