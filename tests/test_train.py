"""train.py, sample.py and evaluate.py: from images to numbers, on one process and on two, and what goes wrong."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from examples import calibrate, evaluate, flops, laboratory, sample, train
from examples.experiment.building import build_denoiser, build_network, build_process
from examples.experiment.config import (
    Config,
    DataConfig,
    NetworkConfig,
    OptimizationConfig,
    ProcessConfig,
    RunConfig,
)
from examples.experiment.data import loader
from examples.experiment.pictures import read_png
from examples.experiment.program import parse
from examples.experiment.runs import find_checkpoint, load_denoiser

import lineardiffusion as ld
import restarts
from lineardiffusion.training import CheckpointError, Checkpoints, keyed_generator, read_checkpoint

ROOT = Path(__file__).resolve().parents[1]


def make(folder: Path, steps: int = 4, **sections: dict[str, object]) -> Config:
    """A run of a few steps on scikit-learn's digits; sections are replaced field by field."""
    plain = Config(
        DataConfig(channels=1),
        ProcessConfig(),
        NetworkConfig(settings="tiny"),
        OptimizationConfig(batch_size=8, warmup=2),
        RunConfig(folder=folder, steps=steps, save_every=2, log_every=1, sample_every=0, progress=False),
    )
    return Config(**{
        field.name: dataclasses.replace(getattr(plain, field.name), **sections.get(field.name, {}))
        for field in dataclasses.fields(Config)
    })  # fmt: skip


def losses(folder: Path) -> list[float]:
    return [loss for _, loss in restarts.losses(folder)]


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """accelerate keeps the settings of a process's first Accelerator."""
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Path:
    """A run that knows classes."""
    folder = tmp_path_factory.mktemp("labelled")
    learning = {"batch_size": 32, "learning_rate": 3e-3, "warmup": 1}
    return train.train(
        make(folder, 40, data={"labels": True}, optimization=learning, run={"sample_every": 20, "sample_steps": 3})
    )


# ---------------------------------------------------------------------- configuration


