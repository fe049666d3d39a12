"""Train a diffusion model with a linear degradation on a folder of images, an array, or a data set by name.

    python examples/train.py                                               # scikit-learn's digits, on any CPU
    python examples/train.py --config examples/configs/celeba64.yaml --data.source /path/to/images
    accelerate launch --num_processes 8 examples/train.py --config …       # many devices, or machines

The same command goes on where a run stopped, however it was stopped. A run's folder holds config.yaml, checkpoints/,
samples/ and history.jsonl. Every field can come from a YAML file (--config) and from the command line.

SIGTERM, SIGINT (Ctrl-C), SIGHUP, SIGUSR1, SIGUSR2, SIGXCPU and --run.max_hours end it after the step at hand with a
checkpoint, and with exit status 75; SIGQUIT (Ctrl-\\) ends it at once.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":  # until there is something to lose Ctrl-C just ends it: imports take its exception amiss
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import atexit
import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

# So that `python examples/train.py` finds the other examples, from any folder.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import lineardiffusion as ld
from examples.experiment.building import (
    build_denoiser,
    build_network,
    build_process,
    build_times,
    earlier_processes,
)
from examples.experiment.config import WEIGHTINGS, Config
from examples.experiment.data import Batch, Images, open_images
from examples.experiment.devices import agreed, by_main, check_alike, make_accelerator
from examples.experiment.loop import Loop, prepare_folder
from examples.experiment.program import run_program
from examples.experiment.rehearsal import rehearse
from examples.experiment.resuming import Start, check_images, find_start, warn_of_other_use
from examples.experiment.stopping import STOPPED, Interruption, ignore_signals
from lineardiffusion.training import (
    CheckpointError,
    Checkpoints,
    ExponentialMovingAverage,
    keyed_generator,
    locked_folder,
    optimizer_tensors,
    restore_optimizer,
    restore_tensors,
    state_tensors,
    write_checkpoint,
)


class Trainer:
    """A run: what it consists of, and what a step does with it.

    Whatever is random is a function of (seed, step, position of an image in the run). So a run that is resumed takes
    the same steps, bit for bit, and the steps of one process and of many differ by rounding alone.

    Arguments:
        config: of the run.
        accelerator: as `make_accelerator` makes it, which is the default.

    Raises:
        ValueError: settings that do not fit each other, the number of processes or the images.
    """

    def __init__(self, config: Config, accelerator: Accelerator | None = None) -> None:
        self.config = config
        options, run = config.optimization, config.run
        self.accelerator = accelerator or make_accelerator(config)
        shares = self.accelerator.num_processes * run.accumulate
        if options.batch_size % (shares * options.groups):
            raise ValueError(
                f"optimization.batch_size: expected a multiple of {shares * options.groups} (processes × "
                f"run.accumulate × optimization.groups), got {options.batch_size}"
            )
        size = config.data.size  # where it is known, nothing long is done before all settings are known to fit
        if size is not None:
            rehearse(config, (config.data.channels, *((size, size) if isinstance(size, int) else size)))
        self.images: Images = open_images(config.data, options.seed)
        if size is None:
            rehearse(config, self.images.shape)
        self.fingerprint = self.images.fingerprint()
        check_alike(self.accelerator, images=self.fingerprint)
        self.num_classes = self.images.num_classes if config.data.labels else None
        self.class_names = self.images.class_names if config.data.labels else None
        self.process = build_process(config.process, self.images.shape)
        torch.manual_seed(options.seed)
        network = build_network(config.network, self.images.shape, self.num_classes)
        if run.channels_last:
            network = network.to(memory_format=torch.channels_last)
        if run.compile:  # once for each pair of resolutions, of which there may be more than dynamo's limit
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 2 * config.process.levels)
            network.compile(dynamic=False)
        optimizer = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
        prepared, self.optimizer = self.accelerator.prepare(network, optimizer)
        self.network = self.accelerator.unwrap_model(prepared)
        self.prepared = prepared
        self.denoiser = build_denoiser(config.process, prepared, self.process)
        self.earlier = {
            process.shape(process.shape_changes()[0]): build_denoiser(config.process, prepared, process)
            for process in earlier_processes(config.process, self.process, options.coarse_from)
        }
        self.times = build_times(options)
        self.average = ExponentialMovingAverage(self.network, options.ema_decay)
        self.checkpoints = Checkpoints(run.folder / "checkpoints", run.keep)
        self.weights_digest: str | None = None
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
            "images": self.fingerprint,
            "weights": self.weights_digest,
            "num_classes": self.num_classes,
            "class_names": self.class_names,
        }

    def save(self) -> None:
        """Write a checkpoint; only the main process does.

        Raises:
            CheckpointError: in all processes, where it could not be written; those before are still there.
        """
        tensors = self.tensors()
        by_main(self.accelerator, lambda: self.checkpoints.save(self.step, tensors, self.metadata()))

    def begin(self, start: Start) -> None:
        """Go to the checkpoint, or take the weights, that a run begins with.

        Raises:
            ValueError: the images are not those of the checkpoint, or the weights do not fit the network.
        """
        self.weights_digest = start.weights_digest
        if start.weights is not None:
            warn_of_other_use(start.weights, self.config.process.prediction, self.class_names)
            for into in (self.network.state_dict(), self.average.parameters):
                restore_tensors(start.weights.tensors, into, f"network.weights: {self.config.network.weights}")
        if start.checkpoint is None:
            return
        found = start.checkpoint
        check_images(self.images, self.fingerprint, found)
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
        times = self.times.sample(self.process, options.batch_size, generator)[self.share()]
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
        first = float(t[0])
        shape = self.process.shape(first)
        # A resolution that is trained before its own times too: then any of its times may take the place of these.
        if shape in self.earlier and shape == self.process.shape(self.process.before(first)):
            denoiser = self.earlier[shape]
            t = torch.cat([ld.times.draw_alike(denoiser.process, first, 1, generator) for generator in generators])
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
        return losses * ld.times.ByShape(options.shape_change_fraction).weights(self.process, t).to(losses)

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
        try:
            write_checkpoint(path, tensors, self.metadata())
            kept = f"Weights, optimizer and batch before the step are in {path}"
        except CheckpointError as error:
            kept = f"Weights, optimizer and batch before the step are lost: {error}"
        raise FloatingPointError(
            f"{what} is not finite in step {self.step} (counted from 0). {kept}; the checkpoints are as they were. To "
            f"go on from them in another way: --run.resume_with '[optimization.learning_rate, optimization.seed]' with "
            f"other values of these"
        )

    # ------------------------------------------------------------------ samples

    def samples(self, count: int = 16, stop: Callable[[], bool] = lambda: False) -> Tensor | None:
        """Samples of the averaged weights, the same seeds each time; on every process, which all hold the same. None if
        any process was asked to stop meanwhile."""
        denoiser = build_denoiser(self.config.process, self.network, self.process)
        sampler = ld.DDIMSampler(denoiser, self.config.sample_steps, clip=(-1, 1))
        labels = {}
        if self.num_classes is not None:
            labels["y"] = torch.arange(count, device=self.accelerator.device) % self.num_classes
        eager = torch.compiler.set_stance("force_eager") if self.config.run.compile else contextlib.nullcontext()
        with self.average.applied_to(self.network), eager:
            self.network.eval()
            try:
                images = None
                for _, state, _ in sampler.trajectory(count, seeds=range(count), progress=False, **labels):
                    images = state
                    if agreed(self.accelerator, stop()):
                        return None
                return images
            finally:
                self.network.train()


def train(config: Config) -> Path:
    """Train until the steps, or the time, are used up or the process is asked to stop; returns the run's folder."""
    fit(config)
    return config.run.folder


