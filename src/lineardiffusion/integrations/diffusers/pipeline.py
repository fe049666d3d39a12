"""A pipeline of diffusers for processes whose shape grows, and for any other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, cast

import torch
from diffusers import DiffusionPipeline, ModelMixin
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from torch import Tensor, nn

from lineardiffusion.integrations import hub
from lineardiffusion.integrations.diffusers.scheduler import LinearDiffusionScheduler

_SCHEDULER = "scheduler"


class OtherNetwork(ModelMixin):  # type: ignore[misc]
    """A network that is no model of diffusers, with the `device` and the `dtype` that their pipelines ask for."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


class LinearDiffusionPipeline(DiffusionPipeline):  # type: ignore[misc]
    r"""Images from a network and a `LinearDiffusionScheduler`: `scheduler.sampler(unet)`, whatever shapes it passes.

    Arguments:
        unet: called as unet(x, time, **conditioning); where the shape grows it is also told the size=(H, W) to return.
        scheduler: with a process.

    Examples:
        >>> import lineardiffusion as ld
        >>> from lineardiffusion.flexi_unet import SETTINGS, FlexiUNet
        >>> from lineardiffusion.integrations.diffusers import LinearDiffusionPipeline, LinearDiffusionScheduler
        >>> process = ld.ScaleSpaceDiffusion((3, 16, 16), levels=2)
        >>> scheduler = LinearDiffusionScheduler(process, "clean", solver="AncestralSampler")
        >>> pipeline = LinearDiffusionPipeline(FlexiUNet(16, **SETTINGS["tiny"]), scheduler)
        >>> pipeline.set_progress_bar_config(disable=True)
        >>> pipeline(batch_size=2, seeds=[0, 1], num_inference_steps=4, output_type="np").images.shape
        (2, 16, 16, 3)
    """

    model_cpu_offload_seq = "unet"

    def __init__(self, unet: nn.Module, scheduler: LinearDiffusionScheduler) -> None:
        super().__init__()
        model = unet if isinstance(unet, ModelMixin) else OtherNetwork(unet)
        self.register_modules(unet=model, scheduler=scheduler)

    @property
    def network(self) -> nn.Module:
        """The network as it was given."""
        return self.unet.network if isinstance(self.unet, OtherNetwork) else self.unet

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: torch.Generator | None = None,
        seeds: Sequence[int] | None = None,
        num_inference_steps: int = 50,
        output_type: str = "pil",
        return_dict: bool = True,
        **conditioning: Any,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draw images.

        Arguments:
            batch_size: how many.
            generator: the source of all noise.
            seeds: one for each image in its place: seeds[i] alone decides image i.
            num_inference_steps: on the grid of the scheduler.
            output_type: "pil", "np" (in [0, 1], (B, H, W, C)) or "pt" (in [0, 1], (B, C, H, W)).
            return_dict: an object with `.images`, or a tuple of them.
            conditioning: passed on to the network.

        Raises:
            ValueError: an unknown output type, or as `ld` samplers.
        """
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"output_type: expected 'pil', 'np' or 'pt', got {output_type!r}")
        self.scheduler.set_timesteps(num_inference_steps)
        sampler = self.scheduler.sampler(self.network)
        states = sampler.trajectory(batch_size, seeds, generator, progress=False, **conditioning)
        with self.progress_bar(total=num_inference_steps) as bar:
            for _ in range(num_inference_steps):
                next(states)
                bar.update()
        _, x_0, _ = next(states)
        images: Any = self._images(x_0, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _images(self, x_0: Tensor, output_type: str) -> Any:
        images = (x_0.float() / 2 + 0.5).clamp(0, 1)
        if output_type == "pt":
            return images
        array = images.cpu().permute(0, 2, 3, 1).numpy()
        return self.numpy_to_pil(array) if output_type == "pil" else array

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], safe_serialization: bool = True, variant: str | None = None
    ) -> None:
        """Write the denoiser (as `hub.save_pretrained` does, which loads it alone) and the scheduler to a folder.

        Arguments:
            save_directory: made if it is not there.
            safe_serialization, variant: True and None, which `push_to_hub` of diffusers passes.
        """
        if not safe_serialization or variant is not None:
            got = f"{safe_serialization}, {variant!r}"
            raise ValueError(f"safe_serialization, variant: expected True, None, since there is no pickle, got {got}")
        hub.save_pretrained(self.scheduler.denoiser(self.network), save_directory)
        self.scheduler.save_pretrained(os.path.join(save_directory, _SCHEDULER))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        network: nn.Module | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
    ) -> LinearDiffusionPipeline:
        """The pipeline of a folder, or of a repository of the Hub.

        Arguments: as for `hub.from_pretrained`.
        """
        denoiser = hub.from_pretrained(pretrained_model_name_or_path, network, revision=revision, token=token)
        scheduler = LinearDiffusionScheduler.from_pretrained(
            pretrained_model_name_or_path, subfolder=_SCHEDULER, revision=revision, token=token
        )
        return cls(cast(nn.Module, denoiser.network), scheduler)
