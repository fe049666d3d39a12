"""The library as its users write it, for their type checkers: mypy --strict and pyright find nothing here, and infer
the types that are asserted. `make lint` runs mypy on it, tests/test_package.py runs the program."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from typing_extensions import assert_type

import lineardiffusion as ld
from lineardiffusion.flexi_unet import SETTINGS, FlexiUNet

SHAPE = (1, 8, 8)


class Vignette(ld.LinearOperator):
    """A degradation of one's own."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__(in_shape=mask.shape, out_shape=mask.shape)
        self.mask = mask

    def apply(self, x: Tensor) -> Tensor:
        return self.mask * x


class Network(nn.Module):
    """A network of one's own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, t_index: Tensor, size: Sequence[int]) -> Tensor:
        mixed: Tensor = self.mix(x)
        return nn.functional.interpolate(mixed, (size[0], size[1]))


def operators() -> None:
    x = torch.rand(2, *SHAPE)
    vignette = Vignette(torch.linspace(0.9, 1.0, 8).expand(SHAPE))
    ld.testing.check_operator(vignette)
    assert_type(vignette(x), Tensor)
    assert_type(vignette.transpose(x), Tensor)
    assert_type(vignette.T, ld.LinearOperator)
    assert_type(vignette @ ld.Identity(SHAPE), ld.LinearOperator)
    assert_type(2.0 * vignette, ld.LinearOperator)
    assert_type(vignette + ld.Diagonal(torch.ones(SHAPE)), ld.LinearOperator)
    assert_type(vignette.norm(), float)
    assert_type(vignette.gram_function(torch.sqrt, x), Tensor)
    assert_type(vignette.to_dense(), Tensor)
    small = ld.Resize(SHAPE, (4, 4), "area") @ vignette
    assert_type(small.out_shape, tuple[int, ...])
    assert_type(ld.lanczos_sqrt(lambda v: 2 * v, x, event_ndim=3), Tensor)
    cosine = ld.bases.Cosine(SHAPE)
    assert_type(cosine.synthesise(cosine.analyse(x)), Tensor)


def processes() -> list[ld.LinearDiffusion]:
    vignette = Vignette(torch.linspace(0.9, 1.0, 8).expand(SHAPE))
    own = ld.LinearDiffusion(ld.paths.chain([vignette] * 10), ld.schedules.cosine(10))
    heat = ld.LinearDiffusion(ld.paths.heat(SHAPE), ld.schedules.vp())
    families = [ld.DDPM(SHAPE), ld.FlowMatching(SHAPE, shift=3.0), ld.families.GUD(SHAPE)]
    x_0, generator = torch.rand(4, *SHAPE), torch.Generator()
    x_5 = own.diffuse(x_0, t=5, generator=generator)
    assert_type(x_5, Tensor)
    assert_type(own.posterior(x_5, own.clean(x_0, 4), t=5, s=4), ld.Gaussian)
    assert_type(own.posterior(x_5, own.clean(x_0, 4), t=5).sample(generator=generator), Tensor)
    assert_type(own.marginal(5), ld.GaussianMarginal)
    assert_type(own.shape(5), tuple[int, ...])
    assert_type(own.sample_timesteps(4, generator), Tensor)
    assert_type(own.prior(4, generator), Tensor)
    again: ld.LinearDiffusion = ld.from_config(families[0].to_config())
    return [own, heat, again, *families]


def training() -> ld.Denoiser:
    process = ld.ScaleSpaceDiffusion(SHAPE, levels=2, resolution_schedule=ld.convex_decay(0.5))
    network = FlexiUNet(8, in_channels=1, out_channels=1, **SETTINGS["tiny"])
    denoiser = ld.Denoiser(network, process, prediction="clean")
    optimizer = torch.optim.AdamW(denoiser.parameters())
    t = process.sample_timesteps(4)
    loss = ld.denoising_loss(denoiser, torch.rand(4, *SHAPE), t, weighting=ld.MinSNR(5.0)).mean()
    assert_type(loss, Tensor)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # of torch
    optimizer.step()
    average = ld.training.ExponentialMovingAverage(denoiser, 0.99)
    average.update(denoiser)
    assert_type(denoiser(torch.rand(2, *process.shape(1000)), 1000), Tensor)
    ld.Denoiser(Network(1), process)
    ld.Denoiser(lambda x, t_index, size: torch.zeros(len(x), 1, *size), process, "data", time_input="log_snr")
    return denoiser


def sampling(denoiser: ld.Denoiser) -> None:
    sampler = ld.DDIMSampler(denoiser, steps=4, eta=0.5, order=1, clip=(-1, 1))
    samples = sampler(2, seeds=range(2), progress=False)
    assert_type(samples, Tensor)
    for t, x_t, estimate in sampler.trajectory(2, seeds=[0, 1], progress=False):
        assert_type(x_t, Tensor)
        assert_type(estimate, Tensor)
        assert t >= 0
    times = [1000, *denoiser.process.shape_changes(), 100]
    ld.AncestralSampler(denoiser, steps=times)(2, generator=torch.Generator(), progress=False)
    ld.DDIMSampler(denoiser, steps=ld.grids.trailing(4))
    guided = ld.guided(denoiser, 2.0, null={"y": torch.zeros(2, dtype=torch.long)})
    ld.HeunSampler(guided, steps=4)
    ld.save_images(samples, Path(tempfile.mkdtemp()) / "samples.png", columns=2)


def laboratory() -> None:
    covariance = torch.diag(torch.arange(1.0, 17.0) ** -2)
    error = ld.lab.evaluate(ld.DDPM((1, 16)), covariance, sampler="ddim", steps=10, order=2)
    assert_type(error.relative_w2, float)


def main() -> None:
    operators()
    for process in processes():
        repr(process)
    sampling(training())
    laboratory()


if __name__ == "__main__":
    main()
