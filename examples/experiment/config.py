"""The configuration of a run: typed, from a YAML file and the command line, and kept with the run.

jsonargparse reads the dataclasses below: their types are checked, their docstrings are the help, and every field can be
given in a file (`--config run.yaml`) and overridden on the command line (`--process.levels 3`).
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

import lineardiffusion as ld
from examples.experiment.checks import check_settings
from lineardiffusion.training import whole_file

COMPARED_BY_CONTENT = {
    "data.source", "data.split", "data.size", "data.channels", "data.max_corrupt", "network.weights",
}  # fmt: skip
"""What may be spelt otherwise when a run is resumed: the images and weights that come of it are compared."""

WEIGHTINGS = {
    "min-snr": ld.MinSNR(5.0),
    "max-snr": ld.MaxSNR(5.0),
    "snr": ld.SNR(),
    "inverse-snr": ld.InverseSNR(),
    "truncated-snr": ld.TruncatedSNR(),
    "uniform": ld.Uniform(),
    "velocity": ld.Velocity(),
    "flow": ld.Flow(),
    "edm": ld.losses.EDM(),
}


@dataclass
class DataConfig:
    """Images to learn from.

    Args:
        source: a folder of images, a .npz or .npy file of bytes, "digits" (scikit-learn's, 8 × 8), or "hf:<name>" of
            Hugging Face datasets. The classes of a folder are the folders in it.
        size: pixels, one number for a square or height and width; images are cropped at the centre and resized. A
            folder needs it; arrays keep their size without it.
        channels: 3 for colour, 1 for grey.
        flip: mirror every other image, at random.
        labels: learn the classes too, so that they can be asked for.
        max_corrupt: how many unreadable images to skip, with a warning for each, before stopping.
        split: the split of a Hugging Face dataset.
    """

    source: str = "digits"
    size: int | tuple[int, int] | None = None
    channels: Literal[1, 3] = 3
    flip: bool = False
    labels: bool = False
    max_corrupt: int = 10
    split: str = "train"

    def __post_init__(self) -> None:
        if self.size is not None and min((self.size,) if isinstance(self.size, int) else self.size) < 1:
            raise ValueError(f"data.size: expected positive numbers of pixels, got {self.size}")


@dataclass
class ProcessConfig:
    """The diffusion process.

    Args:
        family: DDPM, Blurring Diffusion, Scale Space Diffusion (ssd), flow matching or EDM.
        prediction: what the network predicts, such as "flow" of flow matching and "edm" of EDM, its preconditioned
            network; with several levels ssd knows "clean" and "data" alone, and flow matching no "noise".
        levels: resolutions of ssd.
        decay: the power p of ssd's resolution schedule convex_decay(p).
        changes: the first t of each lower resolution of ssd instead, such as the shape_changes() of a process with
            ld.snr_matched(spectrum); one fewer than levels.
        mode: how ssd's levels resample: "bilinear" as in the paper, or "haar" for orthonormal levels, whose coarse
            states lose nothing of what finer ones show at their resolution (see docs/laboratory.md).
        num_steps: T of ddpm, blurring and ssd; the time of flow and edm is in [0, 1].
        schedule: the noise schedule of ddpm and ssd (Blurring Diffusion has its own).
        blur_sigma_max: greatest blur of Blurring Diffusion, in pixels.
    """

    family: Literal["ddpm", "blurring", "ssd", "flow", "edm"] = "ssd"
    prediction: Literal["clean", "data", "noise", "velocity", "flow", "edm"] = "clean"
    levels: int = 3
    decay: float = 0.5
    changes: list[int] | None = None
    mode: Literal["bilinear", "haar"] = "bilinear"
    num_steps: int = 1000
    schedule: Literal["linear", "cosine"] = "linear"
    blur_sigma_max: float = 20.0


@dataclass
class NetworkConfig:
    """The network.

    Args:
        kind: Flexi-UNet ("flexi") uses the levels that a resolution needs; so does "resized", which gets its inputs at
            the size of its outputs; the Full UNet ("full") has all levels for all resolutions.
        settings: "paper-64", "paper-128" or "paper-256" (the paper's, for these sizes), "small" or "tiny" (for CPUs).
        overrides: keyword arguments of the network that replace those of the settings, e.g. {"model_channels": 64}.
        weights: to begin a run with: a checkpoint of another run (.safetensors), of which the average is taken, or a
            state dict of the original implementation (.pt). When the run is resumed they are not needed any more.
    """

    kind: Literal["flexi", "resized", "full"] = "flexi"
    settings: Literal["paper-64", "paper-128", "paper-256", "small", "tiny"] = "small"
    overrides: dict[str, Any] = field(default_factory=dict)
    weights: Path | None = None


@dataclass
class OptimizationConfig:
    """How to learn. When a run is resumed all of it stays the same, but for what `run.resume_with` names.

    Args:
        batch_size: images per step, over all processes and accumulated gradients together.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        warmup: steps in which the learning rate grows linearly to its value.
        ema_decay: of the average of the weights, from which samples are drawn.
        clip_norm: greatest norm of the gradient.
        weighting: weight of the loss at a signal-to-noise ratio. What is usual for a prediction is "snr" for noise,
            "velocity", "flow" and "edm" for those.
        times: how t is drawn: "uniform"; "logit-normal", as is usual for flow matching; or with a "log-normal" noise
            level, as for EDM. The last two are for processes of one resolution.
        shape_change_fraction: probability that a batch is for a change of resolution, in place of 1/T for each of them.
        shape_change_weights: weight losses so that this fraction leaves the objective as it is.
        groups: equal groups of a batch for each of which times are drawn. With 1 a batch is at one resolution, as in
            the paper; with more it is at several, spread evenly over 1…T, and a step calls the network for each.
        shares: of the draws for each resolution of ssd, finest first, in the place of its share of 1…T.
        coarse_from: for each lower resolution of ssd, the time from which on it is trained. By default that is its own
            first time; before it, it is shown images with less noise than it is used for.
        label_dropout: share of the images whose label is hidden, for classifier-free guidance.
        seed: of everything that is random.
        precision: "bf16" for autocast.
    """

    batch_size: int = 64
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    warmup: int = 500
    ema_decay: float = 0.9999
    clip_norm: float = 1.0
    weighting: Literal[
        "min-snr", "max-snr", "snr", "inverse-snr", "truncated-snr", "uniform", "velocity", "flow", "edm"
    ] = "min-snr"
    times: Literal["uniform", "logit-normal", "log-normal"] = "uniform"
    shape_change_fraction: float | None = None
    shape_change_weights: bool = True
    groups: int = 1
    shares: list[float] | None = None
    coarse_from: list[int] | None = None
    label_dropout: float = 0.1
    seed: int = 0
    precision: Literal["no", "bf16"] = "no"


@dataclass
class RunConfig:
    """How far to go, and what to write. May be changed when a run is resumed.

    Args:
        folder: where everything goes; a run that is there already is resumed.
        steps: training steps in all; 0 keeps the weights a run starts with, to sample from them.
        max_hours: stop with a checkpoint after this time, to be resumed by the same command.
        resume_with: settings of the section optimization that a run which is resumed takes over from this
            configuration, where its checkpoint has others: [optimization.learning_rate, optimization.seed]. For this
            time; config.yaml keeps the settings, not the permission.
        save_every: steps between checkpoints.
        keep: checkpoints to keep.
        log_every: steps between records in history.jsonl.
        sample_every: steps between grids of samples; 0 for none.
        sample_steps: sampling steps for these grids; 50 by default, or process.num_steps where that is less.
        accumulate: parts into which each process splits its batch, to save memory.
        workers: processes that read images, for each training process.
        timeout_minutes: after which a run of several processes ends that does not come on, naming those that hold it
            up; reading a batch, a step, a grid and a checkpoint may each take so long.
        channels_last: memory format, faster on GPUs.
        compile: compile the network with torch.compile, for each pair of resolutions when it first comes up.
        tracker: any tracker accelerate supports, such as "tensorboard" or "wandb".
        progress: show a bar.
    """

    folder: Path = Path("runs/train")
    steps: int = 100_000
    max_hours: float | None = None
    resume_with: list[str] = field(default_factory=list)
    save_every: int = 1000
    keep: int = 3
    log_every: int = 10
    sample_every: int = 1000
    sample_steps: int | None = None
    accumulate: int = 1
    workers: int = 0
    timeout_minutes: float = 30.0
    channels_last: bool = False
    compile: bool = False
    tracker: str | None = None
    progress: bool = True


@dataclass
class Config:
    """A whole run."""

    data: DataConfig = field(default_factory=DataConfig)
    process: ProcessConfig = field(default_factory=ProcessConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    optimization: OptimizationConfig = field(default_factory=OptimizationConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        check_settings(self)

    def __getitem__(self, name: str) -> Any:
        section, _, entry = name.partition(".")
        return getattr(getattr(self, section), entry)

    @property
    def sample_steps(self) -> int:
        """Sampling steps for the grids of samples."""
        return min(50, self.process.num_steps) if self.run.sample_steps is None else self.run.sample_steps

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """As JSON and YAML hold it."""
        plain: dict[str, dict[str, Any]] = json.loads(json.dumps(dataclasses.asdict(self), default=str))
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, dict[str, Any]]) -> Config:
        """The configuration that `to_dict` wrote.

        Raises:
            TypeError: a field that does not exist.
        """
        values = {name: dict(entries) for name, entries in plain.items()}
        if isinstance(values["data"].get("size"), list):
            values["data"]["size"] = tuple(values["data"]["size"])
        values["run"]["folder"] = Path(values["run"]["folder"])
        weights = values["network"].get("weights")
        values["network"]["weights"] = None if weights is None else Path(weights)
        return cls(
            DataConfig(**values["data"]),
            ProcessConfig(**values["process"]),
            NetworkConfig(**values["network"]),
            OptimizationConfig(**values["optimization"]),
            RunConfig(**values["run"]),
        )

    def save(self, path: Path) -> None:
        """Write the YAML file that `--config` reads."""
        plain = self.to_dict()
        plain["run"]["resume_with"] = []
        with whole_file(path) as partial:
            partial.write_text(yaml.safe_dump(plain, sort_keys=False), encoding="utf-8")

    def check_resumable(self, other: dict[str, dict[str, Any]], where: Path) -> dict[str, tuple[Any, Any]]:
        """That a checkpoint with another configuration can be gone on from: everything is equal but the section "run",
        what only says where things lie, and what `run.resume_with` names. Fields that came after the checkpoint have
        their defaults.

        Returns:
            Of the fields that `run.resume_with` names those that differ, with their values there and here.

        Raises:
            ValueError: naming each field that differs.
        """
        own, defaults = self.to_dict(), Config().to_dict()
        differing = {}
        for section in [name for name in own if name != "run"]:
            there = {**defaults[section], **other.get(section, {})}
            for entry, here in own[section].items():
                if f"{section}.{entry}" not in COMPARED_BY_CONTENT and there[entry] != here:
                    differing[f"{section}.{entry}"] = (there[entry], here)
        refused = [name for name in differing if name not in self.run.resume_with]
        if refused:
            listed = [f"    {name}: {differing[name][0]!r} there, {differing[name][1]!r} here" for name in refused]
            own_choice = [name for name in refused if name.startswith("optimization.")]
            on_purpose = f"; on purpose, with --run.resume_with '[{', '.join(own_choice)}]'" if own_choice else ""
            raise ValueError(
                f"{where} belongs to a run with another configuration; resume it with that one{on_purpose}, or choose "
                f"another run.folder:\n" + "\n".join(listed)
            )
        return differing
