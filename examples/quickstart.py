"""Train Scale Space Diffusion on the handwritten digits of scikit-learn and draw new ones: minutes on a laptop's CPU.

    python examples/quickstart.py

writes to runs/quickstart/:
    samples.png            generated digits beside real ones
    trajectory.png         one sample from coarse to fine: states and estimates at every resolution
    model.safetensors      the (averaged) weights, with their configuration in the metadata: see `load`
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from einops import rearrange
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

# So that `python examples/quickstart.py` finds the other examples, from any folder.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import lineardiffusion as ld
from lineardiffusion.flexi_unet import FlexiUNet

matplotlib.use("Agg")  # files only: no screen is needed

NETWORK = {
    "image_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "model_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": (1, 2, 2),
    "attention_resolutions": (),  # the middle block has attention in any case
}
BATCH_SIZE = 64
LEARNING_RATE = 2e-3
EMA_DECAY = 0.99
SAMPLING_STEPS = 100
JUDGED_SAMPLES = 200


def digits() -> tuple[Tensor, np.ndarray]:
    """The 1797 digits of scikit-learn as images (N, 1, 8, 8) in [−1, 1], and their labels."""
    data = load_digits()
    return torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1, data.target


def train(denoiser: ld.Denoiser, images: Tensor, steps: int, generator: torch.Generator) -> ld.Denoiser:
    """Minimise the denoising loss with AdamW under a falling learning rate; returns the average of the last weights."""
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=LEARNING_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.05)
    average = AveragedModel(denoiser, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY))
    shown = None
    for step in (bar := tqdm(range(steps), desc="training", unit="step")):
        batch = images[torch.randint(len(images), (BATCH_SIZE,), generator=generator)]
        t = denoiser.process.sample_timesteps(BATCH_SIZE, generator)
        loss = ld.denoising_loss(denoiser, batch, t, generator=generator).mean()
        if not torch.isfinite(loss):
            raise RuntimeError(f"the loss is {loss.item()} at step {step} (t = {t.tolist()})")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(denoiser)
        shown = loss.item() if shown is None else 0.98 * shown + 0.02 * loss.item()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{shown:.4f}")
    return average.module.eval()


def judge(images: Tensor, labels: np.ndarray, samples: Tensor) -> str:
    """How many samples a classifier of real digits is sure about (confidence ≥ 0.9), beside held-out real digits."""
    x_train, x_test, y_train, y_test = train_test_split(
        images.flatten(1).numpy(), labels, test_size=0.2, random_state=0, stratify=labels
    )
    classifier = MLPClassifier((128, 128), max_iter=400, random_state=0).fit(x_train, y_train)

    def sure(x: np.ndarray) -> tuple[float, int]:
        """The share labelled with confidence ≥ 0.9, and the number of classes among those."""
        probabilities = classifier.predict_proba(x)
        confident = probabilities.max(1) >= 0.9
        return float(confident.mean()), len(set(probabilities.argmax(1)[confident]))

    share, found = sure(samples.flatten(1).numpy())
    return (
        f"{100 * share:.1f} % of {len(samples)} samples are labelled with confidence ≥ 0.9, "
        f"{found} of 10 classes are among them\n(held-out real digits: {100 * sure(x_test)[0]:.1f} %; "
        f"accuracy of the classifier on them: {100 * classifier.score(x_test, y_test):.1f} %)"
    )


def plot_samples(samples: Tensor, real: Tensor, path: Path) -> None:
    """Two square grids side by side."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 5.3), layout="constrained")
    for axis, images, title in zip(axes, (samples, real), ("generated", "real"), strict=True):
        padded = torch.nn.functional.pad(images[:100], (1, 1, 1, 1), value=-1)
        axis.imshow(rearrange(padded.numpy(), "(r c) 1 h w -> (r h) (c w)", c=10), cmap="gray", vmin=-1, vmax=1)
        axis.set_title(title)
        axis.axis("off")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_trajectory(states: list[tuple[float, Tensor, Tensor]], path: Path) -> None:
    """The states x_t of one sample (top) and the clean images estimated from them (bottom)."""
    figure, axes = plt.subplots(2, len(states), figsize=(1.35 * len(states), 3.3), layout="constrained")
    for column, (t, x_t, clean) in enumerate(states):
        for row, image in enumerate((x_t, clean)):
            limit = 1 if row else max(1.0, float(x_t.abs().max()))
            axes[row, column].imshow(image[0, 0], cmap="gray", vmin=-limit, vmax=limit)
            axes[row, column].set(xticks=[], yticks=[])
        axes[0, column].set_title(f"t = {t}\n{x_t.shape[-2]} × {x_t.shape[-1]}", fontsize=9)
        axes[1, column].set_xlabel(f"{clean.shape[-2]} × {clean.shape[-1]}", fontsize=9)
    axes[0, 0].set_ylabel("$x_t$", fontsize=12)
    axes[1, 0].set_ylabel("estimate", fontsize=12)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def save(denoiser: ld.Denoiser, path: Path) -> None:
    """Write the weights, with what the network and the denoiser are, whole or not at all."""
    weights = {name: value.contiguous() for name, value in denoiser.network.state_dict().items()}
    about = {"network": json.dumps(NETWORK), "denoiser": json.dumps(denoiser.to_config())}
    with ld.training.whole_file(path) as partial:
        partial.write_bytes(to_bytes(weights, metadata=about))


