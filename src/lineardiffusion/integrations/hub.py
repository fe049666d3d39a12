r"""Denoisers on the Hugging Face Hub, or in a folder: weights as safetensors, all else as JSON.

    config.json         the denoiser: its process, prediction and time input, and the class and arguments of its network
    model.safetensors   its state dict, which says what it belongs to (in parts, with an index, where it is large)

Nothing that is loaded is run: there is no pickle, and a network is named only by the name of a class of
`lineardiffusion.flexi_unet` or of a model of diffusers. Any other is given by whoever loads it, as `network=`. Needs
`pip install huggingface_hub safetensors`.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import nn

from lineardiffusion import flexi_unet
from lineardiffusion.config import from_config
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.guidance import GuidedDenoiser
from lineardiffusion.training import whole_file

CONFIG = "config.json"
WEIGHTS = "model{suffix}.safetensors"

_FLEXI: dict[str, type[nn.Module]] = {
    kind.__name__: kind for kind in (flexi_unet.FlexiUNet, flexi_unet.ResizedFlexiUNet, flexi_unet.FullUNet)
}


def save_pretrained(denoiser: Denoiser, folder: str | os.PathLike[str]) -> None:
    """Write a denoiser to a folder.

    Arguments:
        denoiser: one whose network is a module.
        folder: made if it is not there.

    Raises:
        TypeError: no denoiser, a network that is a function, or a process or prediction without a configuration.

    Examples:
        >>> import tempfile, torch, lineardiffusion as ld
        >>> from lineardiffusion.flexi_unet import SETTINGS, FlexiUNet
        >>> from lineardiffusion.integrations import hub
        >>> process = ld.ScaleSpaceDiffusion((3, 16, 16), levels=2)
        >>> folder = tempfile.mkdtemp()
        >>> hub.save_pretrained(ld.Denoiser(FlexiUNet(16, **SETTINGS["tiny"]), process), folder)
        >>> hub.from_pretrained(folder).process == process
        True
    """
    from huggingface_hub import save_torch_model

    if not isinstance(denoiser, Denoiser):
        raise TypeError(f"denoiser: expected an ld.Denoiser, got {type(denoiser).__name__}")
    if isinstance(denoiser, GuidedDenoiser):
        raise TypeError("denoiser: expected the one that is guided, got ld.guided(…); guide it when it is loaded")
    if not isinstance(denoiser.network, nn.Module):
        raise TypeError(f"denoiser: expected one whose network is a torch.nn.Module, got {denoiser.network!r}")
    config = {"denoiser": denoiser.to_config(), "network": _network_config(denoiser.network)}
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    with whole_file(path / CONFIG) as partial:
        partial.write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")
    save_torch_model(denoiser, path, filename_pattern=WEIGHTS)


def from_pretrained(
    folder_or_repo: str | os.PathLike[str],
    network: nn.Module | None = None,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
) -> Denoiser:
    """The denoiser of a folder, or of a repository of the Hub.

    Arguments:
        folder_or_repo: what `save_pretrained` wrote, or "owner/name" of what `push_to_hub` did.
        network: the network that the weights are loaded into; by default one is made, where the config names its class.
        revision: a branch, a tag or a commit of the repository.
        token: of the Hub, where one is needed that is not the one logged in with.

    Returns:
        The denoiser, in evaluation mode, on the CPU and in float32, or where and what the network is that was given.

    Raises:
        FileNotFoundError: a folder without one of the files.
        ValueError: a config that says nothing of a denoiser, weights of another process or prediction, or ones that do
            not fit the network, or a network that cannot be made by name.
    """
    folder = _folder(folder_or_repo, revision, token)
    config = _config(folder / CONFIG)
    if network is None:
        network = _network(config["network"])
    try:
        denoiser: Denoiser = from_config(config["denoiser"], network=network)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / CONFIG}: expected the configuration of an ld.Denoiser: {error}") from error
    _load(denoiser, folder)
    return denoiser.eval()


def push_to_hub(
    denoiser: Denoiser,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str = "A denoiser and its process",
) -> str:
    """Write a denoiser to a repository of the Hub, which is made if it is not there.

    Arguments:
        denoiser: as for `save_pretrained`.
        repo_id: "owner/name".
        private: of a repository that is made.
        token: of the Hub, where one is needed that is not the one logged in with.
        commit_message: of the commit.

    Returns:
        The address of the commit.

    Raises:
        TypeError: as `save_pretrained`.
    """
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(denoiser, folder)  # first, so that nothing is made for what cannot be saved
        api = HfApi(token=token)
        repo = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message=commit_message))


# ------------------------------------------------------------------------------------------------------------ networks


def _network_config(network: nn.Module) -> dict[str, Any]:
    """The class of a network by name, and its arguments where it can be made of them again."""
    kind = type(network)
    if kind is _FLEXI.get(kind.__name__):
        return {"library": "lineardiffusion", "class": kind.__name__, "arguments": network.settings}
    if kind is _diffusers_model(kind.__name__):
        arguments = json.loads(cast(Any, network).to_json_string())
        return {"library": "diffusers", "class": kind.__name__, "arguments": arguments}
    return {"library": None, "class": kind.__name__}


def _network(config: Mapping[str, Any]) -> nn.Module:
    library, name = config.get("library"), str(config.get("class"))
    if library == "lineardiffusion" and name in _FLEXI:
        return _FLEXI[name](**config["arguments"])
    kind = _diffusers_model(name) if library == "diffusers" else None
    if kind is None:
        needs = "; install diffusers" if library == "diffusers" else ""
        raise ValueError(
            f"network: expected network=, the {name} that the weights belong to, since only the networks of "
            f"lineardiffusion.flexi_unet and the models of diffusers are made by name{needs}"
        )
    return kind.from_config(config["arguments"])  # type: ignore[attr-defined, no-any-return]


def _diffusers_model(name: str) -> type[nn.Module] | None:
    """A model class of diffusers, if there is one of that name."""
    try:
        import diffusers
    except ImportError:
        return None
    kind = getattr(diffusers, name, None)
    is_model = isinstance(kind, type) and issubclass(kind, diffusers.ModelMixin) and issubclass(kind, nn.Module)
    return kind if is_model else None


# --------------------------------------------------------------------------------------------------------------- files


def _folder(folder_or_repo: str | os.PathLike[str], revision: str | None, token: str | bool | None) -> Path:
    path = Path(folder_or_repo)
    if path.is_dir():
        return path
    if path.exists() or path.is_absolute() or len(path.parts) != 2:
        raise FileNotFoundError(f"{folder_or_repo}: expected a folder, or 'owner/name' of a repository of the Hub")
    from huggingface_hub import snapshot_download

    patterns = [CONFIG, "*.safetensors", "*.safetensors.index.json"]
    return Path(snapshot_download(str(folder_or_repo), revision=revision, token=token, allow_patterns=patterns))


def _config(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected the configuration that save_pretrained writes, got no file")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON: {error}") from error
    if not isinstance(config, dict) or not {"denoiser", "network"} <= config.keys():
        raise ValueError(f"{path}: expected the keys 'denoiser' and 'network', which hub.save_pretrained writes")
    return config


def _load(denoiser: Denoiser, folder: Path) -> None:
    from huggingface_hub import load_torch_model
    from safetensors import SafetensorError

    names = [WEIGHTS.format(suffix=""), WEIGHTS.format(suffix="") + ".index.json"]
    if not any((folder / name).is_file() for name in names):
        raise FileNotFoundError(
            f"{folder / names[0]}: expected the weights of a denoiser, which save_pretrained writes"
        )
    try:
        load_torch_model(denoiser, folder, strict=True, filename_pattern=WEIGHTS)
    except (RuntimeError, ValueError, SafetensorError) as error:
        kind = type(denoiser.network).__name__
        raise ValueError(f"{folder}: expected the weights of this denoiser and a {kind}: {error}") from error
