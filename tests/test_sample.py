"""sample.py and calibrate.py: what images belong to, who draws them, and what happens when something goes wrong."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from examples import calibrate, sample
from examples.experiment import samples
from examples.experiment.building import build_network
from examples.experiment.config import (
    Config,
    DataConfig,
    NetworkConfig,
    OptimizationConfig,
    ProcessConfig,
    RunConfig,
)
from examples.experiment.pictures import read_png
from examples.experiment.runs import (
    class_number,
    find_checkpoint,
    load_denoiser,
    load_reference_weights,
    run_folder,
)

import lineardiffusion as ld
from lineardiffusion.pictures import to_bytes, write_png
from lineardiffusion.training import Checkpoints, keyed_generator, read_checkpoint, write_checkpoint

ROOT = Path(__file__).resolve().parents[1]


def make(
    folder: Path,
    names: list[str] | None = None,
    seed: int = 0,
    levels: int = 2,
    family: str = "ssd",
    **learning: object,
) -> Path:
    """A run with random weights in the place of trained ones, at step 5, of images of 8 × 8."""
    config = Config(
        DataConfig(channels=1, labels=names is not None),
        ProcessConfig(family, num_steps=20, levels=levels),
        NetworkConfig(settings="tiny"),
        OptimizationConfig(**learning),
        RunConfig(),
    )
    torch.manual_seed(seed)
    network = build_network(config.network, (1, 8, 8), names and len(names))
    for parameter in network.parameters():  # the last layer starts at zero
        torch.nn.init.normal_(parameter, std=0.1)
    weights = network.state_dict()
    metadata = {"step": 5, "config": config.to_dict(), "shape": (1, 8, 8), "num_images": 9}
    metadata |= {"num_classes": names and len(names), "class_names": names}
    tensors = {f"{part}:{name}": tensor.clone() for part in ("model", "ema") for name, tensor in weights.items()}
    Checkpoints(folder / "checkpoints").save(5, tensors, metadata)
    return folder


@pytest.fixture(autouse=True)
def fresh_accelerator():
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Path:
    """A model of the classes 0, 2 and 5."""
    return make(tmp_path_factory.mktemp("labelled"), ["0", "2", "5"])


def settings(model: Path, folder: Path, **others: object) -> sample.SampleConfig:
    plain = {"count": 6, "steps": 2, "block": 4, "strips": 0, "progress": False}
    return sample.SampleConfig(model, folder=folder, **{**plain, **others})


def images_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "images").iterdir())}


def draw(model: Path, folder: Path, **others: object) -> dict[str, bytes]:
    return images_of(sample.sample(settings(model, folder, **others)))


def command(*arguments: object) -> str:
    """The message with which the program ends."""
    with pytest.raises(SystemExit) as caught:
        sample.main([str(argument) for argument in arguments])
    assert "Traceback" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------------- classes


@pytest.mark.parametrize(
    ("label", "number"),
    [("0", 0), ("5", 2), ("name=0", 0), ("name=2", 1), ("number=1", 1), ("number=2", 2), ("name=5", 2)],
)
def test_a_class_by_its_name_or_its_number(label, number):
    assert class_number(label, ["0", "2", "5"]) == number


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("2", r"'2' may be a name or a number .* say name=2 \(the class '2'\) or number=2 \(the class '5'\)"),
        ("1", r"'1' may be a name or a number .* say number=1 \(the class '2'\)"),
        ("3", r"expected one of \['0', '2', '5'\] or the number of one, got '3'"),
        ("-1", "expected one of"),
        ("number=3", "expected one of"),
        ("name=1", "expected one of"),
        ("", "expected one of"),
    ],
)
def test_a_number_that_may_be_a_name_is_refused(label, message, labelled, tmp_path):
    with pytest.raises(ValueError, match=f"label: {message}"):
        sample.sample(settings(labelled, tmp_path, label=label))


def test_numbers_of_classes_with_other_names():
    assert [class_number(label, ["cat", "dog"]) for label in ("cat", "1", "number=0", "name=dog")] == [0, 1, 0, 1]
    assert [class_number(str(number), list("0123456789")) for number in range(10)] == list(range(10))
    one_based = ["1", "2", "3"]
    assert class_number("3", one_based) == 2
    assert class_number("name=2", one_based) == 1
    with pytest.raises(ValueError, match=r"say name=2 .*'2'.* or number=2 .*'3'"):
        class_number("2", one_based)
    for wrong in ("-1", "2", "01", "²", "1.0"):
        with pytest.raises(ValueError, match="label: expected one of"):
            class_number(wrong, ["cat", "dog"])


def test_the_classes_are_among_the_settings(labelled, tmp_path):
    """By name: one class asked for in two ways is the same, and has the images that it has by turns with others."""
    by_turns = draw(labelled, tmp_path / "all")
    assert json.loads((tmp_path / "all" / "samples.json").read_text())["labels"] == ["0", "2", "5"]
    five = draw(labelled, tmp_path / "five", label="5")
    assert json.loads((tmp_path / "five" / "samples.json").read_text())["labels"] == ["5"]
    assert draw(labelled, tmp_path / "five", label="number=2") == five
    same = {name for name in five if five[name] == by_turns[name]}
    assert same == {"00000002.png", "00000005.png"}
    with pytest.raises(ValueError, match=r"labels: \['5'\] there, \['2'\] here"):
        draw(labelled, tmp_path / "five", label="name=2")


def test_guidance_of_a_model_that_always_saw_labels_warns(tmp_path):
    with pytest.warns(UserWarning, match="label_dropout = 0 and has never seen an image without its label"):
        draw(make(tmp_path / "model", ["a", "b"], label_dropout=0.0), tmp_path / "out", guidance=2.0)


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sampler": "ancestral", "eta": 0.5}, "eta: expected none with sampler=ancestral, got 0.5"),
        ({"eta": 1.5}, r"eta: expected a number in \[0, 1\], got 1.5"),
        ({"eta": float("nan")}, "eta: expected a number"),
        ({"guidance": float("inf")}, "guidance: expected a finite number"),
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"steps": 21}, "steps: expected at most 20, the steps of the process, got 21"),
        ({"steps": 1}, "steps: expected at least 2, .* those at which the shape changes, got 1"),
        ({"steps": None, "grid": "karras"}, "grid: expected uniform for all steps, got karras; --steps says"),
        ({"sampler": "heun", "order": 2}, "order: expected 1 with sampler=heun, which is of second order, got 2"),
        ({"sampler": "heun", "eta": 0.0}, "eta: expected none with sampler=heun"),
        ({"sampler": "shared_noise", "residual": Path("r")}, "residual: expected none with sampler=shared_noise"),
        ({"count": 0}, "count: expected at least 1"),
        ({"label": "0"}, "label: expected none for a model without labels"),
        ({"guidance": 2.0}, "guidance: expected 1 for a model without labels"),
    ],
)
def test_settings_that_do_not_fit(wrong, message, model, tmp_path):
    with pytest.raises(ValueError, match=message):
        sample.sample(settings(model, tmp_path / "out", **wrong))
    assert not (tmp_path / "out").exists()


def test_estimates_are_clipped_to_the_range_of_images(model, tmp_path, monkeypatch):
    samplers = []
    make_sampler = sample.make_sampler
    monkeypatch.setattr(sample, "make_sampler", lambda *a: samplers.append(make_sampler(*a)) or samplers[-1])
    draw(model, tmp_path / "ddim", eta=0.5)
    draw(model, tmp_path / "ancestral", sampler="ancestral")
    assert [sampler.clip for sampler in samplers] == [(-1.0, 1.0)] * 2
    assert samplers[0].eta == 0.5


@pytest.mark.parametrize(
    ("others", "name", "expected"),
    [
        ({"order": 2}, "00000005-ddim-5-order-2", lambda d, p: ld.DDIMSampler(d, 5, order=2, clip=(-1, 1))),
        (
            {"sampler": "ancestral", "order": 3, "grid": "trailing"},
            "00000005-ancestral-5-order-3-trailing",
            lambda d, p: ld.AncestralSampler(d, ld.grids.trailing(5).times(p), order=3, clip=(-1, 1)),
        ),
        (
            {"sampler": "shared_noise", "eta": 0.5, "order": 2, "grid": "log_snr"},
            "00000005-shared_noise-5-order-2-log_snr",
            lambda d, p: ld.SharedNoiseSampler(d, ld.grids.log_snr(5).times(p), 0.5, order=2, clip=(-1, 1)),
        ),
        (
            {"sampler": "heun", "grid": "karras"},
            "00000005-heun-5-karras",
            lambda d, p: ld.HeunSampler(d, ld.grids.karras(5).times(p), clip=(-1, 1)),
        ),
    ],
    ids=["ddim", "ancestral", "shared_noise", "heun"],
)
def test_samplers_are_those_of_the_library(others, name, expected, tmp_path):
    """Their images, too, as bytes."""
    model = make(tmp_path)
    config = sample.SampleConfig(model, count=2, block=2, strips=0, steps=5, progress=False, **others)
    path = sample.sample(config)
    assert path == model / "samples" / name
    denoiser, _ = load_denoiser(find_checkpoint(model))
    sampler = expected(denoiser, denoiser.process)
    made = sample.make_sampler(config, denoiser, None)
    assert (type(made), made.times, made.clip) == (type(sampler), sampler.times, sampler.clip)
    seeds = [keyed_generator(0, "sample", index).initial_seed() for index in range(2)]
    for index, pixels in enumerate(to_bytes(sampler(2, seeds=seeds, progress=False))):
        np.testing.assert_array_equal(read_png(path / "images" / f"{index:08d}.png"), pixels)


def test_guidance_is_that_of_the_library(labelled, tmp_path):
    denoiser, _ = load_denoiser(find_checkpoint(labelled))
    guided = ld.guided(denoiser, 2.5, null={"y": 3})
    seeds = [keyed_generator(0, "sample", index).initial_seed() for index in range(4)]
    expected = ld.DDIMSampler(guided, 2, clip=(-1, 1))(4, seeds, progress=False, y=torch.tensor([0, 1, 2, 0]))
    draw(labelled, tmp_path, count=4, guidance=2.5)
    for index, pixels in enumerate(to_bytes(expected)):
        np.testing.assert_array_equal(read_png(tmp_path / "images" / f"{index:08d}.png"), pixels)


def test_a_model_of_continuous_time_is_told_its_steps(tmp_path):
    model = make(tmp_path / "model", family="flow")
    with pytest.raises(
        ValueError, match="steps: expected a number of steps, since the time of this model is continuous"
    ):
        draw(model, tmp_path / "out", steps=None)
    assert len(draw(model, tmp_path / "out", order=2, steps=3)) == 6


def test_settings_that_give_the_same_images_share_a_folder(model, tmp_path):
    first = draw(model, tmp_path, steps=None)
    assert draw(model, tmp_path, steps=20, eta=0.0) == first


def test_other_settings_are_refused_and_another_folder_is_named(labelled):
    options = ["--model", labelled, "--count", 1, "--steps", 2, "--strips", 0, "--progress", "false"]
    sample.main([str(option) for option in options])
    message = command(*options, "--guidance", 2)
    assert "guidance: 1.0 there, 2.0 here" in message
    assert "--folder" in message


@pytest.mark.parametrize("what", ["nothing", "pipe", "folder", "text", "residual", "older"])
def test_what_is_no_model(what, tmp_path):
    path = tmp_path / what
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "text":
        path.write_text("weights")
    elif what == "residual":
        write_checkpoint(path, {"20-19": torch.zeros(1)}, {"step": 5})
    elif what == "older":
        found = find_checkpoint(make(tmp_path / "run"))
        found.metadata["config"]["process"]["unheard_of"] = 1
        write_checkpoint(path, found.tensors, found.metadata)
    message = command("--model", path)
    assert str(path) in message
    assert any(part in message for part in ("model: expected", "not a readable checkpoint"))


def test_where_samples_of_a_checkpoint_go(model, tmp_path, monkeypatch):
    (path,) = Checkpoints(model / "checkpoints").paths()
    assert run_folder(model) == run_folder(path) == model
    assert run_folder(tmp_path / "somewhere" / "else.safetensors") == tmp_path / "somewhere"
    monkeypatch.chdir(path.parent)
    assert run_folder(Path(path.name)) == model


# ---------------------------------------------------------------------- what samples belong to


def test_images_of_another_model_at_the_same_step_are_refused(model, tmp_path):
    other = make(tmp_path / "other", seed=1)
    first = draw(model, tmp_path / "out")
    with pytest.raises(ValueError, match=r"has images of other settings \(model: '.*' there, '.*' here\)"):
        draw(other, tmp_path / "out")
    assert images_of(tmp_path / "out") == first
    moved = make(tmp_path / "copy")  # equal weights, in another place
    assert draw(moved, tmp_path / "out") == first


def test_a_residual_of_another_model_or_measured_again_is_refused(model, tmp_path):
    data = DataConfig(channels=1)

    def measured(folder: Path, **others: object) -> Path:
        return calibrate.calibrate(
            calibrate.CalibrateConfig(folder, data, rank=2, **{"limit": 20, "steps": 3, **others})
        )

    one, other = make(tmp_path / "one"), make(tmp_path / "other", seed=1)
    of_one, of_other = measured(one), measured(other)
    assert read_checkpoint(of_one).metadata["model"] == find_checkpoint(one).digest
    draw(one, tmp_path / "out", residual=of_one, steps=3)
    with pytest.raises(ValueError, match=r"residual: expected spectra .*SHA-256 .* measure this model"):
        draw(one, tmp_path / "out", residual=of_other, steps=3)
    with pytest.raises(ValueError, match=r"expected spectra of step and weights \(5, 'last'\)"):
        draw(one, tmp_path / "out", residual=of_one, weights="last")
    with pytest.raises(ValueError, match=r"expected spectra .* got \(5, None\) of None"):
        draw(one, tmp_path / "out", residual=Checkpoints(one / "checkpoints").paths()[0])
    with pytest.raises(
        ValueError, match="spectra of steps = 4 and grid = uniform, got those of steps = 3 and grid = un"
    ):
        draw(one, tmp_path / "out", residual=of_one, steps=4)
    elsewhere = of_one.rename(tmp_path / "moved.safetensors")
    draw(one, tmp_path / "out", residual=elsewhere, steps=3)
    with pytest.raises(ValueError, match=r"residual: '.*' there, '.*' here"):
        draw(one, tmp_path / "out", residual=measured(one, limit=30), steps=3)


def test_images_of_nobody_knows_what_are_refused(model, tmp_path):
    draw(model, tmp_path)
    (tmp_path / "samples.json").write_text("{")
    with pytest.raises(ValueError, match=r"samples\.json is not the settings .* --folder"):
        draw(model, tmp_path)
    (tmp_path / "samples.json").unlink()
    with pytest.raises(ValueError, match=r"has images, but no samples\.json .* --folder"):
        draw(model, tmp_path)


# ---------------------------------------------------------------------- who draws


@pytest.mark.long
def test_a_process_that_comes_late_does_its_share_of_the_same_model(tmp_path):
    """It sees neither what others have drawn meanwhile nor what the run has learnt."""
    model = make(tmp_path / "model")
    expected = draw(model, tmp_path / "one", count=23)
    script = ROOT / "tests" / "late_samples.py"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    result = subprocess.run(
        [*launcher, str(model), str(tmp_path / "two"), "23"],
        env={**os.environ, "ACCELERATE_USE_CPU": "true"}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert images_of(tmp_path / "two") == expected


@pytest.mark.parametrize("name", ["samples.json", "samples.npz"])
def test_pipes_are_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    folder = samples.SampleFolder(tmp_path, (1, 8, 8), packed=True)
    if name == "samples.json":
        with pytest.raises(ValueError, match=r"samples.json is not the settings of samples \(it is no file\)"):
            folder.claim({"step": 1})
    else:
        assert folder.missing(3) == [0, 1, 2]


def test_processes_of_other_settings_are_refused(model, tmp_path, monkeypatch):
    """As where each reads a file of its own."""

    def other(accelerator, value):
        return ({**value[0], "model": "another"}, value[1]) if isinstance(value, tuple) else value

    monkeypatch.setattr(sample, "from_main", other)
    with pytest.raises(ValueError, match=r"model: process 0 has {.*}, the main process {'model': 'another'"):
        draw(model, tmp_path)


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
@pytest.mark.parametrize("pending", [[], [4], list(range(23)), [0, 1, 7, 8, 9, 20, 22]])
def test_the_shares_of_all_processes_are_what_is_pending(processes, pending):
    """Each image once, and no process has more than one more than another; the bar ends at the number of images."""

    class Folder:
        def write(self, index, pixels):
            written.append(index)

    class Drawing:
        def images(self, indices):
            return torch.zeros(len(indices), 1, 2, 2)

    config = sample.SampleConfig(Path(), count=23, block=3, progress=False)
    shares = []
    for rank in range(processes):
        written: list[int] = []
        process = type("", (), {"process_index": rank, "num_processes": processes, "is_main_process": rank == 0})
        sample.draw_all(config, process, Drawing(), Folder(), pending)
        shares.append(written)
    assert sorted(index for share in shares for index in share) == pending
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_the_bar_goes_on_from_the_images_that_are_there(model, tmp_path, capsys):
    draw(model, tmp_path, count=5)
    capsys.readouterr()
    draw(model, tmp_path, count=12, progress=True)
    bar = capsys.readouterr().err
    assert " 5/12" in bar
    assert " 12/12" in bar


def test_a_second_command_is_refused_while_the_first_draws(model, tmp_path):
    program = (
        "import sys; from pathlib import Path; from lineardiffusion.training import locked_folder\n"
        "with locked_folder(Path(sys.argv[1])): print('in', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout.readline() == "in\n"
        message = command("--model", model, "--folder", tmp_path, "--count", 2)
        first.communicate("\n")
    assert f"{tmp_path}: in use by process {first.pid}" in message
    assert len(draw(model, tmp_path)) == 6


# ---------------------------------------------------------------------- what goes wrong


def test_files_that_are_not_the_images_are_drawn_again(model, tmp_path):
    """Truncated anywhere, flipped anywhere, of another size, or of another kind."""
    expected = draw(model, tmp_path)
    path = tmp_path / "images" / "00000001.png"
    whole = path.read_bytes()
    folder = samples.SampleFolder(tmp_path, (1, 8, 8), packed=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for length in range(len(whole)):
            path.write_bytes(whole[:length])
            assert folder.missing(3) == [1], length
        for place in range(len(whole)):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
            assert folder.missing(3) == [1], place
    write_png(np.zeros((8, 9, 1), np.uint8), path)
    with pytest.warns(UserWarning, match=r"00000001\.png: not the image that was drawn, it is drawn again"):
        assert draw(model, tmp_path) == expected
    path.unlink()
    os.mkfifo(path)
    assert draw(model, tmp_path) == expected


def test_what_killed_writers_left_is_cleared_away(model, tmp_path):
    expected = draw(model, tmp_path)
    for folder in (tmp_path, tmp_path / "images"):
        (folder / "00000002.png.0123456789abcdef.partial").write_bytes(b"\x89PNG")
    assert draw(model, tmp_path) == expected
    assert {path.name for path in tmp_path.iterdir()} == {"images", "grid.png", "samples.json"}


def test_files_follow_the_umask(model, tmp_path):
    before = os.umask(0o027)
    try:
        draw(model, tmp_path)
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o640}


def full(*arguments: object, **keywords: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_keeps_the_images_before_and_names_the_next(model, tmp_path, monkeypatch):
    expected = draw(model, tmp_path / "whole")
    write = samples.write_png
    monkeypatch.setattr(
        samples, "write_png", lambda pixels, path: full() if path.stem == "00000005" else write(pixels, path)
    )
    options = ["--model", model, "--folder", tmp_path / "out", "--count", 6, "--steps", 2, "--block", 4, "--strips", 0]
    message = command(*options, "--progress", "false")
    assert "No space left on device" in message
    assert "the same command goes on" in message
    assert len(images_of(tmp_path / "out")) == 5
    monkeypatch.undo()
    assert draw(model, tmp_path / "out") == expected


def test_a_full_disk_is_named_by_the_file(model, tmp_path, monkeypatch):
    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match=r"No space left on device.*00000000\.png"):
        draw(model, tmp_path)


@pytest.mark.parametrize("where", ["file", "file/below", "/proc/nowhere"])
def test_a_folder_that_cannot_be_written_to(where, model, tmp_path):
    (tmp_path / "file").write_text("")
    folder = tmp_path / where
    message = command("--model", model, "--folder", folder)
    assert str(folder) in message
    assert "--folder" in message


@pytest.mark.parametrize("output", ["png", "npz"])
def test_pictures_that_cannot_be_written_lose_no_image(output, model, tmp_path, monkeypatch):
    monkeypatch.setattr(sample, "write_png", full)
    with pytest.raises(OSError, match="What has been drawn is kept"):
        sample.sample(settings(model, tmp_path, output=output))
    monkeypatch.undo()
    kept = tmp_path / ("images/00000000.png" if output == "png" else "samples.npz")
    written = kept.stat().st_mtime_ns
    sample.sample(settings(model, tmp_path, output=output))
    assert kept.stat().st_mtime_ns == written
    assert (tmp_path / "grid.png").exists()


def test_an_image_that_goes_away_meanwhile_is_noticed(model, tmp_path, monkeypatch):
    expected = draw(model, tmp_path / "whole")
    draw_all = sample.draw_all

    def thief(*arguments):
        draw_all(*arguments)
        (tmp_path / "out" / "images" / "00000003.png").unlink()

    monkeypatch.setattr(sample, "draw_all", thief)
    with pytest.raises(ValueError, match=r"1 of 6 images have gone .* 00000003\.png; the same command draws them"):
        draw(model, tmp_path / "out")
    monkeypatch.undo()
    assert draw(model, tmp_path / "out") == expected


def test_an_image_that_is_not_finite_stops(tmp_path):
    found = find_checkpoint(make(tmp_path / "model"))
    tensors = {name: tensor * float("nan") for name, tensor in found.tensors.items()}
    write_checkpoint(found.path, tensors, found.metadata)
    with pytest.raises(FloatingPointError, match="image 0 is not finite"):
        draw(tmp_path / "model", tmp_path / "out")


# ---------------------------------------------------------------------- one array


def array_of(model: Path, folder: Path, **others: object) -> np.ndarray:
    with np.load(sample.sample(settings(model, folder, output="npz", **others)) / "samples.npz") as arrays:
        assert arrays.files == ["images"]
        return arrays["images"]


def test_an_array_of_files_some_of_which_were_there(model, tmp_path, monkeypatch):
    draw(model, tmp_path / "files")
    expected = np.stack([read_png(path) for path in sorted((tmp_path / "files" / "images").iterdir())])
    monkeypatch.setattr(sample.SampleFolder, "finish", full)
    with pytest.raises(OSError, match="No space left"):
        sample.sample(settings(model, tmp_path / "packed", output="npz"))
    monkeypatch.undo()
    (tmp_path / "packed" / "images" / "00000002.png").unlink()
    np.testing.assert_array_equal(array_of(model, tmp_path / "packed"), expected)
    assert not (tmp_path / "packed" / "images").exists()
    with pytest.raises(ValueError, match="count: 6 there, 7 here"):
        array_of(model, tmp_path / "packed", count=7)


def test_an_array_whose_files_were_not_all_removed(model, tmp_path):
    expected = array_of(model, tmp_path)
    (tmp_path / "images").mkdir()
    write_png(expected[0], tmp_path / "images" / "00000000.png")
    written = (tmp_path / "samples.npz").stat().st_mtime_ns
    np.testing.assert_array_equal(array_of(model, tmp_path), expected)
    assert not (tmp_path / "images").exists()
    assert (tmp_path / "samples.npz").stat().st_mtime_ns == written


@pytest.mark.parametrize("damage", ["cut", "bit", "shape"])
def test_a_damaged_array_is_drawn_again(damage, model, tmp_path):
    expected = array_of(model, tmp_path)
    path = tmp_path / "samples.npz"
    content = bytearray(path.read_bytes())
    if damage == "shape":
        np.savez_compressed(path, images=expected[:3])
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content[:-40] if damage == "cut" else content)
    with pytest.warns(UserWarning, match=r"samples\.npz: not the images that were drawn"):
        np.testing.assert_array_equal(array_of(model, tmp_path), expected)


# ---------------------------------------------------------------------- calibration and weights


def test_labels_of_held_out_images_are_the_classes_of_those_names(tmp_path):
    """Data with the classes 2 and 5 alone, whose own numbers are 0 and 1."""
    labelled = make(tmp_path / "model", ["0", "2", "5"])
    images = np.random.default_rng(0).integers(0, 255, (12, 8, 8), dtype=np.uint8)

    def measured(name: str, labels: list[int] | None) -> dict[str, torch.Tensor]:
        arrays = {"images": images} if labels is None else {"images": images, "labels": np.array(labels)}
        np.savez(tmp_path / f"{name}.npz", **arrays)
        data = DataConfig(str(tmp_path / f"{name}.npz"), channels=1)
        config = calibrate.CalibrateConfig(labelled, data, rank=0, output=tmp_path / f"{name}.safetensors")
        return read_checkpoint(calibrate.calibrate(config)).tensors

    seen, network = [], calibrate.ld.calibrate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrate.ld, "calibrate", lambda *a, **k: seen.append(k) or network(*a, **k))
        measured("some", [2] * 6 + [5] * 6)
    assert seen[0]["y"].tolist() == [1] * 6 + [2] * 6
    assert seen[0]["clip"] == (-1.0, 1.0)
    with pytest.raises(ValueError, match=r"data: expected labels for a model that knows the classes \['0', '2', '5'\]"):
        measured("none", None)
    with pytest.raises(ValueError, match=r"data: expected the classes .* of the model, got \['3'\]"):
        measured("others", [0] * 6 + [3] * 6)


def test_what_cannot_be_calibrated(model, tmp_path):
    def refused(folder: Path, message: str, **others: object) -> None:
        with pytest.raises(ValueError, match=message):
            calibrate.calibrate(calibrate.CalibrateConfig(folder, **{"data": DataConfig(channels=1), **others}))

    refused(model, r"data: expected images of shape \(1, 8, 8\), got \(3, 8, 8\)", data=DataConfig(channels=3))
    refused(make(tmp_path / "one", levels=1), "model: expected one that changes resolution")
    refused(model, f"output: expected a file, got {tmp_path}", output=tmp_path)
    refused(model, "output: .* cannot be written", output=tmp_path / "nowhere" / "r.safetensors")
    refused(model, "limit: expected at least 1, got 0", limit=0)
    refused(model, "rank: expected at least 0, got -1", rank=-1)


def test_pt_files_are_read_by_a_torch_that_does_not_run_them(tmp_path, monkeypatch):
    torch.save({"w": torch.ones(2)}, tmp_path / "w.pt")
    assert load_reference_weights(tmp_path / "w.pt")["w"].tolist() == [1, 1]
    for version in ("2.5.1", "2.5.1+cu121", "2.4.0"):
        monkeypatch.setattr(torch, "__version__", version)
        with pytest.raises(ValueError, match=r"weights: .*w\.pt may hold code.*CVE-2025-32434.*torch 2\.6 or newer"):
            load_reference_weights(tmp_path / "w.pt")
    for version in ("2.6.0", "2.13.0+cpu"):
        monkeypatch.setattr(torch, "__version__", version)
        load_reference_weights(tmp_path / "w.pt")


def test_what_is_no_state_dict(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    torch.save({"state_dict": {"w": torch.ones(2)}}, tmp_path / "nested.pt")
    torch.save({0: torch.ones(2)}, tmp_path / "numbers.pt")
    for name, message in {
        "pipe": "there is none", "nothing": "there is none", "list": "got list", "nested": "got 'state_dict': dict",
        "numbers": "got 0: Tensor",
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=f"weights: expected .*{message}"):
            load_reference_weights(tmp_path / f"{name}.pt")
