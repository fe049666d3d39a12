"""A degradation of your own, from its first line to samples: motion blur and a mask, on handwritten digits.

    python examples/new_degradation.py

takes about four minutes on two CPU cores and writes to runs/new_degradation/:
    degraded.png    a digit at several times: without noise, and as the network sees it
    samples.png     generated digits beside real ones
docs/new_degradation.md explains it step by step.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

# So that `python examples/new_degradation.py` finds the other examples, from any folder.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import lineardiffusion as ld
from examples.quickstart import digits, plot_samples
from lineardiffusion.flexi_unet import FullUNet

matplotlib.use("Agg")  # files only: no screen is needed

SHAPE = (1, 8, 8)
NUM_STEPS = 40


class MovingCamera(ld.LinearOperator):
    """Every pixel leaks to its right neighbour, as if the camera moved; then the image is multiplied by a mask."""

    def __init__(self, shape: tuple[int, ...], leak: float, mask: Tensor) -> None:
        super().__init__(in_shape=shape, out_shape=shape)
        self.leak, self.mask = leak, mask

    def apply(self, x: Tensor) -> Tensor:
        left_neighbour = F.pad(x, (1, 0))[..., :-1]
        return self.mask.to(x) * ((1 - self.leak) * x + self.leak * left_neighbour)


def make_process(step: ld.LinearOperator) -> ld.LinearDiffusion:
    """The same small degradation in every step, and the noise of a cosine schedule."""
    return ld.LinearDiffusion(ld.paths.chain([step] * NUM_STEPS), ld.schedules.cosine(NUM_STEPS))


def train(denoiser: ld.Denoiser, images: Tensor, steps: int, generator: torch.Generator) -> None:
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=max(2, steps), pct_start=0.05)
    for _ in tqdm(range(steps), desc="training", unit="step"):
        batch = images[torch.randint(len(images), (64,), generator=generator)]
        t = denoiser.process.sample_timesteps(64, generator)
        loss = ld.denoising_loss(denoiser, batch, t, generator=generator).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def plot_degraded(process: ld.LinearDiffusion, image: Tensor, generator: torch.Generator, path: Path) -> None:
    times = [0, 5, 10, 20, 30, 40]
    figure, axes = plt.subplots(2, len(times), figsize=(1.6 * len(times), 3.6), layout="constrained")
    for column, t in enumerate(times):
        axes[0, column].imshow(process.clean(image, t)[0].numpy(), cmap="gray", vmin=-1, vmax=1)
        axes[1, column].imshow(process.diffuse(image, t, generator=generator)[0].numpy(), cmap="gray", vmin=-2, vmax=2)
        axes[0, column].set_title(f"t = {t}")
    axes[0, 0].set_ylabel("$c_t$")
    axes[1, 0].set_ylabel("$x_t$")
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500, help="training steps (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/new_degradation"), help="folder for the pictures")
    arguments = parser.parse_args()
    if arguments.steps < 1:
        parser.error(f"--steps: expected at least 1, got {arguments.steps}")
    try:
        arguments.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--output: expected a folder that can be written to, got {arguments.output} ({error.strerror})")
    torch.manual_seed(0)  # the initial weights
    generator = torch.Generator().manual_seed(0)

    mask = torch.linspace(1.0, 0.94, 8)[:, None].expand(SHAPE)  # darker from top to bottom
    camera = MovingCamera(SHAPE, leak=0.05, mask=mask)
    ld.testing.check_operator(camera)

    dense = ld.Matrix(camera.to_dense(), camera.in_shape, camera.out_shape)
    process = make_process(dense)
    ld.testing.check_process(process)

    images, _ = digits()
    plot_degraded(process, images[0], generator, arguments.output / "degraded.png")

    network = FullUNet(8, in_channels=1, out_channels=1, model_channels=32, num_res_blocks=1, channel_mult=(1, 2, 2))
    denoiser = ld.Denoiser(network, process)
    train(denoiser, images, arguments.steps, generator)

    samples = ld.AncestralSampler(denoiser.eval(), clip=(-1, 1))(100, seeds=range(100))
    plot_samples(samples, images, arguments.output / "samples.png")
    print(f"wrote {arguments.output}/degraded.png and samples.png")


if __name__ == "__main__":
    main()