def load(path: Path) -> ld.Denoiser:
    """The denoiser that `save` wrote, ready to sample from."""
    with safe_open(path, "pt") as file:
        about = {name: json.loads(text) for name, text in file.metadata().items()}
        network = FlexiUNet(**about["network"])
        network.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    return ld.from_config(about["denoiser"], network=network.eval())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000, help="training steps (default: %(default)s)")
    parser.add_argument("--levels", type=int, default=3, help="resolutions, from 8 × 8 down (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart"), help="folder (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.steps < 1:
        parser.error(f"--steps: expected at least 1, got {arguments.steps}")
    try:
        run(arguments)
    except (OSError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")


def run(arguments: argparse.Namespace) -> None:
    """Train, save, draw, judge; what comes of it is in the folder `out`.

    Raises:
        ValueError: more levels than the images have, or a seed that is none.
        OSError: a folder that cannot be written to.
    """
    started = time.monotonic()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(arguments.seed)
    generator = torch.Generator().manual_seed(arguments.seed)

    images, labels = digits()
    process = ld.ScaleSpaceDiffusion((1, 8, 8), levels=arguments.levels)
    denoiser = ld.Denoiser(FlexiUNet(**NETWORK), process)
    parameters = sum(parameter.numel() for parameter in denoiser.parameters())
    print(f"{process}: {parameters / 1e6:.1f} M parameters, {len(images)} images, {torch.get_num_threads()} threads")
    denoiser = train(denoiser, images, arguments.steps, generator)
    save(denoiser, arguments.out / "model.safetensors")

    sampler = ld.AncestralSampler(denoiser, steps=SAMPLING_STEPS, clip=(-1, 1))
    samples = sampler(JUDGED_SAMPLES, seeds=range(JUDGED_SAMPLES))
    plot_samples(samples, images[torch.randperm(len(images), generator=generator)], arguments.out / "samples.png")
    states = list(sampler.trajectory(1, seeds=[0], progress=False))
    changes = process.shape_changes()
    grown = [sampler.times[sampler.times.index(t) + 1] for t in changes]
    between = [min(sampler.times, key=lambda kept, t=t: abs(kept - t)) for t in (400, 300, 200, 100, 40)]
    shown = {process.num_steps, *changes, *grown, *between, 0}
    plot_trajectory([state for state in states if state[0] in shown], arguments.out / "trajectory.png")

    print(judge(images, labels, samples))
    print(f"all in {time.monotonic() - started:.0f} s; look at")
    for name in ("samples.png", "trajectory.png", "model.safetensors"):
        print(f"    {arguments.out / name}")


if __name__ == "__main__":
    main()
