"""Denoisers come back from a folder, or a repository of the Hub, with their process; nothing of it is run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import lineardiffusion as ld
from lineardiffusion.flexi_unet import SETTINGS, FlexiUNet, FullUNet, ResizedFlexiUNet, shared_levels
from lineardiffusion.integrations import hub
from lineardiffusion.time_inputs import NearestIndex

huggingface_hub = pytest.importorskip("huggingface_hub")


class Own(torch.nn.Module):
    def __init__(self, channels=1):
        super().__init__()
        self.layer = torch.nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x, time):
        return self.layer(x)


def network_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (32,)}
    return diffusers.UNet2DModel(8, 1, 1, layers_per_block=1, **blocks)


def denoisers():
    levels = shared_levels((24, 16), depth=3, num_levels=3, ds_factor=1.5)
    pyramid = ld.ScaleSpaceDiffusion((1, 16, 16), levels=2, num_steps=50)
    uneven = ld.ScaleSpaceDiffusion((1, 24, 16), levels=3, factor=list(levels)[1:])
    tiny = {**SETTINGS["tiny"], "in_channels": 1, "out_channels": 1}
    return {
        "flexi": lambda: ld.Denoiser(FlexiUNet(16, **tiny), pyramid),
        "flexi of shared levels": lambda: ld.Denoiser(
            FlexiUNet((24, 16), unet_res_layer_map=levels, **tiny), uneven, "clean", NearestIndex()
        ),
        "resized": lambda: ld.Denoiser(ResizedFlexiUNet(16, num_classes=3, **tiny), pyramid, "data"),
        "full": lambda: ld.Denoiser(FullUNet(16, **tiny), ld.EDM((1, 16, 16)), ld.EDMPrediction(0.7)),
        "diffusers": lambda: ld.Denoiser(network_of_diffusers(), ld.DDPM((1, 8, 8)), "noise"),
    }


@pytest.mark.parametrize("name", denoisers())
def test_denoisers_come_back(name, tmp_path):
    torch.manual_seed(0)
    denoiser = denoisers()[name]()
    hub.save_pretrained(denoiser, tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    torch.manual_seed(1)
    other = hub.from_pretrained(folder)
    assert other == denoiser
    assert not other.training
    assert type(other.network) is type(denoiser.network)
    for key, value in denoiser.state_dict().items():
        assert torch.equal(other.state_dict()[key], value)


def test_other_networks_are_given(tmp_path):
    denoiser = ld.Denoiser(Own(), ld.DDPM((1, 8, 8)), "velocity")
    hub.save_pretrained(denoiser, tmp_path)
    with pytest.raises(ValueError, match="network: expected network=, the Own"):
        hub.from_pretrained(tmp_path)
    other = hub.from_pretrained(tmp_path, Own().double())
    assert other == denoiser
    assert torch.equal(other.network.layer.weight, denoiser.network.layer.weight.double())


@pytest.mark.parametrize("named", ["os.system", "Own", "FlexiUNet", "DiffusionPipeline", "UNet2DModel", "__class__"])
@pytest.mark.parametrize("library", ["os", "diffusers", "tests.test_hub", "lineardiffusion", None])
def test_no_class_but_a_network_is_made_by_name(named, library, tmp_path):
    hub.save_pretrained(ld.Denoiser(Own(), ld.DDPM((1, 8, 8)), "noise"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["network"] = {"library": library, "class": named, "arguments": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    if (library, named) in {("lineardiffusion", "FlexiUNet"), ("diffusers", "UNet2DModel")}:
        return
    with pytest.raises(ValueError, match=f"network: expected network=, the {named}"):
        hub.from_pretrained(tmp_path)


def test_what_is_missing_or_does_not_fit_is_named(tmp_path):
    def copy(name):
        return Path(shutil.copytree(tmp_path / "saved", tmp_path / name))

    hub.save_pretrained(ld.Denoiser(Own(), ld.DDPM((1, 8, 8)), "noise"), tmp_path / "saved")
    with pytest.raises(FileNotFoundError, match="expected a folder, or 'owner/name'"):
        hub.from_pretrained(tmp_path / "nowhere")
    (copy("no config") / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json: expected the configuration"):
        hub.from_pretrained(tmp_path / "no config", Own())
    (copy("no weights") / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors: expected the weights"):
        hub.from_pretrained(tmp_path / "no weights", Own())
    (copy("broken") / "model.safetensors").write_bytes(b"not these")
    with pytest.raises(ValueError, match="broken: expected the weights of this denoiser"):
        hub.from_pretrained(tmp_path / "broken", Own())
    for text, message in (("{", "expected JSON"), ("{}", "expected the keys 'denoiser' and 'network'")):
        (copy(message) / "config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            hub.from_pretrained(tmp_path / message, Own())
    with pytest.raises(ValueError, match=r"(?s)this denoiser and a Own: .*size mismatch for network\.layer\.weight"):
        hub.from_pretrained(tmp_path / "saved", Own(channels=2))
    other = json.loads((copy("other") / "config.json").read_text())
    other["denoiser"]["process"] = ld.DDPM((1, 8, 8), schedule="cosine").to_config()
    (tmp_path / "other" / "config.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match="weights of another denoiser: process"):
        hub.from_pretrained(tmp_path / "other", Own())
    other["denoiser"] = {"type": "families.DDPM", "shape": [1]}
    (tmp_path / "other" / "config.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match=r"expected the configuration of an ld\.Denoiser"):
        hub.from_pretrained(tmp_path / "other", Own())


def test_what_cannot_be_saved_is_named(tmp_path):
    ddpm = ld.DDPM((1, 8, 8))
    with pytest.raises(TypeError, match=r"denoiser: expected an ld\.Denoiser, got Own"):
        hub.save_pretrained(Own(), tmp_path / "a")
    with pytest.raises(TypeError, match=r"whose network is a torch\.nn\.Module"):
        hub.save_pretrained(ld.Denoiser(lambda x, t: x, ddpm, "noise"), tmp_path / "a")
    with pytest.raises(TypeError, match="expected the one that is guided"):
        hub.save_pretrained(ld.guided(ld.Denoiser(Own(), ddpm, "noise"), 2.0, {"y": 0}), tmp_path / "a")
    chain = ld.LinearDiffusion([ld.Diagonal(torch.full((1, 8, 8), 0.9))] * 2, [0.0, 0.5, 0.8])
    with pytest.raises(TypeError, match="object with a configuration"):
        hub.save_pretrained(ld.Denoiser(Own(), chain, "clean"), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_repositories_of_the_hub(tmp_path, monkeypatch):
    """As the Hub's own functions are called; there is no network here."""
    uploaded = tmp_path / "uploaded"

    class Api:
        def __init__(self, token=None):
            assert token == "secret"

        def create_repo(self, repo_id, private=None, exist_ok=False):
            assert (repo_id, private, exist_ok) == ("me/digits", True, True)
            return huggingface_hub.RepoUrl("https://huggingface.co/me/digits")

        def upload_folder(self, repo_id, folder_path, commit_message):
            shutil.copytree(folder_path, uploaded)
            return f"https://huggingface.co/{repo_id}/commit/1"

    def snapshot_download(repo_id, revision=None, token=None, allow_patterns=None):
        assert (repo_id, revision, token) == ("me/digits", "v1", None)
        assert all(any(path.match(pattern) for pattern in allow_patterns) for path in uploaded.iterdir())
        return str(uploaded)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    denoiser = ld.Denoiser(Own(), ld.DDPM((1, 8, 8)), "noise")
    assert hub.push_to_hub(denoiser, "me/digits", private=True, token="secret").endswith("/me/digits/commit/1")
    other = hub.from_pretrained("me/digits", Own(), revision="v1")
    assert torch.equal(other.network.layer.weight, denoiser.network.layer.weight)
    with pytest.raises(FileNotFoundError, match="expected a folder, or 'owner/name'"):
        hub.from_pretrained("digits", Own())