def fit(config: Config) -> bool:
    """Train as `train` does; returns whether all steps are done.

    Raises:
        ValueError: settings, images or weights that do not fit each other, or the run that is in the folder.
        BlockingIOError: another program trains in the folder.
        CheckpointError: the last checkpoint could not be written, or none of those that are there can be read.
        FloatingPointError: a loss or gradient that is not finite.
        OSError: another file that could not be read or written, by name.
    """
    accelerator = make_accelerator(config)
    with contextlib.ExitStack() as stack:
        by_main(accelerator, lambda: stack.enter_context(locked_folder(config.run.folder)))
        started = time.monotonic()
        start = find_start(config)
        trainer = Trainer(config, accelerator)
        trainer.begin(start)
        check_alike(
            accelerator,
            checkpoint_to_go_on_from=start.checkpoint and start.checkpoint.digest,
            weights_to_begin_with=start.weights_digest,
            settings={name: value for name, value in config.to_dict().items() if name not in ("data", "run")},
        )
        interruption = stack.enter_context(Interruption())
        by_main(accelerator, lambda: prepare_folder(config))
        return Loop(trainer, start, interruption, started).run()


def main(arguments: list[str] | None = None) -> None:
    atexit.register(ignore_signals)  # nothing is left to be saved, and the exit status stays what it is

    def work(config: Config) -> None:
        if not fit(config):
            sys.exit(STOPPED)

    run_program(Config, __doc__, work, arguments)


if __name__ == "__main__":
    main()