def test_the_command_line_overrides_the_file(tmp_path):
    (tmp_path / "run.yaml").write_text("process: {levels: 2, family: ssd}\ndata: {size: [12, 8]}\n")
    config = parse(Config, None, ["--config", str(tmp_path / "run.yaml"), "--process.levels", "4"])
    assert (config.process.levels, config.data.size) == (4, (12, 8))
    config.save(tmp_path / "resolved.yaml")
    assert parse(Config, None, ["--config", str(tmp_path / "resolved.yaml")]) == config
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--process.levels", "0"], "process.levels: expected at least 1, got 0"),
        (["--process.family", "dpm"], "ddpm"),
        (["--optimization.learning_rate", "-1"], "learning_rate: expected a positive number"),
        (["--nonsense", "1"], "nonsense"),
    ],
)
def test_a_wrong_value_is_named(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(Config, None, arguments)
    assert message in str(caught.value) + capsys.readouterr().err


@pytest.mark.parametrize("path", sorted((ROOT / "examples" / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_builds(path):
    config = parse(Config, None, ["--config", str(path)])
    shape = (config.data.channels, *((config.data.size or 8,) * 2))
    process = build_process(config.process, shape)
    with torch.device("meta"):
        network = build_network(config.network, shape, 10 if config.data.labels else None)
    assert flops.schedule_average(process, lambda *a, **k: network(*a, **k, **labels(config)))[0] > 0


def labels(config: Config) -> dict[str, torch.Tensor]:
    return {"y": torch.zeros(1, dtype=torch.long, device="meta")} if config.data.labels else {}


def test_times_of_change_are_those_that_are_asked_for():
    process = build_process(ProcessConfig(levels=3, changes=[100, 700]), (1, 8, 8))
    assert process.shape_changes() == [100, 700]
    with pytest.raises(ValueError, match=r"process.changes: expected 2 times, got \[5\]"):
        build_process(ProcessConfig(levels=3, changes=[5]), (1, 8, 8))


@pytest.mark.parametrize(
    ("process", "kind"),
    [
        ({"family": "ddpm", "prediction": "noise"}, "full"),
        ({"family": "ddpm", "prediction": "velocity"}, "flexi"),
        ({"family": "ddpm", "prediction": "clean", "schedule": "cosine"}, "resized"),
        ({"family": "blurring"}, "full"),
        ({"family": "ssd", "levels": 2, "decay": 1.0}, "flexi"),
        ({"family": "ssd", "levels": 2, "decay": 1.0}, "resized"),
        ({"family": "ssd", "levels": 2, "decay": 1.0}, "full"),
        ({"family": "ssd", "levels": 2, "prediction": "data"}, "flexi"),
        ({"family": "ssd", "levels": 3, "prediction": "data"}, "full"),
        ({"family": "flow", "prediction": "flow"}, "full"),
        ({"family": "edm", "prediction": "edm"}, "flexi"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_every_family_trains_and_samples(tmp_path, process, kind):
    folder = train.train(make(tmp_path, 2, process=process, network={"kind": kind}))
    out = sample.sample(sample.SampleConfig(model=folder, count=3, steps=3, sampler="ancestral", progress=False))
    assert len(list((out / "images").iterdir())) == 3
    assert all(np.isfinite(losses(folder)))


@pytest.mark.parametrize(
    ("process", "t", "told"),
    [
        ({"family": "ddpm"}, 250, 249),
        ({"family": "flow"}, 0.25, 250),
        ({"family": "flow", "prediction": "edm"}, 1.0, 1000),
        ({"family": "edm", "prediction": "edm"}, 0.25, 0.25 * math.log(80 * 0.25**7)),
    ],
)
def test_what_the_network_is_told_of_time(process, t, told):
    """The index of a step, thousandths of [0, 1], or a quarter of the logarithm of EDM's noise."""
    seen = []
    config = ProcessConfig(**process)
    denoiser = build_denoiser(config, lambda x, time: seen.append(time) or x, build_process(config, (1, 8, 8)))
    assert denoiser(torch.zeros(2, 1, 8, 8), t).isfinite().all()
    np.testing.assert_allclose(seen[0], [told] * 2, rtol=1e-6)


def test_more_batches_for_changes_of_resolution(tmp_path):
    """Weighted, the first loss is the same as without weights times the weight of its times."""
    fraction = {"shape_change_fraction": 0.5}
    weighted = train.train(make(tmp_path / "a", 1, optimization=fraction))
    plain = train.train(make(tmp_path / "b", 1, optimization={**fraction, "shape_change_weights": False}))
    ratio = losses(weighted)[0] / losses(plain)[0]
    at_change, elsewhere = 2 / (1000 * 0.5), 998 / (1000 * 0.5)
    assert any(ratio == pytest.approx(value, rel=1e-5) for value in (at_change, elsewhere))


def test_a_step_at_several_resolutions(tmp_path):
    """Its loss is the mean of those of all its images, each at its own resolution."""
    config = make(tmp_path, 1, optimization={"groups": 4})
    trainer = train.Trainer(config)
    batch = next(loader(trainer.images, 8, trainer.share(), 0, config.optimization.seed, 0))
    process, generator = trainer.process, keyed_generator(config.optimization.seed, "t", 0)
    times = ld.times.Mixed(4).sample(process, 8, generator)
    assert len({process.shape(t) for t in times.tolist()}) > 1
    each = torch.cat([trainer.losses(batch, times, torch.tensor([index])) for index in range(8)])
    assert float(trainer.backward(batch)) == pytest.approx(float(each.detach().mean()), rel=1e-5)


def test_coarse_levels_trained_before_their_own_times(tmp_path):
    """Which pairs of a time and a resolution the network sees: those from the given time on, the finest at its own."""
    config = make(tmp_path, 40, process={"changes": [300, 600]}, optimization={"groups": 4, "coarse_from": [100, 600]})
    trainer, seen, changed = train.Trainer(config), {}, set()
    forward = trainer.prepared.forward

    def watched(x, t_index, size=None, **labels):
        own, there = x.shape[-1], (size or x.shape)[-1]
        (changed if own != there else seen.setdefault(own, set())).update((t_index + 1).tolist())
        return forward(x, t_index, size=size, **labels)

    trainer.prepared.forward = watched
    batches = loader(trainer.images, 8, trainer.share(), 0, config.optimization.seed, 0)
    for _ in range(40):
        trainer.backward(next(batches))
        trainer.step += 1
    assert seen.keys() == {8, 4, 2}
    for side, (first, last) in {8: (1, 299), 4: (101, 599), 2: (601, 1000)}.items():
        assert first <= min(seen[side]) < first + 0.2 * (last - first)  # of some fifty draws or more
        assert last - 0.2 * (last - first) < max(seen[side]) <= last
    assert changed <= {300, 600}
    with pytest.raises(ValueError, match=r"coarse_from: expected times up to the changes of resolution, \[300, 600\]"):
        train.Trainer(make(tmp_path, process={"changes": [300, 600]}, optimization={"coarse_from": [301, 600]}))


def test_shares_of_the_resolutions(tmp_path):
    process = {"changes": [300, 600]}
    trainer = train.Trainer(make(tmp_path, process=process, optimization={"shares": [0.5, 0.4, 0.1]}))
    assert trainer.times == ld.times.Mixed(1, [0.5, 0.4, 0.1])
    with pytest.raises(ValueError, match=r"optimization.shares: expected one for each of .*, got \[1.0\]"):
        train.Trainer(make(tmp_path, process=process, optimization={"shares": [1.0]}))


def test_colour_images_that_are_not_square(tmp_path):
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 255, (9, 12, 16, 3), dtype=np.uint8))
    data = {"source": str(tmp_path / "images.npy"), "channels": 3, "flip": True}
    folder = train.train(make(tmp_path / "run", 2, data=data, process={"levels": 2}))
    out = sample.sample(sample.SampleConfig(model=folder, count=1, steps=2, progress=False))
    assert read_png(out / "images" / "00000000.png").shape == (12, 16, 3)


def test_weights_of_the_original_implementation(tmp_path):
    """A .pt file with a state dict: what is sampled is what it holds; anything else in it is refused, not run."""
    torch.manual_seed(7)
    network = build_network(NetworkConfig(settings="tiny"), (1, 8, 8), None)
    torch.save(network.state_dict(), tmp_path / "original.pt")
    weights = {"weights": tmp_path / "original.pt"}
    denoiser, config = load_denoiser(find_checkpoint(train.train(make(tmp_path / "run", 0, network=weights))))
    assert config.network.weights == tmp_path / "original.pt"
    expected, found = network.state_dict(), denoiser.network.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())

    class Trap:
        def __reduce__(self):
            return (Path.mkdir, (tmp_path / "trapped",))

    torch.save({"w": Trap()}, tmp_path / "original.pt")
    with pytest.raises(ValueError, match=r"weights: .*original\.pt is not a state dict"):
        train.train(make(tmp_path / "other", 0, network=weights))
    assert not (tmp_path / "trapped").exists()


# ---------------------------------------------------------------------- restarts


@pytest.mark.long
def test_ended_in_many_ways_it_comes_to_the_same_bits():
    attacks = [
        restarts.Attack(signal.SIGKILL, delay=0.2, workers=2),
        restarts.Attack(signal.SIGTERM, group=True, second="saving", workers=2),
    ]
    assert len(restarts.compare(attacks, steps=40, save_every=10)) == 2


@pytest.mark.parametrize(
    "settings",
    [{}, {"process": {"family": "flow", "prediction": "flow"}, "optimization": {"times": "logit-normal"}}],
    ids=["steps", "continuous"],
)
def test_a_run_that_was_stopped_goes_on(tmp_path, settings):
    train.train(make(tmp_path / "whole", 6, **settings))
    train.train(make(tmp_path / "parts", 3, **settings))
    train.train(make(tmp_path / "parts", 6, **settings, run={"keep": 2, "workers": 1}))
    whole, parts = (Checkpoints(tmp_path / name / "checkpoints").latest() for name in ("whole", "parts"))
    assert all(torch.equal(tensor, parts.tensors[name]) for name, tensor in whole.tensors.items())
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")


@pytest.mark.long
def test_sighup_finishes_the_step_and_keeps_it(tmp_path):
    arguments = restarts.command(tmp_path, run_steps=100_000, run_save_every=100_000)
    with restarts.started(arguments, stdout=subprocess.PIPE) as process:
        while process.poll() is None and restarts.steps_done(tmp_path) < 3:
            time.sleep(0.05)
        process.send_signal(signal.SIGHUP)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors.decode()
    step = Checkpoints(tmp_path / "checkpoints").latest().metadata["step"]
    assert f"stopped at step {step} of 100000 (SIGHUP); the same command goes on" in output.decode()
    assert step == restarts.steps_done(tmp_path) >= 3


def test_overrides_that_json_writes_otherwise_are_the_same_on_resuming(tmp_path):
    network = {"overrides": {"channel_mult": (1, 2, 2)}}
    train.train(make(tmp_path, 2, network=network))
    train.train(make(tmp_path, 3, network=network))
    assert Checkpoints(tmp_path / "checkpoints").latest().metadata["step"] == 3


def test_the_time_limit_stops_with_a_checkpoint_and_a_status(tmp_path, capsys):
    make(tmp_path, 100, run={"max_hours": 0.0}).save(tmp_path / "run.yaml")
    with pytest.raises(SystemExit) as ended:
        train.main(["--config", str(tmp_path / "run.yaml")])
    assert ended.value.code == 75
    assert "stopped at step 1 of 100" in capsys.readouterr().out
    assert Checkpoints(tmp_path / "checkpoints").latest().metadata["step"] == 1


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(tmp_path):
    train.train(make(tmp_path, 4))
    reference = Checkpoints(tmp_path / "checkpoints").latest()
    reference.path.write_bytes(reference.path.read_bytes()[:-5])
    with pytest.warns(UserWarning, match=r"checkpoint refused: .*step-00000004"):
        train.train(make(tmp_path, 4))
    again = read_checkpoint(reference.path)  # steps 3 and 4 were taken again
    assert all(torch.equal(tensor, again.tensors[name]) for name, tensor in reference.tensors.items())


def test_another_configuration_is_refused_by_field(tmp_path):
    train.train(make(tmp_path, 2))
    process = {"levels": 2, "prediction": "data"}
    other = make(tmp_path, 4, process=process, optimization={"learning_rate": 1.0})
    message = "process.prediction: 'clean' there, 'data' here.*levels: 3 there, 2 here.*rate: 0.0001 there, 1.0 here"
    with pytest.raises(ValueError, match=f"(?s){message}"):
        train.train(other)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["process"]["levels"] == 3


def test_data_that_have_changed_are_refused(tmp_path):
    images = np.zeros((9, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    data = {"source": str(tmp_path / "images.npy")}
    train.train(make(tmp_path / "run", 2, data=data))
    np.save(tmp_path / "images.npy", images[:8])
    with pytest.raises(ValueError, match=r"had 9 images when .* and has 8 now"):
        train.train(make(tmp_path / "run", 4, data=data))


def test_a_loss_that_is_not_finite_stops_and_is_kept(tmp_path, monkeypatch):
    trained = make(tmp_path, 9)
    network = train.build_network

    def broken(*arguments):
        result = network(*arguments)
        calls = []

        def poison(module, inputs, output):
            calls.append(1)
            return output * float("nan") if len(calls) == 6 else output

        result.register_forward_hook(poison)
        return result

    monkeypatch.setattr(train, "build_network", broken)
    with pytest.raises(FloatingPointError, match=r"the loss is not finite in step 5 .*failed-step-00000005-process-0"):
        train.train(trained)
    kept = read_checkpoint(tmp_path / "failed-step-00000005-process-0.safetensors")
    assert kept.metadata["step"] == 5
    assert kept.tensors["batch:images"].shape == (8, 1, 8, 8)
    assert all(tensor.isfinite().all() for tensor in kept.tensors.values())
    assert [path.name for path in Checkpoints(tmp_path / "checkpoints").paths()] == [
        "step-00000002.safetensors", "step-00000004.safetensors",
    ]  # fmt: skip


def test_a_full_disk_ends_the_run_at_its_last_checkpoint_only(tmp_path, monkeypatch):
    """It may have space again before; nothing is lost until then."""
    write, full = train.Checkpoints.save, {4, 6, 9}

    def save(self, step, *arguments):
        if step in full:
            raise CheckpointError(f"step-{step:08d}.safetensors: No space left on device")
        return write(self, step, *arguments)

    monkeypatch.setattr(train.Checkpoints, "save", save)
    with (
        pytest.warns(UserWarning, match=r"step-00000004.*No space left.*the next attempt is at step 6"),
        pytest.raises(CheckpointError, match=r"step-00000009.*No space left"),
    ):
        train.train(make(tmp_path, 9))
    assert [path.name for path in Checkpoints(tmp_path / "checkpoints").paths()] == [
        "step-00000002.safetensors", "step-00000008.safetensors",
    ]  # fmt: skip
    full.clear()
    train.train(make(tmp_path, 9))
    assert Checkpoints(tmp_path / "checkpoints").latest().metadata["step"] == 9


# ---------------------------------------------------------------------- many processes


def launch(processes: int, script: str, *arguments: str) -> str:
    """By torchrun, with gloo: `accelerate launch --cpu` starts one process unless there is MPI."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    result = subprocess.run(
        [*command, str(ROOT / "examples" / script), *arguments],
        env={**os.environ, "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.long
def test_two_processes_and_accumulation_learn_the_same(tmp_path, groups):
    """The same images, times, noise and dropout, summed in another order: the losses agree within the rounding of
    float32 that six steps of Adam carry on (relative 2⁻²⁴ · √(terms) in a gradient, which Adam turns into as much of a
    step)."""
    settings = {
        "data": {"labels": True},
        "network": {"overrides": {"dropout": 0.3}},
        "optimization": {"batch_size": 8, "warmup": 2, "learning_rate": 1e-3, "groups": groups},
    }
    train.train(make(tmp_path / "one", 6, **settings))
    train.train(make(tmp_path / "parts", 6, **settings, run={"accumulate": 4 if groups == 1 else 2}))
    make(tmp_path / "two", 6, **settings).save(tmp_path / "two.yaml")
    assert "2 processes" in launch(2, "train.py", "--config", str(tmp_path / "two.yaml"))
    one = losses(tmp_path / "one")
    np.testing.assert_allclose(losses(tmp_path / "parts"), one, rtol=1e-4)
    np.testing.assert_allclose(losses(tmp_path / "two"), one, rtol=1e-4)
    train.train(make(tmp_path / "none", 6, **{**settings, "network": {}}))
    assert not np.allclose(losses(tmp_path / "none"), one, rtol=1e-3)
    final = [Checkpoints(tmp_path / name / "checkpoints").latest() for name in ("one", "two")]
    assert final[0].tensors.keys() == final[1].tensors.keys()


def test_a_batch_that_cannot_be_shared(tmp_path):
    factors = r"processes × run.accumulate × optimization.groups"
    with pytest.raises(ValueError, match=rf"batch_size: expected a multiple of 3 \({factors}\), got 8"):
        train.train(make(tmp_path, 2, run={"accumulate": 3}))
    with pytest.raises(ValueError, match=rf"batch_size: expected a multiple of 16 \({factors}\), got 8"):
        train.train(make(tmp_path, 2, optimization={"groups": 16}))


def test_fields_that_came_after_a_checkpoint_have_their_defaults(tmp_path):
    older = make(tmp_path, 2).to_dict()
    del older["optimization"]["groups"]
    make(tmp_path, 2).check_resumable(older, tmp_path)
    with pytest.raises(ValueError, match=r"optimization.groups: 1 there, 4 here"):
        make(tmp_path, 2, optimization={"groups": 4}).check_resumable(older, tmp_path)


def test_bf16_channels_last_and_workers(tmp_path):
    run = {"channels_last": True, "workers": 2}
    folder = train.train(make(tmp_path, 4, optimization={"precision": "bf16"}, run=run))
    assert all(np.isfinite(losses(folder)))
    assert find_checkpoint(folder).section("model")["out.2.weight"].dtype == torch.float32


def test_tensorboard_gets_losses_and_pictures(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = train.train(make(tmp_path, 4, run={"tracker": "tensorboard", "sample_every": 2, "sample_steps": 3}))
    (events,) = [EventAccumulator(str(p.parent)) for p in folder.glob("lineardiffusion/events*")]
    events.Reload()
    assert [round(event.value, 4) for event in events.Scalars("loss")] == [round(loss, 4) for loss in losses(folder)]
    assert len(events.Images("samples")) == 2


# ---------------------------------------------------------------------- samples


def images_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "images").iterdir())}


def test_an_image_is_the_same_file_whatever_else_is_drawn_and_where(labelled, tmp_path):
    def drawn(name: str, **settings: object) -> dict[str, bytes]:
        options = {"model": labelled, "count": 10, "steps": 4, "guidance": 2.0, "progress": False, **settings}
        return images_of(sample.sample(sample.SampleConfig(folder=tmp_path / name, **options)))

    reference = drawn("together", count=20)
    first = {name: reference[name] for name in sorted(reference)[:10]}
    assert drawn("fewer") == first
    (tmp_path / "fewer" / "images" / "00000004.png").unlink()
    (tmp_path / "fewer" / "images" / "00000007.png").unlink()
    assert drawn("fewer") == first  # two images in a block of their own
    arguments = [
        "--model",
        str(labelled),
        "--count",
        "10",
        "--steps",
        "4",
        "--guidance",
        "2",
        "--folder",
        str(tmp_path / "two"),
    ]
    launch(2, "sample.py", *arguments)
    assert images_of(tmp_path / "two") == first
    assert drawn("others", seed=1) != first


def test_sampling_goes_on_where_it_stopped(labelled, tmp_path):
    settings = sample.SampleConfig(model=labelled, count=6, steps=3, folder=tmp_path, progress=False)
    reference = images_of(sample.sample(settings))
    (tmp_path / "images" / "00000003.png").unlink()
    kept = (tmp_path / "images" / "00000000.png").stat().st_mtime_ns
    assert images_of(sample.sample(settings)) == reference
    assert (tmp_path / "images" / "00000000.png").stat().st_mtime_ns == kept
    assert {path.name for path in tmp_path.iterdir()} == {"images", "grid.png", "strips.png", "samples.json"}
    with pytest.raises(ValueError, match=r"has images of other settings \(seed: 0 there, 1 here\)"):
        sample.sample(dataclasses.replace(settings, seed=1))


def test_one_array_instead_of_files(labelled, tmp_path):
    settings = {"model": labelled, "count": 5, "steps": 3, "progress": False}
    files = images_of(sample.sample(sample.SampleConfig(folder=tmp_path / "png", **settings)))
    packed = sample.sample(sample.SampleConfig(folder=tmp_path / "npz", output="npz", **settings))
    array = np.load(packed / "samples.npz")["images"]
    assert not (packed / "images").exists()
    for index in range(5):
        np.testing.assert_array_equal(array[index], read_png(tmp_path / "png" / "images" / f"{index:08d}.png"))
    assert len(files) == 5
    before = (packed / "samples.npz").stat().st_mtime_ns
    sample.sample(sample.SampleConfig(folder=tmp_path / "npz", output="npz", **settings))
    assert (packed / "samples.npz").stat().st_mtime_ns == before


def test_labels_and_guidance(labelled, tmp_path):
    def drawn(name: str, **settings: object) -> dict[str, bytes]:
        options = {"model": labelled, "count": 2, "steps": 3, "progress": False, **settings}
        return images_of(sample.sample(sample.SampleConfig(folder=tmp_path / name, **options)))

    assert drawn("three", label="3") != drawn("seven", label="7")
    with pytest.raises(ValueError, match=r"label: expected one of \['0', .*\] or the number of one, got 'cat'"):
        drawn("cat", label="cat")


def test_calibrated_and_corrected(labelled, tmp_path, capsys):
    """Measured, kept with the step, drawn with; refused for other weights."""
    config = calibrate.CalibrateConfig(
        labelled, DataConfig(channels=1), steps=4, limit=50, output=tmp_path / "r.safetensors"
    )
    path = calibrate.calibrate(config)
    assert "2×2 → 4×4" in capsys.readouterr().out
    settings = {"model": labelled, "count": 2, "steps": 4, "progress": False}
    plain = images_of(sample.sample(sample.SampleConfig(folder=tmp_path / "plain", **settings)))
    corrected = sample.sample(sample.SampleConfig(folder=tmp_path / "corrected", residual=path, **settings))
    assert images_of(corrected) != plain
    with pytest.raises(ValueError, match=r"residual: expected spectra of step and weights \(40, 'last'\)"):
        sample.sample(sample.SampleConfig(folder=tmp_path / "last", residual=path, weights="last", **settings))
    with pytest.raises(ValueError, match="data: expected images of shape"):
        calibrate.calibrate(dataclasses.replace(config, data=DataConfig(channels=3)))


def test_a_model_without_labels_refuses_them(tmp_path):
    folder = train.train(make(tmp_path, 1))
    for wrong, message in ({"label": "3"}, "label: expected none"), ({"guidance": 2.0}, "guidance: expected 1"):
        with pytest.raises(ValueError, match=message):
            sample.sample(sample.SampleConfig(model=folder, **wrong))
    with pytest.raises(ValueError, match="model: expected the folder of a run"):
        sample.sample(sample.SampleConfig(model=tmp_path / "nothing"))


def test_the_average_is_what_is_sampled(labelled):
    checkpoint = find_checkpoint(labelled)
    averaged, last = load_denoiser(checkpoint)[0], load_denoiser(checkpoint, averaged=False)[0]
    assert torch.equal(averaged.network.out[2].weight, checkpoint.section("ema")["out.2.weight"])
    assert torch.equal(last.network.out[2].weight, checkpoint.section("model")["out.2.weight"])


def test_pictures_appear_while_it_trains(labelled):
    picture = read_png(labelled / "samples" / "step-00000040.png")
    assert picture.shape == (4 * 10 * 8, 4 * 10 * 8, 1)
    assert picture.std() > 0


# ---------------------------------------------------------------------- FLOPs

TABLE_2 = {
    (64, 1): 60.05, (64, 2): 50.61, (64, 3): 44.27, (64, 4): 38.48, (128, 1): 132.30, (128, 3): 87.38, (128, 5): 66.72,
    (256, 1): 497.03, (256, 3): 317.36, (256, 4): 272.98, (256, 5): 237.70, (256, 6): 209.69,
}  # fmt: skip


COUNTED = {}


@pytest.mark.parametrize(("size", "levels"), TABLE_2)
def test_flops_are_those_of_the_paper(size, levels, capsys, monkeypatch):
    """Calls that other numbers of levels have too are counted once."""

    def counted(network, here, there):
        key = size, levels == 1, here, there
        COUNTED[key] = COUNTED[key] if key in COUNTED else call_gflops(network, here, there)
        return COUNTED[key]

    call_gflops = flops.call_gflops
    monkeypatch.setattr(flops, "call_gflops", counted)
    monkeypatch.setattr(sys, "argv", ["flops.py", "--size", str(size), "--levels", str(levels)])
    flops.main()
    report = json.loads(capsys.readouterr().out)
    assert report["gflops"] == pytest.approx(TABLE_2[size, levels], rel=0.015)
    assert sum(pair["steps"] for pair in report["pairs"]) == 1000


# ---------------------------------------------------------------------- metrics


def test_evaluation_of_samples_and_of_real_images(labelled, tmp_path):
    out = sample.sample(sample.SampleConfig(model=labelled, count=12, steps=3, folder=tmp_path / "s", progress=False))
    settings = {"data": DataConfig(channels=1), "cache": tmp_path / "cache"}
    found = evaluate.evaluate(evaluate.EvaluateConfig(out, **settings))
    assert found["samples"] == 12
    assert found["classifier_accuracy"] > 0.8
    assert found["frechet"] > 10 * found["frechet_of_held_out"]
    (cached,) = (tmp_path / "cache").iterdir()
    written = cached.stat().st_mtime_ns
    assert evaluate.evaluate(evaluate.EvaluateConfig(out, **settings)) == found
    assert cached.stat().st_mtime_ns == written


def test_evaluation_without_the_weights_downloads_nothing(labelled, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    out = sample.sample(sample.SampleConfig(model=labelled, count=2, steps=3, folder=tmp_path / "s", progress=False))
    with pytest.raises(ValueError, match=r"inception: expected the weights .* they are not downloaded"):
        evaluate.evaluate(evaluate.EvaluateConfig(out, DataConfig(channels=1), metrics=["fid"]))


def test_ld_is_what_trains(labelled):
    """The folder's model is a plain Denoiser: the library's samplers take it."""
    denoiser, config = load_denoiser(find_checkpoint(labelled))
    assert isinstance(denoiser.process, ld.ScaleSpaceDiffusion)
    assert config.data.labels
    x = ld.DDIMSampler(denoiser, steps=3)(2, seeds=[0, 1], progress=False, y=torch.tensor([1, 2]))
    assert x.shape == (2, 1, 8, 8)


@pytest.mark.long
def test_the_laboratory_draws_its_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["laboratory.py", "--output", str(tmp_path)])
    monkeypatch.setattr(laboratory, "STEPS", (20, 50))
    laboratory.main()
    assert {path.suffix for path in tmp_path.iterdir()} == {".png", ".json"}
    assert (
        "DDPM                             ancestral   50 steps      2836 GFLOPs  W2/√tr C 0.0876"
        in capsys.readouterr().out
    )
