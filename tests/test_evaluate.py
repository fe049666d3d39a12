"""How close samples are to real images: the metrics, and a program that loses nothing of what it has computed."""

from __future__ import annotations

import json
import os
import sys
import types
import warnings

import numpy as np
import pytest
import torch
from examples import evaluate
from examples.evaluate import EvaluateConfig
from examples.experiment import features
from examples.experiment.config import DataConfig
from examples.experiment.data import open_images
from examples.experiment.features import Classifier, frechet_distance, train_judge
from PIL import Image


def test_frechet_distance_of_gaussians_is_the_closed_form():
    """Two sets with exactly known moments, and one-dimensional features, for which it is (m − m')² + (s − s')²."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(500, 1, generator=generator, dtype=torch.float64)
    expected = (a.mean() - (3 * a + 2).mean()) ** 2 + (a.std() - 3 * a.std()) ** 2
    assert frechet_distance(a, 3 * a + 2) == pytest.approx(float(expected), rel=1e-12)
    x = torch.randn(400, 5, generator=generator, dtype=torch.float64)
    scale = torch.tensor([0.5, 1, 2, 3, 0], dtype=torch.float64)  # commuting covariances after whitening
    x = x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T
    assert frechet_distance(x, x * scale) == pytest.approx(
        float((1 - scale).square().sum() + ((1 - scale) * x.mean(0)).square().sum()), rel=1e-9
    )
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-10)


def test_bad_features():
    with pytest.raises(ValueError, match="features: expected"):
        frechet_distance(torch.zeros(5, 2), torch.zeros(5, 3))
    with pytest.raises(ValueError, match="images: expected at least 20 of at least 8 × 8 pixels"):
        train_judge(torch.zeros(30, 1, 4, 4), torch.zeros(30), 2, None)


def test_the_classifier_is_seeded_and_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "EPOCHS", 2)
    images, labels = open_images(DataConfig("digits", channels=1)).tensor(300)
    first = train_judge(images, labels, 10, tmp_path)
    state = torch.get_rng_state()
    again = train_judge(images, labels, 10, tmp_path / "other")
    kept = train_judge(images, labels, 10, tmp_path)
    assert torch.equal(state, torch.get_rng_state())
    for other in (again, kept):
        assert torch.equal(first.features(images), other.features(images))
        assert (first.accuracy, first.held_out.tolist()) == (other.accuracy, other.held_out.tolist())
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    assert isinstance(kept.classifier, Classifier)
    train_judge(images, labels, 10, tmp_path, seed=1)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_no_more_than_a_batch_is_asked_for(tmp_path, monkeypatch):
    """Images that are read as they are asked for give what a tensor of all gives."""
    monkeypatch.setattr(features, "EPOCHS", 1)
    images, labels = open_images(DataConfig("digits", channels=1)).tensor(300)

    class Read:
        shape, asked = images.shape, 0

        def __len__(self):
            return len(images)

        def __getitem__(self, indices):
            self.asked = max(self.asked, len(indices))
            return images[indices]

    read = Read()
    judges = [train_judge(data, labels, 10, tmp_path / name) for data, name in ((images, "a"), (read, "b"))]
    assert torch.equal(judges[0].features(images), judges[1].features(read))
    assert torch.equal(judges[0].learnt(images), judges[1].learnt(read))
    assert judges[0].accuracy == judges[1].accuracy
    assert [path.name for path in (tmp_path / "a").iterdir()] == [path.name for path in (tmp_path / "b").iterdir()]
    assert read.asked == 256


def test_one_class_is_nothing_to_tell_apart(tmp_path):
    with pytest.raises(ValueError, match="num_classes: expected at least 2 to tell apart, got 1"):
        train_judge(torch.zeros(30, 1, 8, 8), torch.zeros(30, dtype=torch.long), 1, tmp_path)


def test_a_cache_that_cannot_be_used_ends_nothing(tmp_path, monkeypatch):
    """A file in the place of the folder, and files in it that are damaged or of something else."""
    monkeypatch.setattr(features, "EPOCHS", 1)
    images, labels = open_images(DataConfig("digits", channels=1)).tensor(64)
    expected = train_judge(images, labels, 10, tmp_path / "a").features(images)
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match=r"cache: the classifier is not kept for the next time \(.*file"):
        found = train_judge(images, labels, 10, tmp_path / "file")
    assert torch.equal(found.features(images), expected)
    (kept,) = (tmp_path / "a").iterdir()
    whole = kept.read_bytes()
    for damaged in (b"", whole[:-1], bytes([whole[0] ^ 1]) + whole[1:]):
        kept.write_bytes(damaged)
        assert torch.equal(train_judge(images, labels, 10, tmp_path / "a").features(images), expected)
        assert kept.stat().st_size == len(whole)
    kept.unlink()
    os.mkfifo(kept)
    assert torch.equal(train_judge(images, labels, 10, tmp_path / "a").features(images), expected)


# ---------------------------------------------------------------------- the program


@pytest.fixture
def compared(tmp_path, monkeypatch):
    """Real images of two classes in an array, samples like them in a folder, and the configuration that compares
    them."""
    monkeypatch.setattr(features, "EPOCHS", 1)
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    pixels = (rng.integers(0, 128, (60, 8, 8)) + 127 * labels[:, None, None]).astype(np.uint8)
    np.savez(tmp_path / "real.npz", images=pixels, labels=labels)
    (tmp_path / "samples").mkdir()
    for index in range(30):
        Image.fromarray(pixels[index]).save(tmp_path / "samples" / f"{index:02}.png")
    data = DataConfig(str(tmp_path / "real.npz"), channels=1, max_corrupt=2)
    return EvaluateConfig(tmp_path / "samples", data, cache=tmp_path / "cache")


def test_samples_of_another_size_are_refused(compared):
    Image.new("L", (8, 9)).save(compared.samples / "17.png")
    with pytest.raises(ValueError, match=r"samples: expected images of 8 × 8 pixels, .* got 9 × 8 in .*17\.png"):
        evaluate.evaluate(compared)
    assert not compared.cache.exists()
    np.savez(compared.samples / "samples.npz", images=np.zeros((5, 16, 16), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"samples: expected images of 8 × 8 pixels, .* got 16 × 16 in image 0"):
        evaluate.evaluate(compared)
    compared.data.size = 16
    assert evaluate.evaluate(compared)["samples"] == 5


def test_samples_that_cannot_be_read_are_counted(compared):
    whole = evaluate.evaluate(compared)
    assert (whole["samples"], whole["unreadable_samples"], whole["unreadable_real"]) == (30, 0, 0)
    (compared.samples / "03.png").write_bytes(b"nothing")
    (compared.samples / "07.png").write_bytes(b"nothing")
    with (
        pytest.warns(UserWarning, match=r"skipped an image that cannot be read: .*03\.png"),
        pytest.warns(UserWarning, match=r"skipped an image that cannot be read: .*07\.png"),
    ):
        found = evaluate.evaluate(compared)
    assert (found["samples"], found["unreadable_samples"], found["real"]) == (28, 2, 60)
    assert found["frechet"] != whole["frechet"]
    (compared.samples / "11.png").write_bytes(b"nothing")
    with (
        pytest.warns(UserWarning, match="skipped"),
        pytest.raises(ValueError, match=r"(?s)3 images cannot be read, data\.max_corrupt is 2.*03\.png.*11\.png"),
    ):
        evaluate.evaluate(compared)


def test_a_sample_that_goes_while_it_is_needed_is_named(compared, monkeypatch):
    judge = evaluate.train_judge

    def removing(*arguments):
        (compared.samples / "05.png").unlink()
        return judge(*arguments)

    monkeypatch.setattr(evaluate, "train_judge", removing)
    with pytest.raises(ValueError, match=r"05\.png: .*; it could be read when this program started"):
        evaluate.evaluate(compared)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limit": 1}, "limit: expected at least 2 images, got 1"),
        ({"limit": -5}, "limit: expected at least 2 images, got -5"),
        ({"metrics": []}, "metrics: expected at least one, got none"),
    ],
    ids=str,
)
def test_settings_that_say_nothing(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        EvaluateConfig(tmp_path, **settings)


def test_what_is_not_there_is_named_for_what_it_is(compared, tmp_path):
    real = compared.data.source
    compared.data.source = str(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"data\.source: expected a folder"):
        evaluate.evaluate(compared)
    np.save(tmp_path / "plain.npy", np.zeros((60, 8, 8), dtype=np.uint8))
    compared.data.source = str(tmp_path / "plain.npy")
    with pytest.raises(ValueError, match=r"data\.labels: expected labels in .*plain\.npy"):
        evaluate.evaluate(compared)
    compared.data.source = real
    (tmp_path / "empty").mkdir()
    for samples, message in ((tmp_path / "gone", "expected a folder"), (tmp_path / "empty", "has no image files")):
        compared.samples = samples
        with pytest.raises(ValueError, match=rf"^samples: .*{message}"):
            evaluate.evaluate(compared)


@pytest.mark.parametrize("output", ["nope/x.json", "folder", "pipe", "file/x.json"])
def test_an_output_that_cannot_be_written_is_said_before_anything_is_computed(compared, tmp_path, monkeypatch, output):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(evaluate, "evaluate", lambda config: pytest.fail("computed"))
    compared.output = tmp_path / output
    with pytest.raises(ValueError, match=rf"output: .*{output}"):
        evaluate.report(compared)


def test_metrics_are_printed_where_the_output_fails_in_the_end(compared, tmp_path, monkeypatch, capsys):
    def full(config):
        (tmp_path / "out").rmdir()
        return {"frechet": 1.5}

    (tmp_path / "out").mkdir()
    monkeypatch.setattr(evaluate, "evaluate", full)
    compared.output = tmp_path / "out" / "x.json"
    with pytest.raises(ValueError, match=r"output: .*x\.json cannot be written .*; the metrics are printed"):
        evaluate.report(compared)
    assert json.loads(capsys.readouterr().out) == {"frechet": 1.5}


def test_the_program_prints_and_writes_the_same(compared, tmp_path, capsys):
    arguments = ["--samples", compared.samples, "--data.source", compared.data.source, "--data.channels", "1"]
    arguments += ["--cache", compared.cache, "--output", tmp_path / "x.json", "--limit", "40"]
    evaluate.main([str(argument) for argument in arguments])
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert (printed["samples"], printed["real"], printed["held_out"]) == (30, 40, 4)


def test_inception_reads_the_same_images(compared, tmp_path, monkeypatch):
    """Those that can be read, drawn as for the classifier, in bytes; its metrics are torch-fidelity's."""
    torch.save({"weight": torch.zeros(1)}, tmp_path / "weights.pth")
    (compared.samples / "03.png").write_bytes(b"nothing")
    seen = {}

    def calculate_metrics(**options):
        seen.update(options)
        return {"frechet_inception_distance": np.float64(1.0)}

    module = types.ModuleType("torch_fidelity")
    module.__spec__ = types.SimpleNamespace()
    module.calculate_metrics = calculate_metrics
    monkeypatch.setitem(sys.modules, "torch_fidelity", module)
    compared.metrics, compared.inception, compared.limit = ["fid"], tmp_path / "weights.pth", 29
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = evaluate.evaluate(compared)
    assert found["frechet_inception_distance"] == 1.0
    assert len(seen["input1"]) == found["samples"] == seen["kid_subset_size"] == 29 - found["unreadable_samples"]
    assert len(seen["input2"]) == found["real"] == 29
    assert len(list(seen["input1"])) == found["samples"]
    real = open_images(compared.data).tensor(29, compared.seed)[0]
    bytes_ = ((real[7] + 1) * 127.5).round().byte()
    assert seen["input2"][7].dtype == torch.uint8
    assert torch.equal(seen["input2"][7], bytes_.expand(3, 8, 8))
