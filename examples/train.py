"""Train a diffusion model with a linear degradation on a folder of images, an array, or a data set by name.

    python examples/train.py                                               # scikit-learn's digits, on any CPU
    python examples/train.py --config examples/configs/celeba64.yaml --data.source /path/to/images
    accelerate launch --num_processes 8 examples/train.py --config …       # many devices, or machines

The same command goes on where a run stopped, however it was stopped. A run's folder holds config.yaml, checkpoints/,
samples/ and history.jsonl. Every field can come from a YAML file (--config) and from the command line.
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor
from tqdm import tqdm

# So that `python examples/train.py` finds the other examples, from any folder.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import lineardiffusion as ld
from examples.experiment.config import (
    WEIGHTINGS,
    Config,
    build_network,
    build_process,
    earlier_processes,
    run_program,
    time_probabilities,
)
from examples.experiment.data import Batch, FaultLimit, Images, loader, open_images
from examples.experiment.pictures import grid, write_png
from examples.experiment.runs import load_reference_weights
from lineardiffusion.training import (
    Checkpoints,
    ExponentialMovingAverage,
    keyed_generator,
    optimizer_tensors,
    restore_optimizer,
    restore_tensors,
    state_tensors,
    whole_file,
    write_checkpoint,
)


class Trainer:
    """A run: what it consists of, and what a step does with it.

    Whatever is random is a function of (seed, step, position of an image in the run). So a run that is resumed takes
    the same steps, bit for bit, and the steps of one process and of many differ by rounding alone.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        options, run = config.optimization, config.run
        self.accelerator = Accelerator(
            mixed_precision=options.precision,
            log_with=run.tracker,
            project_dir=run.folder,
            # A resolution uses a part of Flexi-UNet; which one, all processes agree on in each step.
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=config.network.kind != "full")],
        )
        shares = self.accelerator.num_processes * run.accumulate
        if options.batch_size % (shares * options.groups):
            raise ValueError(
                f"optimization.batch_size: expected a multiple of {shares * options.groups} (processes × "
                f"run.accumulate × optimization.groups), got {options.batch_size}"
            )
        self.images: Images = open_images(config.data, options.seed)
        self.num_classes = self.images.num_classes if config.data.labels else None
        self.process = build_process(config.process, self.images.shape)
        torch.manual_seed(options.seed)
        network = build_network(config.network, self.images.shape, self.num_classes)
        if config.network.weights:
            weights = load_reference_weights(config.network.weights)
            restore_tensors(weights, network.state_dict(), f"network.weights: {config.network.weights}")
        if run.channels_last:
            network = network.to(memory_format=torch.channels_last)
        if run.compile:  # once for each pair of resolutions, of which there may be more than dynamo's limit
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 2 * config.process.levels)
            network.compile(dynamic=False)
        optimizer = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
        prepared, self.optimizer = self.accelerator.prepare(network, optimizer)
        self.network = self.accelerator.unwrap_model(prepared)
        self.prepared = prepared
        self.denoiser = ld.Denoiser(prepared, self.process, config.process.prediction)
        self.earlier = {
            process.shape(process.shape_changes()[0]): ld.Denoiser(prepared, process, config.process.prediction)
            for process in earlier_processes(config.process, self.process, options.coarse_from)
        }
        self.probabilities = None if options.shares is None else time_probabilities(self.process, options.shares)
        self.average = ExponentialMovingAverage(self.network, options.ema_decay)
        self.checkpoints = Checkpoints(run.folder / "checkpoints", run.keep)
        self.step = 0

    # ------------------------------------------------------------------ checkpoints

    def tensors(self) -> dict[str, Tensor]:
        """All that a step changes, by name, whole and on the CPU. Every process must call it."""
        sections = {
            "model": state_tensors(self.network.state_dict()),
            "ema": state_tensors(self.average.parameters),
            "optimizer": optimizer_tensors(self.optimizer.optimizer, self.network),
        }
        return {f"{section}:{name}": tensor for section, values in sections.items() for name, tensor in values.items()}

    def metadata(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "config": self.config.to_dict(),
            "shape": self.images.shape,
            "num_images": len(self.images),
            "num_classes": self.num_classes,
            "class_names": self.images.class_names if self.num_classes else None,
        }

    def save(self) -> None:
        """Write a checkpoint; only the main process does."""
        tensors = self.tensors()
        if self.accelerator.is_main_process:
            self.checkpoints.save(self.step, tensors, self.metadata())
        self.accelerator.wait_for_everyone()

    def resume(self) -> None:
        """Go back to the newest whole checkpoint of the folder, if there is one.

        Raises:
            ValueError: it belongs to another configuration, or the data have changed.
        """
        found = self.checkpoints.latest()
        if found is None:
            return
        self.config.check_resumable(found.metadata["config"], found.path)
        if found.metadata["num_images"] != len(self.images):
            raise ValueError(
                f"data.source: {self.config.data.source} had {found.metadata['num_images']} images when {found.path} "
                f"was written and has {len(self.images)} now; their order would not be the same"
            )
        restore_tensors(found.section("model"), self.network.state_dict(), f"{found.path}: model")
        restore_tensors(found.section("ema"), self.average.parameters, f"{found.path}: ema")
        restore_optimizer(found.section("optimizer"), self.optimizer.optimizer, self.network)
        self.step = self.average.num_updates = found.metadata["step"]

    # ------------------------------------------------------------------ steps

    def share(self) -> slice:
        """The part of each batch that is this process's."""
        each = self.config.optimization.batch_size // self.accelerator.num_processes
        return slice(self.accelerator.process_index * each, (self.accelerator.process_index + 1) * each)

    def backward(self, batch: Batch) -> Tensor:
        """Gradients of the mean loss of a batch; returns that loss, averaged over all processes."""
        options, parts = self.config.optimization, self.config.run.accumulate
        # One draw for the whole batch: every process works at the same resolutions, in the same order.
        generator = keyed_generator(options.seed, "t", self.step)
        times = self.process.sample_timesteps(
            options.batch_size, generator, options.shape_change_fraction, options.groups, self.probabilities
        )[self.share()]
        total = torch.zeros((), device=self.accelerator.device)
        indices = torch.arange(len(times)).tensor_split(parts)
        chunks = [part[same] for part in indices for same in self.process.group_by_shape(times[part])]
        for chunk in chunks:
            last = chunk is chunks[-1]
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.prepared):
                loss = self.losses(batch, times, chunk).sum() / len(times)
                self.accelerator.backward(loss)
            total += loss.detach()
        return self.accelerator.reduce(total, "mean")

    def losses(self, batch: Batch, times: Tensor, chosen: Tensor) -> Tensor:
        """Losses of some of the images of a batch, whose states have one shape."""
        options, device = self.config.optimization, self.accelerator.device
        images = batch.images[chosen].to(device, non_blocking=True)
        if self.config.run.channels_last:
            images = images.to(memory_format=torch.channels_last)
        generators = [keyed_generator(options.seed, "noise", int(position)) for position in batch.positions[chosen]]
        t, denoiser = times[chosen], self.denoiser
        shape = self.process.shape(int(t[0]))
        # A resolution that is trained before its own times too: then any of its times may take the place of these.
        if shape in self.earlier and shape == self.process.shape(int(t[0]) - 1):
            denoiser = self.earlier[shape]
            alike = denoiser.process.alike(int(t[0]))
            t = torch.stack([alike[torch.randint(len(alike), (), generator=generator)] for generator in generators])
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        conditioning: dict[str, Tensor] = {}
        if self.num_classes is not None:
            coins = torch.stack([torch.rand((), generator=generator) for generator in generators])
            hidden = coins < options.label_dropout
            shown = torch.where(hidden, self.num_classes, batch.labels[chosen])
            conditioning["y"] = shown.to(device, non_blocking=True)
        if self.network.dropout:
            seeds = torch.stack([torch.randint(2**63 - 1, (), generator=generator) for generator in generators])
            conditioning["dropout_seeds"] = seeds.to(device, non_blocking=True)
        weighting = WEIGHTINGS[options.weighting]
        losses = ld.denoising_loss(denoiser, images, t, noise.to(device, non_blocking=True), weighting, **conditioning)
        if options.shape_change_fraction is None or not options.shape_change_weights:
            return losses
        return losses * self.process.timestep_weights(t, options.shape_change_fraction).to(losses)

    def update(self) -> Tensor:
        """A step of the optimizer and of the average; returns the norm of the gradient before it was clipped."""
        options = self.config.optimization
        norm = self.accelerator.clip_grad_norm_(self.network.parameters(), options.clip_norm)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # under FSDP, each process has a part
        if not torch.isfinite(norm):
            return norm
        for group in self.optimizer.param_groups:
            group["lr"] = options.learning_rate * min(1.0, (self.step + 1) / max(1, options.warmup))
        self.optimizer.step()
        self.average.update(self.network)
        self.step += 1
        return norm

    def preserve(self, batch: Batch, what: str) -> None:
        """Keep what is needed to see again what went wrong, and stop.

        Raises:
            FloatingPointError: always, with the step and the file.
        """
        tensors = {**self.tensors(), "batch:images": batch.images, "batch:positions": batch.positions}
        tensors["batch:labels"] = batch.labels
        name = f"failed-step-{self.step:08d}-process-{self.accelerator.process_index}.safetensors"
        path = self.config.run.folder / name
        write_checkpoint(path, tensors, self.metadata())
        raise FloatingPointError(
            f"{what} is not finite in step {self.step} (counted from 0). Weights, optimizer and batch before the step "
            f"are in {path}; the checkpoints are as they were"
        )

    # ------------------------------------------------------------------ samples

    def samples(self, count: int = 16) -> Tensor:
        """Samples of the averaged weights, the same seeds each time; on every process, which all hold the same."""
        denoiser = ld.Denoiser(self.network, self.process, self.config.process.prediction)
        sampler = ld.DDIMSampler(denoiser, steps=min(self.config.run.sample_steps, self.process.num_steps))
        labels = {}
        if self.num_classes is not None:
            labels["y"] = torch.arange(count, device=self.accelerator.device) % self.num_classes
        eager = torch.compiler.set_stance("force_eager") if self.config.run.compile else contextlib.nullcontext()
        with self.average.applied_to(self.network), eager:
            self.network.eval()
            try:
                return sampler(count, seeds=range(count), progress=False, **labels)
            finally:
                self.network.train()


def train(config: Config) -> Path:
    """Train until the steps, or the time, are used up or the process is asked to stop; returns the run's folder."""
    started = time.monotonic()
    run = config.run
    trainer = Trainer(config)
    accelerator = trainer.accelerator
    trainer.resume()
    if accelerator.is_main_process:
        run.folder.mkdir(parents=True, exist_ok=True)
        config.save(run.folder / "config.yaml")
        parameters = sum(parameter.numel() for parameter in trainer.network.parameters())
        print(
            f"{trainer.process}: {parameters / 1e6:.1f} M parameters, {len(trainer.images)} images, "
            f"{accelerator.num_processes} processes; " + (f"resumed at step {trainer.step}" if trainer.step else "new")
        )
    if run.tracker:
        accelerator.init_trackers("lineardiffusion", config={"run": json.dumps(config.to_dict())})
    history = History(run.folder / "history.jsonl", trainer.step, accelerator.is_main_process)
    batches = loader(
        trainer.images,
        config.optimization.batch_size,
        trainer.share(),
        trainer.step,
        config.optimization.seed,
        run.workers,
    )
    faults = FaultLimit(config.data.max_corrupt)
    saved = trainer.step
    bar = tqdm(
        total=run.steps, initial=trainer.step, desc="training", unit="step",
        disable=not (run.progress and accelerator.is_main_process),
    )  # fmt: skip
    with Interruption() as interruption, bar:
        shown, since, since_step = None, time.monotonic(), trainer.step
        while trainer.step < run.steps:
            batch = next(batches)
            faults.check(batch.faults)
            trainer.optimizer.zero_grad()
            loss = float(trainer.backward(batch))
            if not math.isfinite(loss):
                trainer.preserve(batch, "the loss")
            norm = float(trainer.update())
            if not math.isfinite(norm):
                trainer.preserve(batch, "the gradient")
            shown = loss if shown is None else 0.98 * shown + 0.02 * loss
            bar.update()
            if trainer.step % run.log_every == 0:
                now = time.monotonic()
                rate = config.optimization.batch_size * (trainer.step - since_step) / (now - since)
                since, since_step = now, trainer.step
                bar.set_postfix({"loss": f"{shown:.4f}", "images/s": f"{rate:.0f}"})
                history.add(step=trainer.step, loss=loss, gradient_norm=norm, images_per_second=round(rate, 2))
                accelerator.log({"loss": loss, "gradient_norm": norm, "images_per_second": rate}, step=trainer.step)
            if run.sample_every and trainer.step % run.sample_every == 0:
                publish(trainer)
            if trainer.step % run.save_every == 0:
                trainer.save()
                saved = trainer.step
            late = run.max_hours is not None and time.monotonic() - started > 3600 * run.max_hours
            if agreed(accelerator, interruption.came or late):
                break
    if saved != trainer.step or trainer.step == 0:
        trainer.save()
    accelerator.end_training()
    if trainer.step < run.steps and accelerator.is_main_process:
        print(f"stopped at step {trainer.step} of {run.steps}; the same command goes on from there")
    return run.folder


def publish(trainer: Trainer) -> None:
    """A grid of samples, in the run's folder and at the tracker."""
    picture = grid(trainer.samples())
    accelerator = trainer.accelerator
    if accelerator.is_main_process:
        folder = trainer.config.run.folder / "samples"
        folder.mkdir(exist_ok=True)
        write_png(picture, folder / f"step-{trainer.step:08d}.png")
        for tracker in accelerator.trackers:
            if tracker.name == "tensorboard":
                tracker.log_images({"samples": picture[None]}, step=trainer.step, dataformats="NHWC")


def agreed(accelerator: Accelerator, stop: bool) -> bool:
    """Whether any process wants to stop, so that all do so after the same step."""
    if accelerator.num_processes == 1:
        return stop
    return bool(accelerator.reduce(torch.tensor(float(stop), device=accelerator.device), "sum") > 0)


class History:
    """history.jsonl: a line for each record; those after the step that a run is resumed from are dropped."""

    def __init__(self, path: Path, step: int, active: bool) -> None:
        self._path, self._active = path, active
        if active and path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("}\n") and json.loads(line)["step"] <= step]
            with whole_file(path) as partial:
                partial.write_text("".join(kept), encoding="utf-8")

    def add(self, **record: float) -> None:
        if self._active:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")


class Interruption:
    """Notices SIGTERM and SIGINT (Ctrl-C), so that a step is finished and a checkpoint written; a second one stops at
    once."""

    came = False

    def __enter__(self) -> Interruption:
        self._before = {name: signal.signal(name, self._note) for name in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *exception: object) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.came:
            raise KeyboardInterrupt
        self.came = True


def main(arguments: list[str] | None = None) -> None:
    def work(config: Config) -> None:
        train(config)

    run_program(Config, __doc__, work, arguments)


if __name__ == "__main__":
    main()
